//! What a vCPU does: which pages it comes to, and what it reads and writes there.

use std::{collections::VecDeque, iter};

use slat::{Prot, mmu::Access};

use crate::{
    content::{Content, Numbers, WORDS},
    options::FaultOrder,
};

/// One access of a guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) page: u64,
    pub(crate) word: usize,
    pub(crate) act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Read,
    /// Adds 1 to a word that no other vCPU writes.
    Increment,
}

impl Act {
    pub(crate) const fn access(self) -> Access {
        match self {
            Self::Read => Access::READ,
            Self::Increment => Access::WRITE,
        }
    }

    /// Returns what the page has to allow.
    pub(crate) const fn needs(self) -> Prot {
        match self {
            Self::Read => Prot::R,
            Self::Increment => Prot::RW,
        }
    }
}

/// All that one vCPU does, access by access. It comes to every page, half of the time to write; and now and then
/// it goes back to one where it has been, to find what it left there, or to write again.
#[derive(Debug)]
pub(crate) struct Plan {
    content: Content,
    vcpu: usize,
    order: Order,
    numbers: Numbers,
    /// How many pages it has come to.
    visited: u64,
    ahead: VecDeque<Op>,
}

impl Plan {
    pub(crate) fn new(
        content: Content,
        vcpu: usize,
        seed: u64,
        order: FaultOrder,
        pages: u64,
    ) -> Self {
        let mut numbers = Numbers::new(seed.wrapping_add(vcpu as u64) ^ 0x706f_7374);
        let order = Order::new(order, pages, &mut numbers);
        Self { content, vcpu, order, numbers, visited: 0, ahead: VecDeque::new() }
    }

    /// Returns the next access, or `None` if all is done.
    pub(crate) fn next(&mut self) -> Option<Op> {
        if self.ahead.is_empty() && self.visited < self.order.pages {
            self.visit();
        }
        self.ahead.front().copied()
    }

    /// Says that it was done.
    pub(crate) fn advance(&mut self) {
        self.ahead.pop_front();
    }

    fn visit(&mut self) {
        let page = self.order.page(self.visited);
        let random = self.numbers.next();
        let own = |page| self.content.word_of(page, self.vcpu);
        let read = Op { page, word: (random >> 32) as usize % WORDS, act: Act::Read };
        let write = Op { page, word: own(page), act: Act::Increment };
        match random % 4 {
            0 => self.ahead.push_back(read),
            1 => self.ahead.extend([read, write]),
            2 => self.ahead.extend([write, read]),
            _ => {
                let before = self.order.page(self.numbers.below(self.visited + 1));
                let act = if random & 4 == 0 { Act::Increment } else { Act::Read };
                self.ahead.extend([read, Op { page: before, word: own(before), act }]);
            }
        }
        self.visited += 1;
    }
}

/// An order of all pages.
#[derive(Clone, Copy, Debug)]
struct Order {
    pages: u64,
    first: u64,
    /// From one page to the next, modulo the number of pages: they have no common divisor.
    step: u64,
}

impl Order {
    fn new(order: FaultOrder, pages: u64, numbers: &mut Numbers) -> Self {
        let (first, step) = match order {
            FaultOrder::Ascending => (0, 1),
            FaultOrder::Descending => (pages - 1, pages - 1),
            FaultOrder::Random => {
                let steps = iter::repeat_with(|| 1 + numbers.below(pages));
                let step = { steps }.find(|&step| common_divisor(step, pages) == 1);
                (numbers.below(pages), step.expect("1 is one of them"))
            }
        };
        Self { pages, first, step }
    }

    /// Returns the page that comes after `before` others.
    const fn page(self, before: u64) -> u64 {
        // Below 2^64: there are no more than 2^32 pages.
        (self.first + before * self.step) % self.pages
    }
}

const fn common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ORDERS: [FaultOrder; 3] =
        [FaultOrder::Random, FaultOrder::Ascending, FaultOrder::Descending];

    #[test]
    fn every_order_comes_to_every_page_once() {
        for order in ORDERS {
            for pages in [1, 2, 7, 512, 1000] {
                for seed in 0..5 {
                    let order = Order::new(order, pages, &mut Numbers::new(seed));
                    let all: BTreeSet<_> = (0..pages).map(|before| order.page(before)).collect();
                    assert_eq!(all, (0..pages).collect(), "{order:?}");
                }
            }
        }
        let mut numbers = Numbers::new(1);
        let down = Order::new(FaultOrder::Descending, 5, &mut numbers);
        assert_eq!([0, 1, 2, 3, 4].map(|before| down.page(before)), [4, 3, 2, 1, 0]);
        let up = Order::new(FaultOrder::Ascending, 5, &mut numbers);
        assert_eq!([0, 1, 2, 3, 4].map(|before| up.page(before)), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_vcpu_reads_every_page_and_writes_its_own_words_only() {
        let content = Content::new(1);
        for order in ORDERS {
            let mut plan = Plan::new(content, 3, 1, order, 100);
            let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
            while let Some(op) = plan.next() {
                plan.advance();
                match op.act {
                    Act::Read => read.insert(op.page),
                    Act::Increment => {
                        assert_eq!(op.word, content.word_of(op.page, 3));
                        written.insert(op.page)
                    }
                };
            }
            assert_eq!(read.len(), 100);
            assert!((30..100).contains(&written.len()), "{}", written.len());
        }
    }
}
