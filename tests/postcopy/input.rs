//! Bad options.

use super::*;

fn refused(arguments: &[&str]) -> String {
    let Ended { status, text, errors } = run(arguments);
    assert_eq!(status, Some(BAD_INPUT), "{arguments:?}: {errors}");
    assert!(text.is_empty(), "{arguments:?}: {text}");
    assert!(errors.starts_with("error: "), "{errors}");
    errors
}

#[test]
fn bad_options_are_refused() {
    for (arguments, complaint) in [
        (&["--vcpus", "0"][..], "0 is not in 1..=512"),
        (&["--vcpus", "513"], "513 is not in 1..=512"),
        (&["--memory", "4095"], "4095 bytes are not a positive multiple of 4096, a page"),
        (&["--memory", "0"], "0 bytes are not a positive multiple of 4096, a page"),
        (&["--memory", "1X"], "`X` is not a unit"),
        (&["--memory", "32T"], "8589934592 pages are more than the example can have"),
        (&["--memory", "8T"], "MiB of the host's, which has "),
        (&["--bandwidth", "0"], "--bandwidth"),
        (&["--patience", "0"], "not at least 0.001"),
        (&["--patience", "NaN"], "not at least 0.001"),
        (&["--fault-order", "backwards"], "--fault-order"),
        (&["--seed", "x"], "--seed"),
        (&["--corrupt", "16384"], "--corrupt 16384: there are 16384 pages, from 0 on"),
        (&["--drop", "1024", "--memory", "4M"], "--drop 1024: there are 1024 pages, from 0 on"),
        (&["--cut", "16384"], "--cut 16384: the connection is closed after fewer than all"),
        (&["--corrupt", "1", "--drop", "1"], "cannot be used with"),
        (&["--json", "/nonexistent/results.json"], "--json: cannot write /nonexistent/"),
        (&["now"], "unexpected argument"),
    ] {
        let errors = refused(arguments);
        assert!(errors.contains(complaint), "{arguments:?}: {errors}");
    }
}
