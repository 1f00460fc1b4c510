use alloc::{string::ToString, sync::Arc};
use core::num::NonZero;

use crate::{
    Attr, Contiguous, Ept, EptCaps, Gpa, GpaRange, HeapFrames, HostPfn, Levels, MemType,
    ObserverId, PageState, PageTable, PhysWidth, Prot, Space, Tracking,
};

fn space() -> Space<Ept, HeapFrames> {
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let table = PageTable::new(ept, HeapFrames::new(16)).unwrap();
    let space = Space::new(table, |_: ObserverId| ());
    let low = GpaRange::new(Gpa::new(0), 0x10_0000).unwrap();
    let ram = Contiguous::new(HostPfn::new(0x1000), 0x200).unwrap();
    space.map_region(low, Arc::new(ram), 0x10_0000, Attr::new(Prot::RWX)).unwrap();
    let high = GpaRange::new(Gpa::new(0xfee0_0000), 0x1000).unwrap();
    let device = Contiguous::device(HostPfn::new(0xfee00), 1).unwrap();
    space.map_region(high, Arc::new(device), 0, Attr::new(Prot::RW)).unwrap();
    let vcpu = space.vcpu();
    for page in [1, 2, 7] {
        vcpu.fault(Gpa::new(page * 0x1000), Prot::W).unwrap();
    }
    vcpu.reader().pin().slot(Gpa::new(0x7000)).unwrap().set_dirty();
    space
}

#[test]
fn a_space_prints_its_regions_with_their_leaves() {
    let dump = space().dump();
    assert!(!dump.tracked());
    assert_eq!(dump.regions()[1].attr.mem_type(), MemType::UC);
    let text = dump.to_string();
    let lines: alloc::vec::Vec<_> = text.lines().collect();
    assert!(
        lines[0]
            .starts_with("0x0..=0xfffff  rwx  WB  resident 3 of 256  held 0  at 0x100000 of Con")
    );
    assert_eq!(
        lines[1..3],
        [
            "    0x1000..=0x2fff  frames 0x1101..=0x1102  4K  rwx  WB  -  pages 2  accessed 0  dirty 0",
            "    0x7000..=0x7fff  frames 0x1107..=0x1107  4K  rwx  WB  -  pages 1  accessed 0  dirty 1",
        ]
    );
    assert!(lines[3].starts_with("0xfee00000..=0xfee00fff  rw-  UC  resident 0 of 1  held 0"));
    assert_eq!(lines.len(), 4);
}

#[test]
fn a_held_page_and_tracking_are_in_the_dump() {
    let space = space();
    space.track_dirty(Tracking::On).unwrap();
    let hold = space.vcpu().hold(Gpa::new(0x1000), Prot::R).unwrap();
    let dump = space.dump();
    assert!(dump.tracked());
    assert_eq!(dump.regions()[0].held, 1);
    drop(hold);
    assert_eq!(space.dump().regions()[0].held, 0);
}

#[test]
fn heat_counts_pages_of_one_state_in_each_region() {
    let space = space();
    let cells = NonZero::new(16).unwrap();
    let counts = |state| -> alloc::vec::Vec<alloc::vec::Vec<u64>> {
        let heat = space.heat(state, cells);
        heat.iter().map(|heat| heat.cells().map(|cell| cell.count).collect()).collect()
    };
    let resident = counts(PageState::Resident);
    assert_eq!((resident[0].len(), resident[0][0], resident[0][1]), (16, 3, 0));
    assert_eq!(resident[1], [0]);
    assert_eq!(counts(PageState::Dirty)[0][0], 1);
    assert_eq!(counts(PageState::Accessed)[0].iter().sum::<u64>(), 0);
}

#[cfg(feature = "serde")]
#[test]
fn a_space_is_serialized_with_its_leaves() {
    let json = serde_json::to_value(space().dump()).unwrap();
    assert_eq!(json["tracked"], false);
    let region = &json["regions"][0];
    assert_eq!(region["range"]["last"], "0xfffff");
    assert_eq!(region["attr"]["prot"], "rwx");
    assert_eq!((&region["resident"], &region["held"]), (&3.into(), &0.into()));
    assert_eq!(region["leaves"]["runs"][1]["dirty"], 1);
    assert_eq!(json["regions"][1]["attr"]["mem_type"], "UC");
}
