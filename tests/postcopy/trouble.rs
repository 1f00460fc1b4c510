//! The negative controls: what goes wrong on the way has to be found out.

use super::*;

const VCPUS: [&str; 3] = ["1", "2", "8"];

#[test]
fn a_page_that_arrives_wrong_is_named() {
    for (vcpus, page) in VCPUS.into_iter().zip(["0", "129", "255"]) {
        for more in [&[][..], &["--no-background"]] {
            let chosen = ["--vcpus", vcpus, "--corrupt", page];
            let (document, errors) = document(FAILED, &[&chosen[..], more].concat());
            assert!(errors.contains(&format!("page {page}: 1 bytes are wrong")), "{errors}");
            assert_eq!(
                (&document["wrong_pages"], &document["wrong_bytes"]),
                (&1.into(), &1.into())
            );
        }
    }
}

#[test]
fn a_page_that_never_arrives_is_named() {
    for (vcpus, page) in VCPUS.into_iter().zip(["0", "129", "255"]) {
        for more in [&[][..], &["--no-background", "--patience", "0.5"]] {
            let chosen = ["--vcpus", vcpus, "--drop", page];
            let (document, errors) = document(FAILED, &[&chosen[..], more].concat());
            assert!(errors.starts_with(&format!("error: page {page} has never come")), "{errors}");
            let waiting = format!("page {page} was not supplied, and its supplier is gone");
            assert!(errors.contains(&waiting), "{errors}");
            assert_eq!(document["wrong_pages"], 0, "what came is right");
        }
    }
}

#[test]
fn a_connection_that_closes_early_is_told_to_every_vcpu() {
    for vcpus in VCPUS {
        for cut in ["0", "1", "100"] {
            let (_, errors) = document(FAILED, &["--vcpus", vcpus, "--cut", cut]);
            let told = format!("error: the connection was closed early: {cut} of {PAGES} pages");
            assert!(errors.starts_with(&told), "{errors}");
            for vcpu in 0..vcpus.parse::<u32>().unwrap() {
                let told = format!("error: vCPU {vcpu}: page ");
                assert!(errors.contains(&told), "{errors}");
            }
        }
    }
}

#[test]
fn what_is_wrong_is_said_also_if_quiet() {
    let ended = run(&[&SMALL[..], &["--quiet", "--corrupt", "7"]].concat());
    assert_eq!((ended.status, &*ended.text), (Some(FAILED), ""));
    assert!(ended.errors.contains("error: page 7: 1 bytes are wrong"), "{}", ended.errors);
    let ended = run(&[&SMALL[..], &["--corrupt", "7"]].concat());
    assert!(ended.text.ends_with("verdict: FAILED\n"), "{}", ended.text);
}
