use clap::CommandFactory;

use super::*;

fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
    Options::try_parse_from([&["guest"], arguments].concat())
}

#[test]
fn the_command_line_is_consistent() {
    Options::command().debug_assert();
    parse(&[]).unwrap().check().unwrap();
}

#[test]
fn sizes_take_units() {
    for (text, size) in [
        ("4096", 4096),
        ("64K", 64 << 10),
        ("64M", 64 << 20),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        ("1g", 1 << 30),
        ("2T", 2 << 40),
    ] {
        assert_eq!(bytes(text), Ok(size), "{text}");
    }
    for text in
        ["", "M", "0", "0M", "1", "4097", "-1M", "1.5G", "64X", "64MM", "64 M", "99999999T", "1é"]
    {
        assert!(bytes(text).is_err(), "{text}");
    }
}

#[test]
fn seconds_are_positive_and_finite() {
    assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    for text in ["", "0", "-1", "NaN", "inf", "1e300", "86401", "x"] {
        assert!(seconds(text).is_err(), "{text}");
    }
}

#[test]
fn options_out_of_range_are_refused() {
    for arguments in [
        &["--vcpus", "0"][..],
        &["--vcpus", "513"],
        &["--vcpus", "-1"],
        &["--vcpus", "x"],
        &["--levels", "3"],
        &["--format", "shadow"],
        &["--workload", "trace"],
        &["--memory", "5000"],
        &["--seconds", "0"],
        &["--seed", "-1"],
        &["--rounds", "0"],
        &["--rounds", "100001"],
        &["--skip-flush=no"],
        &["extra"],
    ] {
        assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
    }
}

#[test]
fn memory_must_be_translatable() {
    let fits = |format, levels, memory| {
        let arguments = ["--format", format, "--levels", levels, "--memory", memory];
        let options = parse(&arguments).unwrap();
        options.check_memory(options.table_format(None).unwrap()).is_ok()
    };
    assert!(fits("ept", "4", "256T") && !fits("ept", "4", "257T") && fits("ept", "5", "257T"));
    assert!(fits("npt", "4", "256T") && !fits("npt", "4", "257T"));
    assert!(fits("long-mode", "4", "128T") && !fits("long-mode", "4", "129T"));
    assert!(!fits("ept", "5", "16777215T"));
}

#[test]
fn memory_is_rounded_up_to_whole_leaves() {
    let memory = |arguments: &[&str]| parse(arguments).unwrap().whole_memory();
    assert_eq!(memory(&["--memory", "5M"]), 5 << 20);
    assert_eq!(memory(&["--memory", "5M", "--page-size", "2M"]), 6 << 20);
    assert_eq!(memory(&["--page-size", "1G"]), 1 << 30);
    let fits = |arguments: &[&str]| {
        let options = parse(arguments).unwrap();
        options.check_memory(options.table_format(None).unwrap())
    };
    fits(&["--memory", "256T", "--page-size", "1G"]).unwrap();
    let far = ["--memory", "18446744073709547520", "--page-size", "1G", "--levels", "5"];
    assert!(fits(&far).unwrap_err().to_string().contains("cannot translate"));
}

#[test]
fn a_gigabyte_is_not_what_comes_and_goes() {
    for arguments in [&["--workload", "churn"][..], &["--workload", "migrate"], &[]] {
        let check = |size| parse(&[&["--page-size", size], arguments].concat()).unwrap().check();
        let error = check("1G").unwrap_err().to_string();
        assert!(error.contains("--page-size 1G needs another --workload"), "{error}");
        check("2M").unwrap();
    }
    for arguments in [&["--workload", "random"][..], &["--trace", "-"]] {
        parse(&[&["--page-size", "1G"], arguments].concat()).unwrap().check().unwrap();
    }
}

#[test]
fn only_leaves_of_2_mib_are_split_and_made_again() {
    let check = |size| parse(&["--workload", "resize", "--page-size", size]).unwrap().check();
    check("2M").unwrap();
    for size in ["4K", "1G"] {
        let error = check(size).unwrap_err().to_string();
        assert!(error.contains("--workload resize needs --page-size 2M"), "{error}");
    }
    let skip = ["--workload", "resize", "--page-size", "2M", "--skip-flush"];
    let options = parse(&skip).unwrap();
    options.check().unwrap();
    assert_eq!(options.turnover(Change::Resize).flushing, Flushing::Skipped);
}

#[test]
fn only_a_precopy_has_a_picture() {
    let check = |arguments: &[&str]| {
        parse(&[&["--svg", "picture.svg"], arguments].concat()).unwrap().check()
    };
    check(&[]).unwrap();
    check(&["--workload", "precopy"]).unwrap();
    for arguments in [&["--workload", "touch"][..], &["--trace", "-"]] {
        let error = check(arguments).unwrap_err().to_string();
        assert!(error.contains("--svg needs --workload precopy"), "{error}");
    }
}

#[test]
fn only_what_changes_memory_has_a_flush_to_skip() {
    let precopy = |arguments: &[&str]| {
        let options = parse(&[&["--workload", "precopy"], arguments].concat()).unwrap();
        options.check().unwrap();
        options.precopy().flushing
    };
    assert_eq!(precopy(&["--skip-flush"]), Flushing::Skipped);
    assert_eq!(precopy(&[]), Flushing::Served);
    for (workload, change) in [("churn", Change::Churn), ("migrate", Change::Migrate)] {
        let flushing = |arguments: &[&str]| {
            let options = parse(&[&["--workload", workload], arguments].concat()).unwrap();
            options.check().unwrap();
            options.turnover(change).flushing
        };
        assert_eq!(flushing(&["--skip-flush"]), Flushing::Skipped);
        assert_eq!(flushing(&[]), Flushing::Served);
    }
    for arguments in [
        &["--skip-flush"][..],
        &["--skip-flush", "--workload", "touch"],
        &["--skip-flush", "--workload", "random"],
        &["--skip-flush", "--workload", "shared"],
        &["--skip-flush", "--trace", "-"],
        &["--skip-flush", "--workload", "churn", "--trace", "-"],
        &["--skip-flush", "--workload", "migrate", "--trace", "-"],
        &["--skip-flush", "--workload", "precopy", "--trace", "-"],
    ] {
        let error = parse(arguments).unwrap().check().unwrap_err().to_string();
        let reason = "--skip-flush needs --workload churn, migrate, resize or precopy";
        assert!(error.contains(reason), "{arguments:?}: {error}");
    }
}

#[test]
fn kvm_is_for_what_its_guests_can_walk() {
    for backend in ["kvm", "both"] {
        let check = |arguments: &[&str]| {
            parse(&[&["--backend", backend], arguments].concat()).unwrap().check()
        };
        check(&[]).unwrap();
        check(&["--format", "long-mode", "--levels", "4"]).unwrap();
        for other in [&["--format", "ept"][..], &["--format", "npt"], &["--levels", "5"]] {
            assert!(check(other).unwrap_err().to_string().contains("needs --format long-mode"));
        }
    }
    let of = |arguments: &[&str]| parse(arguments).unwrap();
    of(&["--backend", "soft", "--format", "ept", "--levels", "5"]).check().unwrap();
    assert!(of(&[]).suits_kvm() && of(&["--format", "long-mode"]).suits_kvm());
    assert!(!of(&["--format", "npt"]).suits_kvm() && !of(&["--levels", "5"]).suits_kvm());
}

#[test]
fn a_format_is_the_one_that_suits_unless_one_is_asked_for() {
    let format = |arguments: &[&str], kvm: Option<u8>| {
        let kvm = kvm.map(|bits| PhysWidth::new(bits).unwrap());
        parse(arguments).unwrap().table_format(kvm).unwrap()
    };
    assert_eq!(format(&[], None).name(), "ept");
    assert_eq!(format(&["--format", "npt"], None).name(), "npt");
    for (of_guest, of_table) in [(40, 40), (46, 46), (52, 46)] {
        let chosen = format(&[], Some(of_guest));
        assert!(matches!(chosen, AnyFormat::LongMode(_)));
        assert_eq!(chosen.phys_width().bits(), of_table);
    }
}

#[test]
fn the_tour_is_what_runs_when_nothing_is_chosen() {
    let names = |arguments: &[&str]| {
        let options = parse(&[&["--memory", "1M"], arguments].concat()).unwrap();
        let format = options.table_format(None).unwrap();
        let workloads = crate::workloads(&options, format).unwrap();
        workloads.iter().map(|workload| workload.name().to_owned()).collect::<Vec<_>>()
    };
    let trace = "trace examples/guest/traces/true.lackey";
    assert_eq!(names(&[]), ["touch", "churn", "migrate", "precopy", trace]);
    assert_eq!(names(&["--workload", "random"]), ["random"]);
}
