//! Memory-access traces in the text format of valgrind's lackey
//! (`valgrind --tool=lackey --trace-mem=yes PROGRAM`).
//!
//! One access a line: what it does, where (hexadecimal), how many bytes.
//!
//! ```text
//! I  0401ab73,5         instruction fetch
//!  L 1fff0005f0,8       load
//!  S 1fff000778,8       store
//!  M 0483c5a0,4         modify: load, then store
//! ```
//!
//! Valgrind's own lines (`==5077== ..`) and empty ones may stand anywhere, other text only in the
//! summary that valgrind ends with. Any other line is an error: a trace with a hole in it is not the
//! program's.

use std::{
    collections::BTreeMap,
    io::{BufRead, Read},
};

use slat::{AnyFormat, Format, Gpa, PAGE_BYTES, PageSize, RangeError};

use crate::layout::Layout;

/// Larger than any access of an x86 processor, which is XSAVE's, and small enough that no access
/// reaches a third page.
const LARGEST: u64 = PAGE_BYTES;

/// Bytes of a line that are looked at: a command line of valgrind's can be long.
const LONGEST_LINE: u64 = 1 << 20;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Fetch,
    Load,
    Store,
    Modify,
}

/// One access, or the part of it that lies in one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    /// The first word of the page that it touches.
    pub(crate) word: u16,
    /// The index of the page in the trace's layout.
    pub(crate) page: u32,
}

/// The memory accesses of one program, in its order.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) layout: Layout,
    pub(crate) steps: Vec<Step>,
}

/// What is wrong with a trace, and where.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    #[error("line {line}: {wrong}")]
    Line { line: u64, wrong: BadLine },
    #[error("there is not a single memory access in it")]
    Empty,
    #[error("it touches more than 2^32 pages")]
    TooManyPages,
    #[error("line {line} cannot be read")]
    Io { line: u64, source: std::io::Error },
    #[error(transparent)]
    Range(#[from] RangeError),
}

/// What is wrong with one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadLine {
    #[error(
        "expected an access such as ` S 1fff000778,8`, found `{0}` (if the traced program printed \
         it, record with valgrind's --log-file)"
    )]
    Stray(String),
    #[error("expected ADDRESS,SIZE after the kind of access, found `{0}`")]
    NoComma(String),
    #[error("`{0}` is not a hexadecimal address of up to 64 bits")]
    Address(String),
    #[error("`{0}` is not a number of bytes from 1 to {LARGEST}")]
    Size(String),
    #[error("{size} bytes at {address:#x} lie beyond what {levels}-level {format} can translate")]
    Beyond { address: u64, size: u64, levels: u32, format: &'static str },
}

/// One line that holds an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Access {
    kind: Kind,
    address: u64,
    size: u64,
}

impl Trace {
    /// Reads a trace whose addresses `format` must be able to translate.
    pub(crate) fn read(mut text: impl BufRead, format: AnyFormat) -> Result<Self, TraceError> {
        let mut parts = Parts::default();
        let mut in_summary = false;
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            // Cut, a line fails for what it then holds; /dev/zero is one without an end.
            let read = (&mut text).take(LONGEST_LINE).read_until(b'\n', &mut bytes);
            if read.map_err(|source| TraceError::Io { line, source })? == 0 {
                break;
            }
            let text = String::from_utf8_lossy(bytes.trim_ascii_end());
            if text.is_empty() {
                continue;
            }
            if is_valgrinds_own(&text) {
                in_summary = !parts.steps.is_empty();
                continue;
            }
            match parse(&text).and_then(|access| access.admitted(format)) {
                Ok(access) => parts.push(access)?,
                Err(BadLine::Stray(_)) if in_summary => continue,
                Err(wrong) => return Err(TraceError::Line { line, wrong }),
            }
            in_summary = false;
        }
        parts.finish()
    }

    /// Makes room for leaves of this size around its pages.
    pub(crate) fn with_granule(self, granule: PageSize) -> Result<Self, TraceError> {
        Ok(Self { layout: self.layout.with_granule(granule)?, ..self })
    }
}

/// Tells whether valgrind speaks for itself: its lines begin with the process number between two
/// pairs of one sign.
fn is_valgrinds_own(text: &str) -> bool {
    ["==", "--", "**"].iter().any(|sign| {
        text.strip_prefix(sign)
            .and_then(|rest| rest.split_once(sign))
            .is_some_and(|(pid, _)| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// Reads one access.
fn parse(text: &str) -> Result<Access, BadLine> {
    let kinds =
        [("I  ", Kind::Fetch), (" L ", Kind::Load), (" S ", Kind::Store), (" M ", Kind::Modify)];
    let (kind, place) = kinds
        .iter()
        .find_map(|(prefix, kind)| Some((*kind, text.strip_prefix(prefix)?)))
        .ok_or_else(|| BadLine::Stray(shown(text)))?;
    let (address, size) = place.split_once(',').ok_or_else(|| BadLine::NoComma(shown(place)))?;
    // `from_str_radix` alone would take a sign too.
    let address = Some(address)
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| BadLine::Address(shown(address)))?;
    let size = Some(size)
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .filter(|size| (1..=LARGEST).contains(size))
        .ok_or_else(|| BadLine::Size(shown(size)))?;
    Ok(Access { kind, address, size })
}

/// Returns as much of what was found as a message can bear.
fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}..", &text[..cut]).escape_debug().to_string(),
        None => text.escape_debug().to_string(),
    }
}

impl Access {
    fn admitted(self, format: AnyFormat) -> Result<Self, BadLine> {
        let Self { address, size, .. } = self;
        let admits = |byte: u64| format.admits(Gpa::new(byte));
        if admits(address) && address.checked_add(size - 1).is_some_and(admits) {
            return Ok(self);
        }
        let (levels, format) = (format.levels().count(), format.name());
        Err(BadLine::Beyond { address, size, levels, format })
    }
}

/// A trace that is being read.
#[derive(Default)]
struct Parts {
    /// The index of each page, in the order in which the trace first touches them.
    seen: BTreeMap<Gpa, u32>,
    steps: Vec<Step>,
}

impl Parts {
    fn push(&mut self, access: Access) -> Result<(), TraceError> {
        let Access { kind, address, size } = access;
        let (first, last) = (Gpa::new(address), Gpa::new(address + (size - 1)));
        self.touch(kind, first)?;
        if last.page_base() != first.page_base() {
            self.touch(kind, last.page_base())?;
        }
        Ok(())
    }

    fn touch(&mut self, kind: Kind, gpa: Gpa) -> Result<(), TraceError> {
        let next = u32::try_from(self.seen.len()).map_err(|_| TraceError::TooManyPages)?;
        let page = *self.seen.entry(gpa.page_base()).or_insert(next);
        self.steps.push(Step { kind, word: (gpa.page_offset() / 8) as u16, page });
        Ok(())
    }

    /// Numbers the pages by address.
    fn finish(mut self) -> Result<Trace, TraceError> {
        if self.steps.is_empty() {
            return Err(TraceError::Empty);
        }
        let mut ranks = vec![0; self.seen.len()];
        for (rank, seen) in (0..).zip(self.seen.values()) {
            ranks[*seen as usize] = rank;
        }
        for step in &mut self.steps {
            step.page = ranks[step.page as usize];
        }
        let layout = Layout::around(self.seen.into_keys().collect())?;
        Ok(Trace { layout, steps: self.steps })
    }
}

#[cfg(test)]
mod tests;
