//! The page-attribute table: which memory type an entry's PAT, PCD and PWT bits choose.

use crate::attr::MemType;

/// The eight entries of a page-attribute table (AMD APM vol. 2, 7.8; Intel SDM vol. 3A, "Page
/// Attribute Table").
///
/// An entry that holds UC- (an uncacheable type that an MTRR may override) is of no use to a leaf
/// and reads as none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pat([Option<MemType>; 8]);

/// A value that the PAT register cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PAT entry {index} holds {raw:#x}, which is no memory type")]
pub struct BadPat {
    /// Which of the eight entries.
    pub index: u8,
    /// What it holds.
    pub raw: u8,
}

impl Pat {
    /// The layout after reset: WB, WT, UC-, UC, and the same again.
    pub const POWER_ON: Self = {
        const HALF: [Option<MemType>; 4] =
            [Some(MemType::WB), Some(MemType::WT), None, Some(MemType::UC)];
        Self([HALF[0], HALF[1], HALF[2], HALF[3], HALF[0], HALF[1], HALF[2], HALF[3]])
    };

    /// Decodes the PAT register (MSR 0x277).
    ///
    /// # Errors
    /// [`BadPat`] if an entry holds a reserved encoding.
    pub const fn from_msr(msr: u64) -> Result<Self, BadPat> {
        const UC_MINUS: u8 = 7;
        let mut types = [None; 8];
        let mut index = 0;
        while index < 8 {
            let raw = (msr >> (8 * index)) as u8;
            types[index as usize] = MemType::from_raw(raw);
            if types[index as usize].is_none() && raw != UC_MINUS {
                return Err(BadPat { index, raw });
            }
            index += 1;
        }
        Ok(Self(types))
    }

    /// Returns the lowest index that holds `mem_type`.
    #[must_use]
    pub fn index_of(&self, mem_type: MemType) -> Option<u8> {
        self.0.iter().position(|&held| held == Some(mem_type)).map(|index| index as u8)
    }

    /// Returns the memory type at `index`, or `None` for UC- and beyond the table.
    #[must_use]
    #[inline]
    pub fn get(&self, index: u8) -> Option<MemType> {
        self.0.get(usize::from(index)).copied().flatten()
    }
}
