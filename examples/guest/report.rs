//! What is printed in the end: tables to read, or one JSON document.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::{audit::Audit, machine::Outcome, options::Options, vcpu::Tally, workload::Workload};

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
    accesses: u64,
    faults: u64,
    faults_per_second: f64,
    /// Faults for which another vCPU was first.
    lost: u64,
}

/// Whether all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    Wrong,
}

/// All results, as `--json` prints them.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    runs: Vec<Report>,
    pub(crate) verdict: Verdict,
}

impl Document {
    pub(crate) fn new(runs: Vec<Report>) -> Self {
        let wrong = runs.iter().any(|run| run.verdict == Verdict::Wrong);
        Self { runs, verdict: Verdict::of(!wrong) }
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
        if clean { Self::Ok } else { Self::Wrong }
    }
}

impl Line {
    fn new(tally: Tally, elapsed: Duration) -> Self {
        let Tally { accesses, faults, lost, .. } = tally;
        // A vCPU may have had nothing to do; JSON has no infinity.
        let seconds = elapsed.as_secs_f64().max(1e-9);
        Self { accesses, faults, faults_per_second: faults as f64 / seconds, lost }
    }
}

impl Report {
    pub(crate) fn new(
        options: &Options,
        workload: &dyn Workload,
        outcomes: &[Outcome],
        audit: Audit,
    ) -> Self {
        let elapsed = outcomes.iter().map(|vcpu| vcpu.elapsed).max().unwrap_or_default();
        let total = outcomes.iter().map(|vcpu| vcpu.tally).fold(Tally::default(), Tally::plus);
        Self {
            workload: workload.name().to_owned(),
            format: options.format.as_str(),
            levels: options.levels,
            guest_pages: workload.layout().len() as u64,
            seconds: elapsed.as_secs_f64(),
            vcpus: outcomes.iter().map(|vcpu| Line::new(vcpu.tally, vcpu.elapsed)).collect(),
            total: Line::new(total, elapsed),
            verdict: Verdict::of(audit.is_clean()),
            audit,
        }
    }

    fn to_tables(&self) -> String {
        let Self { workload, format, levels, guest_pages, seconds, .. } = self;
        format!(
            "{workload}: {} vCPUs, {guest_pages} pages, {levels}-level {format}, {seconds:.3} s\n\
             {}\n{}\n{}\n",
            self.vcpus.len(),
            self.vcpu_table(),
            self.audit_table(),
            self.verdict_text()
        )
    }

    fn vcpu_table(&self) -> Table {
        let mut table = plain(&["vCPU", "accesses", "faults", "faults/s", "lost to another vCPU"]);
        let lines = self.vcpus.iter().enumerate().map(|(number, line)| (number.to_string(), line));
        for (name, line) in lines.chain([("all".to_owned(), &self.total)]) {
            let rate = format!("{:.0}", line.faults_per_second);
            let (accesses, faults, lost) = (line.accesses, line.faults, line.lost);
            table.add_row([name, accesses.to_string(), faults.to_string(), rate, lost.to_string()]);
        }
        table
    }

    fn audit_table(&self) -> Table {
        let audit = &self.audit;
        let mut table = plain(&["pages", "in the entries", "by the workload"]);
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
            Verdict::Wrong => {
                text += &format!("verdict: WRONG\n  {}", wrong.join("\n  "));
                if *unlisted > 0 {
                    text += &format!("\n  and {unlisted} more");
                }
            }
        }
        text
    }
}

/// Makes an empty table with a name in its first column and numbers in the others.
fn plain(header: &[&str]) -> Table {
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
