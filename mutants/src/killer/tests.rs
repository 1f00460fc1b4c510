use super::*;

fn read(text: &str) -> Result<Killer, KillerError> {
    Killer::try_from(text.to_owned())
}

#[test]
fn a_scenario_is_a_test_of_its_file_under_loom() {
    let killer = read("map::two_maps_agree").unwrap();
    assert_eq!(arguments(&[&killer.target]), ["--package", "loom-tests", "--test", "map"]);
    assert_eq!((killer.target.scheduler, &*killer.test), (Scheduler::Loom, "two_maps_agree"));
    assert_eq!(killer.preemptions, 2);
    assert_eq!(killer.text(), "map::two_maps_agree");
}

#[test]
fn a_scenario_may_need_more_preemptions() {
    let killer = read("vacate::one_wins@3").unwrap();
    assert_eq!((&*killer.test, killer.preemptions), ("one_wins", 3));
    assert_eq!(read("vacate::one_wins@x"), Err(KillerError::Preemptions("x".to_owned())));
    let elsewhere = "shuttle vacate::one_wins@3";
    assert_eq!(read(elsewhere), Err(KillerError::Uncounted(elsewhere.to_owned())));
}

#[test]
fn a_scenario_may_run_under_shuttle() {
    let killer = read("shuttle map::two_maps_agree").unwrap();
    assert_eq!(killer.target.scheduler, Scheduler::Shuttle);
    assert_eq!(arguments(&[&killer.target]), ["--package", "loom-tests", "--test", "map"]);
}

#[test]
fn a_model_of_the_library_is_a_unit_test_under_loom() {
    let killer = read("slat::table::claim::model::a_map_stands").unwrap();
    assert_eq!(arguments(&[&killer.target]), ["--package", "slat", "--lib"]);
    assert_eq!(killer.target.scheduler, Scheduler::Loom);
    assert_eq!(killer.test, "table::claim::model::a_map_stands");
}

#[test]
fn a_test_of_cargo_test_is_named_as_cargo_takes_it() {
    let killer = read("--features rayon --test harvest parallel::all").unwrap();
    let expected = ["--package", "slat", "--features", "rayon", "--test", "harvest"];
    assert_eq!(arguments(&[&killer.target]), expected);
    assert_eq!((killer.target.scheduler, &*killer.test), (Scheduler::Machine, "parallel::all"));
    let unit = read("--lib addr::tests").unwrap().target;
    assert_eq!(arguments(&[&unit]), ["--package", "slat", "--lib"]);
}

#[test]
fn a_whole_name_picks_itself_and_a_part_picks_all_that_have_it() {
    let whole = read("map::one").unwrap();
    assert!(whole.picks("one") && !whole.picks("one_more"));
    let part = read("--test leaves one").unwrap();
    assert!(part.picks("one_more::ept_4") && !part.picks("two"));
}

#[test]
fn what_names_no_test_is_no_killer() {
    for text in ["", "map", "::name", "map::", "map::a b", "--lib", "--test leaves", "--lib a b"] {
        let error = read(text).unwrap_err();
        assert!(matches!(error, KillerError::Shape(_)), "{text}: {error}");
    }
    let error = read("--bin leaves name").unwrap_err();
    assert_eq!(error, KillerError::Option("--bin".to_owned()));
}

#[test]
fn what_has_the_same_flags_is_built_together() {
    let target = |text| read(text).unwrap().target;
    let (map, bits, model) = (target("map::one"), target("bits::one"), target("slat::one"));
    assert!(map.is_built_with(&bits) && !map.is_built_with(&model));
    assert!(!map.is_built_with(&target("shuttle map::one")));
    assert!(!target("--lib one").is_built_with(&target("--features serde --lib one")));
    let expected = ["--package", "loom-tests", "--test", "map", "--test", "bits"];
    assert_eq!(arguments(&[&map, &bits]), expected);
}
