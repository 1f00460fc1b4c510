//! The command line.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use slat::PAGE_BYTES;

use crate::{
    content::WORDS,
    source::{Background, Trouble},
};

/// Each vCPU has one word of every page to itself.
const MOST_VCPUS: i64 = WORDS as i64;
/// 16 TiB: far beyond what a host has, and products of page numbers fit into 64 bits.
const MOST_PAGES: u64 = 1 << 32;
/// No timeout of a socket's is much shorter.
const SHORTEST_SECONDS: f64 = 0.001;
const LONGEST_SECONDS: f64 = 86_400.0;

/// Migrates a running guest by post-copy, within one process: it resumes at once, on memory that is not
/// there yet. Pages come over a socket from a source, those that a fault waits for first, and the others in
/// the background, each once.
///
/// Afterwards all of memory is compared, byte for byte, with what the source has and the guest has written,
/// and so was every word that the guest has read. Exits with status 0 if all of it is right, 1 if anything is
/// wrong or pages did not come, and 2 for bad options.
#[derive(Clone, Debug, Parser)]
#[command(name = "postcopy", version)]
pub(crate) struct Options {
    /// How many vCPUs, each a thread with a software MMU
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=MOST_VCPUS))]
    pub(crate) vcpus: u16,

    /// Guest memory: bytes, or a number with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = bytes)]
    pub(crate) memory: u64,

    /// In which order vCPUs come to pages; each comes to all of them
    #[arg(long, value_enum, default_value = "random")]
    pub(crate) fault_order: FaultOrder,

    /// Send only what is asked for
    #[arg(long)]
    pub(crate) no_background: bool,

    /// Send no more than so many pages a second [default: what the socket takes]
    #[arg(long, value_name = "PAGES")]
    pub(crate) bandwidth: Option<NonZeroU64>,

    /// Where the contents of memory, and the random numbers of the vCPUs, start
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// How long a page may be waited for while nothing comes
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub(crate) patience: Duration,

    /// Send this page with a bit that is wrong: it must be found out
    #[arg(long, value_name = "PAGE", group = "trouble")]
    pub(crate) corrupt: Option<u64>,

    /// Never send this page: it must be found out
    #[arg(long, value_name = "PAGE", group = "trouble")]
    pub(crate) drop: Option<u64>,

    /// Close the connection after so many pages: whoever waits must be told
    #[arg(long, value_name = "PAGES", group = "trouble")]
    pub(crate) cut: Option<u64>,

    /// Show no progress, and print nothing but what is wrong
    #[arg(long)]
    pub(crate) quiet: bool,

    /// Write the results to a file as JSON; to standard output, instead of tables, if it is `-`
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// In which order a vCPU comes to pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FaultOrder {
    /// Each vCPU in a random order of its own
    Random,
    /// From the first page to the last, as they come in the background; all vCPUs want the same ones
    Ascending,
    /// From the last page to the first, against what comes in the background
    Descending,
}

/// What is wrong with options, which each alone does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadOptions {
    #[error("--{option} {page}: there are {pages} pages, from 0 on")]
    NoSuchPage { option: &'static str, page: u64, pages: u64 },
    #[error("--cut {cut}: the connection is closed after fewer than all {pages} pages")]
    CutTooLate { cut: u64, pages: u64 },
    #[error("--memory: {pages} pages are more than the example can have")]
    TooManyPages { pages: u64 },
    #[error(
        "--memory: that takes {needed_mib} MiB of the host's, which has {have_mib} MiB available"
    )]
    TooMuch { needed_mib: u64, have_mib: u64 },
}

impl Options {
    pub(crate) const fn pages(&self) -> u64 {
        self.memory / PAGE_BYTES
    }

    pub(crate) const fn background(&self) -> Background {
        if self.no_background { Background::Nothing } else { Background::Pushed }
    }

    /// Returns what is to go wrong.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let (corrupt, drop) = (self.corrupt.map(Trouble::Corrupt), self.drop.map(Trouble::Drop));
        corrupt.or(drop).or(self.cut.map(Trouble::Cut))
    }

    /// Checks what one option alone does not tell; `available` is how many bytes the host can spare, if it says
    /// so.
    pub(crate) fn check(&self, available: Option<u64>) -> Result<(), BadOptions> {
        let pages = self.pages();
        if pages > MOST_PAGES {
            return Err(BadOptions::TooManyPages { pages });
        }
        for (option, page) in [("corrupt", self.corrupt), ("drop", self.drop)] {
            if let Some(page) = page.filter(|&page| page >= pages) {
                return Err(BadOptions::NoSuchPage { option, page, pages });
            }
        }
        if let Some(cut) = self.cut.filter(|&cut| cut >= pages) {
            return Err(BadOptions::CutTooLate { cut, pages });
        }
        // Both sides, and what each vCPU remembers.
        let needed = pages * (2 * PAGE_BYTES + 2 * u64::from(self.vcpus));
        match available.filter(|&have| have < needed) {
            Some(have) => {
                Err(BadOptions::TooMuch { needed_mib: needed >> 20, have_mib: have >> 20 })
            }
            None => Ok(()),
        }
    }
}

/// Reads a size such as `64M`, `64MiB` or `67108864`.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].trim_end_matches("iB").trim_end_matches('B') {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        unit => return Err(format!("`{unit}` is not a unit: K, M, G and T are")),
    };
    let number: u64 = digits.parse().map_err(|_| "not a whole number of bytes".to_owned())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(|| "more than 2^64 bytes".to_owned())?;
    if bytes == 0 || !bytes.is_multiple_of(PAGE_BYTES) {
        return Err(format!("{bytes} bytes are not a positive multiple of {PAGE_BYTES}, a page"));
    }
    Ok(bytes)
}

/// Reads a positive number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (SHORTEST_SECONDS..=LONGEST_SECONDS).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("not at least {SHORTEST_SECONDS} and at most {LONGEST_SECONDS}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Options {
        Options::parse_from([&["postcopy"], arguments].concat())
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(bytes("64M"), Ok(64 << 20));
        assert_eq!(bytes("4KiB"), Ok(4096));
        assert_eq!(bytes("8192"), Ok(8192));
        for bad in ["", "M", "0", "4095", "1X", "99999999999T"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_are_positive_numbers() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "NaN", "inf", "1e9", "soon"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pages_that_are_not_there_are_refused() {
        for (option, page, pages) in [("corrupt", "16384", 16384), ("drop", "16384", 16384)] {
            let options = parsed(&[&*format!("--{option}"), page]);
            let expected = BadOptions::NoSuchPage { option, page: 16384, pages };
            assert_eq!(options.check(None), Err(expected));
        }
        let options = parsed(&["--cut", "16384"]);
        assert_eq!(options.check(None), Err(BadOptions::CutTooLate { cut: 16384, pages: 16384 }));
        assert_eq!(parsed(&["--drop", "16383"]).check(None), Ok(()));
    }

    #[test]
    fn memory_that_the_host_has_not_is_refused() {
        let options = parsed(&["--vcpus", "1"]);
        let needed = 16384 * (2 * 4096 + 2);
        assert_eq!(options.check(Some(needed)), Ok(()));
        let expected = BadOptions::TooMuch { needed_mib: 128, have_mib: 128 };
        assert_eq!(options.check(Some(needed - 1)), Err(expected));
        let pages = 1 << 33;
        let options = parsed(&["--memory", "32T"]);
        assert_eq!(options.check(None), Err(BadOptions::TooManyPages { pages }));
    }

    #[test]
    fn one_trouble_is_enough() {
        assert_eq!(parsed(&["--corrupt", "3"]).trouble(), Some(Trouble::Corrupt(3)));
        assert_eq!(parsed(&["--drop", "3"]).trouble(), Some(Trouble::Drop(3)));
        assert_eq!(parsed(&["--cut", "3"]).trouble(), Some(Trouble::Cut(3)));
        assert_eq!(parsed(&[]).trouble(), None);
        let both = ["postcopy", "--corrupt", "3", "--drop", "3"];
        assert!(Options::try_parse_from(both).is_err());
    }
}
