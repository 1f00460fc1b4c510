//! What processors have to run guests by.

pub(crate) mod svm;
pub(crate) mod vmx;

use alloc::vec::Vec;

use slat::{Due, Format, Gpa, Level, PAGE_BYTES, PageSize, PhysWidth, mmu::Fault};

/// The frame in an entry, or in a root pointer, of a processor with 52 bits.
pub(crate) const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// A leaf, in a table of another level than the first.
pub(crate) const LARGE: u64 = 1 << 7;
/// The PAT bit of AMD's large leaves.
const LARGE_PAT: u64 = 1 << 12;

/// Of a guest: protected mode (PE, ET, NE).
const CR0: u64 = 1 << 0 | 1 << 4 | 1 << 5;
/// The same with paging.
const CR0_PAGING: u64 = CR0 | 1 << 31;
/// Pages of 4 MiB (PSE), for a guest with paging.
const CR4: u64 = 1 << 4;

/// A guest's registers, those that its code uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Registers {
    pub(crate) rbx: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    pub(crate) rbp: u64,
}

/// Where a guest begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) at: Gpa,
    /// The page of its own tables, if it has any: 32 bits, pages of 4 MiB.
    pub(crate) directory: Option<Gpa>,
}

impl Start {
    /// Begins without paging.
    pub(crate) const fn at(at: Gpa) -> Self {
        Self { at, directory: None }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Table(Level),
    Leaf(PageSize),
}

impl Shape {
    /// Returns the number of the lowest bit of the frame that the entry names.
    fn page_bits(self) -> u32 {
        match self {
            Self::Table(_) => PAGE_BYTES.ilog2(),
            Self::Leaf(size) => size.bytes().ilog2(),
        }
    }

    /// Tells whether an entry made of a table's is not one of a large leaf: that would be memory of the
    /// guest's, and the table is in it. The entry of a table becomes a leaf that is not aligned, but now and then.
    fn leads_nowhere_else(self, made: u64) -> bool {
        let Self::Table(level) = self else { return true };
        let below = level.page_size().map_or(0, |size| size.bytes() - 1) & FRAME & !LARGE_PAT;
        made & LARGE == 0 || level.page_size().is_none() || made & below != 0
    }
}

/// Why a guest came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It has done its job.
    Call,
    /// It could not reach something.
    Fault(Fault),
    /// Somebody kicked it.
    Interrupt,
    /// The log of dirty pages has no room for one more.
    LogFull,
    /// It was not entered: a control, of which the root pointer is one, is none that the processor takes.
    Refused,
    /// Something that no case expects.
    Other { code: u64, info: [u64; 2] },
}

/// Virtualization, and the format of its tables.
pub(crate) trait Virt: Copy + Send + Sync + 'static {
    type Format: Format;
    type Vcpu: Send;
    /// By which a guest calls its host.
    const CALL: [u8; 3];
    /// The bits that it sets in entries that are used, and in leaves that are written.
    const ACCESSED: u64;
    const DIRTY: u64;

    /// Returns what this processor has of it, if any.
    fn find() -> Option<Self>;
    /// Turns it on, on this processor.
    fn enable(&self);
    fn format(&self) -> Self::Format;
    /// Tells whether it sets accessed and dirty bits.
    fn keeps_bits(&self) -> bool;
    /// Returns what the manuals have and no case tries here, each with the reason.
    fn untried(&self) -> Vec<(&'static str, &'static str)>;
    /// Tells whether it can log which pages become dirty.
    fn has_log(&self) -> bool {
        false
    }
    /// Has it do that for a guest's processor.
    fn start_log(_vcpu: &mut Self::Vcpu) {}
    /// Returns what it has logged, in order, and has it begin again.
    fn take_log(_vcpu: &mut Self::Vcpu) -> Vec<Gpa> {
        Vec::new()
    }
    /// Returns the bits of a root pointer that mean something to this processor which the library never asks for.
    fn root_bits_of_others(&self) -> u64;
    /// Makes a guest's processor in flat 32-bit mode, on this processor.
    fn vcpu(&self) -> Self::Vcpu;
    fn start(vcpu: &mut Self::Vcpu, start: Start);
    /// Returns the entry with each of its bits turned over, with all rights, and, if it is a leaf, with all
    /// memory types and all rights. Where a frame below the processor's width is, it stays.
    fn variants(&self, entry: u64, shape: Shape) -> Vec<u64>;
    /// Invalidates what is due, and runs the guest on the tables at `root` until it comes out. Interrupts have been off
    /// since before `due` was asked for.
    fn run(vcpu: &mut Self::Vcpu, root: u64, due: &Due, registers: &mut Registers) -> Exit;
}

/// Returns the entry with each bit turned over but those of its frame, and with each of `types` in the place of
/// all bits that say the memory type; and all of these with all sets of `rights`.
fn variants(
    entry: u64,
    shape: Shape,
    width: PhysWidth,
    rights: &[u32],
    types: impl Iterator<Item = u64>,
) -> Vec<u64> {
    let frame = shape.page_bits()..u32::from(width.bits());
    let turned = (0..64).filter(|bit| !frame.contains(bit)).map(|bit| entry ^ 1 << bit);
    let bases: Vec<_> = turned.chain(types).collect();
    let all: u64 = rights.iter().map(|right| 1 << right).sum();
    let chosen = |choice: u64| {
        let bits = (0..).zip(rights).map(move |(index, right)| (choice >> index & 1) << right);
        bits.sum::<u64>()
    };
    let sets = (0..1_u64 << rights.len()).map(chosen);
    let with_rights = sets.flat_map(|set| bases.iter().map(move |base| base & !all | set));
    let mut made: Vec<_> = with_rights.filter(|&made| shape.leads_nowhere_else(made)).collect();
    made.sort_unstable();
    made.dedup();
    made
}
