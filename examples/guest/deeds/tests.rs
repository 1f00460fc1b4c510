use std::num::NonZeroU32;

use slat::HostPfn;

use super::*;

fn stay(pfn: u64, term: u32) -> Stay {
    Stay { pfn: HostPfn::new(pfn), term: NonZeroU32::new(term).unwrap() }
}

#[test]
fn deeds_are_kept_by_stay_and_added_up_over_vcpus() {
    let (first, second) = (stay(7, 1), stay(7, 2));
    let mut one = Log::new(2);
    one.at(1, first).sum += 1;
    one.at(1, first).sum += 1;
    one.at(1, second).written = true;
    let mut other = Log::new(2);
    other.at(1, second).sum += 5;
    other.at(0, stay(8, 1));
    assert_eq!(one.iter().count(), 2);

    let merged = merge([&one, &other].into_iter());
    let expect = |page, stay, written, sum| {
        assert_eq!(merged[&stay], (page, Deeds { stay, written, sum }));
    };
    assert_eq!(merged.len(), 3);
    expect(1, first, false, 2);
    expect(1, second, true, 5);
    expect(0, stay(8, 1), false, 0);
}
