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

use slat::PageSize;

use crate::machine::loader;

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
    /// The word that means nothing.
    pub(super) fn read() -> Result<Self, &'static str> {
        let (largest, copying) = (PageSize::Size4K, Copying::Off);
        let mut options = Self { processors: 1, largest, around: 1, copying };
        // The first word is the image's name.
        for word in loader::command_line().split_ascii_whitespace().skip(1) {
            match word.split_once('=') {
                Some(("processors", count)) => {
                    options.processors = count.parse().map_err(|_| word)?;
                }
                Some(("size", "2M")) => options.largest = PageSize::Size2M,
                Some(("around", pages)) => options.around = pages.parse().map_err(|_| word)?,
                Some(("copy", "yes")) => options.copying = Copying::On,
                Some(("copy", "lossy")) => options.copying = Copying::Lossy,
                Some(("copy", "stale")) => options.copying = Copying::Stale,
                Some(("levels", "4" | "5")) => {}
                _ => return Err(word),
            }
        }
        Ok(options)
    }
}
