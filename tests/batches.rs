//! Operations on many pages equal the same operations one at a time, and looks at many pages equal
//! looks at each.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use common::{
    Checked, Frames, GIB, MIB, PAGE, RWX, SMALL, Space, at, dump, every_format, frame_at, pfn,
    range,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slat::{
    Attr, EncodeError, Format, Gpa, GpaRange, HostPfn, HostRun, Level, MapError, MapRangeError,
    Mapped, MappedRange, Pinned, Prot, TranslateError,
};

/// Batch sizes at and around the size of the ring, and much longer ones.
const LENGTHS: [usize; 8] = [0, 1, 2, 15, 16, 17, 33, 1000];

/// The bytes of [`populated`]: on both sides of 1 GiB, with a hole.
const AREA: (u64, u64) = (GIB - 4 * MIB, 8 * MIB);

/// A table with an area populated, except for a hole of 40 pages across a table's end.
fn with_area<F: Format>(format: F) -> Checked<F> {
    let table = Checked::new(format, 16);
    let hole = GIB + 2 * MIB - 20 * PAGE;
    table.populate_pages(AREA.0, hole - AREA.0);
    table.populate_pages(hole + 40 * PAGE, AREA.0 + AREA.1 - hole - 40 * PAGE);
    table
}

/// Random addresses: in the area, around it, in the hole, outside the space, many of them twice.
fn addresses(rng: &mut SmallRng, space: Space, count: usize) -> Vec<Gpa> {
    let outside = space.outside();
    let mut some = Vec::new();
    while some.len() < count {
        let gpa = match rng.random_range(0..10) {
            0 => outside[rng.random_range(0..outside.len())],
            1 => rng.random_range(0..space.part),
            2 if !some.is_empty() => some[rng.random_range(0..some.len())],
            3 => AREA.0 - 8 * PAGE + rng.random_range(0..16) * PAGE,
            // A few pages, often.
            4..7 => GIB + 2 * MIB + rng.random_range(0..64) * PAGE,
            _ => AREA.0 + rng.random_range(0..AREA.1),
        };
        some.push(gpa);
    }
    some.into_iter().map(at).collect()
}

every_format! {
    fn many_maps_lookups_and_unmaps_equal_single_ones(format: impl Format) {
        let space = Space::of(&format);
        let mut rng = SmallRng::seed_from_u64(0xba7c);
        let (many, single) = (with_area(format), with_area(format));
        let beyond = 1 << (format.phys_width().bits() - 12);
        for count in LENGTHS {
            let (many_pin, pin) = (many.pin(), single.pin());
            let attr = if rng.random() { RWX } else { Attr::new(Prot::R) };
            let pages: Vec<(Gpa, HostPfn)> = addresses(&mut rng, space, count)
                .into_iter()
                .map(|gpa| match rng.random_range(0..30) {
                    0 => (gpa, pfn(beyond)),
                    other => (gpa, pfn(other % 3 + (gpa.get() >> 12 & 0xff))),
                })
                .collect();
            let mut got = Vec::new();
            many_pin.map_many(pages.iter().copied(), attr, |gpa, mapped| got.push((gpa, mapped)));
            let want = pages.iter().map(|&(gpa, frame)| (gpa, pin.map(gpa, frame, SMALL, attr)));
            assert_eq!(got, want.collect::<Vec<_>>());

            let looks = addresses(&mut rng, space, count);
            let mut got = Vec::new();
            many_pin.lookup_many(looks.iter().copied(), |gpa, found| got.push((gpa, found)));
            let want = looks.iter().map(|&gpa| (gpa, pin.lookup(gpa)));
            assert_eq!(got, want.collect::<Vec<_>>());

            let gone = addresses(&mut rng, space, count);
            let mut got = Vec::new();
            let flush =
                many_pin.unmap_many(gone.iter().copied(), |gpa, result| got.push((gpa, result)));
            let mut hull: Option<GpaRange> = None;
            let want = gone.iter().map(|&gpa| {
                let result = pin.unmap(gpa).map(|(mapping, flush)| {
                    let one = flush.range().unwrap();
                    hull = Some(hull.map_or(one, |hull| hull.hull(one)));
                    mapping
                });
                (gpa, result)
            });
            assert_eq!(got, want.collect::<Vec<_>>());
            assert_eq!(flush.range(), hull);
            assert_eq!(flush.is_empty(), hull.is_none());
            let entries = |table: &Checked<_>| {
                dump(table).into_iter().map(|line| (line.0, line.3)).collect::<Vec<_>>()
            };
            assert_eq!(entries(&many), entries(&single));
            let all = range(AREA.0, AREA.1);
            assert!(many_pin.mappings(all).unwrap().eq(pin.mappings(all).unwrap()));
        }
    }

    fn a_duplicate_in_a_batch_sees_what_the_first_one_did(format: impl Format) {
        let table = with_area(format);
        let pin = table.pin();
        let pages = (0..40).map(|turn| (at(GIB + turn % 2), pfn(1 + turn / 20)));
        let mut results = Vec::new();
        pin.map_many(pages, RWX, |_, mapped| results.push(mapped));
        assert_eq!(results[0], Ok(Mapped::New));
        assert!(results[1..20].iter().all(|mapped| *mapped == Ok(Mapped::Same)));
        let there = pin.lookup(at(GIB)).unwrap();
        assert!(results[20..].iter().all(|mapped| *mapped == Err(MapError::Occupied(there))));
        let mut unmapped = 0;
        let _ = pin.unmap_many([at(GIB); 40], |_, result| unmapped += u32::from(result.is_ok()));
        assert_eq!(unmapped, 1);
    }

    fn a_batch_reports_in_order_while_its_sink_uses_the_table(format: impl Format) {
        let table = with_area(format);
        let pin = table.pin();
        // Each page is mapped by the sink of the one before, when its own walk is under way.
        let mut pages: Vec<_> = (0..200).map(|page| at(GIB + page * PAGE)).collect();
        pages.insert(10, at(0));
        let mut order = Vec::new();
        pin.lookup_many(pages.iter().copied(), |gpa, found| {
            let found = found.map(|found| found.pfn.get());
            if gpa == at(0) {
                assert_eq!(found, Some(0x99));
            } else {
                let page = (gpa.get() - GIB) / PAGE;
                assert_eq!(found, page.checked_sub(1));
                let _ = pin.map(at(gpa.get() + PAGE), pfn(page), SMALL, RWX);
            }
            if order.is_empty() {
                // A table appears under a walk that has come to its parent already.
                table.populate_mapped(range(0, PAGE), SMALL, pfn(0x99), RWX).unwrap();
            }
            order.push(gpa);
        });
        assert_eq!(order, pages);
    }

    fn map_range_equals_single_maps(format: impl Format) {
        let (whole, single) = (with_area(format), with_area(format));
        let mut rng = SmallRng::seed_from_u64(0x3a96e);
        for _ in 0..60 {
            let first = AREA.0 / PAGE - 20 + rng.random_range(0..AREA.1 / PAGE);
            let pages = range(first * PAGE, rng.random_range(1..700) * PAGE);
            let frame = first % 7 / 6 + first;
            if rng.random_bool(0.4) {
                assert_eq!(
                    whole.pin().unmap_range(pages, drop).unwrap().0,
                    single.pin().unmap_range(pages, drop).unwrap().0
                );
                continue;
            }
            let got = whole.pin().map_range(pages, pfn(frame), RWX);
            let pin = single.pin();
            let each =
                (0..pages.pages()).map(|page| (at((first + page) * PAGE), pfn(frame + page)));
            let refused = each.clone().find_map(|(gpa, frame)| refusal(&pin, gpa, frame));
            let mut done = MappedRange::default();
            let want = refused.map_or_else(
                || {
                    for (gpa, frame) in each {
                        match pin.map(gpa, frame, SMALL, RWX).unwrap() {
                            Mapped::New => done.new += 1,
                            Mapped::Same => done.same += 1,
                        }
                    }
                    Ok(done)
                },
                // Nothing is mapped then.
                |source| Err(MapRangeError::Page { done: MappedRange::default(), source }),
            );
            assert_eq!(got, want, "{pages}");
            let all = range(AREA.0, AREA.1);
            assert!(whole.pin().mappings(all).unwrap().eq(pin.mappings(all).unwrap()));
        }
        assert!(single.pin().mapped(range(AREA.0, AREA.1)).unwrap() > 0);
    }

    fn map_range_refuses_frames_beyond_the_width_before_it_maps_one(format: impl Format) {
        let table = with_area(format);
        let width = format.phys_width().bits();
        let beyond = 1 << (width - 12);
        let map = |first: u64| table.pin().map_range(range(AREA.0, 4 * PAGE), pfn(first), RWX);
        for first in [beyond - 3, beyond, u64::MAX, u64::MAX - 2] {
            let source = match map(first) {
                Err(MapRangeError::Page { source, .. }) => source,
                other => panic!("{other:?}"),
            };
            let bad = matches!(source, MapError::Unencodable(EncodeError::BadFrame { .. }));
            assert!(bad, "{source}");
            assert_eq!(table.pin().mapped(range(AREA.0, AREA.1)).unwrap(), 0);
        }
        assert_eq!(map(beyond - 4), Ok(MappedRange { new: 4, same: 0 }));
        assert_eq!(frame_at(&table.pin(), AREA.0 + 3 * PAGE), Some(beyond - 1));
    }

    fn mappings_and_mapped_equal_a_look_at_each_page(format: impl Format) {
        let table = with_area(format);
        let mut rng = SmallRng::seed_from_u64(0x100c);
        let pin = table.pin();
        for _ in 0..300 {
            let page = at(AREA.0 + rng.random_range(0..AREA.1));
            let _ = pin.map(page, pfn(rng.random_range(0..1 << 20)), SMALL, RWX);
        }
        for _ in 0..40 {
            let first = AREA.0 / PAGE - 600 + rng.random_range(0..3000);
            let pages = range(first * PAGE, rng.random_range(1..2200) * PAGE);
            let each = (0..pages.pages()).filter_map(|page| pin.lookup(at((first + page) * PAGE)));
            let each: Vec<_> = each.collect();
            assert_eq!(pin.mapped(pages).unwrap(), each.len() as u64);
            assert!(pin.mappings(pages).unwrap().eq(each), "{pages}");
        }
    }

    fn a_walk_shows_each_level_down_to_the_one_that_was_asked_for(format: impl Format) {
        let table = with_area(format);
        table.map(GIB, 7);
        let pin = table.pin();
        let root = format.levels().root();
        for lowest in Level::ALL.into_iter().filter(|&level| level <= root) {
            let walk = pin.walk(at(GIB + 0xfff), lowest);
            let levels: Vec<_> = walk.iter().map(|step| step.level).collect();
            let mut want = Level::ALL.to_vec();
            want.retain(|level| (lowest..=root).contains(level));
            want.reverse();
            assert_eq!(levels, want);
            for step in walk.iter() {
                assert!(format.is_well_formed(step.level, step.entry));
                let kind = format.kind(step.level, step.entry);
                assert_eq!(kind == slat::Kind::Leaf, step.level == Level::L1);
            }
        }
        // Where nothing is populated the walk ends early, and says with what.
        for (gpa, level) in [(GIB + 64 * MIB, Level::L2), (64 * GIB, Level::L3)] {
            let walk = pin.walk(at(gpa), Level::L1);
            let last = walk.last().unwrap();
            assert_eq!((last.level, last.entry), (level, slat::Entry::UNPOPULATED));
        }
        let walk = pin.walk(at(GIB + PAGE), Level::L1);
        assert_eq!(walk.last().unwrap().entry, slat::Entry::EMPTY);
    }

    fn translate_finds_the_longest_run_that_a_look_at_each_page_finds(format: impl Format) {
        let table = with_area(format);
        let pin = table.pin();
        let mut rng = SmallRng::seed_from_u64(0x7a45);
        // Runs that continue over table ends and over 1 GiB, broken by holes, frames and rights.
        let mut page = AREA.0 / PAGE;
        let mut frame = 0x1000;
        while page < (AREA.0 + AREA.1) / PAGE {
            let length = rng.random_range(1..700);
            let prot = if rng.random() { Prot::RWX } else { Prot::R };
            for page in page..page + length {
                frame += 1;
                let _ = pin.map(at(page * PAGE), pfn(frame), SMALL, Attr::new(prot));
            }
            page += length + rng.random_range(0..3);
            frame += rng.random_range(0..2) * 5;
        }
        for _ in 0..150 {
            let gpa = at(AREA.0 - MIB / 8 + rng.random_range(0..AREA.1 + MIB / 4));
            let access = [Prot::R, Prot::W, Prot::RX, Prot::empty()][rng.random_range(0..4)];
            let lens = [1, 10, PAGE, 5 * PAGE, GIB, u64::MAX, rng.random_range(1..4 * MIB)];
            for len in lens {
                let got = pin.translate(gpa, len, access);
                assert_eq!(got, page_by_page(&pin, gpa, len, access), "{gpa} {len:#x} {access:?}");
            }
            assert_eq!(pin.translate(gpa, 0, access), Err(TranslateError::Empty { gpa }));
        }
    }

    fn translate_stops_where_frames_rights_or_pages_end(format: impl Format) {
        let table = with_area(format);
        let pin = table.pin();
        // Each page from 1 GiB on, by its frame and its rights; the frames of all but one are in order.
        let pages = [(0, Prot::RWX), (1, Prot::RW), (2, Prot::R), (3, Prot::RWX), (9, Prot::RWX)];
        for (page, (frame, prot)) in (0..).zip(pages) {
            pin.map(at(GIB + page * PAGE), pfn(0x100 + frame), SMALL, Attr::new(prot)).unwrap();
        }
        let run = |page: u64, access| {
            let run = pin.translate(at(GIB + page * PAGE + 5), u64::MAX, access).unwrap();
            assert_eq!((run.pfn, run.offset), (pfn(0x100 + page), 5));
            (run.len + 5) / PAGE
        };
        assert_eq!([run(0, Prot::R), run(0, Prot::W), run(0, Prot::RX)], [4, 2, 1]);
        assert_eq!([run(1, Prot::R), run(2, Prot::empty()), run(3, Prot::X)], [3, 2, 1]);
        let last = pin.translate(at(GIB + 4 * PAGE), u64::MAX, Prot::R).unwrap();
        assert_eq!((last.pfn, last.len), (pfn(0x109), PAGE), "the next page is not mapped");
    }

    fn translate_ends_with_the_space(format: impl Format) {
        let space = Space::of(&format);
        let table = Checked::new(format, 16);
        for (end, frame) in [(space.last_low_page(), 0x10), (space.last_page(), 0x20)] {
            let pages = GpaRange::from_pages(at(end - 3 * PAGE), 4).unwrap();
            if table.populate_mapped(pages, SMALL, pfn(frame), RWX).is_err() {
                continue;
            }
            for len in [2 * PAGE, 3 * PAGE, GIB, u64::MAX] {
                let run = table.pin().translate(at(end - PAGE + 9), len, Prot::R).unwrap();
                let want = HostRun { pfn: pfn(frame + 2), offset: 9, len: len.min(2 * PAGE - 9) };
                assert_eq!(run, want);
            }
        }
        // The first page of the space does not continue the last one.
        table.populate_mapped(range(0, PAGE), SMALL, pfn(0x24), RWX).unwrap();
        let run = table.pin().translate(at(space.last_page()), u64::MAX, Prot::R).unwrap();
        assert_eq!(run.len, PAGE);
    }
}

/// Why a page cannot be mapped, found out without mapping it.
fn refusal<F: Format>(
    pin: &Pinned<'_, F, std::sync::Arc<Frames>>,
    gpa: Gpa,
    frame: HostPfn,
) -> Option<MapError> {
    match pin.lookup(gpa) {
        Some(there) if there.pfn == frame => None,
        Some(there) => Some(MapError::Occupied(there)),
        None => {
            let end = *pin.walk(gpa, Level::L1).last().unwrap();
            (end.entry != slat::Entry::EMPTY).then_some(MapError::NotPopulated { gpa })
        }
    }
}

/// What translate must answer, found out by a look at each page.
fn page_by_page<F: Format>(
    pin: &Pinned<'_, F, std::sync::Arc<Frames>>,
    gpa: Gpa,
    len: u64,
    access: Prot,
) -> Result<HostRun, TranslateError> {
    let first = pin.lookup(gpa).ok_or(TranslateError::NotMapped { gpa })?;
    let have = first.attr.prot();
    if !have.contains(access) {
        return Err(TranslateError::Denied { gpa, have });
    }
    let mut pages = 1;
    while pages * PAGE - gpa.page_offset() < len {
        let next = pin.lookup(at(gpa.page_base().get() + pages * PAGE));
        let continues = next.is_some_and(|next| {
            next.pfn.get() == first.pfn.get() + pages && next.attr.prot().contains(access)
        });
        if !continues {
            break;
        }
        pages += 1;
    }
    let offset = gpa.page_offset();
    Ok(HostRun { pfn: first.pfn, offset, len: len.min(pages * PAGE - offset) })
}
