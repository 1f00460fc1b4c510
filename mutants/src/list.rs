//! The list: one file a protocol, in TOML.
//!
//! ```toml
//! [shared.NAME]       # an edit that several rows make first
//! file = ".."
//! old = ".."
//! new = ".."
//!
//! [[mutant]]
//! name = ".."
//! class = ".."
//! shared = ["NAME"]   # if any
//! hidden-by = ["NAME"] # if any: made before the others, and once alone, when each killer must pass
//! killers = [".."]
//! seconds = 60        # if other than usual
//! hangs = true        # if that is how it shows
//! survives = ".."     # if nobody can notice, and why
//! [[mutant.edits]]
//! file = ".."
//! old = ".."
//! new = ".."
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io, mem,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{edit::Edit, mutant::Mutant};

/// All mutants that there are, in the order of the files' names.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) mutants: Vec<Mutant>,
}

/// Why the list cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("{} cannot be read", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is not as a list is", path.display())]
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    #[error("two mutants are called `{0}`")]
    TwoMutants(String),
    #[error("two shared edits are called `{0}`")]
    TwoShared(String),
    #[error("`{mutant}` shares `{shared}`, which nobody has written")]
    NoShared { mutant: String, shared: String },
    #[error("`{0}` names nobody who must notice")]
    NoKiller(String),
    #[error("`{0}` changes nothing")]
    NoEdit(String),
    #[error("there is no mutant in it")]
    Empty,
}

/// What one file holds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chapter {
    #[serde(default)]
    shared: BTreeMap<String, Edit>,
    #[serde(default, rename = "mutant")]
    mutants: Vec<Mutant>,
}

impl List {
    /// Reads all files of a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, ListError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ListError::Io { path, source }
        };
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths: Vec<_> =
            entries.map_err(failed(folder))?.iter().map(fs::DirEntry::path).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort_unstable();
        let mut chapters = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path).map_err(failed(&path))?;
            chapters
                .push(Chapter::parse(&text).map_err(|source| ListError::Toml { path, source })?);
        }
        Self::bind(chapters)
    }

    /// Makes one list of the chapters, each row of which has all of its edits.
    fn bind(chapters: Vec<Chapter>) -> Result<Self, ListError> {
        let (mut shared, mut mutants) = (BTreeMap::new(), Vec::<Mutant>::new());
        for chapter in chapters {
            for (name, edit) in chapter.shared {
                if shared.insert(name.clone(), edit).is_some() {
                    return Err(ListError::TwoShared(name));
                }
            }
            mutants.extend(chapter.mutants);
        }
        let mut names = BTreeSet::new();
        for mutant in &mut mutants {
            if !names.insert(mutant.name.clone()) {
                return Err(ListError::TwoMutants(mutant.name.clone()));
            }
            mutant.take_shared(&shared)?;
        }
        if mutants.is_empty() { Err(ListError::Empty) } else { Ok(Self { mutants }) }
    }
}

impl Chapter {
    fn parse(text: &str) -> Result<Self, Box<toml::de::Error>> {
        toml::from_str(text).map_err(Box::new)
    }
}

impl Mutant {
    /// Puts the edits that it shares before its own.
    fn take_shared(&mut self, shared: &BTreeMap<String, Edit>) -> Result<(), ListError> {
        let find = |name: &String| {
            shared.get(name).cloned().ok_or_else(|| {
                let (mutant, shared) = (self.name.clone(), name.clone());
                ListError::NoShared { mutant, shared }
            })
        };
        let uncover = self.hidden_by.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let shared = self.shared.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let own = mem::take(&mut self.edits);
        self.edits = uncover.iter().cloned().chain(shared).chain(own).collect();
        self.uncover = uncover;
        if self.killers.is_empty() {
            return Err(ListError::NoKiller(self.name.clone()));
        }
        if self.edits.len() == self.uncover.len() {
            return Err(ListError::NoEdit(self.name.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
