//! One entry, changed in one way, and what came of one access.

use alloc::vec::Vec;

use slat::{
    Tracking,
    mmu::{AccessKind, Fault},
};

use super::place::{Place, Visit};
use crate::{
    virt::{Exit, Virt},
    world::Processor,
};

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tried<'p> {
    pub(super) place: &'p Place,
    /// Which of the entries is changed, the root's being the first, and to what.
    pub(super) index: usize,
    pub(super) raw: u64,
    pub(super) kind: AccessKind,
}

/// What came of it, and how the entries were left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) came: Came,
    pub(super) left: Vec<u64>,
}

/// What is to come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) attempt: Attempt,
    /// How the entries were before the last access.
    pub(super) before: Vec<u64>,
}

/// What came of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Through,
    Stopped(Fault),
    Otherwise(Exit),
}

impl Tried<'_> {
    /// Makes the entries what they are to be, and tries it on the processor.
    pub(super) fn on_hardware<V: Virt>(
        self,
        processor: &mut Processor<'_, V>,
        tracking: Tracking,
    ) -> Attempt {
        self.place.change::<V>(self.index, self.raw);
        let Visit { start, job, .. } = self.place.visit(self.kind);
        let came = match processor.once(start, tracking, job) {
            Exit::Call => Came::Through,
            Exit::Fault(fault) => Came::Stopped(fault),
            exit => Came::Otherwise(exit),
        };
        Attempt { came, left: self.place.load() }
    }

    /// Does the same, and makes in software the accesses that it takes.
    pub(super) fn in_software<V: Virt>(
        self,
        processor: &mut Processor<'_, V>,
        tracking: Tracking,
    ) -> Due {
        self.place.change::<V>(self.index, self.raw);
        let mut before = Vec::new();
        for (gpa, access) in self.place.visit(self.kind).steps {
            before = self.place.load();
            if let Err(fault) = processor.translate(gpa, access, tracking) {
                let attempt = Attempt { came: Came::Stopped(fault), left: self.place.load() };
                return Due { attempt, before };
            }
        }
        Due { attempt: Attempt { came: Came::Through, left: self.place.load() }, before }
    }
}
