//! A reader: the right to pin a table, cheaply, again and again.

use crate::{
    arena::FrameSource, epoch::Participant, format::Format, page_table::PageTable, pinned::Pinned,
};

/// A handle that pins its table cheaply: one per vCPU or worker.
///
/// It can be made on one thread and used on another, and keeps the table alive. It cannot be shared:
///
/// ```compile_fail,E0277
/// # fn shared(reader: &slat::Reader<slat::Ept, slat::HeapFrames>) {
/// std::thread::scope(|scope| {
///     scope.spawn(|| reader.pin()); // `Reader` is not `Sync`
/// });
/// # }
/// ```
#[derive(Debug)]
pub struct Reader<F: Format, S: FrameSource> {
    participant: Participant,
    table: PageTable<F, S>,
}

impl<F: Format, S: FrameSource> Reader<F, S> {
    pub(crate) fn new(table: PageTable<F, S>, participant: Participant) -> Self {
        Self { participant, table }
    }

    /// Enters the table's epoch: until the pin is dropped no table that it can reach is freed.
    ///
    /// Costs one locked operation on a cache line of the reader's own; every 128th pin also looks at
    /// all readers of the table to advance the epoch, and tidies up after those that were dropped,
    /// which may allocate.
    ///
    /// Hold a pin over a batch of operations, or [`repin`](Pinned::repin) it between them; do not hold
    /// it across guest entry or a wait.
    #[inline]
    pub fn pin(&self) -> Pinned<'_, F, S> {
        Pinned::new(self.table.domain(), self.participant.pin())
    }

    /// Returns the table.
    #[must_use]
    pub fn table(&self) -> &PageTable<F, S> {
        &self.table
    }
}
