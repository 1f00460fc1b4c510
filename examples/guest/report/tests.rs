//! A damaged run is called failed, wherever it stands and however it is printed.

use slat::{Ept, EptCaps, Gpa, Levels, PhysWidth};

use super::*;
use crate::{layout::Layout, machine::Machine, progress::Progress, workload::Touch};

/// Runs `touch`, takes a dirty bit away if it shall go wrong, and reports.
fn report(damage: bool) -> Report {
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let touch = Touch { layout: Layout::linear(64 * 4096).unwrap(), seed: 1 };
    let machine = Machine::new(ept.into(), &touch, 2, None).unwrap();
    let run = machine.run(&touch, 2, &Progress::hidden()).unwrap();
    if damage {
        assert!(machine.table().reader().pin().slot(Gpa::new(0)).unwrap().clear_dirty());
    }
    let audit = Audit::of(&machine, &touch, &run);
    Report::new(&machine, &touch, &run, audit)
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
        let text = document.to_tables(Shading::Characters);
        let failed = "verdict: FAILED\n  0x0 is not dirty and should be\n";
        assert_eq!(text.matches(failed).count(), runs.iter().filter(|&&damage| damage).count());
        assert_eq!(text.matches("verdict: ").count(), runs.len());
    }
}

#[test]
fn the_same_workload_on_both_is_compared_and_must_agree() {
    let both = |damage, of_soft: u64| {
        let kvm = Report { backend: "kvm", ..report(false) };
        let mut soft = report(damage);
        soft.audit.accessed.entries += of_soft;
        Document::new(vec![kvm, soft])
    };
    let agreed = both(false, 0);
    assert_eq!(agreed.verdict, Verdict::Ok);
    assert!(
        agreed.to_tables(Shading::Characters).contains("pages accessed (=)"),
        "{}",
        agreed.to_tables(Shading::Characters)
    );

    let differing = both(false, 1);
    assert_eq!(differing.verdict, Verdict::Failed);
    let text = differing.to_tables(Shading::Characters);
    assert!(text.contains("pages accessed (MUST BE THE SAME)"), "{text}");
    assert_eq!(text.matches("(MUST BE THE SAME)").count(), 1);
    let json: serde_json::Value = serde_json::from_str(&differing.to_json().unwrap()).unwrap();
    assert_eq!(json["verdict"], "failed");
    let counts = json["comparisons"][0]["counts"].as_array().unwrap();
    let differ = |count: &&serde_json::Value| count["kvm"] != count["soft"];
    let differing: Vec<_> = counts.iter().filter(differ).map(|count| &count["count"]).collect();
    assert_eq!(differing, ["pages accessed"]);

    let alone = Document::new(vec![report(false), report(false)]);
    assert!(alone.comparisons.is_empty(), "both are software");
}

#[test]
fn what_follows_from_the_workload_must_agree_and_the_rest_need_not() {
    type Number = fn(&mut Report) -> &mut u64;
    let cases: [(&str, bool, Number); 10] = [
        ("accesses", true, |report| &mut report.total.tally.accesses),
        ("entries into the guest", false, |report| &mut report.total.tally.entries),
        ("faults", false, |report| &mut report.total.tally.faults),
        ("faults that mapped a page", true, |report| &mut report.total.tally.mapped),
        ("pages resident", true, |report| &mut report.audit.resident.entries),
        ("pages dirty", true, |report| &mut report.audit.dirty.entries),
        ("sum of all words", true, |report| &mut report.audit.sums.entries),
        ("L4 entries accessed", true, |report| &mut report.audit.levels[0].accessed),
        ("L1 entries accessed", true, |report| &mut report.audit.levels[3].accessed),
        ("stale accesses", true, |report| &mut report.total.tally.stale),
    ];
    for (name, must_agree, number) in cases {
        for is_determined in [true, false] {
            let kvm = Report { backend: "kvm", is_determined, ..report(false) };
            let mut soft = Report { is_determined, ..report(false) };
            *number(&mut soft) = 1_000_000;
            let document = Document::new(vec![kvm, soft]);
            let verdict = Verdict::of(!(must_agree && is_determined));
            assert_eq!(document.verdict, verdict, "{name}, {is_determined}");
            let json: serde_json::Value =
                serde_json::from_str(&document.to_json().unwrap()).unwrap();
            let counts = json["comparisons"][0]["counts"].as_array().unwrap();
            let count = counts.iter().find(|count| count["count"] == name).unwrap();
            assert_eq!(count["soft"], 1_000_000, "{count}");
            assert_ne!(count["kvm"], 1_000_000, "{count}");
        }
    }
}
