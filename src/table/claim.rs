//! The claim: a structural change that is being decided.
//!
//! Removing tables races with mapping in them. The writer *claims* a range, looks whether a leaf is
//! there, and *commits*; until then any mapper may *break* the claim, and wins. One word decides
//! between them:
//!
//! ```text
//!            open                 commit
//!   IDLE(n-1) --> CLAIMING(n) ------------> COMMITTED(n) --.
//!        writer         |          writer                  | close
//!                       | judge, break_mark                | (writer)
//!                       v (any mapper)                     v
//!                  ABORTED(n) --------------------------> IDLE(n)
//! ```
//!
//! A claim covers its range in two ways:
//!
//! - *By its word*, where a leaf table (or a larger one) lies in the range whole, and will be
//!   unlinked. Nothing in such a table is touched before the commit. Every walk takes a sample of the
//!   word when it begins, its [`Shape`]; a mapper looks at the word again after its compare-exchange
//!   ([`Claims::still`]), and the writer looks at the slots after it has opened the claim. Of the two,
//!   at least one sees the other (`stored` below).
//! - *By the slots themselves*, in tables of which the range covers a part: [`Entry::claimed`] bears
//!   the number of the claim, so that a mapper that was slow cannot take one claim's mark for
//!   another's, nor miss that a page was vacated and populated again.
//!
//! A stalled writer stops nobody: its open claim is broken by whoever maps. A stalled mapper stops no
//! writer: nobody waits for it to look at the word.

use crate::{
    addr::GpaRange,
    entry::Entry,
    sync::{AtomicU64, Ordering, full_fence},
};

#[cfg(all(test, loom))]
mod model;

/// What the claim word said when a walk began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape(u64);

impl Shape {
    /// Says nothing: a walk that took no sample, or took it while a claim was open.
    pub(crate) const UNKNOWN: Self = Self(u64::MAX);
}

/// How far a claim has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Claiming,
    Committed,
    Aborted,
}

/// The claim word, decoded: the number of the last claim, and its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const fn new(number: u64, state: State) -> Self {
        Self((number << 2) | state as u64)
    }

    const fn number(self) -> u64 {
        self.0 >> 2
    }

    const fn state(self) -> State {
        match self.0 & 0b11 {
            0 => State::Idle,
            1 => State::Claiming,
            2 => State::Committed,
            _ => State::Aborted,
        }
    }
}

/// How a claim stands to a mapper that came across it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It does not take the slot away: it was broken, covers others, or is over.
    Stands,
    /// It was committed: the slot is no longer the page's.
    Committed,
}

/// The claims of one tree, of which one at a time is open.
#[derive(Debug)]
pub(crate) struct Claims {
    word: AtomicU64,
    /// The pages of the open claim, first and end; written by the writer before it opens one.
    first: AtomicU64,
    end: AtomicU64,
}

impl Claims {
    pub(super) fn new() -> Self {
        Self { word: AtomicU64::new(0), first: AtomicU64::new(0), end: AtomicU64::new(0) }
    }

    #[inline]
    fn word(&self) -> Word {
        // Acquire: who sees a claim closed sees its tables unlinked and its marks gone, and who sees
        //   it open sees its range; pairs with `open` and `close` [edge: claim].
        Word(self.word.load(Ordering::Acquire))
    }

    /// Takes the sample with which a walk begins.
    #[inline]
    pub(crate) fn sample(&self) -> Shape {
        let word = self.word();
        if word.state() == State::Idle { Shape(word.0) } else { Shape::UNKNOWN }
    }

    /// Tells whether no claim was opened since the sample was taken.
    ///
    /// After a compare-exchange, and the [fence](crate::sync::fence_after_exchange) behind it, this is
    /// the mapper's half of `stored`: if it is true, every later scan sees what was exchanged.
    #[inline]
    pub(crate) fn still(&self, shape: Shape) -> bool {
        self.word().0 == shape.0
    }

    /// Tells what the open claim, if there is one, means for a slot whose table translates `span`. If
    /// it is undecided and would take the table away, breaks it.
    ///
    /// `live` tells whether a walk from the root still comes to the slot; it is asked after the word was
    /// read, and so finds unlinked what the word says is over.
    pub(crate) fn judge(&self, span: GpaRange, mut live: impl FnMut() -> bool) -> Verdict {
        loop {
            let word = self.word();
            if !live() {
                return Verdict::Committed;
            }
            if word.state() == State::Idle {
                return Verdict::Stands;
            }
            let Some(claimed) = self.range_of(word) else { continue };
            if !claimed.covers(span) {
                return Verdict::Stands;
            }
            if let Some(verdict) = self.decide(word) {
                return verdict;
            }
        }
    }

    /// Tells whether the open claim was committed and takes away the tables of `span`.
    pub(crate) fn has_committed(&self, span: GpaRange) -> bool {
        let word = self.word();
        word.state() == State::Committed
            && self.range_of(word).is_some_and(|claimed| claimed.covers(span))
    }

    /// Breaks the claim that left its mark `mark` in a slot, if it is undecided.
    ///
    /// If the claim is over, the slot stands as well; but the mark is gone from it, so to exchange the
    /// mark fails.
    pub(crate) fn break_mark(&self, mark: Entry) -> Verdict {
        loop {
            let word = self.word();
            if word.state() == State::Idle || Entry::claimed(word.number()) != mark {
                return Verdict::Stands;
            }
            if let Some(verdict) = self.decide(word) {
                return verdict;
            }
        }
    }

    /// Decides an open claim in the mapper's favour, if that can still be done. Returns `None` if the
    /// word changed.
    fn decide(&self, word: Word) -> Option<Verdict> {
        match word.state() {
            State::Idle => None,
            State::Aborted => Some(Verdict::Stands),
            State::Committed => Some(Verdict::Committed),
            State::Claiming => {
                let aborted = Word::new(word.number(), State::Aborted);
                // Release: what the mapper published comes before; pairs with the failing exchange in
                //   `commit`, whose writer looks again [edge: claim]. The fences of `stored` say as
                //   much, where the leaf is there already.
                // Relaxed on failure: the caller looks again.
                self.word
                    .compare_exchange(word.0, aborted.0, Ordering::Release, Ordering::Relaxed)
                    .ok()
                    .map(|_| Verdict::Stands)
            }
        }
    }

    /// Returns the range of the claim that `word` says is open, or `None` if that is over by now.
    fn range_of(&self, word: Word) -> Option<GpaRange> {
        // Acquire: who reads the range of a later claim finds, below, the earlier one closed; pairs
        //   with `open` [edge: claim].
        let first = self.first.load(Ordering::Acquire);
        let end = self.end.load(Ordering::Acquire);
        let now = self.word();
        let same = now.number() == word.number() && now.state() != State::Idle;
        same.then(|| GpaRange::between(first, end))
    }

    /// Opens a claim of `range` and returns its number. The writer's, who has the lock.
    pub(super) fn open(&self, range: GpaRange) -> u64 {
        // Relaxed: only the holder of the writer lock opens and closes.
        let number = Word(self.word.load(Ordering::Relaxed)).number() + 1;
        // Release: the claim before is closed; pairs with `range_of` [edge: claim].
        self.first.store(range.first_page(), Ordering::Release);
        self.end.store(range.end_page(), Ordering::Release);
        // Release: the range comes before; pairs with `word` [edge: claim].
        // Exchanged, as by all who write it: a store would do, but loom does not know that one comes
        //   after the exchange of a mapper who broke the claim before.
        self.word.swap(Word::new(number, State::Claiming).0, Ordering::Release);
        // The writer's half of `stored`: the word is written before any slot is read. The other half
        //   is the fence behind the exchange of a mapper, which then reads the word [pair: stored].
        full_fence();
        number
    }

    /// Commits the open claim; false if a mapper broke it.
    pub(super) fn commit(&self, number: u64) -> bool {
        let claiming = Word::new(number, State::Claiming).0;
        let committed = Word::new(number, State::Committed).0;
        // Linearizes here, for vacate as a whole.
        // Relaxed: what a committed claim means was published when it was opened; an exchange goes on
        //   with that release sequence.
        // Acquire on failure: the writer looks again, and sees what the mapper published; pairs with
        //   `decide` [edge: claim].
        self.word
            .compare_exchange(claiming, committed, Ordering::Relaxed, Ordering::Acquire)
            .is_ok()
    }

    /// Tells whether a mapper broke the open claim.
    #[cfg(all(test, loom))]
    pub(super) fn is_broken(&self, number: u64) -> bool {
        self.word() == Word::new(number, State::Aborted)
    }

    /// Closes the open claim, whatever became of it.
    pub(super) fn close(&self, number: u64) {
        // Release: the tables are unlinked and the marks are gone; pairs with `word` [edge: claim].
        self.word.swap(Word::new(number, State::Idle).0, Ordering::Release);
    }
}
