//! The source: has all of memory, and sends each page once.
//!
//! One thread reads requests and puts them into the [`Inbox`]; the other sends, and always what was asked for
//! before what comes next in order. It alone knows what was sent: a page that is asked for while it is on its
//! way is not sent twice.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    collections::VecDeque,
    io::BufReader,
    net::Shutdown,
    num::NonZeroU64,
    os::unix::net::UnixStream,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    memory::Memory,
    wire::{Message, Sent, WireError, write_page},
};

/// How much of what a sleep that took too long has cost is caught up with.
const CATCH_UP: Duration = Duration::from_millis(10);

/// What is sent that nobody has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Background {
    /// All of it, in order.
    Pushed,
    Nothing,
}

/// Something that the source does wrong, and that must be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A bit of this page is wrong.
    Corrupt(u64),
    /// This page is never sent.
    Drop(u64),
    /// The connection is closed after so many pages.
    Cut(u64),
}

/// Why a source stopped early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("page {page} was asked for, of {pages}")]
    NoSuchPage { page: u64, pages: u64 },
}

/// What a source has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) on_demand: u64,
    pub(crate) in_background: u64,
    /// Requests for pages that were on their way.
    pub(crate) on_its_way: u64,
}

/// The side that has the memory.
#[derive(Debug)]
pub(crate) struct Source<'m> {
    pub(crate) memory: &'m Memory,
    pub(crate) pages: u64,
    pub(crate) background: Background,
    /// Pages a second; as fast as the connection takes them if `None`.
    pub(crate) bandwidth: Option<NonZeroU64>,
    pub(crate) trouble: Option<Trouble>,
}

impl Source<'_> {
    /// Sends all of memory, or all that is asked for.
    pub(crate) fn serve(&self, stream: &UnixStream) -> Result<Account, SourceError> {
        let inbox = Inbox::default();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let _end = Ending(&inbox);
                let read = self.read(stream, &inbox);
                if read.is_err() {
                    // The other thread need not go on.
                    hang_up(stream, Shutdown::Both);
                }
                read
            });
            let sent = Sending::new(self, &inbox, stream).run();
            // What it has read comes first: sending may have failed for that.
            reader.join().expect("it does not panic")?;
            sent
        })
    }

    /// Reads requests until there are no more.
    fn read(&self, stream: &UnixStream, inbox: &Inbox) -> Result<(), SourceError> {
        let mut input = BufReader::new(stream);
        while let Some(message) = Message::read(&mut input)? {
            match message {
                Message::Request { page } if page < self.pages => inbox.put(page),
                Message::Request { page } => {
                    return Err(SourceError::NoSuchPage { page, pages: self.pages });
                }
                other => return Err(WireError::Unexpected(other).into()),
            }
        }
        Ok(())
    }
}

/// Closes the connection, or one direction of it. Whoever uses that, on either side, finds it out.
fn hang_up(stream: &UnixStream, direction: Shutdown) {
    // It may be closed already.
    let _ = stream.shutdown(direction);
}

/// Says when dropped, also by a panic, that no more pages will be asked for.
struct Ending<'s>(&'s Inbox);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Pages that were asked for.
#[derive(Debug, Default)]
struct Inbox {
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    pages: VecDeque<u64>,
    /// There will be no more.
    ended: bool,
}

impl Inbox {
    fn put(&self, page: u64) {
        self.asked().pages.push_back(page);
        self.changed.notify_one();
    }

    fn end(&self) {
        self.asked().ended = true;
        self.changed.notify_one();
    }

    /// Takes one that is there.
    fn try_take(&self) -> Option<u64> {
        self.asked().pages.pop_front()
    }

    /// Takes the next one, or returns `None` if there will be no more.
    fn take(&self) -> Option<u64> {
        let waiting = |asked: &mut Asked| asked.pages.is_empty() && !asked.ended;
        let asked = self.changed.wait_while(self.asked(), waiting);
        asked.unwrap_or_else(PoisonError::into_inner).pages.pop_front()
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that sends.
struct Sending<'s> {
    source: &'s Source<'s>,
    inbox: &'s Inbox,
    stream: &'s UnixStream,
    pace: Pace,
    sent: Vec<bool>,
    /// How many are not sent.
    left: u64,
    /// All pages before this one are sent.
    next: u64,
    account: Account,
}

impl<'s> Sending<'s> {
    fn new(source: &'s Source<'s>, inbox: &'s Inbox, stream: &'s UnixStream) -> Self {
        Self {
            source,
            inbox,
            stream,
            pace: Pace::new(source.bandwidth),
            sent: vec![false; source.pages as usize],
            left: source.pages,
            next: 0,
            account: Account::default(),
        }
    }

    fn run(mut self) -> Result<Account, SourceError> {
        let pages = self.source.pages;
        Message::Hello { pages }.write(&mut self.stream)?;
        while self.left > 0 {
            if self.source.trouble == Some(Trouble::Cut(pages - self.left)) {
                return Ok(self.account);
            }
            self.pace.wait();
            // Chosen when the connection is free for it, and no earlier.
            let Some((page, sent)) = self.choose() else { break };
            self.sent[page as usize] = true;
            self.left -= 1;
            self.send(page, sent)?;
        }
        Message::End { pages: pages - self.left }.write(&mut self.stream)?;
        Ok(self.account)
    }

    /// Returns the page that is to be sent next, or `None` if no more are asked for.
    fn choose(&mut self) -> Option<(u64, Sent)> {
        loop {
            let asked = match self.source.background {
                Background::Pushed => self.inbox.try_take(),
                Background::Nothing => Some(self.inbox.take()?),
            };
            match asked {
                Some(page) if self.sent[page as usize] => self.account.on_its_way += 1,
                Some(page) => {
                    self.account.on_demand += 1;
                    return Some((page, Sent::OnDemand));
                }
                None => {
                    while self.sent[self.next as usize] {
                        self.next += 1;
                    }
                    self.account.in_background += 1;
                    return Some((self.next, Sent::InBackground));
                }
            }
        }
    }

    fn send(&mut self, page: u64, sent: Sent) -> Result<(), WireError> {
        let trouble = self.source.trouble;
        if trouble == Some(Trouble::Drop(page)) {
            return Ok(());
        }
        let content = self.source.memory.page(page).expect("pages are checked when they are asked");
        write_page(&mut self.stream, page, sent, |bytes| {
            content.read(bytes);
            if trouble == Some(Trouble::Corrupt(page)) {
                // Somewhere, and not in the first word.
                let length = bytes.len();
                bytes[(page * 509 + 1234) as usize % length] ^= 0x10;
            }
        })
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        // Lest the destination wait, whatever happened. Then it closes its own direction.
        hang_up(self.stream, Shutdown::Write);
    }
}

/// Sees to it that pages are sent no faster than the connection that is played has them.
struct Pace {
    interval: Option<Duration>,
    next: Instant,
}

impl Pace {
    fn new(bandwidth: Option<NonZeroU64>) -> Self {
        let interval = bandwidth.map(|pages| Duration::from_secs(1).div_f64(pages.get() as f64));
        Self { interval, next: Instant::now() }
    }

    /// Waits until the next page may be sent.
    fn wait(&mut self) {
        let Some(interval) = self.interval else { return };
        let now = Instant::now();
        if let Some(early) = self.next.checked_duration_since(now) {
            thread::sleep(early);
        }
        let since = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.next = self.next.max(since) + interval;
    }
}

#[cfg(test)]
mod tests;
