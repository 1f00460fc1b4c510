//! A backing that keeps books of another's answers: each comes back once, none that was not given, and none that
//! somebody holds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use slat::{Answer, Attr, Backing, BackingError, Ended, Gpa, HostPfn, PageSize, Released, Want};

/// A page of a backing, and a frame that was given for it.
type Given = (u64, HostPfn);

#[derive(Debug, Default)]
struct Books {
    /// The answers that did not come back.
    out: BTreeMap<Given, u64>,
    /// Frames that must not come back, and how often they are held.
    held: BTreeMap<HostPfn, u64>,
    wrong: Vec<String>,
    counts: Counts,
}

/// What was given, in pages, and what came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) given: u64,
    pub(crate) unused: u64,
    pub(crate) unmapped: u64,
    /// Of those, the ones that came back dirty.
    pub(crate) dirty: u64,
}

#[derive(Debug)]
pub(crate) struct Audited {
    inner: Arc<dyn Backing>,
    books: Mutex<Books>,
}

impl Audited {
    pub(crate) fn over(inner: impl Backing + 'static) -> Arc<Self> {
        Arc::new(Self { inner: Arc::new(inner), books: Mutex::default() })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.books().counts
    }

    /// Says that the frame is held: it must not come back until it is let go.
    pub(crate) fn hold(&self, frame: HostPfn) {
        *self.books().held.entry(frame).or_default() += 1;
    }

    /// Says that the frame is not held any more, or will not be at once.
    pub(crate) fn let_go(&self, frame: HostPfn) {
        let mut books = self.books();
        let count = books.held.get_mut(&frame).unwrap();
        *count -= 1;
        if *count == 0 {
            books.held.remove(&frame);
        }
    }

    /// Checks that one answer is out for each of these pages, and none for any other.
    #[track_caller]
    pub(crate) fn is_out(&self, leaves: impl Iterator<Item = (u64, HostPfn, PageSize)>) {
        let mut mapped: Vec<Given> = leaves
            .flat_map(|(page, frame, size)| {
                (0..size.pages()).map(move |index| (page + index, after(frame, index)))
            })
            .collect();
        mapped.sort_unstable();
        let books = self.books();
        let out: Vec<Given> =
            books.out.iter().flat_map(|(&given, &count)| (0..count).map(move |_| given)).collect();
        drop(books);
        assert_eq!(out, mapped, "the answers that are out are not those that are mapped");
        self.check_behaviour();
    }

    /// Checks that nothing came back that should not.
    #[track_caller]
    pub(crate) fn check_behaviour(&self) {
        let wrong = self.books().wrong.clone();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Checks that everything came back.
    #[track_caller]
    pub(crate) fn check(&self) {
        self.is_out(std::iter::empty());
    }
}

fn after(frame: HostPfn, index: u64) -> HostPfn {
    frame.checked_add(index).unwrap()
}

impl Backing for Audited {
    fn pages(&self) -> u64 {
        self.inner.pages()
    }

    fn largest(&self, page: u64, gpa: Gpa) -> PageSize {
        self.inner.largest(page, gpa)
    }

    fn attr(&self, asked: Attr) -> Attr {
        self.inner.attr(asked)
    }

    fn frame(&self, want: &Want) -> Answer {
        let answer = self.inner.frame(want);
        if let Answer::Frame(first, _) = answer
            && want.present != Some(first)
        {
            let mut books = self.books();
            books.counts.given += want.size.pages();
            for index in 0..want.size.pages() {
                *books.out.entry((want.page + index, after(first, index))).or_default() += 1;
            }
        }
        answer
    }

    fn fetch(&self, want: &Want) -> Result<(), BackingError> {
        self.inner.fetch(want)
    }

    fn release(&self, released: Released) {
        let mut books = self.books();
        for index in 0..released.size.pages() {
            let given = (released.page + index, after(released.frame, index));
            books.come_back(given, released.ended);
        }
        drop(books);
        // The last step: from now on somebody else may get it.
        self.inner.release(released);
    }
}

impl Books {
    fn come_back(&mut self, given: Given, ended: Ended) {
        match ended {
            Ended::Unused => self.counts.unused += 1,
            Ended::Unmapped { dirty, .. } => {
                self.counts.unmapped += 1;
                self.counts.dirty += u64::from(dirty);
            }
        }
        let Some(count) = self.out.get_mut(&given) else {
            // A panic here would be one in a `drop`: it is told of later.
            self.wrong.push(format!("{given:?} comes back, and is not out"));
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.out.remove(&given);
        if self.held.contains_key(&given.1) {
            self.wrong.push(format!("{given:?} comes back, and is held"));
        }
    }
}
