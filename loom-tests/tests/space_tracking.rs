//! Spaces: that no write is lost, while tracking is switched on, and while pages are looked for.

use std::sync::Arc as StdArc;

use loom_tests::{
    Arc, Signal, beside, explore, format_with,
    space::{PAGE, Processor, Site, WRITTEN},
};
use slat::{Ept, EptCaps, Fault, HoldEnd, OnDemand, PageSize, Prot, Tracking, mmu::Access};

/// A processor that keeps no dirty bits.
fn plain() -> Ept {
    format_with(EptCaps::USUAL.difference(EptCaps::ACCESSED_DIRTY))
}

fn on_demand(format: Ept) -> Site {
    let site = Site::of(format);
    let backing = OnDemand::new(site.pool(0, 2), 1, PageSize::Size4K);
    site.map(StdArc::new(backing));
    site
}

/// Enters, looks whether tracking is on by then, and writes the page; tells whether it was, and whether the
/// page could be written.
fn write_inside(guest: &mut Processor, signal: &Signal) -> (bool, bool) {
    let mut stay = guest.enter();
    (signal.is_set(), stay.access(PAGE, Access::WRITE).is_ok())
}

/// Has the page written beside who switches tracking on; returns whether it was written when that was known
/// to be over, and whether that was reported.
fn write_beside_start(
    site: Site,
    mut guest: Processor,
    write: impl FnOnce(&mut Processor, &Signal) -> (bool, bool),
) -> (bool, bool) {
    let site = Arc::new(site);
    let there = Arc::clone(&site);
    let signal = Arc::new(Signal::new());
    let over = Arc::clone(&signal);
    let ((after, written), ()) = beside(
        || write(&mut guest, &signal),
        move || {
            there.space.track_dirty(Tracking::On).unwrap();
            over.set();
        },
    );
    let reported = site.is_written();
    assert!(!(after && written) || reported, "a write that came after was not reported");
    guest.touch(Access::WRITE).unwrap();
    assert!(site.is_written(), "the page is written unnoticed from now on");
    (after && written, reported)
}

#[test]
fn a_write_of_a_page_that_is_there_is_reported_if_it_comes_when_tracking_is_on() {
    explore(2, || {
        let site = on_demand(plain());
        let guest = site.warm(Access::WRITE);
        write_beside_start(site, guest, |guest, signal| {
            let (after, written) = write_inside(guest, signal);
            (after, written || guest.touch(Access::WRITE).is_ok())
        })
    })
    .are(&[(false, false), (false, true), (true, true)]);
}

#[test]
fn a_page_that_is_mapped_beside_the_start_of_tracking_is_tracked() {
    explore(2, || {
        let site = on_demand(plain());
        let guest = site.processor();
        write_beside_start(site, guest, |guest, signal| {
            guest.fault(Prot::W).unwrap();
            write_inside(guest, signal)
        })
    })
    .are(&[(false, false), (false, true), (true, true)]);
}

/// The processor keeps bits if it is told to.
#[test]
fn a_vcpu_that_enters_beside_the_start_of_tracking_runs_with_it_or_is_waited_for() {
    explore(2, || {
        let site = on_demand(format_with(EptCaps::USUAL));
        let guest = site.warm(Access::WRITE);
        write_beside_start(site, guest, write_inside)
    })
    .are(&[(false, false), (false, true), (true, true)]);
}

/// Another vCPU may write as soon as a fault has mapped the page.
#[test]
fn a_write_beside_a_look_is_reported_by_it_or_by_the_next() {
    explore(2, || {
        let site = on_demand(plain());
        let mut guest = site.processor();
        site.space.track_dirty(Tracking::On).unwrap();
        let site = Arc::new(site);
        let there = Arc::clone(&site);
        let (written, first) = beside(|| guest.touch(Access::WRITE), move || there.is_written());
        let second = site.is_written();
        assert!(first || second);
        guest.touch(Access::WRITE).unwrap();
        assert!(site.is_written(), "the page is written unnoticed from now on");
        (written.is_ok(), first, second)
    })
    .are(&[
        (true, false, true),
        (true, true, false),
        (false, true, false),
        (true, true, true),
    ]);
}

/// A guest that stays inside comes out before the look is over, and what it has cached is gone.
#[test]
fn what_is_written_behind_a_look_is_reported_by_the_next() {
    explore(2, || {
        let site = on_demand(plain());
        let mut guest = site.processor();
        site.space.track_dirty(Tracking::On).unwrap();
        guest.touch(Access::WRITE).unwrap();
        let site = Arc::new(site);
        let there = Arc::clone(&site);
        let signal = Arc::new(Signal::new());
        let over = Arc::clone(&signal);
        let ((before, after, written), first) = beside(
            || {
                let mut stay = guest.enter();
                let before = stay.access(PAGE, Access::WRITE).is_ok();
                (before, signal.is_set(), stay.access(PAGE, Access::WRITE).is_ok())
            },
            move || {
                let first = there.is_written();
                over.set();
                first
            },
        );
        assert!(first, "it was written before");
        assert!(!(after && written) || site.is_written(), "the page is written unnoticed");
        (before, after, written)
    })
    .are(&[(true, false, true), (false, false, false), (false, true, false)]);
}

/// The page is writable for a moment before it is watched.
#[test]
fn a_write_between_a_map_and_the_watch_is_reported() {
    explore(2, || {
        let site = on_demand(plain());
        let (here, mut there) = (site.processor(), site.processor());
        site.space.track_dirty(Tracking::On).unwrap();
        let site = Arc::new(site);
        let look = Arc::clone(&site);
        let (fault, (first, written, _there)) = beside(
            || here.fault(Prot::R),
            move || {
                let first = look.is_written();
                let written = there.access(Access::WRITE).is_ok();
                (first, written, there)
            },
        );
        assert_eq!(fault.unwrap(), Fault::Resolved);
        let second = site.is_written();
        assert!(second || first && !written, "a write was not reported");
        (first, written)
    })
    .are(&[(false, false), (false, true), (true, false), (true, true)]);
}

/// A site with a page that is held for writing, and was reported.
fn held() -> (Arc<Site>, Processor, slat::Hold<Ept, loom_tests::Frames>) {
    let site = on_demand(format_with(EptCaps::USUAL));
    let device = site.processor();
    site.space.track_dirty(Tracking::On).unwrap();
    let hold = device.hold(Prot::W).unwrap();
    (Arc::new(site), device, hold)
}

/// Who finds the page written reads what the device wrote.
#[test]
fn what_a_device_wrote_is_reported_by_a_look_beside_its_release_or_by_the_next() {
    explore(3, || {
        let (site, _device, hold) = held();
        let frame = hold.frame();
        let there = Arc::clone(&site);
        let (end, first) = beside(
            || {
                site.ram.write(frame, WRITTEN);
                hold.release_written()
            },
            move || {
                let first = there.is_written();
                assert!(!first || there.ram.read(frame) == WRITTEN);
                first
            },
        );
        assert_eq!(end, HoldEnd::InPlace);
        assert_ne!(first, site.is_written());
        first
    })
    .are(&[true, false]);
}

#[test]
fn what_a_device_left_to_the_next_look_is_reported_by_it() {
    explore(3, || {
        let (site, _device, hold) = held();
        let frame = hold.frame();
        let there = Arc::clone(&site);
        let signal = Arc::new(Signal::new());
        let over = Arc::clone(&signal);
        let ((), (after, first)) = beside(
            || {
                site.ram.write(frame, WRITTEN);
                hold.defer_written();
                over.set();
            },
            move || {
                let after = signal.is_set();
                let first = there.is_written();
                assert!(!first || there.ram.read(frame) == WRITTEN);
                (after, first)
            },
        );
        assert!(!after || first, "it was left to this look");
        assert_ne!(first, site.is_written());
        assert_eq!(site.mapped(), Some(frame));
        (after, first)
    })
    .are(&[(false, false), (false, true), (true, true)]);
}
