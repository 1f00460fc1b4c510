//! How slices of host memory come to know whose pages they are, and note what is written through them.
//!
//! A slice has the bitmap slice that its memory region gave it; vm-memory lets nobody put another in its
//! place. So the regions give out empty ones, and who has translated the address fills in where the slice is.

use core::{cell::Cell, fmt};

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

use crate::addr::{Gpa, HostPfn, PAGE_BYTES};

/// Who keeps the dirty marks of pages.
pub(super) trait DirtyLog {
    /// Notes that `pages` pages from page `first` on, which were the frames from `frame` on, were written.
    fn note(&self, first: u64, frame: HostPfn, pages: u64);

    /// Tells whether the page of `gpa` is that frame, and dirty.
    fn is_dirty(&self, gpa: Gpa, frame: HostPfn) -> bool;
}

/// The bitmap of the host memory of a [`SpaceMemory`](crate::SpaceMemory): it has no bits of its own, since the
/// table has them.
///
/// ```
/// # use vm_memory::{GuestAddress, GuestMemoryMmap};
/// let host = GuestMemoryMmap::<slat::SpaceBitmap>::from_ranges(&[(GuestAddress(0), 0x1000)])?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceBitmap;

impl<'a> WithBitmapSlice<'a> for SpaceBitmap {
    type S = SpaceBitmapSlice<'a>;
}

impl Bitmap for SpaceBitmap {
    fn mark_dirty(&self, _offset: usize, _len: usize) {}

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, _offset: usize) -> SpaceBitmapSlice<'_> {
        SpaceBitmapSlice(Cell::new(None))
    }
}

impl NewBitmap for SpaceBitmap {
    fn with_len(_len: usize) -> Self {
        Self
    }
}

/// The bitmap of a slice: makes the pages dirty, in the space, that are written through the slice.
///
/// That of a slice which was not taken from a [`SpaceMemory`](crate::SpaceMemory) but from its host memory notes
/// nothing.
#[derive(Clone)]
pub struct SpaceBitmapSlice<'a>(Cell<Option<Place<'a>>>);

/// Where a slice begins.
#[derive(Clone, Copy)]
struct Place<'a> {
    log: &'a dyn DirtyLog,
    /// The address in the space.
    gpa: u64,
    /// The address of the host memory.
    host: u64,
}

impl Place<'_> {
    #[inline]
    fn at(self, offset: usize) -> Self {
        let offset = offset as u64;
        Self { gpa: self.gpa.wrapping_add(offset), host: self.host.wrapping_add(offset), ..self }
    }
}

impl<'a> SpaceBitmapSlice<'a> {
    /// Says that the slice is what `log` has from `gpa` on, and lies at `host`.
    #[inline]
    pub(super) fn place(&self, log: &'a dyn DirtyLog, gpa: u64, host: u64) {
        self.0.set(Some(Place { log, gpa, host }));
    }
}

impl<'b> WithBitmapSlice<'b> for SpaceBitmapSlice<'_> {
    type S = Self;
}

impl BitmapSlice for SpaceBitmapSlice<'_> {}

impl Bitmap for SpaceBitmapSlice<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let Some(place) = self.0.get().filter(|_| len > 0) else { return };
        let first = place.at(offset);
        let last = first.at(len - 1);
        let pages = last.gpa / PAGE_BYTES - first.gpa / PAGE_BYTES + 1;
        place.log.note(first.gpa / PAGE_BYTES, HostPfn::containing(first.host), pages);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.0.get().map(|place| place.at(offset)).is_some_and(|place| {
            place.log.is_dirty(Gpa::new(place.gpa), HostPfn::containing(place.host))
        })
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self(Cell::new(self.0.get().map(|place| place.at(offset))))
    }
}

impl fmt::Debug for SpaceBitmapSlice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gpa = self.0.get().map(|place| Gpa::new(place.gpa));
        f.debug_struct("SpaceBitmapSlice").field("gpa", &gpa).finish_non_exhaustive()
    }
}
