//! The host's memory: frames with one word of contents each, some in a pool, and others that are always there.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use slat::{CopyPool, FramePool, HostPfn, PageSize};

/// The first frame: none of those that tables are made of, and aligned to a leaf of 1 GiB.
pub(crate) const FIRST: u64 = 0x100_0000;

#[derive(Debug)]
struct Frame {
    word: AtomicU64,
    /// It is in the pool: nobody has it.
    free: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Memory {
    frames: Vec<Frame>,
    /// Those of the pool, by index, that are free.
    free: Mutex<BTreeSet<u64>>,
    pool: u64,
}

impl Memory {
    /// Makes a pool of `pool` frames, and behind it `fixed` frames that are always there.
    pub(crate) fn new(pool: u64, fixed: u64) -> Self {
        let frame = |index| Frame { word: AtomicU64::new(0), free: AtomicBool::new(index < pool) };
        let frames = (0..pool + fixed).map(frame).collect();
        Self { frames, free: Mutex::new((0..pool).collect()), pool }
    }

    /// Returns the first of the frames that are always there.
    pub(crate) fn fixed(&self, pages: u64) -> HostPfn {
        assert!(self.pool + pages <= self.frames.len() as u64);
        HostPfn::new(FIRST + self.pool)
    }

    /// How many frames of the pool are free.
    pub(crate) fn free(&self) -> u64 {
        self.free.lock().unwrap().len() as u64
    }

    fn at(&self, pfn: HostPfn) -> &Frame {
        let index = pfn.get().checked_sub(FIRST).map(|index| index as usize);
        let frame = index.and_then(|index| self.frames.get(index));
        let frame = frame.unwrap_or_else(|| panic!("{pfn} is no frame of data"));
        assert!(!frame.free.load(Ordering::SeqCst), "{pfn} is reached, and nobody has it");
        frame
    }

    pub(crate) fn read(&self, pfn: HostPfn) -> u64 {
        self.at(pfn).word.load(Ordering::SeqCst)
    }

    pub(crate) fn write(&self, pfn: HostPfn, word: u64) {
        self.at(pfn).word.store(word, Ordering::SeqCst);
    }

    /// Adds to a word, as a locked instruction does.
    pub(crate) fn add(&self, pfn: HostPfn, more: u64) -> u64 {
        self.at(pfn).word.fetch_add(more, Ordering::SeqCst) + more
    }

    /// Takes all frames of the pool but so many, for as long as the value lives.
    pub(crate) fn leave(&self, left: usize) -> Taken<'_> {
        let mut free = self.free.lock().unwrap();
        let mut keep = std::mem::take(&mut *free).into_iter();
        free.extend(keep.by_ref().take(left));
        Taken { memory: self, frames: keep.collect() }
    }

    /// Checks that all frames of the pool came back.
    pub(crate) fn close(&self) {
        assert_eq!(self.free(), self.pool, "frames of data in = frames out");
    }
}

impl FramePool for Memory {
    fn take(&self, size: PageSize) -> Option<HostPfn> {
        let mut free = self.free.lock().unwrap();
        let run = |&first: &u64| {
            let aligned = first.is_multiple_of(size.pages());
            aligned && (first..first + size.pages()).all(|index| free.contains(&index))
        };
        let first = match size {
            PageSize::Size4K => free.first().copied(),
            _ => free.iter().copied().find(run),
        }?;
        for index in first..first + size.pages() {
            free.remove(&index);
            let frame = &self.frames[index as usize];
            frame.word.store(0, Ordering::SeqCst);
            assert!(frame.free.swap(false, Ordering::SeqCst));
        }
        Some(HostPfn::new(FIRST + first))
    }

    fn give_back(&self, first: HostPfn, size: PageSize) {
        let mut free = self.free.lock().unwrap();
        let first = first.get() - FIRST;
        for index in first..first + size.pages() {
            assert!(index < self.pool, "frame {index} is none of the pool's");
            let was_free = self.frames[index as usize].free.swap(true, Ordering::SeqCst);
            assert!(!was_free && free.insert(index), "frame {index} came back twice");
        }
    }
}

impl CopyPool for Memory {
    fn copy(&self, from: HostPfn, to: HostPfn) {
        self.write(to, self.read(from));
    }
}

/// Frames that a test keeps from everybody else.
#[derive(Debug)]
pub(crate) struct Taken<'m> {
    memory: &'m Memory,
    frames: BTreeSet<u64>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.memory.free.lock().unwrap().append(&mut self.frames);
    }
}
