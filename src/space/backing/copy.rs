//! Copy on write, over another backing.

/// A source of frames that can copy them.
pub trait CopyPool {}

/// Copy on write.
#[derive(Debug)]
pub struct CopyOnWrite {}
