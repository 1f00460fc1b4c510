//! Page-modification logging (Intel SDM vol. 3C, 29.3.6): the processor logs just the pages whose dirty bits it sets.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use slat::{Bitmap, Gpa, GpaRange, HostPfn, Mark, Noted, PageSize};

use super::{
    Outcome,
    claims::{Claims, claim},
};
use crate::{
    guest::{self, Deed, Job},
    virt::{Exit, Virt},
    world::{ALL_RIGHTS, Machine, Processor, SMALL, World},
};

/// Pages by small leaves; the log takes 512.
const PAGES: u64 = 600;
const ROOM: u64 = 512;
/// The first page by a leaf of 2 MiB, and one within it.
const LARGE: u64 = 4096;
const WITHIN: u64 = LARGE + 77;

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    if !machine.virt.has_log() {
        return Outcome::Skipped("the processor keeps no log");
    }
    let mut claims = Claims::new("modification log");
    let world = World::new(machine);
    let mut processor = Processor::new(&world);
    let small = guest::pages(0, PAGES);
    map(&world, small, SMALL, guest::frame(0));
    let large = guest::pages(LARGE, PageSize::Size2M.pages());
    map(&world, large, PageSize::Size2M, guest::frame(LARGE));
    processor.start_log();
    full(&mut processor, small, &mut claims);
    again(&mut processor, small, &mut claims);
    claim!(
        claims,
        write(&mut processor, WITHIN, 1).is_ok(),
        "a write to a large leaf goes through"
    );
    let logged = processor.take_log();
    claim!(
        claims,
        logged == [guest::page(WITHIN)],
        "the log of a large leaf has the page within: {logged:x?}"
    );
    claim!(claims, note(&world, &logged) == 0, "the leaf is dirty by then");
    let mut found = Bitmap::new(large);
    let dirty = world.table.pin().query(large, Mark::Dirty, &mut found);
    claim!(claims, dirty == Ok(large.pages()), "a large leaf is dirty as a whole: {dirty:?}");
    claims.outcome("the log has what becomes dirty, and nothing else")
}

fn map<V: Virt>(world: &World<'_, V>, range: GpaRange, size: PageSize, first: HostPfn) {
    world.table.populate_mapped(range, size, first, ALL_RIGHTS).expect("there are frames");
}

/// A guest that writes more pages than the log takes comes out when it is full, and can go on.
fn full<V: Virt>(processor: &mut Processor<'_, V>, range: GpaRange, claims: &mut Claims) {
    let read = processor.work(Job::new(Deed::Read, 0, PAGES), |_, _| ControlFlow::Break(()));
    claim!(claims, read == Ok(()), "the pages can be read: {read:?}");
    claim!(claims, processor.take_log().is_empty(), "reads are not logged");
    let first = write(processor, 0, PAGES);
    claim!(claims, first == Err(Exit::LogFull), "a full log ends the stay: {first:?}");
    let mut logged = processor.take_log();
    claim!(claims, logged.len() as u64 == ROOM, "it is full: {}", logged.len());
    let rest = write(processor, 0, PAGES);
    claim!(claims, rest == Ok(()), "the guest can go on: {rest:?}");
    logged.extend(processor.take_log());
    let all: Vec<_> = (0..PAGES).map(guest::page).collect();
    claim!(claims, logged == all, "each page is logged once, in order");
    claim!(claims, note(processor.world, &logged) == 0, "what is logged is dirty already");
    let (pages, found) = harvest(processor.world, range);
    let is_in = logged.iter().all(|&gpa| found.contains(gpa));
    claim!(claims, pages == PAGES && is_in, "a harvest finds what was logged: {pages}");
}

/// What was harvested is logged again when it is written again.
fn again<V: Virt>(processor: &mut Processor<'_, V>, range: GpaRange, claims: &mut Claims) {
    for page in [5, 6, 5] {
        let written = write(processor, page, 1);
        claim!(claims, written == Ok(()), "a page can be written again: {written:?}");
    }
    let logged = processor.take_log();
    claim!(
        claims,
        logged == [guest::page(5), guest::page(6)],
        "it is logged again, once: {logged:x?}"
    );
    let (pages, _) = harvest(processor.world, range);
    claim!(claims, pages == 2, "and found again: {pages}");
    claim!(claims, note(processor.world, &logged) == 2, "who notes it later makes it dirty anew");
    let written = write(processor, 5, 1);
    claim!(claims, written == Ok(()), "it can be written: {written:?}");
    let logged = processor.take_log();
    claim!(claims, logged.is_empty(), "what is dirty is not logged: {logged:x?}");
}

fn write<V: Virt>(processor: &mut Processor<'_, V>, page: u64, count: u64) -> Result<(), Exit> {
    processor.work(Job::new(Deed::Write, page, count), |_, _| ControlFlow::Break(()))
}

/// Notes what was logged; returns how many pages were clean.
fn note<V: Virt>(world: &World<'_, V>, logged: &[Gpa]) -> usize {
    let pin = world.table.pin();
    logged.iter().filter(|&&gpa| pin.note_dirty(gpa) == Ok(Noted::New)).count()
}

fn harvest<V: Virt>(world: &World<'_, V>, range: GpaRange) -> (u64, Bitmap) {
    let mut found = Bitmap::new(range);
    let taken = world.table.pin().harvest(range, Mark::Dirty, &mut found);
    let (pages, flush) = taken.expect("it is the table's");
    world.serve(flush);
    (pages, found)
}
