//! Why a page is not supplied.

use alloc::sync::Arc;
use core::{error::Error, fmt};

use crate::space::{BackingError, BeyondEnd};

/// Why a page cannot be supplied, or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SupplyError {
    /// There is no such page.
    #[error(transparent)]
    BeyondEnd(#[from] BeyondEnd),
    /// It was supplied before: guests may be using it.
    #[error("page {page} is supplied already")]
    AlreadySupplied {
        /// The page, in 4 KiB pages from the beginning of the backing.
        page: u64,
    },
}

/// There is no [`Supplier`](crate::Supplier) any more, and the page was not supplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page {page} was not supplied, and its supplier is gone")]
#[non_exhaustive]
pub struct SupplierGone {
    /// The page, in 4 KiB pages from the beginning of the backing.
    pub page: u64,
}

/// The supplier failed the page. The next fault asks for it again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SupplyFailed {
    /// The page, in 4 KiB pages from the beginning of the backing.
    pub page: u64,
    /// What the supplier said, to each who waited.
    pub error: Arc<BackingError>,
}

impl fmt::Display for SupplyFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} could not be supplied: {}", self.page, self.error)
    }
}

impl Error for SupplyFailed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.error.get())
    }
}
