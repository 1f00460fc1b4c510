//! The search for an order of operations that the specification explains.
//!
//! A configuration is how far each thread has come, and the state of the pages. From one the search goes
//! on with the next step of any thread whose operation may begin: all that was over when it was called is
//! done. What it has come to before is not tried again, so it costs configurations and not orders. It
//! is exhaustive: if it finds nothing there is no such order.

use std::{collections::HashSet, fmt};

use super::{
    At, History, THREADS, diagram,
    late::{Exception, Exceptions},
    spec::{Order, Script, State},
};

#[cfg(all(test, not(loom)))]
mod orders;
#[cfg(test)]
mod tests;

/// A history that has an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// How many configurations the search came to.
    pub configurations: usize,
    /// Whether the order needs exceptions.
    pub needs: Option<Exception>,
}

/// A history that has none.
#[derive(Clone, Debug)]
pub struct Stuck {
    pub(super) history: History,
    /// How many operations of each thread were done where the search got furthest.
    pub(super) done: [usize; THREADS],
    pub(super) state: State,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        diagram::draw(self, f)
    }
}

pub(super) fn check(history: &History) -> Result<Checked, Box<Stuck>> {
    let mut configurations = 0;
    let mut stuck = None;
    for needs in Exceptions::ALL {
        let mut search = Search::new(history, needs);
        let found = search.from(search.start());
        configurations += search.visited.len();
        if found {
            return Ok(Checked { configurations, needs: needs.named() });
        }
        stuck = Some(search.furthest);
    }
    let (done, state) = stuck.expect("it was searched");
    Err(Box::new(Stuck { history: history.clone(), done, state }))
}

/// How far a thread has come: the operations that are done, and the steps of the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Cursor {
    done: u8,
    steps: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    cursors: [Cursor; THREADS],
    state: State,
}

impl Configuration {
    fn done(&self) -> [usize; THREADS] {
        self.cursors.map(|cursor| usize::from(cursor.done))
    }
}

struct Search<'h> {
    history: &'h History,
    scripts: Vec<Vec<Option<Script>>>,
    visited: HashSet<Configuration>,
    /// Where most operations were done.
    furthest: ([usize; THREADS], State),
}

impl<'h> Search<'h> {
    fn new(history: &'h History, exceptions: Exceptions) -> Self {
        let script = |at: At| {
            let script = Script::of(history.get(at).call, history.get(at).answer)?;
            exceptions.allow(history, at, script)
        };
        let mut scripts: Vec<Vec<_>> = history.threads.iter().map(|_| Vec::new()).collect();
        for at in history.all() {
            scripts[at.thread].push(script(at));
        }
        let state = State::new(history.start, history.tables);
        Self { history, scripts, visited: HashSet::new(), furthest: ([0; THREADS], state) }
    }

    fn start(&self) -> Configuration {
        Configuration { cursors: [Cursor::default(); THREADS], state: self.furthest.1 }
    }

    /// Tells whether the rest can be done from here.
    fn from(&mut self, now: Configuration) -> bool {
        let done = now.done();
        if done.iter().sum::<usize>() > self.furthest.0.iter().sum() {
            self.furthest = (done, now.state);
        }
        let all = self.scripts.iter().enumerate().all(|(thread, of)| done[thread] == of.len());
        if all {
            return now.state.is_settled();
        }
        if !self.visited.insert(now) {
            return false;
        }
        (0..self.scripts.len())
            .flat_map(|thread| self.next(now, thread))
            .collect::<Vec<_>>()
            .into_iter()
            .any(|next| self.from(next))
    }

    /// Returns the configurations to which a step of `thread` leads.
    fn next(&self, now: Configuration, thread: usize) -> Vec<Configuration> {
        let cursor = now.cursors[thread];
        let at = At { thread, index: usize::from(cursor.done) };
        let Some(Some(script)) = self.scripts[thread].get(at.index) else { return Vec::new() };
        let seen = self.history.get(at).seen;
        if (0..THREADS).any(|other| other != thread && now.done()[other] < seen[other]) {
            return Vec::new();
        }
        let open = (0..script.steps.len()).filter(|step| cursor.steps & 1 << step == 0);
        let count = if script.order == Order::Any { script.steps.len() } else { 1 };
        let mut next = Vec::new();
        for step in open.take(count) {
            let mut cursor = Cursor { steps: cursor.steps | 1 << step, ..cursor };
            if cursor.steps.count_ones() as usize == script.steps.len() {
                cursor = Cursor { done: cursor.done + 1, steps: 0 };
            }
            let mut cursors = now.cursors;
            cursors[thread] = cursor;
            let states = script.steps[step].iter().filter_map(|&way| now.state.after(way));
            next.extend(states.map(|state| Configuration { cursors, state }));
        }
        next
    }
}
