//! The workspace's files: those that git would not ignore.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use ignore::WalkBuilder;

/// The tree that mutants are made of.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    /// From the root on, in order.
    files: Vec<PathBuf>,
}

impl Tree {
    /// Looks through the workspace that this program belongs to.
    pub(crate) fn of_the_workspace() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Self::at(&root).with_context(|| format!("{} cannot be read", root.display()))
    }

    pub(crate) fn at(root: &Path) -> anyhow::Result<Self> {
        let root = root.canonicalize()?;
        let mut files = Vec::new();
        // Also where it was unpacked without its history.
        for entry in WalkBuilder::new(&root).require_git(false).build() {
            let entry = entry?;
            if entry.file_type().is_some_and(|kind| kind.is_file()) {
                files.push(entry.path().strip_prefix(&root)?.to_owned());
            }
        }
        files.sort_unstable();
        Ok(Self { root, files })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Returns the text of a file, if it is one of the tree's.
    pub(crate) fn text(&self, file: &str) -> Option<String> {
        let known = self.files.binary_search_by(|path| path.as_path().cmp(Path::new(file))).is_ok();
        known.then(|| fs::read_to_string(self.root.join(file)).ok()).flatten()
    }

    /// Makes what is at `to` equal to the tree. Files that are equal already stay untouched, and so cargo
    /// finds what it built of them before.
    pub(crate) fn copy(&self, to: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(to)?;
        for file in Self::at(to)?.files {
            if self.files.binary_search(&file).is_err() {
                fs::remove_file(to.join(file))?;
            }
        }
        for file in &self.files {
            let (from, to) = (self.root.join(file), to.join(file));
            let content = fs::read(from)?;
            if fs::read(&to).is_ok_and(|there| there == content) {
                continue;
            }
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&to, &content)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
