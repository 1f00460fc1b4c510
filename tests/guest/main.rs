//! The example `guest`, as a user runs it: every workload in every format and on both backends, and what
//! it says of bad options and bad traces.

#![cfg(all(feature = "std", not(any(loom, shuttle))))]

#[path = "../common/built.rs"]
mod built;
mod example;
mod input;
mod kvm;
mod soft;
