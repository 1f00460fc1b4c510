//! From bytes to operations: the same bytes are the same operations, for whoever draws the bytes at random, and
//! for a fuzzer, which changes some of them and looks where that leads.

use arbitrary::{Arbitrary, Result, Unstructured};
use slat::{Attr, LeafFlags, MemType, PageSize, Prot, SoftBits};

use super::operation::{Area, Bit, NEIGHBOURHOODS, Operation, Part, Share, Spot};
use crate::common::{PAGE, RWX, SMALL};

type Bytes<'a, 'b> = &'a mut Unstructured<'b>;
/// A way to decode something, and how often it is taken, beside the others.
type Way<T> = (u32, fn(Bytes<'_, '_>) -> Result<T>);

fn one_of<T>(bytes: Bytes<'_, '_>, ways: &[Way<T>]) -> Result<T> {
    let total: u32 = ways.iter().map(|(weight, _)| weight).sum();
    let mut left = bytes.int_in_range(0..=total - 1)?;
    for (weight, way) in ways {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return way(bytes),
        }
    }
    unreachable!("less than the sum of the weights")
}

impl Arbitrary<'_> for Spot {
    fn arbitrary(bytes: Bytes<'_, '_>) -> Result<Self> {
        let near = bytes.choose_index(NEIGHBOURHOODS)?;
        let pages = one_of(
            bytes,
            &[(8, |bytes| bytes.int_in_range(-6..=5)), (1, |bytes| bytes.int_in_range(-600..=599))],
        )?;
        let offset =
            one_of(bytes, &[(3, |_| Ok(0)), (1, |bytes| bytes.int_in_range(0..=PAGE - 1))])?;
        Ok(Self { near, pages, offset })
    }
}

fn pages(bytes: Bytes<'_, '_>) -> Result<Area> {
    let spot = bytes.arbitrary()?;
    let pages = one_of(
        bytes,
        &[(8, |bytes| bytes.int_in_range(1..=11)), (1, |bytes| bytes.int_in_range(1..=1099))],
    )?;
    Ok(Area::Pages { spot, pages })
}

fn leaves(bytes: Bytes<'_, '_>, size: PageSize) -> Result<Area> {
    let near = bytes.choose_index(NEIGHBOURHOODS)?;
    let first = bytes.int_in_range(-2..=1)?;
    let leaves = bytes.int_in_range(1..=2)?;
    Ok(Area::Leaves { near, size, first, leaves })
}

impl Arbitrary<'_> for Area {
    fn arbitrary(bytes: Bytes<'_, '_>) -> Result<Self> {
        one_of(
            bytes,
            &[
                (16, pages),
                (4, |bytes| leaves(bytes, PageSize::Size2M)),
                (1, |bytes| leaves(bytes, PageSize::Size1G)),
            ],
        )
    }
}

/// An area, and a size of leaf for it; not the smallest for the largest, since that takes long.
fn area_and_size(bytes: Bytes<'_, '_>) -> Result<(Area, PageSize)> {
    use PageSize::{Size1G, Size2M};
    one_of(
        bytes,
        &[
            (8, |bytes| Ok((pages(bytes)?, size(bytes)?))),
            (4, |bytes| Ok((leaves(bytes, Size2M)?, *bytes.choose(&[SMALL, Size2M])?))),
            (1, |bytes| Ok((leaves(bytes, Size2M)?, Size1G))),
            (2, |bytes| Ok((leaves(bytes, Size1G)?, *bytes.choose(&[Size2M, Size1G])?))),
        ],
    )
}

impl Arbitrary<'_> for Share {
    fn arbitrary(bytes: Bytes<'_, '_>) -> Result<Self> {
        bytes.arbitrary().map(Self)
    }
}

impl Arbitrary<'_> for Part {
    fn arbitrary(bytes: Bytes<'_, '_>) -> Result<Self> {
        Ok(Self { run: bytes.arbitrary()?, from: bytes.arbitrary()?, pages: bytes.arbitrary()? })
    }
}

fn spots(bytes: Bytes<'_, '_>) -> Result<Vec<Spot>> {
    let count = bytes.int_in_range(0..=39)?;
    (0..count).map(|_| bytes.arbitrary()).collect()
}

/// Few frames, so that the same one often comes again; some at the end of the width of 40 bits.
fn frame(bytes: Bytes<'_, '_>) -> Result<u64> {
    one_of(
        bytes,
        &[
            (6, |bytes| bytes.int_in_range(0..=3)),
            (6, |_| Ok(0)),
            (4, |bytes| bytes.choose(&[1 << 18, 512, 1024]).copied()),
            (1, |bytes| bytes.int_in_range((1 << 28) - 6..=(1 << 28) + 1)),
            (1, |_| Ok(u64::MAX)),
        ],
    )
}

fn prot(bytes: Bytes<'_, '_>) -> Result<Prot> {
    one_of(
        bytes,
        &[
            (6, |bytes| bytes.choose(&[Prot::R, Prot::RW, Prot::RX, Prot::RWX]).copied()),
            (1, |bytes| bytes.int_in_range(0..=15).map(Prot::from_bits_truncate)),
        ],
    )
}

fn some_attr(bytes: Bytes<'_, '_>) -> Result<Attr> {
    let prot = prot(bytes)?;
    let mem_type = one_of(
        bytes,
        &[(6, |_| Ok(MemType::WB)), (1, |bytes| bytes.choose(&MemType::ALL).copied())],
    )?;
    let flags = one_of(bytes, &[(12, |_| Ok(0)), (1, |bytes| bytes.int_in_range(0..=7))])?;
    let soft = bytes.int_in_range(0..=3)?;
    Ok(Attr::new(prot)
        .with_mem_type(mem_type)
        .with_flags(LeafFlags::from_bits_truncate(flags))
        .with_soft(SoftBits::from_bits_truncate(soft)))
}

fn attr(bytes: Bytes<'_, '_>) -> Result<Attr> {
    one_of(bytes, &[(3, |_| Ok(RWX)), (2, some_attr)])
}

fn size(bytes: Bytes<'_, '_>) -> Result<PageSize> {
    one_of(bytes, &[(8, |_| Ok(SMALL)), (3, any_size)])
}

fn large(bytes: Bytes<'_, '_>) -> Result<PageSize> {
    one_of(bytes, &[(2, |_| Ok(PageSize::Size2M)), (1, |_| Ok(PageSize::Size1G))])
}

fn any_size(bytes: Bytes<'_, '_>) -> Result<PageSize> {
    bytes.choose(&PageSize::ALL).copied()
}

fn bit(bytes: Bytes<'_, '_>) -> Result<Bit> {
    bytes.choose(&[Bit::SetAccessed, Bit::ClearAccessed, Bit::SetDirty, Bit::ClearDirty]).copied()
}

fn length(bytes: Bytes<'_, '_>) -> Result<u64> {
    one_of(bytes, &[(1, |bytes| bytes.int_in_range(0..=3 * PAGE - 1)), (1, |_| Ok(u64::MAX))])
}

const OPERATIONS: [Way<Operation>; 29] = {
    use Operation as Op;
    [
        (8, |bytes| area_and_size(bytes).map(|(area, size)| Op::Populate(area, size))),
        (4, |bytes| {
            let (area, size) = area_and_size(bytes)?;
            Ok(Op::PopulateMapped(area, size, frame(bytes)?, attr(bytes)?))
        }),
        (3, |bytes| area_and_size(bytes).map(|(area, size)| Op::Refine(area, size))),
        (3, |bytes| Ok(Op::RefinePart(bytes.arbitrary()?, any_size(bytes)?))),
        (1, |bytes| Ok(Op::Split(bytes.arbitrary()?, any_size(bytes)?))),
        (6, |bytes| Ok(Op::SplitPart(bytes.arbitrary()?, any_size(bytes)?))),
        (2, |bytes| area_and_size(bytes).map(|(area, size)| Op::SplitRange(area, size))),
        (1, |bytes| Ok(Op::Collapse(bytes.arbitrary()?, any_size(bytes)?))),
        (8, |bytes| Ok(Op::CollapsePart(bytes.arbitrary()?, large(bytes)?))),
        (3, |bytes| area_and_size(bytes).map(|(area, size)| Op::CollapseRange(area, size))),
        (4, |bytes| bytes.arbitrary().map(Op::Vacate)),
        (4, |bytes| bytes.arbitrary().map(Op::VacatePart)),
        (6, |bytes| Ok(Op::Map(bytes.arbitrary()?, frame(bytes)?, size(bytes)?, attr(bytes)?))),
        (2, |bytes| Ok(Op::SlotMap(bytes.arbitrary()?, frame(bytes)?, attr(bytes)?))),
        (4, |bytes| Ok(Op::MapRange(bytes.arbitrary()?, frame(bytes)?, attr(bytes)?))),
        (3, |bytes| Ok(Op::MapMany(spots(bytes)?, frame(bytes)?, attr(bytes)?))),
        (4, |bytes| bytes.arbitrary().map(Op::Unmap)),
        (2, |bytes| bytes.arbitrary().map(Op::UnmapRange)),
        (2, |bytes| spots(bytes).map(Op::UnmapMany)),
        (3, |bytes| Ok(Op::Protect(bytes.arbitrary()?, prot(bytes)?))),
        (3, |bytes| bytes.arbitrary().map(Op::Watch)),
        (1, |bytes| bytes.arbitrary().map(Op::Unwatch)),
        (4, |bytes| bytes.arbitrary().map(Op::FixWrite)),
        (1, |bytes| bytes.arbitrary().map(Op::NoteDirty)),
        (6, |bytes| Ok(Op::Bits(bytes.arbitrary()?, bit(bytes)?))),
        (2, |bytes| bytes.arbitrary().map(Op::Lookup)),
        (1, |bytes| spots(bytes).map(Op::LookupMany)),
        (4, |bytes| Ok(Op::Translate(bytes.arbitrary()?, length(bytes)?, prot(bytes)?))),
        (2, |bytes| bytes.arbitrary().map(Op::Mappings)),
    ]
};

impl Arbitrary<'_> for Operation {
    fn arbitrary(bytes: Bytes<'_, '_>) -> Result<Self> {
        one_of(bytes, &OPERATIONS)
    }
}
