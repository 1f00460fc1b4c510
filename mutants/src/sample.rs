//! Some of the mutants, which follow from the commit: others at each, and a failure can be had again.

use std::{io, path::Path, process::Command};

use sha2::{Digest, Sha256};

use crate::mutant::Mutant;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    #[error("git cannot be started")]
    Git(#[from] io::Error),
    #[error("git does not know the commit: {0}")]
    Unknown(String),
}

/// Returns the name of the commit that is checked out.
pub(crate) fn commit(root: &Path) -> Result<String, CommitError> {
    let output = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(CommitError::Unknown(said));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Picks `count` of the mutants, or all if there are no more, and leaves them in their order.
pub(crate) fn pick<'l>(mutants: Vec<&'l Mutant>, count: usize, commit: &str) -> Vec<&'l Mutant> {
    // Each is drawn by itself, so that one more in the list changes little.
    let mix = |name: &str| Sha256::digest(format!("{commit} {name}"));
    let mut drawn: Vec<_> = mutants.iter().map(|mutant| mix(&mutant.name)).collect();
    drawn.sort_unstable();
    let Some(bound) = drawn.get(count) else { return mutants };
    mutants.into_iter().filter(|mutant| mix(&mutant.name) < *bound).collect()
}

#[cfg(test)]
mod tests;
