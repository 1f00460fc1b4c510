//! A table, and who runs a guest on it.

use alloc::{sync::Arc, vec, vec::Vec};
use core::{
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use slat::{
    Attr, Due, Entry, Flush, Format, Gpa, GpaRange, HostPfn, Kick, Level, MapError, Mapped,
    Observer, ObserverId, PAGE_BYTES, PageSize, PageTable, Pinned, Prot, Reader, Step, Tracking,
    mmu::{Access, Cause, Fault, Translation},
};
use spin::mutex::SpinMutex;

use crate::{
    guest::{self, CODE, Job},
    machine::{
        apic,
        emulator::Emulator,
        interrupts::{self, KICK},
        memory::{self, Frames},
    },
    options::{Flushing, Options},
    virt::{Exit, FRAME, Start, Virt},
};

pub(crate) const SMALL: PageSize = PageSize::Size4K;
pub(crate) const ALL_RIGHTS: Attr = Attr::new(Prot::RWX);

/// The machine on which worlds are made, one after the other.
#[derive(Debug)]
pub(crate) struct Machine<V> {
    pub(crate) virt: V,
    pub(crate) emulator: Emulator,
    pub(crate) processors: u32,
    pub(crate) options: Options,
    pub(crate) frames: Arc<Frames>,
}

impl<V: Virt> Machine<V> {
    /// Returns the ways there are to keep accessed and dirty bits: on and off, or just one.
    pub(crate) fn trackings(&self) -> Vec<Tracking> {
        let root = |tracking| self.virt.format().root_pointer(HostPfn::new(1), tracking);
        let mut trackings = vec![Tracking::On, Tracking::Off];
        trackings.dedup_by_key(|tracking| root(*tracking));
        trackings
    }
}

/// The table of this image, over frames of physical memory.
pub(crate) type Table<V> = PageTable<<V as Virt>::Format, Arc<Frames>>;

/// A guest's memory.
#[derive(Debug)]
pub(crate) struct World<'m, V: Virt> {
    pub(crate) machine: &'m Machine<V>,
    pub(crate) table: Table<V>,
    /// On which processor, by its interrupt controller's number, each observer is.
    seats: SpinMutex<Vec<(ObserverId, u32)>>,
}

impl<'m, V: Virt> World<'m, V> {
    /// Makes a table in which the guest's code is mapped, and nothing else.
    pub(crate) fn new(machine: &'m Machine<V>) -> Self {
        let table = PageTable::new(machine.virt.format(), Arc::clone(&machine.frames))
            .expect("there are frames");
        let code = guest::load(V::CALL);
        let page = GpaRange::from_pages(CODE, 1).expect("it is a page");
        table.populate_mapped(page, SMALL, code, ALL_RIGHTS).expect("the table is empty");
        Self { machine, table, seats: SpinMutex::new(Vec::new()) }
    }

    /// Makes room for `count` of the guest's pages from `first` on, by leaves of a size.
    pub(crate) fn make_room(&self, first: u64, count: u64, size: PageSize) {
        self.table.populate(guest::pages(first, count), size).expect("there are frames");
    }

    /// Returns the slots on the way to a page that is mapped, the root's first.
    pub(crate) fn slots(&self, gpa: Gpa) -> Vec<RawSlot> {
        let mut table = self.table.root();
        let slot = |step: &Step| {
            let index = gpa.get() >> (12 + 9 * (step.level as u64 - 1)) & 0x1ff;
            let slot = RawSlot { table, index: index as usize };
            table = HostPfn::containing(step.entry.raw() & FRAME);
            slot
        };
        self.table.pin().walk(gpa, Level::L1).iter().map(slot).collect()
    }

    /// Invalidates what a change has made stale; returns when no processor uses it any more.
    pub(crate) fn serve(&self, flush: Flush<'_>) {
        match self.machine.options.flush {
            Flushing::Served => flush.shootdown().wait(self).expect("this processor is outside"),
            Flushing::Dropped => drop(flush),
        }
    }
}

impl<V: Virt> Kick for World<'_, V> {
    fn kick(&self, observer: ObserverId) {
        let seats = self.seats.lock();
        for &(_, processor) in seats.iter().filter(|seat| seat.0 == observer) {
            apic::interrupt(processor, KICK);
        }
    }
}

/// A slot as hardware sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawSlot {
    table: HostPfn,
    index: usize,
}

impl RawSlot {
    /// Returns the frame of the table.
    pub(crate) fn table(&self) -> HostPfn {
        self.table
    }

    fn word(&self) -> &AtomicU64 {
        let table: *mut u64 = memory::pointer(self.table);
        // SAFETY: it is in a table that is linked for as long as the world lives, and all accesses are atomic.
        unsafe { AtomicU64::from_ptr(table.wrapping_add(self.index)) }
    }

    pub(crate) fn load(&self) -> Entry {
        Entry::from_raw(self.word().load(Ordering::SeqCst))
    }

    pub(crate) fn store(&self, entry: Entry) {
        self.word().store(entry.raw(), Ordering::SeqCst);
    }
}

/// A guest's processor, on one of the machine's, and what it has met.
pub(crate) struct Processor<'w, V: Virt> {
    pub(crate) world: &'w World<'w, V>,
    pub(crate) reader: Reader<V::Format, Arc<Frames>>,
    observer: Observer<V::Format, Arc<Frames>>,
    vcpu: V::Vcpu,
    pub(crate) faults: u64,
    /// How often somebody made it come out.
    pub(crate) kicks: u64,
    /// How often something was due to be invalidated.
    pub(crate) invalidations: u64,
}

/// What a handler is given to change the table by.
pub(crate) type Pin<'r, V> = Pinned<'r, <V as Virt>::Format, Arc<Frames>>;

impl<'w, V: Virt> Processor<'w, V> {
    /// Makes one, on the processor that it is for.
    pub(crate) fn new(world: &'w World<'w, V>) -> Self {
        // Kicks that came too late for the last one that was here would bring this one out at once.
        interrupts::take_pending();
        let (reader, observer) = (world.table.reader(), world.table.observer());
        world.seats.lock().push((observer.id(), apic::id()));
        let vcpu = world.machine.virt.vcpu();
        Self { world, reader, observer, vcpu, faults: 0, kicks: 0, invalidations: 0 }
    }

    /// Has the guest begin at `start`, with nothing cached, until it comes out once.
    pub(crate) fn once(&mut self, start: Start, tracking: Tracking, job: Job) -> Exit {
        self.once_by(start, tracking, |root| root, job)
    }

    /// Does the same with another root pointer in the place of the table's own, of the same tables.
    pub(crate) fn once_by(
        &mut self,
        start: Start,
        tracking: Tracking,
        change: impl FnOnce(u64) -> u64,
        job: Job,
    ) -> Exit {
        V::start(&mut self.vcpu, start);
        let inside = self.observer.enter(tracking);
        let root = change(inside.root_pointer());
        V::run(&mut self.vcpu, root, &Due::All, &mut job.registers())
    }

    /// Has the processor log which pages become dirty.
    pub(crate) fn start_log(&mut self) {
        V::start_log(&mut self.vcpu);
    }

    /// Returns what it has logged.
    pub(crate) fn take_log(&mut self) -> Vec<Gpa> {
        V::take_log(&mut self.vcpu)
    }

    /// Does in software what the processor does for an access.
    pub(crate) fn translate(
        &mut self,
        gpa: Gpa,
        access: Access,
        tracking: Tracking,
    ) -> Result<Translation, Fault> {
        self.observer.enter(tracking).mmu().translate(gpa, access)
    }

    /// Has the guest do a job, and `handle` whatever it cannot reach.
    ///
    /// # Errors
    /// What stopped it, if it could not go on.
    pub(crate) fn work(
        &mut self,
        job: Job,
        mut handle: impl FnMut(&Pin<'_, V>, Fault) -> ControlFlow<()>,
    ) -> Result<(), Exit> {
        let mut registers = job.registers();
        V::start(&mut self.vcpu, Start::at(CODE));
        loop {
            let inside = self.observer.enter(Tracking::On);
            self.invalidations += u64::from(*inside.due() != Due::None);
            let exit = V::run(&mut self.vcpu, inside.root_pointer(), inside.due(), &mut registers);
            drop(inside);
            match exit {
                Exit::Call => return Ok(()),
                Exit::Interrupt => self.kicks += 1,
                Exit::Fault(fault) if handle(&self.reader.pin(), fault).is_continue() => {
                    self.faults += 1;
                }
                exit => return Err(exit),
            }
        }
    }

    /// Has the guest do a job on memory that comes page by page as it is asked for, one to one.
    ///
    /// # Errors
    /// What stopped it, if it could not go on.
    pub(crate) fn demand(&mut self, job: Job) -> Result<(), Exit> {
        self.work(job, |pin, fault| match fault.cause() {
            Cause::NotPresent if map::<V>(pin, fault.gpa()).is_ok() => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        })
    }
}

/// Maps the guest's page at `gpa` to its frame, one to one.
pub(crate) fn map<V: Virt>(pin: &Pin<'_, V>, gpa: Gpa) -> Result<Mapped, MapError> {
    let frame = guest::frame((gpa.get() - guest::DATA) / PAGE_BYTES);
    pin.map(gpa.page_base(), frame, SMALL, ALL_RIGHTS)
}
