//! Device models on a space: queues, rings and buffers at addresses whose pages lie anywhere in host memory.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
#[path = "../common/mod.rs"]
mod common;
mod rounds;
mod world;

use std::{
    collections::BTreeSet,
    error::Error,
    io::{ErrorKind, Read, Write},
    ops::ControlFlow,
    sync::Arc,
    vec::Vec,
};

use common::{PAGE, at, every_format, pfn, range};
use slat::{Attr, Bitmap, Contiguous, FaultError, Format, HeapFrames, Prot, SpaceMemory};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryError, Permissions, VolatileMemoryError,
    VolatileSlice, bitmap::Bitmap as _,
};
use world::{
    DEVICE, Memory, RAM, RAM_PAGES, ROM, ROM_PAGES, USED, World, indirect, page, queue, queue_at,
    readable, table, writable,
};

const NONE: [u64; 0] = [];

/// A device: what it reads, changed, is what it writes. Returns how many chains it served.
fn serve<F: Format>(queue: &mut Queue, memory: &Memory<F>) -> Result<u16, Box<dyn Error>> {
    let mut served = 0;
    while let Some(chain) = queue.pop_descriptor_chain(memory) {
        let head = chain.head_index();
        let mut request = Vec::new();
        chain.clone().reader(memory)?.read_to_end(&mut request)?;
        let mut writer = chain.writer(memory)?;
        let room = writer.available_bytes();
        let answer = request.iter().map(|byte| byte ^ 0x5a).take(room).collect::<Vec<_>>();
        writer.write_all(&answer)?;
        queue.add_used(memory, head, answer.len() as u32)?;
        served += 1;
    }
    Ok(served)
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + index / 251) as u8).collect()
}

fn answer_to(request: &[u8]) -> Vec<u8> {
    request.iter().map(|byte| byte ^ 0x5a).collect()
}

/// A request in memory that is only read and in memory that is not, over several pages each, and room for the
/// answer.
const REQUEST: [(u64, u32); 2] = [(RAM + 10 * PAGE + 100, 9000), (ROM + 0xffe, 70)];
const ANSWER: [(u64, u32); 2] = [(RAM + 20 * PAGE + 4000, 200), (RAM + 30 * PAGE + 1, 8870)];

fn put_request<F: Format>(world: &World<F>) -> Vec<u8> {
    let request = text(9070);
    let (first, second) = request.split_at(9000);
    world.poke(REQUEST[0].0, first);
    world.poke(REQUEST[1].0, second);
    request
}

fn answer_in<F: Format>(world: &World<F>) -> Vec<u8> {
    ANSWER.iter().flat_map(|&(gpa, len)| world.peek(gpa, len as usize)).collect()
}

fn buffers() -> [world::Buffer; 4] {
    let [request, answer] = [REQUEST, ANSWER];
    [
        readable(request[0].0, request[0].1),
        readable(request[1].0, request[1].1),
        writable(answer[0].0, answer[0].1),
        writable(answer[1].0, answer[1].1),
    ]
}

fn pages_of(buffers: &[(u64, u32)]) -> BTreeSet<u64> {
    let pages = |&(gpa, len): &(u64, u32)| page(gpa)..=page(gpa + u64::from(len) - 1);
    buffers.iter().flat_map(pages).collect()
}

every_format! {
    #![and_without_bits]

    fn a_device_serves_a_chain_whose_pages_lie_anywhere(format: impl Format) {
        let world = World::new(format);
        let request = put_request(&world);
        let mut queue = queue();
        assert!(queue.is_valid(&world.memory));
        world.offer(5, &buffers());
        assert_eq!(serve(&mut queue, &world.memory).unwrap(), 1);
        assert_eq!(answer_in(&world), answer_to(&request));
        assert_eq!(world.used(), (1, 5, 9070));
    }

    fn a_device_serves_a_chain_of_an_indirect_table(format: impl Format) {
        let world = World::new(format);
        let request = put_request(&world);
        // Across the border of two pages.
        let descriptors = RAM + 40 * PAGE - 32;
        world.poke(descriptors, &table(0, &buffers()));
        world.offer(9, &[indirect(descriptors, 4)]);
        assert_eq!(serve(&mut queue(), &world.memory).unwrap(), 1);
        assert_eq!(answer_in(&world), answer_to(&request));
        assert_eq!(world.used(), (1, 9, 9070));
    }

    fn what_a_device_has_written_is_dirty_and_nothing_else(format: impl Format) {
        let world = World::new(format).tracked();
        put_request(&world);
        let mut queue = queue();
        world.offer(0, &buffers());
        assert_eq!(world.dirty(), NONE);
        assert_eq!(serve(&mut queue, &world.memory).unwrap(), 1);
        // The ring's index and its first entry, and what was written of the buffers.
        let ring = pages_of(&[(USED + 2, 10)]);
        let written = &pages_of(&ANSWER) | &ring;
        assert_eq!(world.dirty(), written.into_iter().collect::<Vec<_>>());
        assert_eq!(world.dirty(), NONE);
        // A second time, and less of it.
        world.offer(0, &[readable(REQUEST[0].0, 10), writable(ANSWER[1].0, 5000)]);
        assert_eq!(serve(&mut queue, &world.memory).unwrap(), 1);
        let ring = pages_of(&[(USED + 2, 2), (USED + 12, 8)]);
        let written = &pages_of(&[(ANSWER[1].0, 10)]) | &ring;
        assert_eq!(world.dirty(), written.into_iter().collect::<Vec<_>>());
    }

    fn a_page_is_dirty_when_it_was_written_and_not_when_its_slice_was_taken(format: impl Format) {
        let world = World::new(format).tracked();
        let gpa = GuestAddress(RAM + 7 * PAGE - 4);
        let slices = world.memory.get_slices(gpa, 8, Permissions::Write).unwrap();
        let slices = slices.collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(slices.iter().map(VolatileSlice::len).collect::<Vec<_>>(), [4, 4]);
        assert_eq!(world.dirty(), NONE);
        slices[1].write_obj(7_u16, 1).unwrap();
        assert!(slices[1].bitmap().dirty_at(0) && !slices[0].bitmap().dirty_at(3));
        assert_eq!(world.dirty(), [7]);
        // After a look for dirty pages, it is again.
        slices[1].subslice(2, 2).unwrap().copy_from(&[1_u8, 2]);
        slices[0].offset(3).unwrap().store(9_u8, 0, std::sync::atomic::Ordering::Release).unwrap();
        assert_eq!(world.dirty(), [6, 7]);
        assert_eq!(world.peek(RAM + 7 * PAGE - 1, 5), [9, 0, 7, 1, 2]);
    }
}

/// The error of the first slice of an access.
fn refused<F: Format>(memory: &Memory<F>, gpa: u64, access: Permissions) -> GuestMemoryError {
    assert!(!memory.check_range(GuestAddress(gpa), 8, access));
    match memory.get_slices(GuestAddress(gpa), 8, access) {
        Err(error) => error,
        Ok(mut slices) => {
            let error = slices.next().unwrap().unwrap_err();
            assert!(slices.next().is_none(), "nothing comes after an error");
            error
        }
    }
}

every_format! {
    fn an_access_that_cannot_be_says_why(format: impl Format) {
        let World { memory, .. } = &World::new(format);
        for gpa in [RAM - 8, RAM + RAM_PAGES * PAGE, 1 << 60] {
            let error = refused(memory, gpa, Permissions::Read);
            assert!(matches!(error, GuestMemoryError::InvalidGuestAddress(at) if at.0 == gpa));
        }
        for access in [Permissions::Write, Permissions::ReadWrite] {
            let GuestMemoryError::IOError(error) = refused(memory, ROM, access) else { panic!() };
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            let fault = error.get_ref().unwrap().downcast_ref::<FaultError>();
            assert!(matches!(fault, Some(FaultError::Denied { gpa, .. }) if *gpa == at(ROM)));
        }
        let error = refused(memory, u64::MAX - 6, Permissions::Read);
        assert!(matches!(error, GuestMemoryError::GuestAddressOverflow));
        let error = refused(memory, DEVICE, Permissions::Read);
        assert!(matches!(error, GuestMemoryError::InvalidBackendAddress));
        assert!(memory.check_range(GuestAddress(ROM), (ROM_PAGES * PAGE) as usize, Permissions::No));
        assert!(memory.check_range(GuestAddress(0), 0, Permissions::ReadWrite));
        assert!(memory.physical_memory().is_none(), "there is a translation between");
    }

    fn an_access_into_a_hole_does_what_lies_before_it(format: impl Format) {
        let world = World::new(format).tracked();
        let end = RAM + RAM_PAGES * PAGE;
        let start = GuestAddress(end - PAGE - 6);
        assert_eq!(world.memory.write(&[1; 8192], start).unwrap(), 4102);
        let error = world.memory.write_slice(&[2; 8192], start).unwrap_err();
        let GuestMemoryError::PartialBuffer { expected: 8192, completed: 4102 } = error else {
            panic!("{error}")
        };
        assert_eq!(world.dirty(), [RAM_PAGES - 2, RAM_PAGES - 1]);
        assert_eq!(world.peek(end - 1, 1), [2]);
        // Not atomically, if it lies in two places.
        let across = GuestAddress(RAM + PAGE - 2);
        let order = std::sync::atomic::Ordering::SeqCst;
        let error = world.memory.store(1_u32, across, order).unwrap_err();
        assert!(matches!(error, GuestMemoryError::InvalidBackendAddress), "{error}");
    }

    fn a_chain_into_a_hole_or_into_read_only_memory_is_an_error(format: impl Format) {
        let world = World::new(format).tracked();
        let hole = RAM + RAM_PAGES * PAGE;
        let bad = [
            vec![readable(hole - 8, 16), writable(RAM, 8)],
            vec![readable(RAM, 8), writable(hole, 8)],
            vec![readable(RAM, 8), writable(RAM, 4), writable(ROM, 4)],
            vec![readable(u64::MAX, 2)],
            vec![readable(DEVICE, 8)],
        ];
        for chain in &bad {
            let mut queue = queue();
            world.poke(world::AVAILABLE, &[0; 4]);
            world.offer(0, chain);
            let error = serve(&mut queue, &world.memory).unwrap_err();
            assert!(error.to_string().contains("chain"), "{error}");
        }
        // A table in a hole ends the chain.
        world.poke(world::AVAILABLE, &[0; 4]);
        world.offer(0, &[indirect(hole, 4)]);
        let chain = queue().pop_descriptor_chain(&world.memory).unwrap();
        assert_eq!(chain.count(), 0);
        assert_eq!(world.dirty(), NONE);
    }

    fn a_ring_in_a_hole_or_in_read_only_memory_is_an_error(format: impl Format) {
        let world = World::new(format);
        for used in [RAM + RAM_PAGES * PAGE - 64, ROM] {
            let mut queue = queue_at(used);
            assert!(!queue.is_valid(&world.memory));
            world.poke(world::AVAILABLE, &[0; 4]);
            world.offer(0, &[readable(RAM + 9 * PAGE, 8), writable(RAM + 9 * PAGE, 8)]);
            while queue.next_used() < 8 && queue.add_used(&world.memory, 0, 8).is_ok() {}
            assert!(queue.add_used(&world.memory, 0, 8).is_err());
        }
        let mut queue = queue();
        queue.try_set_avail_ring_address(GuestAddress(RAM - 64)).unwrap();
        assert!(queue.iter(&world.memory).is_err());
    }

    fn a_slice_is_as_long_as_frames_are_consecutive(format: impl Format) {
        let world = World::new(format);
        let lens = |gpa, len| {
            let slices = world.memory.get_slices(GuestAddress(gpa), len, Permissions::Read);
            slices.unwrap().map(|slice| slice.unwrap().len()).collect::<Vec<_>>()
        };
        assert_eq!(lens(RAM + 4000, 5000), [96, 4096, 808]);
        // Page by page as they become resident; as one when they are.
        assert_eq!(lens(ROM + 4000, 5000).into_iter().sum::<usize>(), 5000);
        assert_eq!(lens(ROM + 4000, 5000), [5000]);
        // Of two regions of the host memory.
        let both = Contiguous::new(pfn(0x100 + 23), 2).unwrap();
        let there = range(RAM - 4 * PAGE, 2 * PAGE);
        world.space.map_region(there, Arc::new(both), 0, Attr::new(Prot::RW)).unwrap();
        world.memory.write(&[0; 8192], GuestAddress(RAM - 4 * PAGE)).unwrap();
        assert_eq!(lens(RAM - 4 * PAGE + 96, 8000), [4000, 4000]);
    }

    fn a_part_of_a_slice_marks_its_own_pages(format: impl Format) {
        let world = World::new(format);
        let there = range(RAM - 8 * PAGE, 4 * PAGE);
        let frames = Contiguous::new(pfn(0x100), 4).unwrap();
        world.space.map_region(there, Arc::new(frames), 0, Attr::new(Prot::RW)).unwrap();
        let world = world.tracked();
        world.space.prefault(there, |_| ControlFlow::Continue(())).unwrap();
        let mut found = Bitmap::new(there);
        world.space.dirty(there, &mut found).unwrap();
        found.clear();
        let gpa = GuestAddress(there.start().get() + 8);
        let slices = world.memory.get_slices(gpa, 4 * PAGE as usize - 8, Permissions::ReadWrite);
        let slice = slices.unwrap().next().unwrap().unwrap();
        slice.subslice(5000, 3300).unwrap().offset(100).unwrap().write_slice(&[1; 3100], 0).unwrap();
        let dirty = [0, 4087, 4088, 8190, 12_278, 12_280].map(|at| slice.bitmap().dirty_at(at));
        assert_eq!(dirty, [false, false, true, true, true, false]);
        slice.bitmap().mark_dirty(12_279, 1);
        slice.bitmap().mark_dirty(0, 0);
        assert_eq!(world.space.dirty(there, &mut found).unwrap(), 2);
        assert_eq!(found.words()[0], 0b0110);
    }

    fn what_a_handle_has_counted_outlives_it(format: impl Format) {
        let world = World::new(format);
        for page in 0..4 {
            let memory = world.memory.clone();
            memory.read_obj::<u8>(GuestAddress(RAM + page * PAGE)).unwrap();
            drop(memory);
            assert_eq!(world.space.resident(), page + 1);
        }
        assert_eq!(world.space.stats().faults, 4);
    }

    fn a_slice_outlives_its_region_and_marks_no_other_page(format: impl Format) {
        let world = World::new(format).tracked();
        let gpa = GuestAddress(ROM);
        let rights = world.space.protect_region(range(ROM, ROM_PAGES * PAGE), Prot::R);
        rights.unwrap();
        let ram = range(RAM, RAM_PAGES * PAGE);
        let target = GuestAddress(RAM + 3 * PAGE);
        let slices = world.memory.get_slices(target, 16, Permissions::Write).unwrap();
        let slice = slices.map(Result::unwrap).next().unwrap();
        world.space.unmap_region(ram).unwrap();
        assert!(refused(&world.memory, target.0, Permissions::Write).to_string().contains("address"));
        slice.write_slice(&[3; 16], 0).unwrap();
        let other = Contiguous::new(pfn(0x100), RAM_PAGES).unwrap();
        world.space.map_region(ram, Arc::new(other), 0, Attr::new(Prot::RW)).unwrap();
        // There, without being dirty, where the MMU keeps such bits.
        world.memory.read_obj::<u8>(target).unwrap();
        world.dirty();
        slice.write_slice(&[4; 16], 0).unwrap();
        assert!(!slice.bitmap().dirty_at(0));
        assert_eq!(world.dirty(), NONE);
        assert_eq!(world.memory.read_obj::<u8>(gpa).unwrap(), 0);
        assert_eq!(world.peek(target.0, 16), [4; 16], "host memory is as it was");
    }
}

#[test]
fn a_handle_can_be_sent_shared_and_cloned() {
    fn is<T: Send + Sync + Clone>() {}
    is::<SpaceMemory<slat::Ept, HeapFrames, world::Host>>();
}

#[test]
fn errors_are_vm_memorys() {
    // What slices themselves refuse stays what it was.
    let error = VolatileMemoryError::OutOfBounds { addr: 3 };
    assert!(matches!(GuestMemoryError::from(error), GuestMemoryError::InvalidBackendAddress));
}
