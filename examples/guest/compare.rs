//! What KVM's processors did, beside what software MMUs did with the same workload.
//!
//! Where all follows from the workload alone, the counts must be the same: the one MMU nobody here wrote.

use serde::Serialize;

use crate::report::{Report, plain};

/// One workload on both.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    workload: String,
    counts: Vec<Count>,
}

/// One number on both.
#[derive(Debug, Serialize)]
struct Count {
    count: String,
    kvm: u64,
    soft: u64,
    must_agree: bool,
}

impl Comparison {
    /// Compares the runs of each workload that ran on both.
    pub(crate) fn of(runs: &[Report]) -> Vec<Self> {
        let both = |pair: &&[Report]| {
            pair[0].workload == pair[1].workload && pair[0].backend != pair[1].backend
        };
        runs.windows(2).filter(both).map(|pair| Self::between(&pair[0], &pair[1])).collect()
    }

    fn between(kvm: &Report, soft: &Report) -> Self {
        let determined = kvm.is_determined;
        let pairs = counts(kvm).into_iter().zip(counts(soft));
        let counts = pairs.map(|((count, can_agree, kvm), (_, _, soft))| {
            let must_agree = determined && can_agree;
            Count { count, kvm, soft, must_agree }
        });
        Self { workload: kvm.workload.clone(), counts: counts.collect() }
    }

    /// Tells whether all is the same that must be.
    pub(crate) fn agrees(&self) -> bool {
        self.counts.iter().all(Count::agrees)
    }

    pub(crate) fn to_text(&self) -> String {
        let mut table = plain([self.workload.as_str(), "kvm", "soft"]);
        for count in &self.counts {
            let name = match count.must_agree {
                true if count.agrees() => format!("{} (=)", count.count),
                true => format!("{} (MUST BE THE SAME)", count.count),
                false => count.count.clone(),
            };
            table.add_row([name, count.kvm.to_string(), count.soft.to_string()]);
        }
        format!("{table}\n")
    }
}

impl Count {
    fn agrees(&self) -> bool {
        !self.must_agree || self.kvm == self.soft
    }
}

/// Returns what is compared: its name, whether it follows from the workload, and the number.
fn counts(report: &Report) -> Vec<(String, bool, u64)> {
    let (tally, audit) = (&report.total.tally, &report.audit);
    // There vCPUs do what they have time for, and not every collapse wins.
    let precopy = audit.precopy.as_ref();
    let is_timeless = precopy.is_none();
    let is_level = precopy.is_none_or(|precopy| precopy.split == 0);
    let mut counts: Vec<_> = [
        ("accesses", is_timeless, tally.accesses),
        ("entries into the guest", false, tally.entries),
        ("faults", false, tally.faults),
        ("faults that mapped a page", true, tally.mapped),
        ("pages resident", true, audit.resident.entries),
        ("pages accessed", true, audit.accessed.entries),
        ("pages dirty", true, audit.dirty.entries),
        ("sum of all words", is_timeless, audit.sums.entries),
    ]
    .map(|(name, can_agree, number)| (name.to_owned(), can_agree, number))
    .into();
    for bits in &audit.levels {
        let name = |what| format!("L{} entries {what}", bits.level);
        counts.push((name("accessed"), is_level, bits.accessed));
    }
    if let Some(precopy) = precopy {
        let copied = precopy.rounds.iter().map(|round| round.copied_bytes).sum();
        counts.extend([
            ("rounds".to_owned(), false, precopy.rounds.len() as u64),
            ("bytes copied".to_owned(), false, copied),
            ("bytes of the copy that differ".to_owned(), true, precopy.wrong_bytes),
        ]);
    }
    counts.push(("stale accesses".to_owned(), true, tally.stale));
    counts
}
