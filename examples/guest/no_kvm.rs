//! What stands for [`kvm`](self) where there is none: none of it can be made.

use std::{convert::Infallible, io, sync::Arc};

use slat::{
    AnyFormat, Arena, Due, Generation, GpaRange, HostPfn, ObserverId, PageTable, PhysWidth,
    SignalKicks, mmu::Fault,
};
