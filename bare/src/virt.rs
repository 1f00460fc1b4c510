//! What processors have to run guests by.

pub(crate) mod svm;
pub(crate) mod vmx;

use alloc::vec::Vec;

use slat::{Due, Format, Gpa, PhysWidth, mmu::Fault};

/// What a guest is told to do: its registers EBX, ECX and EDX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job(pub(crate) [u64; 3]);

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
    /// Makes a guest's processor in flat 32-bit mode, on this processor.
    fn vcpu(&self) -> Self::Vcpu;
    /// Has the guest go on at an address.
    fn start(vcpu: &mut Self::Vcpu, at: Gpa);
    /// Returns entries that differ a little from this one, and lead nowhere else.
    fn variants(&self, entry: u64, is_leaf: bool) -> Vec<u64>;
    /// Tells whether it is known that this processor reports one where the manual says the other.
    fn is_known(manual: Option<Fault>, reported: Option<Fault>) -> bool;
    /// Invalidates what is due, and runs the guest on the tables at `root` until it comes out.
    fn run(vcpu: &mut Self::Vcpu, root: u64, due: &Due, job: &mut Job) -> Exit;
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
