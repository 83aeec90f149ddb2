//! How long the rest of a run will take: for the person who waits, not for any table.

use std::collections::HashMap;
use std::time::Duration;

use crate::journal::Case;

use super::plan::{PlannedModel, Task};

/// Seconds that a bandwidth reading takes, before one was seen.
const BANDWIDTH_S: f64 = 1.0;
/// The same of a reading of the compute peak: twice eight passes of 20 ms and their calibration.
const PEAK_S: f64 = 0.5;
/// The same of the idle machine, where there is an energy source.
const IDLE_S: f64 = 2.0;
/// The same of the instruments' cost: two pairs of quarters of a second, and finding out how much work that is.
const OVERHEAD_S: f64 = 1.5;

/// Durations seen so far, and a rough model for what was not seen yet.
#[derive(Debug)]
pub(super) struct Estimate {
    /// Modelled seconds of each case, and whether it runs plain code: the model is off by another factor there.
    modelled: Vec<(f64, bool)>,
    /// The last visit of each case.
    seen: HashMap<usize, f64>,
    bandwidth_s: f64,
    peak_s: f64,
    idle_s: f64,
    overhead_s: f64,
}

impl Estimate {
    /// An estimate for `cases`.
    pub(super) fn new(cases: &[Case], models: &[PlannedModel]) -> Self {
        let modelled = cases.iter().map(|case| {
            let model = models.iter().find(|m| m.label == case.model);
            (model.map_or(1.0, |m| modelled_s(case, m)), is_plain(case))
        });
        Estimate {
            modelled: modelled.collect(),
            seen: HashMap::new(),
            bandwidth_s: BANDWIDTH_S,
            peak_s: PEAK_S,
            idle_s: IDLE_S,
            overhead_s: OVERHEAD_S,
        }
    }

    /// A task took so long.
    pub(super) fn saw(&mut self, task: &Task, took: Duration) {
        match task {
            Task::Case(i) => {
                self.seen.insert(*i, took.as_secs_f64());
            }
            Task::Bandwidth(_) => self.bandwidth_s = took.as_secs_f64(),
            Task::Peak { .. } => self.peak_s = took.as_secs_f64(),
            Task::Idle => self.idle_s = took.as_secs_f64(),
            Task::Overhead => self.overhead_s = took.as_secs_f64(),
        }
    }

    /// The tasks together will take about so long.
    pub(super) fn of<'a>(&self, tasks: impl IntoIterator<Item = &'a Task>) -> Duration {
        // How far the model is off on this machine, from what was seen.
        let factor_of = |plain| {
            let of_kind = self.seen.iter().filter(|(i, _)| self.modelled[**i].1 == plain);
            let (seen, modelled) =
                of_kind.fold((0.0, 0.0), |(s, m), (i, took)| (s + took, m + self.modelled[*i].0));
            (modelled > 0.0).then(|| seen / modelled)
        };
        let factor = [false, true].map(|plain| factor_of(plain).unwrap_or(1.0));
        let total: f64 = tasks
            .into_iter()
            .map(|task| match task {
                Task::Case(i) => self.seen.get(i).copied().unwrap_or_else(|| {
                    let (modelled, plain) = self.modelled[*i];
                    modelled * factor[usize::from(plain)]
                }),
                Task::Bandwidth(_) => self.bandwidth_s,
                Task::Peak { .. } => self.peak_s,
                Task::Idle => self.idle_s,
                Task::Overhead => self.overhead_s,
            })
            .sum();
        Duration::from_secs_f64(total.clamp(0.0, 1e9))
    }
}

/// Whether a case runs plain code, one operation after the other.
fn is_plain(case: &Case) -> bool {
    case.isa == "scalar"
}

/// Loading and computing at rates of the right order for a present-day core.
fn modelled_s(case: &Case, model: &PlannedModel) -> f64 {
    let threads = f64::from(case.threads);
    let (weights, head) = (model.linear_weights as f64, model.head_weights as f64);
    // Weights a second: one addition after the other, or the memory's bandwidth.
    let step_s = match case.kernel.as_str() {
        _ if is_plain(case) => (weights + head) / (1.0e9 * threads),
        "f16" => (weights + head) * 2.0 / 20e9,
        _ => (weights / 4.0 + head * 2.0) / 20e9,
    };
    let prefill_s = match is_plain(case) {
        true => f64::from(case.n_prompt) * step_s,
        false => f64::from(case.n_prompt) * weights / (40e9 * threads),
    };
    let load_s = 0.05 + model.stored_weights as f64 / 0.5e9;
    // A step before the windows, and sixteen for the check of the first round.
    load_s + prefill_s + f64::from(case.n_gen + 6) * step_s
}
