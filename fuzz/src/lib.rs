//! What the fuzzers run. It is the tests' own: `tests/fuzz/` draws the same inputs at random.
#![expect(unsafe_code, reason = "reads tables through the frame source, and makes some by hand")]

#[allow(dead_code, unused_imports, unused_macros, reason = "others use other parts")]
#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/fuzz/formats.rs"]
mod formats;
#[path = "../../tests/fuzz/inputs.rs"]
mod inputs;
#[allow(dead_code, unused_imports, unused_macros, reason = "others use other parts")]
#[path = "../../tests/space/rig/mod.rs"]
mod rig;
#[path = "../../tests/space/model/mod.rs"]
mod space;
#[path = "../../tests/model/table/mod.rs"]
mod table;

/// Runs operations of a table against the reference.
pub fn table(bytes: &[u8]) {
    inputs::table(bytes);
}

/// Runs operations of a space against the reference.
pub fn space(bytes: &[u8]) {
    inputs::space(bytes);
}

/// Checks values of entries.
pub fn formats(bytes: &[u8]) {
    inputs::formats(bytes);
}
