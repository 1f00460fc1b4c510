//! What is tried.

pub(crate) mod entries;
