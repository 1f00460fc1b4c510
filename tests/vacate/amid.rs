//! What comes in the middle: maps while a vacate looks, vacates while a map walks. One after the other, on
//! one thread, by a frame source that is asked for a table at just that moment; the models in `loom-tests`
//! have them in every order.

use std::{sync::mpsc, thread};

use slat::{
    Content, Format, HostPfn, Level, MapError, Mapped, PageSize, PageTable, Tracking, UnmapError,
    VacateError,
    mmu::{Access, Mode, TranslationCache},
};

use crate::{
    common::{
        self, Checked, FREED, GIB, Handle, MEDDLER, MIB, Meddled, PAGE, RWX, SMALL, at, census,
        every_format, frame_at, pfn, populated, range, table_frame,
    },
    still_mapped,
};

fn checked<F: Format>(format: F, frames: u64) -> Checked<F, Meddled> {
    Meddled::checked(format, frames)
}

/// Meddles whenever `work` comes to the leaf table of `gpa`.
fn amid<F: Format, T>(
    table: &Checked<F, Meddled>,
    gpa: u64,
    meddle: impl FnMut(&Handle<F>, u64) + 'static,
    work: impl FnOnce() -> T,
) -> (T, u64) {
    common::amid(table, table_frame(table, at(gpa), Level::L1), meddle, work)
}

fn map_and_unmap<F: Format>(table: &Handle<F>, gpa: u64) {
    let pin = table.pin();
    assert_eq!(pin.map(at(gpa), pfn(7), SMALL, RWX), Ok(Mapped::New));
    assert_eq!(pin.unmap(at(gpa)).unwrap().0.pfn, pfn(7));
}

every_format! {
    /// Invariant 10: a vacate that is broken again and again ends.
    fn vacate_gives_up_when_its_claim_was_broken_three_times(format: impl Format) {
        let table = checked(format, 16);
        table.populate_pages(0, 4 * MIB);
        // A table that lies in the range whole; and two ends, of which the first is marked when the
        // second is looked at.
        for (area, looked_at, mapped) in [
            (range(0, 2 * MIB), 0, MIB),
            (range(MIB, 2 * MIB), 2 * MIB, MIB),
        ] {
            for (broken, expected, rounds) in [
                (1, Ok(()), 2),
                (2, Ok(()), 3),
                (3, Err(VacateError::Busy), 3),
                (99, Err(VacateError::Busy), 3),
            ] {
                let meddle = move |table: &Handle<_>, times| {
                    if times < broken {
                        map_and_unmap(table, mapped);
                    }
                };
                let (vacated, times) = amid(&table, looked_at, meddle, || table.vacate(area));
                assert_eq!((vacated, times), (expected, rounds));
                if vacated.is_ok() {
                    table.populate(area, SMALL).unwrap();
                }
                assert_eq!(populated(&table), [(0, 1024)]);
            }
        }
    }

    /// Invariants 6 and 10.
    fn a_map_while_vacate_looks_wins(format: impl Format) {
        let table = checked(format, 16);
        table.populate_pages(0, 6 * MIB);
        for (area, looked_at, mapped) in [
            (range(0, 4 * MIB), 2 * MIB, MIB),
            (range(0, 4 * MIB), 0, 3 * MIB),
            (range(MIB, 2 * MIB), 2 * MIB, MIB),
            (range(MIB, 4 * MIB), 2 * MIB, 4 * MIB),
            (range(MIB, 4 * MIB), 4 * MIB, 2 * MIB),
        ] {
            let meddle = move |table: &Handle<_>, _| {
                let found = table.pin().map(at(mapped), pfn(7), SMALL, RWX);
                assert!(matches!(found, Ok(Mapped::New | Mapped::Same)), "{found:?}");
            };
            let (vacated, _) = amid(&table, looked_at, meddle, || table.vacate(area));
            assert_eq!(vacated, Err(still_mapped(mapped)));
            assert_eq!(populated(&table), [(0, 1536)]);
            assert_eq!(frame_at(&table.pin(), mapped), Some(7));
            let _ = table.pin().unmap(at(mapped)).unwrap();
        }
    }

    /// A map elsewhere breaks nothing, and a page that is claimed looks like any that is not mapped.
    fn a_claimed_page_answers_as_an_empty_one(format: impl Format) {
        let table = checked(format, 16);
        table.populate_pages(0, 6 * MIB);
        let meddle = |table: &Handle<_>, _| {
            let pin = table.pin();
            for gpa in [MIB, 2 * MIB, 3 * MIB - PAGE] {
                assert_eq!(pin.lookup(at(gpa)), None);
                let slot = pin.slot(at(gpa)).unwrap();
                assert!(!slot.set_dirty() && !slot.set_accessed() && !slot.clear_dirty());
                assert_eq!(slot.mapping(), None);
                assert_eq!(pin.unmap(at(gpa)).unwrap_err(), UnmapError::NotMapped { gpa: at(gpa) });
                let large = PageSize::Size2M;
                let wrong = MapError::WrongSize { gpa: at(gpa), granule: SMALL };
                assert_eq!(pin.map(at(gpa), pfn(0), large, RWX), Err(wrong));
            }
            let all = range(0, 6 * MIB);
            assert_eq!(pin.mapped(all).unwrap(), 0);
            assert_eq!(pin.unmap_range(all, drop).unwrap().0, 0);
            drop(pin);
            // In the first end and in the second, but not in the range; and in neither.
            for gpa in [MIB - PAGE, 3 * MIB, 4 * MIB] {
                map_and_unmap(table, gpa);
            }
        };
        let (vacated, times) = amid(&table, 2 * MIB, meddle, || table.vacate(range(MIB, 2 * MIB)));
        assert_eq!((vacated, times), (Ok(()), 1), "it was broken");
        assert_eq!(populated(&table), [(0, 256), (768, 768)]);
    }

    /// Invariant 1.
    fn a_map_that_is_overtaken_by_vacate_takes_its_leaf_out_again(format: impl Format) {
        for again in [false, true] {
            let table = checked(format, 16);
            table.populate_pages(0, 4 * MIB);
            let meddle = move |table: &Handle<_>, times| {
                if times > 0 {
                    return;
                }
                table.vacate(range(0, 2 * MIB)).unwrap();
                if again {
                    table.populate(range(0, 2 * MIB), SMALL).unwrap();
                }
            };
            let pin = table.pin();
            let (mapped, _) = amid(&table, 0, meddle, || pin.map(at(MIB), pfn(7), SMALL, RWX));
            let MapError::Vacated { gpa, .. } = mapped.unwrap_err() else { panic!("{mapped:?}") };
            assert_eq!(gpa, at(MIB));
            assert_eq!(pin.mapped(range(0, 4 * MIB)).unwrap(), 0);
            assert_eq!(populated(&table), if again { [(0, 1024)] } else { [(512, 512)] });
            drop(pin);
            // The dead table is EMPTY throughout: its source would find anything else.
            let waiting = table.reclaim(&|_| ()).waiting;
            assert_eq!(waiting, 0);
        }
    }

    /// Invariant 2: what an MMU left in the leaf, to which it came by a stale paging-structure cache.
    fn a_map_that_is_overtaken_by_vacate_reports_the_bits_that_the_mmu_set(format: impl Format) {
        for (access, dirty) in [(Access::READ, false), (Access::WRITE, true)] {
            let access = access.in_mode(Mode::Supervisor);
            let table = checked(format, 16);
            table.populate_pages(0, 4 * MIB);
            table.map(0, 3);
            let (is_mapped, mapped) = mpsc::channel();
            let (has_accessed, accessed) = mpsc::channel();
            thread::scope(|scope| {
                let table = &table;
                scope.spawn(move || {
                    let mut observer = table.observer();
                    let inside = observer.enter(Tracking::On);
                    let mut cache = TranslationCache::default();
                    let mut reach = |gpa, access| {
                        inside.mmu().translate_cached(&mut cache, at(gpa), access).map(|to| to.pfn)
                    };
                    let warm = reach(0, Access::READ.in_mode(Mode::Supervisor));
                    has_accessed.send(warm).unwrap();
                    mapped.recv().unwrap();
                    has_accessed.send(reach(MIB, access)).unwrap();
                });
                assert_eq!(accessed.recv().unwrap(), Ok(pfn(3)));
                let pin = table.pin();
                let _ = pin.unmap(at(0)).unwrap();
                let root = table.root();
                let leaf = table_frame(table, at(0), Level::L1);
                let handle = PageTable::clone(table);
                let mut overtaken = false;
                MEDDLER.set(Some(Box::new(move |pfn| {
                    if pfn == leaf && !overtaken {
                        handle.vacate(range(0, 2 * MIB)).unwrap();
                        overtaken = true;
                    } else if pfn == root && overtaken {
                        // The leaf is in, and its mapper walks again to see whether it stands.
                        is_mapped.send(()).unwrap();
                        assert_eq!(accessed.recv().unwrap(), Ok(HostPfn::new(7)));
                    }
                })));
                let refused = pin.map(at(MIB), pfn(7), SMALL, RWX);
                drop(MEDDLER.take());
                let vacated = MapError::Vacated { gpa: at(MIB), accessed: true, dirty };
                assert_eq!(refused, Err(vacated));
            });
        }
    }

    /// In a table that lives on it is not too late, or finds the page gone.
    fn a_map_that_is_overtaken_by_vacate_of_an_end_finds_no_memory(format: impl Format) {
        for again in [false, true] {
            let table = checked(format, 16);
            table.populate_pages(0, 4 * MIB);
            let meddle = move |table: &Handle<_>, times| {
                if times > 0 {
                    return;
                }
                table.vacate(range(MIB, MIB)).unwrap();
                if again {
                    table.populate(range(MIB, MIB), SMALL).unwrap();
                }
            };
            let pin = table.pin();
            let (mapped, _) = amid(&table, 0, meddle, || pin.map(at(MIB), pfn(7), SMALL, RWX));
            let none = MapError::NotPopulated { gpa: at(MIB) };
            assert_eq!(mapped, if again { Ok(Mapped::New) } else { Err(none) });
        }
    }

    /// What lay in the range whole is zero, and is not zeroed again; what did not, is not.
    fn leaf_tables_that_were_vacated_whole_go_back_clean(format: impl Format) {
        let table = checked(format, 64);
        // Ends of 1 MiB, seven leaf tables between them.
        let (start, bytes) = (GIB - 3 * MIB, 16 * MIB);
        table.populate(range(start, bytes), SMALL).unwrap();
        let uppers = census(&table).tables - 1 - 9;
        let whole = range(GIB - 2 * MIB, 14 * MIB);
        assert_eq!(table.pin().map_range(whole, pfn(0), RWX).unwrap().new, whole.pages());
        assert_eq!(table.pin().unmap_range(whole, drop).unwrap().0, whole.pages());
        FREED.take();
        table.vacate_pages(start, bytes);
        let freed = FREED.take();
        let of = |wanted| -> (usize, u64) {
            let runs = freed.iter().filter(|&&(_, content)| content == wanted);
            (runs.clone().count(), runs.map(|(run, _)| run.count).sum())
        };
        let (runs, clean) = of(Content::Zero);
        assert_eq!((clean, of(Content::Unknown).1), (7, uppers + 2));
        assert!(runs <= 2, "leaf tables side by side go back as runs: {freed:?}");
        assert_eq!(table.stats().tables, 1);
    }

    fn stats_count_every_table_that_goes_and_waits(format: impl Format) {
        let table = checked(format, 600);
        // Ends, leaf tables that go whole, and one table of a higher level that does.
        for (start, bytes) in [(0, 6 * MIB), (GIB - PAGE, 4 * MIB), (4 * GIB, GIB)] {
            table.populate_pages(start, bytes);
        }
        let linked = |table: &Checked<_, _>| {
            assert_eq!(table.stats().tables, census(table).tables);
            table.stats().tables
        };
        let before = linked(&table);
        let pin = table.pin();
        table.vacate_pages(GIB - PAGE, 4 * MIB);
        assert_eq!(table.stats().waiting, before - linked(&table));
        table.vacate_pages(4 * GIB, GIB);
        assert_eq!(table.stats().waiting, before - linked(&table));
        table.vacate_pages(0, 6 * MIB);
        assert_eq!((linked(&table), table.stats().waiting), (1, before - 1));
        drop(pin);
        assert_eq!(table.reclaim(&|_| ()).freed, before - 1);
        assert_eq!(table.stats().waiting, 0);
    }
}
