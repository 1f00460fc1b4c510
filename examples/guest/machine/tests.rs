use std::iter;

use slat::{Ept, EptCaps, Levels, PhysWidth};

use super::*;
use crate::{manager::Turnover, visits::Visits, workload::Touch};

/// Makes a machine with two pages for a workload; returns how many frames it has.
fn frames(workload: &dyn Workload, vcpus: usize) -> usize {
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let machine = Machine::new(ept.into(), workload, vcpus, None).unwrap();
    iter::from_fn(|| machine.memory.allocate(PageSize::Size4K)).count()
}

#[test]
fn frames_suffice_when_every_page_has_two_while_it_moves() {
    let pages = 2;
    let bytes = pages as u64 * 4096;
    let touch = Touch { layout: Layout::linear(bytes).unwrap(), seed: 1 };
    assert_eq!(frames(&touch, 3), pages + 3);
    for (change, times) in [(Change::Churn, 1), (Change::Migrate, 2)] {
        let turnover = Turnover { change, rounds: 1, flushing: Flushing::Served };
        let visits = Visits::new(bytes, PageSize::Size4K, 1, turnover).unwrap();
        assert_eq!(frames(&visits, 3), times * pages + 3, "{change:?}");
    }
}

#[test]
fn a_thread_that_panicked_is_an_error_and_the_others_are_waited_for() {
    let ended: anyhow::Result<Vec<u32>> = thread::scope(|scope| {
        let threads = [0, 1].map(|number| {
            let run = move || if number == 0 { panic!("one of the test's") } else { Some(number) };
            spawn(scope, format!("thread-{number}"), run).unwrap()
        });
        join(threads.into())
    });
    assert!(ended.unwrap_err().to_string().contains("panicked"));
}

#[test]
fn more_memory_than_the_host_has_is_refused() {
    assert!(check_host(1, PageSize::Size4K, 1).is_ok());
    assert!(check_host(GuestMemory::PAGES + 1, PageSize::Size4K, 1).is_err());
    if let Some(available) = available_memory() {
        // What is known of a page is more than its contents.
        let error = check_host(available / 4096, PageSize::Size4K, 512).unwrap_err().to_string();
        assert!(error.contains("MiB available"), "{error}");
    }
}
