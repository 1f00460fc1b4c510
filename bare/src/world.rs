//! A table, and who runs a guest on it.

use alloc::sync::Arc;

use slat::{
    Attr, Gpa, GpaRange, HostPfn, MapError, Observer, PAGE_BYTES, PageSize, PageTable, Prot, Reader, Tracking,
};

use crate::{
    guest::{self, CODE, DATA},
    machine::memory::{Frames, GUEST, TABLES},
    virt::{Exit, Job, Virt},
};

const SMALL: PageSize = PageSize::Size4K;

/// A guest's memory.
#[derive(Debug)]
pub(crate) struct World<V: Virt> {
    pub(crate) virt: V,
    pub(crate) table: PageTable<V::Format, Arc<Frames>>,
    code: HostPfn,
}

impl<V: Virt> World<V> {
    /// Makes room for the guest's code, which is mapped, and for all of its memory, which is not.
    ///
    /// # Safety
    /// There is no other world.
    pub(crate) unsafe fn new(virt: V) -> Self {
        // SAFETY: the caller's promise.
        let frames = Arc::new(unsafe { Frames::new(TABLES) });
        let table = PageTable::new(virt.format(), frames).expect("there are frames");
        let code = guest::load(V::CALL);
        let world = Self { virt, table, code };
        let range = |start: u64, bytes: u64| GpaRange::new(Gpa::new(start), bytes).expect("it is small");
        world.table.populate(range(CODE.get(), PAGE_BYTES), SMALL).expect("nothing is there");
        let memory = range(DATA, GUEST.end - GUEST.start);
        world.table.populate(memory, SMALL).expect("nothing is there");
        world
    }

    /// Maps the page at `gpa`, if it is the guest's.
    fn resolve(&self, reader: &Reader<V::Format, Arc<Frames>>, gpa: Gpa) -> Result<(), MapError> {
        let page = gpa.get() / PAGE_BYTES;
        let (first, frame) = if page == CODE.get() / PAGE_BYTES {
            (CODE, self.code)
        } else {
            let index = page - DATA / PAGE_BYTES;
            (guest::page(index), guest::frame(index))
        };
        reader.pin().map(first, frame, SMALL, Attr::new(Prot::RWX)).map(drop)
    }
}

/// A guest's processor, and what it has met.
pub(crate) struct Processor<'w, V: Virt> {
    world: &'w World<V>,
    reader: Reader<V::Format, Arc<Frames>>,
    observer: Observer<V::Format, Arc<Frames>>,
    vcpu: V::Vcpu,
    pub(crate) faults: u64,
}

impl<'w, V: Virt> Processor<'w, V> {
    pub(crate) fn new(world: &'w World<V>) -> Self {
        let (reader, observer) = (world.table.reader(), world.table.observer());
        Self { world, reader, observer, vcpu: world.virt.vcpu(), faults: 0 }
    }

    /// Runs the guest until it comes out.
    pub(crate) fn run(&mut self, job: &mut Job) -> Exit {
        let inside = self.observer.enter(Tracking::On);
        V::run(&mut self.vcpu, inside.root_pointer(), inside.due(), job)
    }

    /// Has the guest do a job, on memory that comes as it is asked for; returns what stopped it, if anything.
    pub(crate) fn demand(&mut self, mut job: Job) -> Result<(), Exit> {
        V::start(&mut self.vcpu, CODE);
        loop {
            match self.run(&mut job) {
                Exit::Call => return Ok(()),
                Exit::Interrupt => {}
                Exit::Fault(fault) if self.world.resolve(&self.reader, fault.gpa()).is_ok() => self.faults += 1,
                exit => return Err(exit),
            }
        }
    }
}
