//! The machine whose states are searched, and its steps under rules that are right or wrong.

use std::{format, string::String};

use super::super::*;
use crate::{
    addr::HostPfn,
    attr::{Attr, Prot},
    format::{Ept, EptCaps, PhysWidth},
    level::{Levels, PageSize},
};

const EPT: Ept = Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL);
const MMUS: usize = 2;

/// The rules, or what is wrong with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    AsTheyAre,
    /// A carry is dropped in the next round, whoever still has the entry.
    DropsWithoutAsking,
    /// A carry is dropped when it is found.
    DropsBeforeTheScan,
    /// A carry is dropped by the very round that left it.
    DropsItsOwn,
    /// Who takes an accessed bit leaves nothing.
    LeavesNone,
    /// Who takes an accessed bit leaves its own carry alone.
    LeavesItsOwn,
    /// There is one carry, for both kinds.
    OneForBoth,
    /// It is enough if any observer has come out.
    AnyIsEnough,
    /// A round that is cut off does not count as one that ended.
    AbortIsNoEnd,
    /// Accessed bits are taken, and carries dropped, in entries of which a part is harvested.
    TakesParts,
    /// Software that sets a bit marks nothing above.
    MarksNothing,
    /// Software marks the upper entry before the lower one.
    MarksTopDown,
    /// Software marks above before it sets the bit.
    MarksFirst,
    /// Software looks which entries are not accessed, and then marks these.
    LooksFirst,
}

/// A translation cache: which table entries are in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cache {
    upper: bool,
    lower: bool,
    /// Whether it was not invalidated since a round ended.
    behind: bool,
}

/// How far a round has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Upper,
    TakeUpper,
    Lower,
    TakeLower,
    Leaf,
    DropLower,
    DropUpper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Harvest {
    at: At,
    mark: Mark,
    /// Whether the leaf is in its range.
    whole: bool,
    drops: bool,
    took_upper: bool,
    took_lower: bool,
}

/// What software has still to do that sets a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setter {
    Idle,
    /// One step of three is done.
    One,
    Two,
    /// Of those that look first: the upper entry was accessed.
    Passes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    upper: Entry,
    lower: Entry,
    leaf: Entry,
    caches: [Cache; MMUS],
    harvest: Option<Harvest>,
    setter: Setter,
}

const AT: [At; 7] =
    [At::Upper, At::TakeUpper, At::Lower, At::TakeLower, At::Leaf, At::DropLower, At::DropUpper];
const SETTERS: [Setter; 4] = [Setter::Idle, Setter::One, Setter::Two, Setter::Passes];
const MARKS: [Mark; 2] = [Mark::Accessed, Mark::Dirty];

/// The bits of a state, from the lowest up.
struct Bits {
    number: u32,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        self.number |= value << self.count;
        self.count += count;
    }

    fn pop(&mut self, count: u32) -> u32 {
        let value = self.number & ((1 << count) - 1);
        self.number >>= count;
        value
    }
}

pub(super) const STATE_BITS: u32 = 3 + 3 + 2 + 3 * MMUS as u32 + 2 + 9;

impl State {
    pub(super) fn new() -> Self {
        let table = EPT.table(HostPfn::new(7));
        let leaf = EPT.leaf(PageSize::Size4K, HostPfn::new(9), Attr::new(Prot::RW)).unwrap();
        let caches = [Cache::default(); MMUS];
        let setter = Setter::Idle;
        Self { upper: table, lower: table, leaf, caches, harvest: None, setter }
    }

    /// Returns a number that no other state has.
    pub(super) fn number(&self) -> u32 {
        let mut bits = Bits { number: 0, count: 0 };
        for entry in [self.upper, self.lower] {
            for bit in [EPT.accessed_bit(), Entry::CARRY_ACCESSED, Entry::CARRY_DIRTY] {
                bits.push(entry.has(bit).into(), 1);
            }
        }
        for bit in [EPT.accessed_bit(), EPT.dirty_bit()] {
            bits.push(self.leaf.has(bit).into(), 1);
        }
        // It does not matter which is which.
        let mut caches = self.caches;
        caches.sort_unstable();
        for cache in caches {
            for bit in [cache.upper, cache.lower, cache.behind] {
                bits.push(bit.into(), 1);
            }
        }
        bits.push(self.setter as u32, 2);
        bits.push(self.harvest.map_or(0, |harvest| 1 + harvest.at as u32), 4);
        if let Some(Harvest { mark, whole, drops, took_upper, took_lower, .. }) = self.harvest {
            for bit in [mark == Mark::Dirty, whole, drops, took_upper, took_lower] {
                bits.push(bit.into(), 1);
            }
        }
        assert!(bits.count <= STATE_BITS);
        bits.number
    }

    pub(super) fn of(number: u32) -> Self {
        let mut bits = Bits { number, count: 0 };
        let mut state = Self::new();
        for entry in [&mut state.upper, &mut state.lower] {
            for bit in [EPT.accessed_bit(), Entry::CARRY_ACCESSED, Entry::CARRY_DIRTY] {
                *entry = if bits.pop(1) == 1 { entry.with(bit) } else { *entry };
            }
        }
        for bit in [EPT.accessed_bit(), EPT.dirty_bit()] {
            state.leaf = if bits.pop(1) == 1 { state.leaf.with(bit) } else { state.leaf };
        }
        for cache in &mut state.caches {
            let mut flag = || bits.pop(1) == 1;
            *cache = Cache { upper: flag(), lower: flag(), behind: flag() };
        }
        state.setter = SETTERS[bits.pop(2) as usize];
        state.harvest = bits.pop(4).checked_sub(1).map(|at| {
            let mark = MARKS[bits.pop(1) as usize];
            let mut flag = || bits.pop(1) == 1;
            let (whole, drops, took_upper, took_lower) = (flag(), flag(), flag(), flag());
            Harvest { at: AT[at as usize], mark, whole, drops, took_upper, took_lower }
        });
        state
    }

    /// Tells whether a round, and software that sets a bit, are over. Only then is a state judged.
    pub(super) fn is_settled(&self) -> bool {
        self.harvest.is_none() && self.setter == Setter::Idle
    }

    /// Tells whether one round of each kind, with the MMUs out, would leave a bit behind: if they come out
    /// that changes nothing in the entries.
    pub(super) fn hides_a_bit(&self) -> bool {
        MARKS.into_iter().any(|mark| {
            let carry = mark.carry();
            let led = carry.leads_on(self.upper, &EPT) && carry.leads_on(self.lower, &EPT);
            self.leaf.has(mark.take(&EPT).bit()) && !led
        })
    }

    /// Tells whether the same holds of a bit that an MMU could set by what it has cached.
    pub(super) fn hides_a_cache(&self) -> bool {
        MARKS.into_iter().any(|mark| {
            let leads = |entry| mark.carry().leads_on(entry, &EPT);
            self.caches.into_iter().any(|cache| {
                (cache.upper || cache.lower) && !leads(self.upper)
                    || cache.lower && !leads(self.lower)
            })
        })
    }
}

/// What a round of this kind makes of an entry whose accessed bit it takes.
fn carried(rules: Rules, entry: Entry, mark: Mark) -> Entry {
    let taken = entry.carried(&EPT);
    let other = if mark == Mark::Dirty { Entry::CARRY_ACCESSED } else { Entry::CARRY_DIRTY };
    match rules {
        Rules::LeavesNone => entry.without(EPT.accessed_bit()),
        // What was there of the other kind stays.
        Rules::LeavesItsOwn if !entry.has(other) => taken.without(other),
        _ => taken,
    }
}

fn dropped(rules: Rules, entry: Entry, mark: Mark) -> Entry {
    match rules {
        Rules::OneForBoth => entry.without(Entry::CARRY),
        _ => mark.carry().dropped(entry),
    }
}

impl Harvest {
    /// Does one step. When there is none left the round is over.
    fn step(mut self, rules: Rules, state: &mut State) -> Option<Self> {
        let leads = |entry| match rules {
            Rules::OneForBoth => {
                entry != Entry::EMPTY && {
                    Carry::ACCESSED.leads_on(entry, &EPT) || Carry::DIRTY.leads_on(entry, &EPT)
                }
            }
            _ => self.mark.carry().leads_on(entry, &EPT),
        };
        let takes = self.whole || rules == Rules::TakesParts;
        let drops = takes && self.drops;
        let stays = |took: bool| !took || rules == Rules::DropsItsOwn;
        let take = |entry: &mut Entry| {
            let was = *entry;
            if takes {
                *entry = carried(rules, was, self.mark);
                if drops && !was.has(EPT.accessed_bit()) && rules == Rules::DropsBeforeTheScan {
                    *entry = dropped(rules, *entry, self.mark);
                }
            }
            takes && was.has(EPT.accessed_bit())
        };
        self.at = match self.at {
            At::Upper if leads(state.upper) => At::TakeUpper,
            At::Upper => return None,
            At::TakeUpper => {
                self.took_upper = take(&mut state.upper);
                At::Lower
            }
            At::Lower if leads(state.lower) => At::TakeLower,
            At::Lower => At::DropUpper,
            At::TakeLower => {
                self.took_lower = take(&mut state.lower);
                At::Leaf
            }
            At::Leaf => {
                if self.whole {
                    state.leaf = state.leaf.without(self.mark.take(&EPT).bit());
                }
                At::DropLower
            }
            At::DropLower => {
                if drops && stays(self.took_lower) {
                    state.lower = dropped(rules, state.lower, self.mark);
                }
                At::DropUpper
            }
            At::DropUpper => {
                if drops && stays(self.took_upper) {
                    state.upper = dropped(rules, state.upper, self.mark);
                }
                return None;
            }
        };
        Some(self)
    }
}

/// Tells `visit` each state that one step leads to, and what that step is.
pub(super) fn steps(rules: Rules, state: State, mut visit: impl FnMut(State, &dyn Fn() -> String)) {
    let (accessed, dirty) = (EPT.accessed_bit(), EPT.dirty_bit());
    for (index, cache) in state.caches.into_iter().enumerate() {
        let with = |cache| {
            let mut next = state;
            next.caches[index] = cache;
            next
        };
        let next = with(Cache { upper: true, ..cache });
        visit(State { upper: state.upper.with(accessed), ..next }, &|| {
            format!("MMU {index} walks the upper entry")
        });
        if cache.upper {
            let next = with(Cache { lower: true, ..cache });
            visit(State { lower: state.lower.with(accessed), ..next }, &|| {
                format!("MMU {index} walks the lower entry")
            });
        }
        if cache.lower {
            let next = with(cache);
            visit(State { leaf: state.leaf.with(accessed), ..next }, &|| {
                format!("MMU {index} reads")
            });
            visit(State { leaf: state.leaf.with(accessed | dirty), ..next }, &|| {
                format!("MMU {index} writes")
            });
        }
        visit(with(Cache::default()), &|| format!("MMU {index} comes out"));
    }
    for mark in MARKS {
        let leaf = state.leaf.without(mark.take(&EPT).bit());
        visit(State { leaf, ..state }, &|| format!("a harvest for {mark:?} that is no round"));
    }
    set(rules, state, &mut visit);
    harvest(rules, state, &mut visit);
}

/// The steps of software that sets the dirty bit.
fn set(rules: Rules, state: State, visit: &mut impl FnMut(State, &dyn Fn() -> String)) {
    let accessed = EPT.accessed_bit();
    let leaf = |state: State| State { leaf: state.leaf.with(EPT.dirty_bit()), ..state };
    let lower = |state: State| State { lower: state.lower.with(accessed), ..state };
    let upper = |state: State| State { upper: state.upper.with(accessed), ..state };
    let order: [&dyn Fn(State) -> State; 3] = match rules {
        Rules::MarksTopDown => [&leaf, &upper, &lower],
        Rules::MarksFirst => [&lower, &upper, &leaf],
        _ => [&leaf, &lower, &upper],
    };
    if rules == Rules::MarksNothing {
        return visit(leaf(state), &|| "software sets the bit".into());
    }
    let (done, next) = match state.setter {
        Setter::One if rules == Rules::LooksFirst && state.upper.has(accessed) => {
            return visit(State { setter: Setter::Passes, ..state }, &|| {
                "software looks up".into()
            });
        }
        Setter::Passes => (2, lower(state)),
        setter => (setter as usize, order[setter as usize](state)),
    };
    visit(State { setter: SETTERS[(done + 1) % 3], ..next }, &|| {
        format!("software does step {} of 3", done + 1)
    });
}

/// The steps of rounds: to begin, to go on, to be cut off.
fn harvest(rules: Rules, state: State, visit: &mut impl FnMut(State, &dyn Fn() -> String)) {
    let ended = |mut state: State| {
        state.harvest = None;
        state.caches.iter_mut().for_each(|cache| cache.behind = true);
        state
    };
    let Some(harvest) = state.harvest else {
        for mark in MARKS {
            for whole in [true, false] {
                let flushed = state.caches.map(|cache| !cache.behind);
                let drops = match rules {
                    Rules::DropsWithoutAsking => true,
                    Rules::AnyIsEnough => flushed.contains(&true),
                    _ => !flushed.contains(&false),
                };
                let (took_upper, took_lower) = (false, false);
                let harvest = Harvest { at: At::Upper, mark, whole, drops, took_upper, took_lower };
                visit(State { harvest: Some(harvest), ..state }, &|| {
                    format!("a round for {mark:?} begins; whole: {whole}, drops: {drops}")
                });
            }
        }
        return;
    };
    let mut next = state;
    match harvest.step(rules, &mut next) {
        Some(harvest) => next.harvest = Some(harvest),
        None => next = ended(next),
    }
    visit(next, &|| format!("the round goes on from {:?}", harvest.at));
    let cut = match rules {
        Rules::AbortIsNoEnd => State { harvest: None, ..state },
        _ => ended(state),
    };
    visit(cut, &|| "the round is cut off".into());
}
