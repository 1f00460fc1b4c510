//! Pairs of operations that no other scenario runs against each other: what they come to at the same time is
//! what they come to in turn, or is named as an exception. docs/PAIRS.md lists all pairs.

mod leaves;
mod observers;
mod regions;
mod sizes;
mod spaces;
mod tables;
