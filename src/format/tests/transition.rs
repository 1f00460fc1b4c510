//! Every pair of states that a slot may be found in, against the table of who may make which change.
//!
//! The states are built from plain bits, and say what they are beside the value; the expected answer is
//! drawn from that, never from the value.

use super::*;

const OTHER: u64 = FRAME + (1 << 18);

/// What tells one well-formed leaf from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaf {
    frame: u64,
    /// What may not change while the leaf stands: memory type, flags, the caller's bits.
    fixed: u8,
    late: bool,
    watched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Empty,
    Unpopulated,
    /// Rights, accessed and dirty bits, and being watched differ freely once it stands.
    Leaf(Leaf),
    /// Accessed and carry bits differ freely.
    Table {
        frame: u64,
        collapsing: bool,
    },
    Claimed {
        number: u64,
    },
    /// What was this value, of a leaf or of a table that is not collapsing.
    Broken {
        was: u64,
        table: bool,
    },
    /// A value that the library never writes at this level.
    Stray,
}

/// Where a format has its bits, written down once more.
struct Bits {
    /// In every present entry.
    always: u64,
    /// In a table entry and in a leaf with all rights, besides `always`.
    table: u64,
    leaf: u64,
    /// Rights that a leaf may have instead of `leaf`, and ones that it may not.
    rights: Vec<u64>,
    bad_rights: Vec<u64>,
    accessed: u64,
    dirty: u64,
    /// Another memory type, of a leaf at L1 and of a large one.
    other_type: [u64; 2],
    /// A flag that the format has.
    flag: Option<u64>,
    /// Bits that no leaf of the format may have, at any level.
    foreign: Vec<u64>,
}

const NX: u64 = 1 << 63;

fn bits(format: AnyFormat) -> Bits {
    let encryption = format.root_pointer(HostPfn::new(0), Tracking::On) & !0xfff;
    match format {
        AnyFormat::Ept(ept) => {
            let mode_based = ept.caps().contains(EptCaps::MODE_BASED_EXECUTE);
            let execute_only = ept.caps().contains(EptCaps::EXECUTE_ONLY);
            let mut rights = vec![0x31, 0x33, 0x35];
            let mut bad_rights = vec![0x32, 0x36];
            (if execute_only { &mut rights } else { &mut bad_rights }).push(0x34);
            (if mode_based { &mut rights } else { &mut bad_rights }).push(0x431);
            // Memory types 2, 3 and 7.
            bad_rights.extend([0x17, 0x1f, 0x3f]);
            Bits {
                always: 0,
                table: if mode_based { 0x407 } else { 0x7 },
                leaf: 0x37,
                rights,
                bad_rights,
                accessed: 0x100,
                dirty: 0x200,
                other_type: [0x07, 0x07],
                flag: Some(0x40),
                foreign: vec![1 << 11, NX],
            }
        }
        AnyFormat::Npt(_) => Bits {
            always: encryption,
            table: 0x7,
            leaf: 0x7,
            rights: vec![0x5, 0x5 | NX, 0x7 | NX],
            // A nested walk is a user access; the type at index 7 is written as index 3.
            bad_rights: vec![0x3, 0x1, 0x1 | NX],
            accessed: 0x20,
            dirty: 0x40,
            other_type: [0xf, 0xf],
            flag: None,
            foreign: vec![1 << 8, 1 << 9, 1 << 11],
        },
        AnyFormat::LongMode(_) => Bits {
            always: encryption,
            table: 0x7,
            leaf: 0x7,
            rights: vec![0x5, 0x5 | NX, 0x7 | NX],
            bad_rights: vec![],
            accessed: 0x20,
            dirty: 0x40,
            other_type: [0xf, 0xf],
            flag: Some(0x100),
            foreign: vec![1 << 9, 1 << 11],
        },
    }
}

/// The states of a slot of `level`, with the values that they have.
fn states(format: AnyFormat, level: Level) -> Vec<(State, u64)> {
    let bits = bits(format);
    let mut states = vec![(State::Empty, 0), (State::Unpopulated, 1 << 52)];
    for number in [0, 1, 2, (1 << 40) - 1] {
        states.push((State::Claimed { number }, 1 << 53 | number << 12));
    }
    let strays = [
        bits.accessed,
        bits.dirty,
        1 << 52 | bits.accessed,
        1 << 52 | bits.dirty,
        1 << 53 | bits.accessed,
        1 << 53 | bits.dirty,
        1 << 53 | 1 << 52,
        1 << 54,
        1 << 56,
        FRAME * 4096,
    ];
    states.extend(strays.map(|value| (State::Stray, value)));
    leaf_states(format, level, &bits, &mut states);
    table_states(format, level, &bits, &mut states);
    let broken = |&(state, was): &(State, u64)| {
        let table = match state {
            State::Leaf(_) => false,
            State::Table { collapsing: false, .. } => true,
            _ => return None,
        };
        Some((State::Broken { was, table }, broken(format, was)))
    };
    let broken: Vec<_> = states.iter().filter_map(broken).collect();
    states.extend(broken);
    states
}

/// What makes an entry present stands aside, and bit 52 says so.
fn broken(format: AnyFormat, was: u64) -> u64 {
    match format {
        AnyFormat::Ept(ept) => {
            let mode_based = ept.caps().contains(EptCaps::MODE_BASED_EXECUTE);
            let user = if mode_based { was & 1 << 10 } else { 0 };
            was & !(0x7 | user) | (was & 0x7) << 57 | user << 50 | 1 << 52
        }
        AnyFormat::Npt(_) | AnyFormat::LongMode(_) => was & !0x1 | 1 << 57 | 1 << 52,
    }
}

fn leaf_states(format: AnyFormat, level: Level, bits: &Bits, states: &mut Vec<(State, u64)>) {
    let supported = level.page_size().is_some_and(|size| format.supports(size));
    let large = if level == Level::L1 { 0 } else { 0x80 };
    let shared = bits.always | large;
    let plain = (FRAME * 4096) | shared | bits.leaf;
    let (a, d) = (bits.accessed, bits.dirty);
    let mut add = |frame, fixed, late, value: u64| {
        let watched = value & (1 << 53) != 0;
        let leaf = State::Leaf(Leaf { frame, fixed, late, watched });
        states.push((if supported { leaf } else { State::Stray }, value));
    };
    for marks in [0, a, d, a | d] {
        add(FRAME, 0, false, plain | marks);
        add(FRAME, 0, true, plain | marks | 1 << 56);
    }
    for &rights in &bits.rights {
        add(FRAME, 0, false, (FRAME * 4096) | shared | rights);
        add(FRAME, 0, true, (FRAME * 4096) | shared | rights | a | 1 << 56);
    }
    // Watched: clean and read-only, dirty, and dirty by a walk that was late; with other rights, too.
    let watched = 1 << 53 | plain & !2;
    for marks in [0, a, d, a | d, d | 2, a | d | 2] {
        add(FRAME, 0, false, watched | marks);
        add(FRAME, 0, true, watched | marks | 1 << 56);
        add(FRAME, 2, false, watched | marks | 1 << 55);
    }
    for &rights in bits.rights.iter().filter(|&&rights| rights & 1 != 0) {
        add(FRAME, 0, false, 1 << 53 | (FRAME * 4096) | shared | rights & !2);
        add(FRAME, 0, false, 1 << 53 | (FRAME * 4096) | shared | rights | 2 | d);
    }
    add(OTHER, 0, false, (OTHER * 4096) | shared | bits.leaf);
    add(OTHER, 0, true, (OTHER * 4096) | shared | bits.leaf | 1 << 56);
    let other_type = bits.other_type[usize::from(level != Level::L1)];
    let soft = [(1, 1 << 54), (2, 1 << 55), (3, 3 << 54)];
    for (fixed, value) in soft.map(|(fixed, soft)| (fixed, plain | soft)) {
        add(FRAME, fixed, false, value);
    }
    // UC: memory type 0 in EPT, index 3 elsewhere; without what `leaf` has there.
    let mem_type = if matches!(format, AnyFormat::Ept(_)) { 0x38 } else { 0x18 };
    add(FRAME, 4, false, plain & !mem_type | other_type & mem_type);
    if let Some(flag) = bits.flag {
        add(FRAME, 5, false, plain | flag);
    }

    let mut stray = |value| states.push((State::Stray, value));
    // Watched, writable and not dirty: a write would be lost. Writable and not readable does not exist.
    stray(plain | 1 << 53);
    stray(plain | a | 1 << 53);
    for &rights in bits.rights.iter().chain(&bits.bad_rights).filter(|&&rights| rights & 1 == 0) {
        stray((FRAME * 4096) | shared | rights | 1 << 53);
    }
    // A software bit of another kind of entry; the bits with meanings on newer parts.
    for bit in [52, 57, 58, 59, 60, 61, 62] {
        stray(plain | 1 << bit);
    }
    for &foreign in &bits.foreign {
        // In nPT and long mode bit 63 is a right.
        stray(plain | foreign);
    }
    for &rights in &bits.bad_rights {
        stray((FRAME * 4096) | shared | rights);
    }
    let width = format.phys_width().bits();
    if width < 52 {
        let beyond = (1_u64 << width..1 << 52).step_by(1 << width).find(|b| bits.always & b == 0);
        stray(plain | beyond.unwrap());
    }
    if bits.always != 0 {
        stray(plain & !bits.always);
    }
    if large != 0 {
        stray(plain | 1 << 13);
    }
}

fn table_states(format: AnyFormat, level: Level, bits: &Bits, states: &mut Vec<(State, u64)>) {
    if level == Level::L1 {
        return;
    }
    let plain = (FRAME * 4096) | bits.always | bits.table;
    for carry in [0, 1 << 54, 1 << 55, 3 << 54] {
        for accessed in [0, bits.accessed] {
            let table = State::Table { frame: FRAME, collapsing: false };
            states.push((table, plain | carry | accessed));
            let mut state = State::Table { frame: FRAME, collapsing: true };
            if !level.page_size().is_some_and(|size| format.supports(size)) {
                state = State::Stray;
            }
            states.push((state, plain | carry | accessed | 1 << 53));
        }
    }
    let other = (OTHER * 4096) | bits.always | bits.table;
    states.push((State::Table { frame: OTHER, collapsing: false }, other));

    let mut stray = |value| states.push((State::Stray, value));
    for bit in [9, 11, 52, 56, 57, 58, 59, 60, 61, 62, 63] {
        stray(plain | 1 << bit);
    }
    stray(plain | bits.dirty);
    // Fewer rights than all.
    stray(plain & !2);
    stray(plain & !4);
    if bits.always != 0 {
        stray(plain & !bits.always);
    }
    if format.levels() == Levels::Four && level == Level::L4 {
        stray(plain | 0x80);
    }
}

/// The table of transitions.
fn expected(
    (from, old): (State, u64),
    (to, new): (State, u64),
    level: Level,
    has_leaves: bool,
) -> Option<Who> {
    use State::{Broken, Claimed, Empty, Stray, Table, Unpopulated};
    let is_large = has_leaves && level > Level::L1;
    let granule = has_leaves && level <= Level::L3;
    match (from, to) {
        (Stray, _) | (_, Stray) => None,
        (State::Leaf(_), Broken { was, table: false }) => {
            (was == old && is_large).then_some(Who::Writer)
        }
        (Table { collapsing: true, .. }, Broken { was, .. }) => {
            (was == old & !(1 << 53)).then_some(Who::Writer)
        }
        // Anyone mends it; the writer puts another size in its place.
        (Broken { was, .. }, State::Leaf(_) | Table { .. }) if was == new => Some(Who::Anyone),
        (Broken { table: true, .. }, State::Leaf(leaf)) => (!leaf.late).then_some(Who::Writer),
        (Broken { table: false, .. }, Table { collapsing, .. }) => {
            (is_large && !collapsing).then_some(Who::Writer)
        }
        (Broken { .. }, _) | (_, Broken { .. }) => None,
        // Nothing changes, or not by a commit.
        (Empty, Empty) | (Unpopulated, Unpopulated) => None,
        (Unpopulated, Empty) => granule.then_some(Who::Writer),
        (Unpopulated, Table { collapsing, .. }) => (!collapsing).then_some(Who::Writer),
        // populate_mapped, into an end table that exists.
        (Unpopulated, State::Leaf(leaf)) => (!leaf.late && !leaf.watched).then_some(Who::Writer),
        (Empty, State::Leaf(leaf)) => (!leaf.late && !leaf.watched).then_some(Who::Anyone),
        (State::Leaf(_), Empty) => Some(Who::Anyone),
        (State::Leaf(old), State::Leaf(new)) => {
            match (old.frame == new.frame && old.fixed == new.fixed, old.late, new.late) {
                (false, ..) | (_, false, true) => None,
                (true, true, false) => Some(Who::Writer),
                (true, ..) => Some(Who::Anyone),
            }
        }
        (Table { frame: old, .. }, Table { frame: new, .. }) if old != new => None,
        // Only the writer begins to collapse; anyone may thwart it.
        (Table { collapsing: false, .. }, Table { collapsing: true, .. }) => Some(Who::Writer),
        (Table { .. }, Table { .. }) => Some(Who::Anyone),
        (Table { .. }, Unpopulated) => Some(Who::Writer),
        (Table { collapsing, .. }, State::Leaf(leaf)) => {
            (collapsing && leaf.late).then_some(Who::Writer)
        }
        (Table { .. }, Empty) => None,
        // Only through a claim.
        (Empty | State::Leaf(_), Unpopulated) => None,
        (Empty, Claimed { .. }) => granule.then_some(Who::Writer),
        (Claimed { .. }, Empty | Unpopulated) => granule.then_some(Who::Writer),
        (Claimed { .. }, State::Leaf(leaf)) => (!leaf.late && !leaf.watched).then_some(Who::Anyone),
        (Claimed { .. }, _) | (_, Claimed { .. }) => None,
        (Empty | State::Leaf(_), Table { collapsing, .. }) => {
            (granule && !collapsing).then_some(Who::Writer)
        }
    }
}

#[test]
fn states_are_taken_for_what_they_are() {
    for format in examples() {
        for level in Level::ALL {
            for (state, value) in states(format, level) {
                let entry = Entry::from_raw(value);
                let sound = format.is_well_formed(level, entry);
                assert_eq!(
                    sound,
                    state != State::Stray,
                    "{format:?} {level:?} {entry:?} {state:?}"
                );
                let kind = match state {
                    State::Empty => Kind::Empty,
                    State::Unpopulated => Kind::Unpopulated,
                    State::Leaf(leaf) => {
                        let size = level.page_size().unwrap();
                        assert_eq!(format.leaf_frame(size, entry).get(), leaf.frame);
                        Kind::Leaf
                    }
                    State::Table { frame, .. } => Kind::Table(HostPfn::new(frame)),
                    State::Claimed { .. } => Kind::Claimed,
                    State::Broken { .. } => Kind::Broken,
                    State::Stray => continue,
                };
                assert_eq!(format.kind(level, entry), kind, "{format:?} {level:?} {entry:?}");
            }
        }
    }
}

#[test]
fn every_pair_of_states_may_follow_or_not_as_the_table_says() {
    for format in examples() {
        for level in Level::ALL {
            let has_leaves = level.page_size().is_some_and(|size| format.supports(size));
            let states = states(format, level);
            for &(from, old) in &states {
                for &(to, new) in &states {
                    let who = Entry::from_raw(old).may_become(Entry::from_raw(new), level, &format);
                    let wanted = expected((from, old), (to, new), level, has_leaves);
                    let names = format.name();
                    assert_eq!(
                        who, wanted,
                        "{names} {level:?}: {from:?} {old:#x} -> {to:?} {new:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn bits_change_one_by_one_only_where_they_may() {
    for format in examples() {
        let (a, d) = (format.accessed_bit(), format.dirty_bit());
        let leaf =
            format.leaf(PageSize::Size4K, HostPfn::new(FRAME), Attr::new(Prot::RWX)).unwrap();
        let table = format.table(HostPfn::new(FRAME));
        for bit in 0..64 {
            let mask = 1_u64 << bit;
            let flip = |entry: Entry| Entry::from_raw(entry.raw() ^ mask);
            let of_empty = Entry::EMPTY.may_become(flip(Entry::EMPTY), Level::L1, &format);
            if !format.is_present(Entry::from_raw(mask)) {
                // Only marked as claimed; populated pages become unpopulated through that.
                let wanted = (bit == 53).then_some(Who::Writer);
                assert_eq!(of_empty, wanted, "{format:?}: bit {bit} of an empty slot");
            }
            let who = leaf.may_become(flip(leaf), Level::L1, &format);
            if mask & (a | d) != 0 {
                assert_eq!(who, Some(Who::Anyone));
            }
            if mask & !(a | d | format.rights_bits()) != 0 && format.is_present(flip(leaf)) {
                assert_eq!(who, None, "{format:?}: bit {bit} of a leaf");
            }
            let who = table.may_become(flip(table), Level::L3, &format);
            let wanted = match bit {
                54 | 55 => Some(Who::Anyone),
                53 if format.supports(PageSize::Size1G) => Some(Who::Writer),
                _ if mask == a => Some(Who::Anyone),
                _ => None,
            };
            assert_eq!(who, wanted, "{format:?}: bit {bit} of a table entry");
        }
    }
}
