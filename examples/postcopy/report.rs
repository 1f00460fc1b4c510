//! What is printed in the end: tables to read, or one JSON document.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::{
    audit::{Audit, total},
    migration::Run,
    options::{FaultOrder, Options},
    source::{Account, Background},
    vcpu::{Outcome, Tally},
};

/// The results.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    vcpus: u16,
    pages: u64,
    seed: u64,
    fault_order: String,
    background: bool,
    arrivals: Arrived,
    faults: Faults,
    /// Of faults whose page had not come.
    waits_us: Latencies,
    times_ms: Times,
    /// How many times as long as for its first access the guest would have waited for all of memory.
    gain: Option<f64>,
    #[serde(flatten)]
    pub(crate) audit: Audit,
    verdict: Verdict,
}

/// How pages came.
#[derive(Clone, Copy, Debug, Serialize)]
struct Arrived {
    on_demand: u64,
    in_background: u64,
    /// Those of them that were asked for on their way.
    crossed: u64,
    /// Requests that went to the source; and those of them for pages that it had sent.
    requests: u64,
    on_its_way: u64,
}

/// What the space has counted, and what the vCPUs have.
#[derive(Clone, Copy, Debug, Serialize)]
struct Faults {
    #[serde(flatten)]
    tally: Tally,
    fetches: u64,
    lost: u64,
    spurious: u64,
}

/// How long something took, in microseconds: the smallest that so many percent do not exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latencies {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) longest: f64,
}

/// When something was done, in milliseconds since the guest was resumed.
#[derive(Clone, Copy, Debug, Serialize)]
struct Times {
    /// The first access of the guest's, if it made one.
    first_access: Option<f64>,
    guest_done: f64,
    /// The last page has come.
    complete: f64,
}

/// Whether all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    Failed,
}

impl Latencies {
    pub(crate) fn of(mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        let Some(longest) = waits.last() else { return Self::default() };
        let rank = |percent: usize| micros(waits[(waits.len() * percent).div_ceil(100) - 1]);
        Self { p50: rank(50), p90: rank(90), p99: rank(99), longest: micros(*longest) }
    }
}

impl Report {
    pub(crate) fn new(options: &Options, run: &Run, audit: Audit) -> Self {
        let Account { on_its_way, .. } = run.sent.as_ref().copied().unwrap_or_default();
        let (arrivals, stats) = (run.arrivals, run.stats);
        let first = run.vcpus.iter().filter_map(|vcpu| vcpu.first).min().map(millis);
        let complete = millis(arrivals.last);
        let order = match options.fault_order {
            FaultOrder::Random => "random",
            FaultOrder::Ascending => "ascending",
            FaultOrder::Descending => "descending",
        };
        Self {
            vcpus: options.vcpus,
            pages: options.pages(),
            seed: options.seed,
            fault_order: order.to_owned(),
            background: options.background() == Background::Pushed,
            arrivals: Arrived {
                on_demand: arrivals.on_demand,
                in_background: arrivals.in_background,
                crossed: arrivals.crossed,
                requests: run.requests.as_ref().copied().unwrap_or_default(),
                on_its_way,
            },
            faults: Faults {
                tally: total(&run.vcpus),
                fetches: stats.fetches,
                lost: stats.lost,
                spurious: stats.spurious,
            },
            waits_us: Latencies::of(run.vcpus.iter().flat_map(|vcpu| vcpu.waits.clone()).collect()),
            times_ms: Times {
                first_access: first,
                guest_done: millis(run.vcpus.iter().map(done).max().unwrap_or_default()),
                complete,
            },
            gain: first.map(|first| complete / first.max(1e-6)),
            verdict: if audit.is_clean() { Verdict::Ok } else { Verdict::Failed },
            audit,
        }
    }

    pub(crate) const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Returns the results as JSON.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Returns the results as tables.
    pub(crate) fn to_tables(&self) -> String {
        let Self { vcpus, pages, fault_order, .. } = self;
        let background = if self.background { "" } else { ", on demand alone" };
        let head = format!("postcopy: {vcpus} vCPUs, {pages} pages, {fault_order}{background}");
        let tables = [self.page_table(), self.fault_table(), self.time_table()];
        let [pages, faults, times] = tables.map(|table| table.to_string());
        format!("{head}\n{pages}\n{faults}\n{times}\n{}\n", self.verdict_text())
    }

    fn page_table(&self) -> Table {
        let Arrived { on_demand, in_background, crossed, requests, on_its_way } = self.arrivals;
        let mut table = plain(["pages", "number", "of all"]);
        for (what, pages) in [
            ("came on demand", on_demand),
            ("came in the background", in_background),
            ("  and were asked for on their way", crossed),
            ("written by the guest", self.audit.written_pages),
        ] {
            let share = 100.0 * pages as f64 / self.pages as f64;
            table.add_row([what.to_owned(), pages.to_string(), format!("{share:.1}%")]);
        }
        for (what, number) in [("requests", requests), ("  for pages on their way", on_its_way)] {
            table.add_row([what.to_owned(), number.to_string(), String::new()]);
        }
        table
    }

    fn fault_table(&self) -> Table {
        let Faults { tally, fetches, lost, spurious } = self.faults;
        let mut table = plain(["faults", "number"]);
        for (what, number) in [
            ("accesses", tally.accesses),
            ("faults", tally.faults),
            ("  whose page had not come", tally.waited),
            ("  that fetched it", fetches),
            ("  that were to be tried again", tally.retries),
            ("  lost to another vCPU", lost),
            ("  spurious", spurious),
        ] {
            table.add_row([what.to_owned(), number.to_string()]);
        }
        table
    }

    fn time_table(&self) -> Table {
        let Times { first_access, guest_done, complete, .. } = self.times_ms;
        let mut table = plain(["time", "ms", "of all pages'"]);
        let rows = [
            ("first access of the guest", first_access),
            ("the guest was done", Some(guest_done)),
            ("all pages had come", Some(complete)),
        ];
        for (what, time) in rows {
            let Some(time) = time else { continue };
            let share = 100.0 * time / complete.max(1e-6);
            table.add_row([what.to_owned(), format!("{time:.3}"), format!("{share:.2}%")]);
        }
        let Latencies { p50, p90, p99, longest } = self.waits_us;
        for (what, time) in [
            ("a fault that waited: half of them took no more than", p50),
            ("  90%", p90),
            ("  99%", p99),
            ("  the longest", longest),
        ] {
            table.add_row([what.to_owned(), format!("{:.3}", time / 1e3), String::new()]);
        }
        table
    }

    fn verdict_text(&self) -> String {
        let Audit { compared_pages, wrong_pages, wrong_bytes, .. } = &self.audit;
        let compared = match wrong_pages {
            0 => format!("{compared_pages} pages were compared, and are right"),
            _ => format!(
                "{compared_pages} pages were compared: {wrong_bytes} bytes of {wrong_pages} are wrong"
            ),
        };
        let gain = self.gain.map_or_else(String::new, |gain| {
            format!("the guest ran {gain:.0} times as early as if it had waited for all pages\n")
        });
        match self.verdict {
            Verdict::Ok => format!("{gain}{compared}\nverdict: ok"),
            Verdict::Failed => format!("{compared}\nverdict: FAILED"),
        }
    }

    /// Returns what is wrong, a line each.
    pub(crate) fn complaints(&self) -> String {
        let Audit { wrong, unlisted, .. } = &self.audit;
        let mut text: String = wrong.iter().map(|wrong| format!("error: {wrong}\n")).collect();
        if *unlisted > 0 {
            text += &format!("error: and {unlisted} more\n");
        }
        text
    }
}

const fn done(vcpu: &Outcome) -> Duration {
    vcpu.done
}

fn millis(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

fn micros(time: Duration) -> f64 {
    1e6 * time.as_secs_f64()
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
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let waits = (1..=200).rev().map(Duration::from_micros).collect();
        let expected = Latencies { p50: 100.0, p90: 180.0, p99: 198.0, longest: 200.0 };
        let found = Latencies::of(waits);
        let pairs = [
            (found.p50, expected.p50),
            (found.p90, expected.p90),
            (found.p99, expected.p99),
            (found.longest, expected.longest),
        ];
        assert!(pairs.iter().all(|(found, right)| (found - right).abs() < 1e-6), "{found:?}");
        let one = Latencies::of(vec![Duration::from_micros(7)]);
        assert!((one.p50 - 7.0).abs() < 1e-6 && (one.p99 - 7.0).abs() < 1e-6);
        assert_eq!(Latencies::of(Vec::new()), Latencies::default());
    }
}
