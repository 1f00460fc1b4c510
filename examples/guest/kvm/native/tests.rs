use slat::{Ept, EptCaps, Gpa, Levels, LongMode, PageSize, PhysWidth};

use super::*;
use crate::{
    audit::{Audit, Forgotten},
    kvm::tests::rig::with_host,
    layout::Layout,
    manager::{Change, Turnover},
    progress::Progress,
    visits::Visits,
    workload::Touch,
};

#[test]
fn each_act_is_the_operation_that_does_the_same() {
    let touch = Touch { layout: Layout::linear(2 * 4096).unwrap(), seed: 1 };
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let machine = Machine::new(ept.into(), &touch, 1, None).unwrap();
    for (act, kind, argument) in [
        (Act::Fetch, Kind::Fetch, 0),
        (Act::Load, Kind::Load, 0),
        (Act::Expect(7), Kind::Load, 0),
        (Act::Recall, Kind::Load, 0),
        (Act::Add(7), Kind::Add, 7 << 40),
        (Act::Pause, Kind::Pause, 0),
    ] {
        let op = Op { page: 1, word: 3, act };
        let raw = RawOp::new(kind, Gpa::new(0x1018), argument);
        assert_eq!(encode(&machine, op), raw, "{act:?}");
    }
}

#[test]
fn kvm_what_is_skipped_is_not_made_good_when_a_vcpu_enters() {
    with_host(|host| {
        let long = LongMode::new(Levels::Four, host.phys_width());
        for (flushing, is_sound) in [(Flushing::Served, true), (Flushing::Skipped, false)] {
            let turnover = Turnover { change: Change::Churn, rounds: 20, flushing };
            let visits = Visits::new(1024 * 4096, PageSize::Size4K, 1, turnover).unwrap();
            let machine = Machine::new(long.into(), &visits, 2, Some(host)).unwrap();
            let run = machine.run(&visits, 2, &Progress::hidden()).unwrap();
            let vm = machine.vm.as_ref().unwrap();
            assert_eq!(vm.zaps() > 0, is_sound);
            let audit = Audit::of(&machine, &visits, &run);
            assert_eq!(audit.is_clean(), is_sound, "{audit:#?}");
            assert_eq!(audit.kvm, Some(Forgotten { zaps: vm.zaps() }));
        }
    });
}
