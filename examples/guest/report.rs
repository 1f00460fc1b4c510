//! What is printed in the end: tables to read, or one JSON document.

use std::{iter, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::{
    audit::{Audit, Churned},
    machine::Run,
    options::Options,
    outcome::Tally,
    workload::Workload,
};

/// One workload's results.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    workload: String,
    format: &'static str,
    levels: u8,
    /// Pages that the workload may touch.
    guest_pages: u64,
    seconds: f64,
    vcpus: Vec<Line>,
    total: Line,
    #[serde(flatten)]
    audit: Audit,
    verdict: Verdict,
}

/// What one vCPU did, or all of them.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    tally: Tally,
    faults_per_second: f64,
}

/// A column of the table of vCPUs: its name, and what it shows.
type Column = (&'static str, fn(&Line) -> String);

/// Whether all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    Failed,
}

/// All results, as `--json` prints them.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    runs: Vec<Report>,
    pub(crate) verdict: Verdict,
}

impl Document {
    pub(crate) fn new(runs: Vec<Report>) -> Self {
        let failed = runs.iter().any(|run| run.verdict == Verdict::Failed);
        Self { runs, verdict: Verdict::of(!failed) }
    }

    /// Returns the results as JSON.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Returns the results as tables.
    pub(crate) fn to_tables(&self) -> String {
        self.runs.iter().map(Report::to_tables).collect::<Vec<_>>().join("\n")
    }
}

impl Verdict {
    fn of(clean: bool) -> Self {
        if clean { Self::Ok } else { Self::Failed }
    }
}

impl Line {
    fn new(tally: Tally, elapsed: Duration) -> Self {
        // A vCPU may have had nothing to do; JSON has no infinity.
        let seconds = elapsed.as_secs_f64().max(1e-9);
        Self { tally, faults_per_second: tally.faults as f64 / seconds }
    }
}

impl Report {
    pub(crate) fn new(options: &Options, workload: &dyn Workload, run: &Run, audit: Audit) -> Self {
        let elapsed = run.vcpus.iter().map(|vcpu| vcpu.elapsed).max().unwrap_or_default();
        Self {
            workload: workload.name().to_owned(),
            format: options.format.as_str(),
            levels: options.levels,
            guest_pages: workload.layout().len() as u64,
            seconds: elapsed.as_secs_f64(),
            vcpus: run.vcpus.iter().map(|vcpu| Line::new(vcpu.tally, vcpu.elapsed)).collect(),
            total: Line::new(run.total(), elapsed),
            verdict: Verdict::of(audit.is_clean()),
            audit,
        }
    }

    fn to_tables(&self) -> String {
        let Self { workload, format, levels, guest_pages, seconds, .. } = self;
        let head = format!(
            "{workload}: {} vCPUs, {guest_pages} pages, {levels}-level {format}, {seconds:.3} s",
            self.vcpus.len(),
        );
        let churn = self.audit.churn.as_ref().map(churn_table);
        let tables = [Some(self.vcpu_table()), Some(self.audit_table()), churn];
        let tables = tables.iter().flatten().map(Table::to_string);
        let parts = iter::once(head).chain(tables).chain([self.verdict_text() + "\n"]);
        parts.collect::<Vec<_>>().join("\n")
    }

    fn vcpu_table(&self) -> Table {
        let columns: [Column; 7] = [
            ("accesses", |line| line.tally.accesses.to_string()),
            ("entries", |line| line.tally.entries.to_string()),
            ("faults", |line| line.tally.faults.to_string()),
            ("faults/s", |line| format!("{:.0}", line.faults_per_second)),
            ("lost to another vCPU", |line| line.tally.lost.to_string()),
            ("no memory", |line| (line.tally.away + line.tally.late).to_string()),
            ("stale accesses", |line| line.tally.stale.to_string()),
        ];
        // Where memory stays, nothing of the last two can happen; if it does, the verdict says so.
        let shown = if self.audit.churn.is_some() { &columns[..] } else { &columns[..5] };
        let mut table = plain(iter::once("vCPU").chain(shown.iter().map(|&(name, _)| name)));
        let lines = self.vcpus.iter().enumerate().map(|(number, line)| (number.to_string(), line));
        for (name, line) in lines.chain([("all".to_owned(), &self.total)]) {
            table.add_row(iter::once(name).chain(shown.iter().map(|(_, show)| show(line))));
        }
        table
    }

    fn audit_table(&self) -> Table {
        let audit = &self.audit;
        let mut table = plain(["pages", "in the entries", "by the workload"]);
        for (what, pages) in
            [("resident", audit.resident), ("accessed", audit.accessed), ("dirty", audit.dirty)]
        {
            table.add_row([what.to_owned(), pages.entries.to_string(), pages.workload.to_string()]);
        }
        table
    }

    fn verdict_text(&self) -> String {
        let Audit { table_frames, wrong, unlisted, .. } = &self.audit;
        let mut text = format!("{table_frames} frames in tables\n");
        match self.verdict {
            Verdict::Ok => text += "verdict: ok",
            Verdict::Failed => {
                text += &format!("verdict: FAILED\n  {}", wrong.join("\n  "));
                if *unlisted > 0 {
                    text += &format!("\n  and {unlisted} more");
                }
            }
        }
        text
    }
}

/// Returns what became of memory that came and went, as a table.
fn churn_table(churned: &Churned) -> Table {
    let mut table = plain(["memory taken away", "times"]);
    for (what, number) in [
        ("regions", churned.rounds),
        ("pages unmapped", churned.unmapped),
        ("shoot-downs", churned.shootdowns),
        ("kicks", churned.kicks),
        ("vacate: still mapped", churned.still_mapped),
        ("vacate: busy", churned.busy),
        ("populate: tables still waited", churned.short),
        ("stale accesses", churned.stale),
        ("data frames handed out", churned.frames_handed_out),
        ("data frames given back", churned.frames_given_back),
        ("tables left in the end", churned.tables_left),
    ] {
        table.add_row([what.to_owned(), number.to_string()]);
    }
    table
}

/// Makes an empty table with a name in its first column and numbers in the others.
fn plain<'h>(header: impl IntoIterator<Item = &'h str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests;
