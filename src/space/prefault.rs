//! Making many pages resident before they are needed.

#[cfg(feature = "rayon")]
use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::{
    agent::{Agent, Patience},
    errors::{FaultError, PrefaultError},
    shared::{Shared, parts},
};
#[cfg(feature = "rayon")]
use crate::sync::Mutex;
use crate::{
    addr::{Gpa, GpaRange},
    arena::FrameSource,
    attr::Prot,
    format::Format,
    level::PageSize,
};

/// What is made resident between two calls of a progress callback: what one leaf table translates.
const PART: PageSize = PageSize::Size2M;

impl<F: Format, S: FrameSource> Shared<F, S> {
    /// Makes the pages of `range` resident; `progress` is told how many of them were passed.
    pub(super) fn prefault(
        &self,
        range: GpaRange,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<u64, PrefaultError> {
        let mut done = 0;
        self.with_agent(|agent| {
            for part in parts(range, PART) {
                self.prefault_part(agent, part)
                    .map_err(|(here, source)| PrefaultError { done: done + here, source })?;
                done += part.pages();
                if progress(done).is_break() {
                    break;
                }
            }
            Ok(done)
        })
    }

    /// Makes the pages of one part resident. If one cannot be, says how many were before.
    fn prefault_part(&self, agent: &Agent<F, S>, part: GpaRange) -> Result<(), (u64, FaultError)> {
        let mut page = part.first_page();
        while page < part.end_page() {
            let resolved = agent.resolve(self, Gpa::of_page(page), Prot::empty(), Patience::Wait);
            let size = resolved.map_err(|error| (page - part.first_page(), error))?;
            page = size.unwrap_or(PageSize::Size4K).leaf_range(page).end_page();
        }
        Ok(())
    }

    /// Does the same on all threads of the rayon pool.
    #[cfg(feature = "rayon")]
    pub(super) fn prefault_in_parallel(
        &self,
        range: GpaRange,
        progress: impl Fn(u64) -> ControlFlow<()> + Sync,
    ) -> Result<u64, PrefaultError> {
        use rayon::prelude::*;

        let done = Mutex::new(0);
        // What stopped it, if anything did: `Ok` if it was asked to stop.
        let stopped = parts(range, PART).collect::<Vec<_>>().into_par_iter().try_for_each(|part| {
            let resident = self.with_agent(|agent| self.prefault_part(agent, part));
            let mut sum = done.lock();
            match resident {
                Ok(()) => *sum += part.pages(),
                Err((here, source)) => {
                    *sum += here;
                    return Err(Some(source));
                }
            }
            let now = *sum;
            drop(sum);
            if progress(now).is_break() { Err(None) } else { Ok(()) }
        });
        let done = *done.lock();
        match stopped {
            Ok(()) | Err(None) => Ok(done),
            Err(Some(source)) => Err(PrefaultError { done, source }),
        }
    }
}
