//! What is asked for on the image's command line, when it boots Linux: words `name=value`.
//!
//! | word | |
//! | --- | --- |
//! | `processors=N` | how many the machine has (default 1) |
//! | `size=2M` | a fault maps so much, where it can |
//! | `around=N` | a fault maps the N pages around it |
//! | `copy=yes` | all of memory is copied while the guest writes it, and compared in the end |
//! | `copy=lossy` | the same, but some of the pages that are reported are not copied: it must fail |
//! | `copy=stale` | the same, but no processor is told that it must not write unnoticed any more: it must fail, on several |
//! | `levels=5` | five levels of tables; as the last word |

use core::ops::RangeInclusive;

use slat::PageSize;

use crate::{
    machine::loader,
    options::{BadOption, check_levels, number, processors},
};

/// Pages that a fault may map.
const AROUND: RangeInclusive<u64> = 1..=512;

/// Whether memory is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copying {
    Off,
    On,
    Lossy,
    Stale,
}

/// How the guest's memory is looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) processors: u32,
    pub(super) largest: PageSize,
    pub(super) around: u64,
    pub(super) copying: Copying,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// The first word that cannot be.
    pub(super) fn read() -> Result<Self, BadOption> {
        let line = loader::command_line();
        let (largest, copying) = (PageSize::Size4K, Copying::Off);
        let mut options = Self { processors: 1, largest, around: 1, copying };
        // The first word is the image's name.
        for word in line.split_ascii_whitespace().skip(1) {
            match word.split_once('=') {
                Some(("processors", count)) => options.processors = processors(word, count)?,
                Some(("size", "2M")) => options.largest = PageSize::Size2M,
                Some(("around", pages)) => {
                    let pages = number(word, pages, AROUND)?;
                    let power = pages.is_power_of_two().then_some(pages);
                    options.around = power.ok_or(BadOption::NoPower(word))?;
                }
                Some(("copy", "yes")) => options.copying = Copying::On,
                Some(("copy", "lossy")) => options.copying = Copying::Lossy,
                Some(("copy", "stale")) => options.copying = Copying::Stale,
                Some(("levels", levels)) => check_levels(line, word, levels)?,
                _ => return Err(BadOption::Unknown(word)),
            }
        }
        Ok(options)
    }
}
