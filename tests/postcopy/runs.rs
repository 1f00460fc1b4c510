//! Migrations in which all is well.

use super::*;

/// Checks what holds of every run that is sound.
fn check(document: &Value, vcpus: u64) {
    assert_eq!((&document["vcpus"], &document["pages"]), (&vcpus.into(), &PAGES.into()));
    for (key, right) in [("compared_pages", PAGES), ("wrong_pages", 0), ("wrong_bytes", 0)] {
        assert_eq!(document[key], right, "{key}");
    }
    let came = |how| number(document, ["arrivals", how]);
    assert_eq!(came("on_demand") + came("in_background"), PAGES, "each once");
    assert!(came("requests") >= came("on_demand") + came("on_its_way"));
    assert!(came("crossed") <= came("in_background"));
    let count = |what| number(document, ["faults", what]);
    assert!(count("accesses") >= vcpus * PAGES, "each vCPU comes to every page");
    assert!(count("faults") >= PAGES, "each page is mapped by a fault");
    assert!(count("waited") <= count("faults") && count("fetches") <= count("waited"));
    assert_eq!(count("misreads"), 0);
    let time = |what| document["times_ms"][what].as_f64().unwrap();
    assert!(time("first_access") <= time("guest_done"));
    let wait = |rank| document["waits_us"][rank].as_f64().unwrap();
    let waits = ["p50", "p90", "p99", "longest"].map(wait);
    assert!(waits.is_sorted(), "{waits:?}");
    assert_eq!(waits[3] > 0.0, count("waited") > 0);
}

#[test]
fn all_memory_comes_for_any_number_of_vcpus_in_every_order() {
    for vcpus in [1, 2, 8] {
        for order in ["random", "ascending", "descending"] {
            let chosen = ["--vcpus", &vcpus.to_string(), "--fault-order", order];
            let (document_of, _) = document(OK, &chosen);
            check(&document_of, vcpus);
            assert_eq!(document_of["fault_order"], order);
        }
    }
}

#[test]
fn without_a_background_all_is_asked_for() {
    for vcpus in [1, 2, 8] {
        let (document, _) = document(OK, &["--vcpus", &vcpus.to_string(), "--no-background"]);
        check(&document, vcpus);
        for what in ["on_demand", "requests"] {
            assert_eq!(number(&document, ["arrivals", what]), PAGES, "{what}");
        }
        assert_eq!(number(&document, ["arrivals", "on_its_way"]), 0, "nothing is asked for twice");
        assert_eq!(number(&document, ["faults", "fetches"]), PAGES);
    }
}

/// Who comes from the other end must ask, where pages come slowly.
#[test]
fn a_slow_connection_is_kept_to_and_what_is_asked_for_goes_first() {
    let slow = ["--bandwidth", "500", "--fault-order", "descending", "--vcpus", "2"];
    let (document, _) = document(OK, &slow);
    check(&document, 2);
    let complete = document["times_ms"]["complete"].as_f64().unwrap();
    assert!(complete > 450.0, "256 pages, of which 500 take a second: {complete} ms");
    let (asked, first) = (number(&document, ["arrivals", "on_demand"]), &document["times_ms"]);
    assert!(asked > 10, "{asked} pages were asked for");
    assert!(first["first_access"].as_f64().unwrap() < complete / 2.0, "{first}");
}

#[test]
fn a_seed_decides_what_the_guest_does() {
    let accesses = |seed| {
        let (document, _) = document(OK, &["--seed", seed]);
        let written = document["written_pages"].as_u64().unwrap();
        [
            number(&document, ["faults", "accesses"]),
            number(&document, ["faults", "writes"]),
            written,
        ]
    };
    assert_eq!(accesses("5"), accesses("5"));
    assert_ne!(accesses("5"), accesses("6"));
}

#[test]
fn the_tables_say_what_there_is() {
    let Ended { status, text, errors } = run(&SMALL);
    assert_eq!((status, &*errors), (Some(OK), ""), "no progress bar without a terminal");
    for line in [
        "postcopy: 4 vCPUs, 256 pages, random\n",
        "came on demand",
        "came in the background",
        "that fetched it",
        "that were to be tried again",
        "first access of the guest",
        "all pages had come",
        "256 pages were compared, and are right\nverdict: ok\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn results_go_to_a_file_and_nothing_is_said_if_quiet() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("postcopy.json");
    let name = path.to_str().unwrap();
    let Ended { status, text, errors } = run(&[&SMALL[..], &["--quiet", "--json", name]].concat());
    assert_eq!((status, &*text, &*errors), (Some(OK), "", ""));
    check(&serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap(), 4);
    let ended = run(&[&SMALL[..], &["--json", name]].concat());
    assert!(ended.text.ends_with("verdict: ok\n"), "{}", ended.text);
}
