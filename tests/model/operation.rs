//! Random operations, in the neighbourhoods where tables begin and end.

use proptest::{collection, prelude::*, sample};
use slat::{Attr, GpaRange, LeafFlags, MemType, PageSize, Prot, SoftBits};

use crate::common::{GIB, MIB, PAGE, RWX, SMALL, Space, at};

/// Where tables begin and end, and the space does.
fn neighbourhoods(space: Space) -> [u64; 8] {
    [
        0,
        2 * MIB,
        GIB,
        512 * GIB,
        space.last_low_page(),
        space.upper,
        space.upper | 2 * GIB,
        space.last_page(),
    ]
}

/// One page: a neighbourhood, a place in it, and an offset in the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    near: sample::Index,
    pages: i64,
    offset: u64,
}

impl Spot {
    /// Returns the address; it may lie outside the space.
    pub(crate) fn address(self, space: Space) -> u64 {
        let all = neighbourhoods(space);
        let base = all[self.near.index(all.len())];
        base.wrapping_add_signed(self.pages * PAGE as i64) | self.offset
    }
}

/// Some pages that follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Area {
    /// So many from a spot on.
    Pages { spot: Spot, pages: u64 },
    /// Those of a few large leaves, counted from a neighbourhood.
    Leaves { near: sample::Index, size: PageSize, first: i64, leaves: u64 },
}

impl Area {
    /// Returns the range, or `None` where it would go past 2^64.
    pub(crate) fn range(self, space: Space) -> Option<GpaRange> {
        let (start, pages) = match self {
            Self::Pages { spot, pages } => (at(spot.address(space)).page_base(), pages),
            Self::Leaves { near, size, first, leaves } => {
                let all = neighbourhoods(space);
                let base = all[near.index(all.len())] / size.bytes() * size.bytes();
                let start = base.wrapping_add_signed(first * size.bytes() as i64);
                (at(start), leaves * size.pages())
            }
        };
        GpaRange::from_pages(start, pages).ok()
    }
}

/// Some neighbours among the populated pages: a run of them, and where in it to begin and to end,
/// unless with the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    run: sample::Index,
    from: Option<sample::Index>,
    pages: Option<sample::Index>,
}

impl Part {
    /// Returns the range, given the runs of populated pages as (first page number, count).
    pub(crate) fn range(self, runs: &[(u64, u64)]) -> Option<GpaRange> {
        let &(first, count) = (!runs.is_empty()).then(|| self.run.get(runs))?;
        let from = self.from.map_or(0, |from| from.index(count as usize) as u64);
        let rest = count - from;
        let pages = self.pages.map_or(rest, |pages| pages.index(rest as usize) as u64 + 1);
        GpaRange::from_pages(at((first + from) * PAGE), pages).ok()
    }
}

/// What a kept slot is asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bit {
    SetAccessed,
    ClearAccessed,
    SetDirty,
    ClearDirty,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Populate(Area, PageSize),
    PopulateMapped(Area, PageSize, u64, Attr),
    Refine(Area, PageSize),
    RefinePart(Part, PageSize),
    Split(Spot, PageSize),
    SplitPart(Part, PageSize),
    SplitRange(Area, PageSize),
    Collapse(Spot, PageSize),
    CollapsePart(Part, PageSize),
    CollapseRange(Area, PageSize),
    Vacate(Area),
    VacatePart(Part),
    Map(Spot, u64, PageSize, Attr),
    SlotMap(Spot, u64, Attr),
    MapRange(Area, u64, Attr),
    MapMany(Vec<Spot>, u64, Attr),
    Unmap(Spot),
    UnmapRange(Area),
    UnmapMany(Vec<Spot>),
    Protect(Area, Prot),
    Watch(Area),
    Unwatch(Area),
    FixWrite(Spot),
    NoteDirty(Spot),
    Bits(Spot, Bit),
    Lookup(Spot),
    LookupMany(Vec<Spot>),
    Translate(Spot, u64, Prot),
    Mappings(Area),
}

fn spot() -> impl Strategy<Value = Spot> {
    let offset = prop_oneof![3 => Just(0), 1 => 0..PAGE];
    let pages = prop_oneof![8 => -6_i64..6, 1 => -600_i64..600];
    (any::<sample::Index>(), pages, offset).prop_map(|(near, pages, offset)| Spot {
        near,
        pages,
        offset,
    })
}

fn pages() -> impl Strategy<Value = Area> {
    let pages = prop_oneof![8 => 1_u64..12, 1 => 1_u64..1100];
    (spot(), pages).prop_map(|(spot, pages)| Area::Pages { spot, pages })
}

fn leaves(size: PageSize) -> impl Strategy<Value = Area> {
    (any::<sample::Index>(), -2_i64..2, 1_u64..3)
        .prop_map(move |(near, first, leaves)| Area::Leaves { near, size, first, leaves })
}

fn area() -> impl Strategy<Value = Area> {
    let (middle, large) = (leaves(PageSize::Size2M), leaves(PageSize::Size1G));
    prop_oneof![16 => pages(), 4 => middle, 1 => large]
}

/// An area, and a size of leaf for it; not the smallest for the largest, since that takes long.
fn area_and_size() -> impl Strategy<Value = (Area, PageSize)> {
    use PageSize::{Size1G, Size2M};
    prop_oneof![
        8 => (pages(), size()),
        4 => (leaves(Size2M), sample::select(vec![SMALL, Size2M])),
        1 => (leaves(Size2M), Just(Size1G)),
        2 => (leaves(Size1G), sample::select(vec![Size2M, Size1G])),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    let index = || prop::option::of(any::<sample::Index>());
    let run = any::<sample::Index>();
    (run, index(), index()).prop_map(|(run, from, pages)| Part { run, from, pages })
}

fn spots() -> impl Strategy<Value = Vec<Spot>> {
    collection::vec(spot(), 0..40)
}

/// Few frames, so that the same one often comes again; some at the end of the width of 40 bits.
fn frame() -> impl Strategy<Value = u64> {
    let large = prop_oneof![Just(1_u64 << 18), Just(512), Just(1024)];
    prop_oneof![6 => 0_u64..4, 6 => Just(0), 4 => large, 1 => ((1_u64 << 28) - 6)..(1 << 28) + 2, 1 => Just(u64::MAX)]
}

fn prot() -> impl Strategy<Value = Prot> {
    let usual = sample::select(vec![Prot::R, Prot::RW, Prot::RX, Prot::RWX]);
    let odd = (0_u8..16).prop_map(Prot::from_bits_truncate);
    prop_oneof![6 => usual, 1 => odd]
}

fn attr() -> impl Strategy<Value = Attr> {
    let mem_types = prop_oneof![6 => Just(MemType::WB), 1 => sample::select(&MemType::ALL[..])];
    let flags = prop_oneof![12 => Just(0_u8), 1 => 0_u8..8];
    let any = (prot(), mem_types, flags, 0_u8..4).prop_map(|(prot, mem_type, flags, soft)| {
        Attr::new(prot)
            .with_mem_type(mem_type)
            .with_flags(LeafFlags::from_bits_truncate(flags))
            .with_soft(SoftBits::from_bits_truncate(soft))
    });
    prop_oneof![3 => Just(RWX), 2 => any]
}

fn size() -> impl Strategy<Value = PageSize> {
    prop_oneof![8 => Just(SMALL), 3 => any_size()]
}

fn large() -> impl Strategy<Value = PageSize> {
    prop_oneof![2 => Just(PageSize::Size2M), 1 => Just(PageSize::Size1G)]
}

fn any_size() -> impl Strategy<Value = PageSize> {
    sample::select(&PageSize::ALL[..])
}

fn bit() -> impl Strategy<Value = Bit> {
    sample::select(vec![Bit::SetAccessed, Bit::ClearAccessed, Bit::SetDirty, Bit::ClearDirty])
}

pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    use Operation as Op;
    prop_oneof![
        8 => area_and_size().prop_map(|(area, size)| Op::Populate(area, size)),
        4 => (area_and_size(), frame(), attr()).prop_map(|((area, size), pfn, attr)| {
            Op::PopulateMapped(area, size, pfn, attr)
        }),
        3 => area_and_size().prop_map(|(area, size)| Op::Refine(area, size)),
        3 => (part(), any_size()).prop_map(|(part, size)| Op::RefinePart(part, size)),
        1 => (spot(), any_size()).prop_map(|(spot, size)| Op::Split(spot, size)),
        6 => (part(), any_size()).prop_map(|(part, size)| Op::SplitPart(part, size)),
        2 => area_and_size().prop_map(|(area, size)| Op::SplitRange(area, size)),
        1 => (spot(), any_size()).prop_map(|(spot, size)| Op::Collapse(spot, size)),
        8 => (part(), large()).prop_map(|(part, size)| Op::CollapsePart(part, size)),
        3 => area_and_size().prop_map(|(area, size)| Op::CollapseRange(area, size)),
        4 => area().prop_map(Op::Vacate),
        4 => part().prop_map(Op::VacatePart),
        6 => (spot(), frame(), size(), attr()).prop_map(|(spot, pfn, size, attr)| {
            Op::Map(spot, pfn, size, attr)
        }),
        2 => (spot(), frame(), attr()).prop_map(|(spot, pfn, attr)| Op::SlotMap(spot, pfn, attr)),
        4 => (area(), frame(), attr()).prop_map(|(area, pfn, attr)| Op::MapRange(area, pfn, attr)),
        3 => (spots(), frame(), attr()).prop_map(|(all, pfn, attr)| Op::MapMany(all, pfn, attr)),
        4 => spot().prop_map(Op::Unmap),
        2 => area().prop_map(Op::UnmapRange),
        2 => spots().prop_map(Op::UnmapMany),
        3 => (area(), prot()).prop_map(|(area, prot)| Op::Protect(area, prot)),
        3 => area().prop_map(Op::Watch),
        1 => area().prop_map(Op::Unwatch),
        4 => spot().prop_map(Op::FixWrite),
        1 => spot().prop_map(Op::NoteDirty),
        6 => (spot(), bit()).prop_map(|(spot, bit)| Op::Bits(spot, bit)),
        2 => spot().prop_map(Op::Lookup),
        1 => spots().prop_map(Op::LookupMany),
        4 => (spot(), prop_oneof![0..3 * PAGE, Just(u64::MAX)], prot())
            .prop_map(|(spot, len, access)| Op::Translate(spot, len, access)),
        2 => area().prop_map(Op::Mappings),
    ]
}
