//! Builds the executables of killers by cargo, and runs them.
//!
//! Nearly all of the time of a mutant goes into building it: most are noticed in one of the first executions
//! of a scenario. So what is built for each is not optimised and has no debug information, and what it stands
//! on, the checkers above all, is optimised once. The executables are run without cargo, several killers in a
//! process.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use cargo_metadata::Message;
use wait_timeout::ChildExt;

use crate::{
    attempt::{Exit, Processes, Remains},
    killer::{self, Killer, Package, Part, Scheduler, Target},
    scratch::Scratch,
};

/// What rustc is told, as cargo takes it.
const PROFILE: [&str; 3] =
    ["profile.test.opt-level=0", "profile.test.debug=false", "profile.test.incremental=true"];

/// The same for what is not ours, where a checker is among it.
const CHECKER: &str = "profile.test.package.\"*\".opt-level=3";

/// The cargo of one copy of the tree.
#[derive(Debug)]
pub(crate) struct Cargo {
    tree: PathBuf,
    folder: PathBuf,
    /// How many tests of one process may run at a time.
    threads: usize,
    /// The executables of the mutant that is there.
    built: BTreeMap<Target, PathBuf>,
}

/// What the compiler says of a mutant that does not build.
#[derive(Debug)]
pub(crate) struct DoesNotBuild(pub(crate) String);

impl Scheduler {
    const fn flags(self) -> &'static str {
        match self {
            Self::Loom => "--cfg loom --cfg crossbeam_loom -A warnings",
            Self::Shuttle => "--cfg shuttle -A warnings",
            Self::Machine => "-A warnings",
        }
    }

    /// Each has a folder of its own, since other flags mean that all is built again.
    const fn folder(self) -> &'static str {
        match self {
            Self::Loom => "loom",
            Self::Shuttle => "shuttle",
            Self::Machine => "machine",
        }
    }
}

impl Package {
    /// Where cargo would run its tests.
    const fn folder(self) -> &'static str {
        match self {
            Self::Slat => ".",
            Self::LoomTests => "loom-tests",
        }
    }
}

impl Cargo {
    pub(crate) fn new(scratch: &Scratch, threads: usize) -> Self {
        let (tree, folder) = (scratch.tree(), scratch.folder().to_owned());
        Self { tree, folder, threads, built: BTreeMap::new() }
    }

    /// Builds what the killers are in.
    pub(crate) fn build(&mut self, killers: &[Killer]) -> anyhow::Result<Result<(), DoesNotBuild>> {
        self.built.clear();
        let mut left: BTreeSet<_> = killers.iter().map(|killer| &killer.target).collect();
        while let Some(&first) = left.first() {
            let (together, others): (BTreeSet<_>, _) =
                left.into_iter().partition(|target| target.is_built_with(first));
            left = others;
            if let Err(error) = self.build_together(&together.into_iter().collect::<Vec<_>>())? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn build_together(&mut self, targets: &[&Target]) -> anyhow::Result<Result<(), DoesNotBuild>> {
        let scheduler = targets.first().context("there is something to build")?.scheduler;
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["test", "--quiet", "--no-run", "--message-format=json-render-diagnostics"]);
        let checker = (scheduler != Scheduler::Machine).then_some(CHECKER);
        for setting in PROFILE.into_iter().chain(checker) {
            command.args(["--config", setting]);
        }
        command
            .args(killer::arguments(targets))
            .current_dir(&self.tree)
            .env("RUSTFLAGS", scheduler.flags())
            .env("CARGO_TARGET_DIR", self.folder.join(scheduler.folder()))
            .stdin(Stdio::null());
        let output = command.output().context("cargo cannot be started")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Ok(Err(DoesNotBuild(said)));
        }
        for message in Message::parse_stream(&*output.stdout) {
            if let Message::CompilerArtifact(artifact) = message?
                && artifact.profile.test
                && let Some(executable) = &artifact.executable
                && let Some(target) = targets.iter().find(|target| is_of(target, &artifact.target))
            {
                self.built.insert((*target).clone(), executable.into());
            }
        }
        Ok(Ok(()))
    }
}

/// Tells whether what cargo has built is this target.
fn is_of(target: &Target, built: &cargo_metadata::Target) -> bool {
    match &target.part {
        Part::Lib => built.is_lib(),
        Part::Test(name) => built.is_test() && built.name == *name,
    }
}

impl Processes for Cargo {
    fn run(&mut self, killers: &[&Killer], limit: Duration) -> anyhow::Result<Remains> {
        let first = killers.first().context("somebody has to be run")?;
        let executable =
            self.built.get(&first.target).context("cargo names no executable for it")?;
        // A file takes all that is printed, whoever reads it.
        let path = self.folder.join("printed");
        let mut command = Command::new(executable);
        command.args(killers.iter().map(|killer| &killer.test));
        if first.is_whole() {
            command.arg("--exact");
        }
        command
            .args(["--test-threads", &self.threads.to_string()])
            .current_dir(self.tree.join(first.target.package.folder()))
            .env("LOOM_MAX_PREEMPTIONS", first.preemptions.to_string())
            .env("RUST_BACKTRACE", "0")
            .env("SHUTTLE_SILENCE_WARNINGS", "1")
            .stdin(Stdio::null())
            .stdout(File::create(&path)?)
            .stderr(Stdio::null());
        let mut child = command.spawn().context("a test cannot be started")?;
        let exit = match child.wait_timeout(limit)? {
            Some(status) if status.success() => Exit::Success,
            Some(_) => Exit::Failure,
            None => {
                child.kill()?;
                child.wait()?;
                Exit::TimedOut
            }
        };
        let printed = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        Ok(Remains { exit, printed })
    }
}
