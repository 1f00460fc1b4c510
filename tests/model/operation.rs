//! Random operations, in the neighbourhoods where tables begin and end.

use proptest::{collection, prelude::*, sample};
use slat::{Attr, GpaRange, LeafFlags, MemType, PageSize, Prot, SoftBits};

use crate::common::{GIB, MIB, PAGE, RWX, SMALL, Space, at};

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
        let all = [
            0,
            2 * MIB,
            GIB,
            512 * GIB,
            space.last_low_page(),
            space.upper,
            space.upper | 2 * GIB,
            space.last_page(),
        ];
        let base = all[self.near.index(all.len())];
        base.wrapping_add_signed(self.pages * PAGE as i64) | self.offset
    }
}

/// Some pages from a spot on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    spot: Spot,
    pages: u64,
}

impl Area {
    /// Returns the range, or `None` where it would go past 2^64.
    pub(crate) fn range(self, space: Space) -> Option<GpaRange> {
        GpaRange::from_pages(at(self.spot.address(space)).page_base(), self.pages).ok()
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
    Populate(Area),
    PopulateMapped(Area, u64, Attr),
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

fn area() -> impl Strategy<Value = Area> {
    let pages = prop_oneof![8 => 1_u64..12, 1 => 1_u64..1100];
    (spot(), pages).prop_map(|(spot, pages)| Area { spot, pages })
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
    prop_oneof![6 => 0_u64..4, 1 => ((1_u64 << 28) - 6)..(1 << 28) + 2, 1 => Just(u64::MAX)]
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
    prop_oneof![12 => Just(SMALL), 1 => sample::select(&PageSize::ALL[..])]
}

fn bit() -> impl Strategy<Value = Bit> {
    sample::select(vec![Bit::SetAccessed, Bit::ClearAccessed, Bit::SetDirty, Bit::ClearDirty])
}

pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    use Operation as Op;
    prop_oneof![
        6 => area().prop_map(Op::Populate),
        3 => (area(), frame(), attr()).prop_map(|(area, pfn, attr)| {
            Op::PopulateMapped(area, pfn, attr)
        }),
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
