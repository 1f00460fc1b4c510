//! What is made of an input: a format, and what is done in it, until there are no bytes left.

use arbitrary::{Arbitrary, Result, Unstructured};
use slat::{AnyFormat, Levels};

use crate::{
    common::{any, ept, ept_without_bits, long_mode, npt},
    formats::{self, Word},
    space::Pair as SpacePair,
    table::{Operation, Pair as TablePair},
};

/// So many operations, or steps, at most.
const LONGEST: usize = 200;

fn format(bytes: &mut Unstructured<'_>) -> Result<AnyFormat> {
    let levels = *bytes.choose(&[Levels::Four, Levels::Five])?;
    let all = [any(ept(levels)), any(npt(levels)), any(long_mode(levels))];
    Ok(match bytes.choose_index(all.len() + 1)? {
        index if index < all.len() => all[index],
        _ => any(ept_without_bits(levels)),
    })
}

/// Decodes until there are no bytes left.
fn many<'b, T: Arbitrary<'b>>(mut bytes: Unstructured<'b>) -> Vec<T> {
    let mut all = Vec::new();
    while !bytes.is_empty() && all.len() < LONGEST {
        all.extend(bytes.arbitrary());
    }
    all
}

/// Operations of a table, against the reference of `tests/model/`.
pub(crate) fn table(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let Ok(format) = format(&mut bytes) else { return };
    let operations: Vec<Operation> = many(bytes);
    let mut pair = TablePair::new(format, operations.len() as u64);
    for operation in &operations {
        pair.apply(operation);
        pair.agree();
    }
    pair.finish();
}

/// Operations of a space, against the maps of pages of `tests/space/model/`.
pub(crate) fn space(bytes: &[u8]) {
    let mut unstructured = Unstructured::new(bytes);
    let Ok(format) = format(&mut unstructured) else { return };
    SpacePair::new(format, unstructured.take_rest()).run(LONGEST as u64);
}

/// Values of entries, of all sorts: what a format makes of them, and what a software MMU does.
pub(crate) fn formats(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let Ok(format) = format(&mut bytes) else { return };
    let words: Vec<Word> = many(bytes);
    formats::check(format, &words);
}
