//! A change of one file's text.
//!
//! What is replaced must stand in the file once: found nowhere, it has gone with a change of the source, and
//! found twice, nobody knows which was meant. How its lines are broken and indented does not matter.

use std::{collections::BTreeMap, ops::Range};

use serde::Deserialize;

/// Replaces a piece of a file by another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit {
    /// From the root of the workspace.
    pub(crate) file: String,
    pub(crate) old: String,
    pub(crate) new: String,
}

/// Why an edit cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EditError {
    #[error("there is no file {file}")]
    NoFile { file: String },
    #[error("{file}: an edit says nothing of what is to be replaced")]
    Empty { file: String },
    #[error("{file}: this should stand there once, and does {times} times:\n{old}")]
    Times { file: String, times: usize, old: String },
    #[error("{file}: an edit leaves this as it is:\n{old}")]
    Nothing { file: String, old: String },
}

impl Edit {
    /// Returns the text with the edit made.
    pub(crate) fn apply(&self, text: &str) -> Result<String, EditError> {
        let Self { file, old, new } = self;
        let file = || file.clone();
        let words: Vec<_> = old.split_whitespace().collect();
        let places = places(text, &words);
        let place = match &*places {
            _ if words.is_empty() => return Err(EditError::Empty { file: file() }),
            [place] => place.clone(),
            _ => {
                let times = places.len();
                return Err(EditError::Times { file: file(), times, old: old.clone() });
            }
        };
        let edited = [&text[..place.start], new.trim(), &text[place.end..]].concat();
        if edited == text {
            return Err(EditError::Nothing { file: file(), old: old.clone() });
        }
        Ok(edited)
    }
}

/// Returns where the words stand one behind the other, with any white space in between.
fn places(text: &str, words: &[&str]) -> Vec<Range<usize>> {
    let Some((first, others)) = words.split_first() else { return Vec::new() };
    let place = |(start, _): (usize, _)| {
        let mut rest = &text[start + first.len()..];
        for word in others {
            let next = rest.trim_start();
            if next.len() == rest.len() {
                return None;
            }
            rest = next.strip_prefix(word)?;
        }
        Some(start..text.len() - rest.len())
    };
    text.match_indices(first).filter_map(place).collect()
}

/// Makes the edits, one after the other, in what `read` knows of the files; returns the new texts.
pub(crate) fn apply_all(
    edits: &[Edit],
    read: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<&str, String>, EditError> {
    let mut texts = BTreeMap::<&str, String>::new();
    for edit in edits {
        let missing = || EditError::NoFile { file: edit.file.clone() };
        let text = match texts.get(&*edit.file) {
            Some(text) => edit.apply(text)?,
            None => edit.apply(&read(&edit.file).ok_or_else(missing)?)?,
        };
        texts.insert(&*edit.file, text);
    }
    Ok(texts)
}

#[cfg(test)]
mod tests;
