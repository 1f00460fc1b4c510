//! Which pages and which tables go, and which stay.

use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use slat::{Format, GpaRange, Level, Levels, Prot};

use crate::{
    common::{
        Checked, GIB, MIB, PAGE, RWX, SMALL, Space, TIB, at, census, every_format, frame_at, pfn,
        populated, range, table_frame,
    },
    is_as_if_populated, not_populated, still_mapped,
};

/// The boundaries of tables of each level that lie in the middle of the format's space.
fn boundaries(format: &impl Format) -> Vec<u64> {
    let mut boundaries = vec![2 * MIB, GIB, 512 * GIB];
    if format.levels() == Levels::Five {
        boundaries.push(256 * TIB);
    }
    boundaries
}

every_format! {
    /// S1.
    fn vacate_across_a_boundary_of_any_level_leaves_no_table_behind(format: impl Format) {
        for boundary in boundaries(&format) {
            let table = Checked::new(format, 32);
            let (start, bytes) = (boundary - PAGE, 4 * MIB);
            table.populate_pages(start, bytes);
            for gpa in [start, boundary, start + bytes - PAGE] {
                table.map(gpa, 1);
            }
            assert_eq!(table.pin().unmap_range(range(start, bytes), drop).unwrap().0, 3);
            table.vacate_pages(start, bytes);
            assert_eq!(census(&table).tables, 1, "across {boundary:#x}");
            is_as_if_populated(&table, []);
        }
    }

    /// S1.
    fn vacate_across_a_boundary_of_any_level_takes_exactly_its_pages(format: impl Format) {
        for boundary in boundaries(&format) {
            let table = Checked::new(format, 32);
            table.populate_pages(boundary - 3 * PAGE, 8 * PAGE);
            let neighbours = [boundary - 2 * PAGE, boundary + 2 * PAGE];
            for gpa in neighbours {
                table.map(gpa, gpa / PAGE & 0xffff);
            }
            table.vacate_pages(boundary - PAGE, 3 * PAGE);
            let page = boundary / PAGE;
            assert_eq!(populated(&table), [(page - 3, 2), (page + 2, 3)]);
            for gpa in neighbours {
                assert_eq!(frame_at(&table.pin(), gpa), Some(gpa / PAGE & 0xffff));
            }
        }
    }

    /// S1, S8.
    fn any_part_of_what_was_populated_can_be_vacated_and_nothing_else_goes(format: impl Format) {
        // From the middle of a leaf table to that of another, with whole ones between, over 1 GiB.
        let (start, end) = (GIB - 5 * MIB, GIB + 5 * MIB);
        let parts = [
            // In one leaf table: its first page, its last, some between, and all.
            (GIB - 2 * MIB, GIB - 2 * MIB + PAGE),
            (GIB - 4 * MIB - PAGE, GIB - 4 * MIB),
            (start + 8 * PAGE, start + 80 * PAGE),
            (GIB - 2 * MIB, GIB),
            // With the ends in two: neighbours, over 1 GiB, and with whole tables between.
            (GIB - 2 * MIB - PAGE, GIB - 2 * MIB + PAGE),
            (GIB - PAGE, GIB + PAGE),
            (start + PAGE, end - PAGE),
            (GIB - 3 * MIB, GIB + 3 * MIB),
            // With one end, or both, where tables begin.
            (start, GIB),
            (GIB, end),
            (GIB - 2 * MIB, GIB + 4 * MIB),
            (start, end),
        ];
        for (from, to) in parts {
            let table = Checked::new(format, 32);
            table.populate_pages(start, end - start);
            table.vacate_pages(from, to - from);
            let rest = [(start, from), (to, end)].into_iter().filter(|(from, to)| from < to);
            is_as_if_populated(&table, rest.map(|(from, to)| range(from, to - from)));
            table.populate_pages(from, to - from);
            is_as_if_populated(&table, [range(start, end - start)]);
        }
    }

    /// S1.
    fn what_was_populated_in_parts_can_be_vacated_as_one(format: impl Format) {
        let table = Checked::new(format, 64);
        let start = GIB - 3 * MIB;
        let mut parts = [(0, MIB), (MIB, PAGE), (MIB + PAGE, 5 * MIB), (6 * MIB + PAGE, 64 * PAGE)];
        for seed in 0..4 {
            parts.shuffle(&mut SmallRng::seed_from_u64(seed));
            for (offset, bytes) in parts {
                table.populate_pages(start + offset, bytes);
            }
            table.vacate_pages(start, 6 * MIB + 65 * PAGE);
            is_as_if_populated(&table, []);
        }
    }

    /// S1, S7.
    fn the_last_pages_of_the_space_are_vacated(format: impl Format) {
        let space = Space::of(&format);
        let table = Checked::new(format, 64);
        for gpa in [space.last_low_page(), space.last_page(), space.upper] {
            table.populate_pages(gpa, PAGE);
            table.map(gpa, 3);
            table.refuses_to_vacate(range(gpa, PAGE), still_mapped(gpa));
            let _ = table.pin().unmap(at(gpa)).unwrap();
            table.vacate_pages(gpa, PAGE);
            table.refuses_to_vacate(range(gpa, PAGE), not_populated(gpa));
            assert_eq!(census(&table).tables, 1);
        }
        // To the very end, with a whole leaf table.
        let start = space.last_page() - 2 * MIB - 4 * PAGE;
        table.populate_pages(start, 2 * MIB + 5 * PAGE);
        table.map(start, 7);
        table.vacate_pages(start + PAGE, 2 * MIB + 4 * PAGE);
        assert_eq!(frame_at(&table.pin(), start), Some(7));
        assert_eq!(census(&table).empty, 0);
    }

    /// S7.
    fn the_upper_half_is_vacated_as_the_lower_is(format: impl Format) {
        let space = Space::of(&format);
        let middles = if space.is_split() { vec![0, space.upper] } else { vec![0] };
        let middles: Vec<_> = middles.into_iter().map(|half| half + space.part / 2).collect();
        let table = Checked::new(format, 64);
        for &middle in &middles {
            table.populate_pages(middle - 3 * MIB, 6 * MIB);
            table.map(middle + MIB, 5);
        }
        for &middle in &middles {
            let tables = census(&table).tables;
            let all = range(middle - 3 * MIB, 6 * MIB);
            table.refuses_to_vacate(all, still_mapped(middle + MIB));
            table.vacate_pages(middle - 2 * MIB, 3 * MIB);
            assert_eq!(census(&table).tables, tables - 1);
            table.refuses_to_vacate(all, not_populated(middle - 2 * MIB));
            let _ = table.pin().unmap(at(middle + MIB)).unwrap();
            table.vacate_pages(middle - 3 * MIB, MIB);
            table.vacate_pages(middle + MIB, 2 * MIB);
        }
        is_as_if_populated(&table, []);
    }

    /// S3.
    fn regions_with_a_gap_between_them_are_vacated_in_any_order(format: impl Format) {
        let regions = [(GIB - 2 * MIB, 2 * MIB), (3 * GIB + PAGE, MIB), (600 * GIB, 3 * MIB)];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let table = Checked::new(format, 32);
            for (start, bytes) in regions {
                table.populate_pages(start, bytes);
            }
            let all = range(regions[0].0, 599 * GIB + 5 * MIB);
            table.refuses_to_vacate(all, not_populated(GIB));
            for done in 0..3 {
                let (start, bytes) = regions[order[done]];
                table.vacate_pages(start, bytes);
                let rest = order[done + 1..].iter().map(|&index| regions[index]);
                is_as_if_populated(&table, rest.map(|(start, bytes)| range(start, bytes)));
            }
        }
    }

    /// S8.
    fn a_neighbour_in_the_leaf_table_keeps_working(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(0, MIB);
        table.populate_pages(MIB, MIB);
        table.map(MIB, 4);
        let (frame, gpa) = (table_frame(&table, at(MIB), Level::L1), MIB + PAGE);
        table.vacate_pages(0, MIB);
        assert_eq!(table_frame(&table, at(MIB), Level::L1), frame);
        assert_eq!(frame_at(&table.pin(), MIB), Some(4));
        table.map(gpa, 5);
        let _ = table.pin().unmap(at(gpa)).unwrap();
        assert_eq!(table.pin().protect(range(0, 2 * MIB), Prot::R).unwrap().0, 1);
        table.populate_pages(0, MIB);
        assert_eq!(table_frame(&table, at(0), Level::L1), frame, "they share it again");
        assert_eq!(frame_at(&table.pin(), MIB), Some(4));
    }

    fn a_table_goes_with_the_last_page_in_it_and_the_root_stays(format: impl Format) {
        let levels = format.levels().count() as usize;
        let table = Checked::new(format, 32);
        let root = table.root();
        // Each shares one table more with the first: L1, L2, L3, and the root or L4.
        let pages = [512 * GIB, GIB, 2 * MIB, PAGE];
        table.populate_pages(0, PAGE);
        for gpa in pages {
            table.populate_pages(gpa, PAGE);
        }
        let tables = census(&table).tables;
        table.map(0, 1);
        let mut gone = 0;
        for (gpa, own) in pages.into_iter().zip([3, 2, 1, 0]) {
            assert_eq!(table.walk_length(gpa), levels);
            table.vacate_pages(gpa, PAGE);
            // It ends in the table that is shared.
            assert_eq!(table.walk_length(gpa), levels - own, "{gpa:#x}");
            gone += own as u64;
            assert_eq!(census(&table).tables, tables - gone);
            assert_eq!(table.walk_length(0), levels);
        }
        assert_eq!(frame_at(&table.pin(), 0), Some(1));
        let _ = table.pin().unmap(at(0)).unwrap();
        table.vacate_pages(0, PAGE);
        assert_eq!((table.walk_length(0), census(&table).tables), (1, 1));
        assert_eq!(table.root(), root);
    }

    /// S9.
    fn what_is_left_after_any_vacates_is_the_tree_of_the_other_pages(format: impl Format) {
        let space = Space::of(&format);
        let near = [GIB, 512 * GIB, 100 * TIB, space.last_page()].map(|end| end / PAGE - 599);
        for (seed, near) in (0..8).zip(near.into_iter().cycle()) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let table = Checked::new(format, 800);
            let pages = |first: usize, count: usize| {
                GpaRange::from_pages(at((near + first as u64) * PAGE), count as u64).unwrap()
            };
            let mut there = vec![false; 600];
            for step in 0..60 {
                let first = rng.random_range(0..600);
                let count = rng.random_range(1..=if step % 2 == 0 { 600 - first } else { 1 });
                for (hole, count) in runs(&there[first..first + count], false) {
                    table.populate(pages(first + hole, count), SMALL).unwrap();
                }
                there[first..first + count].fill(true);
                let all = runs(&there, true);
                let (first, count) = all[rng.random_range(0..all.len())];
                let cut = rng.random_range(0..count);
                let (first, count) = (first + cut, rng.random_range(1..=count - cut));
                assert_eq!(table.vacate(pages(first, count)), Ok(()));
                there[first..first + count].fill(false);
                if step % 10 == 9 {
                    let all = runs(&there, true).into_iter();
                    is_as_if_populated(&table, all.map(|(first, count)| pages(first, count)));
                }
            }
            // Dropped with leaves mapped, wherever there is memory by now.
            for (first, count) in runs(&there, true) {
                assert!(table.pin().map_range(pages(first, count), pfn(1), RWX).is_ok());
            }
        }
    }
}

/// Returns the first index and the length of each run of `value`.
fn runs(slots: &[bool], value: bool) -> Vec<(usize, usize)> {
    let mut first = 0;
    let mut runs = Vec::new();
    for run in slots.chunk_by(|one, next| one == next) {
        if run[0] == value {
            runs.push((first, run.len()));
        }
        first += run.len();
    }
    runs
}
