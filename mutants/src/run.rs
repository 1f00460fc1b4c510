//! Makes the mutants, each in one of the copies of the tree, and runs their killers.

use std::{
    env,
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use parking_lot::Mutex;

use crate::{
    attempt::{self, Outcome},
    cargo::{Cargo, DoesNotBuild},
    edit::Edit,
    mutant::Mutant,
    report::Progress,
    scratch::Scratch,
    tree::Tree,
    verdict::{Mistake, Verdict},
};

/// What became of a mutant, and what it took.
#[derive(Debug)]
pub(crate) struct Finding<'l> {
    pub(crate) mutant: &'l Mutant,
    pub(crate) verdict: Verdict,
    pub(crate) building: Duration,
    pub(crate) running: Duration,
}

/// Makes all of them, so many at a time; returns what became of them, in their order.
pub(crate) fn run_all<'l>(
    tree: &Tree,
    chosen: &[&'l Mutant],
    jobs: usize,
) -> anyhow::Result<Vec<Finding<'l>>> {
    let progress = Progress::new(chosen.len())?;
    let jobs = jobs.min(chosen.len()).max(1);
    let threads = (thread::available_parallelism()?.get() / jobs).max(1);
    let rest = Mutex::new(chosen.iter().enumerate());
    let mut found: Vec<_> = chosen.iter().map(|_| None).collect();
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        for job in 0..jobs {
            let (tell, rest) = (tell.clone(), &rest);
            scope.spawn(move || {
                // Where it ends before its time, nobody listens any more: another one has failed.
                let tell = |finding| tell.send(finding).ok();
                let mut worker = match Worker::new(tree, job, threads) {
                    Ok(worker) => worker,
                    Err(error) => return tell(Err(error)),
                };
                loop {
                    let (index, mutant) = rest.lock().next()?;
                    tell(worker.examine(mutant).map(|finding| (index, finding)))?;
                }
            });
        }
        drop(tell);
        for finding in told {
            let (index, finding) = finding?;
            progress.show(&finding);
            found[index] = Some(finding);
        }
        progress.finish();
        anyhow::Ok(())
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// What a mutant takes.
#[derive(Debug, Default)]
struct Times {
    building: Duration,
    running: Duration,
}

/// One copy of the tree, and the cargo that builds it.
struct Worker {
    scratch: Scratch,
    cargo: Cargo,
}

impl Worker {
    fn new(tree: &Tree, job: usize, threads: usize) -> anyhow::Result<Self> {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let folder = tree.root().join(target).join("mutants").join(job.to_string());
        let scratch = Scratch::new(tree, folder)?;
        let cargo = Cargo::new(&scratch, threads);
        Ok(Self { scratch, cargo })
    }

    fn examine<'l>(&mut self, mutant: &'l Mutant) -> anyhow::Result<Finding<'l>> {
        let mut times = Times::default();
        let uncovered = match mutant.uncover.as_slice() {
            [] => None,
            edits => self.try_edits(mutant, edits, &mut times)?.map_or_else(
                |mistake| Some(Verdict::Wrong(mistake)),
                |outcomes| Verdict::of_uncovered(mutant, &outcomes),
            ),
        };
        let verdict = match uncovered {
            Some(wrong) => wrong,
            None => self
                .try_edits(mutant, &mutant.edits, &mut times)?
                .map_or_else(Verdict::Wrong, |outcomes| Verdict::of(mutant, &outcomes)),
        };
        Ok(Finding { mutant, verdict, building: times.building, running: times.running })
    }

    /// Makes the edits, and lets the killers see them; undoes them.
    fn try_edits(
        &mut self,
        mutant: &Mutant,
        edits: &[Edit],
        times: &mut Times,
    ) -> anyhow::Result<Result<Vec<Outcome>, Mistake>> {
        self.scratch.apply(edits).with_context(|| mutant.name.clone())?;
        let outcomes = self.run_killers(mutant, times);
        self.scratch.restore()?;
        outcomes
    }

    fn run_killers(
        &mut self,
        mutant: &Mutant,
        times: &mut Times,
    ) -> anyhow::Result<Result<Vec<Outcome>, Mistake>> {
        let began = Instant::now();
        let built = self.cargo.build(&mutant.killers)?;
        times.building += began.elapsed();
        if let Err(DoesNotBuild(said)) = built {
            return Ok(Err(Mistake::DoesNotBuild(said)));
        }
        let began = Instant::now();
        let outcomes = attempt::outcomes(&mutant.killers, mutant.limit(), &mut self.cargo)?;
        times.running += began.elapsed();
        Ok(Ok(outcomes))
    }
}
