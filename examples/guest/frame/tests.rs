use super::*;

#[test]
fn a_word_keeps_its_parts_apart() {
    for stay in [None, Stay::new(1), Stay::new(u32::MAX)] {
        for sum in [0, 1, Word::SUM] {
            let word = Word { sum, stay };
            assert_eq!(Word::from_raw(word.raw()), word);
            assert_eq!(word.raw().to_le_bytes()[0], 0xc3, "`ret`");
            let more = Word { sum: (sum + 2) & Word::SUM, stay };
            assert_eq!(Word::from_raw(word.raw().wrapping_add(Word::addend(2))), more);
        }
    }
}

#[test]
fn the_sum_of_a_frame_wraps_as_those_of_its_words_do() {
    let mapping = Mapping::anonymous(PAGE_BYTES as usize).unwrap();
    let frame = Frame::of(&mapping, 0);
    frame.fill(Stay::new(7));
    frame.add(0, Word::SUM);
    frame.add(WORDS - 1, 3);
    assert_eq!((frame.sum(), frame.stay()), (2, Stay::new(7)));
}
