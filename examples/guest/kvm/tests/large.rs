//! What KVM keeps of a large leaf, and that it forgets that.
//!
//! A KVM that has shadow pages gives a large leaf one as well, where the host's pages are small. It is that
//! of the leaf's *frames*: when another leaf gets these, it is found, linked there too, and filled again.

use slat::{Attr, HostPfn, LeafFlags, PAGE_BYTES, PageSize, Prot};

use super::rig::{Rig, gpa, pfn, range, with_guest};

/// Pages of a large leaf.
const LEAF: u64 = PageSize::Size2M.pages();
/// Two pages below another entry of the root, where leaves begin.
const ONE: u64 = 1 << 27;
const OTHER: u64 = ONE + LEAF;

fn map(rig: &Rig, page: u64, first: HostPfn) {
    let attr = Attr::new(Prot::RW).with_flags(LeafFlags::USER);
    let mapped = rig.table.pin().map(gpa(page), first, PageSize::Size2M, attr);
    mapped.expect("it is populated");
}

/// Takes the frames of one leaf away, `tell`s KVM, and gives the frames to another, which a vCPU uses;
/// returns what the vCPU finds then at the first, which has other frames.
fn remapped(rig: &Rig, tell: impl FnOnce()) -> u64 {
    let (old, new) = (LEAF, 2 * LEAF);
    rig.data.store((old * PAGE_BYTES) as usize, 0x100);
    rig.data.store((new * PAGE_BYTES) as usize, 0x200);
    rig.table.populate(range(ONE, 2 * LEAF), PageSize::Size2M).expect("there are tables");
    map(rig, ONE, pfn(old));
    let mut cpu = rig.cpu(0);
    assert_eq!(rig.seen(&mut cpu, ONE), 0x100);
    assert_eq!(rig.unmap(ONE), pfn(old));
    tell();
    map(rig, OTHER, pfn(old));
    map(rig, ONE, pfn(new));
    assert_eq!(rig.seen(&mut cpu, OTHER), 0x100);
    rig.seen(&mut cpu, ONE)
}

#[test]
fn kvm_a_large_leaf_is_stale_until_a_vcpu_is_told() {
    with_guest(1, 3 * LEAF, |rig| match remapped(rig, || ()) {
        0x100 => {}
        found => {
            assert_eq!(found, 0x200);
            println!("skipped: a_large_leaf_is_stale: this KVM has forgotten by itself");
        }
    });
}

#[test]
fn kvm_a_large_leaf_is_gone_when_a_vcpu_was_told() {
    with_guest(1, 3 * LEAF, |rig| {
        assert_eq!(remapped(rig, || rig.tell()), 0x200);
        assert_eq!(rig.vm.zaps(), 2, "one is the first entry's");
    });
}
