use std::time::Instant;

use super::*;
use crate::{manager::Flushing, stage::Stage};

const BYTES: u64 = 1000 * 4096;

/// Runs `test` with a vCPU's share, and with the stage of a run in which so many managers are at work.
fn visit(managers: usize, test: impl FnOnce(&Stage, &Layout, Box<dyn Share + '_>)) {
    let turnover = Turnover { change: Change::Churn, rounds: 1, flushing: Flushing::Served };
    let visits = Visits::new(BYTES, PageSize::Size4K, 1, turnover).unwrap();
    let stage = Stage::new(visits.layout.regions().len(), 0, managers, 1);
    let part = Part { number: 0, count: 1, begun: Instant::now(), stage: &stage };
    test(&stage, &visits.layout, visits.share(part));
}

fn in_use(stage: &Stage) -> Vec<usize> {
    (0..stage.places.len()).filter(|&region| stage.places[region].uses().is_some()).collect()
}

#[test]
fn a_vcpu_is_known_to_be_in_a_region_from_when_it_has_settled_until_it_goes() {
    visit(1, |stage, layout, mut share| {
        for _ in 0..20 {
            let region = layout.region_of(share.next().unwrap().page);
            let mut pages = Vec::new();
            for planned in 2..=VISIT {
                pages.push(share.next().unwrap().page);
                let before = if planned <= SETTLED { vec![] } else { vec![region] };
                assert_eq!(in_use(stage), before, "{planned} are planned, not done");
                share.settled();
                let after = if planned < SETTLED { vec![] } else { vec![region] };
                assert_eq!(in_use(stage), after, "{planned} are done");
            }
            assert!(pages.iter().all(|&page| layout.region_of(page) == region));
            pages.sort_unstable();
            pages.dedup();
            assert_eq!(pages.len(), WINDOW, "it uses all pages of its window");
        }
    });
}

#[test]
fn a_vcpu_goes_when_there_is_no_memory_and_when_it_is_dropped() {
    for settled in [SETTLED - 1, SETTLED] {
        visit(1, |stage, _, mut share| {
            (0..settled).for_each(|_| assert!(share.next().is_some()));
            share.settled();
            share.absent();
            assert!(in_use(stage).is_empty());
            (0..settled).for_each(|_| assert!(share.next().is_some()));
            share.settled();
            drop(share);
            assert!(in_use(stage).is_empty());
        });
    }
}

#[test]
fn a_share_ends_with_the_visit_in_which_the_managers_went() {
    visit(0, |_, _, mut share| assert_eq!(share.next(), None));
    visit(1, |stage, _, mut share| {
        share.next().unwrap();
        drop(stage.managers.guard());
        (1..VISIT).for_each(|_| assert!(share.next().is_some()));
        assert_eq!(share.next(), None);
        assert!(in_use(stage).is_empty());
    });
}
