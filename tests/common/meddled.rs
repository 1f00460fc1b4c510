//! A frame source that is asked for a table at just the moment at which something else shall happen.

use std::{boxed::Box, cell::RefCell, sync::Arc, vec::Vec};

use slat::{
    Content, Format, FrameRun, FrameSource, HeapFrames, Hint, HostPfn, OutOfFrames, PageTable,
    Table,
};

use super::{BASE, Checked};

pub(crate) type Meddler = Box<dyn FnMut(HostPfn)>;

thread_local! {
    /// What happens before a frame is turned into a table.
    pub(crate) static MEDDLER: RefCell<Option<Meddler>> = const { RefCell::new(None) };
    /// What came back.
    pub(crate) static FREED: RefCell<Vec<(FrameRun, Content)>> = const { RefCell::new(Vec::new()) };
}

/// A source in which a test meddles.
#[derive(Debug)]
pub(crate) struct Meddled(HeapFrames);

// SAFETY: every promise is kept by the source inside.
unsafe impl FrameSource for Meddled {
    fn allocate(
        &self,
        count: u64,
        hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        self.0.allocate(count, hint, runs)
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        FREED.with_borrow_mut(|freed| freed.push((run, content)));
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.free(run, content) }
    }

    unsafe fn table(&self, pfn: HostPfn) -> &Table {
        // Nobody meddles with the meddler.
        if let Some(mut meddler) = MEDDLER.take() {
            meddler(pfn);
            MEDDLER.set(Some(meddler));
        }
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.table(pfn) }
    }

    fn free_frames(&self) -> u64 {
        self.0.free_frames()
    }
}

pub(crate) type Handle<F> = PageTable<F, Arc<Meddled>>;

impl Meddled {
    /// Makes a table in such a source of `frames` frames.
    pub(crate) fn checked<F: Format>(format: F, frames: u64) -> Checked<F, Self> {
        Checked::with(format, Self(HeapFrames::with_base(BASE, frames).unwrap()))
    }
}

/// Does `work`; whenever that comes to the table in the frame `at`, before it looks into it, `meddle` is
/// done, with how often it was before. Returns what `work` came to, and how often that happened.
pub(crate) fn amid<F: Format, T>(
    table: &Checked<F, Meddled>,
    at: HostPfn,
    mut meddle: impl FnMut(&Handle<F>, u64) + 'static,
    work: impl FnOnce() -> T,
) -> (T, u64) {
    thread_local! {
        static TIMES: RefCell<u64> = const { RefCell::new(0) };
    }
    let handle = PageTable::clone(table);
    TIMES.set(0);
    MEDDLER.set(Some(Box::new(move |pfn| {
        if pfn == at {
            let before = TIMES.replace(u64::MAX);
            meddle(&handle, before);
            TIMES.set(before + 1);
        }
    })));
    let done = work();
    drop(MEDDLER.take());
    (done, TIMES.take())
}
