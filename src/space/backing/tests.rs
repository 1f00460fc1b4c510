//! What each backing answers, and what becomes of the frames it gives.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use std::vec::Vec;

use super::*;
use crate::sync::Mutex;

mod contiguous;
mod copy;
mod demand;
mod extent;
mod supplied;

const SMALL: PageSize = PageSize::Size4K;

fn frame(number: u64) -> HostPfn {
    HostPfn::new(number)
}

fn read(page: u64) -> Want {
    Want::new(page, SMALL, Prot::R)
}

fn write(page: u64) -> Want {
    Want::new(page, SMALL, Prot::RW)
}

/// Returns what was given, and may be done there.
#[track_caller]
fn given(answer: Answer) -> (HostPfn, Prot) {
    match answer {
        Answer::Frame(frame, rights) => (frame, rights),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn waits(answer: &Answer) {
    assert!(matches!(answer, Answer::Wait), "{answer:?}");
}

#[track_caller]
fn smaller(answer: &Answer) {
    assert!(matches!(answer, Answer::Smaller), "{answer:?}");
}

/// Returns the error in a failed answer, which has to be of that type.
#[track_caller]
fn failed<E: Error + Clone + 'static>(answer: Answer) -> E {
    match answer {
        Answer::Failed(error) => cause(&error),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn cause<E: Error + Clone + 'static>(error: &BackingError) -> E {
    error.get().downcast_ref::<E>().unwrap_or_else(|| panic!("{error:?}")).clone()
}

/// Says that the page was mapped and is no more.
fn unmapped(page: u64, frame: HostPfn) -> Released {
    let ended = Ended::Unmapped { accessed: true, dirty: true };
    Released { page, frame, size: SMALL, ended }
}

fn unused(page: u64, frame: HostPfn) -> Released {
    Released::unused(page, frame, SMALL)
}

/// Frames with contents, each of which is in one hand.
#[derive(Debug)]
struct Pool(Mutex<Hands>);

#[derive(Debug)]
struct Hands {
    free: BTreeSet<u64>,
    /// What frames of this pool and of others contain, if it is not zero.
    contents: BTreeMap<u64, u64>,
    /// Whether the next copy panics.
    panics: bool,
}

impl Pool {
    /// Makes a pool of `count` frames from `first` on.
    fn new(first: u64, count: u64) -> Arc<Self> {
        let free = (first..first + count).collect();
        Arc::new(Self(Mutex::new(Hands { free, contents: BTreeMap::new(), panics: false })))
    }

    fn free(&self) -> usize {
        self.0.lock().free.len()
    }

    fn fill(&self, frame: HostPfn, content: u64) {
        self.0.lock().contents.insert(frame.get(), content);
    }

    fn content(&self, frame: HostPfn) -> u64 {
        self.0.lock().contents.get(&frame.get()).copied().unwrap_or(0)
    }

    fn panic_once(&self) {
        self.0.lock().panics = true;
    }
}

impl FramePool for Pool {
    fn take(&self, size: PageSize) -> Option<HostPfn> {
        let mut frames = self.0.lock();
        let run = |&first: &u64| {
            let all = (first..first + size.pages()).all(|frame| frames.free.contains(&frame));
            first % size.pages() == 0 && all
        };
        let first = frames.free.iter().copied().find(run)?;
        for frame in first..first + size.pages() {
            frames.free.remove(&frame);
            frames.contents.remove(&frame);
        }
        Some(frame(first))
    }

    fn give_back(&self, first: HostPfn, size: PageSize) {
        let mut frames = self.0.lock();
        for frame in first.get()..first.get() + size.pages() {
            assert!(frames.free.insert(frame), "{frame:#x} came back twice");
        }
    }
}

impl CopyPool for Pool {
    fn copy(&self, from: HostPfn, to: HostPfn) {
        let mut frames = self.0.lock();
        assert!(!frames.free.contains(&to.get()), "{to} is not taken");
        assert!(!core::mem::take(&mut frames.panics), "as told");
        let content = frames.contents.get(&from.get()).copied().unwrap_or(0);
        frames.contents.insert(to.get(), content);
    }
}

#[test]
fn what_an_unmap_found_is_in_what_comes_back() {
    let attr = Attr::new(Prot::RW);
    let (gpa, pfn, size) = (Gpa::new(0x20_0000), frame(0x400), PageSize::Size2M);
    let mapping = Mapping { gpa, pfn, size, attr, accessed: true, dirty: false };
    let released = Released::unmapped(7, &mapping);
    let ended = Ended::Unmapped { accessed: true, dirty: false };
    assert_eq!(released, Released { page: 7, frame: pfn, size, ended });
    assert_eq!(Released::unused(7, pfn, size).ended, Ended::Unused);
}

#[test]
fn an_error_says_what_it_was_made_of() {
    let end = BeyondEnd::check(8, 8).unwrap_err();
    let error = BackingError::new(end);
    assert_eq!(cause::<BeyondEnd>(&error), end);
    assert_eq!(std::format!("{error}"), "page 8 is beyond the end of a backing of 8 pages");
    assert!(error.source().is_none());
    assert_eq!(std::format!("{}", BackingError::new("no")), "no");
}

#[test]
fn every_backing_can_be_shared() {
    fn check<T: Send + Sync + fmt::Debug>() {}
    check::<Contiguous>();
    check::<OnDemand>();
    check::<CopyOnWrite>();
    check::<Supplied>();
    check::<Supplier>();
    check::<Arc<dyn Backing>>();
    let all: Vec<Arc<dyn Backing>> = std::vec![
        Arc::new(Contiguous::new(frame(1), 1).unwrap()),
        Arc::new(Supplied::new(frame(1), 1).unwrap().0),
        Arc::new(OnDemand::new(Pool::new(0, 1), 1, SMALL)),
        Arc::new(CopyOnWrite::new(
            Arc::new(Contiguous::rom(frame(1), 1).unwrap()),
            Pool::new(0, 1)
        )),
    ];
    // Whatever is wanted, there is an answer.
    for backing in all {
        for page in [0, 1, u64::MAX - 1, u64::MAX] {
            for size in PageSize::ALL {
                let want = Want::new(page, size, Prot::all());
                let answer = backing.frame(&want);
                let is_failed = matches!(answer, Answer::Failed(_));
                assert_eq!(is_failed, page > 0, "{backing:?} {want:?} {answer:?}");
                let largest = backing.largest(page, Gpa::new(u64::MAX));
                assert_eq!(largest, SMALL, "{backing:?} {page}");
            }
        }
    }
}
