//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use slat::{
    AnyFormat, Ept, EptCaps, Format, Gpa, GpaRange, Levels, LongMode, Npt, PAGE_BYTES, PageSize,
    PhysWidth,
};

use crate::{
    frame::WORDS,
    manager::{Change, Flushing, Turnover},
    precopy::Precopy,
};

/// Width of physical addresses: usual for a server.
const PHYS_BITS: u8 = 46;
/// In `random`, `churn`, `migrate` and `resize` each vCPU has one word of every page to itself.
const MOST_VCPUS: i64 = WORDS as i64;
/// Each page that is unmapped or moved is remembered until the audit.
const MOST_ROUNDS: u64 = 100_000;
const LONGEST_SECONDS: f64 = 86_400.0;

/// Runs a guest, on KVM or on software MMUs: every vCPU is a thread whose page faults are resolved
/// through a slat table that all of them share, while the others run on.
///
/// Afterwards the entries are compared with what the workload did: resident pages, accessed and dirty
/// bits, the contents of memory, the frames; and no access may have gone through a translation that
/// should have been gone. Exits with status 0 if all of it is right, 1 if anything is wrong or KVM was
/// asked for and is not there, and 2 for bad options or a bad trace.
#[derive(Clone, Debug, Parser)]
#[command(name = "guest", version)]
pub(crate) struct Options {
    /// What runs the guest [default: KVM, where there is one and the format is what its guests have, else
    /// software MMUs; without a workload, both]
    #[arg(long, value_enum)]
    pub(crate) backend: Option<Backend>,

    /// What the vCPUs do [default: touch, churn, migrate, precopy, and then the trace of /bin/true that comes
    /// with the example]
    #[arg(long, value_enum)]
    pub(crate) workload: Option<Pattern>,

    /// Replay the memory accesses of a program, split over the vCPUs: the output of `valgrind
    /// --tool=lackey --trace-mem=yes PROGRAM`, or `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,

    /// How many vCPUs, each a thread
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=MOST_VCPUS))]
    pub(crate) vcpus: u16,

    /// Guest memory: bytes, or a number with K, M, G or T; traces bring their own addresses
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = bytes)]
    pub(crate) memory: u64,

    /// The leaves by which guest memory is mapped: a fault brings in that much, and memory is rounded up to
    /// it
    #[arg(long, value_name = "SIZE", value_enum, default_value = "4K")]
    pub(crate) page_size: LeafSize,

    /// How long `random` runs, and how long the link that `precopy` has takes for all of memory; the others
    /// run until they are done
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub(crate) seconds: Duration,

    /// How many times `churn` takes a region of memory away, `migrate` moves one, and `resize` has the large leaves
    /// of one split and made again
    #[arg(long, value_name = "N", default_value_t = 200,
          value_parser = clap::value_parser!(u64).range(1..=MOST_ROUNDS))]
    pub(crate) rounds: u64,

    /// How many rounds `precopy` copies at most before it makes the vCPUs stand still
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=MOST_ROUNDS))]
    pub(crate) copy_rounds: u64,

    /// It does so earlier if a round finds no more pages dirty than this
    #[arg(long, value_name = "PAGES", default_value_t = 64)]
    pub(crate) few: u64,

    /// Write the picture that `precopy` prints, of the pages that were dirty in each round, to a file too
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,

    /// Let vCPUs enter without invalidating what is due, in `churn`, `migrate`, `resize` or `precopy`: a mistake,
    /// which must be found out
    #[arg(long)]
    pub(crate) skip_flush: bool,

    /// The entry format of the table [default: long-mode if KVM runs the guest, else ept]
    #[arg(long, value_enum)]
    pub(crate) format: Option<FormatName>,

    /// The levels of the table: 48-bit or 57-bit addresses
    #[arg(long, value_name = "4|5", default_value_t = 4,
          value_parser = clap::value_parser!(u8).range(4..=5))]
    pub(crate) levels: u8,

    /// Where the random numbers of the workloads and the values that `touch` writes start
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Print one JSON document instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// A workload over plain guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    /// Each vCPU reads all pages of its own part, writes most of them, and reads them again
    Touch,
    /// Each vCPU reads and writes anywhere, until the time is up
    Random,
    /// All vCPUs write to all pages in the same order, and fault on the same pages
    Shared,
    /// vCPUs use a few pages here and a few there, and managers take away just the regions that are in
    /// use, give their frames to others, and bring the regions back
    Churn,
    /// vCPUs use a few pages here and a few there, and managers move just these to other frames
    Migrate,
    /// vCPUs use a few pages here and a few there, and managers split the large leaves there and make them again,
    /// with tables that others had just before, and have just afterwards
    Resize,
    /// vCPUs write, to a few pages often and to most once, while memory is copied as for a live migration:
    /// what is dirty, round after round
    Precopy,
}

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// KVM: the guest's CR3 points at the table. The guest runs natively
    Kvm,
    /// A software MMU for each vCPU
    Soft,
    /// KVM, then software MMUs; their counts are compared
    Both,
}

/// The size of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LeafSize {
    /// 4 KiB, a table of the lowest level for each 2 MiB
    #[value(name = "4K")]
    Small,
    /// 2 MiB
    #[value(name = "2M")]
    Large,
    /// 1 GiB
    #[value(name = "1G")]
    Huge,
}

impl LeafSize {
    /// Returns the size as the library has it.
    pub(crate) const fn get(self) -> PageSize {
        match self {
            Self::Small => PageSize::Size4K,
            Self::Large => PageSize::Size2M,
            Self::Huge => PageSize::Size1G,
        }
    }
}

/// An entry format by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    /// Intel's extended page tables
    Ept,
    /// AMD's nested page tables
    Npt,
    /// Ordinary x86-64 page tables
    LongMode,
}

impl Options {
    /// Tells whether neither a workload nor a trace was chosen.
    pub(crate) const fn is_tour(&self) -> bool {
        self.workload.is_none() && self.trace.is_none()
    }

    /// Tells whether a KVM guest can walk the table that is asked for.
    pub(crate) fn suits_kvm(&self) -> bool {
        self.format.is_none_or(|format| format == FormatName::LongMode) && self.levels == 4
    }

    /// Returns the format that the options describe: for KVM, if it is to walk it, whose guests have
    /// addresses of `kvm` bits.
    pub(crate) fn table_format(&self, kvm: Option<PhysWidth>) -> anyhow::Result<AnyFormat> {
        let levels = if self.levels == 5 { Levels::Five } else { Levels::Four };
        let width = PhysWidth::new(kvm.map_or(PHYS_BITS, |kvm| kvm.bits().min(PHYS_BITS)))?;
        let default = if kvm.is_some() { FormatName::LongMode } else { FormatName::Ept };
        Ok(match self.format.unwrap_or(default) {
            FormatName::Ept => Ept::new(levels, width, EptCaps::USUAL).into(),
            FormatName::Npt => Npt::new(levels, width).into(),
            FormatName::LongMode => LongMode::new(levels, width).into(),
        })
    }

    /// Returns what is to become of memory.
    pub(crate) const fn turnover(&self, change: Change) -> Turnover {
        Turnover { change, rounds: self.rounds, flushing: self.flushing() }
    }

    /// Returns how memory is to be copied.
    pub(crate) const fn precopy(&self) -> Precopy {
        let Self { copy_rounds: most_rounds, few, seconds: link, .. } = *self;
        Precopy { most_rounds, few, link, flushing: self.flushing() }
    }

    const fn flushing(&self) -> Flushing {
        if self.skip_flush { Flushing::Skipped } else { Flushing::Served }
    }

    /// Checks what one option alone does not tell.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let resizes = self.workload == Some(Pattern::Resize);
        let changes = resizes || matches!(self.workload, Some(Pattern::Churn | Pattern::Migrate));
        let copies = self.workload == Some(Pattern::Precopy);
        anyhow::ensure!(
            !resizes || self.page_size == LeafSize::Large,
            "--workload resize needs --page-size 2M: such leaves are what it splits, and makes again"
        );
        anyhow::ensure!(
            !self.skip_flush || (changes || copies) && self.trace.is_none(),
            "--skip-flush needs --workload churn, migrate, resize or precopy, and no trace: nothing else \
             has anything to flush"
        );
        anyhow::ensure!(
            self.svg.is_none() || self.is_tour() || copies,
            "--svg needs --workload precopy, or none: nothing else has a picture"
        );
        anyhow::ensure!(
            self.page_size != LeafSize::Huge || !changes && !self.is_tour(),
            "--page-size 1G needs another --workload than churn and migrate, or a trace: a region would \
             be a gigabyte, to be filled or copied each time that it changes"
        );
        let wants_kvm = matches!(self.backend, Some(Backend::Kvm | Backend::Both));
        anyhow::ensure!(
            !wants_kvm || self.suits_kvm(),
            "--backend kvm needs --format long-mode and --levels 4: its guests walk no other tables of \
             a process"
        );
        Ok(())
    }

    /// Returns guest memory rounded up to whole leaves, in bytes.
    pub(crate) fn whole_memory(&self) -> u64 {
        self.memory.checked_next_multiple_of(self.page_size.get().bytes()).unwrap_or(u64::MAX)
    }

    /// Checks that all of guest memory can be translated, by leaves of the size that is asked for.
    pub(crate) fn check_memory(&self, format: AnyFormat) -> anyhow::Result<()> {
        let size = self.page_size.get();
        let name = format.name();
        anyhow::ensure!(
            format.supports(size),
            "--page-size: {name} has no leaves of {size:?} here"
        );
        let reachable = GpaRange::new(Gpa::new(0), self.whole_memory())
            .is_ok_and(|range| format.admits_range(range));
        anyhow::ensure!(
            reachable,
            "--memory {}: {}-level {} cannot translate addresses so large",
            self.memory,
            self.levels,
            name
        );
        Ok(())
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
    // Written so that NaN fails it.
    if seconds > 0.0 && seconds <= LONGEST_SECONDS {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("not more than 0 and at most {LONGEST_SECONDS}"))
    }
}

#[cfg(test)]
mod tests;
