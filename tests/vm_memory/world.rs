//! A space whose pages lie scattered in host memory, and a driver that looks at that memory by itself.

use std::sync::Arc;

use slat::{
    Answer, Attr, Backing, Bitmap, Contiguous, Format, GpaRange, HeapFrames, HostPfn, ObserverId,
    PageTable, Prot, Space, SpaceBitmap, SpaceMemory, Tracking, Want,
};
use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::{
    Queue, QueueT,
    desc::{RawDescriptor, split::Descriptor},
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use crate::common::{PAGE, at, pfn, range};

pub(crate) type Host = GuestMemoryMmap<SpaceBitmap>;
pub(crate) type Memory<F> = SpaceMemory<F, HeapFrames, Host>;

/// The host memory: frames, in two regions of it.
const FRAME: u64 = 0x100;
pub(crate) const FRAMES: u64 = 64;
const FIRST_FRAMES: u64 = 24;

/// Memory that a device reads and writes, each page anywhere.
pub(crate) const RAM: u64 = 0x4000_0000;
pub(crate) const RAM_PAGES: u64 = 48;
/// Memory that it only reads, behind a hole. It begins with the frame behind those of `RAM`.
pub(crate) const ROM: u64 = RAM + 2 * RAM_PAGES * PAGE;
pub(crate) const ROM_PAGES: u64 = 4;
/// A device's: no host memory is behind it.
pub(crate) const DEVICE: u64 = ROM + 2 * ROM_PAGES * PAGE;

/// Where the queue lies: each part across the border of two pages.
pub(crate) const QUEUE_SIZE: u16 = 16;
pub(crate) const DESCRIPTORS: u64 = RAM + 0xf80;
pub(crate) const AVAILABLE: u64 = RAM + 0x2ff0;
pub(crate) const USED: u64 = RAM + 0x4ff4;

/// Consecutive pages have frames far apart.
#[derive(Debug)]
struct Scattered;

fn scattered(page: u64) -> u64 {
    page * 29 % RAM_PAGES
}

impl Backing for Scattered {
    fn pages(&self) -> u64 {
        RAM_PAGES
    }

    fn frame(&self, want: &Want) -> Answer {
        Answer::Frame(pfn(FRAME + scattered(want.page)), Prot::RW)
    }
}

pub(crate) struct World<F: Format> {
    pub(crate) space: Space<F, HeapFrames>,
    pub(crate) memory: Memory<F>,
    pub(crate) host: Host,
}

impl<F: Format> World<F> {
    pub(crate) fn new(format: F) -> Self {
        let frames = HeapFrames::new(64);
        let space = Space::new(PageTable::new(format, frames).unwrap(), |_: ObserverId| ());
        let bytes = |frames: u64| (frames * PAGE) as usize;
        let host = Host::from_ranges(&[
            (GuestAddress(FRAME * PAGE), bytes(FIRST_FRAMES)),
            (GuestAddress((FRAME + FIRST_FRAMES) * PAGE), bytes(FRAMES - FIRST_FRAMES)),
        ])
        .unwrap();
        let rw = Attr::new(Prot::RW);
        space.map_region(range(RAM, RAM_PAGES * PAGE), Arc::new(Scattered), 0, rw).unwrap();
        let rom = Contiguous::rom(frame(RAM_PAGES), ROM_PAGES).unwrap();
        space.map_region(range(ROM, ROM_PAGES * PAGE), Arc::new(rom), 0, rw).unwrap();
        let device = Contiguous::device(pfn(0xf_e000), 1).unwrap();
        space.map_region(range(DEVICE, PAGE), Arc::new(device), 0, rw).unwrap();
        let memory = space.memory(host.clone());
        Self { space, memory, host }
    }

    /// Makes all memory resident, and tracks writes from then on.
    pub(crate) fn tracked(self) -> Self {
        for (start, pages) in [(RAM, RAM_PAGES), (ROM, ROM_PAGES)] {
            let go_on = |_| core::ops::ControlFlow::Continue(());
            self.space.prefault(range(start, pages * PAGE), go_on).unwrap();
        }
        self.space.track_dirty(Tracking::On).unwrap();
        self
    }

    /// Writes as the guest does, and unseen: where the page really lies.
    pub(crate) fn poke(&self, gpa: u64, bytes: &[u8]) {
        for (index, &byte) in bytes.iter().enumerate() {
            self.host.write_obj(byte, lies_at(gpa + index as u64)).unwrap();
        }
    }

    pub(crate) fn peek(&self, gpa: u64, len: usize) -> Vec<u8> {
        (gpa..gpa + len as u64).map(|gpa| self.host.read_obj(lies_at(gpa)).unwrap()).collect()
    }

    /// Returns the pages that were written since it was last asked, by their numbers in `RAM`.
    pub(crate) fn dirty(&self) -> Vec<u64> {
        let all = GpaRange::new(at(RAM), DEVICE - RAM).unwrap();
        let mut found = Bitmap::new(all);
        self.space.dirty(all, &mut found).unwrap();
        let first = |run: &GpaRange| (run.start().get() - RAM) / PAGE;
        found.runs().flat_map(|run| first(&run)..first(&run) + run.pages()).collect()
    }

    /// Offers a chain of these descriptors from index `first` of the table on.
    pub(crate) fn offer(&self, first: u16, chain: &[Buffer]) {
        self.poke(DESCRIPTORS + u64::from(first) * 16, &table(first, chain));
        let index = u16::from_le_bytes(self.peek(AVAILABLE + 2, 2).try_into().unwrap());
        let entry = AVAILABLE + 4 + 2 * u64::from(index % QUEUE_SIZE);
        self.poke(entry, &first.to_le_bytes());
        self.poke(AVAILABLE + 2, &(index + 1).to_le_bytes());
    }

    /// Returns the number of used chains, and the last one: its head and how much was written.
    pub(crate) fn used(&self) -> (u16, u32, u32) {
        let word = |bytes: Vec<u8>| u32::from_le_bytes(bytes.try_into().unwrap());
        let count = u16::from_le_bytes(self.peek(USED + 2, 2).try_into().unwrap());
        let last = USED + 4 + 8 * u64::from(count.wrapping_sub(1) % QUEUE_SIZE);
        (count, word(self.peek(last, 4)), word(self.peek(last + 4, 4)))
    }
}

fn frame(index: u64) -> HostPfn {
    pfn(FRAME + index)
}

fn lies_at(gpa: u64) -> GuestAddress {
    let (page, offset) = ((gpa - RAM) / PAGE, gpa % PAGE);
    let index = match gpa {
        ROM.. => RAM_PAGES + (gpa - ROM) / PAGE,
        _ => scattered(page),
    };
    GuestAddress((FRAME + index) * PAGE + offset)
}

/// A descriptor, but for where the next one is.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    gpa: u64,
    len: u32,
    flags: u32,
}

pub(crate) fn readable(gpa: u64, len: u32) -> Buffer {
    Buffer { gpa, len, flags: 0 }
}

pub(crate) fn writable(gpa: u64, len: u32) -> Buffer {
    Buffer { gpa, len, flags: VRING_DESC_F_WRITE }
}

/// A table of `count` descriptors, which is somewhere else.
pub(crate) fn indirect(gpa: u64, count: u32) -> Buffer {
    Buffer { gpa, len: 16 * count, flags: VRING_DESC_F_INDIRECT }
}

/// Returns the descriptors of a chain, the first of which has index `first`, as they lie in memory.
pub(crate) fn table(first: u16, chain: &[Buffer]) -> Vec<u8> {
    let descriptor = |(index, buffer): (u16, &Buffer)| {
        let more = if usize::from(index) + 1 < chain.len() { VRING_DESC_F_NEXT } else { 0 };
        let flags = (buffer.flags | more) as u16;
        RawDescriptor::from(Descriptor::new(buffer.gpa, buffer.len, flags, first + index + 1))
    };
    (0..).zip(chain).map(descriptor).flat_map(|raw| raw.as_slice().to_vec()).collect()
}

pub(crate) fn queue() -> Queue {
    queue_at(USED)
}

/// A queue whose used ring is somewhere else.
pub(crate) fn queue_at(used: u64) -> Queue {
    let mut queue = Queue::new(QUEUE_SIZE).unwrap();
    queue.try_set_desc_table_address(GuestAddress(DESCRIPTORS)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(used)).unwrap();
    queue.set_ready(true);
    queue
}

/// The page of `RAM` that holds an address.
pub(crate) fn page(gpa: u64) -> u64 {
    (gpa - RAM) / PAGE
}
