use super::*;

const PRINTED: &str = "
running 4 tests
test map::one ... ok
test map::two ... FAILED
test three - should panic ... ok
test four ... ignored
test five ... scenario five: 3 executions
test six has been running for over 60 seconds

failures:
    map::two
test result: FAILED. 2 passed; 1 failed; 1 ignored
";

#[test]
fn the_tests_that_ended_are_read_with_how_they_did() {
    let ended = ended_tests(PRINTED);
    let expected =
        [("map::one", Ended::Passed), ("map::two", Ended::Failed), ("three", Ended::Passed)];
    assert_eq!(ended, expected);
}
