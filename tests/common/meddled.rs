//! A frame source that is asked for a table at just the moment at which something else shall happen.

use std::{boxed::Box, cell::RefCell, sync::Arc, vec::Vec};

use slat::{Content, Format, FrameRun, HostPfn, PageTable};

use super::{BASE, Checked, Frames, Over, frame_source_over};

pub(crate) type Meddler = Box<dyn FnMut(HostPfn)>;

thread_local! {
    /// What happens before a frame is turned into a table.
    pub(crate) static MEDDLER: RefCell<Option<Meddler>> = const { RefCell::new(None) };
    /// What came back.
    pub(crate) static FREED: RefCell<Vec<(FrameRun, Content)>> = const { RefCell::new(Vec::new()) };
}

/// A source in which a test meddles.
#[derive(Debug)]
pub(crate) struct Meddled(Frames);

impl Over for Meddled {
    type Source = Frames;

    fn source(&self) -> &Frames {
        &self.0
    }

    fn before_free(&self, run: FrameRun, content: Content) {
        FREED.with_borrow_mut(|freed| freed.push((run, content)));
    }

    fn before_table(&self, pfn: HostPfn) {
        // Nobody meddles with the meddler.
        if let Some(mut meddler) = MEDDLER.take() {
            meddler(pfn);
            MEDDLER.set(Some(meddler));
        }
    }
}

frame_source_over!(Meddled);

pub(crate) type Handle<F> = PageTable<F, Arc<Meddled>>;

impl Meddled {
    /// Makes a table in such a source of `frames` frames.
    pub(crate) fn checked<F: Format>(format: F, frames: u64) -> Checked<F, Self> {
        Checked::with(format, Self(Frames::with_base(BASE, frames)))
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
