//! Two sides of a scenario, one after the other and at the same time.
//!
//! What two operations may come to when they run at the same time is what they come to one after the other, in
//! either order: what each of them says, and how the table stands in the end. So a scenario is run in turn
//! first, on fresh worlds, and nobody has to write down what it should come to. Then it is explored: no execution
//! may come to anything else, but for what is named as an [`Exception`], and loom has to find every order.
//!
//! ```
//! # use loom_tests::{Arc, World, pair};
//! pair(2, |play| {
//!     let world = Arc::new(World::mapped(1));
//!     let said = play.race(&world, |cpu| cpu.unmap(1), |cpu| cpu.lookup(1).is_some());
//!     (said, world.end())
//! })
//! .as_in_turn();
//! ```

use std::{cell::Cell, fmt::Debug, sync::Arc as StdArc};

use slat::{Entry, Format, FrameSource, Level, SLOTS};

use crate::{
    Outcomes, explore_as, name_of, pages,
    sched::{self, Arc},
    sides::beside,
    world::{Cpu, Table, World, gpa},
};

/// How the two sides of a scenario are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// At the same time.
    Beside,
    /// The first side when the second has made so many of its steps.
    After(usize),
    /// The first side, and not the second.
    OneAlone,
    /// The second side, and not the first.
    TwoAlone,
}

/// Runs the two sides of a scenario, as it is its turn: at the same time, or one after the other.
///
/// The first side is one operation; the second one or several steps, each of which is one. What a side says is
/// `None`, or nothing, where it is not run: then what the other comes to alone is looked at, which is what an
/// operation comes to beside one that gives up.
#[derive(Debug)]
pub struct Play {
    order: Order,
    /// How many steps the second side has.
    steps: Cell<usize>,
}

impl Play {
    /// Runs each closure on a processor of its own; no pin is held but those that the sides take.
    ///
    /// # Panics
    /// If one of them does.
    pub fn race<A, B>(
        &self,
        world: &Arc<World>,
        one: impl FnOnce(&Cpu) -> A,
        two: impl FnOnce(&Cpu) -> B + Send + 'static,
    ) -> (Option<A>, Option<B>)
    where
        B: Send + 'static,
    {
        let mut two = Some(two);
        let once = move |cpu: &Cpu, _| two.take().expect("there is one step")(cpu);
        let (one, mut two) = self.race_steps(world, one, 1, once);
        (one, two.pop())
    }

    /// Does the same, where the second side makes `steps` steps, and is told which.
    ///
    /// # Panics
    /// If one of them does.
    pub fn race_steps<A, B>(
        &self,
        world: &Arc<World>,
        one: impl FnOnce(&Cpu) -> A,
        steps: usize,
        mut two: impl FnMut(&Cpu, usize) -> B + Send + 'static,
    ) -> (Option<A>, Vec<B>)
    where
        B: Send + 'static,
    {
        let (here, there) = (Cpu::new(world), Cpu::new(world));
        self.run(|| one(&here), steps, move |step| two(&there, step))
    }

    /// Runs each closure on a thread of its own.
    ///
    /// # Panics
    /// If one of them does.
    pub fn beside<A, B>(
        &self,
        one: impl FnOnce() -> A,
        two: impl FnOnce() -> B + Send + 'static,
    ) -> (Option<A>, Option<B>)
    where
        B: Send + 'static,
    {
        let mut two = Some(two);
        let (one, mut two) = self.run(one, 1, move |_| two.take().expect("there is one step")());
        (one, two.pop())
    }

    fn run<A, B: Send + 'static>(
        &self,
        one: impl FnOnce() -> A,
        steps: usize,
        mut two: impl FnMut(usize) -> B + Send + 'static,
    ) -> (Option<A>, Vec<B>) {
        self.steps.set(steps);
        match self.order {
            Order::Beside => {
                let (one, (two, _taken)) = beside(one, move || {
                    let said: Vec<_> = (0..steps).map(&mut two).collect();
                    (said, two)
                });
                (Some(one), two)
            }
            Order::After(before) => {
                let mut said: Vec<_> = (0..before).map(&mut two).collect();
                let one = one();
                said.extend((before..steps).map(&mut two));
                (Some(one), said)
            }
            Order::OneAlone => (Some(one()), Vec::new()),
            Order::TwoAlone => (None, (0..steps).map(&mut two).collect()),
        }
    }
}

/// What a scenario came to, in turn and otherwise.
#[derive(Debug)]
#[must_use = "say what it may come to"]
pub struct Pair<T> {
    /// In each order of the steps.
    in_turn: Vec<T>,
    /// With one side alone.
    alone: Vec<T>,
    /// At the same time.
    seen: Outcomes<T>,
}

/// What two operations may come to at the same time, and not one after the other.
#[derive(Debug)]
pub struct Exception<T> {
    why: &'static str,
    stands_for: fn(&T) -> Option<T>,
}

impl<T> Exception<T> {
    /// Says, of what was seen, which outcome it is as good as, if it is one of these: of both sides in turn, or
    /// of one of them alone. `why` is the sentence in the documentation that allows it.
    #[must_use]
    pub const fn new(why: &'static str, stands_for: fn(&T) -> Option<T>) -> Self {
        Self { why, stands_for }
    }
}

/// Runs `scenario` in each order of its steps, and each side of it alone; and then [explores](crate::explore) it.
///
/// # Panics
/// If the scenario does.
pub fn pair<T, S>(preemptions: usize, scenario: S) -> Pair<T>
where
    T: PartialEq + Debug + Send + 'static,
    S: Fn(&Play) -> T + Send + Sync + 'static,
{
    let scenario = StdArc::new(scenario);
    let (first, steps) = once(&scenario, Order::After(0));
    let mut in_turn = vec![first];
    in_turn.extend((1..=steps).map(|before| once(&scenario, Order::After(before)).0));
    let alone = [Order::OneAlone, Order::TwoAlone].map(|order| once(&scenario, order).0);
    let seen = explore_as(name_of::<S>(), preemptions, move || scenario(&Play::of(Order::Beside)));
    Pair { in_turn, alone: Vec::from(alone), seen }
}

impl Play {
    const fn of(order: Order) -> Self {
        Self { order, steps: Cell::new(0) }
    }
}

/// Runs `scenario` once, in this order; returns what it came to, and of how many steps its second side is.
fn once<T, S>(scenario: &StdArc<S>, order: Order) -> (T, usize)
where
    T: Send + 'static,
    S: Fn(&Play) -> T + Send + Sync + 'static,
{
    let outcome = sched::Shared::<Option<(T, usize)>>::default();
    let (told, scenario) = (sched::Shared::clone(&outcome), StdArc::clone(scenario));
    sched::once(move || {
        let play = Play::of(order);
        let came_to = scenario(&play);
        *told.lock().unwrap() = Some((came_to, play.steps.get()));
    });
    let outcome = outcome.lock().unwrap().take();
    outcome.expect("it was run")
}

impl<T: PartialEq + Debug> Pair<T> {
    /// States that at the same time both sides come to what they come to in turn. No scheduler may find anything
    /// else; loom has to find every order.
    ///
    /// # Panics
    /// If it is not so.
    #[track_caller]
    pub fn as_in_turn(self) {
        self.as_in_turn_but(&[]);
    }

    /// Does the same, with exceptions; loom has to find each of them.
    ///
    /// # Panics
    /// If it is not so.
    #[track_caller]
    pub fn as_in_turn_but(self, exceptions: &[Exception<T>]) {
        let Self { in_turn, alone, seen: Outcomes(seen) } = self;
        let is_as_good = |seen: &T, exception: &Exception<T>| {
            let other = (exception.stands_for)(seen);
            other.is_some_and(|other| in_turn.contains(&other) || alone.contains(&other))
        };
        let strange: Vec<_> = seen
            .iter()
            .filter(|seen| !in_turn.contains(seen))
            .filter(|seen| !exceptions.iter().any(|exception| is_as_good(seen, exception)))
            .collect();
        assert!(strange.is_empty(), "not as in turn: {strange:#?}\nin turn: {in_turn:#?}");
        if cfg!(loom) {
            let missed: Vec<_> = in_turn.iter().filter(|order| !seen.contains(order)).collect();
            assert!(missed.is_empty(), "orders that no execution had: {missed:#?}");
            for exception in exceptions {
                let happens =
                    seen.iter().any(|seen| !in_turn.contains(seen) && is_as_good(seen, exception));
                assert!(happens, "no execution had this: {}", exception.why);
            }
        }
    }
}

/// How a table stands: the entries of its first two leaf tables, and of those above them. Of real tables those
/// at both ends, which scenarios are about, and how many pages are mapped in between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// The first page at which a walk has passed through the entry, its level, and what it says.
    entries: Vec<(u64, Level, Entry)>,
    mapped: u64,
    /// How many tables there are.
    tables: u64,
}

impl End {
    /// Looks at a table, when all is over.
    ///
    /// # Panics
    /// If a frame is neither free, nor a table's, nor waiting to be freed.
    #[must_use]
    pub fn of(table: &Table) -> Self {
        let stats = table.stats();
        let frames = table.frames();
        assert_eq!(
            frames.free_frames() + stats.tables + stats.waiting,
            frames.0.capacity(),
            "frames are lost"
        );
        let pin = table.pin();
        let mut entries: Vec<(u64, Level, Entry)> = Vec::new();
        let slots = SLOTS as u64;
        let at_an_end = |page: &u64| page % slots < 4 || page % slots == slots - 1;
        for page in (0..2 * slots).filter(at_an_end) {
            for step in pin.walk(gpa(page), Level::L1).iter() {
                // Where a table lies is nobody's business.
                let address = if table.format().is_table(step.entry) { ADDRESS } else { 0 };
                let entry = step.entry.without(address);
                let above = entries.iter().rev().find(|(_, level, _)| *level == step.level);
                if above.is_none_or(|&(_, _, before)| before != entry) {
                    entries.push((page, step.level, entry));
                }
            }
        }
        let mapped = pin.mapped(pages(0, 2 * slots)).unwrap();
        Self { entries, mapped, tables: stats.tables }
    }
}

/// The bits of an entry that say where its table lies.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl World {
    /// Says how the table stands when all is over.
    ///
    /// # Panics
    /// If frames are lost.
    #[must_use]
    pub fn end(&self) -> End {
        End::of(&self.table)
    }
}
