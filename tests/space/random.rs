//! Random sequences of all operations of a space, against maps of pages.
//!
//! `SLAT_MODEL_CASES` and `SLAT_MODEL_LENGTH` scale it.

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::{
    common::{every_format, scaled},
    model::Pair,
};

/// More than any step takes.
const BYTES: u64 = 32;

every_format! {
    #![and_without_bits]
    fn every_operation_answers_as_maps_of_pages_would(format: impl Format) {
        let (cases, length) = if cfg!(debug_assertions) { (12, 150) } else { (60, 400) };
        let cases = scaled("SLAT_MODEL_CASES", cases);
        let length = scaled("SLAT_MODEL_LENGTH", length);
        for seed in 0..cases {
            let mut bytes = vec![0; (length * BYTES) as usize];
            SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
            assert_eq!(Pair::new(format, &bytes).run(length), length);
        }
    }
}
