//! What KVM keeps of a large leaf, and what makes it forget that.
//!
//! A KVM that has shadow pages gives a large leaf one as well, where the host's pages are small. It is that
//! of the leaf's *frames*: to forget these empties it, and leaves it linked where the leaf was; and when
//! another leaf gets the frames, it is found, linked there too, and filled again.

use slat::{Attr, HostPfn, LeafFlags, Mapping, PAGE_BYTES, PageSize, Prot};

use super::rig::{Rig, gpa, pfn, range, with_guest};
use crate::memory::frames;

/// Pages of a large leaf.
const LEAF: u64 = PageSize::Size2M.pages();
/// Two pages below another entry of the root, where leaves begin.
const ONE: u64 = 1 << 27;
const OTHER: u64 = ONE + LEAF;

fn map(rig: &Rig, page: u64, first: HostPfn) -> Mapping {
    let attr = Attr::new(Prot::RW).with_flags(LeafFlags::USER);
    let pin = rig.table.pin();
    pin.map(gpa(page), first, PageSize::Size2M, attr).expect("it is populated");
    pin.lookup(gpa(page)).expect("it was just mapped")
}

/// Takes the frames of one leaf away, makes KVM `forget` it, and gives the frames to another, which a vCPU
/// uses; returns what the vCPU finds then at the first, which has other frames.
fn remapped(rig: &Rig, forget: impl FnOnce(&Mapping)) -> u64 {
    let (old, new) = (LEAF, 2 * LEAF);
    rig.data.store((old * PAGE_BYTES) as usize, 0x100);
    rig.data.store((new * PAGE_BYTES) as usize, 0x200);
    rig.table.populate(range(ONE, 2 * LEAF), PageSize::Size2M).expect("there are tables");
    let leaf = map(rig, ONE, pfn(old));
    let mut cpu = rig.cpu(0);
    assert_eq!(rig.seen(&mut cpu, ONE), 0x100);
    assert_eq!(rig.unmap(ONE), pfn(old));
    forget(&leaf);
    map(rig, OTHER, pfn(old));
    map(rig, ONE, pfn(new));
    assert_eq!(rig.seen(&mut cpu, OTHER), 0x100);
    rig.seen(&mut cpu, ONE)
}

#[test]
fn kvm_a_large_leaf_is_stale_when_only_its_frames_are_forgotten() {
    with_guest(1, 3 * LEAF, |rig| {
        let forget = |leaf: &Mapping| rig.vm.forget(frames([leaf])).expect("they are data frames");
        match remapped(rig, forget) {
            0x100 => {}
            found => {
                assert_eq!(found, 0x200);
                println!("skipped: a_large_leaf_is_stale: this KVM keeps no shadow pages");
            }
        }
    });
}

#[test]
fn kvm_a_large_leaf_is_gone_when_everything_was_forgotten() {
    with_guest(1, 3 * LEAF, |rig| {
        let forget = |leaf: &Mapping| rig.vm.forget_leaves(&[*leaf]).expect("KVM does");
        assert_eq!(remapped(rig, forget), 0x200);
        assert_eq!((rig.vm.forgotten(), rig.vm.zaps()), (0, 2), "one is the first entry's");
    });
}
