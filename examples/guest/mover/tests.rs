//! A region moves under a vCPU that is in the guest, and does there what matters at the moment when it is
//! kicked: with the processors that there are, chance would come to that too rarely.

use std::{sync::Barrier, thread};

use slat::{
    AnyFormat, Arena, Ept, EptCaps, Fault, FaultError, Gpa, Inside, Levels, Mapping, PageSize,
    PhysWidth, Tracking,
    mmu::{Access, TranslationCache},
};

use super::*;
use crate::{
    deeds::{Bits, Life},
    manager::{Change, Flushing, Turnover},
    stage::Stage,
    visits::Visits,
};

/// Pages of memory, which are divided into regions of four.
const PAGES: u64 = 64;

/// How a region is moved: first in the one way, then in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    CopyOnTheSide,
    UnmapFirst,
}

/// Runs `test` with a machine of which region 0 is mapped, and with its manager.
fn with_region(test: impl FnOnce(&Machine<'_>, &Stage, Manager<'_>)) {
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let turnover = Turnover { change: Change::Migrate, rounds: 2, flushing: Flushing::Served };
    let visits = Visits::new(PAGES * 4096, PageSize::Size4K, 1, turnover).unwrap();
    let machine = Machine::new(ept.into(), &visits, 1, None).unwrap();
    let stage = Stage::new(machine.layout.regions().len(), 1, 1, 2);
    machine.space.prefault(machine.layout.regions()[0], |_| ControlFlow::Continue(())).unwrap();
    test(&machine, &stage, Manager::new(&machine, &stage, 0..1));
}

/// What is to be said of a page, as it is mapped now.
fn life(machine: &Machine<'_>, page: usize) -> Life {
    let mapping = mapping(machine, machine.layout.gpa(page));
    machine.memory.life(mapping.range(), mapping.pfn, mapping.into()).unwrap()
}

fn mapping(machine: &Machine<'_>, gpa: Gpa) -> Mapping {
    machine.table().reader().pin().lookup(gpa).unwrap()
}

/// Moves region 0 while a vCPU is in the guest, whose TLB lets it write to page 0. When it is kicked it does
/// `last`, and then comes out.
fn move_under(
    way: Way,
    last: impl FnOnce(&Machine<'_>, &Inside<'_, AnyFormat, Arena>, &mut TranslationCache) + Send,
    check: impl FnOnce(&Machine<'_>),
) {
    with_region(|machine, stage, mut manager| {
        if way == Way::UnmapFirst {
            manager.move_region(0).unwrap();
        }
        let inside = Barrier::new(2);
        let ready = &inside;
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut vcpu = machine.space.vcpu();
                let seat = machine.kicks.sit(vcpu.id());
                let inside = vcpu.enter(Tracking::On);
                let mut tlb = TranslationCache::default();
                let gpa = machine.layout.gpa(0);
                inside.mmu().translate_cached(&mut tlb, gpa, Access::WRITE).unwrap();
                ready.wait();
                // If nobody kicks, it does so too late.
                while !seat.is_kicked() && stage.managers.any() {
                    thread::yield_now();
                }
                last(machine, &inside, &mut tlb);
            });
            let at_work = stage.managers.guard();
            ready.wait();
            let moved = manager.move_region(0);
            drop(at_work);
            moved.unwrap();
        });
        check(machine);
    });
}

#[test]
fn a_page_moves_with_its_contents_and_its_bits_in_either_way() {
    with_region(|machine, _, mut manager| {
        let gpa = machine.layout.gpa(0);
        let Life { stay, .. } = life(machine, 0);
        for (sum, copied, unmapped_first) in [(1, 4, 0), (2, 4, 4)] {
            let old = mapping(machine, gpa);
            machine.memory.frame(old.pfn).unwrap().add(3, 1);
            machine.table().reader().pin().slot(gpa).unwrap().set_dirty();
            manager.move_region(0).unwrap();

            let moved = Life { leaf: old.range(), stay, bits: Bits::default(), sum };
            assert_eq!(life(machine, 0), moved);
            let new = mapping(machine, gpa);
            assert!(new.pfn != old.pfn && new.attr == machine.attr, "{old:?} {new:?}");
            let tenant = machine.memory.frame(old.pfn).unwrap().stay();
            assert_ne!(tenant, Some(stay), "it is free, or another page has moved there");
            let journal = machine.memory.journal();
            assert_eq!((journal.copied, journal.unmapped_first), (copied, unmapped_first));
            let dirty = Bits { accessed: false, dirty: true };
            let of_page = journal.moved.iter().filter(|&&moved| moved == (stay, dirty));
            assert_eq!(of_page.count() as u64, manager.account.rounds);
        }
        assert_eq!(machine.memory.traffic().in_use(), 4);
    });
}

#[test]
fn what_a_vcpu_writes_until_it_is_out_moves_along() {
    for way in [Way::CopyOnTheSide, Way::UnmapFirst] {
        let write = |machine: &Machine<'_>, inside: &Inside<'_, _, _>, tlb: &mut _| {
            let gpa = machine.layout.gpa(0);
            let known = inside.mmu().translate_cached(tlb, gpa, Access::WRITE).unwrap();
            machine.memory.frame(known.pfn).unwrap().add(5, 7);
        };
        move_under(way, write, |machine| assert_eq!(life(machine, 0).sum, 7, "{way:?}"));
    }
}

#[test]
fn pages_are_read_and_executed_and_not_written_while_they_are_copied() {
    let try_all = |machine: &Machine<'_>, inside: &Inside<'_, _, _>, _: &mut _| {
        let gpa = machine.layout.gpa(1);
        assert!(inside.mmu().translate(gpa, Access::READ).is_ok());
        assert!(inside.mmu().translate(gpa, Access::FETCH).is_ok());
        assert!(inside.mmu().translate(gpa, Access::WRITE).is_err());
        let denied = machine.space.vcpu().fault(gpa, Prot::W);
        assert!(matches!(denied, Err(FaultError::Denied { .. })), "{denied:?}");
    };
    move_under(Way::CopyOnTheSide, try_all, |machine| {
        // The entry said so before the pages were unmapped.
        let moved = (life(machine, 1).stay, Bits { accessed: true, dirty: false });
        let journal = machine.memory.journal();
        assert!(journal.moved.contains(&moved), "{:?}", journal.moved);
    });
}

#[test]
fn pages_that_are_unmapped_first_are_gone_until_they_are_back() {
    let try_all = |machine: &Machine<'_>, inside: &Inside<'_, _, _>, _: &mut _| {
        assert!(inside.mmu().translate(machine.layout.gpa(1), Access::READ).is_err());
        let waits = machine.space.vcpu().fault(machine.layout.gpa(1), Prot::R);
        assert_eq!(waits.unwrap(), Fault::Retry);
    };
    move_under(Way::UnmapFirst, try_all, |machine| {
        assert_eq!(machine.memory.journal().unmapped_first, 4);
        assert!((0..4).all(|page| mapping(machine, machine.layout.gpa(page)).attr == machine.attr));
    });
}

#[test]
fn a_page_that_has_moved_is_where_its_contents_are_whoever_asks() {
    with_region(|machine, _, mut manager| {
        let gpa = machine.layout.gpa(2);
        machine.memory.frame(mapping(machine, gpa).pfn).unwrap().add(1, 6);
        manager.move_region(0).unwrap();
        let before = mapping(machine, gpa);
        let movable = machine.movable.as_ref().unwrap();
        let want = Want::new(2, PageSize::Size4K, Prot::R);
        for _ in 0..2 {
            let answer = movable.frame(&want);
            assert!(matches!(answer, Answer::Frame(pfn, _) if pfn == before.pfn), "{answer:?}");
            movable.release(Released::unused(2, before.pfn, PageSize::Size4K));
        }
        assert_eq!((life(machine, 2).sum, machine.memory.traffic().in_use()), (6, 4));
    });
}

#[test]
fn without_a_frame_a_page_stays_where_it_is() {
    with_region(|machine, _, mut manager| {
        let before = mapping(machine, machine.layout.gpa(0));
        while machine.memory.allocate(PageSize::Size4K).is_some() {}
        for _ in 0..2 {
            assert!(matches!(manager.move_region(0), Err(Stuck::OutOfFrames(_))));
            machine.space.vcpu().fault(machine.layout.gpa(0), Prot::W).unwrap();
            let now = mapping(machine, machine.layout.gpa(0));
            assert_eq!((now.pfn, now.attr), (before.pfn, machine.attr));
            manager.account.rounds += 1;
        }
    });
}
