//! The slices of host memory behind a range of the space, one run of consecutive frames after the other.

use core::iter::FusedIterator;

use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    Permissions, VolatileSlice,
    guest_memory::{GuestMemoryBackendSliceIterator, GuestMemorySliceIterator},
};

use super::{SpaceBitmap, SpaceBitmapSlice, SpaceMemory, error, prot};
use crate::{
    addr::{Gpa, PAGE_BYTES},
    arena::FrameSource,
    attr::Prot,
    format::Format,
};

/// The slices that are still to come. Each page is made resident when its slice is asked for.
pub(super) struct Slices<'a, F: Format, S: FrameSource, M: GuestMemoryBackend> {
    memory: &'a SpaceMemory<F, S, M>,
    access: Prot,
    gpa: u64,
    /// How many bytes there are from `gpa` on.
    left: u64,
    /// Where `gpa` lies, if that is known.
    run: Option<Run<'a, M>>,
}

/// What is left of a run of consecutive frames: it may lie in several regions of the host memory.
struct Run<'a, M: GuestMemoryBackend> {
    host: u64,
    slices: GuestMemoryBackendSliceIterator<'a, M>,
}

type Slice<'a> = VolatileSlice<'a, SpaceBitmapSlice<'a>>;

impl<'a, F, S, M> Slices<'a, F, S, M>
where
    F: Format,
    S: FrameSource,
    M: GuestMemoryBackend<R: GuestMemoryRegion<B = SpaceBitmap>>,
{
    fn new(
        memory: &'a SpaceMemory<F, S, M>,
        first: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<Self, GuestMemoryError> {
        let (gpa, left) = (first.0, count as u64);
        if left > 0 && gpa.checked_add(left - 1).is_none() {
            return Err(GuestMemoryError::GuestAddressOverflow);
        }
        Ok(Self { memory, access: prot(access), gpa, left, run: None })
    }

    /// Returns the next slice, of which there is one at least. After an error nothing is to be asked any more.
    #[inline]
    fn advance(&mut self) -> Result<Slice<'a>, GuestMemoryError> {
        loop {
            if let Some(run) = &mut self.run
                && let Some(slice) = run.slices.next()
            {
                let slice = slice.map_err(|_| GuestMemoryError::InvalidBackendAddress)?;
                slice.bitmap().place(self.memory, self.gpa, run.host);
                let len = slice.len() as u64;
                run.host += len;
                // The range does not wrap, but it may end where the numbers do.
                self.gpa = self.gpa.wrapping_add(len);
                self.left -= len;
                return Ok(slice);
            }
            let run = self.memory.run(Gpa::new(self.gpa), self.left, self.access).map_err(error)?;
            let host = run.pfn.get() * PAGE_BYTES + run.offset;
            let slices = self.memory.host.get_slices(GuestAddress(host), run.len as usize);
            self.run = Some(Run { host, slices });
        }
    }
}

impl<'a, F, S, M> Iterator for Slices<'a, F, S, M>
where
    F: Format,
    S: FrameSource,
    M: GuestMemoryBackend<R: GuestMemoryRegion<B = SpaceBitmap>>,
{
    type Item = Result<Slice<'a>, GuestMemoryError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let slice = self.advance();
        if slice.is_err() {
            self.left = 0;
        }
        Some(slice)
    }
}

impl<F, S, M> FusedIterator for Slices<'_, F, S, M>
where
    F: Format,
    S: FrameSource,
    M: GuestMemoryBackend<R: GuestMemoryRegion<B = SpaceBitmap>>,
{
}

impl<'a, F, S, M> GuestMemorySliceIterator<'a, SpaceBitmapSlice<'a>> for Slices<'a, F, S, M>
where
    F: Format,
    S: FrameSource,
    M: GuestMemoryBackend<R: GuestMemoryRegion<B = SpaceBitmap>>,
{
}

impl<F, S, M> GuestMemory for SpaceMemory<F, S, M>
where
    F: Format,
    S: FrameSource,
    M: GuestMemoryBackend<R: GuestMemoryRegion<B = SpaceBitmap>>,
{
    type PhysicalMemory = M;
    type Bitmap = SpaceBitmap;

    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        Slices::new(self, addr, count, access).is_ok_and(|mut slices| slices.all(|s| s.is_ok()))
    }

    #[inline]
    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, SpaceBitmapSlice<'a>>, GuestMemoryError> {
        Slices::new(self, addr, count, access)
    }
}
