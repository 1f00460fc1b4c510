//! Tables that were unlinked: who keeps them, and when they are freed.

use core::cell::RefCell;

use super::*;
use crate::ops::PopulateError;

#[test]
fn a_table_that_nobody_walks_is_freed_as_it_is_retired() {
    let rig = Rig::mapped();
    // One that is out does not hold it back.
    let mut idle = rig.observer();
    drop(idle.enter(Tracking::On));
    let (free, generation) = (rig.free(), rig.generation());
    rig.unlink(0);
    assert_eq!(rig.free(), free + 1);
    let stats = rig.stats();
    assert_eq!((stats.tables, stats.waiting), (4, 0));
    assert_eq!(stats.generation.get(), generation + 1, "though no leaf was unmapped");
    assert!(rig.pin().lookup(Gpa::new(0)).is_none());
    assert!(rig.pin().lookup(Gpa::new(2 * MIB)).is_some());
}

#[test]
fn a_pin_keeps_a_table_until_it_has_been_renewed_or_dropped() {
    let rig = Rig::mapped();
    let reader = rig.reader();
    let mut pin = reader.pin();
    let slot = pin.slot(Gpa::new(0)).unwrap();
    let free = rig.free();
    rig.unlink(0);
    // It is not poisoned, nor anybody else's.
    assert_eq!(slot.mapping().unwrap().pfn, HostPfn::new(7));
    for _ in 0..100 {
        drop(rig.pin());
    }
    assert_eq!(rig.reclaim(&nobody), Reclaimed::new(0, 1));
    assert_eq!(slot.mapping().unwrap().pfn, HostPfn::new(7));
    // Renewed in an epoch in which the table was still there, it may have to be renewed once more.
    for waiting in [1, 0] {
        pin.repin();
        assert_eq!(rig.reclaim(&nobody).waiting, waiting);
    }
    assert_eq!(rig.free(), free + 1);
    rig.unlink(2 * MIB);
    drop(pin);
    assert_eq!(rig.free(), free + 1, "ending a pin frees nothing");
    assert_eq!(rig.reclaim(&nobody), Reclaimed::new(1, 0));
}

#[test]
fn the_fault_path_frees_nothing_though_it_finds_grace_periods_ended() {
    let rig = Rig::mapped();
    let reader = rig.reader();
    let pin = reader.pin();
    rig.unlink(0);
    drop(pin);
    let free = rig.free();
    let mut observer = rig.observer();
    for page in 0..2_000 {
        let gpa = Gpa::new(2 * MIB + (1 + page % 500) * PAGE);
        let _inside = observer.enter(Tracking::On);
        let pin = reader.pin();
        pin.map(gpa, HostPfn::new(page), PageSize::Size4K, RWX).unwrap();
        drop(pin.unmap(gpa).unwrap());
    }
    assert_eq!((rig.free(), rig.stats().waiting), (free, 1));
    assert_eq!(rig.reclaim(&nobody), Reclaimed::new(1, 0));
}

#[test]
fn an_observer_that_is_inside_keeps_a_table_until_it_comes_out_or_acknowledges() {
    for acknowledges in [true, false] {
        let rig = Rig::mapped();
        let mut observer = rig.observer();
        let id = observer.id();
        let mut cache = TranslationCache::default();
        let mut inside = observer.enter(Tracking::On);
        let read = |inside: &Inside<'_, _, _>, cache: &mut _| {
            inside.mmu().translate_cached(cache, Gpa::new(PAGE), Access::READ).map(|to| to.pfn)
        };
        inside.mmu().translate_cached(&mut cache, Gpa::new(0), Access::READ).unwrap();
        rig.map(PAGE, 9);
        rig.unlink(0);
        let kicked = RefCell::new(Vec::new());
        let kick = |id| kicked.borrow_mut().push(id);
        assert_eq!(rig.reclaim(&kick), Reclaimed::new(0, 1));
        assert_eq!(*kicked.borrow(), [id]);
        // Its walk cache still leads there.
        assert_eq!(read(&inside, &mut cache), Ok(HostPfn::new(9)));
        if acknowledges {
            inside.acknowledge(|_| ());
            inside.refresh(&mut cache);
            assert!(read(&inside, &mut cache).is_err());
            // It holds nothing back, and so is not kicked.
            assert_eq!(rig.reclaim(&nobody), Reclaimed::new(1, 0));
            drop(inside);
        } else {
            drop(inside);
            assert_eq!(rig.reclaim(&nobody), Reclaimed::new(1, 0));
        }
        let inside = observer.enter(Tracking::On);
        assert!(read(&inside, &mut cache).is_err());
    }
}

#[test]
fn an_observer_that_entered_later_does_not_keep_a_table() {
    let rig = Rig::mapped();
    let (mut early, mut late) = (rig.observer(), rig.observer());
    let inside = early.enter(Tracking::On);
    rig.unlink(0);
    let later = late.enter(Tracking::On);
    rig.unlink(2 * MIB);
    assert_eq!(rig.stats().waiting, 2);
    // Each of the two holds something back.
    let kicked = RefCell::new(Vec::new());
    let kick = |id| kicked.borrow_mut().push(id);
    assert_eq!(rig.reclaim(&kick), Reclaimed::new(0, 2));
    assert_eq!(kicked.take(), [inside.id(), later.id()]);
    drop(inside);
    assert_eq!(rig.reclaim(&kick), Reclaimed::new(1, 1));
    assert_eq!(kicked.take(), [later.id()]);
}

#[test]
fn a_populate_frees_what_it_can_before_it_needs_frames() {
    let rig = Rig::mapped();
    let reader = rig.reader();
    let pin = reader.pin();
    rig.unlink(0);
    rig.unlink(2 * MIB);
    let all = range(0, 60 * MIB);
    let refused = rig.populate(all, PageSize::Size4K).unwrap_err();
    let PopulateError::OutOfFrames(few) = refused else { panic!("{refused}") };
    assert_eq!((few.needed, few.free, few.waiting), (30, 27, 2));
    drop(pin);
    let refused = rig.populate(all, PageSize::Size4K).unwrap_err();
    let PopulateError::OutOfFrames(few) = refused else { panic!("{refused}") };
    assert_eq!((few.needed, few.free, few.waiting), (30, 29, 0));
    rig.populate(range(0, 58 * MIB), PageSize::Size4K).unwrap();
}

#[test]
fn a_subtree_goes_back_whole() {
    let rig = Rig::new();
    let free = rig.free();
    rig.populate(range(0, 20 * MIB), PageSize::Size4K).unwrap();
    let structure = rig.domain().lock();
    let (root, level) = structure.walk().root();
    let dead = structure.writer().unlink(root.slot(0), level, 12, Content::Zero);
    structure.retire(vec![dead], range(0, 20 * MIB));
    assert_eq!(rig.free(), free);
    assert_eq!(rig.stats().tables, 1);
    rig.populate(range(0, 20 * MIB), PageSize::Size4K).unwrap();
}

#[test]
fn what_waits_when_the_table_is_dropped_is_freed_with_it() {
    let rig = Rig::mapped();
    let mut observer = rig.observer();
    let inside = observer.enter(Tracking::On);
    rig.unlink(0);
    drop(inside);
    assert_eq!(rig.stats().waiting, 1);
}

#[test]
fn rounds_beside_an_idle_observer_and_a_reader_that_pins_now_and_then_need_no_more_memory() {
    let rig = Rig::new();
    let reader = rig.reader();
    let mut observer = rig.observer();
    for round in 0..2_000 {
        rig.populate(range(0, 2 * MIB), PageSize::Size4K).unwrap();
        if round % 10 == 0 {
            let inside = observer.enter(Tracking::On);
            assert!(inside.mmu().translate(Gpa::new(0), Access::READ).is_err());
        }
        let pin = (round % 3 == 0).then(|| reader.pin());
        rig.unlink(0);
        assert!(rig.stats().waiting <= 1);
        drop(pin);
    }
    assert_eq!(rig.reclaim(&nobody).waiting, 0);
}

#[test]
fn a_long_stay_holds_back_everything_since_and_then_nothing() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    let reader = rig.reader();
    let (inside, pin) = (observer.enter(Tracking::On), reader.pin());
    for waiting in 1..=20 {
        rig.populate(range(0, 2 * MIB), PageSize::Size4K).unwrap();
        rig.unlink(0);
        assert_eq!(rig.stats().waiting, waiting);
    }
    drop(inside);
    assert_eq!(rig.reclaim(&nobody), Reclaimed::new(0, 20));
    drop(pin);
    assert_eq!(rig.reclaim(&nobody), Reclaimed::new(20, 0));
}
