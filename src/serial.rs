//! How the words of the library are serialized, with the feature `serde`.
//!
//! Addresses and frame numbers are strings, as they are printed: in hexadecimal with `0x`. As numbers they would
//! not survive a reader of JSON that keeps numbers as `f64`, of 53 bits. Numbers of pages, at most 2^52, would,
//! and are numbers. Sizes, rights and memory types are strings, as they are printed, flags and software bits
//! lists of their names.

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    attr::{Attr, LeafFlags, MemType, Prot, SoftBits},
    level::PageSize,
};

/// As they are printed.
macro_rules! as_text {
    ($($word:ty),+) => {$(
        impl Serialize for $word {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

as_text!(Gpa, HostPfn, PageSize, Prot, MemType);

/// As a list of names.
macro_rules! as_names {
    ($($set:ty),+) => {$(
        impl Serialize for $set {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.iter_names().map(|(name, _)| name))
            }
        }
    )+};
}

as_names!(LeafFlags, SoftBits);

impl Serialize for GpaRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut range = serializer.serialize_struct("GpaRange", 3)?;
        range.serialize_field("start", &self.start())?;
        range.serialize_field("last", &self.last())?;
        range.serialize_field("pages", &self.pages())?;
        range.end()
    }
}

impl Serialize for Attr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut attr = serializer.serialize_struct("Attr", 4)?;
        attr.serialize_field("prot", &self.prot())?;
        attr.serialize_field("mem_type", &self.mem_type())?;
        attr.serialize_field("flags", &self.flags())?;
        attr.serialize_field("soft", &self.soft())?;
        attr.end()
    }
}
