//! What processors have to run guests by.

pub(crate) mod svm;
pub(crate) mod vmx;

use alloc::vec::Vec;

use slat::{Due, Format, Gpa, PhysWidth, mmu::Fault};

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

/// Why a guest came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It has done its job.
    Call,
    /// It could not reach something.
    Fault(Fault),
    /// Somebody kicked it.
    Interrupt,
    /// Something that no case expects.
    Other { code: u64, info: [u64; 2] },
}

/// Virtualization, and the format of its tables.
pub(crate) trait Virt: Copy + Send + Sync + 'static {
    type Format: Format;
    type Vcpu: Send;
    /// By which a guest calls its host.
    const CALL: [u8; 3];

    /// Returns what this processor has of it, if any.
    fn find() -> Option<Self>;
    /// Turns it on, on this processor.
    fn enable(&self);
    fn format(&self) -> Self::Format;
    /// Tells whether it sets accessed and dirty bits.
    fn keeps_bits(&self) -> bool;
    /// Makes a guest's processor in flat 32-bit mode, on this processor.
    fn vcpu(&self) -> Self::Vcpu;
    /// Has the guest go on at an address, with or without paging (32 bits, pages of 4 MiB); the page of its
    /// tables is `directory`.
    fn start(vcpu: &mut Self::Vcpu, at: Gpa, directory: Option<Gpa>);
    /// Returns entries that differ a little from this one, and lead nowhere else.
    fn variants(&self, entry: u64, is_leaf: bool) -> Vec<u64>;
    /// Tells whether it is known that this processor reports one where the manual says the other.
    fn is_known(manual: Option<Fault>, reported: Option<Fault>) -> bool;
    /// Invalidates what is due, and, with interrupts off since before `due` was asked for, runs the guest on the tables at `root` until it comes out.
    fn run(vcpu: &mut Self::Vcpu, root: u64, due: &Due, registers: &mut Registers) -> Exit;
}

/// Returns the entry with each bit turned over but those of the frame, and with all of these bits replaced in each way.
fn variants(entry: u64, width: PhysWidth, rights: [u32; 3]) -> Vec<u64> {
    let frame = 12..u32::from(width.bits());
    let turned = (0..64).filter(|bit| !frame.contains(bit)).map(|bit| entry ^ 1 << bit);
    let others = (0..8_u64).map(|choice| {
        let word = rights.iter().enumerate().map(|(index, bit)| (choice >> index & 1) << bit);
        let all = rights.iter().map(|bit| 1_u64 << bit);
        entry & !all.sum::<u64>() | word.sum::<u64>()
    });
    turned.chain(others).collect()
}
