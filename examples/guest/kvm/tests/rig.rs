//! A table, some memory, and a guest on both.

#![expect(unsafe_code, reason = "gives memory up")]

use std::{mem, sync::Arc, thread};

use rustix::mm::{Advice, madvise};
use slat::{
    AnyFormat, Arena, ArenaOptions, Attr, Gpa, GpaRange, HostPfn, LeafFlags, Level, Levels,
    LongMode, Mapped, ObserverId, PAGE_BYTES, PageSize, PageTable, Prot, Space,
};

use crate::{
    kvm::{
        Crash, DATA, Host, TABLES, Vm,
        cpu::{Cpu, Exit, Kind, PageFault, RawOp},
    },
    mapping::Mapping,
};

/// Where the workload's memory begins for the guest.
pub(super) const BASE: Gpa = Gpa::new(0x80_0000_0000);

/// Runs `test` on a guest with `vcpus` vCPUs and `pages` pages of memory, if there is KVM here.
pub(super) fn with_guest(vcpus: usize, pages: u64, test: impl FnOnce(&Rig)) {
    with_host(|host| test(&Rig::new(host, vcpus, pages)));
}

/// Runs `test` if there is KVM here.
pub(in crate::kvm) fn with_host(test: impl FnOnce(&Host)) {
    match Host::open() {
        Ok(host) => test(&host),
        Err(reason) => {
            let thread = thread::current();
            println!("skipped: {}: {reason}", thread.name().unwrap_or("a test"));
        }
    }
}

pub(super) struct Rig {
    pub(super) vm: Vm,
    pub(super) table: PageTable<AnyFormat, Arena>,
    pub(super) data: Arc<Mapping>,
    pub(super) pages: u64,
}

impl Rig {
    fn new(host: &Host, vcpus: usize, pages: u64) -> Self {
        let format = LongMode::new(Levels::Four, host.phys_width());
        let arena = ArenaOptions::new(256).with_base(TABLES).create().expect("there is memory");
        let table = PageTable::new(format.into(), arena).expect("the arena is not empty");
        // The space has the guest's own memory alone; the tests see to theirs by themselves.
        let space = Space::new(table.clone(), |_: ObserverId| ());
        table.populate(range(0, pages), PageSize::Size4K).expect("the arena is large enough");

        let data = Mapping::anonymous((pages * PAGE_BYTES) as usize).expect("there is memory");
        let data = Arc::new(data);
        let vm = Vm::new(host, &space, Arc::clone(&data), vcpus).expect("the table is one for KVM");
        Self { vm, table, data, pages }
    }

    pub(super) fn cpu(&self, number: usize) -> Cpu<'_> {
        self.vm.cpu(number).expect("KVM makes vCPUs")
    }

    /// Maps page `page` to data frame `frame`, with these rights for the worker.
    pub(super) fn map(&self, page: u64, frame: u64, prot: Prot) -> Mapped {
        let attr = Attr::new(prot).with_flags(LeafFlags::USER);
        let mapped = self.table.pin().map(gpa(page), pfn(frame), PageSize::Size4K, attr);
        mapped.expect("it is populated")
    }

    /// Unmaps a page, and tells nobody.
    pub(super) fn unmap(&self, page: u64) -> HostPfn {
        let (mapping, flush) = self.table.pin().unmap(gpa(page)).expect("it is mapped");
        // Not even that a flush was dropped: then everything would be due.
        mem::forget(flush);
        mapping.pfn
    }

    /// Changes the rights of a page, and tells nobody.
    pub(super) fn protect(&self, page: u64, prot: Prot) {
        let (_, flush) = self.table.pin().protect(range(page, 1), prot).expect("it is mapped");
        mem::forget(flush);
    }

    /// Says that all that was cached may be stale, as a shoot-down does. No vCPU is inside.
    pub(super) fn tell(&self) {
        let shot = self.table.flush_all().shootdown().wait(&|_: ObserverId| unreachable!());
        shot.expect("no vCPU is this thread's");
    }

    /// Gives up this process's mapping of a data frame, which keeps its contents: so KVM must forget what leads
    /// there.
    pub(super) fn forget_frame(&self, frame: u64) {
        let start = self.data.byte((frame * PAGE_BYTES) as usize).as_ptr();
        // SAFETY:
        // 1. It is one page of a mapping, which lives as long as `self`.
        // 2. The mapping is shared, so what comes back at the next access is the same memory.
        let given_up = unsafe { madvise(start.cast(), PAGE_BYTES as usize, Advice::LinuxDontNeed) };
        given_up.expect("it is a mapping");
    }

    /// Lets a vCPU run once; KVM forgets before what is due.
    pub(super) fn stay(&self, cpu: &mut Cpu<'_>) -> Result<Exit, Crash> {
        cpu.stay(|due, generation| self.vm.invalidate(due, generation))
    }

    /// Runs a batch, and maps to the frame of the same number, with all rights, every page that it
    /// faults on; returns how many that were.
    pub(super) fn run(&self, cpu: &mut Cpu<'_>, ops: &[RawOp]) -> u64 {
        cpu.load(ops).expect("it is short");
        let mut faults = 0;
        loop {
            match self.stay(cpu).unwrap_or_else(|crash| panic!("{crash}")) {
                Exit::Done => break,
                Exit::Kicked => {}
                Exit::Fault(fault) => {
                    faults += 1;
                    let page = (fault.address.get() - BASE.get()) / PAGE_BYTES;
                    self.map(page, page, Prot::RWX);
                }
            }
        }
        assert_eq!(cpu.progress(), ops.len());
        faults
    }

    /// Runs a batch that must not fault.
    pub(super) fn run_through(&self, cpu: &mut Cpu<'_>, ops: &[RawOp]) {
        cpu.load(ops).expect("it is short");
        assert_eq!(self.stay(cpu).unwrap_or_else(|crash| panic!("{crash}")), Exit::Done);
    }

    /// Runs a batch of which the first operation must fault.
    pub(super) fn run_into(&self, cpu: &mut Cpu<'_>, ops: &[RawOp]) -> PageFault {
        cpu.load(ops).expect("it is short");
        match self.stay(cpu).unwrap_or_else(|crash| panic!("{crash}")) {
            Exit::Fault(fault) => fault,
            other => panic!("{other:?} instead of a page fault"),
        }
    }

    /// Returns the value that the guest reads in a page.
    pub(super) fn seen(&self, cpu: &mut Cpu<'_>, page: u64) -> u64 {
        self.run_through(cpu, &[load(page)]);
        cpu.result(0)
    }

    /// Returns the raw entries on the way to a page, the root's first.
    pub(super) fn path(&self, page: u64) -> Vec<u64> {
        let walk = self.table.pin().walk(gpa(page), Level::L1);
        walk.iter().map(|step| step.entry.raw()).collect()
    }
}

pub(super) fn gpa(page: u64) -> Gpa {
    Gpa::new(BASE.get() + page * PAGE_BYTES)
}

pub(super) fn range(page: u64, pages: u64) -> GpaRange {
    GpaRange::from_pages(gpa(page), pages).expect("it is short")
}

pub(super) fn pfn(frame: u64) -> HostPfn {
    HostPfn::new(DATA.get() + frame)
}

pub(super) fn load(page: u64) -> RawOp {
    RawOp::new(Kind::Load, gpa(page), 0)
}

pub(super) fn add(page: u64, amount: u64) -> RawOp {
    RawOp::new(Kind::Add, gpa(page), amount)
}
