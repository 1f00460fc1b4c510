//! What must hold of any value in a slot.

use arbitrary::{Arbitrary, Result, Unstructured};
use slat::{
    AnyFormat, Attr, Entry, Format, FrameSource, Gpa, HeapFrames, Hint, HostPfn, Kind, LeafFlags,
    Level, MemType, PageSize, Prot, SoftBits, Tracking, Who,
    mmu::{Access, AccessKind, Cause, Mmu, Mode},
};

use crate::common::{SMALL, at};

/// A value, before it is known in which format.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Raw(u64),
    Leaf(HostPfn, Attr),
    Table(HostPfn),
}

/// A value in a slot of some level, with some bits turned over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    level: usize,
    shape: Shape,
    turned: u64,
}

impl Arbitrary<'_> for Word {
    fn arbitrary(bytes: &mut Unstructured<'_>) -> Result<Self> {
        let level = bytes.choose_index(5)?;
        let frame = HostPfn::new(bytes.arbitrary::<u64>()? >> bytes.int_in_range(0..=63)?);
        let shape = match bytes.int_in_range(0..=7)? {
            0 => Shape::Raw(bytes.arbitrary()?),
            1 => Shape::Raw(1 << bytes.int_in_range(0..=63)?),
            2 => Shape::Raw(0),
            3 => Shape::Table(frame),
            _ => Shape::Leaf(frame, attr(bytes)?),
        };
        let mut turned = 0;
        for _ in 0..bytes.int_in_range(0..=3)? {
            turned ^= 1 << bytes.int_in_range(0..=63)?;
        }
        Ok(Self { level, shape, turned })
    }
}

fn attr(bytes: &mut Unstructured<'_>) -> Result<Attr> {
    Ok(Attr::new(Prot::from_bits_retain(bytes.arbitrary()?))
        .with_mem_type(*bytes.choose(&MemType::ALL)?)
        .with_flags(LeafFlags::from_bits_retain(bytes.arbitrary()?))
        .with_soft(SoftBits::from_bits_retain(bytes.arbitrary()?)))
}

/// Checks each value by itself, and as what comes after the one before.
pub(crate) fn check(format: AnyFormat, words: &[Word]) {
    let path = Path::new(format);
    let mut last: Option<(Level, Entry)> = None;
    for word in words {
        let levels = [Level::L1, Level::L2, Level::L3, Level::L4, Level::L5];
        let level = levels[word.level].min(format.levels().root());
        let Some(entry) = encode(format, level, word) else { continue };
        check_value(format, level, entry);
        path.check(format, entry);
        if let Some((_, old)) = last.filter(|(old_level, _)| *old_level == level) {
            check_change(format, level, old, entry);
            check_change(format, level, entry, old);
        }
        last = Some((level, entry));
    }
}

/// Returns the value, unless the format cannot say that; what it can say it says.
fn encode(format: AnyFormat, level: Level, word: &Word) -> Option<Entry> {
    let plain = match word.shape {
        Shape::Raw(raw) => Entry::from_raw(raw),
        Shape::Table(frame) => format.table(frame),
        Shape::Leaf(frame, attr) => {
            let size = level.page_size().unwrap_or(SMALL);
            let leaf = format.leaf(size, frame, attr).ok()?;
            assert_eq!((format.leaf_frame(size, leaf), format.attr(size, leaf)), (frame, attr));
            assert!(format.is_well_formed(size.level(), leaf));
            leaf
        }
    };
    Some(Entry::from_raw(plain.raw() ^ word.turned))
}

fn check_value(format: AnyFormat, level: Level, entry: Entry) {
    let kind = format.kind(level, entry);
    let marks = format.accessed_bit() | format.dirty_bit();
    if !format.is_well_formed(level, entry) {
        assert_eq!(entry.may_become(entry, level, &format), None);
        return;
    }
    match (kind, level.page_size()) {
        (Kind::Table(frame), _) => {
            assert!(format.fits(frame) && format.is_present(entry));
            assert_eq!(format.kind(level, format.table(frame)), kind);
        }
        (Kind::Leaf, Some(size)) => check_leaf(format, size, entry),
        (Kind::Stray, _) => panic!("{entry:?} is a stray and well-formed"),
        // A broken one keeps what it had.
        (Kind::Broken, _) => assert!(!format.is_present(entry)),
        _ => assert!(!format.is_present(entry) && !entry.has(marks), "{entry:?}"),
    }
}

fn check_leaf(format: AnyFormat, size: PageSize, leaf: Entry) {
    let (frame, attr) = (format.leaf_frame(size, leaf), format.attr(size, leaf));
    assert!(format.is_present(leaf) && format.fits(frame) && format.supports(size));
    assert!(frame.get().is_multiple_of(size.pages()));
    for bits in 0..16 {
        let prot = Prot::from_bits_truncate(bits);
        let Ok(other) = format.with_prot(leaf, prot) else { continue };
        assert!(format.is_well_formed(size.level(), other), "{leaf:?} as {prot:?} is {other:?}");
        assert_eq!(format.attr(size, other), attr.with_prot(prot));
        assert_eq!(format.leaf_frame(size, other), frame);
    }
    let mapping = format.mapping(at(0), size, leaf);
    assert_eq!((mapping.pfn, mapping.attr, mapping.size), (frame, attr, size));
}

/// What no change may do, whoever makes it.
fn check_change(format: AnyFormat, level: Level, old: Entry, new: Entry) {
    let Some(who) = old.may_become(new, level, &format) else { return };
    let marks = format.accessed_bit() | format.dirty_bit();
    let kinds = (format.kind(level, old), format.kind(level, new));
    assert!(format.is_well_formed(level, old) && format.is_well_formed(level, new));
    match (kinds, level.page_size()) {
        ((Kind::Leaf, Kind::Leaf), Some(size)) => {
            let same =
                |entry| (format.leaf_frame(size, entry), format.attr(size, entry).mem_type());
            assert_eq!(same(old), same(new), "a leaf becomes another's");
        }
        ((Kind::Table(one), Kind::Table(other)), _) => assert_eq!(one, other),
        ((_, Kind::Empty | Kind::Unpopulated | Kind::Claimed), _) => assert!(!new.has(marks)),
        ((Kind::Unpopulated, _), _) => assert_eq!(who, Who::Writer, "{new:?} where no memory is"),
        ((Kind::Table(_), _) | (Kind::Empty, Kind::Table(_)), _) => assert_eq!(who, Who::Writer),
        _ => {}
    }
}

/// Tables of every level, by which an MMU comes to one slot.
struct Path {
    frames: HeapFrames,
    root: u64,
    leaf: HostPfn,
}

impl Path {
    fn new(format: AnyFormat) -> Self {
        let frames = HeapFrames::new(5);
        let mut runs = Vec::new();
        frames.allocate(5, Hint::new(at(0)), &mut runs).unwrap();
        let first = runs[0].first.get();
        let levels = u64::from(format.levels().count());
        for above in first..first + levels - 1 {
            // SAFETY: the frame was allocated above and is given back never.
            let table = unsafe { frames.table(HostPfn::new(above)) };
            // SAFETY: no page table owns it, and the entry names the next frame of these.
            unsafe { table.plant(0, format.table(HostPfn::new(above + 1))) };
        }
        let root = format.root_pointer(HostPfn::new(first), Tracking::On);
        Self { frames, root, leaf: HostPfn::new(first + levels - 1) }
    }

    /// Checks that the MMU reaches what the format says, and nothing where that says there is nothing.
    fn check(&self, format: AnyFormat, entry: Entry) {
        // SAFETY: the frame was allocated in `new` and is given back never.
        let table = unsafe { self.frames.table(self.leaf) };
        // SAFETY: every entry of the root pointer's tree names a frame of these, but the last, which is no table's.
        let mmu = unsafe { Mmu::new(format, &self.frames, self.root) }.unwrap();
        let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
        let modes = [Mode::User, Mode::Supervisor];
        for access in
            kinds.into_iter().flat_map(|kind| modes.map(|mode| Access::new(kind).in_mode(mode)))
        {
            // SAFETY: no page table owns it, and at this level no walker takes an entry for a table's.
            unsafe { table.plant(0, entry) };
            let reached = mmu.translate(Gpa::new(0), access);
            let now = table.entry(0).unwrap();
            let set = now.raw() ^ entry.raw();
            let marks = format.accessed_bit() | format.dirty_bit();
            assert!(!Entry::from_raw(set).has(!marks), "{entry:?} became {now:?}");
            assert!(set == 0 || (reached.is_ok() && now.has(set)));
            if !format.is_well_formed(Level::L1, entry) {
                continue;
            }
            match (format.kind(Level::L1, entry), reached) {
                (Kind::Leaf, Ok(reached)) => {
                    assert_eq!(reached.pfn, format.leaf_frame(SMALL, entry));
                }
                (Kind::Leaf, Err(fault)) => assert_eq!(fault.cause(), Cause::Rights, "{entry:?}"),
                (_, Ok(_)) => panic!("{entry:?} translates"),
                (_, Err(fault)) => assert_eq!(fault.cause(), Cause::NotPresent, "{entry:?}"),
            }
        }
    }
}
