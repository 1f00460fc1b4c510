//! Devices that write while memory is copied in rounds, as for a live migration; and copies on write.

#![expect(clippy::disallowed_types, reason = "no model runs these")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    vec::Vec,
};

use slat::{
    Attr, Bitmap, Contiguous, CopyOnWrite, CopyPool, FramePool, HostPfn, PageSize, Prot, Tracking,
};
use vm_memory::{Bytes, GuestAddress};

use crate::{
    common::{PAGE, every_format, pfn, range},
    world::{FRAMES, Host, RAM, RAM_PAGES, ROM_PAGES, World},
};

const ROUNDS: usize = 200;

every_format! {
    #![and_without_bits]

    fn no_write_of_a_device_is_lost_between_rounds(format: impl Format) {
        let world = World::new(format);
        world.space.track_dirty(Tracking::On).unwrap();
        let all = range(RAM, RAM_PAGES * PAGE);
        let mut copy = vec![0; (RAM_PAGES * PAGE) as usize];
        let mut round = || {
            let mut found = Bitmap::new(all);
            world.space.dirty(all, &mut found).unwrap();
            for run in found.runs() {
                let start = (run.start().get() - RAM) as usize;
                let bytes = world.peek(run.start().get(), (run.pages() * PAGE) as usize);
                copy[start..start + bytes.len()].copy_from_slice(&bytes);
            }
        };
        let done = AtomicBool::new(false);
        // One handle for both: one of them borrows from the space.
        let device = |mut number: u64| {
            for _ in 0..ROUNDS {
                number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let offset = (number >> 33) % (RAM_PAGES * PAGE - 100);
                world.memory.write(&[number as u8; 100], GuestAddress(RAM + offset)).unwrap();
            }
        };
        thread::scope(|scope| {
            let devices = [scope.spawn(|| device(1)), scope.spawn(|| device(2))];
            scope.spawn(|| {
                devices.into_iter().for_each(|device| device.join().unwrap());
                done.store(true, Ordering::SeqCst);
            });
            while !done.load(Ordering::SeqCst) {
                round();
            }
        });
        round();
        assert!(copy == world.peek(RAM, copy.len()), "the copy is memory");
    }
}

/// The last frames of the host memory.
#[derive(Debug)]
struct Pool {
    free: Mutex<Vec<u64>>,
    host: Host,
}

impl FramePool for Pool {
    fn take(&self, _: PageSize) -> Option<HostPfn> {
        self.free.lock().unwrap().pop().map(pfn)
    }

    fn give_back(&self, first: HostPfn, _: PageSize) {
        self.free.lock().unwrap().push(first.get());
    }
}

impl CopyPool for Pool {
    fn copy(&self, from: HostPfn, to: HostPfn) {
        let mut bytes = [0; PAGE as usize];
        self.host.read_slice(&mut bytes, GuestAddress(from.get() * PAGE)).unwrap();
        self.host.write_slice(&bytes, GuestAddress(to.get() * PAGE)).unwrap();
    }
}

every_format! {
    fn a_device_that_writes_to_a_shared_page_gets_a_copy(format: impl Format) {
        let world = World::new(format);
        let first = 0x100 + RAM_PAGES + ROM_PAGES;
        let pool = Pool { free: Mutex::new((first..0x100 + FRAMES).collect()), host: world.host.clone() };
        let base = Contiguous::new(pfn(0x100), 8).unwrap();
        let backing = CopyOnWrite::new(Arc::new(base), Arc::new(pool));
        let at = RAM - 16 * PAGE;
        world.space.map_region(range(at, 8 * PAGE), Arc::new(backing), 0, Attr::new(Prot::RW)).unwrap();
        let shared = GuestAddress(0x100 * PAGE);
        world.host.write_slice(&[7; 3 * PAGE as usize], shared).unwrap();
        let gpa = GuestAddress(at + PAGE - 2);
        assert_eq!(world.memory.read_obj::<u32>(gpa).unwrap(), 0x0707_0707);
        // Both pages are copied, the second one without having been read through.
        world.memory.write_obj(0x0102_0304_u32, gpa).unwrap();
        assert_eq!(world.memory.read_obj::<[u8; 6]>(GuestAddress(gpa.0 - 1)).unwrap(), [7, 4, 3, 2, 1, 7]);
        assert_eq!(world.host.read_obj::<[u8; 8]>(GuestAddress(shared.0 + PAGE - 4)).unwrap(), [7; 8]);
        assert_eq!(world.space.stats().fetches, 2);
    }
}
