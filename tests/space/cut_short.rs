//! In the middle: faults while a change goes on, kicks that panic, and leaves that somebody has collapsed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use slat::{
    Answer, Attr, Contiguous, CopyOnWrite, Ept, EptCaps, Fault, Format, Levels, ObserverId,
    OnDemand, PageSize, PhysWidth, Prot, Tracking,
};

use crate::{
    common::{GIB, MIB, PAGE, RWX, at, ept, every_format, range},
    rig::{Audited, Gate, Rig, Scripted, go_on, nth, part},
};

/// Makes a change while a vCPU is inside, and does `hook` when that is kicked: all is unmapped then that is to
/// go, and not shot down.
fn amid<F: Format, T>(
    rig: &Rig<F>,
    hook: impl FnOnce() + Send + 'static,
    change: impl FnOnce() -> T,
) -> thread::Result<T> {
    let mut vcpu = rig.vcpu();
    let id = vcpu.id();
    let (flag, ready) = (rig.kicks.enlist(id), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let inside = vcpu.enter(Tracking::Off);
            ready.wait();
            while !flag.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            drop(inside);
        });
        ready.wait();
        rig.kicks.once(hook);
        let done = catch_unwind(AssertUnwindSafe(change));
        // If the hook has panicked, nobody else does.
        rig.kicks.kick(id);
        rig.kicks.retire(id);
        done
    })
}

/// Pages that are always there.
fn lasting<F: Format>(rig: &Rig<F>) -> Contiguous {
    Contiguous::new(rig.memory.fixed(8), 8).unwrap()
}

every_format! {
    #![and_without_bits]
    fn a_leaf_that_reaches_beyond_its_region_is_split_before_it_gets_rights(format: impl Format) {
        if !format.supports(PageSize::Size2M) {
            return;
        }
        let rig = Rig::new(format);
        let all = range(2 * MIB, 2 * MIB);
        let halves = [part(all, 0, 256), part(all, 256, 256)];
        for (half, offset) in halves.into_iter().zip([0, 256 * PAGE]) {
            let memory = rig.watch(&rig.fixed(512));
            rig.map_region(half, memory, offset, Attr::new(Prot::R)).unwrap();
        }
        for half in halves {
            rig.prefault(all, go_on).unwrap();
            rig.protect_region(half, Prot::RW).unwrap();
            let kick = |_: ObserverId| ();
            rig.table().collapse(all.start(), PageSize::Size2M, &kick).unwrap();
            assert!(rig.dump().regions().iter().all(|region| region.resident == 256));
            let mut cpu = rig.cpu();
            cpu.writes(nth(half, 3), 5);
            assert_eq!(rig.leaf(nth(half, 3)).unwrap().size, PageSize::Size4K);
            rig.protect_region(half, Prot::R).unwrap();
        }
    }

    fn nothing_is_mapped_around_a_fault_that_is_being_given_up(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 16 * PAGE);
        let base = Contiguous::new(rig.memory.fixed(16), 16).unwrap();
        let view = CopyOnWrite::new(Arc::new(base), Arc::clone(&rig.memory) as _);
        rig.map(area, &Audited::over(view));
        let (mut cpu, mut other) = (rig.cpu(), rig.cpu());
        cpu.writes(nth(area, 5), 77);
        other.vcpu.set_fault_around(16).unwrap();
        let hook = move || other.faults(nth(area, 0), Prot::R);
        assert_eq!(amid(&rig, hook, || rig.discard(part(area, 5, 1))).unwrap(), Ok(1));
        // All around it, and the copy did not come back.
        assert_eq!(rig.resident(), 15);
        cpu.reads(nth(area, 5), 0);
        rig.audit();
    }

    fn after_a_kick_that_panicked_the_change_can_be_made_again(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 8 * PAGE);
        // Not audited: its frames do not come back.
        rig.map_region(area, Arc::new(lasting(&rig)), 0, RWX).unwrap();
        let (less, next) = (part(area, 0, 3), Arc::new(lasting(&rig)));
        let go_away = || panic!("no vCPU comes out");
        let mut cpu = rig.cpu();
        let mut write = || (0..8).for_each(|page| cpu.writes(nth(area, page), page));
        write();
        amid(&rig, go_away, || rig.unmap_region(area)).unwrap_err();
        write();
        amid(&rig, go_away, || rig.resize_region(area, less)).unwrap_err();
        write();
        amid(&rig, go_away, || rig.replace_backing(area, next, 0)).unwrap_err();
        write();
        amid(&rig, go_away, || rig.discard(less)).unwrap_err();
        write();
        rig.resize_region(area, less).unwrap();
        rig.resize_region(less, area).unwrap();
        rig.unmap(area);
        rig.map_demand(GIB, 8 * PAGE);
    }

    fn tracking_that_a_kick_has_kept_from_beginning_is_off(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 8 * PAGE);
        let mut cpu = rig.cpu();
        cpu.writes(nth(area, 1), 1);
        amid(&rig, || panic!("no vCPU comes out"), || rig.track()).unwrap_err();
        assert!(!rig.dump().tracked());
        rig.track();
        cpu.writes(nth(area, 1), 2);
        assert_eq!(rig.look(area), [nth(area, 1)]);
        assert!(rig.look(area).is_empty());
        rig.audit();
    }
}

/// Somebody had to fetch the leaf of 2 MiB that begins with page 0, and is told to fetch page 3 now.
#[test]
fn who_waits_for_a_page_keeps_nobody_from_another() {
    let rig = Rig::new(ept(Levels::Four));
    let area = range(2 * MIB, 2 * MIB);
    let gate = Gate::new();
    let counts = Arc::new([const { AtomicU64::new(0) }; 2]);
    let fetched = Arc::new([const { AtomicBool::new(false) }; 4]);
    let (fetching, there, began) = (gate.clone(), Arc::clone(&fetched), Arc::new(Barrier::new(2)));
    let begin = Arc::clone(&began);
    let backing = Scripted::fetching(
        OnDemand::new(Arc::clone(&rig.memory) as _, 512, PageSize::Size2M),
        move |want, over| {
            let [large, third] = &*counts;
            if want.size == PageSize::Size2M {
                match large.fetch_add(1, Ordering::SeqCst) {
                    0 => return Answer::Wait,
                    // With the claim: until another has that of page 3.
                    1 => {
                        begin.wait();
                        while third.load(Ordering::SeqCst) < 2 {
                            thread::yield_now();
                        }
                    }
                    _ => {}
                }
                return Answer::Smaller;
            }
            third.fetch_add(u64::from(want.page == 3), Ordering::SeqCst);
            match fetched[want.page as usize].load(Ordering::SeqCst) {
                true => over.frame(want),
                false => Answer::Wait,
            }
        },
        move |want, _| {
            if want.page == 3 {
                fetching.pass();
            }
            there[want.page as usize].store(true, Ordering::SeqCst);
            Ok(())
        },
    );
    rig.map(area, &backing);
    let touch = || rig.cpu().vcpu.fault_and_wait(at(nth(area, 3)), Prot::W).unwrap();
    thread::scope(|scope| {
        scope.spawn(touch);
        began.wait();
        scope.spawn(touch);
        gate.await_one();
        let cpu = rig.cpu();
        let end = Instant::now() + Duration::from_secs(10);
        let resolved = || cpu.vcpu.fault(at(nth(area, 0)), Prot::W).unwrap() == Fault::Resolved;
        // The first may still be on its way from the one to the other.
        while !resolved() && Instant::now() < end {
            thread::yield_now();
        }
        gate.open();
    });
    assert_eq!(rig.resident(), 2);
    assert!(rig.leaf(nth(area, 0)).is_some());
    rig.audit();
}

/// A processor may have leaves of 1 GiB and none of 2 MiB.
#[test]
fn room_is_for_leaves_that_can_give_way_for_smaller_ones() {
    let caps = EptCaps::all().difference(EptCaps::PAGES_2M);
    let rig = Rig::with_tables(Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), caps), 1024);
    let area = range(GIB - 2 * MIB, GIB + 4 * MIB);
    rig.map(area, &rig.demand_up_to(area.pages(), PageSize::Size1G));
    let mut cpu = rig.cpu();
    for page in [0, 512, 513, area.pages() - 1] {
        cpu.writes(nth(area, page), page);
    }
    rig.track();
    rig.audit();
}

/// Who may fetch a large page, and then has to fetch a small one of it, claims that like anybody else.
#[test]
fn a_page_is_fetched_by_one_whatever_that_one_was_to_fetch_before() {
    let rig = Rig::new(ept(Levels::Four));
    let area = range(2 * MIB, 2 * MIB);
    let gate = Gate::new();
    let [asked, there, began] = [const { AtomicBool::new(false) }; 3];
    let (fetching, there) = (gate.clone(), Arc::new(there));
    let comes = Arc::clone(&there);
    let backing = Scripted::fetching(
        OnDemand::new(Arc::clone(&rig.memory) as _, 512, PageSize::Size2M),
        move |want, over| {
            if want.size == PageSize::Size2M {
                let again = asked.swap(true, Ordering::SeqCst);
                return if again { Answer::Smaller } else { Answer::Wait };
            }
            if there.load(Ordering::SeqCst) { over.frame(want) } else { Answer::Wait }
        },
        move |_, _| {
            if !began.swap(true, Ordering::SeqCst) {
                fetching.pass();
            }
            comes.store(true, Ordering::SeqCst);
            Ok(())
        },
    );
    rig.map(area, &backing);
    let page = at(nth(area, 3));
    let beside = thread::scope(|scope| {
        scope.spawn(|| rig.cpu().vcpu.fault_and_wait(page, Prot::W).unwrap());
        gate.await_one();
        let beside = rig.cpu().vcpu.fault(page, Prot::W);
        gate.open();
        beside
    });
    assert_eq!(beside.unwrap(), Fault::Retry);
    assert_eq!((rig.resident(), rig.stats().fetches), (1, 1));
    rig.audit();
}
