//! A damaged run is called failed, wherever it stands and however it is printed.

use clap::Parser;
use slat::Gpa;

use super::*;
use crate::{layout::Layout, machine::Machine, progress::Progress, workload::Touch};

/// Runs `touch`, takes a dirty bit away if it shall go wrong, and reports.
fn report(damage: bool) -> Report {
    let options = Options::parse_from(["guest", "--vcpus", "2"]);
    let touch = Touch { layout: Layout::linear(64 * 4096).unwrap(), seed: 1 };
    let machine = Machine::new(options.table_format().unwrap(), &touch, 2).unwrap();
    let run = machine.run(&touch, 2, &Progress::hidden()).unwrap();
    if damage {
        assert!(machine.table.reader().pin().slot(Gpa::new(0)).unwrap().clear_dirty());
    }
    let audit = Audit::of(&machine, &touch, &run);
    Report::new(&options, &touch, &run, audit)
}

#[test]
fn one_failed_run_makes_the_whole_fail_and_the_exit_status_1() {
    for (runs, verdict, status) in [
        (&[false, false][..], Verdict::Ok, 0),
        (&[true], Verdict::Failed, 1),
        (&[true, false], Verdict::Failed, 1),
        (&[false, true], Verdict::Failed, 1),
    ] {
        let document = Document::new(runs.iter().map(|&damage| report(damage)).collect());
        assert_eq!(document.verdict, verdict, "{runs:?}");
        assert_eq!(crate::status(document.verdict), status);
        let json: serde_json::Value = serde_json::from_str(&document.to_json().unwrap()).unwrap();
        let word = |failed| if failed { "failed" } else { "ok" };
        assert_eq!(json["verdict"], word(verdict == Verdict::Failed));
        for (run, &damage) in json["runs"].as_array().unwrap().iter().zip(runs) {
            assert_eq!(run["verdict"], word(damage));
            assert_eq!(run["wrong"].as_array().unwrap().len(), usize::from(damage));
        }
        let text = document.to_tables();
        let failed = "verdict: FAILED\n  0x0 is not dirty and should be\n";
        assert_eq!(text.matches(failed).count(), runs.iter().filter(|&&damage| damage).count());
        assert_eq!(text.matches("verdict: ").count(), runs.len());
    }
}
