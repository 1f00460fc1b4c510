//! Whether the MMU keeps accessed and dirty bits.

/// Whether the MMU shall set accessed and dirty bits while this root pointer is loaded.
///
/// It is a choice for EPT alone, on processors that can ([`ACCESSED_DIRTY`]): bit 6 of the EPTP. nPT
/// and long mode always keep the bits. A processor does not tell apart what it cached with the bit set
/// and what it cached with it clear (Intel SDM vol. 3C, 29.4.3), so it has to forget everything in
/// between.
///
/// [`ACCESSED_DIRTY`]: crate::EptCaps::ACCESSED_DIRTY
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tracking {
    /// It sets them, if it can.
    On,
    /// It leaves them alone, if it can.
    Off,
}
