//! Consecutive frames: memory that is all there, ROM, and device memory.

/// Consecutive frames.
#[derive(Debug)]
pub struct Contiguous {}
