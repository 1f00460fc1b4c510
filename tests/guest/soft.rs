//! Runs on software MMUs, in every format.

use serde_json::Value;

use crate::example::{
    OK, TRACE, check_churn, check_migrate, check_precopy, check_resize, found_out,
    found_out_in_copy, found_out_in_resize, is_stale, is_sum_wrong, list, number, pages_of_true,
    run, sound, sound_run,
};

const SOFT: [&str; 2] = ["--backend", "soft"];

/// Runs `arguments` in every format, with both numbers of levels and with one vCPU and more, and
/// hands each run to `check`.
fn everywhere(arguments: &[&str], check: impl Fn(&Value, u64)) {
    for format in ["ept", "npt", "long-mode"] {
        for levels in ["4", "5"] {
            for vcpus in [1, 3, 8] {
                let count = vcpus.to_string();
                let place = ["--format", format, "--levels", levels, "--vcpus", &count];
                let run = sound_run(&[&SOFT, arguments, &place].concat(), b"");
                assert_eq!(run["backend"], "soft");
                assert_eq!(run["format"], format);
                assert_eq!(run["table_levels"].to_string(), levels);
                assert_eq!(list(&run["vcpus"]).len() as u64, vcpus);
                check(&run, vcpus);
            }
        }
    }
}

#[test]
fn private_touches_never_lose_a_race() {
    everywhere(&["--workload", "touch", "--memory", "2M"], |run, _| {
        assert_eq!(run["guest_pages"], 512);
        assert_eq!(run["resident"]["entries"], 512);
        assert_eq!(run["dirty"]["entries"], 384, "every fourth page is only read");
        assert_eq!(run["total"]["faults"], 512);
        assert_eq!(run["total"]["lost"], 0);
        assert_eq!(run["table_frames"], run["table_levels"], "2 MiB are one table of each level");
    });
}

#[test]
fn shared_pages_add_up() {
    everywhere(&["--workload", "shared", "--memory", "4100K"], |run, vcpus| {
        assert_eq!(run["guest_pages"], 1025);
        assert_eq!(run["dirty"]["entries"], 1025);
        assert_eq!(number(&run["total"]["accesses"]), 1025 * vcpus);
        assert_eq!(number(&run["table_frames"]), 2 + number(&run["table_levels"]));
    });
}

#[test]
fn random_accesses_add_up() {
    everywhere(&["--workload", "random", "--memory", "1M", "--seconds", "0.05"], |run, _| {
        assert_eq!(run["guest_pages"], 256);
        assert!(run["seconds"].as_f64().unwrap() >= 0.05);
    });
}

#[test]
fn memory_that_comes_and_goes_is_all_there_in_the_end() {
    let churn = ["--workload", "churn", "--memory", "10000K", "--rounds", "30"];
    everywhere(&churn, |run, _| {
        assert_eq!(run["guest_pages"], 2500);
        check_churn(run, 30);
        assert_eq!(run["churn"]["tables_left"], 1, "the root");
    });
}

#[test]
fn memory_that_moves_takes_its_contents_along() {
    let migrate = ["--workload", "migrate", "--memory", "10000K", "--rounds", "30"];
    everywhere(&migrate, |run, _| {
        assert_eq!(run["guest_pages"], 2500);
        check_migrate(run, 30);
    });
}

#[test]
fn large_leaves_are_split_and_made_again() {
    let resize = ["--workload", "resize", "--memory", "16M", "--page-size", "2M", "--rounds", "12"];
    everywhere(&resize, |run, _| {
        assert_eq!(run["guest_pages"], 8 * 512 + 8 * 512, "leaves, and decoys");
        check_resize(run, 12);
        assert_eq!(run["churn"]["tables_left"], 1, "the root");
    });
    for (memory, leaves) in [("2M", 1), ("160M", 5)] {
        let few = ["--workload", "resize", "--memory", memory, "--page-size", "2M"];
        let run = sound_run(&[&SOFT[..], &few, &["--rounds", "5"]].concat(), b"");
        assert!(number(&run["resize"]["split"]) <= 5 * leaves);
    }
}

#[test]
fn memory_is_copied_while_it_is_written() {
    for (size, pages) in [("4K", 1125), ("2M", 1536)] {
        let precopy = ["--workload", "precopy", "--memory", "4500K", "--seconds", "0.05"];
        everywhere(
            &[&precopy[..], &["--page-size", size, "--copy-rounds", "5"]].concat(),
            |run, _| {
                assert_eq!(run["guest_pages"], pages);
                check_precopy(run, 5);
            },
        );
    }
}

#[test]
fn copying_ends_when_few_pages_are_dirty() {
    let few = ["--workload", "precopy", "--memory", "1M", "--few", "256", "--seconds", "0.05"];
    let run = sound_run(&[&SOFT[..], &few].concat(), b"");
    check_precopy(&run, 2);
    assert_eq!(list(&run["precopy"]["rounds"]).len(), 3, "all, one that finds few, the last");
}

/// A leaf speaks for all of its pages.
#[test]
fn large_leaves_are_brought_in_whole() {
    let touch = ["--workload", "touch", "--memory", "7M", "--page-size", "2M"];
    everywhere(&touch, |run, _| {
        assert_eq!(run["page_size"], 0x20_0000);
        assert_eq!(run["guest_pages"], 2048, "memory is rounded up");
        assert_eq!(run["resident"]["entries"], 2048);
        assert_eq!(run["dirty"]["entries"], 2048);
        assert_eq!(run["total"]["mapped"], 4);
        assert_eq!(number(&run["table_frames"]) + 1, number(&run["table_levels"]));
    });
    for workload in ["random", "shared", "churn", "migrate"] {
        let large = ["--workload", workload, "--page-size", "2M", "--memory", "16M"];
        let short = ["--seconds", "0.05", "--rounds", "20"];
        for vcpus in ["1", "4"] {
            sound_run(&[&SOFT[..], &large, &short, &["--vcpus", vcpus]].concat(), b"");
        }
    }
    let trace = sound_run(&[&SOFT[..], &["--trace", TRACE, "--page-size", "2M"]].concat(), b"");
    assert_eq!(number(&trace["resident"]["entries"]) % 512, 0);
}

#[test]
fn changes_of_memory_are_sound_whatever_the_seed() {
    for seed in 2..7 {
        let seed = seed.to_string();
        let place = ["--memory", "16M", "--seed", &seed];
        let churn = sound_run(&[&SOFT[..], &["--workload", "churn"], &place].concat(), b"");
        check_churn(&churn, 200);
        let migrate = sound_run(&[&SOFT[..], &["--workload", "migrate"], &place].concat(), b"");
        check_migrate(&migrate, 200);
    }
}

#[test]
fn a_flush_that_is_skipped_is_found_out_every_time() {
    for vcpus in ["1", "3", "8"] {
        let place = [&SOFT[..], &["--vcpus", vcpus, "--memory", "1M", "--rounds", "60"]].concat();
        for workload in ["churn", "migrate"] {
            let in_format =
                |format| found_out(workload, &[&place[..], &["--format", format]].concat());
            let runs = ["ept", "npt", "long-mode"].map(in_format);
            match workload {
                "churn" => assert!(runs.iter().all(is_stale), "{runs:#?}"),
                // Not in each: what was written in the wrong place may be there all the same.
                _ => assert!(runs.iter().any(is_sum_wrong), "{runs:#?}"),
            }
        }
    }
}

#[test]
fn a_flush_that_is_skipped_is_found_out_where_leaves_are_resized() {
    for vcpus in ["1", "3", "8"] {
        for format in ["ept", "npt", "long-mode"] {
            let place = ["--vcpus", vcpus, "--format", format, "--memory", "16M"];
            let run = found_out_in_resize(&[&SOFT[..], &place, &["--rounds", "60"]].concat());
            // These do not look at tables again, but for a mark that they need.
            assert!(number(&run["resize"]["unmarked_pages"]) > 0, "{run:#}");
        }
    }
}

#[test]
fn a_flush_that_is_skipped_is_found_out_in_the_copy() {
    for vcpus in ["1", "3", "8"] {
        for format in ["ept", "npt", "long-mode"] {
            for size in ["4K", "2M"] {
                let place = ["--vcpus", vcpus, "--format", format, "--page-size", size];
                found_out_in_copy(&[&SOFT[..], &place, &["--memory", "4M"]].concat());
            }
        }
    }
}

#[test]
fn a_real_program_is_mapped_page_by_page() {
    let (accessed, dirty) = pages_of_true();
    everywhere(&["--trace", TRACE], |run, _| {
        assert_eq!(run["accessed"]["entries"], accessed);
        assert_eq!(run["dirty"]["entries"], dirty);
    });
}

#[test]
fn a_tour_touches_memory_takes_it_away_moves_it_and_replays_a_program() {
    let document = sound(&[&SOFT[..], &["--memory", "1M", "--rounds", "20"]].concat(), b"");
    let names: Vec<_> = list(&document["runs"]).iter().map(|run| &run["workload"]).collect();
    assert_eq!(
        names,
        ["touch", "churn", "migrate", "precopy", "trace examples/guest/traces/true.lackey"]
    );
    assert_eq!(list(&document["comparisons"]).len(), 0, "there is nothing to compare with");
}

#[test]
fn a_workload_and_a_trace_run_one_after_the_other() {
    let both = ["--workload", "shared", "--memory", "1M", "--trace", TRACE];
    let document = sound(&[&SOFT[..], &both].concat(), b"");
    assert_eq!(list(&document["runs"]).len(), 2);
}

#[test]
fn tables_are_printed_without_json() {
    let tour = ["--memory", "1M", "--vcpus", "2", "--rounds", "20", "--seconds", "0.1"];
    let ended = run(&[&SOFT[..], &tour].concat(), b"");
    let text = ended.text;
    assert_eq!(ended.status, Some(OK), "{text}");
    assert!(text.starts_with("touch on soft: 2 vCPUs, 256 pages, 4-level ept, "), "{text}");
    for (times, words) in [
        (5, &["verdict: ok", "faults/s", "lost to another vCPU", "frames in tables"][..]),
        (5, &["│ resident ", "│ accessed ", "│ dirty ", "│ sum of all words ", "; L4: "]),
        (2, &["just moving", "no memory"]),
        (3, &["kicks"]),
        (1, &["precopy on soft: ", "memory copied", "1, all that is mapped", "\n   1 |"]),
        (1, &["of the copy 0 bytes differ, in 0 pages"]),
        (1, &["churn on soft: ", "memory taken away", "data frames given back"]),
        (1, &["migrate on soft: ", "memory moved", "pages copied while readable"]),
    ] {
        for word in words {
            assert_eq!(text.matches(word).count(), times, "{word}: {text}");
        }
    }
}

#[test]
fn more_vcpus_than_pages_is_no_problem() {
    for workload in ["touch", "shared", "random", "churn", "migrate", "precopy"] {
        let few = ["--workload", workload, "--memory", "4096", "--seconds", "0.01"];
        sound(&[&SOFT[..], &few, &["--rounds", "5", "--vcpus", "40"]].concat(), b"");
    }
}

#[test]
fn the_ends_of_the_input_space_can_be_mapped() {
    let low = b" S 0,8\n S 7ffffffffff8,8\n";
    let high = b" S 0,8\n S fffffffffffffff8,8\n L ffff800000000000,8\n";
    let trace = ["--backend", "soft", "--trace", "-"];
    sound(&trace, b" S fffffffffff8,8\n");
    sound(&[&trace[..], &["--levels", "5"]].concat(), b" S 1fffffffffffff8,8\n");
    sound(&[&trace[..], &["--format", "long-mode"]].concat(), low);
    sound(&[&trace[..], &["--format", "long-mode"]].concat(), high);
}
