//! A backing that does what a test says.

use std::{
    fmt,
    sync::{Arc, Barrier},
};

use slat::{Answer, Attr, Backing, BackingError, Gpa, PageSize, Want};

use super::Audited;

type Frame = dyn Fn(&Want) -> Answer + Send + Sync;
type Fetch = dyn Fn(&Want) -> Result<(), BackingError> + Send + Sync;

/// What each call comes to.
pub(crate) struct Scripted {
    over: Arc<dyn Backing>,
    frame: Box<Frame>,
    fetch: Box<Fetch>,
}

impl Scripted {
    /// Does what `over` does, but for its fast answer.
    pub(crate) fn answering(
        over: impl Backing + 'static,
        frame: impl Fn(&Want, &dyn Backing) -> Answer + Send + Sync + 'static,
    ) -> Arc<Audited> {
        Self::fetching(over, frame, |want, over| over.fetch(want))
    }

    /// Does what `over` does, but for these two.
    pub(crate) fn fetching(
        over: impl Backing + 'static,
        frame: impl Fn(&Want, &dyn Backing) -> Answer + Send + Sync + 'static,
        fetch: impl Fn(&Want, &dyn Backing) -> Result<(), BackingError> + Send + Sync + 'static,
    ) -> Arc<Audited> {
        let over: Arc<dyn Backing> = Arc::new(over);
        let (first, second) = (Arc::clone(&over), Arc::clone(&over));
        let frame = Box::new(move |want: &Want| frame(want, &*first));
        let fetch = Box::new(move |want: &Want| fetch(want, &*second));
        Audited::over(Self { over, frame, fetch })
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scripted").field(&self.over).finish()
    }
}

impl Backing for Scripted {
    fn pages(&self) -> u64 {
        self.over.pages()
    }

    fn largest(&self, page: u64, gpa: Gpa) -> PageSize {
        self.over.largest(page, gpa)
    }

    fn attr(&self, asked: Attr) -> Attr {
        self.over.attr(asked)
    }

    fn frame(&self, want: &Want) -> Answer {
        (self.frame)(want)
    }

    fn fetch(&self, want: &Want) -> Result<(), BackingError> {
        (self.fetch)(want)
    }

    fn release(&self, released: slat::Released) {
        self.over.release(released);
    }
}

/// A place where a thread waits until a test lets it go on.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    come: Arc<Barrier>,
    go: Arc<Barrier>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { come: Arc::new(Barrier::new(2)), go: Arc::new(Barrier::new(2)) }
    }

    /// Waits for the test.
    pub(crate) fn pass(&self) {
        self.come.wait();
        self.go.wait();
    }

    /// Waits until a thread has come.
    pub(crate) fn await_one(&self) {
        self.come.wait();
    }

    /// Lets it go on.
    pub(crate) fn open(&self) {
        self.go.wait();
    }
}
