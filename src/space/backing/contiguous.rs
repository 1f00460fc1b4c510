//! Consecutive frames: memory that is all there, ROM, and device memory.

use super::{
    Answer, Backing, BackingError, BeyondEnd, FramesError, Want,
    extent::{self, Frames},
};
use crate::{
    addr::{Gpa, HostPfn},
    attr::{Attr, MemType, Prot},
    level::PageSize,
};

/// Consecutive frames, all there from the beginning: reserved memory, a ROM, the memory of a device.
///
/// Its leaves are as large as frame numbers and addresses allow: where both are congruent modulo a size, and
/// the leaf lies within the backing. It takes no lock, and a frame that comes back stays what it is.
///
/// ```
/// use slat::{Attr, Backing, Contiguous, Gpa, HostPfn, MemType, PageSize, Prot};
///
/// let memory = Contiguous::new(HostPfn::new(0x8_0000), 512)?;
/// assert_eq!(memory.largest(0, Gpa::new(0x4000_0000)), PageSize::Size2M);
/// assert_eq!(memory.largest(0, Gpa::new(0x4000_1000)), PageSize::Size4K);
/// let device = Contiguous::device(HostPfn::new(0xf_e000), 16)?;
/// assert_eq!(device.attr(Attr::new(Prot::RWX)), Attr::new(Prot::RW).with_mem_type(MemType::UC));
/// # Ok::<(), slat::FramesError>(())
/// ```
#[derive(Debug)]
pub struct Contiguous {
    frames: Frames,
    kind: Kind,
}

/// What the frames are.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Memory,
    Rom,
    Device,
}

impl Kind {
    /// Returns what may be done there, whatever the region allows.
    const fn rights(self) -> Prot {
        match self {
            Self::Memory => Prot::all(),
            Self::Rom => Prot::all().difference(Prot::W),
            Self::Device => Prot::RW,
        }
    }
}

impl Contiguous {
    /// Makes memory of the `pages` frames from `first` on.
    ///
    /// # Errors
    /// [`FramesError`] if there are none, or the last one has no number.
    pub const fn new(first: HostPfn, pages: u64) -> Result<Self, FramesError> {
        Self::of_kind(first, pages, Kind::Memory)
    }

    /// Makes memory that cannot be written.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub const fn rom(first: HostPfn, pages: u64) -> Result<Self, FramesError> {
        Self::of_kind(first, pages, Kind::Rom)
    }

    /// Makes device memory: uncacheable ([`MemType::UC`]), and nothing is executed there.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub const fn device(first: HostPfn, pages: u64) -> Result<Self, FramesError> {
        Self::of_kind(first, pages, Kind::Device)
    }

    const fn of_kind(first: HostPfn, pages: u64, kind: Kind) -> Result<Self, FramesError> {
        match Frames::new(first, pages) {
            Ok(frames) => Ok(Self { frames, kind }),
            Err(error) => Err(error),
        }
    }
}

impl Backing for Contiguous {
    fn pages(&self) -> u64 {
        self.frames.pages()
    }

    fn largest(&self, page: u64, gpa: Gpa) -> PageSize {
        let Some(frame) = self.frames.at(page) else {
            return PageSize::Size4K;
        };
        let fits = |size: &PageSize| {
            let congruent = frame.get() % size.pages() == gpa.page() % size.pages();
            congruent && extent::has_leaf(self.frames.pages(), page, gpa, *size)
        };
        PageSize::ALL.into_iter().rfind(fits).unwrap_or(PageSize::Size4K)
    }

    fn attr(&self, asked: Attr) -> Attr {
        let attr = asked.with_prot(asked.prot() & self.kind.rights());
        match self.kind {
            Kind::Memory | Kind::Rom => attr,
            Kind::Device => attr.with_mem_type(MemType::UC),
        }
    }

    fn frame(&self, want: &Want) -> Answer {
        let pages = self.frames.pages();
        let Some(frame) = self.frames.at(want.page) else {
            return Answer::Failed(BackingError::new(BeyondEnd { page: want.page, pages }));
        };
        if let Err(answer) = extent::check(want, pages) {
            return answer;
        }
        if !want.size.begins_at(frame.get()) {
            return Answer::Smaller;
        }
        Answer::Frame(frame, self.kind.rights())
    }
}
