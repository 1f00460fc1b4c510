//! Watching writes, and the fault of a write that is watched.

use super::Pinned;
use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::FrameSource,
    format::Format,
    observe::Flush,
    ops::{FixError, Fixed, NoteError, Noted, WatchError},
};

impl<'r, F: Format, S: FrameSource> Pinned<'r, F, S> {
    /// Watches the writes to every page of `range` that allows them: from now on the first write to a page
    /// that is not dirty faults, and [`fix_write`](Self::fix_write) makes it dirty. Returns how many 4 KiB
    /// pages were not watched before, and a [`Flush`] that covers those that lost the right.
    ///
    /// For MMUs that keep no dirty bits ([`EptCaps::ACCESSED_DIRTY`](crate::EptCaps::ACCESSED_DIRTY)), and
    /// for whoever wants to be told of first writes: it works in every format. Attributes, and what
    /// [`map`](Self::map) and [`translate`](Self::translate) say, are as if nobody watched. A harvest of
    /// dirty pages takes the right to write away again, and its `Flush` covers that.
    ///
    /// In long mode it rests on `CR0.WP`: with that clear, a supervisor writes what is read-only.
    ///
    /// ```
    /// # use slat::{Attr, Ept, EptCaps, Fixed, Gpa, GpaRange, HeapFrames, HostPfn, Levels, PageSize};
    /// # use slat::{ObserverId, PageTable, PhysWidth, Prot};
    /// // A processor without accessed and dirty bits.
    /// let ept = Ept::new(Levels::Four, PhysWidth::new(46)?, EptCaps::EXECUTE_ONLY);
    /// let table = PageTable::new(ept, HeapFrames::new(8))?;
    /// let ram = GpaRange::new(Gpa::new(0), 0x10_0000)?;
    /// table.populate(ram, PageSize::Size4K)?;
    /// let reader = table.reader();
    /// reader.pin().map_range(ram, HostPfn::new(0x100), Attr::new(Prot::RW))?;
    ///
    /// let (pages, flush) = reader.pin().watch(ram)?;
    /// assert_eq!(pages, 256);
    /// // When this is over, every write is noted; copy all pages.
    /// # let kick = |_: ObserverId| ();
    /// flush.shootdown().wait(&kick)?;
    ///
    /// // The guest writes, and faults.
    /// let fault = Gpa::new(0x3008);
    /// assert_eq!(reader.pin().fix_write(fault), Ok(Fixed::Dirtied));
    /// assert!(reader.pin().slot(fault)?.dirty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`WatchError`]: a large leaf lies partly outside the range, or the range has pages that the format
    /// does not translate. Nothing has changed then.
    ///
    /// # Concurrency
    /// Takes effect leaf by leaf; a dirty bit that the MMU sets meanwhile is kept, and the page stays
    /// writable. What is written before a shoot-down of the `Flush` is complete may go unnoticed. Pages
    /// that are mapped, or [given](Self::protect) the right to write, meanwhile or later are not watched:
    /// who does that looks afterwards whether writes are to be watched, and watches the page. Lock-free.
    pub fn watch(&self, range: GpaRange) -> Result<(u64, Flush<'r>), WatchError> {
        let mut changed = self.collect();
        let pages = self.change().watch(range, &mut changed.covered)?;
        Ok((pages, changed.done()))
    }

    /// Stops watching the writes to `range`; returns how many 4 KiB pages were watched.
    ///
    /// All of them may be written then, and dirty bits stay as they are: where the MMU keeps none, no
    /// further write is noted. There is nothing to invalidate, since a cache that still denies a write
    /// merely faults once more.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    ///
    /// # Concurrency
    /// Takes effect leaf by leaf. Lock-free.
    pub fn unwatch(&self, range: GpaRange) -> Result<u64, WatchError> {
        self.change().unwatch(range)
    }

    /// Handles the fault of a write to `gpa`: if the page is [watched](Self::watch), makes its leaf
    /// writable, dirty and accessed, whole if it is large. Then the guest may try again.
    ///
    /// # Errors
    /// [`FixError`] if the fault is another's to handle: nothing is mapped there, or the mapping does not
    /// allow writes.
    ///
    /// # Concurrency
    /// Takes effect at one compare-exchange; of several that fix one page, one gets [`Fixed::Dirtied`].
    /// It sets nothing in an entry that is not present, and gives no right that was not mapped. There is
    /// nothing to invalidate. Lock-free.
    pub fn fix_write(&self, gpa: Gpa) -> Result<Fixed, FixError> {
        self.change().fix_write(gpa)
    }

    /// Notes that `gpa` was written, by an MMU that says so elsewhere (page-modification logging; Intel SDM
    /// vol. 3C, 29.3.6) or by a device: sets the dirty bit of the leaf that translates it, whole if it is
    /// large, whichever rights it has. If it is [watched](Self::watch), it is writable then.
    ///
    /// # Errors
    /// [`NoteError`] if nothing is mapped there, or the format does not translate the address.
    ///
    /// # Concurrency
    /// Takes effect at one compare-exchange, or at a load if the page is dirty already. It sets nothing in
    /// an entry that is not present. A page that was unmapped and mapped again since it was written is
    /// another: who notes late keeps the mapping meanwhile. Lock-free.
    pub fn note_dirty(&self, gpa: Gpa) -> Result<Noted, NoteError> {
        self.change().note_dirty(gpa)
    }

    /// Does the same if the page is mapped to `frame`; `None` if it is not.
    pub(crate) fn note_dirty_of(&self, gpa: Gpa, frame: HostPfn) -> Option<Noted> {
        self.change().note_dirty_of(gpa, frame)
    }
}
