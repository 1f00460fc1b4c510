use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// Where the base's frames begin.
const BASE: u64 = 0x100;
const NOT_WRITTEN: Prot = Prot::all().difference(Prot::W);

/// Copies, over eight contiguous frames whose contents are their numbers, and the pool of `frames`.
fn copies(frames: u64) -> (CopyOnWrite, Arc<Pool>) {
    let base = Contiguous::new(frame(BASE), 8).unwrap();
    let pool = Pool::new(0, frames);
    for number in BASE..BASE + 8 {
        pool.fill(frame(number), number);
    }
    (CopyOnWrite::new(Arc::new(base), pool.clone()), pool)
}

/// Writes to the page as a fault does; returns the copy.
fn copied(memory: &CopyOnWrite, page: u64) -> HostPfn {
    waits(&memory.frame(&write(page)));
    memory.fetch(&write(page)).unwrap();
    let (copy, rights) = given(memory.frame(&write(page)));
    assert_eq!(rights, Prot::all());
    copy
}

#[test]
fn a_page_is_the_bases_until_it_is_written() {
    let (memory, pool) = copies(1);
    assert_eq!(memory.pages(), 8);
    for access in [Prot::empty(), Prot::R, Prot::RX] {
        let want = Want::new(3, SMALL, access);
        assert_eq!(given(memory.frame(&want)), (frame(BASE + 3), NOT_WRITTEN));
    }
    let copy = copied(&memory, 3);
    assert_eq!((pool.content(copy), pool.free()), (BASE + 3, 0));
    assert_eq!(given(memory.frame(&read(3))), (copy, Prot::all()));
    assert_eq!(given(memory.frame(&read(2))).0, frame(BASE + 2), "another page");
}

#[test]
fn everybody_waits_from_the_first_write_until_a_fetch_is_over() {
    let (memory, pool) = copies(1);
    let present = frame(BASE);
    waits(&memory.frame(&write(0).with_present(present)));
    waits(&memory.frame(&read(0)));
    waits(&memory.frame(&write(0)));
    // Whoever was told to wait may fetch: the first one is not heard of any more.
    memory.fetch(&read(0)).unwrap();
    let (copy, _) = given(memory.frame(&read(0)));
    assert_eq!(pool.content(copy), BASE);
    // And those who come late find it done.
    memory.fetch(&write(0)).unwrap();
    assert_eq!(given(memory.frame(&write(0).with_present(present))).0, copy);
}

#[test]
fn what_is_present_is_copied() {
    let (memory, pool) = copies(1);
    pool.fill(frame(0x77), 42);
    let want = write(0).with_present(frame(0x77));
    waits(&memory.frame(&want));
    memory.fetch(&want).unwrap();
    assert_eq!(pool.content(given(memory.frame(&want)).0), 42);
}

#[test]
fn pages_are_small_and_end_where_the_bases_do() {
    let (memory, _) = copies(1);
    smaller(&memory.frame(&Want::new(0, PageSize::Size2M, Prot::RW)));
    assert_eq!(memory.largest(0, Gpa::new(0)), SMALL);
    for want in [read(8), write(8)] {
        assert_eq!(failed::<BeyondEnd>(memory.frame(&want)).pages, 8);
        assert_eq!(cause::<BeyondEnd>(&memory.fetch(&want).unwrap_err()).page, 8);
    }
}

#[test]
fn what_the_base_does_not_let_be_written_can_be() {
    let rom = Arc::new(Contiguous::rom(frame(1), 1).unwrap());
    let memory = CopyOnWrite::new(rom, Pool::new(0, 1));
    assert_eq!(memory.attr(Attr::new(Prot::RWX)), Attr::new(Prot::RWX));
    assert_eq!(memory.attr(Attr::new(Prot::RX)), Attr::new(Prot::RX));
}

#[test]
fn a_copy_that_is_unmapped_is_dropped_and_one_that_is_unused_is_not() {
    let (memory, pool) = copies(1);
    let copy = copied(&memory, 0);
    assert_eq!(given(memory.frame(&write(0))).0, copy, "another fault, which loses");
    memory.release(unused(0, copy));
    assert_eq!((pool.free(), given(memory.frame(&read(0))).0), (0, copy));
    memory.release(unused(0, copy));
    memory.release(unmapped(0, copy));
    assert_eq!((pool.free(), given(memory.frame(&read(0))).0), (1, frame(BASE)));
    // All over again.
    assert_eq!(copied(&memory, 0), copy);
}

#[test]
fn a_copy_stays_though_no_fault_used_it() {
    let (memory, pool) = copies(1);
    let copy = copied(&memory, 0);
    memory.release(unused(0, copy));
    assert_eq!((pool.free(), given(memory.frame(&read(0))).0), (0, copy));
}

#[test]
fn a_copy_that_another_answer_may_still_map_is_dropped_only_with_it() {
    let (memory, pool) = copies(1);
    let copy = copied(&memory, 0);
    assert_eq!(given(memory.frame(&read(0))).0, copy, "about to be mapped");
    memory.release(unmapped(0, copy));
    assert_eq!(pool.free(), 0);
    memory.release(unused(0, copy));
    assert_eq!((pool.free(), given(memory.frame(&read(0))).0), (1, frame(BASE)));
}

#[test]
fn a_copy_that_is_present_is_not_given_anew() {
    let (memory, pool) = copies(1);
    let copy = copied(&memory, 0);
    assert_eq!(given(memory.frame(&write(0).with_present(copy))).0, copy);
    memory.release(unmapped(0, copy));
    assert_eq!(pool.free(), 1);
}

#[test]
fn what_was_not_copied_comes_back_to_the_base() {
    let (own, base) = (Pool::new(0, 4), Pool::new(0x100, 4));
    let demand = Arc::new(OnDemand::new(base.clone(), 4, SMALL));
    let memory = CopyOnWrite::new(demand, own.clone());
    let (one, _) = given(memory.frame(&read(1)));
    let (other, _) = given(memory.frame(&read(1)));
    memory.release(unused(1, other));
    assert_eq!(base.free(), 3);
    let want = write(1).with_present(one);
    waits(&memory.frame(&want));
    memory.fetch(&want).unwrap();
    let (copy, _) = given(memory.frame(&want));
    // What was present comes back when its successor is there.
    memory.release(unmapped(1, one));
    assert_eq!((own.free(), base.free()), (3, 4));
    memory.release(unmapped(1, copy));
    assert_eq!((own.free(), base.free()), (4, 4));

    // Where nothing is present, a frame of the base is taken for the copy alone.
    let _copy = copied(&memory, 2);
    assert_eq!((own.free(), base.free()), (3, 4));
}

#[test]
fn what_a_collapse_joined_comes_back_page_by_page() {
    let (own, base) = (Pool::new(0, 512), Pool::new(512, 512));
    let demand = Arc::new(OnDemand::new(base.clone(), 512, SMALL));
    let memory = CopyOnWrite::new(demand, own.clone());
    for page in 0..512 {
        assert_eq!(copied(&memory, page), frame(page));
    }
    let size = PageSize::Size2M;
    memory.release(Released { size, ..unmapped(0, frame(0)) });
    assert_eq!((own.free(), base.free()), (512, 512));
}

#[test]
fn the_page_is_the_bases_again_if_the_pool_is_empty() {
    let (memory, _) = copies(0);
    for _ in 0..2 {
        waits(&memory.frame(&write(0)));
        let error = memory.fetch(&write(0)).unwrap_err();
        assert_eq!(cause::<OutOfMemory>(&error).page, 0);
        assert_eq!(given(memory.frame(&read(0))).0, frame(BASE));
    }
    // One who was told to wait before that asks anew, so that all wait before anything is copied.
    memory.fetch(&write(0)).unwrap();
    assert_eq!(given(memory.frame(&read(0))).0, frame(BASE));
}

#[test]
fn a_panic_of_the_pool_leaves_everything_as_it_was() {
    let (own, base) = (Pool::new(0, 1), Pool::new(0x100, 1));
    let demand = Arc::new(OnDemand::new(base.clone(), 4, SMALL));
    let memory = CopyOnWrite::new(demand, own.clone());
    waits(&memory.frame(&write(0)));
    own.panic_once();
    let fetch = catch_unwind(AssertUnwindSafe(|| memory.fetch(&write(0))));
    assert!(fetch.is_err());
    assert_eq!((own.free(), base.free()), (1, 1));
    let (shared, rights) = given(memory.frame(&read(0)));
    assert_eq!((shared, rights), (frame(0x100), NOT_WRITTEN));
    memory.release(unused(0, shared));
    let _copy = copied(&memory, 0);
}

#[test]
fn copies_that_were_never_mapped_go_with_the_backing() {
    let (memory, pool) = copies(2);
    copied(&memory, 0);
    waits(&memory.frame(&write(1)));
    assert_eq!(pool.free(), 1);
    drop(memory);
    assert_eq!(pool.free(), 2);
}

/// A base that has the page only after it was fetched a number of times, or says something else.
#[derive(Debug)]
struct Slow {
    fetches: Mutex<u64>,
    says: fn() -> Answer,
}

impl Slow {
    fn new(fetches: u64, says: fn() -> Answer) -> Arc<Self> {
        Arc::new(Self { fetches: Mutex::new(fetches), says })
    }
}

impl Backing for Slow {
    fn pages(&self) -> u64 {
        1
    }

    fn frame(&self, want: &Want) -> Answer {
        assert_eq!(want.size, SMALL);
        if *self.fetches.lock() > 0 { Answer::Wait } else { (self.says)() }
    }

    fn fetch(&self, _want: &Want) -> Result<(), BackingError> {
        let mut fetches = self.fetches.lock();
        *fetches = fetches.checked_sub(1).ok_or_else(|| BackingError::new("gone"))?;
        assert!(*fetches != 9, "as told");
        Ok(())
    }
}

#[test]
fn a_base_that_waits_is_waited_for() {
    let base = Slow::new(2, || Answer::Frame(frame(7), Prot::all()));
    let pool = Pool::new(0, 1);
    pool.fill(frame(7), 70);
    let memory = CopyOnWrite::new(base.clone(), pool.clone());
    // By who reads,
    waits(&memory.frame(&read(0)));
    memory.fetch(&read(0)).unwrap();
    assert_eq!(*base.fetches.lock(), 1);
    // and by who copies.
    assert_eq!(pool.content(copied(&memory, 0)), 70);
}

#[test]
fn what_the_base_says_is_said() {
    for (says, message) in [
        ((|| Answer::Failed(BackingError::new("bad sector"))) as fn() -> Answer, "bad sector"),
        (|| Answer::Smaller, "the base has no page as small as 4 KiB"),
    ] {
        let pool = Pool::new(0, 1);
        let memory = CopyOnWrite::new(Slow::new(0, says), pool.clone());
        waits(&memory.frame(&write(0)));
        let error = memory.fetch(&write(0)).unwrap_err();
        assert_eq!(std::format!("{error}"), message);
        assert!(!matches!(memory.frame(&read(0)), Answer::Wait | Answer::Frame(..)));
        assert_eq!(pool.free(), 1);
    }
    let memory = CopyOnWrite::new(Slow::new(0, || Answer::Wait), Pool::new(0, 1));
    waits(&memory.frame(&write(0)));
    assert_eq!(std::format!("{}", memory.fetch(&write(0)).unwrap_err()), "gone");
}

#[test]
fn a_panic_of_the_base_leaves_the_page_to_it() {
    let base = Slow::new(10, || Answer::Frame(frame(7), Prot::all()));
    let memory = CopyOnWrite::new(base.clone(), Pool::new(0, 1));
    waits(&memory.frame(&write(0)));
    assert!(catch_unwind(AssertUnwindSafe(|| memory.fetch(&write(0)))).is_err());
    *base.fetches.lock() = 0;
    assert_eq!(given(memory.frame(&read(0))), (frame(7), NOT_WRITTEN));
}
