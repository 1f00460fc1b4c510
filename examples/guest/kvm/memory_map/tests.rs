use super::*;

#[test]
fn what_vcpus_have_to_themselves_is_all_the_memory_and_overlaps_nowhere() {
    for vcpus in [1, 2, 7] {
        let map = MemoryMap { vcpus };
        let mut places =
            vec![(MemoryMap::KERNEL, PAGE), (MemoryMap::WORKER, PAGE), (MemoryMap::IDT, PAGE)];
        for vcpu in 0..vcpus {
            places.extend([
                (map.descriptors(vcpu), PAGE),
                (map.fault_stack(vcpu).minus(PAGE / 2), PAGE / 2),
                (map.exception_stack(vcpu).minus(PAGE / 2), PAGE / 2),
                (map.user_stack(vcpu).minus(PAGE), PAGE),
                (map.batch(vcpu), BATCH * OP_BYTES),
            ]);
        }
        places.sort_by_key(|(place, _)| place.offset());
        let end = places.iter().fold(0, |end, &(place, bytes)| {
            assert_eq!(place.offset(), end, "{vcpus} vCPUs: {places:x?}");
            end + bytes
        });
        assert_eq!(end, map.bytes());
    }
}

#[test]
fn parts_are_all_the_memory_in_order_and_backed_by_the_same_offsets() {
    let map = MemoryMap { vcpus: 3 };
    let mut next = region(3).start();
    for part in map.parts() {
        assert_eq!(part.range.start(), next);
        assert_eq!((part.first.get() - SYSTEM.get()) * PAGE_BYTES, next.get() - LINEAR.get());
        next = Gpa::new(part.range.last().get() + 1);
    }
    assert_eq!(next.get() - 1, region(3).last().get());
    assert_eq!(region(3).pages() * PAGE_BYTES, map.bytes() as u64);
}
