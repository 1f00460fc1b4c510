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
        parse(&arguments).unwrap().check().is_ok()
    };
    assert!(fits("ept", "4", "256T") && !fits("ept", "4", "257T") && fits("ept", "5", "257T"));
    assert!(fits("npt", "4", "256T") && !fits("npt", "4", "257T"));
    assert!(fits("long-mode", "4", "128T") && !fits("long-mode", "4", "129T"));
    assert!(!fits("ept", "5", "16777215T"));
}

#[test]
fn only_churn_has_a_flush_to_skip() {
    let churn = parse(&["--workload", "churn", "--skip-flush"]).unwrap();
    churn.check().unwrap();
    assert_eq!(churn.flushing(), Flushing::Skipped);
    assert_eq!(parse(&["--workload", "churn"]).unwrap().flushing(), Flushing::Served);
    for arguments in [
        &["--skip-flush"][..],
        &["--skip-flush", "--workload", "touch"],
        &["--skip-flush", "--workload", "random"],
        &["--skip-flush", "--workload", "shared"],
        &["--skip-flush", "--trace", "-"],
        &["--skip-flush", "--workload", "churn", "--trace", "-"],
    ] {
        let error = parse(arguments).unwrap().check().unwrap_err().to_string();
        assert!(error.contains("--skip-flush needs --workload churn"), "{arguments:?}: {error}");
    }
}
