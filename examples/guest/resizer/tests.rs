use std::collections::BTreeSet;

use slat::{Ept, EptCaps, FrameSource, Level, Levels, PhysWidth};

use super::*;
use crate::{
    manager::{Change, Flushing, Turnover},
    stage::Stage,
    visits::Visits,
};

/// Runs `test` with the manager of a large leaf, region 0, which is mapped, and of all decoys. No vCPU is there.
fn with_leaf(test: impl FnOnce(&Machine<'_>, Manager<'_>)) {
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let turnover = Turnover { change: Change::Resize, rounds: 1, flushing: Flushing::Served };
    let visits = Visits::new(2 << 20, PageSize::Size2M, 1, turnover).unwrap();
    let machine = Machine::new(ept.into(), &visits, 1, None).unwrap();
    let regions = machine.layout.regions().len();
    let stage = Stage::new(regions, 0, 1, 1);
    machine.space.prefault(machine.layout.regions()[0], |_| ControlFlow::Continue(())).unwrap();
    let mut manager = Manager::new(&machine, &stage, 0..regions);
    manager.leave_decoys_away();
    test(&machine, manager);
}

/// Returns the frames of the tables below the root on the way to a region.
fn tables(machine: &Machine<'_>, region: usize) -> BTreeSet<HostPfn> {
    let gpa = machine.layout.regions()[region].start();
    let walk = machine.table().pin().walk(gpa, Level::L2);
    let tables = walk.iter().map(|step| HostPfn::new(step.entry.raw() >> 12 & ((1 << 34) - 1)));
    tables.collect()
}

/// Writes to a page of the leaf, as an MMU does, or without its mark.
fn write(machine: &Machine<'_>, page: u64, mark: impl FnOnce(Gpa)) {
    let gpa = Gpa::new(page * PAGE_BYTES);
    mark(gpa);
    let leaf = machine.table().pin().lookup(gpa).unwrap();
    machine.memory.frame(leaf.frame_of(gpa).unwrap()).unwrap().add(7, 5);
}

#[test]
fn the_next_decoy_has_tables_that_the_one_before_and_the_leaf_had() {
    with_leaf(|machine, mut manager| {
        let (first, next) = (1, 3);
        assert!(manager.present.contains(&first) && manager.account.away.contains(&next));
        machine
            .space
            .prefault(machine.layout.regions()[first], |_| ControlFlow::Continue(()))
            .unwrap();
        // Nobody comes back for it: a manager of two has one.
        manager.lay_aside(2).unwrap();
        let spare = machine.table().frames().free_frames();
        let before = tables(machine, first);
        for region in [first, next] {
            assert!(manager.present.contains(&region));
            manager.resize_region(0).unwrap();
        }
        let resized = manager.account.resized.as_ref().unwrap();
        assert_eq!((resized.split, resized.unmarked), (2, 0));
        assert_eq!(machine.table().frames().free_frames(), spare);
        let leaf = machine.table().pin().lookup(Gpa::new(0)).unwrap();
        assert_eq!(leaf.size, PageSize::Size2M);
        let there = manager.present.iter().find(|&&region| machine.layout.decoy(region).is_some());
        let now = tables(machine, *there.unwrap());
        assert!(now.intersection(&before).count() > 0, "{now:?}, {before:?}");
    });
}

#[test]
fn a_write_that_is_marked_is_copied_and_one_that_is_not_is_noticed() {
    with_leaf(|machine, _| {
        let range = machine.layout.regions()[0];
        let resized = Resized::new(machine.layout).unwrap();
        let set_dirty = |gpa| assert!(!machine.table().pin().slot(gpa).unwrap().set_dirty());
        write(machine, 3, set_dirty);
        assert_eq!(resized.unmarked(machine, range), 0);
        assert_eq!(resized.differing(machine, range).filter(|it| it.1 > 0).count(), 1);
        assert_eq!(resized.copy_dirty(machine, range).unwrap(), 512);
        assert!(resized.differing(machine, range).all(|(_, words)| words == 0));
        write(machine, 4, |_| ());
        assert_eq!(resized.unmarked(machine, range), 1);
        assert_eq!(resized.copy_dirty(machine, range).unwrap(), 0);
        let changed: Vec<_> = resized.differing(machine, range).filter(|it| it.1 > 0).collect();
        assert_eq!(changed, [(Gpa::new(0x4000), 1)]);
    });
}
