//! A space as vm-memory's `GuestMemory`, for device models and their queues.
//!
//! A [`SpaceMemory`] translates as an MMU does: by the leaf that is in the table, and where there is none that
//! allows the access, by a fault. What it finds is host memory that a `GuestMemoryBackend` maps, by frame
//! number. A slice of that keeps the host memory mapped, by its lifetime, and nothing else: neither a pin,
//! which would make changes of regions wait for devices, nor a [`Hold`](crate::Hold), which costs a lock that
//! all devices share.
//!
//! What is written is noted after the write, by the slice itself ([`bitmap`]): the page becomes dirty then, if
//! it still is the frame that was written. The other way round a look for dirty pages in between would take
//! the mark, copy the page as it was, and lose the write.

mod bitmap;
mod slices;

use alloc::sync::Arc as StdArc;
use core::fmt;
use std::io;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, Permissions};

use self::bitmap::DirtyLog;
pub use self::bitmap::{SpaceBitmap, SpaceBitmapSlice};
use super::{
    Space,
    agent::{Agent, Patience},
    errors::FaultError,
    shared::Shared,
};
use crate::{
    addr::{Gpa, HostPfn},
    arena::FrameSource,
    attr::Prot,
    format::Format,
    ops::HostRun,
    sync::{Arc, Mutex},
};

/// A [`Space`] as vm-memory's `GuestMemory`: what a device model reads and writes at the addresses that its
/// driver gives it.
///
/// `M` is the host memory that frames are in: frame `n` lies at its address `n * 4096`. Its regions have the
/// bitmap [`SpaceBitmap`], by which slices say what was written through them.
///
/// ```
/// # use std::sync::Arc;
/// # use slat::{Attr, Contiguous, Ept, EptCaps, Gpa, GpaRange, HeapFrames, HostPfn, Levels};
/// # use slat::{ObserverId, PageTable, PhysWidth, Prot, Space};
/// use slat::SpaceBitmap;
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
///
/// # let ept = Ept::new(Levels::Four, PhysWidth::new(46)?, EptCaps::USUAL);
/// # let space = Space::new(PageTable::new(ept, HeapFrames::new(8))?, |_: ObserverId| ());
/// // 64 KiB of host memory, which is the frames from 0x100 on.
/// let host = GuestMemoryMmap::<SpaceBitmap>::from_ranges(&[(GuestAddress(0x10_0000), 0x1_0000)])?;
/// let iova = GpaRange::new(Gpa::new(0x4000_0000), 0x8000)?;
/// let frames = Contiguous::new(HostPfn::new(0x108), iova.pages())?;
/// space.map_region(iova, Arc::new(frames), 0, Attr::new(Prot::RW))?;
///
/// let memory = space.memory(host);
/// memory.write_obj(0x1234_u32, GuestAddress(0x4000_2ffe))?;
/// assert_eq!(memory.host().read_obj::<u32>(GuestAddress(0x10_affe))?, 0x1234);
/// assert!(memory.read_obj::<u8>(GuestAddress(0)).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Accesses
/// An access makes the pages resident that it needs, as [`fault_and_wait`](crate::Vcpu::fault_and_wait) does, when
/// its slices are taken: so does `check_range`. A slice is as long as consecutive pages have consecutive
/// frames. If a page in the middle cannot be accessed, vm-memory's operations have done what lies before it, and
/// say how much.
///
/// Whatever is written through a slice makes its pages dirty, when it was written:
/// [`dirty`](crate::Space::dirty) reports them, and so does the table. Who writes by pointers says so itself,
/// as vm-memory asks for (`slice.bitmap().mark_dirty(..)`). Reads leave no accessed bit. What is written
/// through the host memory itself is nobody's page, and not noted.
///
/// # What a slice promises
/// A slice is host memory that stays mapped, whatever becomes of the region: using it is always safe. But
/// it is no [`Hold`](crate::Hold): from when its page is unmapped, discarded, copied, or its region is
/// protected, what is read and written through it is the old frame, which the backing may have given to somebody
/// else. So, as for any DMA, **nobody uses a slice of a page after the page was taken away**: stop the
/// device, or [hold](crate::Vcpu::hold_range) what it uses, before a call that takes it away. A device that takes its
/// slices for each request, as vm-memory's and virtio-queue's operations do, has none left when it has
/// stopped. `IommuMemory` promises no more: its slices outlive their entries in the IOTLB.
///
/// # Errors
/// Of the slices' `GuestMemoryError`s
/// - `InvalidGuestAddress` says that there is no region, `GuestAddressOverflow` that the range wraps;
/// - `IOError` of the kind `PermissionDenied`, that the region or its backing does not allow the access;
/// - `IOError` of another kind, that the page could not be made resident. Both carry the
///   [`FaultError`];
/// - `InvalidBackendAddress` says that the page's frame is not in the host memory, as for a device's.
///
/// # Concurrency
/// Any number of threads use it at a time. Each clone has what one thread needs for itself: clone it for each
/// queue, so that no access takes a lock that others have. Waits for pages that are being fetched, and for
/// who is changing the region: use it with no pin held, and not from inside an observer.
pub struct SpaceMemory<F: Format, S: FrameSource, M> {
    shared: Arc<Shared<F, S>>,
    /// For who comes first; others borrow one from the space.
    agent: Mutex<Agent<F, S>>,
    host: M,
}

impl<F: Format, S: FrameSource> Space<F, S> {
    /// Makes the space's memory, as far as its frames are in `host`, for device models. Allocates and registers;
    /// one for each of their threads.
    #[must_use]
    pub fn memory<M: GuestMemoryBackend>(&self, host: M) -> SpaceMemory<F, S, M> {
        SpaceMemory::new(&self.shared, host)
    }
}

impl<F: Format, S: FrameSource, M> SpaceMemory<F, S, M> {
    fn new(shared: &Arc<Shared<F, S>>, host: M) -> Self {
        Self { shared: Arc::clone(shared), agent: Mutex::new(Agent::new(shared)), host }
    }

    /// Returns the host memory.
    #[must_use]
    pub fn host(&self) -> &M {
        &self.host
    }

    /// Returns the space.
    #[must_use]
    pub fn space(&self) -> Space<F, S> {
        Space { shared: Arc::clone(&self.shared) }
    }

    #[inline]
    fn with_agent<T>(&self, work: impl FnOnce(&Agent<F, S>) -> T) -> T {
        match self.agent.try_lock() {
            Some(agent) => work(&agent),
            // Also where a backing that fetches a page reads others by the same handle.
            None => self.shared.with_agent(work),
        }
    }

    /// Returns the longest run of host memory at `gpa`, up to `len` bytes, after a fault if need be.
    #[inline]
    fn run(&self, gpa: Gpa, len: u64, access: Prot) -> Result<HostRun, FaultError> {
        self.with_agent(|agent| {
            loop {
                if let Ok(run) = agent.reader.pin().translate(gpa, len, access) {
                    return Ok(run);
                }
                agent.fault(&self.shared, gpa, access, Patience::Wait)?;
            }
        })
    }
}

impl<F: Format, S: FrameSource, M: Clone> Clone for SpaceMemory<F, S, M> {
    fn clone(&self) -> Self {
        Self::new(&self.shared, self.host.clone())
    }
}

impl<F: Format, S: FrameSource, M> Drop for SpaceMemory<F, S, M> {
    fn drop(&mut self) {
        self.shared.stripes.give_back(StdArc::clone(&self.agent.lock().stripe));
    }
}

impl<F: Format, S: FrameSource, M: fmt::Debug> fmt::Debug for SpaceMemory<F, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpaceMemory").field("host", &self.host).finish_non_exhaustive()
    }
}

impl<F: Format, S: FrameSource, M> DirtyLog for SpaceMemory<F, S, M> {
    #[inline]
    fn note(&self, first: u64, frame: HostPfn, pages: u64) {
        self.with_agent(|agent| {
            let pin = agent.reader.pin();
            for index in 0..pages {
                let frame = HostPfn::new(frame.get() + index);
                // Of another frame, it is not the page that was written.
                let _ = pin.note_dirty_of(Gpa::of_page(first + index), frame);
            }
        });
    }

    fn is_dirty(&self, gpa: Gpa, frame: HostPfn) -> bool {
        self.with_agent(|agent| {
            let leaf = agent.reader.pin().lookup(gpa);
            leaf.is_some_and(|leaf| leaf.dirty && leaf.frame_of(gpa) == Some(frame))
        })
    }
}

/// Says in vm-memory's words why an access failed.
fn error(fault: FaultError) -> GuestMemoryError {
    match fault {
        FaultError::NoRegion { gpa } => {
            GuestMemoryError::InvalidGuestAddress(GuestAddress(gpa.get()))
        }
        FaultError::Denied { .. } => {
            GuestMemoryError::IOError(io::Error::new(io::ErrorKind::PermissionDenied, fault))
        }
        other => GuestMemoryError::IOError(io::Error::other(other)),
    }
}

fn prot(access: Permissions) -> Prot {
    match access {
        Permissions::No => Prot::empty(),
        Permissions::Read => Prot::R,
        Permissions::Write => Prot::W,
        Permissions::ReadWrite => Prot::RW,
    }
}
