//! A region moves under a vCPU that is in the guest, and does there what matters at the moment when it is
//! kicked: with the processors that there are, chance would come to that too rarely.

use std::{sync::Barrier, thread};

use slat::{
    AnyFormat, Arena, Ept, EptCaps, Gpa, Inside, Levels, PageSize, PhysWidth, Tracking,
    mmu::{Access, TranslationCache},
};

use super::*;
use crate::{
    deeds::{Bits, Life},
    manager::{Change, Flushing, Site, Turnover},
    stage::{Kicks, Stage},
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
    let stage = Stage::new(machine.layout.regions().len(), 1, 1, 2, Kicks::default());
    let reader = machine.table.reader();
    for page in machine.layout.pages_of(0) {
        let (gpa, pfn) =
            (machine.layout.gpa(page), machine.memory.allocate(PageSize::Size4K).unwrap());
        machine.memory.assign(pfn, machine.layout.leaf(page, PageSize::Size4K));
        reader.pin().map(gpa, pfn, PageSize::Size4K, machine.attr).unwrap();
    }
    let site = Site { machine: &machine, stage: &stage, flushing: Flushing::Served };
    test(&machine, &stage, Manager::new(site, 0..1));
}

/// What is to be said of a page, as it is mapped now.
fn life(machine: &Machine<'_>, page: usize) -> Life {
    let mapping = mapping(machine, machine.layout.gpa(page));
    machine.memory.life(mapping).unwrap()
}

fn mapping(machine: &Machine<'_>, gpa: Gpa) -> Mapping {
    machine.table.reader().pin().lookup(gpa).unwrap()
}

/// Moves region 0 while a vCPU is in the guest, whose TLB lets it write to page 0. When it is kicked it does
/// `last`, and then comes out.
fn move_under(
    way: Way,
    last: impl FnOnce(&Machine<'_>, &Stage, &Inside<'_, AnyFormat, Arena>, &mut TranslationCache) + Send,
    check: impl FnOnce(&Machine<'_>, &Manager<'_>),
) {
    with_region(|machine, stage, mut manager| {
        if way == Way::UnmapFirst {
            manager.move_region(0).unwrap();
        }
        let inside = Barrier::new(2);
        let ready = &inside;
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut observer = machine.table.observer();
                let seat = stage.kicks.sit(observer.id());
                let inside = observer.enter(Tracking::On);
                let mut tlb = TranslationCache::default();
                let gpa = machine.layout.gpa(0);
                inside.mmu().translate_cached(&mut tlb, gpa, Access::WRITE).unwrap();
                ready.wait();
                // If nobody kicks, it does so too late.
                while !seat.is_kicked() && stage.managers.any() {
                    thread::yield_now();
                }
                last(machine, stage, &inside, &mut tlb);
            });
            let at_work = stage.managers.guard();
            ready.wait();
            let moved = manager.move_region(0);
            drop(at_work);
            moved.unwrap();
        });
        check(machine, &manager);
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
            machine.table.reader().pin().slot(gpa).unwrap().set_dirty();
            manager.move_region(0).unwrap();

            let moved = Life { leaf: old.range(), stay, bits: Bits::default(), sum };
            assert_eq!(life(machine, 0), moved);
            let new = mapping(machine, gpa);
            assert!(new.pfn != old.pfn && new.attr == machine.attr, "{old:?} {new:?}");
            assert_eq!(machine.memory.frame(old.pfn).unwrap().stay(), None, "it is free");
            let account = &manager.account;
            assert_eq!((account.copied, account.unmapped_first), (copied, unmapped_first));
            let dirty = Bits { accessed: false, dirty: true };
            let of_page = account.moved.iter().filter(|&&moved| moved == (stay, dirty));
            assert_eq!(of_page.count() as u64, account.rounds);
        }
        assert_eq!(machine.memory.traffic().in_use(), 4);
    });
}

#[test]
fn what_a_vcpu_writes_until_it_is_out_moves_along() {
    for way in [Way::CopyOnTheSide, Way::UnmapFirst] {
        let write = |machine: &Machine<'_>, _: &Stage, inside: &Inside<'_, _, _>, tlb: &mut _| {
            let gpa = machine.layout.gpa(0);
            let known = inside.mmu().translate_cached(tlb, gpa, Access::WRITE).unwrap();
            machine.memory.frame(known.pfn).unwrap().add(5, 7);
        };
        move_under(way, write, |machine, _| assert_eq!(life(machine, 0).sum, 7, "{way:?}"));
    }
}

#[test]
fn pages_are_read_and_executed_and_not_written_while_they_are_copied() {
    let try_all = |machine: &Machine<'_>, stage: &Stage, inside: &Inside<'_, _, _>, _: &mut _| {
        let gpa = machine.layout.gpa(1);
        assert!(inside.mmu().translate(gpa, Access::READ).is_ok());
        assert!(inside.mmu().translate(gpa, Access::FETCH).is_ok());
        assert!(inside.mmu().translate(gpa, Access::WRITE).is_err());
        assert!(stage.places[0].try_hold().is_none(), "faults wait for the page");
    };
    move_under(Way::CopyOnTheSide, try_all, |machine, manager| {
        // The entry said so after the pages were listed, and before they were unmapped.
        let moved = (life(machine, 1).stay, Bits { accessed: true, dirty: false });
        assert!(manager.account.moved.contains(&moved), "{:?}", manager.account.moved);
    });
}

#[test]
fn pages_that_are_unmapped_first_are_gone_until_they_are_back() {
    let try_all = |machine: &Machine<'_>, stage: &Stage, inside: &Inside<'_, _, _>, _: &mut _| {
        assert!(inside.mmu().translate(machine.layout.gpa(1), Access::READ).is_err());
        assert!(stage.places[0].try_hold().is_none(), "faults wait for the page");
    };
    move_under(Way::UnmapFirst, try_all, |machine, manager| {
        assert_eq!(manager.account.unmapped_first, 4);
        assert!((0..4).all(|page| mapping(machine, machine.layout.gpa(page)).attr == machine.attr));
    });
}
