//! What an operation does, step by step.

use super::{Action, Step};
use crate::history::call::{Answer, Call, Leaf, PAGES, Span};

/// In which order the steps of an operation come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// One after the other.
    Ascending,
    /// In any: they are looked at first and taken later.
    Any,
}

/// The steps of an operation that answered. Each comes at a moment of its own between the call and the
/// answer; where there are several ways to take one, any of them will do.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) order: Order,
    pub(crate) steps: Vec<Vec<Step>>,
}

impl Script {
    /// Returns what `call` does if it gives this answer, or `None` if it never does.
    pub(crate) fn of(call: Call, answer: Answer) -> Option<Self> {
        let one = |page, action| Some(Self::ascending([Step::On(page, action, answer)]));
        match call {
            Call::Map { page, frame, rights } => one(page, Action::Map(Leaf::fresh(frame, rights))),
            Call::Unmap(page) => one(page, Action::Unmap),
            Call::Lookup(page) => one(page, Action::Lookup),
            Call::Protect(page, rights) => one(page, Action::Protect(rights)),
            Call::NoteDirty(page) => one(page, Action::NoteDirty),
            Call::ClearDirty(page) => one(page, Action::ClearDirty),
            Call::SetAccessed(page) => one(page, Action::SetAccessed),
            Call::ClearAccessed(page) => one(page, Action::ClearAccessed),
            Call::Read(page) => one(page, Action::Read),
            Call::Write(page) => one(page, Action::Write),
            Call::Look(page) => one(page, Action::Look),
            Call::Harvest(span) => Self::harvest(span, answer),
            Call::SetDirty(page) => one(page, Action::SetDirty),
            Call::UnmapRange(span) => Self::unmap_range(span, answer),
            Call::Translate(span) => Self::translate(span, answer),
            Call::Populate(span) => Self::populate(span, answer),
            Call::Vacate(span) => Self::vacate(span, answer),
        }
    }

    fn ascending(steps: impl IntoIterator<Item = Step>) -> Self {
        let steps = steps.into_iter().map(|step| vec![step]).collect();
        Self { order: Order::Ascending, steps }
    }

    /// Page by page, in any order: a harvest reads several slots before it takes the first bit.
    fn harvest(span: Span, answer: Answer) -> Option<Self> {
        let Answer::Marks(marks) = answer else { return None };
        let outside = (0..PAGES).any(|page| marks[page] && !span.contains(page));
        let take = |page| Step::On(page, Action::ClearDirty, Answer::Bit(marks[page]));
        let steps = Self::ascending(span.pages().map(take));
        (!outside).then_some(Self { order: Order::Any, ..steps })
    }

    fn unmap_range(span: Span, answer: Answer) -> Option<Self> {
        let Answer::Leaves(leaves) = answer else { return None };
        let outside = (0..PAGES).any(|page| leaves[page].is_some() && !span.contains(page));
        let unmap = |page: usize| {
            let was = leaves[page].map_or(Answer::NotMapped, Answer::Was);
            Step::On(page, Action::Unmap, was)
        };
        (!outside).then(|| Self::ascending(span.pages().map(unmap)))
    }

    /// The first page, and one by one those after it, as long as they go on.
    fn translate(span: Span, answer: Answer) -> Option<Self> {
        let Answer::Run(frame, pages) = answer else {
            return Some(Self::ascending([Step::On(span.first, Action::Translate, answer)]));
        };
        if pages == 0 || span.first + pages > span.end {
            return None;
        }
        let first = Step::On(span.first, Action::Translate, Answer::Run(frame, 1));
        let next = |page: usize| {
            let wanted = frame + (page - span.first) as u16;
            let goes_on = page < span.first + pages;
            Step::On(page, Action::Continues(wanted), Answer::Bit(goes_on))
        };
        let asked = span.pages().skip(1).take(pages);
        Some(Self::ascending([first].into_iter().chain(asked.map(next))))
    }

    fn populate(span: Span, answer: Answer) -> Option<Self> {
        match answer {
            Answer::Done => {
                let opened = span.pages().map(Step::Open);
                let steps = [Step::Begin(span)].into_iter().chain(opened).chain([Step::End]);
                Some(Self::ascending(steps))
            }
            Answer::Overlap(page) => Some(Self::ascending([Step::Overlap(span, page)])),
            _ => None,
        }
    }

    fn vacate(span: Span, answer: Answer) -> Option<Self> {
        match answer {
            Answer::Done => Some(Self::ascending([Step::Vacate(span)])),
            Answer::NotPopulated(page) => Some(Self::ascending([Step::Lacks(span, page)])),
            Answer::StillMapped(page) if span.contains(page) => {
                Some(Self::ascending([Step::Holds(page)]))
            }
            // That somebody mapped pages meanwhile is looked at apart.
            Answer::Busy => Some(Self::ascending([Step::Nothing])),
            _ => None,
        }
    }
}
