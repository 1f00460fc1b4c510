//! The audit: what lies in memory in the end, and what the table says of it.
//!
//! Nothing here trusts the connection or the fault path. What a word has to be follows from the seed and from what
//! its vCPU has written; what an entry has to say, from what the vCPUs did; and the counts of all who took part must
//! agree.

use std::iter;

use serde::Serialize;
use slat::{Mapping, PAGE_BYTES, PageSize};

use crate::{
    content::{Content, WORDS},
    memory::Page,
    migration::{Migration, Run},
    vcpu::{Outcome, START, Tally},
};

/// Complaints beyond this many are counted, not listed.
const LISTED: usize = 20;

/// What the audit found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Audit {
    /// Pages that came, and were compared byte for byte.
    pub(crate) compared_pages: u64,
    /// Pages of them that the guest has written to.
    pub(crate) written_pages: u64,
    pub(crate) wrong_pages: u64,
    pub(crate) wrong_bytes: u64,
    /// What is wrong; nothing, if all is well.
    pub(crate) wrong: Vec<String>,
    /// How much more is wrong than `wrong` lists.
    pub(crate) unlisted: u64,
}

impl Audit {
    pub(crate) fn of(migration: &Migration, run: &Run) -> Self {
        let mut audit = Self::default();
        audit.check_threads(run);
        audit.check_memory(migration, run);
        audit.check_entries(migration, run);
        audit.check_faults(run);
        if audit.is_clean() {
            audit.check_arrivals(migration, run);
        }
        audit
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.wrong.is_empty()
    }

    fn complain(&mut self, complaint: String) {
        if self.wrong.len() < LISTED {
            self.wrong.push(complaint);
        } else {
            self.unlisted += 1;
        }
    }

    /// Looks at how the threads ended.
    fn check_threads(&mut self, run: &Run) {
        let Run { received, sent, requests, vcpus, .. } = run;
        match received {
            // The others then fail as well, on account of that, and mostly because the connection is closed.
            Err(error) => self.complain(error.to_string()),
            Ok(()) => {
                let sent = sent.as_ref().err().map(|error| format!("the source: {error}"));
                let requests = requests.as_ref().err().map(|error| format!("a request: {error}"));
                [sent, requests].into_iter().flatten().for_each(|error| self.complain(error));
            }
        }
        for (number, vcpu) in vcpus.iter().enumerate() {
            if let Some(broken) = &vcpu.broken {
                self.complain(format!("vCPU {number}: {broken}"));
            }
            for misread in &vcpu.misreads {
                self.complain(format!("vCPU {number}: {misread}"));
            }
            self.unlisted += vcpu.tally.misreads - vcpu.misreads.len() as u64;
        }
    }

    /// Compares every page that came.
    fn check_memory(&mut self, migration: &Migration, run: &Run) {
        let Migration { content, ref memory, ref supplier, .. } = *migration;
        for page in (0..supplier.pages()).filter(|&page| supplier.is_supplied(page)) {
            self.compared_pages += 1;
            self.written_pages += u64::from(is_written(&run.vcpus, page));
            let frame = memory.page(page).expect("there is a frame for each page");
            let wrong = wrong_bytes(content, &run.vcpus, page, frame);
            if let Some(&(first, found, expected)) = wrong.first() {
                self.wrong_pages += 1;
                self.wrong_bytes += wrong.len() as u64;
                self.complain(format!(
                    "page {page}: {} bytes are wrong, first byte {first}: {found:#04x}, not \
                     {expected:#04x}",
                    wrong.len()
                ));
            }
        }
    }

    /// Compares the entries with what the vCPUs did.
    fn check_entries(&mut self, migration: &Migration, run: &Run) {
        let Migration { ref space, range, ref supplier, .. } = *migration;
        let table = space.table();
        let reader = table.reader();
        let leaves: Vec<Mapping> = match reader.pin().mappings(range) {
            Ok(leaves) => leaves.collect(),
            Err(error) => return self.complain(format!("the table cannot be read: {error}")),
        };
        for leaf in &leaves {
            let page = (leaf.gpa.get() - START.get()) / PAGE_BYTES;
            let frame = supplier.frame_of(page);
            if Some(leaf.pfn) != frame || leaf.size != PageSize::Size4K {
                self.complain(format!("page {page} is mapped to frame {}", leaf.pfn));
            }
            if !supplier.is_supplied(page) {
                self.complain(format!("page {page} is mapped, and has not come"));
            }
            if !leaf.accessed || leaf.dirty != is_written(&run.vcpus, page) {
                let Mapping { accessed, dirty, .. } = leaf;
                self.complain(format!("page {page}: accessed {accessed}, dirty {dirty}"));
            }
        }
        let resident = space.resident();
        if resident != leaves.len() as u64 {
            self.complain(format!("{} pages are mapped, and {resident} counted", leaves.len()));
        }
    }

    /// Compares what the space has counted with what the vCPUs have.
    fn check_faults(&mut self, run: &Run) {
        let Tally { faults, waited, retries, .. } = total(&run.vcpus);
        let stats = run.stats;
        let broken = run.vcpus.iter().filter(|vcpu| vcpu.broken.is_some()).count() as u64;
        // Whoever was told to try again has done so.
        if (stats.faults, stats.retries) != (faults + retries, retries) {
            self.complain(format!(
                "the space has counted {} faults and {} retries; the vCPUs {faults} and {retries}",
                stats.faults, stats.retries
            ));
        }
        if stats.refused > broken {
            self.complain(format!("{} faults were refused", stats.refused));
        }
        if stats.fetches > waited + broken {
            let fetches = stats.fetches;
            self.complain(format!("{fetches} pages were fetched, for {waited} faults that waited"));
        }
    }

    /// Compares what was sent with what came: each page, and each once.
    fn check_arrivals(&mut self, migration: &Migration, run: &Run) {
        let pages = migration.supplier.pages();
        let (Ok(sent), Ok(requests)) = (&run.sent, &run.requests) else { return };
        let arrivals = run.arrivals;
        let on_either_side = [
            ("on demand", sent.on_demand, arrivals.on_demand),
            ("in the background", sent.in_background, arrivals.in_background),
        ];
        for (how, sent, arrived) in on_either_side {
            if sent != arrived {
                self.complain(format!("{sent} pages were sent {how}, and {arrived} came so"));
            }
        }
        if arrivals.pages() != pages || self.compared_pages != pages {
            self.complain(format!("{} of {pages} pages came", arrivals.pages()));
        }
        if sent.on_demand + sent.on_its_way > *requests || *requests > run.stats.fetches {
            self.complain(format!(
                "{requests} pages were asked for, in {} fetches; the source has heard of {}",
                run.stats.fetches,
                sent.on_demand + sent.on_its_way
            ));
        }
        let resident = run.stats.resident;
        if resident != pages {
            self.complain(format!("{resident} of {pages} pages are resident"));
        }
    }
}

/// Returns what all vCPUs have counted.
pub(crate) fn total(vcpus: &[Outcome]) -> Tally {
    vcpus.iter().fold(Tally::default(), |sum, vcpu| sum.plus(vcpu.tally))
}

fn is_written(vcpus: &[Outcome], page: u64) -> bool {
    vcpus.iter().any(|vcpu| vcpu.writes[page as usize] > 0)
}

/// Returns which bytes of a page are wrong: where, what is there, and what was to be.
fn wrong_bytes(
    content: Content,
    vcpus: &[Outcome],
    page: u64,
    frame: Page<'_>,
) -> Vec<(u64, u8, u8)> {
    let expected = |word| {
        let owner = vcpus.get(content.owner(page, word));
        let writes = owner.map_or(0, |owner| owner.writes[page as usize]);
        content.word(page, word).wrapping_add(writes.into())
    };
    let differ = (0..WORDS).map(|word| (frame.load(word), expected(word)));
    let words =
        differ.flat_map(|(found, expected)| iter::zip(found.to_le_bytes(), expected.to_le_bytes()));
    let bytes = iter::zip(0..PAGE_BYTES, words).map(|(at, (found, right))| (at, found, right));
    bytes.filter(|(_, found, right)| found != right).collect()
}
