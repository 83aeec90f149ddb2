//! Where the bytes of a case are: what was predicted, what was measured, and what of it is not accounted
//! for.

use crate::engine::MemoryParts;
use crate::figure::Figure;
use crate::journal::{Case, Faults, MemoryReading, RunHeader, Sample, Work};
use crate::units::Bytes;

use super::over_figures;
use super::rounds::Round;

/// Memory of a case's workers. Measured figures are those at the end of decode, medians of the complete
/// rounds, in bytes.
#[derive(Debug, Clone)]
pub struct MemoryUse {
    /// What model and engine were predicted to allocate.
    pub predicted: Option<MemoryParts>,
    /// What they would if every layer had weights of its own: never measured.
    pub full: Figure<MemoryParts>,
    /// Anonymous and resident.
    pub anon: Figure<f64>,
    /// Anonymous, resident or swapped out, minus the predicted parts: the program itself, the allocator's
    /// reserves, rounding to pages; negative where predicted memory was never touched.
    pub unaccounted: Figure<f64>,
    /// File-backed and resident.
    pub file: Figure<f64>,
    /// Shared memory, resident.
    pub shmem: Figure<f64>,
    /// Swapped out.
    pub swapped: Figure<f64>,
    /// Proportional set size.
    pub pss: Figure<f64>,
    /// Faults within load, prefill and decode.
    pub faults: [PhaseFaults; 3],
    /// The limit that the case ran under, if any.
    pub limit: Option<Bytes>,
    /// What enforced it, if the case got as far as to say so.
    pub limit_enforced_by: Option<String>,
}

/// Page faults of a phase, medians of the rounds.
#[derive(Debug, Clone)]
pub struct PhaseFaults {
    /// Without reading.
    pub minor: Figure<f64>,
    /// That waited for a disk.
    pub major: Figure<f64>,
}

const NOT_RECORDED: &str = "not recorded (journal of an older version)";

/// Collects the memory of a case from its complete rounds.
pub(super) fn memory_use(header: &RunHeader, case: &Case, rounds: &[Round], absent: &str) -> MemoryUse {
    let median = |figures: Vec<Figure<f64>>| over_figures(figures.iter(), absent).map(|s| s.median);
    let at_end = |part: fn(&MemoryReading) -> f64| {
        median(rounds.iter().map(|r| r.decode.memory.as_ref().map(part)).collect())
    };
    let loads = || {
        rounds.iter().filter_map(|r| match &r.load.work {
            Work::Load { predicted, predicted_full, limit, .. } => {
                Some((predicted.as_ref(), predicted_full.as_ref(), limit.as_ref()))
            }
            Work::Prefill { .. } | Work::Decode { .. } => None,
        })
    };
    let predicted = loads().find_map(|(predicted, ..)| predicted).copied();
    let full = match (&case.tied, loads().find_map(|(_, full, _)| full)) {
        (None, _) => Figure::unavailable("not modelled: every layer is stored, and memory measured"),
        (Some(_), None) => Figure::unavailable(absent),
        (Some(tied), Some(full)) => Figure::Modelled {
            value: *full,
            by: format!("parts of the model with all {} layers stored", tied.layers),
        },
    };
    let faults = |of: fn(&Round) -> Figure<Faults>| {
        let each = |part: fn(Faults) -> u64| {
            median(rounds.iter().map(|r| of(r).map(|faults| part(faults) as f64)).collect())
        };
        PhaseFaults { minor: each(|f| f.minor), major: each(|f| f.major) }
    };
    MemoryUse {
        predicted,
        full,
        anon: at_end(|m| m.anon.0 as f64),
        unaccounted: match predicted {
            None => Figure::unavailable(if rounds.is_empty() { absent } else { NOT_RECORDED }),
            Some(predicted) => at_end(|m| m.anon.0 as f64 + m.swapped.map_or(0.0, |s| s.0 as f64))
                .map(|held| held - predicted.total().0 as f64),
        },
        file: at_end(|m| m.file.0 as f64),
        shmem: at_end(|m| m.shmem.0 as f64),
        swapped: median(rounds.iter().map(|r| swapped(r.decode)).collect()),
        pss: median(rounds.iter().map(|r| recorded(r.decode.pss.as_ref()).map(|pss| pss.0 as f64)).collect()),
        faults: [
            faults(|r| recorded(r.load.faults.as_ref())),
            faults(|r| recorded(r.prefill.faults.as_ref())),
            faults(|r| recorded(r.decode.faults.as_ref())),
        ],
        limit: header.memory_limit,
        limit_enforced_by: loads().find_map(|(.., limit)| limit).map(|l| l.enforced_by.clone()),
    }
}

fn recorded<T: Copy>(figure: Option<&Figure<T>>) -> Figure<T> {
    figure.cloned().unwrap_or_else(|| Figure::unavailable(NOT_RECORDED))
}

fn swapped(sample: &Sample) -> Figure<f64> {
    match sample.memory.value().map(|m| m.swapped) {
        Some(None) => Figure::unavailable("the kernel does not say (it is without swap, or the journal old)"),
        _ => sample.memory.as_ref().map(|m| m.swapped.map_or(0.0, |s| s.0 as f64)),
    }
}
