use super::*;

#[test]
fn deeds_are_kept_by_stay_and_added_up_over_vcpus() {
    let stay = |number| Stay::new(number).unwrap();
    let (first, second) = (stay(1), stay(2));
    let mut one = Log::new(2);
    one.at(1, first).sum += 1;
    one.at(1, first).sum += 1;
    one.at(1, second).written = true;
    assert_eq!(one.latest(1), Some(second));
    let mut other = Log::new(2);
    other.at(1, second).sum += 5;
    other.at(0, stay(8));
    assert_eq!(one.iter().count(), 2);

    let merged = merge([&one, &other].into_iter());
    let expect = |page, stay, written, sum| {
        assert_eq!(merged[&stay], (page, Deeds { stay, written, sum }));
    };
    assert_eq!(merged.len(), 3);
    expect(1, first, false, 2);
    expect(1, second, true, 5);
    expect(0, stay(8), false, 0);
}
