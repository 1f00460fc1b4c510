//! An upper entry that comes to lead to another table, while a vCPU has translations through the old one.
//!
//! The old table is some other page's by then, so who still goes through it comes to that page's frame. A KVM
//! that has shadow pages finds that of the old table by the table's frame: for who has the table now, and it stays
//! linked for who had it. To make KVM forget the *data* frame empties one entry of it, which is filled again for
//! the page that is looked at first: for the other one, and who had the table goes on there, without a fault.

use slat::{PAGE_BYTES, PageSize, Prot};

use super::rig::{Rig, load, range, with_guest};
use crate::kvm::cpu::{Cpu, Exit};

/// A page below another entry of the root.
const OTHER: u64 = 1 << 27;

/// What is in the frame that the page had, in the one that it has now, and in the other page's.
const OLD: u64 = 0x100;
const NEW: u64 = 0x101;
const OTHERS: u64 = 0x102;

/// The entry on the way to the page that comes to lead elsewhere.
#[derive(Clone, Copy, Debug)]
enum Repointed {
    L4,
    L3,
    L2,
}

/// What is done for the vCPU to forget.
#[derive(Clone, Copy, Debug)]
enum Told {
    Nobody,
    /// KVM, that the frame is gone which the page had.
    KvmOfTheFrame,
    /// The vCPU, by what it finds due when it enters.
    TheVcpu,
}

impl Repointed {
    const ALL: [Self; 3] = [Self::L4, Self::L3, Self::L2];

    /// Returns how many tables below the root stay where they are.
    const fn kept(self) -> usize {
        match self {
            Self::L4 => 0,
            Self::L3 => 1,
            Self::L2 => 2,
        }
    }

    /// Populates what keeps these.
    fn keep(self, rig: &Rig, page: u64) {
        let further = match self {
            Self::L4 => return,
            Self::L3 => PageSize::Size1G.pages(),
            Self::L2 => PageSize::Size2M.pages(),
        };
        rig.table.populate(range(page + further, 1), PageSize::Size4K).expect("there are tables");
    }
}

/// Gives the tables of page 0, where a vCPU has been, to [`OTHER`], and others to page 0, with another frame;
/// returns what the vCPU finds then in these pages, one after the other.
fn repoint<const N: usize>(
    rig: &Rig,
    repointed: Repointed,
    told: Told,
    pages: [u64; N],
) -> [u64; N] {
    (0..3).for_each(|frame| rig.data.store((frame * PAGE_BYTES) as usize, OLD + frame));
    [0, OTHER].into_iter().for_each(|page| repointed.keep(rig, page));
    let mut cpu = rig.cpu(0);
    rig.map(0, 0, Prot::RW);
    assert_eq!(rig.seen(&mut cpu, 0), OLD);
    let before = tables(rig, 0);
    rig.unmap(0);
    rig.table.vacate(range(0, rig.pages)).expect("nothing is mapped");
    for (page, frame) in [(OTHER, 2), (0, 1)] {
        rig.table.populate(range(page, rig.pages), PageSize::Size4K).expect("there are tables");
        rig.map(page, frame, Prot::RW);
    }
    let (others, after, kept) = (tables(rig, OTHER), tables(rig, 0), repointed.kept());
    assert_eq!(others[kept..], before[kept..], "these must be the same for the test to tell");
    assert_eq!(after[..kept], before[..kept]);
    assert!(after[kept..].iter().all(|table| !before.contains(table)), "{after:x?}, {before:x?}");
    if let Told::KvmOfTheFrame = told {
        rig.forget_frame(0);
    }
    pages.map(|page| match told {
        Told::TheVcpu => rig.seen(&mut cpu, page),
        Told::Nobody | Told::KvmOfTheFrame => seen_untold(&mut cpu, page),
    })
}

/// Returns what a vCPU reads that invalidates nothing on its way in.
fn seen_untold(cpu: &mut Cpu<'_>, page: u64) -> u64 {
    cpu.load(&[load(page)]).expect("it is short");
    let exit = cpu.stay(|_, _| Ok(())).unwrap_or_else(|crash| panic!("{crash}"));
    assert_eq!(exit, Exit::Done, "page {page} is mapped");
    cpu.result(0)
}

/// Returns the frames of the tables below the root on the way to a page.
fn tables(rig: &Rig, page: u64) -> Vec<u64> {
    rig.path(page)[..3].iter().map(|entry| entry & 0x000f_ffff_ffff_f000).collect()
}

/// Repoints an entry of each level in turn, each in a guest of its own, and expects that in the pages; or all
/// to be right, where `told` is not enough for a KVM with shadow pages, and this one has none.
fn at_each_level<const N: usize>(told: Told, pages: [u64; N], expected: [u64; N]) {
    let right = pages.map(|page| if page == 0 { NEW } else { OTHERS });
    for repointed in Repointed::ALL {
        with_guest(1, 8, |rig| match repoint(rig, repointed, told, pages) {
            found if found == expected => {}
            found => {
                assert_eq!(found, right, "{repointed:?}, {told:?}: not {expected:x?}");
                println!("skipped: {repointed:?}, {told:?}: this KVM has forgotten by itself");
            }
        });
    }
}

#[test]
fn kvm_an_upper_entry_leads_where_it_led_until_a_vcpu_is_told() {
    at_each_level(Told::Nobody, [0, OTHER, 0], [OLD, OTHERS, OTHERS]);
}

#[test]
fn kvm_to_forget_the_frame_is_not_enough_when_an_upper_entry_leads_elsewhere() {
    at_each_level(Told::KvmOfTheFrame, [OTHER, 0], [OTHERS, OTHERS]);
}

#[test]
fn kvm_an_upper_entry_leads_where_it_says_when_a_vcpu_was_told() {
    at_each_level(Told::TheVcpu, [0, OTHER, 0], [NEW, OTHERS, NEW]);
    at_each_level(Told::TheVcpu, [OTHER, 0], [OTHERS, NEW]);
}
