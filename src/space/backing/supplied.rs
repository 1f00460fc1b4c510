//! Pages that somebody else supplies, on request or unasked.

/// A page that is waited for.
#[derive(Debug)]
pub struct Request {}

/// Pages that are supplied.
#[derive(Debug)]
pub struct Supplied {}

/// The end that supplies them.
#[derive(Debug)]
pub struct Supplier {}
