//! Post-copy migration, in one process: a guest is resumed at once, on memory that is still somewhere else.
//!
//! The destination is a [`Space`](slat::Space) of one region, over [`Supplied`](slat::Supplied) memory of which
//! nothing is there. vCPUs, each a thread with a software MMU, run at once. A fault at a page that has not come
//! asks the source for it, over a socket, and waits; the source sends all others in the background, each once.
//!
//! ```sh
//! cargo run --release --example postcopy
//! cargo run --release --example postcopy -- --bandwidth 20000 --fault-order descending
//! # The negative controls: a page that arrives wrong, or never, is found out.
//! cargo run --release --example postcopy -- --corrupt 17
//! cargo run --release --example postcopy -- --drop 17
//! ```
//!
//! Read [`vcpu`] first, which runs the guest and handles its faults, and [`destination`], which serves them; then
//! [`source`], and [`wire`] for what goes between the two; [`migration`] sets them up; [`audit`] says what must hold
//! afterwards.

#![cfg(not(any(loom, shuttle)))]

mod audit;
mod content;
mod destination;
mod memory;
mod migration;
mod options;
mod plan;
mod progress;
mod report;
mod source;
mod vcpu;
mod wire;

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;

use crate::{
    audit::Audit,
    migration::Migration,
    options::Options,
    progress::Progress,
    report::{Report, Verdict},
};

/// Exit statuses; 0 if all is well.
const FAILED: u8 = 1;
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    let output = match prepare(&options) {
        Ok(output) => output,
        Err(error) => return failed(&error, BAD_INPUT),
    };
    match run(&options, output) {
        Ok(Verdict::Ok) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(FAILED),
        Err(error) => failed(&error, FAILED),
    }
}

fn failed(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(status)
}

/// Where the results go.
enum Output {
    Tables,
    /// Tables, and JSON to a file, which was opened before anything runs, lest that be in vain.
    File(File),
    /// JSON instead of tables.
    Json,
}

/// Checks the options.
fn prepare(options: &Options) -> anyhow::Result<Output> {
    options.check(available_memory())?;
    Ok(match options.json.as_deref() {
        None => Output::Tables,
        Some(path) if path == Path::new("-") => Output::Json,
        Some(path) => {
            let file = File::create(path);
            let file = file.with_context(|| format!("--json: cannot write {}", path.display()))?;
            Output::File(file)
        }
    })
}

fn run(options: &Options, output: Output) -> anyhow::Result<Verdict> {
    let migration = Migration::new(options.pages(), options.seed)?;
    let progress = if options.quiet { Progress::hidden() } else { Progress::new(options.pages())? };
    let run = migration.run(options, &progress)?;
    progress.finish();
    let audit = Audit::of(&migration, &run);
    let report = Report::new(options, &run, audit);
    eprint!("{}", report.complaints());
    let tables = if options.quiet { String::new() } else { report.to_tables() };
    match output {
        Output::Tables => print(&tables)?,
        Output::Json => print(&report.to_json()?)?,
        Output::File(mut file) => {
            file.write_all(report.to_json()?.as_bytes()).context("cannot write the JSON file")?;
            print(&tables)?;
        }
    }
    Ok(report.verdict())
}

fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough; the exit status still tells.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Returns how many bytes the host can spare, if it says so.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}
