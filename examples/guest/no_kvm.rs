//! What stands for KVM on machines that have none: types without values.

use std::{io, sync::Arc};

use slat::{AnyFormat, Arena, GpaRange, HostPfn, PageSize, PhysWidth, SignalKicks, Space};

use crate::{
    machine::Machine, mapping::Mapping, outcome::Outcome, stage::Stage, vcpu::Vcpu, workload::Share,
};

/// The first frames of the tables, and of the guest's memory.
pub(crate) const TABLES: HostPfn = HostPfn::new(1 << 20);
pub(crate) const DATA: HostPfn = HostPfn::new(1 << 24);

#[derive(Debug, thiserror::Error)]
#[error("the example's guest for KVM is for x86-64 Linux")]
pub(crate) struct Unavailable;

#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Crash {}

pub(crate) enum Host {}

impl Host {
    pub(crate) fn open() -> Result<Self, Unavailable> {
        Err(Unavailable)
    }

    pub(crate) fn phys_width(&self) -> PhysWidth {
        match *self {}
    }

    pub(crate) fn check_leaves(&self, _size: PageSize) -> Result<(), Unavailable> {
        match *self {}
    }

    pub(crate) fn region(&self, _vcpus: usize) -> GpaRange {
        match *self {}
    }

    pub(crate) fn has_room(&self, _region: GpaRange, _vcpus: usize) -> bool {
        match *self {}
    }
}

pub(crate) enum Vm {}

impl Vm {
    pub(crate) fn new(
        host: &Host,
        _space: &Space<AnyFormat, Arena>,
        _data: Arc<Mapping>,
        _vcpus: usize,
    ) -> Result<Self, VmError> {
        match *host {}
    }

    pub(crate) fn region(&self) -> GpaRange {
        match *self {}
    }

    pub(crate) fn zaps(&self) -> u64 {
        match *self {}
    }
}

pub(crate) fn run<'m>(
    vm: &'m Vm,
    _number: usize,
    _machine: &'m Machine<'m>,
    _stage: &'m Stage,
    _vcpu: Vcpu<'m>,
    _share: &mut dyn Share,
) -> Result<Outcome, VmError> {
    match *vm {}
}

pub(crate) fn signal_kicks() -> io::Result<SignalKicks> {
    unreachable!("there is no vCPU that would be kicked")
}
