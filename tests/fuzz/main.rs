//! What the fuzzers of `fuzz/` run, without a fuzzer: the same inputs, drawn at random, and those that were kept.
//!
//! `SLAT_FUZZ_CASES` says how many are drawn, and `SLAT_FUZZ_SEED` runs one of them alone. Files in
//! `fuzz/seeds/NAME`, and what fuzzers found to fail, in `fuzz/artifacts/NAME`, are run always.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source, and makes some by hand")]
#![expect(clippy::disallowed_types, reason = "no model runs these")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, unused_macros, reason = "each test program uses another part")]
#[path = "../common/mod.rs"]
mod common;
mod formats;
mod inputs;
#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, unused_macros, reason = "each test program uses another part")]
#[path = "../space/rig/mod.rs"]
mod rig;
#[path = "../space/model/mod.rs"]
mod space;
#[path = "../model/table/mod.rs"]
mod table;

use std::{fs, path::Path, thread};

use common::{number, scaled};
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

/// Says of an input, if it fails, how to have it again.
struct Case<'a> {
    name: &'a str,
    how: String,
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{} fails on {}", self.name, self.how);
        }
    }
}

/// Runs an input that a seed stands for.
fn draw(name: &str, seed: u64, longest: usize, run: fn(&[u8])) {
    let how = format!("a seed: SLAT_FUZZ_SEED={seed} cargo test --test fuzz {name}");
    let _case = Case { name, how };
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut bytes = vec![0; rng.random_range(0..longest)];
    rng.fill_bytes(&mut bytes);
    run(&bytes);
}

/// Runs the inputs in a folder, if there is one; returns how many.
fn replay(name: &str, folder: &str, run: fn(&[u8])) -> u64 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(name);
    let mut count = 0;
    for file in fs::read_dir(folder).into_iter().flatten() {
        let path = file.unwrap().path();
        let _case = Case { name, how: path.display().to_string() };
        run(&fs::read(&path).unwrap());
        count += 1;
    }
    count
}

/// Runs all of that: of inputs that are drawn so many, each of so many bytes at most.
fn all(name: &str, cases: u64, longest: usize, run: fn(&[u8])) {
    if let Some(seed) = number("SLAT_FUZZ_SEED") {
        return draw(name, seed, longest, run);
    }
    assert!(replay(name, "seeds", run) > 0, "no inputs are kept for {name}");
    replay(name, "artifacts", run);
    let cases = scaled("SLAT_FUZZ_CASES", cases);
    (0..cases).for_each(|seed| draw(name, seed, longest, run));
}

#[test]
fn table_and_reference_agree_whatever_the_bytes_say() {
    all("table", 100, 1000, inputs::table);
}

#[test]
fn space_and_reference_agree_whatever_the_bytes_say() {
    all("space", 100, 1000, inputs::space);
}

#[test]
fn formats_keep_their_rules_whatever_the_bytes_say() {
    all("formats", 2000, 400, inputs::formats);
}
