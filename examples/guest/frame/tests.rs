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
