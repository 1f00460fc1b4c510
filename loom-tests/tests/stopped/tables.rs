//! Worlds to stop in, and what there is to stop: the operations of a table.

use std::fmt::Debug;

use loom_tests::{
    Arc, Frames, Guest, RWX, Table, World, frame, gpa, no_kick, pages,
    sizes::{LARGE, SMALL, TABLE},
    stopped::{Done, Facts, Job, place},
};
use slat::{
    Bitmap, Ept, Gpa, GpaRange, Level, Mapped, Mapping, Mark, PageSize, Pinned, Prot, SlotRef,
    mmu::Access,
};

use super::{
    Deed, Group, Scene, deed,
    facts::{one, refused, went},
    otherwise, parts,
};

type Pin<'p> = Pinned<'p, Ept, Frames>;

/// The page that all are about, in the table of [`ALL`].
const PAGE: u64 = 1;

fn all() -> GpaRange {
    pages(0, TABLE)
}

/// Frames enough that nobody has to wait for one that comes back.
const FRAMES: u64 = 60;

fn others() -> World {
    let world = populated(SMALL);
    for page in [0, 2] {
        world.table.pin().map(gpa(page), frame(page), SMALL, RWX).unwrap();
    }
    world
}

/// Makes the page accessed and dirty.
fn used(world: World) -> World {
    world.table.pin().note_dirty(gpa(PAGE)).unwrap();
    world.table.pin().slot(gpa(PAGE)).unwrap().set_accessed();
    world
}

fn populated(size: PageSize) -> World {
    let world = World::new(FRAMES);
    world.table.populate(all(), size).unwrap();
    world
}

fn watched() -> World {
    let world = World::new(FRAMES).filled(SMALL);
    drop(world.table.pin().watch(all()).unwrap());
    world
}

const fn scene(name: &'static str, make: fn() -> World) -> Scene<World> {
    Scene { name, make, also: &[] }
}

/// One for a processor on which a leaf is gone for a moment before others take its place.
const fn breaking(name: &'static str, make: fn() -> World) -> Scene<World> {
    Scene { also: &["NotPresent"], ..scene(name, make) }
}

pub(crate) const SCENES: &[Scene<World>] = &[
    scene("no memory", || World::new(FRAMES)),
    scene("room for pages", || populated(SMALL)),
    scene("room for the page, others there", others),
    scene("all pages there", || used(World::new(FRAMES).filled(SMALL))),
    scene("all pages there, and watched", watched),
    scene("room for a large page", || populated(LARGE)),
    scene("a large page", || used(World::new(FRAMES).filled(LARGE))),
    breaking("all pages there, broken first", || used(World::breaking(FRAMES).filled(SMALL))),
    breaking("a large page, broken first", || used(World::breaking(FRAMES).filled(LARGE))),
];

/// Returns what is where when all is over.
pub(crate) fn look(world: &World) -> Facts {
    let pin = world.table.pin();
    facts(|page| found(pin.lookup(gpa(page))))
}

/// Returns a fact of each page.
fn facts(fact: impl FnMut(u64) -> String) -> Facts {
    (0..TABLE).map(fact).collect()
}

/// Returns what maps a page, or that nothing does.
fn found(leaf: Option<Mapping>) -> String {
    leaf.map_or("nothing".into(), |leaf| {
        let Mapping { pfn, size, attr, accessed, dirty, .. } = leaf;
        format!("{pfn} {size:?} {:?} {accessed} {dirty}", attr.prot())
    })
}

/// Returns which pages are in a bitmap that was filled.
fn reported<T, E: Debug>(run: impl FnOnce(&mut Bitmap) -> Result<T, E>) -> Facts {
    let mut bits = Bitmap::new(all());
    match run(&mut bits) {
        Ok(_) => facts(|page| bits.contains(gpa(page)).to_string()),
        Err(error) => vec![refused(&error)],
    }
}

fn pinned(world: &Arc<World>, act: fn(&Pin<'_>) -> Facts) -> Job {
    let reader = world.table.reader();
    Box::new(move || {
        let pin = reader.pin();
        let report = act(&pin);
        place();
        drop(pin);
        Done { report, kept: Box::new(reader) }
    })
}

fn slot(world: &Arc<World>, act: fn(&SlotRef<'_, Ept, Frames>) -> String) -> Job {
    let reader = world.table.reader();
    Box::new(move || {
        let pin = reader.pin();
        let slot = pin.slot(gpa(PAGE)).unwrap();
        let report = vec![act(&slot)];
        place();
        drop(pin);
        Done { report, kept: Box::new(reader) }
    })
}

fn observed(world: &Arc<World>, act: fn(&mut Guest) -> Facts) -> Job {
    let mut guest = Guest::new(world);
    Box::new(move || {
        let report = act(&mut guest);
        Done { report, kept: Box::new(guest) }
    })
}

fn locked(world: &Arc<World>, act: fn(&Table) -> Facts) -> Job {
    let table = Table::clone(&world.table);
    Box::new(move || {
        let report = act(&table);
        Done { report, kept: Box::new(table) }
    })
}

fn selected() -> Bitmap {
    let mut selection = Bitmap::new(all());
    selection.set(gpa(PAGE)).unwrap();
    selection.set(gpa(PAGE + 1)).unwrap();
    selection
}

fn each() -> impl Iterator<Item = Gpa> {
    (0..TABLE).map(gpa)
}

/// What maps.
const MAP: &[Deed<World>] = &[
    deed(Group::Leaf, "map", |world| {
        pinned(world, |pin| one(pin.map(gpa(PAGE), frame(PAGE), SMALL, RWX)))
    }),
    deed(Group::Leaf, "map another frame", |world| {
        pinned(world, |pin| one(pin.map(gpa(PAGE), frame(9), SMALL, RWX)))
    }),
    parts(Group::Leaf, "map a large page", |world| {
        pinned(world, |pin| one(pin.map(gpa(PAGE), frame(0), LARGE, RWX)))
    }),
    parts(Group::Leaf, "map_range", |world| {
        pinned(world, |pin| went(pin.map_range(all(), frame(0), RWX)))
    }),
    parts(Group::Leaf, "map_many", |world| {
        pinned(world, |pin| {
            let mut facts = Facts::new();
            let sink = |_, result: Result<Mapped, _>| facts.extend(one(result));
            pin.map_many(each().zip((0..).map(frame)), RWX, sink);
            facts
        })
    }),
    deed(Group::Leaf, "slot: map", |world| {
        slot(world, |slot| one(slot.map(frame(PAGE), SMALL, RWX)).remove(0))
    }),
];

/// What takes mappings out, or rights.
const UNMAP: &[Deed<World>] = &[
    deed(Group::Leaf, "unmap", |world| {
        pinned(world, |pin| one(pin.unmap(gpa(PAGE)).map(|(leaf, _)| leaf)))
    }),
    parts(Group::Leaf, "unmap_range", |world| {
        pinned(world, |pin| {
            let mut gone = vec![String::new(); TABLE as usize];
            let result = pin.unmap_range(all(), |leaf| {
                gone[(leaf.gpa.get() / slat::PAGE_BYTES) as usize] = found(Some(leaf));
            });
            result.map_or_else(|error| vec![refused(&error)], |_| gone.clone())
        })
    }),
    parts(Group::Leaf, "unmap_many", |world| {
        pinned(world, |pin| {
            let mut facts = Facts::new();
            let _flush = pin.unmap_many(each(), |_, result| facts.extend(one(result)));
            facts
        })
    }),
    parts(Group::Leaf, "protect", |world| pinned(world, |pin| went(pin.protect(all(), Prot::R)))),
    deed(Group::Leaf, "protect a page", |world| {
        pinned(world, |pin| went(pin.protect(pages(PAGE, PAGE + 1), Prot::R)))
    }),
];

/// What changes bits.
const BITS: &[Deed<World>] = &[
    deed(Group::Bits, "set_accessed", |world| slot(world, |slot| slot.set_accessed().to_string())),
    deed(Group::Bits, "clear_accessed", |world| {
        slot(world, |slot| slot.clear_accessed().to_string())
    }),
    deed(Group::Bits, "slot: set_dirty", |world| slot(world, |slot| slot.set_dirty().to_string())),
    deed(Group::Bits, "clear_dirty", |world| slot(world, |slot| slot.clear_dirty().to_string())),
    parts(Group::Bits, "set_dirty", |world| pinned(world, |pin| went(pin.set_dirty(&selected())))),
    deed(Group::Bits, "note_dirty", |world| pinned(world, |pin| one(pin.note_dirty(gpa(PAGE))))),
    parts(Group::Bits, "watch", |world| pinned(world, |pin| went(pin.watch(all())))),
    parts(Group::Bits, "unwatch", |world| pinned(world, |pin| went(pin.unwatch(all())))),
    deed(Group::Bits, "fix_write", |world| pinned(world, |pin| one(pin.fix_write(gpa(PAGE))))),
    parts(Group::Bits, "harvest dirty", |world| {
        pinned(world, |pin| reported(|bits| pin.harvest(all(), Mark::Dirty, bits)))
    }),
    parts(Group::Bits, "harvest accessed", |world| {
        pinned(world, |pin| reported(|bits| pin.harvest(all(), Mark::Accessed, bits)))
    }),
    parts(Group::Bits, "harvest_selected", |world| {
        pinned(world, |pin| reported(|bits| pin.harvest_selected(&selected(), Mark::Dirty, bits)))
    }),
];

/// What only looks.
const LOOKS: &[Deed<World>] = &[
    deed(Group::Look, "lookup", |world| pinned(world, |pin| vec![found(pin.lookup(gpa(PAGE)))])),
    parts(Group::Look, "lookup_many", |world| {
        pinned(world, |pin| {
            let mut facts = Facts::new();
            pin.lookup_many(each(), |_, leaf| facts.push(found(leaf)));
            facts
        })
    }),
    deed(Group::Look, "slot: mapping", |world| slot(world, |slot| found(slot.mapping()))),
    deed(Group::Look, "walk", |world| {
        pinned(world, |pin| {
            let _ = pin.walk(gpa(PAGE), Level::L1);
            Facts::new()
        })
    }),
    parts(Group::Look, "mappings", |world| {
        pinned(world, |pin| {
            let leaves: Vec<_> = pin.mappings(all()).unwrap().collect();
            let maps = |page| leaves.iter().find(|leaf| leaf.range().contains(gpa(page))).copied();
            facts(|page| found(maps(page)))
        })
    }),
    deed(Group::Look, "mapped", |world| pinned(world, |pin| went(pin.mapped(all())))),
    deed(Group::Look, "translate", |world| {
        pinned(world, |pin| went(pin.translate(gpa(PAGE), slat::PAGE_BYTES, Prot::R)))
    }),
    parts(Group::Look, "query", |world| {
        pinned(world, |pin| reported(|bits| pin.query(all(), Mark::Dirty, bits)))
    }),
];

/// What a guest does.
const GUEST: &[Deed<World>] = &[
    deed(Group::Guest, "enter and leave", |world| {
        observed(world, |guest| {
            drop(guest.enter());
            Facts::new()
        })
    }),
    deed(Group::Guest, "enter, acknowledge, leave", |world| {
        observed(world, |guest| {
            guest.enter().acknowledge();
            Facts::new()
        })
    }),
    deed(Group::Guest, "enter, read, leave", |world| {
        observed(world, |guest| one(guest.enter().access(PAGE, Access::READ)))
    }),
    deed(Group::Guest, "enter, write, leave", |world| {
        observed(world, |guest| one(guest.enter().access(PAGE, Access::WRITE)))
    }),
];

/// What tells guests, or asks how far they are.
const TELL: &[Deed<World>] = &[
    deed(Group::Tell, "begin a shoot-down", |world| {
        locked(world, |table| {
            let _ = table.flush_all().shootdown().poll();
            Facts::new()
        })
    }),
    deed(Group::Tell, "make an observer", |world| {
        locked(world, |table| {
            drop(table.observer());
            Facts::new()
        })
    }),
    deed(Group::Shootdown, "shoot down", |world| {
        locked(world, |table| went(table.flush_all().shootdown().wait(&no_kick)))
    }),
    parts(Group::Round, "round of dirty pages", |world| {
        locked(world, |table| reported(|bits| table.harvest_round(all(), Mark::Dirty, bits)))
    }),
    parts(Group::Round, "round of accessed pages", |world| {
        locked(world, |table| reported(|bits| table.harvest_round(all(), Mark::Accessed, bits)))
    }),
];

/// What changes the structure.
const STRUCTURE: &[Deed<World>] = &[
    deed(Group::Structure, "populate", |world| {
        locked(world, |table| went(table.populate(all(), SMALL)))
    }),
    deed(Group::Structure, "populate another table", |world| {
        locked(world, |table| went(table.populate(pages(TABLE, 2 * TABLE), SMALL)))
    }),
    parts(Group::Structure, "populate_mapped", |world| {
        locked(world, |table| went(table.populate_mapped(all(), SMALL, frame(0), RWX)))
    }),
    deed(Group::Structure, "vacate", |world| locked(world, |table| went(table.vacate(all())))),
    deed(Group::Structure, "vacate a page", |world| {
        locked(world, |table| went(table.vacate(pages(PAGE, PAGE + 1))))
    }),
    deed(Group::Structure, "refine", |world| {
        locked(world, |table| went(table.refine(all(), SMALL)))
    }),
    deed(Group::Structure, "reclaim", |world| {
        locked(world, |table| {
            table.reclaim(&no_kick);
            Facts::new()
        })
    }),
    deed(Group::Resize, "split", |world| {
        locked(world, |table| went(table.split(gpa(0), SMALL, &no_kick)))
    }),
    otherwise(Group::Resize, "collapse", |world| {
        locked(world, |table| went(table.collapse(gpa(0), LARGE, &no_kick)))
    }),
];

/// Returns all that there is to stop, and to be stopped by.
pub(crate) fn deeds() -> Vec<Deed<World>> {
    [MAP, UNMAP, BITS, LOOKS, GUEST, TELL, STRUCTURE].concat()
}
