//! Runs on KVM; where there is none, these tests are skipped, and say so.

use std::sync::OnceLock;

use serde_json::Value;

use crate::example::{
    BAD_INPUT, FAILED, OK, TRACE, announce, check_churn, check_migrate, check_precopy,
    check_resize, found_out, found_out_in_copy, found_out_in_resize, is_stale, is_sum_wrong, list,
    number, pages_of_true, run, sound, sound_run,
};

const KVM: [&str; 2] = ["--backend", "kvm"];
const BOTH: [&str; 2] = ["--backend", "both"];
/// Tables for what KVM's guest needs itself: one of each level below the root. So few vCPUs share it.
const GUESTS_OWN: u64 = 3;

/// Tells why there is no KVM, if there is none.
fn unavailable() -> Option<&'static str> {
    static UNAVAILABLE: OnceLock<Option<String>> = OnceLock::new();
    let probe = || {
        let ended = run(&[&KVM[..], &["--workload", "touch", "--memory", "4096"]].concat(), b"");
        if ended.status == Some(OK) {
            return None;
        }
        // Anything else that fails is a failure: also a guest that KVM does not run as it should.
        let reason = ended.errors.strip_prefix("error: ").unwrap_or_default().trim_end();
        let names_kvm = reason.split(':').next().is_some_and(|what| what.contains("KVM"));
        let names_device = reason.contains("/dev/kvm");
        assert!(ended.status == Some(FAILED) && (names_kvm || names_device), "{ended:?}");
        assert!(ended.text.is_empty(), "{ended:?}");
        Some(reason.to_owned())
    };
    UNAVAILABLE.get_or_init(probe).as_deref()
}

/// Makes tests of functions that run the example on KVM.
macro_rules! on_kvm {
    ($($(#[doc = $doc:literal])* fn $name:ident() $body:block)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            $(#[doc = $doc])*
            #[test]
            fn $name() {
                match unavailable() {
                    Some(reason) => announce(&format!("skipped: kvm::{}: {reason}", stringify!($name))),
                    None => $body,
                }
            }
        )*
    };
}

#[test]
fn kvm_tests_that_were_skipped_are_counted() {
    let skipped = if unavailable().is_some() { NAMES.len() } else { 0 };
    announce(&format!("skipped: {skipped} of {} tests on KVM", NAMES.len()));
}

/// Runs `arguments` with one vCPU and more, and with several seeds, and hands each run to `check`.
fn everywhere(arguments: &[&str], check: impl Fn(&Value, u64)) {
    for vcpus in [1, 2, 4, 8] {
        for seed in ["1", "2", "3"] {
            let place = ["--vcpus", &vcpus.to_string(), "--seed", seed];
            let run = sound_run(&[&KVM, arguments, &place].concat(), b"");
            assert_eq!(run["backend"], "kvm");
            assert_eq!(run["format"], "long-mode");
            assert_eq!(run["table_levels"], 4);
            assert_eq!(list(&run["vcpus"]).len() as u64, vcpus);
            check(&run, vcpus);
        }
    }
}

/// Skips flushes with one vCPU and more, and with several seeds; returns the runs, those of each number of vCPUs
/// together.
fn found_out_everywhere(workload: &str) -> [[Value; 3]; 4] {
    ["1", "2", "4", "8"].map(|vcpus| {
        let place = [&KVM[..], &["--vcpus", vcpus, "--memory", "1M", "--rounds", "30"]].concat();
        ["1", "2", "3"].map(|seed| found_out(workload, &[&place[..], &["--seed", seed]].concat()))
    })
}

/// Runs `arguments` on both backends, and compares what must be the same.
fn agree(arguments: &[&str]) {
    for vcpus in ["1", "2", "4", "8"] {
        let document = sound(&[&BOTH, arguments, &["--vcpus", vcpus]].concat(), b"");
        let [kvm, soft] = list(&document["runs"]) else { panic!("{document:#}") };
        assert_eq!((&kvm["backend"], &soft["backend"]), (&"kvm".into(), &"soft".into()));
        for same in ["workload", "format", "table_levels", "guest_pages"] {
            assert_eq!(kvm[same], soft[same]);
        }
        for same in ["resident", "accessed", "dirty", "sums", "levels"] {
            assert_eq!(kvm[same], soft[same], "{arguments:?} {vcpus}: {same}");
        }
        assert_eq!(number(&kvm["table_frames"]), number(&soft["table_frames"]) + GUESTS_OWN);
        let [comparison] = list(&document["comparisons"]) else { panic!("{document:#}") };
        assert_eq!(comparison["workload"], kvm["workload"]);
        let counts = list(&comparison["counts"]);
        let binding: Vec<_> = counts.iter().filter(|count| count["must_agree"] == true).collect();
        for count in &binding {
            assert_eq!(count["kvm"], count["soft"], "{arguments:?} {vcpus}: {count}");
        }
        let names: Vec<_> = binding.iter().filter_map(|count| count["count"].as_str()).collect();
        for name in ["accesses", "pages accessed", "pages dirty", "sum of all words"] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        for (level, bits) in (1..=4).rev().zip(list(&kvm["levels"])) {
            let name = format!("L{level} entries accessed");
            let count = binding.iter().find(|count| count["count"] == *name).unwrap();
            assert_eq!(count["kvm"], bits["accessed"]);
            assert!(number(&bits["accessed"]) > 0, "{bits}");
        }
    }
}

on_kvm! {
    fn private_touches_never_lose_a_race() {
        everywhere(&["--workload", "touch", "--memory", "1M"], |run, _| {
            assert_eq!(run["guest_pages"], 256);
            assert_eq!(run["resident"]["entries"], 256);
            assert_eq!(run["dirty"]["entries"], 192, "every fourth page is only read");
            assert_eq!(run["total"]["faults"], 256);
            assert_eq!(run["total"]["lost"], 0);
            assert_eq!(number(&run["table_frames"]), 4 + GUESTS_OWN);
        });
    }

    fn shared_pages_add_up() {
        everywhere(&["--workload", "shared", "--memory", "516K"], |run, vcpus| {
            assert_eq!(run["guest_pages"], 129);
            assert_eq!(run["dirty"]["entries"], 129);
            assert_eq!(number(&run["total"]["accesses"]), 129 * vcpus);
        });
    }

    fn random_accesses_add_up() {
        everywhere(&["--workload", "random", "--memory", "512K", "--seconds", "0.05"], |run, _| {
            assert_eq!(run["guest_pages"], 128);
            assert!(run["seconds"].as_f64().unwrap() >= 0.05);
        });
    }

    fn memory_that_comes_and_goes_is_all_there_in_the_end() {
        everywhere(&["--workload", "churn", "--memory", "1M", "--rounds", "20"], |run, _| {
            check_churn(run, 20);
            assert_eq!(number(&run["churn"]["tables_left"]), 1 + GUESTS_OWN, "and the root");
            assert!(number(&run["kvm"]["zaps"]) > 1, "more than the first entry's: {run:#}");
        });
    }

    fn memory_that_moves_takes_its_contents_along() {
        everywhere(&["--workload", "migrate", "--memory", "1M", "--rounds", "12"], |run, _| {
            check_migrate(run, 12);
            assert!(number(&run["kvm"]["zaps"]) > 1, "more than the first entry's: {run:#}");
        });
    }

    fn large_leaves_are_split_and_made_again() {
        let resize = ["--workload", "resize", "--memory", "8M", "--page-size", "2M"];
        everywhere(&[&resize[..], &["--rounds", "6"]].concat(), |run, _| {
            check_resize(run, 6);
            assert_eq!(number(&run["churn"]["tables_left"]), 1 + GUESTS_OWN, "and the root");
            // The decoy, the marks, the collapse.
            assert!(number(&run["kvm"]["zaps"]) > 6, "{run:#}");
        });
    }

    fn memory_is_copied_while_it_is_written() {
        for size in ["4K", "2M"] {
            let precopy = ["--workload", "precopy", "--memory", "4500K", "--seconds", "0.05"];
            everywhere(&[&precopy[..], &["--page-size", size]].concat(), |run, _| {
                check_precopy(run, 10);
                // One is the first entry's, one is for the tracking, and then each round is told of.
                let zaps = number(&run["kvm"]["zaps"]);
                assert!(zaps >= 3, "{zaps}");
            });
        }
    }

    fn large_leaves_are_brought_in_whole() {
        for workload in ["touch", "random", "shared", "churn", "migrate"] {
            let large = ["--workload", workload, "--page-size", "2M", "--memory", "16M"];
            let short = ["--seconds", "0.05", "--rounds", "10"];
            for vcpus in ["1", "4"] {
                let run = sound_run(&[&KVM[..], &large, &short, &["--vcpus", vcpus]].concat(), b"");
                assert_eq!(run["page_size"], 0x20_0000);
                assert_eq!(number(&run["resident"]["entries"]) % 512, 0);
            }
        }
    }

    /// Also the last gigabyte of what a guest may have: that its processors lack them is the reason.
    fn leaves_that_the_processors_lack_are_refused() {
        let huge = [&KVM[..], &["--workload", "touch", "--page-size", "1G"]].concat();
        let ended = run(&huge, b"");
        if ended.status == Some(BAD_INPUT) && ended.errors.contains("have no leaves of 1 GiB") {
            assert!(ended.errors.contains("--backend soft") && ended.text.is_empty(), "{ended:?}");
        } else {
            announce("skipped: kvm::leaves_that_the_processors_lack_are_refused: they have them");
        }
    }

    fn a_flush_that_is_skipped_is_found_out_in_the_copy() {
        for vcpus in ["1", "2", "4", "8"] {
            for size in ["4K", "2M"] {
                let place = ["--vcpus", vcpus, "--page-size", size, "--memory", "4M"];
                found_out_in_copy(&[&KVM[..], &place].concat());
            }
        }
    }

    fn a_flush_that_is_skipped_where_leaves_are_resized_is_found_out() {
        for vcpus in ["1", "2", "4", "8"] {
            for seed in ["1", "2", "3"] {
                let place = ["--vcpus", vcpus, "--seed", seed, "--memory", "8M", "--rounds", "30"];
                let run = found_out_in_resize(&[&KVM[..], &place].concat());
                assert_eq!(run["kvm"]["zaps"], 0);
                assert!(is_stale(&run), "{run:#}");
            }
        }
    }

    fn a_copy_is_compared_with_that_of_software_mmus() {
        for (size, dirty) in [("4K", 1024 * 3 / 4 + 1024 / 8 / 4), ("2M", 1024)] {
            let small = ["--workload", "precopy", "--memory", "4M", "--seconds", "0.05"];
            let document = sound(&[&BOTH[..], &small, &["--page-size", size]].concat(), b"");
            let [comparison] = list(&document["comparisons"]) else { panic!("{document:#}") };
            let count = |name| {
                let mut counts = list(&comparison["counts"]).iter();
                counts.find(|count| count["count"] == name).expect(name)
            };
            assert_eq!(count("bytes of the copy that differ")["must_agree"], true);
            assert_eq!(count("pages resident")["kvm"], 1024);
            assert_eq!(count("pages dirty")["kvm"], dirty, "what is written, and what came late");
            assert_eq!(count("pages dirty")["must_agree"], true);
            assert_eq!(count("accesses")["must_agree"], false);
        }
    }

    fn a_real_program_is_mapped_page_by_page() {
        let (accessed, dirty) = pages_of_true();
        for vcpus in ["1", "2", "4", "8"] {
            let run = sound_run(&[&KVM[..], &["--trace", TRACE, "--vcpus", vcpus]].concat(), b"");
            assert_eq!(run["backend"], "kvm");
            assert_eq!(run["accessed"]["entries"], accessed);
            assert_eq!(run["dirty"]["entries"], dirty);
        }
    }

    fn a_flush_that_is_skipped_when_memory_goes_is_found_out() {
        let runs = found_out_everywhere("churn");
        assert!(runs.iter().flatten().all(is_stale), "{runs:#?}");
    }

    fn a_flush_that_is_skipped_when_memory_moves_is_found_out() {
        let runs = found_out_everywhere("migrate");
        assert!(runs.iter().flatten().all(|run| run["kvm"]["zaps"] == 0), "{runs:#?}");
        // Not in each: a page may be back in the frame where it was, and what was written in the wrong
        // place be there all the same.
        assert!(runs.iter().all(|runs| runs.iter().any(is_stale)), "{runs:#?}");
        assert!(runs.iter().flatten().any(is_sum_wrong), "{runs:#?}");
    }

    fn private_touches_leave_the_same_as_on_software_mmus() {
        agree(&["--workload", "touch", "--memory", "1M"]);
    }

    fn shared_pages_are_the_same_as_on_software_mmus() {
        agree(&["--workload", "shared", "--memory", "516K"]);
    }

    fn a_real_program_leaves_the_same_as_on_software_mmus() {
        agree(&["--trace", TRACE]);
    }

    /// What differs there follows from when who does what.
    fn only_what_follows_from_the_workload_must_agree() {
        for workload in ["random", "churn", "migrate"] {
            let small = ["--memory", "256K", "--seconds", "0.02", "--rounds", "5"];
            let arguments = [&BOTH[..], &["--workload", workload], &small].concat();
            let document = sound(&arguments, b"");
            let [comparison] = list(&document["comparisons"]) else { panic!("{document:#}") };
            let counts = list(&comparison["counts"]);
            assert!(counts.iter().all(|count| count["must_agree"] == false), "{workload}");
        }
    }

    fn more_vcpus_than_pages_is_no_problem() {
        for workload in ["touch", "shared", "random", "churn", "migrate", "precopy"] {
            let few = ["--workload", workload, "--memory", "4096", "--seconds", "0.01"];
            let run = sound_run(
                &[&KVM[..], &few, &["--rounds", "5", "--vcpus", "40"]].concat(),
                b"",
            );
            assert_eq!(list(&run["vcpus"]).len(), 40);
        }
    }

    fn forty_vcpus_share_memory() {
        for workload in ["touch", "shared", "random", "churn", "migrate", "precopy"] {
            let some = ["--workload", workload, "--memory", "512K", "--seconds", "0.05"];
            let run = sound_run(
                &[&KVM[..], &some, &["--rounds", "5", "--vcpus", "40"]].concat(),
                b"",
            );
            assert_eq!(list(&run["vcpus"]).len(), 40);
        }
    }

    fn the_ends_of_the_lower_half_can_be_mapped() {
        let run = sound_run(&[&KVM[..], &["--trace", "-"]].concat(), b" S 0,8\n S 7ffffffffff8,8\n");
        assert_eq!(run["dirty"]["entries"], 2);
    }

    fn a_comparison_is_printed_without_json() {
        let small = ["--workload", "touch", "--memory", "256K", "--vcpus", "2"];
        let ended = run(&[&BOTH[..], &small].concat(), b"");
        let text = ended.text;
        assert_eq!(ended.status, Some(OK), "{text}");
        assert!(text.starts_with("touch on kvm: 2 vCPUs, 64 pages, 4-level long-mode, "), "{text}");
        for (times, word) in [
            (1, "touch on soft: 2 vCPUs, 64 pages, 4-level long-mode, "),
            (2, "verdict: ok"),
            (1, "KVM was made to forget all that it knew 1 times"),
            (1, "│ pages dirty (=) "),
            (0, "MUST BE THE SAME"),
        ] {
            assert_eq!(text.matches(word).count(), times, "{word}: {text}");
        }
    }
}

/// Not asked for a backend, the example tells why it is not KVM.
#[test]
fn a_tour_runs_on_all_there_is() {
    let ended = run(&["--json", "--memory", "512K", "--rounds", "10", "--vcpus", "2"], b"");
    assert_eq!(ended.status, Some(OK), "{}{}", ended.errors, ended.text);
    let document = ended.document();
    let place = |run: &Value| match (run["workload"].as_str(), run["backend"].as_str()) {
        (Some(workload), Some(backend)) => (workload.to_owned(), backend.to_owned()),
        _ => panic!("{run:#}"),
    };
    let places: Vec<_> = list(&document["runs"]).iter().map(place).collect();
    let workloads =
        ["touch", "churn", "migrate", "precopy", "trace examples/guest/traces/true.lackey"];
    let backends = if unavailable().is_some() { &["soft"][..] } else { &["kvm", "soft"] };
    let expected = workloads.iter().flat_map(|workload| {
        backends.iter().map(|backend| ((*workload).to_owned(), (*backend).to_owned()))
    });
    assert_eq!(places, Vec::from_iter(expected));
    match unavailable() {
        Some(reason) => {
            assert_eq!(ended.notes[0].trim_end(), format!("note: {reason}"));
            assert_eq!(ended.notes[1], "note: so the guest runs on software MMUs\n");
        }
        None => {
            assert!(ended.notes.is_empty(), "{:?}", ended.notes);
            assert_eq!(list(&document["comparisons"]).len(), workloads.len());
        }
    }
}
