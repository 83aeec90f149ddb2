//! What this machine can measure and what it cannot, why, and what to do about it.
//!
//! Every finding says by itself which use it limits and how far; a verdict is the strictest of them.
//! METHODOLOGY.md has the thresholds.

mod findings;
mod noise;
mod text;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::allowed_cpus;
use crate::figure::Figure;
use crate::probe::host::Host;
use crate::probe::noise::measure;
use crate::probe::state::{Busy, HostState, Watch};
use crate::probe::{bandwidth, memory};

pub use noise::{Dispersion, Noise, ROUNDS, visible_difference};
pub use text::render;

/// Version of [`Report`] as JSON. Fields and findings can be added without a new one.
pub const SCHEMA: u32 = 1;

/// How long the host is watched where there is no self-test: long enough for the kernel's ticks.
const QUIET_WINDOW: Duration = Duration::from_millis(220);

/// What one wants from a machine.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Comparing the speed of kernels
    Speed,
    /// Measuring energy
    Energy,
    /// Failing a change that makes inference slower
    Gating,
}

impl Purpose {
    /// All, in the order of the report.
    pub const ALL: [Purpose; 3] = [Purpose::Speed, Purpose::Energy, Purpose::Gating];
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Purpose::Speed => "speed",
            Purpose::Energy => "energy",
            Purpose::Gating => "gating",
        })
    }
}

/// Whether a machine serves a purpose; the later the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It does.
    Yes,
    /// Figures are right, but somebody has to look at what they went through.
    WithCare,
    /// It does not.
    No,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::Yes => "yes",
            Answer::WithCare => "with care",
            Answer::No => "no",
        })
    }
}

/// How a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// There, or as it should be.
    Ok,
    /// It biases or blurs figures.
    Care,
    /// It cannot be measured here, or is in the way.
    No,
    /// The machine does not tell.
    Unknown,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Something that measures.
    Instrument,
    /// Something that figures depend on.
    Condition,
}

/// One thing found about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable name: `hardware_counters`.
    pub id: String,
    /// What it is about.
    pub group: Group,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What follows from it, where that is not plain.
    pub why: Option<String>,
    /// What to do, in words.
    pub remedy: Option<String>,
    /// Commands that do it.
    pub commands: Vec<String>,
    /// The purposes that it limits.
    pub limits: Vec<Limit>,
}

/// How far a finding limits a purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The purpose.
    pub purpose: Purpose,
    /// The best answer that is left.
    pub answer: Answer,
}

/// Whether the machine serves a purpose, and why not without more ado.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The purpose.
    pub purpose: Purpose,
    /// The strictest answer of all findings.
    pub answer: Answer,
    /// Names of the findings that gave this answer.
    pub because: Vec<String>,
}

/// Everything that `bitjoule doctor` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Root of the simulated tree that was examined in the place of a machine.
    pub simulated_root: Option<PathBuf>,
    /// For each purpose, whether the machine serves it.
    pub verdicts: Vec<Verdict>,
    /// The self-test.
    pub noise: Figure<Noise>,
    /// What was found, instruments first.
    pub findings: Vec<Finding>,
    /// The machine.
    pub host: Host,
    /// The host during the self-test.
    pub state: HostState,
}

/// Examines this machine, with a self-test of about `self_test` on all threads that this process may use
/// (none if it is zero), or the simulated one below `root`, without a self-test.
pub fn examine(root: Option<&Path>, self_test: Duration) -> Report {
    let host = Host::detect_in(root.unwrap_or(Path::new("/")));
    let threads = allowed_cpus().len().max(1);
    let busy = match (root, host.logical_cores.value()) {
        // The CPUs of this process are not those of the tree.
        (Some(_), Some(&cpus)) => Busy { cpus: (0..cpus).collect(), threads: cpus as usize },
        _ => Busy { cpus: Busy::team(1).cpus, threads },
    };
    let watch = Watch::start(root, &busy);
    let noise = if root.is_some() {
        Figure::unavailable("a simulated tree has no speed")
    } else if self_test.is_zero() {
        Figure::unavailable("no self-test was made")
    } else {
        let buffer = bandwidth::default_buffer(host.llc_bytes(), memory::available().value().copied());
        match measure(threads as u32, buffer, self_test).map(|slices| Noise::of(&slices)) {
            Ok(Some(noise)) => Figure::measured(noise, "the self-test"),
            Ok(None) => Figure::unavailable("the self-test took no time"),
            Err(e) => Figure::unavailable(e.to_string()),
        }
    };
    if noise.value().is_none() {
        std::thread::sleep(QUIET_WINDOW);
    }
    let state = watch.stop();
    let findings =
        findings::all(&findings::Machine { root, host: &host, state: &state, noise: &noise, busy: &busy });
    Report {
        schema: SCHEMA,
        simulated_root: root.map(Path::to_owned),
        verdicts: Purpose::ALL.into_iter().map(|purpose| verdict(purpose, &findings)).collect(),
        noise,
        findings,
        host,
        state,
    }
}

/// The strictest answer that a finding leaves for `purpose`.
fn verdict(purpose: Purpose, findings: &[Finding]) -> Verdict {
    let limits = || {
        findings.iter().filter_map(|finding| {
            let limit = finding.limits.iter().find(|limit| limit.purpose == purpose)?;
            Some((finding, limit.answer))
        })
    };
    let answer = limits().map(|(_, answer)| answer).max().unwrap_or(Answer::Yes);
    let because = limits().filter(|(_, a)| *a == answer && answer > Answer::Yes).map(|(f, _)| f.id.clone());
    Verdict { purpose, answer, because: because.collect() }
}

impl Report {
    /// The verdict for `purpose`.
    pub fn verdict(&self, purpose: Purpose) -> Option<&Verdict> {
        self.verdicts.iter().find(|verdict| verdict.purpose == purpose)
    }

    /// What `verdict` rests on: each finding in a line.
    pub fn reasons(&self, verdict: &Verdict) -> Vec<String> {
        let purpose = verdict.purpose.to_string();
        let of = |id: &String| self.findings.iter().find(|f| f.id == *id);
        let line = |f: &Finding| match f.id == purpose {
            true => f.found.clone(),
            false => format!("{}: {}", f.title(), f.found),
        };
        verdict.because.iter().filter_map(of).map(line).collect()
    }
}
