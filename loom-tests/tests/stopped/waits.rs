//! Who waits for whom, if somebody stops.

use super::Group::{
    self, Ask, Fault, Guest, Hold, Look, Region, Resize, Round, Shootdown, Slow, Structure, Tell,
};

/// Where a deed of one of the first groups has stopped, some of each of the others wait for this, and for nothing
/// that is not listed.
pub(crate) struct Wait {
    /// A lock, by the name that it has in the source; or the file in which somebody waits in a loop.
    pub(crate) what: &'static str,
    pub(crate) stopped: &'static [Group],
    pub(crate) waiting: &'static [Group],
}

pub(crate) const IN_A_TABLE: &[Wait] = &[
    // Who is inside has to come out, or to acknowledge.
    Wait { what: "shootdown", stopped: &[Guest], waiting: &[Shootdown, Resize] },
    // The list of observers. Two rounds, or two changes of structure, do not get that far.
    Wait {
        what: "registry",
        stopped: &[Tell, Shootdown, Round, Structure, Resize],
        waiting: &[Tell, Shootdown, Resize],
    },
    Wait { what: "registry", stopped: &[Tell, Shootdown, Structure, Resize], waiting: &[Round] },
    Wait { what: "registry", stopped: &[Tell, Shootdown, Round, Resize], waiting: &[Structure] },
    Wait { what: "rounds", stopped: &[Round], waiting: &[Round] },
    Wait { what: "writer", stopped: &[Structure, Resize], waiting: &[Structure, Resize] },
    // Looked at when the writer lock is free already.
    Wait { what: "limbo", stopped: &[Structure, Resize], waiting: &[Structure, Resize] },
    Wait { what: "resizes", stopped: &[Resize], waiting: &[Resize] },
];

pub(crate) const IN_A_SPACE: &[Wait] = &[
    // Who changes regions waits for the pins that may have seen the old ones, and for who is inside.
    Wait { what: "domain", stopped: &[Look, Guest, Fault, Hold, Ask], waiting: &[Region] },
    Wait { what: "shootdown", stopped: &[Guest], waiting: &[Region] },
    Wait { what: "changes", stopped: &[Region], waiting: &[Hold, Ask, Region] },
    // Agents are lent to who has none: held for a moment, as the list of the frames that are held.
    Wait { what: "agents", stopped: &[Hold, Ask], waiting: &[Hold, Ask, Region] },
    Wait { what: "agents", stopped: &[Region], waiting: &[Hold, Ask] },
    Wait { what: "holds", stopped: &[Hold, Ask], waiting: &[Hold, Ask, Region] },
    Wait { what: "holds", stopped: &[Region], waiting: &[Hold, Ask] },
    // The list of observers, and that of counters.
    Wait { what: "registry", stopped: &[Ask], waiting: &[Ask, Region] },
    Wait { what: "registry", stopped: &[Region], waiting: &[Hold, Ask, Region] },
    Wait { what: "stats", stopped: &[Ask], waiting: &[Ask] },
];

/// Where faults need something slow: room for a smaller leaf, or a copy of a page.
pub(crate) const IN_A_SLOW_SPACE: &[Wait] = &[
    // The page that is copied was perhaps looked up under a pin, and is in translation caches.
    Wait { what: "domain", stopped: &[Look, Guest, Slow], waiting: &[Slow] },
    Wait { what: "shootdown", stopped: &[Guest], waiting: &[Slow] },
    Wait { what: "writer", stopped: &[Slow], waiting: &[Slow] },
    // The backing's own list, and that of the pages on their way.
    Wait { what: "pages", stopped: &[Slow], waiting: &[Slow] },
    Wait { what: "fetches", stopped: &[Slow], waiting: &[Slow] },
    // The list of observers.
    Wait { what: "registry", stopped: &[Slow], waiting: &[Slow] },
];
