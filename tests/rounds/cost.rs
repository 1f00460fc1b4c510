//! What a round costs, counted in tables that it comes to.

use super::*;
use crate::common::{Counting, tables_visited};

/// Does a round; returns how often it came to a table, and what it found.
fn cost<F: Format, S: FrameSource>(table: &PageTable<F, S>, mark: Mark) -> (u64, Vec<u64>) {
    let mut found = Vec::new();
    let visits = tables_visited(|| found = round(table, mark));
    (visits, found)
}

every_format! {
    fn a_round_comes_to_what_was_touched_only(format: impl Format) {
        let table = with_source(format, Counting(frames()));
        let levels = u64::from(format.levels().count());
        // At first nothing was: the root leads nowhere.
        assert_eq!(cost(&table, Mark::Dirty), (1, vec![]));
        for _ in 0..3 {
            touch(&table, [page(3, 7)], WRITE);
            assert_eq!(cost(&table, Mark::Dirty).1, [page(3, 7)]);
            // Once more, for what a cache may have led to, and the same for the other kind. An entry that is
            // taken is looked at again, to be changed.
            for mark in [Mark::Dirty, Mark::Accessed] {
                assert!(cost(&table, mark).0 <= 3 * levels);
            }
            // Down to the lowest entry that is not harvested whole.
            for mark in [Mark::Dirty, Mark::Accessed] {
                assert_eq!(cost(&table, mark), (levels - 1, vec![]));
            }
        }
    }

    fn where_much_was_touched_rounds_read_everything_for_a_while(format: impl Format) {
        let table = with_source(format, Counting(frames()));
        let all: Vec<u64> = (0..TABLES).map(|table| page(table, table)).collect();
        touch(&table, all.iter().copied(), WRITE);
        assert_eq!(round(&table, Mark::Dirty), all);
        let mut least = u64::MAX;
        for number in 0..64 {
            let gpa = page(number, 100);
            touch(&table, [gpa], WRITE);
            let (visits, found) = cost(&table, Mark::Dirty);
            assert_eq!(found, [gpa], "round {number}");
            least = least.min(visits);
        }
        assert!(least < TABLES / 2, "{least}");
        assert_eq!(round(&table, Mark::Accessed).len() as u64, 2 * TABLES);
        assert_eq!(round(&table, Mark::Accessed), NONE);
    }
}
