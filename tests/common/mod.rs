//! What the tests share: every format at both level counts, a table that counts its frames at the
//! end, and a look at the whole tree from outside.

mod dump;
mod formats;
mod frames;
mod freed;
mod meddled;
mod over;
mod space;

use std::{cell::Cell, fmt::Debug, ops::Deref, sync::Arc, thread, vec::Vec};

use slat::{
    Attr, Content, Format, FrameRun, FrameSource, Gpa, GpaRange, Hint, HostPfn, Level, OutOfFrames,
    PageSize, PageTable, Pinned, Prot, Table, VacateError,
};

pub(crate) use self::{
    dump::{Census, census, dump, populated, shape, table_frame},
    formats::{any, ept, ept_without_bits, every_format, long_mode, npt},
    frames::Frames,
    freed::Freed,
    meddled::{FREED, Handle, MEDDLER, Meddled, amid},
    over::{Over, frame_source_over},
    space::Space,
};

pub(crate) const PAGE: u64 = 4096;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const TIB: u64 = 1 << 40;

/// The first frame number of every source here; aligned to a leaf of 1 GiB.
pub(crate) const BASE: HostPfn = HostPfn::new(0x4_0000);

pub(crate) const RWX: Attr = Attr::new(Prot::RWX);
pub(crate) const SMALL: PageSize = PageSize::Size4K;

pub(crate) fn at(address: u64) -> Gpa {
    Gpa::new(address)
}

pub(crate) fn pfn(number: u64) -> HostPfn {
    HostPfn::new(number)
}

#[track_caller]
pub(crate) fn range(start: u64, bytes: u64) -> GpaRange {
    GpaRange::new(at(start), bytes).unwrap()
}

/// Returns the value of an environment variable that scales a test, or `default`.
pub(crate) fn scaled(variable: &str, default: u64) -> u64 {
    number(variable).unwrap_or(default)
}

/// Returns the number that a variable of the environment holds, if it is set.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

thread_local! {
    static TABLES: Cell<u64> = const { Cell::new(0) };
}

/// Returns how many times `work` turned a frame number into a table: what a walk costs.
pub(crate) fn tables_visited(work: impl FnOnce()) -> u64 {
    let before = TABLES.get();
    work();
    TABLES.get() - before
}

/// A source that counts, for [`tables_visited`].
#[derive(Debug)]
pub(crate) struct Counting<S>(pub(crate) S);

impl<S: FrameSource + Debug> Over for Counting<S> {
    type Source = S;

    fn source(&self) -> &S {
        &self.0
    }

    fn before_table(&self, _pfn: HostPfn) {
        TABLES.set(TABLES.get() + 1);
    }
}

frame_source_over!(Counting<S>);

/// A table that checks, when it is dropped, that every frame came back to its source.
///
/// Readers and handles that a test keeps must be dropped before it.
#[derive(Debug)]
pub(crate) struct Checked<F: Format, S: FrameSource = Frames> {
    table: Option<PageTable<F, Arc<S>>>,
    frames: Arc<S>,
    /// Free frames when the source was handed over.
    total: u64,
}

impl<F: Format> Checked<F> {
    /// Makes a table in a source of so many [`Frames`].
    #[track_caller]
    pub(crate) fn new(format: F, frames: u64) -> Self {
        Self::with(format, Frames::with_base(BASE, frames))
    }
}

impl<F: Format, S: FrameSource> Checked<F, S> {
    #[track_caller]
    pub(crate) fn with(format: F, frames: S) -> Self {
        let frames = Arc::new(frames);
        let total = frames.free_frames();
        let table = Some(PageTable::new(format, Arc::clone(&frames)).unwrap());
        Self { table, frames, total }
    }

    pub(crate) fn source(&self) -> &S {
        &self.frames
    }

    #[track_caller]
    pub(crate) fn map(&self, gpa: u64, frame: u64) {
        let mapped = self.pin().map(at(gpa), pfn(frame), SMALL, RWX);
        assert_eq!(mapped, Ok(slat::Mapped::New), "at {gpa:#x}");
    }

    #[track_caller]
    pub(crate) fn populate_pages(&self, start: u64, bytes: u64) {
        self.populate(range(start, bytes), SMALL).unwrap();
    }

    #[track_caller]
    pub(crate) fn vacate_pages(&self, start: u64, bytes: u64) {
        let vacated = self.vacate(range(start, bytes));
        assert_eq!(vacated, Ok(()), "{bytes:#x} bytes at {start:#x}");
    }

    /// Checks that `range` is not vacated, for this reason, and that no entry of the tree changes.
    #[track_caller]
    pub(crate) fn refuses_to_vacate(&self, range: GpaRange, why: VacateError) {
        let before = dump(self);
        assert_eq!(self.vacate(range), Err(why), "{range}");
        assert!(dump(self) == before, "{range} was not vacated, but the tree changed");
    }

    /// Returns how many entries there are on the way to `gpa`.
    pub(crate) fn walk_length(&self, gpa: u64) -> usize {
        self.pin().walk(at(gpa), Level::L1).len()
    }
}

impl<F: Format, S: FrameSource> Deref for Checked<F, S> {
    type Target = PageTable<F, Arc<S>>;

    fn deref(&self) -> &Self::Target {
        self.table.as_ref().expect("taken only by drop")
    }
}

impl<F: Format, S: FrameSource> Drop for Checked<F, S> {
    fn drop(&mut self) {
        drop(self.table.take());
        if !thread::panicking() {
            assert_eq!(self.frames.free_frames(), self.total, "frames in = frames out");
        }
    }
}

/// Takes frames out of a source until `left` are free; gives them back when dropped.
#[derive(Debug)]
pub(crate) struct Hostage<'s, S: FrameSource> {
    source: &'s S,
    runs: Vec<FrameRun>,
}

impl<'s, S: FrameSource> Hostage<'s, S> {
    #[track_caller]
    pub(crate) fn leaving(source: &'s S, left: u64) -> Self {
        let mut runs = Vec::new();
        let count = source.free_frames() - left;
        if count > 0 {
            source.allocate(count, Hint::new(at(0)), &mut runs).unwrap();
        }
        Self { source, runs }
    }
}

impl<S: FrameSource> Drop for Hostage<'_, S> {
    fn drop(&mut self) {
        for run in self.runs.drain(..) {
            // SAFETY: allocated in `leaving`, never used, and so still zero.
            unsafe { self.source.free(run, Content::Zero) };
        }
    }
}

/// What a test sees of a page: its frame, or nothing.
pub(crate) fn frame_at<F: Format, S: FrameSource>(pin: &Pinned<'_, F, S>, gpa: u64) -> Option<u64> {
    pin.lookup(at(gpa)).map(|mapping| mapping.frame_of(at(gpa)).unwrap().get())
}
