//! Programs that are drawn from a seed.

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    call::{Call, Leaf, PAGES, Rights, Span},
    program::{Ground, Pinning, Program},
    spec::Page,
};

/// What a thread mostly does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Populates and vacates.
    Structure,
    /// Maps, unmaps and looks.
    Leaves,
    /// Everything that leaves can be asked for.
    Bits,
}

struct Hand {
    rng: SmallRng,
    ground: Ground,
    /// The pages that most calls are about.
    hot: Span,
    /// What makes the frames of each call others than those of the rest.
    kind: u16,
}

impl Program {
    /// Draws a program: three or four threads of four to six calls each.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let ground = Ground::ALL[rng.random_range(0..Ground::ALL.len())];
        let first = rng.random_range(0..ground.pages);
        let hot = Span::new(first, rng.random_range(first + 1..=ground.pages));
        let mut hand = Hand { rng, ground, hot, kind: 0 };
        let start = hand.start();
        let count = hand.rng.random_range(3..=4);
        let threads = (0..count).map(|thread| hand.thread(thread)).collect();
        let pinning = match hand.rng.random_range(0..10) {
            0..=5 => Pinning::Each,
            6..=7 => Pinning::Throughout,
            _ => Pinning::Slots,
        };
        Self { name: format!("HISTORY_SEED={seed}"), ground, start, threads, pinning }
    }
}

impl Hand {
    fn start(&mut self) -> [Page; PAGES] {
        let mut start = [Page::Unpopulated; PAGES];
        for (page, start) in start.iter_mut().enumerate().take(self.ground.pages) {
            *start = match self.rng.random_range(0..10) {
                0 => Page::Unpopulated,
                1..=2 => Page::Leaf(Leaf {
                    accessed: self.rng.random_bool(0.5),
                    dirty: self.rng.random_bool(0.5),
                    ..Leaf::fresh(Ground::frame(page, 0), self.rights())
                }),
                _ => Page::Empty,
            };
        }
        start
    }

    fn thread(&mut self, thread: usize) -> Vec<Call> {
        let role = match (thread, self.rng.random_range(0..8)) {
            (0, 0..=6) | (1, 0..=1) => Role::Structure,
            (_, 0..=4) => Role::Leaves,
            _ => Role::Bits,
        };
        let calls = self.rng.random_range(4..=6);
        (0..calls).map(|_| self.call(role)).collect()
    }

    fn page(&mut self) -> usize {
        let all = Span::new(0, self.ground.pages);
        let from = if self.rng.random_bool(0.8) { self.hot } else { all };
        self.rng.random_range(from.first..from.end)
    }

    fn span(&mut self) -> Span {
        if self.rng.random_bool(0.5) {
            return self.hot;
        }
        let first = self.rng.random_range(0..self.ground.pages);
        Span::new(first, self.rng.random_range(first + 1..=self.ground.pages))
    }

    fn rights(&mut self) -> Rights {
        if self.rng.random_bool(0.8) { Rights::All } else { Rights::Read }
    }

    fn map(&mut self) -> Call {
        let page = self.page();
        // Mostly a frame that no other call has, so that it can be told whose a leaf is.
        self.kind += 1;
        let kind = if self.rng.random_bool(0.6) { self.kind } else { 0 };
        Call::Map { page, frame: Ground::frame(page, kind), rights: self.rights() }
    }

    fn call(&mut self, role: Role) -> Call {
        let mut one_of = |calls| self.rng.random_range(0..calls);
        match role {
            Role::Structure => match one_of(12) {
                0..=5 => Call::Vacate(self.span()),
                6..=9 => Call::Populate(self.span()),
                10 => self.map(),
                _ => Call::Unmap(self.page()),
            },
            Role::Leaves => match one_of(12) {
                0..=4 => self.map(),
                5..=7 => Call::Unmap(self.page()),
                8..=9 => Call::Lookup(self.page()),
                10 => Call::UnmapRange(self.span()),
                _ => Call::Translate(self.span()),
            },
            Role::Bits => match one_of(15) {
                0..=1 => self.map(),
                2 => Call::Unmap(self.page()),
                3 => Call::Protect(self.page(), self.rights()),
                4..=5 => Call::NoteDirty(self.page()),
                6 => Call::ClearDirty(self.page()),
                7 => Call::SetAccessed(self.page()),
                8 => Call::ClearAccessed(self.page()),
                9 => Call::Harvest(self.span()),
                10 => Call::SetDirty(self.page()),
                11 => Call::Read(self.page()),
                12..=13 => Call::Write(self.page()),
                _ => Call::Lookup(self.page()),
            },
        }
    }
}
