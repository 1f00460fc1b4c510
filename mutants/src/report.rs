//! What is printed.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::{Duration, Instant},
};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle, style::TemplateError};

use crate::{
    check::Fault,
    killer::Killer,
    mutant::Mutant,
    run::Finding,
    verdict::{Blind, Verdict},
};

/// How far it is: a line for each mutant, and on a terminal a bar below.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    pub(crate) fn new(mutants: usize) -> Result<Self, TemplateError> {
        let style = ProgressStyle::with_template("{pos}/{len} mutants {wide_bar} {eta}")?;
        let bar = ProgressBar::new(mutants as u64).with_style(style);
        bar.enable_steady_tick(Duration::from_secs(1));
        Ok(Self { bar, began: Instant::now() })
    }

    pub(crate) fn show(&self, finding: &Finding<'_>) {
        self.bar.inc(1);
        // Not by the bar, which prints nothing where there is no terminal.
        self.bar.suspend(|| print_finding(finding));
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
        println!("took {} s", self.began.elapsed().as_secs());
    }
}

fn print_finding(finding: &Finding<'_>) {
    let Finding { mutant, verdict, building, running } = finding;
    let word = match verdict {
        Verdict::Killed => "killed",
        Verdict::Survived(_) => "SURVIVED",
        Verdict::Argued(_) => "survives",
        Verdict::Wrong(_) => "WRONG",
    };
    let (building, running) = (building.as_secs_f64(), running.as_secs_f64());
    println!("{word:<8} {} (built {building:.1} s, ran {running:.1} s)", mutant.name);
    match verdict {
        Verdict::Killed => {
            let killers = mutant.killers.iter().map(Killer::text);
            killers.for_each(|killer| println!("    by {killer}"));
        }
        _ => print_verdict(verdict),
    }
}

/// Prints what there is to say of one that was not killed.
fn print_verdict(verdict: &Verdict) {
    match verdict {
        Verdict::Killed => {}
        Verdict::Survived(blind) => {
            for unnoticed in blind {
                match unnoticed.why {
                    Blind::Passed => println!("    not noticed by {}", unnoticed.killer),
                    Blind::TimedOut => println!("    {} did not end in time", unnoticed.killer),
                }
            }
        }
        Verdict::Argued(why) => print_indented(why),
        Verdict::Wrong(mistake) => print_indented(&mistake.to_string()),
    }
}

fn print_indented(text: &str) {
    text.lines().for_each(|line| println!("    {line}"));
}

/// Prints what the list holds. Who reads it may have seen enough amid it, for which `println` would panic.
pub(crate) fn print_rows(mutants: &[&Mutant]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for mutant in mutants {
        writeln!(out, "{:<17} {}", mutant.class.name(), mutant.name)?;
        for killer in &mutant.killers {
            writeln!(out, "{:<17}     by {}", "", killer.text())?;
        }
        if let Some(why) = &mutant.survives {
            writeln!(out, "{:<17}     survives: {why}", "")?;
        }
    }
    writeln!(out, "{} mutants", mutants.len())
}

pub(crate) fn print_faults(faults: &[Fault]) {
    for fault in faults {
        println!("WRONG    {}\n    {}", fault.mutant, fault.wrong);
    }
    println!("{} mistakes in the list", faults.len());
}

/// Prints the closing lines.
pub(crate) fn print_summary(findings: &[Finding<'_>], listed: usize) {
    let killed = findings.iter().filter(|found| found.verdict == Verdict::Killed).count();
    println!("killed {killed} of {}; there are {listed}", findings.len());
    for finding in findings.iter().filter(|found| found.verdict != Verdict::Killed) {
        println!("not killed: {}", finding.mutant.name);
        print_verdict(&finding.verdict);
    }
    println!("{}", by_class(findings));
}

/// Returns how many of each class were killed, in a table.
fn by_class(findings: &[Finding<'_>]) -> Table {
    let mut rows = BTreeMap::<_, [usize; 4]>::new();
    for finding in findings {
        let row = rows.entry(finding.mutant.class).or_default();
        row[0] += 1;
        match finding.verdict {
            Verdict::Killed => row[1] += 1,
            Verdict::Argued(_) => row[2] += 1,
            Verdict::Survived(_) | Verdict::Wrong(_) => row[3] += 1,
        }
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["class", "mutants", "killed", "argued away", "bad"]);
    for (class, row) in rows {
        let numbers = row.map(|number| number.to_string());
        table.add_row([class.name()].into_iter().chain(numbers));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
