//! What the audit lets pass on KVM, and what not.

use slat::{AnyFormat, Arena, Gpa, Levels, LongMode, PageSize, SlotRef};

use super::rig::with_host;
use crate::{
    audit::{Audit, spare_bits},
    deeds::Bits,
    layout::Layout,
    machine::Machine,
    manager::{Change, Flushing, Turnover},
    progress::Progress,
    visits::Visits,
    workload::Touch,
};

type Damage = fn(SlotRef<'_, AnyFormat, Arena>);

#[test]
fn kvm_wrong_bits_are_noticed_where_memory_stays() {
    const WRITTEN: Gpa = Gpa::new(0x8000);
    const READ: Gpa = Gpa::new(0x7000);
    let lose_accessed = |slot: SlotRef<'_, AnyFormat, Arena>| assert!(slot.clear_accessed());
    let lose_dirty = |slot: SlotRef<'_, AnyFormat, Arena>| assert!(slot.clear_dirty());
    let set_dirty = |slot: SlotRef<'_, AnyFormat, Arena>| assert!(!slot.set_dirty());
    with_host(|host| {
        let cases: [(Gpa, Damage, &str); 3] = [
            (READ, lose_accessed, "0x7000 is not accessed and should be"),
            (WRITTEN, lose_dirty, "0x8000 is not dirty and should be"),
            (READ, set_dirty, "0x7000 is dirty and should not be"),
        ];
        for (gpa, damage, complaint) in cases {
            let touch = Touch { layout: Layout::linear(16 * 4096).unwrap(), seed: 1 };
            let long = LongMode::new(Levels::Four, host.phys_width());
            let machine = Machine::new(long.into(), &touch, 2, Some(host)).unwrap();
            let run = machine.run(&touch, 2, &Progress::hidden()).unwrap();
            assert!(Audit::of(&machine, &touch, &run).is_clean());
            damage(machine.table().reader().pin().slot(gpa).unwrap());
            assert_eq!(Audit::of(&machine, &touch, &run).wrong, [complaint]);
        }
    });
}

#[test]
fn kvm_a_dirty_bit_may_be_spare_only_where_memory_changes() {
    with_host(|host| {
        let long = LongMode::new(Levels::Four, host.phys_width());
        let touch = Touch { layout: Layout::linear(16 * 4096).unwrap(), seed: 1 };
        let machine = Machine::new(long.into(), &touch, 1, Some(host)).unwrap();
        assert_eq!(spare_bits(&machine), Bits { accessed: true, dirty: false });
        for change in [Change::Churn, Change::Migrate] {
            let turnover = Turnover { change, rounds: 1, flushing: Flushing::Served };
            let visits = Visits::new(16 * 4096, PageSize::Size4K, 1, turnover).unwrap();
            let machine = Machine::new(long.into(), &visits, 1, Some(host)).unwrap();
            assert_eq!(spare_bits(&machine), Bits { accessed: true, dirty: true });
        }
    });
}
