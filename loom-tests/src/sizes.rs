//! What split and collapse scenarios share, whether or not a processor may have two sizes for a page.

use slat::{CollapseError, PageSize, SLOTS, SplitError};

use crate::{
    guest::no_kick,
    sched::Arc,
    world::{Cpu, RWX, World, frame, gpa, pages, race_unpinned},
};

/// The pages of one leaf table, or of one large leaf.
pub const TABLE: u64 = SLOTS as u64;
/// The size of a leaf that takes the place of a leaf table.
pub const LARGE: PageSize = PageSize::Size2M;
/// The size of those in it.
pub const SMALL: PageSize = PageSize::Size4K;

impl World {
    /// Maps the pages of the first leaf table by leaves of `size`, page `n` to frame `n`.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn filled(self, size: PageSize) -> Self {
        self.table.populate_mapped(pages(0, TABLE), size, frame(0), RWX).unwrap();
        self
    }

    /// Returns the size of the leaf that maps page 1, if one does.
    #[must_use]
    pub fn size(&self) -> Option<PageSize> {
        self.lookup(1).map(|mapping| mapping.size)
    }

    /// Tells whether `page`, which is mapped, is dirty.
    ///
    /// # Panics
    /// If it is not mapped.
    #[must_use]
    pub fn is_dirty(&self, page: u64) -> bool {
        self.lookup(page).unwrap().dirty
    }
}

/// Splits the large leaf.
///
/// # Errors
/// As [`slat::PageTable::split`].
pub fn split(cpu: &Cpu) -> Result<(), SplitError> {
    cpu.table().split(gpa(0), SMALL, &no_kick)
}

/// Collapses the small leaves; tells whether that went.
///
/// # Panics
/// If the library fails.
pub fn collapse(cpu: &Cpu) -> bool {
    use CollapseError::{Busy, NotMapped, Uneven};
    match cpu.table().collapse(gpa(0), LARGE, &no_kick) {
        Ok(()) => true,
        Err(Busy | NotMapped { .. } | Uneven { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Splits the large leaf beside an unmap of page 1, which takes what it finds; returns of which size that
/// was.
///
/// # Panics
/// If one of the two loses.
#[must_use]
pub fn unmap_beside_split(world: World) -> PageSize {
    let world = Arc::new(world.filled(LARGE));
    let (old, split) = race_unpinned(&world, |cpu| cpu.unmap(1), split);
    let old = old.unwrap();
    assert_eq!(old.frame_of(gpa(1)), Some(frame(1)));
    assert_eq!(split.is_ok(), old.size == SMALL);
    assert!(world.lookup(1).is_none());
    assert_eq!(world.lookup(2).is_some(), old.size == SMALL);
    old.size
}

/// Collapses the small leaves beside an unmap of page 1, which takes the large leaf or thwarts it; returns
/// whether they were collapsed.
///
/// # Panics
/// If one of the two loses.
#[must_use]
pub fn unmap_beside_collapse(world: World) -> bool {
    let world = Arc::new(world.filled(SMALL));
    let (old, collapsed) = race_unpinned(&world, |cpu| cpu.unmap(1), collapse);
    let old = old.unwrap();
    assert_eq!(old.frame_of(gpa(1)), Some(frame(1)));
    assert_eq!(old.size, if collapsed { LARGE } else { SMALL });
    assert!(world.lookup(1).is_none());
    assert_eq!(world.lookup(2).is_none(), collapsed);
    collapsed
}

/// Splits a large leaf that is dirty beside a reset of page 1, which has the bit; returns whether page 2 is
/// still dirty.
///
/// # Panics
/// If the bit is lost.
#[must_use]
pub fn reset_beside_split(world: World) -> bool {
    let world = world.filled(LARGE);
    world.table.pin().slot(gpa(1)).unwrap().set_dirty();
    let world = Arc::new(world);
    let clear = |cpu: &Cpu| cpu.pin().slot(gpa(1)).unwrap().clear_dirty();
    let (was_dirty, split) = race_unpinned(&world, clear, split);
    assert!(was_dirty && !world.is_dirty(1));
    assert!(matches!(split, Ok(()) | Err(SplitError::Busy)));
    world.is_dirty(2)
}
