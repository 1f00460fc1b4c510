use slat::{Ept, EptCaps, Levels, PageSize, PhysWidth};

use super::*;
use crate::visits::Visits;

/// Runs `test` with a manager of all regions, and with the stage, on which there is one vCPU.
fn with_manager(test: impl FnOnce(&Stage, Manager<'_>)) {
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let (change, flushing) = (Change::Churn, Flushing::Served);
    let visits =
        Visits::new(64 * 4096, PageSize::Size4K, 1, Turnover { change, rounds: 1, flushing })
            .unwrap();
    let machine = Machine::new(ept.into(), &visits, 1, None).unwrap();
    let regions = machine.layout.regions().len();
    let stage = Stage::new(regions, 1, 1, 1);
    test(&stage, Manager::new(&machine, &stage, 0..regions));
}

#[test]
fn a_region_is_picked_where_a_vcpu_has_settled_and_pauses() {
    with_manager(|stage, mut manager| {
        let [settled, both, paused] = [&stage.places[1], &stage.places[2], &stage.places[3]];
        settled.arrive();
        both.arrive();
        thread::scope(|scope| {
            let picked = scope.spawn(move || manager.pick());
            while !picked.is_finished() {
                both.pause();
                paused.pause();
                thread::yield_now();
            }
            assert_eq!(picked.join().unwrap(), Some(2));
        });
    });
}

#[test]
fn nothing_is_picked_when_the_vcpus_are_gone() {
    with_manager(|stage, mut manager| {
        drop(stage.vcpus.guard());
        assert_eq!(manager.pick(), None);
    });
}

#[test]
fn every_other_region_is_away_and_the_first_that_went_comes_back_first() {
    with_manager(|_, mut manager| {
        for region in [5, 3, 8] {
            manager.exchange(region, 2).unwrap();
        }
        assert_eq!(manager.account.away, [3, 8]);
        assert!(manager.present.contains(&5) && !manager.present.contains(&3));
        let machine = manager.machine;
        let is_there = |region: usize| {
            let range = machine.layout.regions()[region];
            machine.space.unmap_region(range).is_ok()
        };
        assert_eq!([5, 3, 8].map(is_there), [true, false, false]);
        assert_eq!(manager.account.rounds, 3);
    });
}
