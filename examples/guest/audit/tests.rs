//! The audit must notice whatever goes wrong: each test damages a machine that was sound.

use slat::{
    AnyFormat, Ept, EptCaps, FaultError, Gpa, GpaRange, HostPfn, Levels, PageSize, PhysWidth, Prot,
    UnmapRegionError,
};

use super::*;
use crate::{
    backing::leaf,
    layout::Layout,
    manager::{Flushing, Stuck, Turnover},
    outcome::Broken,
    progress::Progress,
    stage::Stage,
    visits::Visits,
    workload::{Shared, Touch},
};

pub(super) const PAGES: u64 = 64;
const VCPUS: usize = 2;
const ROUNDS: u64 = 20;
/// A page that `touch` writes, and one that it only reads.
pub(super) const WRITTEN: Gpa = Gpa::new(0x8000);
const READ: Gpa = Gpa::new(0x7000);

fn format() -> AnyFormat {
    Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL).into()
}

/// Runs a workload, then `damage`, then the audit.
pub(super) fn audit_of(
    workload: &dyn Workload,
    damage: impl FnOnce(&Machine<'_>, &mut Run),
) -> Audit {
    let machine = Machine::new(format(), workload, VCPUS, None).unwrap();
    let mut run = machine.run(workload, VCPUS, &Progress::hidden()).unwrap();
    damage(&machine, &mut run);
    Audit::of(&machine, workload, &run)
}

/// Runs a workload, then `damage`, then the audit; returns what that finds wrong.
pub(super) fn audit(
    workload: &dyn Workload,
    damage: impl FnOnce(&Machine<'_>, &mut Run),
) -> Vec<String> {
    audit_of(workload, damage).wrong
}

fn visits(change: Change, flushing: Flushing) -> Visits {
    Visits::new(
        PAGES * 16 * 4096,
        PageSize::Size4K,
        1,
        Turnover { change, rounds: ROUNDS, flushing },
    )
    .unwrap()
}

fn churn(flushing: Flushing) -> Visits {
    visits(Change::Churn, flushing)
}

fn migrate() -> Visits {
    visits(Change::Migrate, Flushing::Served)
}

fn resize(flushing: Flushing) -> Visits {
    let turnover = Turnover { change: Change::Resize, rounds: ROUNDS, flushing };
    Visits::new(16 << 20, PageSize::Size2M, 1, turnover).unwrap()
}

fn touch() -> Touch {
    Touch { layout: Layout::linear(PAGES * 4096).unwrap(), seed: 1 }
}

/// Expects complaints that contain these texts, in this order.
pub(super) fn expect(wrong: &[String], texts: &[&str]) {
    assert_eq!(wrong.len(), texts.len(), "{wrong:#?}");
    for (complaint, text) in wrong.iter().zip(texts) {
        assert!(complaint.contains(text), "`{complaint}` lacks `{text}`");
    }
}

#[test]
fn a_sound_machine_passes() {
    expect(&audit(&touch(), |_, _| ()), &[]);
    let shared = Shared { layout: Layout::linear(PAGES * 4096).unwrap() };
    expect(&audit(&shared, |_, _| ()), &[]);
    expect(&audit(&churn(Flushing::Served), |_, _| ()), &[]);
    expect(&audit(&migrate(), |_, _| ()), &[]);
    expect(&audit(&resize(Flushing::Served), |_, _| ()), &[]);
}

/// Returns a large leaf that is there, of a manager that has resized some, with that manager's number.
fn large_leaf(machine: &Machine<'_>, run: &Run) -> (Mapping, usize) {
    let pin = machine.table().pin();
    let leaf_of = |region: usize| pin.mappings(machine.layout.regions()[region]).unwrap().next();
    let managers = run.managers.len();
    let all = (0..machine.layout.regions().len()).filter(|it| machine.layout.decoy(*it).is_none());
    let mut own = all.filter(|region| run.managers[region % managers].resized.is_some());
    own.find_map(|region| Some((leaf_of(region)?, region % managers))).unwrap()
}

#[test]
fn a_leaf_that_stays_small_is_noticed() {
    let wrong = audit(&resize(Flushing::Served), |machine, run| {
        // Room for a table: decoys take all there is.
        let there = run.present().find(|&region| machine.layout.decoy(region).is_some()).unwrap();
        machine.space.unmap_region(machine.layout.regions()[there]).unwrap();
        reclaim(machine);
        let kick = |_: ObserverId| ();
        let (leaf, _) = large_leaf(machine, run);
        machine.table().split(leaf.gpa, PageSize::Size4K, &kick).unwrap();
    });
    assert!(wrong.iter().any(|wrong| wrong.contains(" is mapped as Size4K")), "{wrong:#?}");
}

#[test]
fn a_write_that_a_resize_does_not_report_is_noticed() {
    let wrong = audit(&resize(Flushing::Served), |machine, run| {
        let (leaf, manager) = large_leaf(machine, run);
        let resized = run.managers[manager].resized.as_ref().unwrap();
        resized.copy_dirty(machine, leaf.range()).unwrap();
        machine.memory.frame(leaf.pfn).unwrap().add(3, 1);
    });
    expect(&wrong, &["1 words of the copy of ", " adds up to "]);
    let wrong = audit(&resize(Flushing::Served), |_, run| {
        run.managers[0].resized.as_mut().unwrap().unmarked += 1;
    });
    expect(&wrong, &["pages that changed and were not dirty: 1, expected 0"]);
}

#[test]
fn a_lost_accessed_bit_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        machine.table().reader().pin().slot(READ).unwrap().clear_accessed();
    });
    expect(&wrong, &["0x7000 is not accessed and should be"]);
}

#[test]
fn a_lost_dirty_bit_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        machine.table().reader().pin().slot(WRITTEN).unwrap().clear_dirty();
    });
    expect(&wrong, &["0x8000 is not dirty and should be"]);
}

#[test]
fn a_dirty_bit_without_a_write_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        machine.table().reader().pin().slot(READ).unwrap().set_dirty();
    });
    expect(&wrong, &["0x7000 is dirty and should not be"]);
}

#[test]
fn a_missing_bit_is_never_excused_and_one_too_many_only_where_it_is_spare() {
    let churn = churn(Flushing::Served);
    let machine = Machine::new(format(), &churn, VCPUS, None).unwrap();
    assert_eq!(spare_bits(&machine), Bits::default(), "software MMUs are exact");
    let all = |bits: u8| [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
    let (leaf, stay) = (leaf(3, PageSize::Size4K), Stay::new(1).unwrap());
    for [accessed, dirty, written, a_spare, d_spare] in (0..32).map(all) {
        let life = Life { leaf, stay, bits: Bits { accessed, dirty }, sum: 0 };
        let done = HashMap::from([(stay, (3, Deeds { stay, written, sum: 0 }))]);
        let spare = Bits { accessed: a_spare, dirty: d_spare };
        for (deeds, used, written) in [(done, true, written), (HashMap::new(), false, false)] {
            let mut audit = Audit::default();
            audit.check_lives(&machine, &[life], deeds, spare);
            let is_wrong = |bit: bool, done: bool, spare: bool| {
                if done { !bit } else { bit && !spare }
            };
            let wrong = [is_wrong(accessed, used, a_spare), is_wrong(dirty, written, d_spare)];
            let count = wrong.iter().filter(|&&wrong| wrong).count();
            assert_eq!(audit.wrong.len(), count, "{life:?} {spare:?} {written}: {audit:#?}");
        }
    }
}

#[test]
fn the_entries_of_each_level_are_counted_once() {
    let pages = [0, 0x1000, 0x20_0000, 0x4000_0000].map(Gpa::new).to_vec();
    let sparse = Touch { layout: Layout::around(pages).unwrap(), seed: 1 };
    let audit = audit_of(&sparse, |machine, _| {
        machine.table().reader().pin().slot(Gpa::new(0x20_0000)).unwrap().clear_accessed();
        let _ = machine.table().reader().pin().unmap(Gpa::new(0x1000)).unwrap();
    });
    let found =
        audit.levels.iter().map(|bits| (bits.level, bits.entries, bits.accessed, bits.dirty));
    // The last page is only read.
    assert_eq!(Vec::from_iter(found), [(4, 1, 1, 0), (3, 2, 2, 0), (2, 3, 3, 0), (1, 3, 2, 2)]);
}

#[test]
fn a_lost_page_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        let _ = machine.table().reader().pin().unmap(WRITTEN).unwrap();
    });
    let texts =
        ["0x8000 was used, and no entry", "in use", "vCPUs mapped", "space counts", "the workload"];
    expect(&wrong, &texts);
}

#[test]
fn a_page_in_the_wrong_frame_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        let reader = machine.table().reader();
        let pin = reader.pin();
        let (other, _) = pin.unmap(WRITTEN).unwrap();
        let frame = pin.lookup(READ).unwrap().pfn;
        assert_ne!(frame, other.pfn);
        pin.map(WRITTEN, frame, PageSize::Size4K, machine.attr).unwrap();
        let slot = pin.slot(WRITTEN).unwrap();
        slot.set_accessed();
        slot.set_dirty();
    });
    let texts = [
        "as another page is",
        "0x8000 is mapped to frame",
        "0x8000 is mapped and should not be",
        "0x8000 is accessed",
        "0x8000 is dirty",
        "0x8000 was used, and no entry",
    ];
    expect(&wrong, &texts);
}

#[test]
fn other_attributes_are_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        let range = GpaRange::new(READ, 4096).unwrap();
        let _ = machine.table().reader().pin().protect(range, Prot::R).unwrap();
    });
    expect(&wrong, &["0x7000 is mapped as Size4K"]);
}

#[test]
fn a_page_that_nobody_touched_is_noticed() {
    let sparse = Touch { layout: Layout::around(vec![READ, WRITTEN]).unwrap(), seed: 1 };
    let wrong = audit(&sparse, |machine, _| {
        let reader = machine.table().reader();
        let frame = HostPfn::new(0x99);
        reader.pin().map(Gpa::new(0), frame, PageSize::Size4K, machine.attr).unwrap();
    });
    expect(&wrong[..1], &["0x0 is mapped and was never touched"]);
}

#[test]
fn a_lost_write_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        let mapping = machine.table().reader().pin().lookup(READ).unwrap();
        machine.memory.frame(mapping.pfn).unwrap().add(3, 1);
    });
    expect(&wrong, &["0x7000 adds up to 0x1, 0x0 was written"]);
}

#[test]
fn a_lost_frame_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        machine.memory.allocate(PageSize::Size4K).unwrap();
    });
    expect(&wrong, &["frames that are in use: 65, expected 64"]);
}

#[test]
fn a_lost_fault_is_noticed() {
    let wrong = audit(&touch(), |_, run| run.vcpus[1].tally.faults += 1);
    expect(&wrong, &["faults that were resolved: 64, expected 65"]);
}

#[test]
fn a_stopped_vcpu_is_reported() {
    let wrong = audit(&touch(), |_, run| {
        run.vcpus[1].broken = Some(Broken::Unresolved(FaultError::NoRegion { gpa: READ }));
    });
    expect(&wrong, &["vCPU 1 stopped: a fault cannot be resolved: "]);
}

#[test]
fn a_flood_of_complaints_is_counted() {
    let audit = audit_of(&touch(), |machine, _| {
        for page in machine.table().reader().pin().mappings(machine.layout.regions()[0]).unwrap() {
            machine.memory.frame(page.pfn).unwrap().add(0, 1);
        }
    });
    assert_eq!((audit.wrong.len(), audit.unlisted), (LISTED, PAGES - LISTED as u64));
}

#[test]
fn a_flush_that_is_skipped_is_found_out() {
    let audit = audit_of(&churn(Flushing::Skipped), |_, _| ());
    assert!(!audit.is_clean());
    assert!(audit.churn.unwrap().stale > 0, "{audit:#?}");
    assert!(audit.wrong.iter().any(|text| text.contains("used stale translations")), "{audit:#?}");
    let audit = audit_of(&visits(Change::Migrate, Flushing::Skipped), |_, _| ());
    assert!(audit.migrate.unwrap().stale > 0, "{audit:#?}");
    assert_ne!(audit.sums.entries, audit.sums.workload, "{audit:#?}");
}

#[test]
fn what_an_entry_said_when_its_page_was_moved_is_compared() {
    let wrong = audit(&migrate(), |machine, _| {
        // What was dirty only before it was moved.
        let reader = machine.table().reader();
        let moved = &mut machine.memory.journal().moved;
        let (stay, _) = *moved.iter().find(|(_, bits)| bits.dirty).unwrap();
        moved.retain(|&(of, _)| of != stay);
        let leaf = machine.memory.tenant(stay).unwrap();
        let pin = reader.pin();
        let slot = pin.slot(leaf.start()).unwrap();
        slot.clear_dirty();
        // Whether it was used again since is chance.
        slot.set_accessed();
    });
    expect(&wrong, &["is not dirty and should be", "pages that were moved"]);
}

#[test]
fn a_write_that_went_to_the_old_frame_is_noticed() {
    let wrong = audit(&migrate(), |machine, _| {
        let (stay, _) = machine.memory.journal().moved[0];
        let gpa = machine.memory.tenant(stay).unwrap().start();
        let frame = machine.table().reader().pin().lookup(gpa).unwrap().pfn;
        machine.memory.frame(frame).unwrap().add(3, Word::SUM);
    });
    expect(&wrong, &["adds up to"]);
}

#[test]
fn a_region_that_was_not_moved_is_noticed() {
    let wrong = audit(&migrate(), |_, run| run.managers[1].rounds -= 1);
    expect(&wrong, &["regions that were moved: 19, expected 20"]);
}

#[test]
fn what_an_entry_said_when_it_was_unmapped_is_compared() {
    let wrong = audit(&churn(Flushing::Served), |machine, _| {
        let lives = &mut machine.memory.journal().lives;
        let life = lives.iter_mut().find(|life| life.bits.dirty).unwrap();
        life.bits.dirty = false;
        life.sum += 1;
    });
    expect(&wrong, &["is not dirty and should be", "adds up to"]);
}

#[test]
fn an_unmapped_page_that_was_not_reported_is_noticed() {
    let wrong = audit(&churn(Flushing::Served), |machine, _| {
        let lives = &mut machine.memory.journal().lives;
        lives.remove(lives.iter().position(|life| life.bits.accessed).unwrap());
    });
    expect(&wrong, &["and no entry says so", "pages that the vCPUs mapped"]);
}

#[test]
fn a_region_that_did_not_come_back_is_noticed() {
    let wrong = audit(&churn(Flushing::Served), |_, run| {
        run.managers[0].away.pop_back().unwrap();
    });
    // Who takes all memory away in the end finds that it is not there.
    expect(&wrong[..1], &["a manager stopped: taking a region away failed: no region is just 0x"]);
}

#[test]
fn a_manager_that_stopped_is_reported() {
    let wrong = audit(&churn(Flushing::Served), |_, run| {
        let range = leaf(7, PageSize::Size4K);
        run.managers[1].stuck = Some(Stuck::Unmap(UnmapRegionError::NotFound { range }));
        run.managers[1].rounds += 1;
    });
    let texts = ["a manager stopped: taking a region away failed: ", "taken away: 21, expected 20"];
    expect(&wrong, &texts);
}

#[test]
fn a_data_frame_that_does_not_come_back_is_noticed() {
    let wrong = audit(&churn(Flushing::Served), |machine, _| {
        machine.memory.allocate(PageSize::Size4K).unwrap();
    });
    expect(&wrong, &["frames that are in use", "frames that were given back"]);
}

#[test]
fn an_observer_that_never_came_out_is_noticed() {
    let churn = churn(Flushing::Served);
    let machine = Machine::new(format(), &churn, VCPUS, None).unwrap();
    let run = machine.run(&churn, VCPUS, &Progress::hidden()).unwrap();
    let mut observer = machine.table().observer();
    let inside = observer.enter(slat::Tracking::On);
    let audit = Audit::of(&machine, &churn, &run);
    drop(inside);
    assert!(audit.wrong[0].contains("taking a region away failed: "), "{audit:#?}");
}

#[test]
fn a_frame_that_came_back_and_was_nobodys_is_noticed() {
    let wrong = audit(&churn(Flushing::Served), |machine, _| {
        machine.memory.journal().strays += 1;
    });
    expect(&wrong, &["frames of nobody that came back: 1, expected 0"]);
}

#[test]
fn a_page_that_was_not_mapped_again_when_it_had_moved_is_noticed() {
    let wrong = audit(&migrate(), |machine, _| {
        let (stay, _) = machine.memory.journal().moved[0];
        let page = machine.memory.tenant(stay).unwrap();
        machine.space.discard(page).unwrap();
    });
    expect(&wrong[..1], &["was used, and no entry says so"]);
}

#[test]
fn what_all_entries_of_a_page_said_is_taken_together() {
    let [stay, other] = [1, 2].map(|number| Stay::new(number).unwrap());
    let (none, accessed) = (Bits::default(), Bits { accessed: true, dirty: false });
    let dirty = Bits { accessed: false, dirty: true };
    let leaf = GpaRange::new(Gpa::new(0), 4096).unwrap();
    let life = |stay, bits| Life { leaf, stay, bits, sum: 0 };
    let mut lives = [life(stay, none), life(other, none)];
    add_bits(&mut lives, [(stay, accessed), (stay, dirty)].into_iter());
    assert_eq!(lives, [life(stay, Bits { accessed: true, dirty: true }), life(other, none)]);
}

/// A page in a region of its own.
const FAR: Gpa = Gpa::new(0x4000_0000);

/// Takes a region away in which there was a page.
fn vacate_far(machine: &Machine<'_>) {
    let _ = machine.table().reader().pin().unmap(FAR).unwrap();
    machine.table().vacate(machine.layout.regions()[1]).unwrap();
}

#[test]
fn tables_that_are_missing_or_wait_are_noticed() {
    let sparse = Touch { layout: Layout::around(vec![READ, FAR]).unwrap(), seed: 1 };
    let has = |wrong: &[String], text: &str| {
        assert!(wrong.iter().any(|complaint| complaint == text), "{text}: {wrong:#?}");
    };
    let wrong = audit(&sparse, |machine, _| vacate_far(machine));
    has(&wrong, "frames in tables: 4, expected 6");
    has(&wrong, "tables that are linked: 4, expected 6");

    let machine = Machine::new(format(), &sparse, VCPUS, None).unwrap();
    let run = machine.run(&sparse, VCPUS, &Progress::hidden()).unwrap();
    let mut observer = machine.table().observer();
    let inside = observer.enter(slat::Tracking::On);
    vacate_far(&machine);
    has(&Audit::of(&machine, &sparse, &run).wrong, "tables that wait: 2, expected 0");
    drop(inside);
}

#[test]
fn tables_that_are_left_or_wait_in_the_end_are_noticed() {
    let churn = churn(Flushing::Served);
    let end = |damage: fn(&Machine<'_>)| {
        let machine = Machine::new(format(), &churn, VCPUS, None).unwrap();
        let stage = Stage::new(machine.layout.regions().len(), 0, 0, 0);
        let mut observer = machine.table().observer();
        let inside = observer.enter(slat::Tracking::On);
        damage(&machine);
        let run = Run { vcpus: Vec::new(), managers: Vec::new(), copied: None, stage };
        let wrong = Audit::of(&machine, &churn, &run).wrong;
        drop(inside);
        wrong.into_iter().filter(|text| text.contains("in the end")).collect::<Vec<_>>()
    };
    // All is vacated, but somebody is inside who knew the tables.
    let wait = end(|machine| {
        for region in machine.layout.regions() {
            machine.table().vacate(*region).unwrap();
        }
    });
    let texts = ["tables that wait in the end: 4, expected 0", "frames in tables in the end: 5"];
    expect(&wait, &texts);
    // Who is inside cannot be told that regions go: none does.
    let texts = ["tables that are left in the end: 5", "frames in tables in the end: 5"];
    expect(&end(|_| ()), &texts);
}
