//! A guest's memory, and what makes KVM forget translations; why those ways is said [above](super).

#![expect(unsafe_code, reason = "gives memory to a guest")]
#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    io,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kvm_bindings::{CpuId, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use slat::{
    AnyFormat, Arena, Contiguous, Due, Format, FramesError, Generation, GpaRange, HostPfn, Levels,
    MapRegionError, PAGE_BYTES, PageTable, PhysWidth, PrefaultError, Space,
};

use super::{
    boot,
    code::{kernel, worker},
    cpu::Cpu,
    host::{Host, create_vm},
    memory_map::{DATA, MemoryMap, NOWHERE, SYSTEM, TABLES, region},
    vcpu::Vcpu,
};
use crate::mapping::Mapping;

/// Where KVM, on Intel processors, may put three pages of its own (`KVM_SET_TSS_ADDR`): below 4 GiB, and
/// in no memslot.
const KVM_PAGES: u64 = 0xfffb_d000;

/// Why a guest could not be made, or KVM not be told to forget.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum VmError {
    #[error("KVM runs guests on 4-level long-mode tables, not on {levels}-level {name} ones")]
    Format { name: &'static str, levels: u32 },
    #[error("the table is made for {table}-bit addresses, and the guest's have {guest} bits")]
    PhysWidth { table: u8, guest: u8 },
    #[error(
        "the arena's frames {base} and up, {bytes:#x} bytes, are not between {TABLES} and {DATA}"
    )]
    Tables { base: HostPfn, bytes: usize },
    #[error("the workload's memory is not whole pages: {bytes:#x} bytes")]
    Data { bytes: usize },
    #[error("{asked} vCPUs are none, or more than the {most} that KVM runs in a guest")]
    Vcpus { asked: usize, most: usize },
    #[error("there is no vCPU {number} in a guest of {vcpus}")]
    NoVcpu { number: usize, vcpus: usize },
    #[error("there is no system memory: {0}")]
    Frames(#[from] FramesError),
    #[error("making a region for what the guest itself needs failed: {0}")]
    Region(#[from] MapRegionError),
    #[error("mapping what the guest itself needs failed: {0}")]
    Prefault(#[from] PrefaultError),
    #[error("{call} failed: {error}")]
    System {
        call: &'static str,
        #[source]
        error: io::Error,
    },
}

/// Turns a failed call into an error that names it.
fn failed<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> VmError {
    move |error| VmError::System { call, error: error.into() }
}

/// The memslots.
#[derive(Clone, Copy)]
enum Slot {
    System,
    Tables,
    Data,
    /// One that comes and goes at once.
    Dummy,
}

/// A guest, with all the memory that it can reach.
pub(crate) struct Vm {
    // First, since it goes first: without it there is no guest that could still use the memory. (Its
    // vCPUs are gone by then: they borrow it.)
    fd: VmFd,
    system: Mapping,
    data: Arc<Mapping>,
    /// Keeps the arena, and the tables in it.
    space: Space<AnyFormat, Arena>,
    map: MemoryMap,
    cpuid: CpuId,
    /// A generation that was read before the last zap began.
    last_zap: Mutex<Option<Generation>>,
    zaps: AtomicU64,
}

impl Vm {
    /// Makes a guest of `vcpus` vCPUs that runs on `space`, and makes regions of what it needs itself:
    /// [`region`](super::region), of which nothing may be there yet, and which stays the guest's.
    ///
    /// # Errors
    /// [`VmError`] if the table is not one that KVM's guests can walk, or a call fails.
    pub(crate) fn new(
        host: &Host,
        space: &Space<AnyFormat, Arena>,
        data: Arc<Mapping>,
        vcpus: usize,
    ) -> Result<Self, VmError> {
        check(host, space.table(), &data, vcpus)?;
        let map = MemoryMap { vcpus };
        let system = Mapping::anonymous(map.bytes()).map_err(failed("mmap"))?;
        system.write(MemoryMap::KERNEL.offset(), kernel());
        system.write(MemoryMap::WORKER.offset(), worker());
        boot::write_idt(&system);
        for part in map.parts() {
            let frames = Contiguous::new(part.first, part.range.pages())?;
            space.map_region(part.range, Arc::new(frames), 0, part.attr)?;
            // All of it from the beginning: its kernel handles no fault of its own.
            space.prefault(part.range, |_| ControlFlow::Continue(()))?;
        }
        let fd = create_vm(&host.kvm).map_err(failed("KVM_CREATE_VM"))?;
        fd.set_tss_address(KVM_PAGES as usize).map_err(failed("KVM_SET_TSS_ADDR"))?;
        let vm = Self {
            fd,
            system,
            data,
            space: space.clone(),
            map,
            cpuid: host.cpuid.clone(),
            last_zap: Mutex::new(None),
            zaps: AtomicU64::new(0),
        };
        let arena = space.table().frames();
        // SAFETY:
        // 1. `system` lives as long as the guest (field order), and is only accessed atomically.
        // 2. The guest's code accesses it, in ring 3 only what the worker is for.
        unsafe {
            vm.set_slot(Slot::System, SYSTEM, vm.system.start().as_ptr(), vm.system.bytes())
        }?;
        // SAFETY:
        // 1. The arena lives as long as the handle in `vm`, so as long as the guest.
        // 2. The guest has no mapping of it, so it is accessed by MMU walks alone, in tables that
        //    observers keep.
        unsafe { vm.set_slot(Slot::Tables, TABLES, arena.as_ptr(), arena.len_bytes()) }?;
        // SAFETY: `data` lives as long as the guest (field order), and is only accessed atomically
        // (invariant of `Mapping`).
        unsafe { vm.set_slot(Slot::Data, DATA, vm.data.start().as_ptr(), vm.data.bytes()) }?;
        Ok(vm)
    }

    /// Makes the vCPU with this number; each can be made once.
    ///
    /// # Errors
    /// [`VmError`] if there is no such vCPU, or a call fails.
    pub(crate) fn cpu(&self, number: usize) -> Result<Cpu<'_>, VmError> {
        let vcpus = self.map.vcpus;
        if number >= vcpus {
            return Err(VmError::NoVcpu { number, vcpus });
        }
        let fd = self.fd.create_vcpu(number as u64).map_err(failed("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(&self.cpuid).map_err(failed("KVM_SET_CPUID2"))?;
        boot::write_descriptors(&self.system, self.map, number);
        Ok(Cpu::new(self, number, self.vcpu(fd, number)?))
    }

    fn vcpu(&self, fd: VcpuFd, number: usize) -> Result<Vcpu<AnyFormat, Arena>, VmError> {
        let reset = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        let (regs, sregs) = (boot::regs(self.map, number), boot::sregs(self.map, number, reset));
        Vcpu::new(fd, self.space.vcpu(), regs, sregs).map_err(failed("setting a vCPU up"))
    }

    /// Makes KVM forget what a vCPU finds due when it enters, at this generation: that, and all else.
    ///
    /// # Errors
    /// [`VmError`] if KVM refuses.
    pub(crate) fn invalidate(&self, due: &Due, generation: Generation) -> Result<(), VmError> {
        if *due == Due::None {
            return Ok(());
        }
        let mut last = self.last_zap();
        // A zap drops what was cached before it began, for all vCPUs. All that was stale at a generation
        // was so before that was read; so a zap serves whoever entered at the generation that was read
        // before it began, or at an earlier one.
        if last.is_none_or(|last| last < generation) {
            self.zap()?;
            *last = Some(generation);
        }
        Ok(())
    }

    fn last_zap(&self) -> MutexGuard<'_, Option<Generation>> {
        self.last_zap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes KVM forget everything; one at a time.
    fn zap(&self) -> Result<(), VmError> {
        // Any memory does: no guest has a mapping of it.
        let (start, bytes) = (self.system.start().as_ptr(), PAGE_BYTES as usize);
        // SAFETY: `system` lives as long as the guest (field order), which cannot reach it there.
        unsafe { self.set_slot(Slot::Dummy, NOWHERE, start, bytes) }?;
        // SAFETY: with no bytes it takes the slot away.
        unsafe { self.set_slot(Slot::Dummy, NOWHERE, start, 0) }?;
        self.zaps.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// # Safety
    /// The guest may read and write the `bytes` bytes at `start` until it is gone.
    unsafe fn set_slot(
        &self,
        slot: Slot,
        first: HostPfn,
        start: *mut u8,
        bytes: usize,
    ) -> Result<(), VmError> {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: first.get() * PAGE_BYTES,
            memory_size: bytes as u64,
            userspace_addr: start.addr() as u64,
        };
        // SAFETY: the caller's promise.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(failed("KVM_SET_USER_MEMORY_REGION"))
    }

    /// Returns how often KVM was made to forget everything.
    pub(crate) fn zaps(&self) -> u64 {
        self.zaps.load(Ordering::Relaxed)
    }

    /// Returns the linear addresses that the guest itself has.
    pub(crate) fn region(&self) -> GpaRange {
        region(self.map.vcpus)
    }

    pub(super) fn system(&self) -> &Mapping {
        &self.system
    }

    pub(super) fn map(&self) -> MemoryMap {
        self.map
    }

    pub(super) fn table(&self) -> &PageTable<AnyFormat, Arena> {
        self.space.table()
    }
}

fn check(
    host: &Host,
    table: &PageTable<AnyFormat, Arena>,
    data: &Mapping,
    vcpus: usize,
) -> Result<(), VmError> {
    let format = table.format();
    let levels = format.levels();
    if levels != Levels::Four || !matches!(format, AnyFormat::LongMode(_)) {
        return Err(VmError::Format { name: format.name(), levels: levels.count() });
    }
    let [of_table, of_guest] = [format.phys_width(), host.phys_width()].map(PhysWidth::bits);
    // A wider table could have bits set that are reserved here; a narrower one has only fewer frames.
    if of_table > of_guest {
        return Err(VmError::PhysWidth { table: of_table, guest: of_guest });
    }
    let arena = table.frames();
    let (base, bytes) = (arena.base(), arena.len_bytes());
    // The last frame before the data is `NOWHERE`.
    if base != TABLES || bytes as u64 / PAGE_BYTES > NOWHERE.get() - TABLES.get() {
        return Err(VmError::Tables { base, bytes });
    }
    let bytes = data.bytes();
    if bytes == 0 || !bytes.is_multiple_of(PAGE_BYTES as usize) {
        return Err(VmError::Data { bytes });
    }
    let most = host.most_vcpus();
    if vcpus == 0 || vcpus > most {
        return Err(VmError::Vcpus { asked: vcpus, most });
    }
    Ok(())
}
