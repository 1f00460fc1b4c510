//! Watched leaves, in every state, against a table in plain numbers.

use super::*;

/// What a leaf that allows writes looks like beside its rights: WATCHED, W, D.
type State = (bool, bool, bool);

const WATCHED: u64 = 1 << 53;
const W: u64 = 2;

/// Every state that there is, what becomes of it, and how it reads.
struct Row {
    from: State,
    dirtied: State,
    cleaned: State,
    watched: State,
    unwatched: State,
}

const ROWS: [Row; 5] = [
    Row {
        from: (false, true, false),
        dirtied: (false, true, true),
        cleaned: (false, true, false),
        watched: (true, false, false),
        unwatched: (false, true, false),
    },
    Row {
        from: (false, true, true),
        dirtied: (false, true, true),
        cleaned: (false, true, false),
        watched: (true, true, true),
        unwatched: (false, true, true),
    },
    Row {
        from: (true, false, false),
        dirtied: (true, true, true),
        cleaned: (true, false, false),
        watched: (true, false, false),
        unwatched: (false, true, false),
    },
    Row {
        from: (true, false, true),
        dirtied: (true, true, true),
        cleaned: (true, false, false),
        watched: (true, false, true),
        unwatched: (false, true, true),
    },
    Row {
        from: (true, true, true),
        dirtied: (true, true, true),
        cleaned: (true, false, false),
        watched: (true, true, true),
        unwatched: (false, true, true),
    },
];

fn dirty_bit(format: AnyFormat) -> u64 {
    if matches!(format, AnyFormat::Ept(_)) { 0x200 } else { 0x40 }
}

/// Puts a state into a leaf.
fn put(format: AnyFormat, leaf: Entry, (watched, write, dirty): State) -> Entry {
    let pick = |chosen, bit| if chosen { bit } else { 0 };
    let dirty_bit = dirty_bit(format);
    let plain = leaf.raw() & !(WATCHED | W | dirty_bit);
    Entry::from_raw(plain | pick(watched, WATCHED) | pick(write, W) | pick(dirty, dirty_bit))
}

/// Every leaf that can be encoded and allows writes, of each size, with and without A and LATE.
fn writable_leaves() -> impl Iterator<Item = (AnyFormat, PageSize, Attr, Entry)> {
    let sizes = |format| PageSize::ALL.map(|size| (format, size));
    examples().into_iter().flat_map(sizes).flat_map(|(format, size)| {
        let attrs = all_attrs().filter(|attr| attr.prot().contains(Prot::W));
        let leaves = attrs.filter_map(move |attr| {
            let leaf = format.leaf(size, HostPfn::new(FRAME), attr).ok()?;
            Some((format, size, attr, leaf))
        });
        leaves.flat_map(move |(format, size, attr, leaf)| {
            let accessed = format.accessed_bit();
            [leaf, leaf.with(accessed), leaf.with(1 << 56)].map(|leaf| (format, size, attr, leaf))
        })
    })
}

#[test]
fn a_watched_leaf_becomes_what_the_table_says() {
    let mut leaves = 0;
    for (format, size, _, leaf) in writable_leaves() {
        for Row { from, dirtied, cleaned, watched, unwatched } in ROWS {
            let from = put(format, leaf, from);
            let to = |state| put(format, leaf, state);
            assert_eq!(from.dirtied(&format), to(dirtied), "{format:?} {from:?}");
            assert_eq!(from.cleaned(&format), to(cleaned), "{format:?} {from:?}");
            assert_eq!(from.watched(&format), to(watched), "{format:?} {from:?}");
            assert_eq!(from.unwatched(&format), to(unwatched), "{format:?} {from:?}");
            for next in [dirtied, cleaned, watched, unwatched].map(to) {
                let who = from.may_become(next, size.level(), &format);
                assert_eq!(who, Some(Who::Anyone), "{format:?}: {from:?} -> {next:?}");
            }
        }
        leaves += 1;
    }
    assert!(leaves > 10_000);
}

/// Tracking does not show but in the dirty bit.
#[test]
fn a_watched_leaf_reads_as_if_nobody_watched_it() {
    for (format, size, attr, leaf) in writable_leaves() {
        for Row { from: state, .. } in ROWS {
            let seen = put(format, leaf, state);
            assert!(format.is_well_formed(size.level(), seen), "{format:?} {seen:?}");
            assert_eq!(seen.raw() & !format.leaf_bits(size), 0);
            assert_eq!(format.attr(size, seen), attr, "{format:?} {seen:?}");
            let mapping = format.mapping(Gpa::new(0), size, seen);
            let late = leaf.has(1 << 56);
            assert_eq!((mapping.attr, mapping.dirty), (attr, state.2 || late));
        }
        let escaped = put(format, leaf, (true, true, false));
        assert!(!format.is_well_formed(size.level(), escaped), "{format:?} {escaped:?}");
    }
}

#[test]
fn rights_change_and_a_leaf_stays_watched_while_it_may_be_written() {
    for (format, size, attr, leaf) in writable_leaves() {
        for Row { from: state, .. } in ROWS {
            let seen = put(format, leaf, state);
            for prot in (0..16).map(Prot::from_bits_truncate) {
                let plain = format.leaf(size, HostPfn::new(FRAME), attr.with_prot(prot));
                let Ok(plain) = plain else {
                    assert!(format.with_prot(seen, prot).is_err());
                    continue;
                };
                let marks = seen.raw() & (1 << 56 | format.accessed_bit());
                let (watched, write, dirty) = state;
                let expected = match (watched, prot.contains(Prot::W)) {
                    (true, true) => (true, write, dirty),
                    (_, write) => (false, write, dirty),
                };
                let wanted = put(format, plain.with(marks), expected);
                assert_eq!(format.with_prot(seen, prot), Ok(wanted), "{seen:?} with {prot:?}");
            }
        }
    }
}

#[test]
fn a_leaf_that_allows_no_writes_is_not_watched_and_gains_no_right() {
    for format in examples() {
        let leaf = format.leaf(PageSize::Size4K, HostPfn::new(FRAME), Attr::new(Prot::RX)).unwrap();
        let dirty = leaf.with(dirty_bit(format));
        for leaf in [leaf, dirty] {
            assert_eq!((leaf.watched(&format), leaf.unwatched(&format)), (leaf, leaf));
            assert_eq!(leaf.dirtied(&format), dirty);
            assert_eq!(leaf.cleaned(&format), dirty.without(dirty_bit(format)));
        }
    }
}

/// A leaf of each size above 4 KiB, and the size that it is split to.
const SPLITS: [(PageSize, PageSize); 2] =
    [(PageSize::Size2M, PageSize::Size4K), (PageSize::Size1G, PageSize::Size2M)];

#[test]
fn the_parts_of_a_watched_leaf_are_watched_and_so_is_what_they_make_together() {
    for (format, size, attr, leaf) in writable_leaves() {
        let Some(&(_, below)) = SPLITS.iter().find(|&&(large, _)| large == size) else { continue };
        for Row { from: state @ (watched, ..), .. } in ROWS {
            let large = put(format, leaf, state);
            let late = large.has(1 << 56);
            let dirty = state.2 || late;
            let small = divided(&format, size, below, large);
            assert!(format.is_well_formed(below.level(), small), "{format:?} {small:?}");
            let seen = (small.is_watched(), small.has(W), small.has(dirty_bit(format)));
            assert_eq!(seen, (watched, !watched || dirty, dirty), "{large:?} -> {small:?}");
            assert_eq!(format.attr(below, small), attr);

            let parts = || (0..512).map(|index| small.advanced(index * below.pages()));
            let together = Union::of(&format, below, parts()).unwrap();
            let again = together.leaf(&format, size).unwrap();
            assert!(format.is_well_formed(size.level(), again), "{format:?} {again:?}");
            assert_eq!(again.is_watched(), watched);
            assert_eq!(format.attr(size, again), attr);
        }
    }
}

#[test]
fn one_part_that_is_dirty_makes_the_whole_dirty_and_one_that_is_not_watched_is_another() {
    for format in examples() {
        let size = PageSize::Size2M;
        if !format.supports(size) {
            continue;
        }
        let first = format.leaf(PageSize::Size4K, HostPfn::new(FRAME), Attr::new(Prot::RWX));
        let part = |index| first.unwrap().advanced(index).watched(&format);
        let with = |odd: u64, change: &dyn Fn(Entry) -> Entry| {
            let parts = (0..512).map(|index| match part(index) {
                leaf if index == odd => change(leaf),
                leaf => leaf,
            });
            Union::of(&format, PageSize::Size4K, parts)
        };
        let dirty = with(77, &|leaf| leaf.dirtied(&format)).unwrap();
        let leaf = dirty.leaf(&format, size).unwrap();
        assert_eq!((leaf.is_watched(), leaf.has(W)), (true, true));
        let clean = with(0, &|leaf| leaf).unwrap();
        let leaf = clean.leaf(&format, size).unwrap();
        assert_eq!((leaf.is_watched(), leaf.has(W)), (true, false));
        let odd = with(78, &|leaf| leaf.unwatched(&format));
        assert_eq!(odd, Err(Uneven::Differs(78)));
    }
}
