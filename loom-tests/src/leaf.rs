//! What the scenarios of one leaf share: that of page 1, its rights and its bits.

use slat::Prot;

use crate::{
    sched::Arc,
    world::{Cpu, World, gpa, pages},
};

/// Makes a table in which page 1 is mapped, accessed and dirty.
///
/// # Panics
/// If the library fails.
#[must_use]
pub fn dirty() -> Arc<World> {
    let world = World::mapped(1);
    let pin = world.table.pin();
    let slot = pin.slot(gpa(1)).unwrap();
    assert_eq!((slot.set_accessed(), slot.set_dirty()), (false, false));
    drop(pin);
    Arc::new(world)
}

/// Makes it dirty; tells whether it was.
///
/// # Panics
/// If the library fails.
pub fn set_dirty(cpu: &Cpu) -> bool {
    cpu.pin().slot(gpa(1)).unwrap().set_dirty()
}

/// Makes it clean; tells whether it was dirty.
///
/// # Panics
/// If the library fails.
pub fn clear_dirty(cpu: &Cpu) -> bool {
    cpu.pin().slot(gpa(1)).unwrap().clear_dirty()
}

/// Changes its rights; returns how many pages have others now.
///
/// # Panics
/// If the library fails.
pub fn protect(cpu: &Cpu, prot: Prot) -> u64 {
    cpu.pin().protect(pages(1, 2), prot).unwrap().0
}

/// Watches it; tells whether it was mapped and not watched, and whether something is to be invalidated.
///
/// # Panics
/// If the library fails.
pub fn watch(cpu: &Cpu) -> (bool, bool) {
    let pin = cpu.pin();
    let (count, flush) = pin.watch(pages(1, 2)).unwrap();
    (count == 1, !flush.is_empty())
}
