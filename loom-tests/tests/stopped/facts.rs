//! Facts: what an operation came to.

use std::fmt::Debug;

use loom_tests::stopped::Facts;

/// Returns what it came to: the answer, or why not.
pub(crate) fn one<T: Debug, E: Debug>(result: Result<T, E>) -> Facts {
    vec![match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => refused(&error),
    }]
}

/// Returns that it went, or why not; what it came to is left, and looked at page by page.
pub(crate) fn went<T, E: Debug>(result: Result<T, E>) -> Facts {
    one(result.map(drop))
}

/// Returns why: the error's name.
pub(crate) fn refused(error: &impl Debug) -> String {
    let text = format!("{error:?}");
    let end = text.find(|letter: char| !letter.is_alphanumeric()).unwrap_or(text.len());
    match &text[..end] {
        // There is no memory any more.
        "Vacated" => "NotPopulated".into(),
        name => name.into(),
    }
}
