//! Where the time of a phase went, for runs that noted it.

use crate::engine::{Operation, Span};
use crate::journal::{Phase, Sample, Work};
use crate::stats::Spread;

/// Milliseconds a token of one phase of one case, by operation; medians over the complete rounds that
/// noted it.
#[derive(Debug, Clone, PartialEq)]
pub struct Breakdown {
    /// Prefill or decode.
    pub phase: Phase,
    /// The leading thread's own work on each operation, in the order of the pass.
    pub work_ms: Vec<(Operation, f64)>,
    /// Its wait for other threads, in all operations.
    pub wait_ms: f64,
}

impl Breakdown {
    /// Work and waiting together.
    pub fn total_ms(&self) -> f64 {
        self.wait_ms + self.work_ms.iter().map(|w| w.1).sum::<f64>()
    }
}

/// Tokens that a sample's window computed, and where its time went, if it was noted.
pub(crate) fn spans(sample: &Sample) -> Option<(usize, &[Span])> {
    let tokens = match &sample.work {
        Work::Load { .. } => return None,
        Work::Prefill { prompt, .. } => prompt.len(),
        Work::Decode { latencies_ns, .. } => latencies_ns.len(),
    };
    Some((tokens, sample.profile.as_deref()?))
}

/// Nanoseconds of so many tokens as milliseconds a token.
pub(crate) fn ms_per_token(ns: u64, tokens: usize) -> Option<f64> {
    (tokens > 0).then(|| super::ms(ns) / tokens as f64)
}

/// The breakdown of one phase, whose samples, one a round, these are; `None` if none has spans.
pub(super) fn breakdown(phase: Phase, samples: &[&Sample]) -> Option<Breakdown> {
    let rounds: Vec<(usize, &[Span])> =
        samples.iter().filter_map(|s| spans(s)).filter(|(tokens, _)| *tokens > 0).collect();
    let median = |of: &dyn Fn(&[Span]) -> u64| {
        let values = rounds.iter().filter_map(|(tokens, spans)| ms_per_token(of(spans), *tokens));
        Spread::of(values).map(|s| s.median)
    };
    let work_ms = Operation::ALL.into_iter().map(|operation| {
        let work =
            |spans: &[Span]| spans.iter().filter(|s| s.operation == operation).map(|s| s.work_ns).sum();
        Some((operation, median(&work)?))
    });
    Some(Breakdown {
        phase,
        work_ms: work_ms.collect::<Option<_>>()?,
        wait_ms: median(&|spans| spans.iter().map(|s| s.wait_ns).sum())?,
    })
}
