//! Frames that are taken from a pool when they are first needed.

/// A source of frames.
pub trait FramePool {}

/// Frames on demand.
#[derive(Debug)]
pub struct OnDemand {}
