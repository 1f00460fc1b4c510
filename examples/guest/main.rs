//! A guest whose page tables are ours: vCPU threads run a memory workload, on KVM or on software MMUs, and
//! each resolves its own page faults through one [`Space`](slat::Space) that all of them share, while managers
//! take memory away under them, or move it, or map it by leaves of another size, or a copier migrates it.
//!
//! ```sh
//! cargo run --release --example guest                      # a tour of all there is
//! cargo run --release --example guest -- --workload shared # all vCPUs fault on the same pages
//! # The negative control: vCPUs do not invalidate what they are told to, and it is found out.
//! cargo run --release --example guest -- --workload migrate --skip-flush
//! # Large leaves, which are split while memory is copied, and made again.
//! cargo run --release --example guest -- --workload precopy --page-size 2M --svg dirty.svg
//! valgrind --tool=lackey --trace-mem=yes ls 2>&1 >/dev/null |
//!     cargo run --release --example guest -- --trace -
//! ```
//!
//! Read [`vcpu`] first, which runs the guest and handles its faults, [`backing`], which is what its memory is made of,
//! [`manager`], which changes memory, and [`precopy`], which copies it; then [`machine`], which sets the space up and
//! lets all of them go; [`kvm`] for how a guest comes to walk our tables; [`audit`] says what must hold afterwards.

#![cfg(not(any(loom, shuttle)))]
#![cfg_attr(
    not(all(target_os = "linux", target_arch = "x86_64")),
    expect(dead_code, reason = "some of it is for vCPUs that KVM runs")
)]

mod audit;
mod backing;
mod batch;
mod compare;
mod deeds;
mod frame;
mod heat;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kvm;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "no_kvm.rs"]
mod kvm;
mod layout;
mod machine;
mod manager;
mod mapping;
mod memory;
mod mover;
mod options;
mod outcome;
mod phase;
mod precopy;
mod processor;
mod progress;
mod report;
mod resizer;
mod soft;
mod stage;
mod trace;
mod vcpu;
mod visits;
mod workload;
mod writers;

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use slat::{AnyFormat, PAGE_BYTES};

use crate::{
    audit::Audit,
    heat::Shading,
    kvm::Host,
    layout::Layout,
    machine::{Machine, check_host},
    manager::Change,
    options::{Backend, Options, Pattern},
    progress::Progress,
    report::{Document, Report, Verdict},
    trace::Trace,
    visits::Visits,
    workload::{Random, Replay, Shared, Touch, Workload},
    writers::Writers,
};

/// The trace that comes with the example; `traces/README.md` says how it was recorded.
const TRUE: (&str, &[u8]) =
    ("examples/guest/traces/true.lackey", include_bytes!("traces/true.lackey"));

/// Exit statuses; 0 if all is well.
const FAILED: u8 = 1;
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    let plan = match Plan::new(options) {
        Ok(plan) => plan,
        Err(NoPlan::Unavailable(error)) => return failed(&error, FAILED),
        Err(NoPlan::BadInput(error)) => return failed(&error, BAD_INPUT),
    };
    match plan.run() {
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

/// What is to be run, and on what.
struct Plan {
    options: Options,
    format: AnyFormat,
    /// Each workload runs on all of them, one after the other: KVM, or `None` for software MMUs.
    processors: Vec<Option<Host>>,
    workloads: Vec<Box<dyn Workload>>,
    /// Where the picture goes: opened before anything runs, lest that be in vain.
    picture: Option<(PathBuf, File)>,
}

/// Why nothing is run.
enum NoPlan {
    /// This machine has no KVM that can do it.
    Unavailable(anyhow::Error),
    BadInput(anyhow::Error),
}

impl From<anyhow::Error> for NoPlan {
    fn from(error: anyhow::Error) -> Self {
        Self::BadInput(error)
    }
}

impl Plan {
    fn new(options: Options) -> Result<Self, NoPlan> {
        options.check()?;
        let processors = processors(&options)?;
        let host = processors.iter().flatten().next();
        let format = options.table_format(host.map(Host::phys_width))?;
        let workloads = workloads(&options, format)?;
        if let Some(host) = host {
            let size = options.page_size.get();
            host.check_leaves(size).map_err(|lacking| NoPlan::BadInput(lacking.into()))?;
        }
        for (host, workload) in
            host.iter().flat_map(|host| workloads.iter().map(move |w| (host, w)))
        {
            for region in workload.layout().regions() {
                if !host.has_room(*region, options.vcpus.into()) {
                    let name = workload.name();
                    let error = anyhow::anyhow!(
                        "{name}: a guest on KVM cannot have {region}: try --backend soft"
                    );
                    return Err(NoPlan::BadInput(error));
                }
            }
        }
        let picture = options.svg.clone().map(|path| {
            let file = File::create(&path);
            let file = file.with_context(|| format!("--svg: cannot write {}", path.display()))?;
            anyhow::Ok((path, file))
        });
        let picture = picture.transpose()?;
        Ok(Self { options, format, processors, workloads, picture })
    }

    /// Runs all of it, and prints what came of that.
    fn run(&self) -> anyhow::Result<Verdict> {
        let mut reports = Vec::new();
        for workload in &self.workloads {
            for host in &self.processors {
                reports.push(self.run_one(workload.as_ref(), host.as_ref())?);
            }
        }
        let document = Document::new(reports);
        if let Some((path, mut file)) = self.picture.as_ref().map(|(path, file)| (path, file)) {
            let written = file.write_all(document.to_svg().as_bytes());
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
        let json = self.options.json;
        let text = if json { document.to_json()? } else { document.to_tables(shading()) };
        match io::stdout().write_all(text.as_bytes()) {
            // Whoever reads has seen enough; the exit status still tells.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            written => written.context("cannot write to standard output")?,
        }
        Ok(document.verdict)
    }

    fn run_one(&self, workload: &dyn Workload, host: Option<&Host>) -> anyhow::Result<Report> {
        let vcpus = usize::from(self.options.vcpus);
        let machine = Machine::new(self.format, workload, vcpus, host)?;
        let progress = Progress::new(workload.name(), workload.length(vcpus))?;
        let run = machine.run(workload, vcpus, &progress)?;
        progress.finish();
        let audit = Audit::of(&machine, workload, &run);
        Ok(Report::new(&machine, workload, &run, audit))
    }
}

/// Returns how standard output is to be shaded.
fn shading() -> Shading {
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !plain { Shading::Colours } else { Shading::Characters }
}

/// Returns what the options want the guest to run on.
fn processors(options: &Options) -> Result<Vec<Option<Host>>, NoPlan> {
    let open = || Host::open().map_err(|error| NoPlan::Unavailable(error.into()));
    Ok(match options.backend {
        Some(Backend::Soft) => vec![None],
        Some(Backend::Kvm) => vec![Some(open()?)],
        Some(Backend::Both) => vec![Some(open()?), None],
        // Nobody asked: KVM is for those tables that its guests can walk.
        None if !options.suits_kvm() => vec![None],
        None => match Host::open() {
            Ok(host) if let Err(lacking) = host.check_leaves(options.page_size.get()) => {
                eprintln!("note: {lacking}");
                eprintln!("note: so the guest runs on software MMUs");
                vec![None]
            }
            Ok(host) if options.is_tour() => vec![Some(host), None],
            Ok(host) => vec![Some(host)],
            Err(unavailable) => {
                eprintln!("note: {unavailable}");
                eprintln!("note: so the guest runs on software MMUs");
                vec![None]
            }
        },
    })
}

/// Returns the workloads that the options ask for.
fn workloads(options: &Options, format: AnyFormat) -> anyhow::Result<Vec<Box<dyn Workload>>> {
    options.check_memory(format)?;
    let patterns = match options.workload {
        None if options.is_tour() => {
            vec![Pattern::Touch, Pattern::Churn, Pattern::Migrate, Pattern::Precopy]
        }
        chosen => Vec::from_iter(chosen),
    };
    let mut workloads: Vec<Box<dyn Workload>> = Vec::new();
    for chosen in patterns {
        workloads.push(pattern(options, chosen)?);
    }
    if let Some(path) = &options.trace {
        workloads.push(Box::new(load(path, format, options)?));
    } else if options.is_tour() {
        let (name, text) = TRUE;
        workloads.push(Box::new(replay(name, text, format, options)?));
    }
    Ok(workloads)
}

/// Makes a workload over plain guest memory.
fn pattern(options: &Options, pattern: Pattern) -> anyhow::Result<Box<dyn Workload>> {
    let Options { seed, seconds: time, .. } = *options;
    let (memory, size) = (options.whole_memory(), options.page_size.get());
    // A copy takes as much again.
    let copies = if matches!(pattern, Pattern::Precopy | Pattern::Resize) { 2 } else { 1 };
    let pages = (memory / PAGE_BYTES).saturating_mul(copies);
    check_host(pages, size, options.vcpus.into())?;
    let layout = || Layout::linear(memory)?.with_granule(size);
    let visits = |change| Visits::new(memory, size, seed, options.turnover(change));
    Ok(match pattern {
        Pattern::Touch => Box::new(Touch { layout: layout()?, seed }),
        Pattern::Random => Box::new(Random { layout: layout()?, seed, time }),
        Pattern::Shared => Box::new(Shared { layout: layout()? }),
        Pattern::Churn => Box::new(visits(Change::Churn)?),
        Pattern::Migrate => Box::new(visits(Change::Migrate)?),
        Pattern::Resize => Box::new(visits(Change::Resize)?),
        Pattern::Precopy => Box::new(Writers::new(memory, size, seed, options.precopy())?),
    })
}

/// Reads the trace in a file, or that on standard input.
fn load(path: &Path, format: AnyFormat, options: &Options) -> anyhow::Result<Replay> {
    if path == Path::new("-") {
        return replay("standard input", io::stdin().lock(), format, options);
    }
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    replay(&name, BufReader::new(file), format, options)
}

fn replay(
    name: &str,
    text: impl BufRead,
    format: AnyFormat,
    options: &Options,
) -> anyhow::Result<Replay> {
    let trace = Trace::read(text, format).context(name.to_owned())?;
    let size = options.page_size.get();
    let trace = trace.with_granule(size).context(name.to_owned())?;
    let pages = trace.layout.mapped() as u64;
    check_host(pages, size, options.vcpus.into()).context(name.to_owned())?;
    Ok(Replay { name: format!("trace {name}"), trace })
}

#[cfg(test)]
mod tests;
