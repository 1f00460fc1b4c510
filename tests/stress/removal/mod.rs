//! Everything at once, with tables that come and go: mappers, vacates of all kinds, vCPUs with
//! translation caches that go stale, shoot-downs, and frames that are used again as soon as they may.

mod hand;
pub(crate) mod jolts;
mod keeper;
mod late;
mod ledger;
mod vcpu;
mod world;

use std::sync::mpsc::{Receiver, channel};

use rand::{SeedableRng, rngs::SmallRng};
use slat::{Format, FrameSource, GpaRange, ObserverId};

use self::{
    hand::{Hand, Parcel, Tally},
    ledger::Used,
    vcpu::{Manner, Vcpu},
    world::World,
};
use crate::{
    common::{Frames, dump, every_format, populated, scaled},
    crew::{Crew, rounds},
};

/// Serves the duties of others, several at a time.
fn shoot<'w, F: Format>(world: &'w World<F>, parcels: &Receiver<Parcel<'w>>) {
    // Ends when all who could send one have ended.
    while let Ok((mut duty, mut used)) = parcels.recv() {
        for (more, with) in parcels.try_iter() {
            duty.merge(more).unwrap();
            used.extend(with);
        }
        world.wait(&mut duty.shootdown());
        world.ledger.recycle(used);
    }
}

/// Lets all threads loose on the world; returns what they had left, and what they did.
fn race<F: Format>(world: &World<F>, seed: u64, steps: u64) -> (Vec<Used>, Tally) {
    let hand = |thread| Hand::new(world, SmallRng::seed_from_u64(seed + thread));
    let (shooter, parcels) = channel();
    let mut crew = Crew::new();
    for thread in 0..2 {
        let (mut hand, shooter) = (hand(thread), shooter.clone());
        crew.worker(move || {
            jolts::stumble(seed + thread);
            let reader = world.table.reader();
            for step in 0..steps {
                hand.step(&reader);
                if step % 6 == 0 {
                    hand.serve(&shooter);
                }
            }
            Some(hand)
        });
    }
    for thread in 2..4 {
        let (mut hand, shooter) = (hand(thread), shooter.clone());
        crew.worker(move || {
            let reader = world.table.reader();
            for _ in 0..steps / 4 {
                hand.restructure(&reader, &shooter);
            }
            Some(hand)
        });
    }
    for (thread, manner) in [(4, Manner::Leaves), (5, Manner::Acknowledges)] {
        let (hand, shooter) = (hand(thread), shooter.clone());
        crew.meanwhile(move |working| {
            jolts::stumble(seed + thread);
            Some(Vcpu::new(hand, manner).run(working, &shooter))
        });
    }
    drop(shooter);
    crew.meanwhile(move |_| {
        shoot(world, &parcels);
        None
    });
    let rng = SmallRng::seed_from_u64(seed + 6);
    crew.meanwhile(|working| {
        keeper::watch(world, rng, working);
        None
    });
    let mut left = Vec::new();
    let mut tally = Tally::default();
    for hand in crew.run().into_iter().flatten() {
        let (used, done) = hand.close();
        tally = tally.join(done);
        left.extend(used);
    }
    (left, tally)
}

/// Unmaps and vacates all that is left.
fn clear<F: Format>(world: &World<F>, rng: SmallRng) -> (Vec<Used>, Tally) {
    let mut hand = Hand::new(world, rng);
    for area in &world.areas {
        let with_what_stays = area.part(0, area.pages + 1);
        hand.unmap_range(&world.table.pin(), with_what_stays);
        // Invariant 6: populated is what the books say, page by page.
        let mut pages: Vec<_> =
            area.shape.lock().unwrap().iter().copied().zip(area.first..).collect();
        pages.push((true, area.first + area.pages));
        let mut runs = Vec::new();
        for run in pages.chunk_by(|one, next| one.0 == next.0).filter(|run| run[0].0) {
            runs.push((run[0].1, run.len() as u64));
        }
        let there = populated(&world.table);
        let here =
            there.iter().filter(|(first, _)| with_what_stays.contains(slat::Gpa::new(first << 12)));
        assert_eq!(here.copied().collect::<Vec<_>>(), runs);
        for (first, pages) in runs {
            let run = GpaRange::from_pages(slat::Gpa::new(first << 12), pages).unwrap();
            world.table.vacate(run).unwrap();
        }
    }
    hand.close()
}

every_format! {
    /// Invariants 1 to 3, 5 to 9, 11; each where it is checked.
    fn nothing_is_lost_hidden_or_reached_too_late_while_tables_come_and_go(format: impl Format) {
        let seed = scaled("SLAT_STRESS_SEED", 0x51a7);
        // Shown if the test fails.
        println!("SLAT_STRESS_SEED={seed}");
        let steps = rounds(4000);
        let world = World::new(format);
        let (mut used, mut tally) = race(&world, seed, steps);
        // Invariant 11: the dump checks every bit of every entry.
        for (_, _, _, _, entry) in dump(&world.table) {
            let bits = format.accessed_bit() | format.dirty_bit();
            assert!(format.is_present(entry) || !entry.has(bits));
        }
        let (last, cleared) = clear(&world, SmallRng::seed_from_u64(seed));
        used.extend(last);
        tally = tally.join(cleared);
        // Invariant 8: it ends, with no observer left.
        world.flush_all(used);
        // Invariants 1, 5: each frame that was given away came back, once.
        world.ledger.close();
        // Invariant 2.
        assert_eq!(tally.dirty, 0, "dirty bits that were set, less those told");
        // Invariant 9. Each reader that went has left notes of the epoch, and a call looks through so many.
        let nobody = |id: ObserverId| panic!("{id} is left");
        let freed = (0..1_000_000).any(|_| world.table.reclaim(&nobody).waiting == 0);
        assert!(freed, "tables wait for nobody");
        let stats = world.table.stats();
        assert_eq!((stats.tables, stats.waiting, stats.observers), (1, 0, 0));
        let source: &Frames = &world.table.source().frames;
        assert_eq!(source.free_frames(), source.capacity() - 1);
        println!("{tally:?}");
        assert!(tally.new > 0 && tally.vacated > 0, "nothing happened: {tally:?}");
    }
}
