//! What the test harness prints, read.

/// How one test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Passed,
    Failed,
}

/// Returns the tests that came to an end, in the order in which they did. One that brought the process
/// down, or did not end, is not among them.
pub(crate) fn ended_tests(printed: &str) -> Vec<(&str, Ended)> {
    printed.lines().filter_map(ended_test).collect()
}

fn ended_test(line: &str) -> Option<(&str, Ended)> {
    let (name, how) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let name = name.trim_end_matches(" - should panic");
    match how {
        "ok" => Some((name, Ended::Passed)),
        "FAILED" => Some((name, Ended::Failed)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
