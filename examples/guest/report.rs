//! What is printed in the end: tables to read, or one JSON document.

use std::{iter, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use slat::Format;

use crate::{
    audit::{Audit, Churned, Forgotten, LevelBits, Migrated, Precopied, Resizing},
    compare::Comparison,
    heat::{Shading, svg},
    machine::{Machine, Run},
    outcome::Tally,
    workload::Workload,
};

/// One workload's results.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) workload: String,
    pub(crate) backend: &'static str,
    format: &'static str,
    table_levels: u32,
    /// The leaves by which its memory is mapped, in bytes.
    page_size: u64,
    /// Pages of 4 KiB that the workload may touch.
    guest_pages: u64,
    seconds: f64,
    vcpus: Vec<Line>,
    pub(crate) total: Line,
    /// Whether all that is counted follows from the workload alone.
    #[serde(skip)]
    pub(crate) is_determined: bool,
    #[serde(flatten)]
    pub(crate) audit: Audit,
    verdict: Verdict,
}

/// What one vCPU did, or all of them.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    pub(crate) tally: Tally,
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
    comparisons: Vec<Comparison>,
    pub(crate) verdict: Verdict,
}

impl Document {
    pub(crate) fn new(runs: Vec<Report>) -> Self {
        let comparisons = Comparison::of(&runs);
        let clean = runs.iter().all(|run| run.verdict == Verdict::Ok);
        let agree = comparisons.iter().all(Comparison::agrees);
        Self { runs, comparisons, verdict: Verdict::of(clean && agree) }
    }

    /// Returns the results as JSON.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Returns the results as tables.
    pub(crate) fn to_tables(&self, shading: Shading) -> String {
        let runs = self.runs.iter().map(|run| run.to_tables(shading));
        let comparisons = self.comparisons.iter().map(Comparison::to_text);
        runs.chain(comparisons).collect::<Vec<_>>().join("\n")
    }

    /// Returns a picture of each precopy as SVG.
    pub(crate) fn to_svg(&self) -> String {
        svg::draw(&self.runs.iter().filter_map(Report::chart).collect::<Vec<_>>())
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
    pub(crate) fn new(
        machine: &Machine<'_>,
        workload: &dyn Workload,
        run: &Run,
        audit: Audit,
    ) -> Self {
        let elapsed = run.vcpus.iter().map(|vcpu| vcpu.elapsed).max().unwrap_or_default();
        Self {
            workload: workload.name().to_owned(),
            backend: if machine.vm.is_some() { "kvm" } else { "soft" },
            format: machine.table().format().name(),
            table_levels: machine.table().format().levels().count(),
            page_size: workload.layout().granule().bytes(),
            guest_pages: workload.layout().len() as u64,
            seconds: elapsed.as_secs_f64(),
            vcpus: run.vcpus.iter().map(|vcpu| Line::new(vcpu.tally, vcpu.elapsed)).collect(),
            total: Line::new(run.total(), elapsed),
            is_determined: machine.change.is_none() && workload.touches_all(),
            verdict: Verdict::of(audit.is_clean()),
            audit,
        }
    }

    /// Returns what the picture of a precopy shows.
    fn chart(&self) -> Option<svg::Chart<'_>> {
        let precopy = self.audit.precopy.as_ref()?;
        let rows = (1..).zip(&precopy.rounds).map(|(number, round)| {
            (format!("{number}: {} dirty", round.dirty_pages), &round.density)
        });
        Some(svg::Chart { title: self.head(), rows: rows.collect() })
    }

    /// Returns what was run, in a line.
    fn head(&self) -> String {
        let Self { workload, backend, format, table_levels, guest_pages, seconds, .. } = self;
        let leaves = match self.page_size >> 10 {
            4 => "",
            2048 => " in leaves of 2 MiB",
            _ => " in leaves of 1 GiB",
        };
        format!(
            "{workload} on {backend}: {} vCPUs, {guest_pages} pages{leaves}, {table_levels}-level \
             {format}, {seconds:.3} s",
            self.vcpus.len(),
        )
    }

    fn to_tables(&self, shading: Shading) -> String {
        let head = self.head();
        let churn = self.audit.churn.as_ref().map(churn_table);
        let migrate = self.audit.migrate.as_ref().map(migrate_table);
        let precopy = self.audit.precopy.as_ref().map(precopy_table);
        let resize = self.audit.resize.as_ref().map(resize_table);
        let always = [Some(self.vcpu_table()), Some(self.audit_table())];
        let tables = always.iter().chain([&churn, &migrate, &resize, &precopy]).flatten();
        let tables = tables.map(Table::to_string);
        let picture = self.audit.precopy.as_ref().map(|precopy| picture(precopy, shading));
        let parts = iter::once(head).chain(tables).chain(picture);
        let parts = parts.chain([self.verdict_text() + "\n"]);
        parts.collect::<Vec<_>>().join("\n")
    }

    fn vcpu_table(&self) -> Table {
        let columns: [Column; 8] = [
            ("accesses", |line| line.tally.accesses.to_string()),
            ("entries", |line| line.tally.entries.to_string()),
            ("faults", |line| line.tally.faults.to_string()),
            ("faults/s", |line| format!("{:.0}", line.faults_per_second)),
            ("lost to another vCPU", |line| line.tally.lost.to_string()),
            ("just moving", |line| line.tally.moving.to_string()),
            ("no memory", |line| line.tally.away.to_string()),
            ("stale accesses", |line| line.tally.stale.to_string()),
        ];
        // Where memory stays, nothing of the last three can happen; if it does, the verdict says so.
        let changes = self.audit.churn.is_some() || self.audit.migrate.is_some();
        let shown = if changes { &columns[..] } else { &columns[..5] };
        let mut table = plain(iter::once("vCPU").chain(shown.iter().map(|&(name, _)| name)));
        let lines = self.vcpus.iter().enumerate().map(|(number, line)| (number.to_string(), line));
        for (name, line) in lines.chain([("all".to_owned(), &self.total)]) {
            table.add_row(iter::once(name).chain(shown.iter().map(|(_, show)| show(line))));
        }
        table
    }

    fn audit_table(&self) -> Table {
        let audit = &self.audit;
        let mut table = plain(["pages", "in entries and frames", "by the workload"]);
        for (what, pages) in
            [("resident", audit.resident), ("accessed", audit.accessed), ("dirty", audit.dirty)]
        {
            table.add_row([what.to_owned(), pages.entries.to_string(), pages.workload.to_string()]);
        }
        let sums = audit.sums;
        let [there, written] = [sums.entries, sums.workload].map(|sum| sum.to_string());
        table.add_row(["sum of all words".to_owned(), there, written]);
        table
    }

    fn verdict_text(&self) -> String {
        let Audit { table_frames, wrong, unlisted, levels, kvm, .. } = &self.audit;
        let mut text = format!("{table_frames} frames in tables; ");
        for (at, bits) in levels.iter().enumerate() {
            let LevelBits { level, entries, accessed, .. } = bits;
            let comma = if at == 0 { "" } else { ", " };
            text += &format!("{comma}L{level}: {accessed} of {entries} entries accessed");
        }
        text += "\n";
        if let Some(Forgotten { zaps }) = kvm {
            text += &format!("KVM was made to forget all that it knew {zaps} times\n");
        }
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
        ("kicks", churned.kicks),
        ("stale accesses", churned.stale),
        ("data frames handed out", churned.frames_handed_out),
        ("data frames given back", churned.frames_given_back),
        ("tables left in the end", churned.tables_left),
    ] {
        table.add_row([what.to_owned(), number.to_string()]);
    }
    table
}

/// Returns what became of memory that moved, as a table.
fn migrate_table(migrated: &Migrated) -> Table {
    let mut table = plain(["memory moved", "times"]);
    for (what, number) in [
        ("regions", migrated.rounds),
        ("pages copied while readable", migrated.copied),
        ("pages unmapped first", migrated.unmapped_first),
        ("kicks", migrated.kicks),
        ("stale accesses", migrated.stale),
    ] {
        table.add_row([what.to_owned(), number.to_string()]);
    }
    table
}

/// Returns what became of large leaves that were split and made again, as a table.
fn resize_table(resizing: &Resizing) -> Table {
    let mut table = plain(["large leaves", "times"]);
    for (what, number) in [
        ("split, and made again", resizing.split),
        ("pages reported as dirty", resizing.dirty_pages),
        ("waits for tables", resizing.waited),
        ("pages changed and not dirty", resizing.unmarked_pages),
        ("wrong words in the copy", resizing.wrong_words),
    ] {
        table.add_row([what.to_owned(), number.to_string()]);
    }
    table
}

/// Returns the rounds of a precopy, as a table.
fn precopy_table(precopy: &Precopied) -> Table {
    let mut table = plain(["memory copied: round", "dirty pages", "copied, KiB", "ms"]);
    let last = precopy.rounds.len();
    for (number, round) in (1..).zip(&precopy.rounds) {
        let name = match number {
            1 => "1, all that is mapped".to_owned(),
            _ if number == last => format!("{number}, the vCPUs stand still"),
            _ => number.to_string(),
        };
        let (copied, time) = (round.copied_bytes >> 10, 1e3 * round.seconds);
        table.add_row([
            name,
            round.dirty_pages.to_string(),
            copied.to_string(),
            format!("{time:.1}"),
        ]);
    }
    table
}

/// Returns what else is to be said of a precopy: where in memory was dirty in each round, and what was
/// done for it.
fn picture(precopy: &Precopied, shading: Shading) -> String {
    let Precopied { kicks, stopped_seconds, split, collapsed, kept_small, .. } = precopy;
    let mut text = "dirty, from the first part of memory to the last:\n".to_owned();
    for (number, round) in (1..).zip(&precopy.rounds) {
        text += &format!("{number:>4} |{}|\n", shading.draw(&round.density));
    }
    text += &format!("{kicks} kicks; the vCPUs stood still for {:.1} ms", 1e3 * stopped_seconds);
    if *split > 0 {
        text += &format!(
            "\n{split} large leaves were split, {collapsed} made again; {kept_small} tables stayed"
        );
    }
    let (pages, bytes) = (precopy.wrong_pages, precopy.wrong_bytes);
    text + &format!("\nof the copy {bytes} bytes differ, in {pages} pages")
}

/// Makes an empty table with a name in its first column and numbers in the others.
pub(crate) fn plain<'h>(header: impl IntoIterator<Item = &'h str>) -> Table {
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
