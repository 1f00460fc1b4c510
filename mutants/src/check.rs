//! What can be said of the list without building anything: what is to be broken stands there once, and
//! whoever is to notice exists.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use crate::{
    edit::{self, EditError},
    killer::{Killer, Package, Part},
    mutant::Mutant,
    tree::Tree,
};

/// What is wrong with one row.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) mutant: String,
    pub(crate) wrong: Wrong,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error("there is no test {0}")]
    NoTest(String),
}

/// The texts of all tests and sources, to look for names in.
#[derive(Debug)]
pub(crate) struct Claims {
    files: BTreeMap<PathBuf, String>,
}

impl Claims {
    pub(crate) fn of(tree: &Tree) -> Self {
        let mut files = BTreeMap::new();
        for path in tree.files() {
            if let Some(text) = path.to_str().and_then(|path| tree.text(path)) {
                files.insert(path.clone(), text);
            }
        }
        Self { files }
    }

    /// Tells whether some file of the killer's target names all of the test: in its text, or in its path.
    /// Which names a macro makes only the compiler knows, so a row may still turn out to be wrong.
    fn have(&self, killer: &Killer) -> bool {
        let files = self.files.iter().filter(|(path, _)| Self::is_of(path, killer));
        let mut texts = files.map(|(path, text)| (path, words(text)));
        texts.any(|(path, words)| {
            killer.test.split("::").filter(|part| !part.is_empty()).all(|part| {
                let in_path = path.with_extension("");
                in_path.components().any(|component| component == Component::Normal(part.as_ref()))
                    || words.binary_search(&part).is_ok()
            })
        })
    }

    /// Tells whether a file may belong to the killer's target.
    fn is_of(path: &Path, killer: &Killer) -> bool {
        let folder = match killer.target.package {
            Package::Slat => "",
            Package::LoomTests => "loom-tests",
        };
        let Ok(inner) = path.strip_prefix(folder) else { return false };
        match &killer.target.part {
            Part::Lib => inner.starts_with("src"),
            Part::Test(file) => {
                let home = Path::new("tests").join(file);
                inner == home.with_extension("rs") || inner.starts_with(home)
            }
        }
    }
}

/// Returns the words of a text, in order.
fn words(text: &str) -> Vec<&str> {
    let mut words: Vec<_> =
        text.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).collect();
    words.sort_unstable();
    words
}

/// Looks at each row by itself; returns all that is wrong.
pub(crate) fn faults(mutants: &[&Mutant], claims: &Claims) -> Vec<Fault> {
    let mut faults = Vec::new();
    for mutant in mutants {
        let mut note = |wrong| faults.push(Fault { mutant: mutant.name.clone(), wrong });
        let read = |file: &str| claims.files.get(Path::new(file)).cloned();
        if let Err(error) = edit::apply_all(&mutant.edits, read) {
            note(error.into());
        }
        for killer in mutant.killers.iter().filter(|killer| !claims.have(killer)) {
            note(Wrong::NoTest(killer.text().to_owned()));
        }
    }
    faults
}

#[cfg(test)]
mod tests;
