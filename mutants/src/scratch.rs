//! A copy of the tree, in which mutants are made and undone again.
//!
//! It stays where it is between two runs of the program, under cargo's target folder: what was built of it
//! is found again, and whatever an interrupted run left in it is overwritten by the next one.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    edit::{self, Edit},
    tree::Tree,
};

/// One copy, which nobody else uses meanwhile.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    /// The texts of the files that are changed, as they were.
    originals: BTreeMap<PathBuf, String>,
    /// Held as long as the copy is.
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
#[error("another run works in {}", .0.display())]
pub(crate) struct InUse(PathBuf);

impl Scratch {
    /// Makes the copy in `folder`, or brings it up to date.
    pub(crate) fn new(tree: &Tree, folder: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(InUse(folder).into()),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let scratch = Self { folder, originals: BTreeMap::new(), _lock: lock };
        tree.copy(&scratch.tree()).context("the tree cannot be copied")?;
        Ok(scratch)
    }

    /// Returns where the copy is.
    pub(crate) fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// Returns where there is room beside it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the edits in it.
    pub(crate) fn apply(&mut self, edits: &[Edit]) -> anyhow::Result<()> {
        let tree = self.tree();
        let texts = edit::apply_all(edits, |file| fs::read_to_string(tree.join(file)).ok())?;
        for (file, text) in texts {
            let path = tree.join(file);
            let original = fs::read_to_string(&path)?;
            fs::write(&path, text)?;
            self.originals.insert(path, original);
        }
        Ok(())
    }

    /// Makes it what it was.
    pub(crate) fn restore(&mut self) -> anyhow::Result<()> {
        while let Some((path, text)) = self.originals.pop_first() {
            fs::write(path, text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
