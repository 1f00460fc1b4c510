use alloc::string::ToString;

use super::*;
use crate::{
    addr::Gpa,
    arena::HeapFrames,
    attr::{LeafFlags, MemType, Prot, SoftBits},
    format::{Ept, EptCaps, LongMode, PhysWidth},
    level::Levels,
    ops::Mark,
};

const SMALL: PageSize = PageSize::Size4K;
const LARGE: PageSize = PageSize::Size2M;
const RW: Attr = Attr::new(Prot::RW);

type Table<F> = PageTable<F, HeapFrames>;

fn width() -> PhysWidth {
    PhysWidth::new(46).unwrap()
}

fn ept() -> Table<Ept> {
    let ept = Ept::new(Levels::Four, width(), EptCaps::all());
    PageTable::new(ept, HeapFrames::new(64)).unwrap()
}

fn pages(first: u64, pages: u64) -> GpaRange {
    GpaRange::between(first, first + pages)
}

fn fill<F: Format>(table: &Table<F>, range: GpaRange, size: PageSize, pfn: u64, attr: Attr) {
    table.populate_mapped(range, size, HostPfn::new(pfn), attr).unwrap();
}

/// Sets these marks of a page, and clears the others.
fn mark<F: Format>(table: &Table<F>, page: u64, marks: &[Mark]) {
    let pin = table.pin();
    let slot = pin.slot(Gpa::of_page(page)).unwrap();
    slot.clear_accessed();
    slot.clear_dirty();
    for mark in marks {
        match mark {
            Mark::Accessed => slot.set_accessed(),
            Mark::Dirty => slot.set_dirty(),
        };
    }
}

/// A little of everything: ROM, RAM by leaves of both sizes, a device.
fn machine() -> Table<Ept> {
    let table = ept();
    fill(&table, pages(0, 16), SMALL, 0x100, Attr::new(Prot::RX).with_mem_type(MemType::WP));
    fill(&table, pages(16, 240), SMALL, 0x110, Attr::new(Prot::RWX).with_soft(SoftBits::S1));
    fill(&table, pages(0x200, 0x400), LARGE, 0x40_0000, Attr::new(Prot::RWX | Prot::XU));
    let flags = RW.with_flags(LeafFlags::IGNORE_PAT).with_soft(SoftBits::all());
    fill(&table, pages(0xf_ee00, 1), SMALL, 0xf_ee00, flags.with_mem_type(MemType::UC));
    for page in 0..256 {
        match page {
            _ if page % 64 == 17 => mark(&table, page, &[Mark::Dirty]),
            _ if page % 2 == 0 => mark(&table, page, &[Mark::Accessed]),
            _ => mark(&table, page, &[]),
        }
    }
    mark(&table, 0x200, &[]);
    mark(&table, 0x400, &[Mark::Accessed, Mark::Dirty]);
    mark(&table, 0xf_ee00, &[Mark::Dirty]);
    table
}

/// Where a run begins, how many pages it has, and its first frame.
fn shape(dump: &Dump) -> Vec<(u64, u64, u64)> {
    let shape = |run: &LeafRun| (run.range.first_page(), run.range.pages(), run.pfn.get());
    dump.runs().iter().map(shape).collect()
}

#[test]
fn a_dump_is_a_line_for_each_run() {
    let dump = machine().dump(pages(0, 1 << 20)).unwrap();
    let text = "\
0x0..=0xffff             frames 0x100..=0x10f        4K  r-x   WP  -                 pages   16  accessed   8  dirty   0
0x10000..=0xfffff        frames 0x110..=0x1ff        4K  rwx   WB  S1                pages  240  accessed 120  dirty   4
0x200000..=0x5fffff      frames 0x400000..=0x4003ff  2M  rwxu  WB  -                 pages 1024  accessed 512  dirty 512
0xfee00000..=0xfee00fff  frames 0xfee00..=0xfee00    4K  rw-   UC  IGNORE_PAT,S0,S1  pages    1  accessed   0  dirty   1";
    assert_eq!(dump.to_string(), text);
}

#[test]
fn a_table_without_leaves_has_no_lines() {
    let table = ept();
    table.populate(pages(0, 16), SMALL).unwrap();
    let dump = table.dump(pages(0, 1 << 36)).unwrap();
    assert_eq!((dump.runs(), dump.range()), (&[][..], pages(0, 1 << 36)));
    assert_eq!(dump.to_string(), "");
}

#[test]
fn a_run_ends_where_anything_but_the_marks_is_different() {
    let table = ept();
    let rest = [
        (0, SMALL, 0x1000, RW),
        // A hole in guest memory, behind which the frames go on.
        (2, SMALL, 0x1001, RW),
        // A hole in host memory, and a frame that is mapped twice.
        (3, SMALL, 0x1003, RW),
        (4, SMALL, 0x1003, RW),
        // Each part of the attributes.
        (5, SMALL, 0x1004, RW.with_prot(Prot::R)),
        (6, SMALL, 0x1005, RW.with_prot(Prot::R).with_mem_type(MemType::UC)),
        (7, SMALL, 0x1006, RW.with_soft(SoftBits::S0)),
        (8, SMALL, 0x1007, RW.with_flags(LeafFlags::IGNORE_PAT)),
        // The size, both ways.
        (0x200, LARGE, 0x2000, RW),
        (0x400, SMALL, 0x2200, RW),
    ];
    for (page, size, pfn, attr) in rest {
        fill(&table, pages(page, size.pages()), size, pfn, attr);
    }
    let dump = table.dump(pages(0, 0x1000)).unwrap();
    let each = rest.map(|(page, size, pfn, _)| (page, size.pages(), pfn));
    assert_eq!(shape(&dump), each);
}

#[test]
fn a_run_goes_over_tables_and_whatever_is_marked() {
    let table = ept();
    fill(&table, pages(0x1f0, 0x220), SMALL, 0x77, RW);
    mark(&table, 0x1ff, &[Mark::Accessed, Mark::Dirty]);
    mark(&table, 0x200, &[]);
    let dump = table.dump(pages(0, 0x1000)).unwrap();
    assert_eq!(shape(&dump), [(0x1f0, 0x220, 0x77)]);
    assert_eq!(dump.runs()[0].last_pfn(), HostPfn::new(0x296));
}

#[test]
fn a_range_cuts_runs_and_no_large_leaf() {
    let table = ept();
    fill(&table, pages(0, 0x200), SMALL, 0x1000, RW);
    fill(&table, pages(0x200, 0x600), LARGE, 0x2000, RW);
    let dump = table.dump(pages(0x1ff, 0x202)).unwrap();
    assert_eq!(shape(&dump), [(0x1ff, 1, 0x11ff), (0x200, 0x400, 0x2000)]);
    assert_eq!(dump.range(), pages(0x1ff, 0x202));
}

#[test]
fn the_last_page_of_all_is_in_a_run_and_the_gap_below_is_refused() {
    let long_mode = LongMode::new(Levels::Four, width());
    let table = PageTable::new(long_mode, HeapFrames::new(16)).unwrap();
    let last = pages((1 << 52) - 2, 2);
    let kernel = RW.with_flags(LeafFlags::GLOBAL);
    fill(&table, last, SMALL, 0x300, kernel);
    fill(&table, pages(0, 1), SMALL, 0x302, RW.with_flags(LeafFlags::USER | LeafFlags::GLOBAL));
    mark(&table, last.first_page(), &[]);
    mark(&table, last.first_page() + 1, &[Mark::Accessed, Mark::Dirty]);
    let text = "0xffffffffffffe000..=0xffffffffffffffff  frames 0x300..=0x301  4K  rw-  WB  GLOBAL  \
                pages 2  accessed 1  dirty 1";
    assert_eq!(table.dump(last).unwrap().to_string(), text);
    let low = table.dump(pages(0, 1)).unwrap().to_string();
    assert!(low.contains("  WB  USER,GLOBAL  pages 1  "), "{low}");
    let gap = Gpa::new(1 << 47);
    assert_eq!(table.dump(GpaRange::ALL).map(drop), Err(OutOfRange { gpa: gap }));
}

#[cfg(feature = "serde")]
#[test]
fn a_dump_is_json_with_addresses_as_text() {
    let dump = machine().dump(pages(0x200, (1 << 20) - 0x200)).unwrap();
    let json = r#"{
  "range": {
    "start": "0x200000",
    "last": "0xffffffff",
    "pages": 1048064
  },
  "runs": [
    {
      "range": {
        "start": "0x200000",
        "last": "0x5fffff",
        "pages": 1024
      },
      "pfn": "0x400000",
      "size": "2M",
      "attr": {
        "prot": "rwxu",
        "mem_type": "WB",
        "flags": [],
        "soft": []
      },
      "accessed": 512,
      "dirty": 512
    },
    {
      "range": {
        "start": "0xfee00000",
        "last": "0xfee00fff",
        "pages": 1
      },
      "pfn": "0xfee00",
      "size": "4K",
      "attr": {
        "prot": "rw-",
        "mem_type": "UC",
        "flags": [
          "IGNORE_PAT"
        ],
        "soft": [
          "S0",
          "S1"
        ]
      },
      "accessed": 0,
      "dirty": 1
    }
  ]
}"#;
    assert_eq!(serde_json::to_string_pretty(&dump).unwrap(), json);
}
