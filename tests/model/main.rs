//! Random sequences of all operations, against an ordered map.
//!
//! `SLAT_MODEL_CASES` and `SLAT_MODEL_LENGTH` scale it.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
#[path = "../common/mod.rs"]
mod common;
mod table;

use arbitrary::{Arbitrary, Unstructured};
use common::{every_format, scaled};
use proptest::{
    collection,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use table::{Operation, Pair};

/// More than any operation takes, so that each is drawn as its decoding says.
const BYTES: usize = 256;

fn operation() -> impl Strategy<Value = Operation> {
    collection::vec(any::<u8>(), BYTES)
        .prop_map(|bytes| Operation::arbitrary(&mut Unstructured::new(&bytes)).unwrap())
}

every_format! {
    fn every_operation_answers_as_an_ordered_map_would(format: impl Format) {
        let (cases, length) = if cfg!(debug_assertions) { (30, 60) } else { (200, 100) };
        let cases = scaled("SLAT_MODEL_CASES", cases) as u32;
        let length = scaled("SLAT_MODEL_LENGTH", length) as usize;
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&collection::vec(operation(), 1..length), |operations| {
                let mut pair = Pair::new(format, length as u64);
                for operation in &operations {
                    pair.apply(operation);
                    pair.agree();
                }
                pair.finish();
                Ok(())
            })
            .unwrap();
    }
}
