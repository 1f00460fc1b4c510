//! The destination's end of the connection: asks for the pages that faults wait for, and takes in those that come.
//!
//! Two threads share the [`Supplier`]. One waits for requests, and passes them on. The other reads pages, writes
//! each into its frame, and supplies it: from then on it is mapped, and who waited goes on. When either of them
//! ends, for whatever reason, it closes the supplier, so that nobody waits for a page that will not come.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, ErrorKind},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use slat::{PAGE_BYTES, Supplier, SupplyError};

use crate::{
    memory::Memory,
    progress::Progress,
    wire::{Message, Sent, WireError, read_content},
};

/// Why not all pages came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the source has {theirs} pages, and not {ours}")]
    OtherSize { theirs: u64, ours: u64 },
    #[error("the connection was closed early: {arrived} of {pages} pages have come")]
    ClosedEarly { arrived: u64, pages: u64 },
    #[error("page {page} came, of {pages}")]
    NoSuchPage { page: u64, pages: u64 },
    #[error("page {page} came a second time")]
    CameTwice { page: u64 },
    #[error("the source says that it has sent {said} pages, and {arrived} have come")]
    Lost { said: u64, arrived: u64 },
    #[error("page {page} has never come: it was asked for {:.1} s ago", .waited.as_secs_f64())]
    Overdue { page: u64, waited: Duration },
    #[error("page {page} has never come, the first of {missing}")]
    Missing { page: u64, missing: u64 },
    #[error(transparent)]
    Supply(#[from] SupplyError),
}

/// What has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrivals {
    pub(crate) on_demand: u64,
    pub(crate) in_background: u64,
    /// Those of them that were asked for while they were on their way.
    pub(crate) crossed: u64,
    /// When the last one came.
    pub(crate) last: Duration,
}

impl Arrivals {
    pub(crate) const fn pages(&self) -> u64 {
        self.on_demand + self.in_background
    }
}

/// The side that gets the memory.
#[derive(Debug)]
pub(crate) struct Destination<'d> {
    pub(crate) memory: &'d Memory,
    pub(crate) supplier: &'d Supplier,
    /// How long a page may be waited for while nothing comes.
    pub(crate) patience: Duration,
    pub(crate) begun: Instant,
    pub(crate) progress: &'d Progress,
    /// Pages that were asked for and have not come, and since when.
    asked: Mutex<BTreeMap<u64, Instant>>,
}

/// Closes the supplier when dropped, also by a panic, and a direction of the connection.
struct Closing<'d>(&'d Supplier, &'d UnixStream, Shutdown);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
        // It may be closed already.
        let _ = self.1.shutdown(self.2);
    }
}

impl<'d> Destination<'d> {
    pub(crate) fn new(
        memory: &'d Memory,
        supplier: &'d Supplier,
        patience: Duration,
        progress: &'d Progress,
    ) -> Self {
        let (begun, asked) = (Instant::now(), Mutex::default());
        Self { memory, supplier, patience, begun, progress, asked }
    }

    /// Asks for pages until there is nobody left to wait for one; returns how many it asked for.
    pub(crate) fn request(&self, mut stream: &UnixStream) -> Result<u64, WireError> {
        // What is on its way still comes in.
        let _closing = Closing(self.supplier, stream, Shutdown::Write);
        let mut requests = 0;
        while let Some(request) = self.supplier.next_request() {
            // Before it can come.
            self.asked().insert(request.page, Instant::now());
            Message::Request { page: request.page }.write(&mut stream)?;
            requests += 1;
        }
        Ok(requests)
    }

    /// Takes pages in until the source says that these were all.
    pub(crate) fn receive(
        &self,
        stream: &UnixStream,
    ) -> Result<Arrivals, (Arrivals, ReceiveError)> {
        let _closing = Closing(self.supplier, stream, Shutdown::Both);
        let mut arrivals = Arrivals::default();
        match self.take_in(stream, &mut arrivals) {
            Ok(()) => Ok(arrivals),
            Err(error) => Err((arrivals, error)),
        }
    }

    fn take_in(&self, stream: &UnixStream, arrivals: &mut Arrivals) -> Result<(), ReceiveError> {
        stream.set_read_timeout(Some(self.patience)).map_err(WireError::Io)?;
        let mut input = BufReader::with_capacity(16 * PAGE_BYTES as usize, stream);
        let pages = self.supplier.pages();
        match self.next(&mut input)? {
            Some(Message::Hello { pages: theirs }) if theirs == pages => {}
            Some(Message::Hello { pages: theirs }) => {
                return Err(ReceiveError::OtherSize { theirs, ours: pages });
            }
            Some(other) => return Err(WireError::Unexpected(other).into()),
            None => return Err(ReceiveError::ClosedEarly { arrived: 0, pages }),
        }
        loop {
            let arrived = arrivals.pages();
            match self.next(&mut input)? {
                Some(Message::Page { page, sent }) => {
                    self.supply(&mut input, page)?;
                    self.note(arrivals, page, sent);
                }
                Some(Message::End { pages: said }) => return self.check_end(said, arrived),
                Some(other) => return Err(WireError::Unexpected(other).into()),
                None => return Err(ReceiveError::ClosedEarly { arrived, pages }),
            }
        }
    }

    /// Waits for the next message; not for ever, if somebody waits for a page.
    fn next(&self, input: &mut BufReader<&UnixStream>) -> Result<Option<Message>, ReceiveError> {
        // Nothing is consumed here, so a wait that was in vain loses nothing of a message.
        while let Err(error) = input.fill_buf() {
            if !is_timeout(&error) {
                return Err(WireError::Io(error).into());
            }
            let oldest = self.asked().iter().map(|(&page, &since)| (since, page)).min();
            let overdue = oldest.map(|(since, page)| (since.elapsed(), page));
            if let Some((waited, page)) = overdue.filter(|&(waited, _)| waited >= self.patience) {
                return Err(ReceiveError::Overdue { page, waited });
            }
        }
        Ok(Message::read(input)?)
    }

    /// Puts the content of a page into its frame, and lets the guest have it.
    fn supply(&self, input: &mut BufReader<&UnixStream>, page: u64) -> Result<(), ReceiveError> {
        let no_such_page = ReceiveError::NoSuchPage { page, pages: self.supplier.pages() };
        let frame = self.supplier.frame_of(page).and_then(|pfn| self.memory.frame(pfn));
        let frame = frame.ok_or(no_such_page)?;
        // Looked at before it is written: the guest may have written it since. Nobody else supplies.
        if self.supplier.is_supplied(page) {
            return Err(ReceiveError::CameTwice { page });
        }
        let mut content = [0; PAGE_BYTES as usize];
        read_content(input, &mut content)?;
        frame.write(&content);
        Ok(self.supplier.supply(page)?)
    }

    fn note(&self, arrivals: &mut Arrivals, page: u64, sent: Sent) {
        let asked = self.asked().remove(&page);
        match sent {
            Sent::OnDemand => arrivals.on_demand += 1,
            Sent::InBackground => {
                arrivals.in_background += 1;
                arrivals.crossed += u64::from(asked.is_some());
            }
        }
        arrivals.last = self.begun.elapsed();
        self.progress.arrived(arrivals);
    }

    fn check_end(&self, said: u64, arrived: u64) -> Result<(), ReceiveError> {
        let pages = self.supplier.pages();
        if let Some(page) = (0..pages).find(|&page| !self.supplier.is_supplied(page)) {
            return Err(ReceiveError::Missing { page, missing: pages - arrived });
        }
        if said != arrived {
            return Err(ReceiveError::Lost { said, arrived });
        }
        Ok(())
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests;
