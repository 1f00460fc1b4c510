//! Spaces: regions that come, change and go, faults, holds, and dirty tracking, through a software MMU that
//! reads what is there.
//!
//! Each test is made on a [`Rig`](rig::Rig), which checks in the end that every answer of a backing came back once,
//! and every frame.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]
#![expect(clippy::disallowed_types, reason = "no model runs these")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
#[path = "../common/mod.rs"]
mod common;
#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod rig;

mod amid;
mod backings;
mod changes;
mod contents;
mod cut_short;
mod discard;
mod faults;
mod holds;
mod misuse;
mod model;
mod prefault;
mod random;
mod regions;
mod tracking;
