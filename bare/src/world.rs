//! A table, and who runs a guest on it.

use alloc::{sync::Arc, vec::Vec};
use core::{
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use slat::{
    Attr, Due, Gpa, GpaRange, HostPfn, Level, MapError, Observer, PAGE_BYTES, PageSize, PageTable, Prot,
    Reader, Step, Tracking,
    mmu::{Access, Fault, Translation},
};

use crate::{
    guest::{self, CODE, DATA},
    machine::memory::{Frames, GUEST, TABLES},
    virt::{Exit, Job, Virt},
};

/// The frame in an entry, or in a root pointer.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
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

    /// Returns the slots on the way to a page that is mapped, the root's first.
    pub(crate) fn slots(&self, gpa: Gpa) -> Vec<RawSlot> {
        let mut observer = self.table.observer();
        let root = observer.enter(Tracking::On).root_pointer() & ADDRESS;
        let walk = self.table.pin().walk(gpa, Level::L1);
        let mut table = root;
        let slot = |step: &Step| {
            let index = gpa.get() >> (12 + 9 * (step.level as u64 - 1)) & 0x1ff;
            let slot = RawSlot(table + 8 * index);
            table = step.entry.raw() & ADDRESS;
            slot
        };
        walk.iter().map(slot).collect()
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

/// A slot as hardware sees it, at its physical address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawSlot(u64);

impl RawSlot {
    fn word(&self) -> &AtomicU64 {
        // SAFETY: it is in a table that is linked for as long as the world lives, and mapped one to one.
        unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(self.0 as usize)) }
    }

    pub(crate) fn value(&self) -> u64 {
        self.word().load(Ordering::SeqCst)
    }

    pub(crate) fn set(&self, value: u64) {
        self.word().store(value, Ordering::SeqCst);
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

    /// Has the guest begin at `at`, with nothing cached, until it comes out once.
    pub(crate) fn once(&mut self, at: Gpa, mut job: Job) -> Exit {
        V::start(&mut self.vcpu, at);
        let inside = self.observer.enter(Tracking::On);
        V::run(&mut self.vcpu, inside.root_pointer(), &Due::All, &mut job)
    }

    /// Does in software what the processor does for an access.
    pub(crate) fn translate(&mut self, gpa: Gpa, access: Access) -> Result<Translation, Fault> {
        self.observer.enter(Tracking::On).mmu().translate(gpa, access)
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
