//! A guest without a hypervisor: vCPU threads run a memory workload on software MMUs, and each
//! resolves its own page faults through one [`PageTable`](slat::PageTable) that all of them share,
//! while managers take memory away under them.
//!
//! ```sh
//! cargo run --release --example guest                      # touches, churn, a real program
//! cargo run --release --example guest -- --workload shared # all vCPUs fault on the same pages
//! # The negative control: frames are used again without a shoot-down, and it is found out.
//! cargo run --release --example guest -- --workload churn --skip-flush
//! valgrind --tool=lackey --trace-mem=yes ls 2>&1 >/dev/null |
//!     cargo run --release --example guest -- --trace -
//! ```
//!
//! Read [`vcpu`] first, which enters the guest and handles its faults, and [`manager`], which takes
//! memory away; then [`machine`], which sets the table up and lets all of them go; [`audit`] says what
//! must hold afterwards.

#![cfg(not(any(loom, shuttle)))]

mod audit;
mod churn;
mod deeds;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[cfg_attr(not(test), expect(dead_code, reason = "no run of the example uses it yet"))]
mod kvm;
mod layout;
mod machine;
mod manager;
mod memory;
mod options;
mod outcome;
mod progress;
mod report;
mod stage;
mod trace;
mod vcpu;
mod workload;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use slat::{AnyFormat, PAGE_BYTES};

use crate::{
    audit::Audit,
    churn::Churn,
    layout::Layout,
    machine::{Machine, check_host},
    options::{Options, Pattern},
    progress::Progress,
    report::{Document, Report, Verdict},
    trace::Trace,
    workload::{Random, Replay, Shared, Touch, Workload},
};

/// The trace that comes with the example; `traces/README.md` says how it was recorded.
const TRUE: (&str, &[u8]) =
    ("examples/guest/traces/true.lackey", include_bytes!("traces/true.lackey"));

/// Exit statuses; 0 if all is well.
const FAILED: u8 = 1;
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    let workloads = match workloads(&options) {
        Ok(workloads) => workloads,
        Err(error) => return failed(&error, BAD_INPUT),
    };
    match run(&options, &workloads) {
        Ok(verdict) => ExitCode::from(status(verdict)),
        Err(error) => failed(&error, FAILED),
    }
}

const fn status(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Ok => 0,
        Verdict::Failed => FAILED,
    }
}

fn failed(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(status)
}

/// Returns the workloads that the options ask for.
fn workloads(options: &Options) -> anyhow::Result<Vec<Box<dyn Workload>>> {
    let format = options.table_format()?;
    options.check()?;
    let by_default = options.workload.is_none() && options.trace.is_none();
    let patterns = match options.workload {
        None if by_default => vec![Pattern::Touch, Pattern::Churn],
        chosen => Vec::from_iter(chosen),
    };
    let mut workloads: Vec<Box<dyn Workload>> = Vec::new();
    for chosen in patterns {
        workloads.push(pattern(options, chosen)?);
    }
    if let Some(path) = &options.trace {
        workloads.push(Box::new(load(path, format, options.vcpus)?));
    } else if by_default {
        let (name, text) = TRUE;
        workloads.push(Box::new(replay(name, text, format, options.vcpus)?));
    }
    Ok(workloads)
}

/// Makes a workload over plain guest memory.
fn pattern(options: &Options, pattern: Pattern) -> anyhow::Result<Box<dyn Workload>> {
    let Options { memory, seed, seconds: time, rounds, .. } = *options;
    check_host(memory / PAGE_BYTES, options.vcpus.into())?;
    let layout = || Layout::linear(memory);
    Ok(match pattern {
        Pattern::Touch => Box::new(Touch { layout: layout()?, seed }),
        Pattern::Random => Box::new(Random { layout: layout()?, seed, time }),
        Pattern::Shared => Box::new(Shared { layout: layout()? }),
        Pattern::Churn => Box::new(Churn::new(memory, seed, rounds, options.flushing())?),
    })
}

/// Reads the trace in a file, or that on standard input.
fn load(path: &Path, format: AnyFormat, vcpus: u16) -> anyhow::Result<Replay> {
    if path == Path::new("-") {
        return replay("standard input", io::stdin().lock(), format, vcpus);
    }
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    replay(&name, BufReader::new(file), format, vcpus)
}

fn replay(name: &str, text: impl BufRead, format: AnyFormat, vcpus: u16) -> anyhow::Result<Replay> {
    let trace = Trace::read(text, format).context(name.to_owned())?;
    check_host(trace.layout.len() as u64, vcpus.into()).context(name.to_owned())?;
    Ok(Replay { name: format!("trace {name}"), trace })
}

/// Runs one workload after the other, and prints what came of them.
fn run(options: &Options, workloads: &[Box<dyn Workload>]) -> anyhow::Result<Verdict> {
    let reports = workloads.iter().map(|workload| run_one(options, workload.as_ref()));
    let document = Document::new(reports.collect::<anyhow::Result<_>>()?);
    let text = if options.json { document.to_json()? } else { document.to_tables() };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough; the exit status still tells.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    Ok(document.verdict)
}

fn run_one(options: &Options, workload: &dyn Workload) -> anyhow::Result<Report> {
    let vcpus = usize::from(options.vcpus);
    let machine = Machine::new(options.table_format()?, workload, vcpus)?;
    let progress = Progress::new(workload.name(), workload.length(vcpus))?;
    let run = machine.run(workload, vcpus, &progress)?;
    progress.finish();
    let audit = Audit::of(&machine, workload, &run);
    Ok(Report::new(options, workload, &run, audit))
}
