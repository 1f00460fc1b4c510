use super::*;
use crate::list::List;

fn killer(text: &str) -> Killer {
    Killer::try_from(text.to_owned()).unwrap()
}

fn claims() -> Claims {
    let files = [
        ("src/table/claim/model.rs", "#[test]\nfn a_map_stands() {}"),
        ("loom-tests/tests/map.rs", "#[test]\nfn two_maps_agree() {}"),
        ("tests/harvest/parallel.rs", "fn all_are_found() {}"),
        ("tests/leaves.rs", "every_format! { fn a_page_is_mapped() {} }"),
    ];
    let files = files.map(|(path, text)| (PathBuf::from(path), text.to_owned()));
    Claims { files: files.into_iter().collect() }
}

#[test]
fn a_killer_is_looked_for_in_its_own_target() {
    let claims = claims();
    for there in [
        "map::two_maps_agree",
        "slat::table::claim::model::a_map_stands",
        "--test harvest parallel::all_are_found",
        "--test leaves a_page_is_mapped",
    ] {
        assert!(claims.have(&killer(there)), "{there}");
    }
    for missing in [
        "map::two_maps",
        "map::a_map_stands",
        "slat::table::word::model::a_map_stands",
        "--test map two_maps_agree",
        "--test harvest serial::all_are_found",
    ] {
        assert!(!claims.have(&killer(missing)), "{missing}");
    }
}

#[test]
fn every_mutant_can_be_made_and_every_killer_exists() {
    let tree = Tree::of_the_workspace().unwrap();
    let list = List::read(&tree.root().join("mutants/list")).unwrap();
    let mutants: Vec<_> = list.mutants.iter().collect();
    assert!(mutants.len() >= 355, "rows are argued away, not taken out");
    let faults = faults(&mutants, &Claims::of(&tree));
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_row_that_fits_no_more_is_found() {
    let tree = Tree::of_the_workspace().unwrap();
    let list = List::read(&tree.root().join("mutants/list")).unwrap();
    let mut row = list.mutants[0].clone();
    row.edits[0].old.push_str(" is gone");
    row.killers.push(killer("map::nobody"));
    let faults = faults(&[&row], &Claims::of(&tree));
    assert!(matches!(faults[0].wrong, Wrong::Edit(EditError::Times { times: 0, .. })));
    assert_eq!(faults[1].wrong, Wrong::NoTest("map::nobody".to_owned()));
}
