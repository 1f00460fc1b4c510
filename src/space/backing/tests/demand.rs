use super::*;

const M2: PageSize = PageSize::Size2M;
const G1: PageSize = PageSize::Size1G;

#[test]
fn every_answer_takes_frames_of_its_own_and_each_comes_back() {
    let pool = Pool::new(0, 3);
    let memory = OnDemand::new(pool.clone(), 8, SMALL);
    assert_eq!(memory.pages(), 8);
    // Two race for a page: the loser's is unused.
    let (one, rights) = given(memory.frame(&read(5)));
    let (other, _) = given(memory.frame(&write(5)));
    assert!(one != other && rights == Prot::all());
    memory.release(unused(5, other));
    assert_eq!(pool.free(), 2);
    memory.release(unmapped(5, one));
    assert_eq!(pool.free(), 3);
}

#[test]
fn what_is_present_is_given_again_and_nothing_taken() {
    let pool = Pool::new(0, 3);
    let memory = OnDemand::new(pool.clone(), 8, SMALL);
    let want = write(5).with_present(frame(77));
    assert_eq!(given(memory.frame(&want)), (frame(77), Prot::all()));
    assert_eq!(pool.free(), 3);
}

#[test]
fn a_leaf_that_the_pool_does_not_have_is_too_large_and_a_page_is_out_of_memory() {
    let pool = Pool::new(512, 513);
    let memory = OnDemand::new(pool.clone(), 4 * 512, G1);
    let ask = |page, size| memory.frame(&Want::new(page, size, Prot::R));
    smaller(&ask(0, G1));
    let (first, _) = given(ask(512, M2));
    assert_eq!((first, pool.free()), (frame(512), 1));
    smaller(&ask(1024, M2));
    let (last, _) = given(ask(1024, SMALL));
    assert_eq!(failed::<OutOfMemory>(ask(1025, SMALL)).page, 1025);
    // It was split meanwhile.
    for index in 0..512 {
        memory.release(unmapped(512 + index, frame(512 + index)));
    }
    memory.release(unmapped(1024, last));
    assert_eq!(pool.free(), 513);
}

#[test]
fn leaves_are_no_larger_than_they_were_meant_to_be() {
    let memory = OnDemand::new(Pool::new(0, 1024), 1024, M2);
    smaller(&memory.frame(&Want::new(0, G1, Prot::R)));
    // Whichever page it begins with: only addresses and frames are aligned.
    assert_eq!(given(memory.frame(&Want::new(7, M2, Prot::R))).0, frame(0));
    let largest = |page, gpa| memory.largest(page, Gpa::of_page(gpa));
    assert_eq!(largest(0, 0), M2);
    assert_eq!(largest(7, 512), M2);
    assert_eq!(largest(0, 512 + 7), M2);
    // The whole leaf has to be there.
    assert_eq!(largest(1023, 1023), M2);
    assert_eq!(largest(1023, 1024), SMALL);
    assert_eq!(largest(1024, 1024), SMALL);
    assert_eq!(OnDemand::new(Pool::new(0, 0), 1024, SMALL).largest(0, Gpa::new(0)), SMALL);
}

#[test]
fn a_leaf_lies_within_the_backing() {
    let pool = Pool::new(0, 1024);
    let memory = OnDemand::new(pool.clone(), 600, M2);
    smaller(&memory.frame(&Want::new(512, M2, Prot::R)));
    let _: BeyondEnd = failed(memory.frame(&read(600)));
    let _: BeyondEnd = failed(OnDemand::new(pool.clone(), 0, M2).frame(&read(0)));
    assert_eq!(pool.free(), 1024);
}
