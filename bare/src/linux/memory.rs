//! The guest's memory: a space whose pages come as they are needed, and the machine's own devices.

use alloc::sync::Arc;
use core::ops::Range;

use slat::{
    Attr, Backing, Contiguous, Gpa, GpaRange, HostPfn, Npt, OnDemand, PAGE_BYTES, PageSize,
    PageTable, Prot, Space, Vcpu,
};

use super::{kicks::Kicks, multiboot, pool::Pool};
use crate::machine::memory::{Frames, GUEST, MIB, TABLES};

/// The space of a guest.
pub(super) type Memory = Space<Npt, Arc<Frames>>;
/// What its processor, and whoever loads it, need of that.
pub(super) type Hands = Vcpu<Npt, Arc<Frames>>;

/// How much the guest has.
pub(super) const RAM: u64 = 1024 * MIB;
/// In it, where a PC has its devices and its firmware.
pub(super) const LEGACY: Range<u64> = 0xa_0000..0x10_0000;
/// Where devices end that are reached by 32 bits.
const DEVICES_END: u64 = 1 << 32;

/// What the guest finds where.
#[derive(Debug)]
pub(super) struct Places {
    /// Pages that come as they are needed.
    pub(super) ram: [Range<u64>; 2],
    /// The machine's own, at the same addresses.
    pub(super) devices: [Range<u64>; 2],
}

/// What a guest's memory is made of.
pub(super) struct Made {
    pub(super) space: Memory,
    pub(super) places: Places,
    pub(super) pool: Arc<Pool>,
}

/// Returns where the machine's memory ends, below 4 GiB.
fn ram_end() -> u64 {
    let pieces = multiboot::map().filter(|piece| piece.is_ram && piece.range.end <= DEVICES_END);
    pieces.map(|piece| piece.range.end).max().expect("there is memory")
}

/// Returns the range of whole pages.
pub(super) fn pages(range: &Range<u64>) -> GpaRange {
    GpaRange::new(Gpa::new(range.start), range.end - range.start).expect("it is one of whole pages")
}

/// Makes the space of a guest: with memory by leaves of up to `largest`, of which nothing is there yet.
///
/// # Safety
/// There is no other guest, and nobody uses memory from that of the guest on.
pub(super) unsafe fn new(format: Npt, kicks: Kicks, largest: PageSize) -> Made {
    // SAFETY: the caller's promise.
    let frames = Arc::new(unsafe { Frames::new(TABLES) });
    let table = PageTable::new(format, frames).expect("there are frames");
    let space = Space::new(table, kicks);

    let end = ram_end() / PAGE_BYTES * PAGE_BYTES;
    // SAFETY: the caller's promise.
    let pool = Arc::new(unsafe { Pool::new(GUEST.start..end) });
    let places =
        Places { ram: [0..LEGACY.start, LEGACY.end..RAM], devices: [LEGACY, end..DEVICES_END] };
    let all = |range: &Range<u64>, backing: Arc<dyn Backing>| {
        let mapped = space.map_region(pages(range), backing, 0, Attr::new(Prot::RWX));
        mapped.expect("nothing is there");
    };
    for range in &places.ram {
        let backing = OnDemand::new(pool.clone(), pages(range).pages(), largest);
        all(range, Arc::new(backing));
    }
    for range in &places.devices {
        let backing = Contiguous::device(HostPfn::containing(range.start), pages(range).pages());
        all(range, Arc::new(backing.expect("it is small")));
    }
    Made { space, places, pool }
}
