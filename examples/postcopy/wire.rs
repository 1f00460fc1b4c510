//! What goes over the connection, in both directions.
//!
//! Every message has a head of 16 bytes, lowest byte first, and a page is followed by its content:
//!
//! ```text
//!    0         4         8                    16                      4112
//!   +---------+---------+--------------------+-----------------------+
//!   | "SLP1"  | kind    | number             | 4096 bytes, if a page |
//!   +---------+---------+--------------------+-----------------------+
//!
//!   kind 1  hello        to the destination   how many pages there are   first of all
//!   kind 2  request      to the source        a page that is waited for  any number of times
//!   kind 3  page         to the destination   a page that was asked for  each page once, of
//!   kind 4  page         to the destination   a page in its turn         either kind
//!   kind 5  end          to the destination   how many pages were sent   last of all
//! ```
//!
//! The destination says that it will ask for no more by closing its direction, between two messages.

use std::io::{self, ErrorKind, Read, Write};

use slat::PAGE_BYTES;

use crate::memory::PageBytes;

const MAGIC: [u8; 4] = *b"SLP1";
const HEAD: usize = 16;

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The source has so many pages.
    Hello { pages: u64 },
    /// A page is waited for.
    Request { page: u64 },
    /// The content of a page follows.
    Page { page: u64, sent: Sent },
    /// So many pages were sent, and no more will be.
    End { pages: u64 },
}

/// Why a page is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It was asked for.
    OnDemand,
    /// It is its turn.
    InBackground,
}

/// What is wrong with the connection, or with what came over it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("bad message: it begins with {found:02x?}, not with `SLP1`")]
    Magic { found: [u8; 4] },
    #[error("bad message: there is none of kind {found}")]
    Kind { found: u32 },
    #[error("the connection was closed within a message, {have} bytes after its beginning")]
    Truncated { have: usize },
    #[error("{0:?} is not to be sent in this direction, or not now")]
    Unexpected(Message),
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

impl Message {
    const fn kind_and_number(self) -> (u32, u64) {
        match self {
            Self::Hello { pages } => (1, pages),
            Self::Request { page } => (2, page),
            Self::Page { page, sent: Sent::OnDemand } => (3, page),
            Self::Page { page, sent: Sent::InBackground } => (4, page),
            Self::End { pages } => (5, pages),
        }
    }

    fn to_bytes(self) -> [u8; HEAD] {
        let (kind, number) = self.kind_and_number();
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&kind.to_le_bytes());
        head[8..].copy_from_slice(&number.to_le_bytes());
        head
    }

    fn of_bytes(head: [u8; HEAD]) -> Result<Self, WireError> {
        let [magic, kind, ..] = *head.as_chunks().0 else { unreachable!("a head has 16 bytes") };
        if magic != MAGIC {
            return Err(WireError::Magic { found: magic });
        }
        let number = u64::from_le_bytes(*head.last_chunk().expect("a head has 16 bytes"));
        Ok(match u32::from_le_bytes(kind) {
            1 => Self::Hello { pages: number },
            2 => Self::Request { page: number },
            3 => Self::Page { page: number, sent: Sent::OnDemand },
            4 => Self::Page { page: number, sent: Sent::InBackground },
            5 => Self::End { pages: number },
            found => return Err(WireError::Kind { found }),
        })
    }

    /// Writes a message that no content follows.
    pub(crate) fn write(self, output: &mut impl Write) -> Result<(), WireError> {
        Ok(output.write_all(&self.to_bytes())?)
    }

    /// Reads the next message, or `None` if the connection was closed before it.
    pub(crate) fn read(input: &mut impl Read) -> Result<Option<Self>, WireError> {
        let mut head = [0; HEAD];
        match fill(input, &mut head)? {
            HEAD => Self::of_bytes(head).map(Some),
            0 => Ok(None),
            have => Err(WireError::Truncated { have }),
        }
    }
}

/// Writes a page, whose content `content` puts there.
pub(crate) fn write_page(
    output: &mut impl Write,
    page: u64,
    sent: Sent,
    content: impl FnOnce(&mut PageBytes),
) -> Result<(), WireError> {
    let mut bytes = [0; HEAD + PAGE_BYTES as usize];
    let (head, body) = bytes.split_first_chunk_mut().expect("it is longer than a head");
    *head = Message::Page { page, sent }.to_bytes();
    content(body.try_into().expect("what is left is a page"));
    // At once: who asked is waiting.
    Ok(output.write_all(&bytes)?)
}

/// Reads the content that follows a page's head.
pub(crate) fn read_content(
    input: &mut impl Read,
    content: &mut PageBytes,
) -> Result<(), WireError> {
    match fill(input, content)? {
        have if have == content.len() => Ok(()),
        have => Err(WireError::Truncated { have: HEAD + have }),
    }
}

/// Reads until `bytes` are full, or the connection is closed; returns how many came.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < bytes.len() {
        match input.read(&mut bytes[have..]) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

#[cfg(test)]
mod tests;
