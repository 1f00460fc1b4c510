//! What is asked for on the image's command line.

use slat::PageSize;

use super::multiboot::Multiboot;

/// Whether all of memory is copied while the guest writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copying {
    Off,
    On,
    /// On, but some of the pages that are reported are not copied: the copy must be wrong.
    Lossy,
}

/// How the guest's memory is looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// `2M`: a fault maps so much, where it can.
    pub(super) largest: PageSize,
    /// `around=N`: a fault maps so many pages.
    pub(super) around: u64,
    /// `copy`, or `copy=lossy`.
    pub(super) copying: Copying,
}

impl Options {
    /// Reads the words that there are.
    pub(super) fn read(multiboot: Multiboot) -> Self {
        let mut options = Self { largest: PageSize::Size4K, around: 1, copying: Copying::Off };
        for word in multiboot.words().split_whitespace() {
            match word.split_once('=') {
                None if word == "2M" => options.largest = PageSize::Size2M,
                None if word == "copy" => options.copying = Copying::On,
                Some(("copy", "lossy")) => options.copying = Copying::Lossy,
                Some(("around", pages)) => options.around = pages.parse().expect("it is a number"),
                // Five levels are asked for before this is read.
                None if word == "5" => {}
                _ => panic!("{word:?} is not known"),
            }
        }
        options
    }
}
