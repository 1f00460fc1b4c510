//! The tests can fail: breaks the source, one step or ordering at a time, in a scratch copy, and expects
//! the tests that are named for it to notice.
//!
//! The list is data, in `list/`; [`mutant`] says what a row holds, [`verdict`] what counts as killed.

mod attempt;
mod cargo;
mod check;
mod control;
mod edit;
mod killer;
mod list;
mod mutant;
mod options;
mod output;
mod report;
mod run;
mod sample;
mod scratch;
mod tree;
mod verdict;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::{
    check::Claims,
    list::List,
    options::{Mode, Options},
    tree::Tree,
};

fn main() -> ExitCode {
    match try_main(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn try_main(options: &Options) -> anyhow::Result<ExitCode> {
    let tree = Tree::of_the_workspace()?;
    let list = List::read(&tree.root().join("mutants/list")).context("the list is wrong")?;
    let chosen = options.choose(&list, tree.root())?;
    let mode = options.mode();
    if mode == Mode::List {
        report::print_rows(&chosen)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Cheap beside a single build: what is wrong with the list shows before anything is built.
    let faults = check::faults(&chosen, &Claims::of(&tree));
    if !faults.is_empty() {
        report::print_faults(&faults);
        return Ok(ExitCode::FAILURE);
    }
    if mode == Mode::Check {
        println!("{} mutants can be made, and their killers are there", chosen.len());
        return Ok(ExitCode::SUCCESS);
    }
    let controls = control::controls(&chosen);
    let wanted = if mode == Mode::Unbroken { controls.iter().collect() } else { chosen };
    let findings = run::run_all(&tree, &wanted, options.jobs.get())?;
    report::print_summary(&findings, list.mutants.len());
    let bad = findings.iter().any(|finding| finding.verdict.is_bad());
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
