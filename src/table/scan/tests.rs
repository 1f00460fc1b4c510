use std::vec::Vec;

use super::*;
use crate::{entry::Entry, table::Table};

const BITS: [u32; 5] = [0, 5, 9, 56, 63];

/// The same numbers every time (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// A table of random words of which about one in `one_in` has `bit`.
fn table(numbers: &mut Numbers, bit: u64, one_in: u64) -> Table {
    let table = Table::new();
    table.fill(|_| {
        let set = numbers.next().is_multiple_of(one_in);
        let word = Entry::from_raw(numbers.next());
        if set { word.with(bit) } else { word.without(bit) }
    });
    table
}

fn words(slots: &[Slot]) -> Vec<u64> {
    slots.iter().map(|slot| slot.load().raw()).collect()
}

/// Calls `check` with tables of all densities, bits, and parts of tables.
fn every_part(mut check: impl FnMut(&Table, usize, usize, u64)) {
    let mut numbers = Numbers(7);
    for one_in in [1, 2, 3, 10, 100, 1 << 40] {
        for bit in BITS {
            for round in 0..24 {
                let table = table(&mut numbers, 1 << bit, one_in);
                let [a, b] = [0, 0].map(|_| numbers.next() as usize % (SLOTS + 1));
                let (first, end) = if round == 0 { (0, SLOTS) } else { (a.min(b), a.max(b)) };
                check(&table, first, end, 1 << bit);
            }
        }
    }
}

fn expected(slots: &[Slot], bit: u64) -> Hits {
    let mut hits = Hits::default();
    for (index, word) in words(slots).into_iter().enumerate() {
        if word & bit != 0 {
            hits[index / 64] |= 1 << (index % 64);
        }
    }
    hits
}

#[test]
fn both_forms_find_the_slots_that_have_the_bit() {
    every_part(|table, first, end, bit| {
        let slots = table.slots(first, end);
        let wanted = expected(slots, bit);
        assert_eq!(hits_by_word(slots, bit), wanted, "{bit:#x} in {first}..{end}");
        assert_eq!(hits(slots, bit), wanted, "{bit:#x} in {first}..{end}");
    });
}

/// What is taken, and from watched leaves as well: nothing, or a right.
const RIGHTS: [u64; 2] = [0, 1 << 1];

/// Takes from some of the slots that have the bit, and from some that have not.
fn takes(take: impl Fn(&[Slot], &mut Hits, Take) -> u64) {
    let mut numbers = Numbers(8);
    let mut rights = RIGHTS.iter().cycle();
    every_part(|table, first, end, bit| {
        let right = *rights.next().unwrap();
        let before = words(table.slots(0, SLOTS));
        let slots = table.slots(first, end);
        let had = expected(slots, bit);
        let mut named = had;
        let inside = |group: usize| match slots.len().saturating_sub(group * 64) {
            0 => 0,
            left if left < 64 => (1 << left) - 1,
            _ => u64::MAX,
        };
        let all = numbers.next().is_multiple_of(2);
        for (group, named) in named.iter_mut().enumerate() {
            *named = if all { u64::MAX } else { *named | numbers.next() & numbers.next() };
            *named &= inside(group);
        }
        let mut taken = named;
        let count = take(slots, &mut taken, Take::any(bit, right));
        let ones: u32 = taken.iter().map(|taken| taken.count_ones()).sum();
        assert_eq!(count, u64::from(ones));
        for (index, (&before, now)) in before.iter().zip(words(table.slots(0, SLOTS))).enumerate() {
            let was_named = (first..end).contains(&index) && {
                let index = index - first;
                named[index / 64] >> (index % 64) & 1 != 0
            };
            let goes = match before & (1 << 53) {
                0 => bit,
                _ => bit | right,
            };
            let taken = was_named && (right == 0 || before & bit != 0);
            assert_eq!(now, if taken { before & !goes } else { before }, "slot {index}");
        }
        for group in 0..had.len() {
            assert_eq!(taken[group], had[group] & named[group], "group {group} of {first}..{end}");
        }
    });
}

#[test]
fn the_bit_is_taken_from_the_slots_that_are_named() {
    takes(take_hits);
}

#[test]
fn word_by_word_the_bit_is_taken_from_the_slots_that_are_named() {
    takes(take_by_word);
}

/// Two threads take what an MMU sets meanwhile: each bit that it set was taken once, or is there still.
#[test]
fn of_what_is_set_meanwhile_each_bit_is_taken_once() {
    RIGHTS.into_iter().for_each(each_bit_is_taken_once);
}

fn each_bit_is_taken_once(right: u64) {
    let rounds = if cfg!(debug_assertions) { 200 } else { 20_000 };
    let table = Table::new();
    let (bit, other) = (1 << 9, 1 << 8);
    let (mut set, mut taken) = (0, [0_u64; 2]);
    std::thread::scope(|scope| {
        let takers = [0, 1].map(|odd| {
            let table = &table;
            scope.spawn(move || {
                let mut sum = 0;
                for _ in 0..rounds {
                    let slots = table.slots(odd, SLOTS);
                    let mut found = hits(slots, bit);
                    sum += take_hits(slots, &mut found, Take::any(bit, right));
                }
                sum
            })
        });
        for round in 0..rounds * 64 {
            let slot = table.slot(1 + round as usize * 37 % (SLOTS - 1));
            let seen = slot.load();
            // As an MMU does: an exchange of what it saw, and again if it is lost.
            let next = Entry::from_raw(seen.raw() ^ other).with(bit);
            if slot.publish(seen, next).is_ok() && !seen.has(bit) {
                set += 1;
            }
        }
        taken = takers.map(|taker| taker.join().unwrap());
    });
    let left: u32 = hits(table.slots(0, SLOTS), bit).iter().map(|hits| hits.count_ones()).sum();
    assert_eq!(taken[0] + taken[1] + u64::from(left), set);
}
