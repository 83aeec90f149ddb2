//! From the records of a journal to figures: pure functions, so that every table can be made again.
//!
//! METHODOLOGY.md defines every figure; the definitions here are the same ones.

pub mod arithmetic;
mod energy;
mod memory;
mod overhead;
mod profile;
pub mod reproduce;
mod rounds;
mod scaling;
mod speedup;
mod spread;
pub mod state;
mod tied;

use std::collections::HashMap;
use std::fmt;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::journal::{
    Case, Check, Failure, FailureKind, KeptWeights, MemoryReading, Phase, Record, RunHeader, SCHEMA, Sample,
    Work,
};
use crate::units::Bytes;

use crate::published::Target;
use energy::Idles;
pub use energy::{EnergyUse, ModelledEnergy, Part};
pub use memory::{MemoryUse, PhaseFaults};
pub use overhead::Overhead;
pub use profile::Breakdown;
pub(crate) use profile::{ms_per_token, spans};
use reproduce::Reproduction;
pub use rounds::Bandwidths;
use rounds::{Peaks, Round, rounds_of};
pub(crate) use rounds::{highest, roofline_tok_s};
pub(crate) use rounds::{percent_of, phase_name};
pub use scaling::Scaling;
pub use speedup::{BASELINES, Speedup};
pub use spread::{Spread, median_interval, ms, per_second, percentile};
use state::StateCounts;
pub use tied::{TOLERANCE as TIED_TOLERANCE, TiedAgreement, TiedPair};

/// Everything that follows from a journal.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Name of the suite.
    pub suite: String,
    /// Rounds planned.
    pub rounds: u32,
    /// A row a case, in the order of the plan.
    pub rows: Vec<Row>,
    /// Every case against every baseline kernel of its model, threads and workload.
    pub speedups: Vec<Speedup>,
    /// Every case that was run with several thread counts against itself with the fewest.
    pub scaling: Vec<Scaling>,
    /// Every case of tied layers beside that of the full model, where both were planned.
    pub tied: Vec<TiedPair>,
    /// The host while the samples were taken.
    pub states: StateCounts,
    /// What the instruments cost.
    pub overhead: Figure<Overhead>,
    /// The run held against the published table that its suite reproduces, if any.
    pub reproduction: Option<Reproduction>,
}

/// The figures of one case. Medians are over its complete rounds; a wrong case has no figures.
#[derive(Debug, Clone)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// Rounds that have a sample of all three phases; only these count.
    pub rounds: u32,
    /// Whether the figures may be used.
    pub status: Status,
    /// The comparison of its logits; of several the first that failed, else the last.
    pub check: Option<Check>,
    /// Median wall time of the load window, milliseconds.
    pub load_ms: Option<f64>,
    /// The same where packed weights were read as an earlier load had kept them.
    pub load_kept_ms: Option<f64>,
    /// Prompt tokens per second of the prefill window.
    pub prefill_tok_s: Option<Spread>,
    /// Decode steps per second of the decode window.
    pub decode_tok_s: Option<Spread>,
    /// Median of 100 × decode rate ÷ roofline rate, both of the same round.
    pub decode_roofline_percent: Figure<f64>,
    /// Median of the roofline rate of the rounds: rate of reading the weights ÷ bytes per token, tokens
    /// per second.
    pub decode_roofline_tok_s: Option<f64>,
    /// Median wall time of the prefill window, milliseconds.
    pub ttft_ms: Option<f64>,
    /// Latencies of all decode steps of all complete rounds.
    pub latency: Option<Latency>,
    /// Resident memory of the worker.
    pub memory: Figure<Memory>,
    /// Where its bytes are.
    pub memory_use: MemoryUse,
    /// Median CPU time of the decode window ÷ decode steps, seconds.
    pub decode_cpu_s_per_token: Option<f64>,
    /// Median CPU time ÷ wall time of the decode window: the number of cores kept busy.
    pub decode_cpu_cores: Option<f64>,
    /// Median of the bytes that one decode step must read.
    pub bytes_per_token: Option<f64>,
    /// Median over the rounds of the highest pass of the bandwidth probe with as many threads.
    pub bandwidth_bytes_per_s: Option<f64>,
    /// Median over the rounds of the highest rate at which the case's own threads read its weights,
    /// beside the decode window.
    pub stream_bytes_per_s: Option<f64>,
    /// Energy of all packages in the decode window ÷ decode steps, joules.
    pub energy_j_per_token: Figure<Spread>,
    /// Energy by part and source, the source that figures come from first.
    pub energy: Vec<EnergyUse>,
    /// Where the time of prefill and decode went, as far as it was noted.
    pub profile: Vec<Breakdown>,
    /// Median of 100 × prefill rate ÷ roofline rate of the prefill, both of the same round.
    pub prefill_roofline_percent: Figure<f64>,
    /// Median of the roofline rate of the prefill, tokens per second.
    pub prefill_roofline_tok_s: Option<f64>,
    /// Median over the rounds of the highest pass of the compute peak probe with as many threads in the
    /// same instruction set, int8.
    pub peak_int8_mac_per_s: Option<f64>,
    /// The same of f32.
    pub peak_f32_mac_per_s: Option<f64>,
    /// Multiply-accumulates of the prefill ÷ prompt tokens.
    pub prefill_mac_per_token: Option<f64>,
    /// Weights that a decode step multiplies, those of the linear layers and of the output projection: the
    /// size of the model. Older journals do not have it.
    pub parameters: Option<f64>,
    /// What a reader should know: that layers are tied, why figures are empty.
    pub notes: Vec<String>,
}

impl Row {
    /// Whether the case has figures that may be compared: a complete round and no failed check.
    pub fn usable(&self) -> bool {
        self.rounds > 0 && !matches!(self.status, Status::Wrong(_))
    }

    /// The energy of decode, by the source that figures come from.
    pub fn decode_energy(&self) -> Option<&EnergyUse> {
        self.energy.iter().find(|e| e.part == Part::Phase(Phase::Decode))
    }
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// All rounds are complete and no check failed.
    Ok,
    /// Some rounds are missing.
    Incomplete {
        /// Complete rounds.
        complete: u32,
        /// Planned rounds.
        planned: u32,
        /// What ended the others, where something is recorded.
        why: Option<String>,
    },
    /// No round is complete; what ended the last visit.
    Failed(String),
    /// Not started, because this machine or this model cannot.
    Skipped(String),
    /// Needs more than the suite's memory limit, as running it has shown.
    OverLimit(String),
    /// The logits are not those of the reference: its speed means nothing.
    Wrong(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Ok => f.write_str("ok"),
            Status::Incomplete { complete, planned, why } => {
                write!(f, "incomplete: {complete} of {planned} rounds")?;
                why.as_ref().map_or(Ok(()), |why| write!(f, "; {why}"))
            }
            Status::Failed(why) => write!(f, "failed: {why}"),
            Status::Skipped(why) => write!(f, "skipped: {why}"),
            Status::OverLimit(why) => write!(f, "over limit: {why}"),
            Status::Wrong(why) => write!(f, "wrong: {why}"),
        }
    }
}

/// Latency of a decode step in milliseconds; percentiles by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Median.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Slowest step.
    pub max_ms: f64,
}

impl Latency {
    /// Summarises latencies in nanoseconds, in any order; `None` if there are none.
    pub fn of(mut latencies_ns: Vec<u64>) -> Option<Latency> {
        latencies_ns.sort_unstable();
        let at = |percent| percentile(&latencies_ns, percent).map(ms);
        Some(Latency { p50_ms: at(50)?, p90_ms: at(90)?, p99_ms: at(99)?, max_ms: at(100)? })
    }
}

/// Resident memory of a case's workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// High-water mark; the largest of all rounds.
    pub peak: Bytes,
    /// Anonymous at the end of decode; median of the rounds.
    pub anon: Bytes,
    /// File-backed at the end of decode; median of the rounds.
    pub file: Bytes,
    /// Largest anonymous reading at the end of any phase of any round.
    pub peak_anon: Bytes,
    /// Largest file-backed reading at the end of any phase of any round.
    pub peak_file: Bytes,
}

/// The plan, which must be the first record and the only one of its kind.
///
/// # Errors
/// [`Error::Input`] if there is none, if there are two, or if a newer bitjoule wrote it.
pub fn header(records: &[Record]) -> Result<&RunHeader> {
    let Some(Record::Run(header)) = records.first() else {
        return Err(Error::input("the journal does not begin with the plan of a run"));
    };
    if records[1..].iter().any(|r| matches!(r, Record::Run(_))) {
        return Err(Error::input("the journal holds the plan of more than one run"));
    }
    if header.schema > SCHEMA {
        return Err(Error::input(format!(
            "the journal has schema {}, this version of bitjoule reads up to {SCHEMA}",
            header.schema
        )));
    }
    Ok(header)
}

/// Computes every figure of every case and the speedups between them.
///
/// # Errors
/// [`Error::Input`] if the journal contradicts itself: no plan, a sample, check or failure of a case
/// that was not planned, a round outside the plan, the same phase of a case twice in a round, or
/// latencies that do not match the generated tokens.
pub fn summarize(records: &[Record]) -> Result<Summary> {
    let header = header(records)?;
    let rounds = rounds_of(header, records)?;
    let (bandwidths, peaks) = (Bandwidths::new(records), Peaks::new(records));
    let idles = Idles::new(records);
    let mut checks: HashMap<&str, &Check> = HashMap::new();
    let mut failures: HashMap<&str, Vec<&Failure>> = HashMap::new();
    for record in records {
        match record {
            Record::Check(check) => {
                let kept = checks.entry(&check.case).or_insert(check);
                if kept.passed {
                    *kept = check;
                }
            }
            Record::Failure(failure) => failures.entry(&failure.case).or_default().push(failure),
            Record::Run(_)
            | Record::Session(_)
            | Record::Sample(_)
            | Record::Bandwidth(_)
            | Record::Peak(_)
            | Record::Idle(_)
            | Record::Overhead(_) => {}
        }
    }
    let figures: Vec<Vec<Round>> = header
        .cases
        .par_iter()
        .map(|case| {
            let complete = rounds.get(case.id.as_str()).map(Vec::as_slice).unwrap_or_default();
            complete.iter().map(|phases| Round::new(phases, case, &bandwidths, &peaks)).collect()
        })
        .collect();
    let rows: Vec<Row> = header
        .cases
        .par_iter()
        .zip(&figures)
        .map(|(case, rounds)| {
            let check = checks.get(case.id.as_str()).copied();
            let failures = failures.get(case.id.as_str()).map(Vec::as_slice).unwrap_or_default();
            row(header, case, rounds, &idles, status(header.rounds, rounds, check, failures), check)
        })
        .collect();
    let speedups = speedup::speedups(&rows, &figures);
    let scaling = scaling::scaling(&rows, &figures);
    let tied = tied::pairs(&rows, &figures);
    let states = StateCounts::of(&header.cases, records);
    let overhead = overhead::overhead(records);
    let reproduction = header.reproduces.as_ref().and_then(|r| {
        let run = reproduce::Run { header, rows: &rows, rounds: &figures, speedups: &speedups };
        Some(reproduce::reproduction(Target::by_name(&r.target)?, &r.against, &run))
    });
    Ok(Summary {
        suite: header.suite.clone(),
        rounds: header.rounds,
        rows,
        speedups,
        scaling,
        tied,
        states,
        overhead,
        reproduction,
    })
}

fn status(planned: u32, rounds: &[Round], check: Option<&Check>, failures: &[&Failure]) -> Status {
    if let Some(check) = check.filter(|c| !c.passed) {
        return Status::Wrong(format!(
            "logits differ from {} by {:.2e}, {:.2e} is tolerated",
            check.reference, check.relative_difference, check.tolerance
        ));
    }
    let complete = rounds.len() as u32;
    if complete == planned {
        return Status::Ok;
    }
    // A failure that a later visit of the same round made good is history, not a result.
    let last = failures.iter().rev().find(|f| rounds.iter().all(|r| r.round != f.round));
    let described = last.map(|f| match f.kind {
        FailureKind::Skipped | FailureKind::Error | FailureKind::MemoryLimit => f.reason.clone(),
        FailureKind::Crashed => format!("crashed: {}", f.reason),
        FailureKind::TimedOut => format!("timed out: {}", f.reason),
    });
    match (complete, last, described) {
        (0, Some(f), Some(text)) if f.kind == FailureKind::Skipped => Status::Skipped(text),
        (0, Some(f), Some(text)) if f.kind == FailureKind::MemoryLimit => Status::OverLimit(text),
        (0, _, Some(text)) => Status::Failed(text),
        (_, Some(f), Some(text)) => {
            Status::Incomplete { complete, planned, why: Some(format!("round {}: {text}", f.round)) }
        }
        _ => Status::Incomplete { complete, planned, why: None },
    }
}

fn row(
    header: &RunHeader,
    case: &Case,
    complete: &[Round],
    idles: &Idles,
    status: Status,
    check: Option<&Check>,
) -> Row {
    // A fast wrong kernel has no speed: what it measured stays among the samples only.
    let (rounds, absent) = match status {
        Status::Wrong(_) => (&[][..], "the check of the logits failed"),
        _ => (complete, "no complete round"),
    };
    let median = |values: &mut dyn Iterator<Item = f64>| Spread::of(values).map(|s| s.median);
    let mut notes = Vec::new();
    for round in rounds {
        if let Work::Load { kept: Some(KeptWeights::NotWritten(why)), .. } = &round.load.work {
            notes.push(format!("round {}: packed weights could not be kept: {why}", round.round));
        }
    }
    if let Some(tied) = &case.tied {
        notes.push(format!(
            "measured on tied layers: the weights of {} are stored, {} are computed",
            tied.unique_layers, tied.layers
        ));
    }
    for round in rounds {
        for (name, sample) in [("load", round.load), ("prefill", round.prefill), ("decode", round.decode)] {
            if sample.wall_ns == 0 {
                notes.push(format!("round {}: the {name} window has no length", round.round));
            }
        }
    }
    if !rounds.is_empty() && rounds.iter().all(|r| r.steps == 0) {
        notes.push("no decode step: one token was generated, and it comes from the prefill".to_owned());
    }
    let latencies = rounds.iter().flat_map(|r| match &r.decode.work {
        Work::Decode { latencies_ns, .. } => latencies_ns.as_slice(),
        Work::Load { .. } | Work::Prefill { .. } => &[],
    });
    Row {
        case: case.clone(),
        rounds: complete.len() as u32,
        status,
        check: check.cloned(),
        load_ms: median(&mut rounds.iter().filter(|r| !was_read(r.load)).map(|r| ms(r.load.wall_ns))),
        load_kept_ms: median(&mut rounds.iter().filter(|r| was_read(r.load)).map(|r| ms(r.load.wall_ns))),
        prefill_tok_s: Spread::of(rounds.iter().filter_map(|r| r.prefill_tok_s)),
        decode_tok_s: Spread::of(rounds.iter().filter_map(|r| r.decode_tok_s)),
        decode_roofline_percent: over_rounds(rounds, absent, |r| &r.roofline_percent).map(|s| s.median),
        decode_roofline_tok_s: median(&mut rounds.iter().filter_map(|r| r.roofline_tok_s.value().copied())),
        ttft_ms: median(&mut rounds.iter().map(|r| ms(r.prefill.wall_ns)).filter(|&t| t > 0.0)),
        latency: Latency::of(latencies.copied().collect()),
        memory: memory(rounds, absent),
        memory_use: memory::memory_use(header, case, rounds, absent),
        decode_cpu_s_per_token: median(
            &mut rounds.iter().filter(|r| r.steps > 0).map(|r| r.decode.cpu_ns as f64 / 1e9 / r.steps as f64),
        ),
        decode_cpu_cores: median(
            &mut rounds
                .iter()
                .filter(|r| r.decode.wall_ns > 0)
                .map(|r| r.decode.cpu_ns as f64 / r.decode.wall_ns as f64),
        ),
        bytes_per_token: median(&mut rounds.iter().map(|r| r.bytes_per_token.0 as f64)),
        bandwidth_bytes_per_s: median(&mut rounds.iter().filter_map(|r| r.bandwidth)),
        stream_bytes_per_s: median(&mut rounds.iter().filter_map(|r| r.stream)),
        energy_j_per_token: over_rounds(rounds, absent, |r| &r.energy_j_per_token),
        energy: energy::energy_use(case, rounds, idles, &header.stated, absent),
        profile: {
            let prefill: Vec<&Sample> = rounds.iter().map(|r| r.prefill).collect();
            let decode: Vec<&Sample> = rounds.iter().map(|r| r.decode).collect();
            let phases = [(Phase::Prefill, prefill), (Phase::Decode, decode)];
            phases.iter().filter_map(|(phase, samples)| profile::breakdown(*phase, samples)).collect()
        },
        prefill_roofline_percent: over_rounds(rounds, absent, |r| &r.prefill_roofline_percent)
            .map(|s| s.median),
        prefill_roofline_tok_s: median(
            &mut rounds.iter().filter_map(|r| r.prefill_roofline_tok_s.value().copied()),
        ),
        peak_int8_mac_per_s: median(&mut rounds.iter().filter_map(|r| r.peak?.int8_mac_per_s)),
        peak_f32_mac_per_s: median(&mut rounds.iter().filter_map(|r| r.peak?.f32_mac_per_s)),
        prefill_mac_per_token: median(&mut rounds.iter().filter_map(|r| r.prefill_mac_per_token)),
        parameters: median(&mut rounds.iter().filter_map(|r| r.parameters())),
        notes,
    }
}

fn memory(rounds: &[Round], absent: &str) -> Figure<Memory> {
    let samples = || rounds.iter().flat_map(|r| [r.load, r.prefill, r.decode]);
    let readings = || samples().filter_map(|s| s.memory.value());
    let most = |f: fn(&MemoryReading) -> Bytes| readings().map(f).max();
    let steady = |f: fn(&MemoryReading) -> Bytes| {
        let at_the_end = rounds.iter().filter_map(|r| r.decode.memory.value());
        Spread::of(at_the_end.map(|m| f(m).0 as f64)).map(|s| Bytes(s.median.round() as u64))
    };
    let memory = || {
        Some(Memory {
            peak: most(|m| m.peak_rss)?,
            anon: steady(|m| m.anon)?,
            file: steady(|m| m.file)?,
            peak_anon: most(|m| m.anon)?,
            peak_file: most(|m| m.file)?,
        })
    };
    Figure::derived(memory(), samples().map(|s| &s.memory), absent)
}

/// Summarises a figure over the rounds that have it; the provenance says if some lack it, and one
/// simulated value makes the summary a simulated one.
fn over_rounds<'a>(
    rounds: &'a [Round<'a>],
    absent: &str,
    figure: impl Fn(&'a Round<'a>) -> &'a Figure<f64>,
) -> Figure<Spread> {
    over_figures(rounds.iter().map(figure), absent)
}

/// As [`over_rounds`], of a figure of each round.
fn over_figures<'a>(figures: impl Iterator<Item = &'a Figure<f64>>, absent: &str) -> Figure<Spread> {
    let figures: Vec<&Figure<f64>> = figures.collect();
    let spread = Spread::of(figures.iter().filter_map(|f| f.value().copied()));
    let (of, rounds) = (spread.map_or(0, |s| s.rounds), figures.len());
    Figure::derived(spread, figures, absent).described(|by| match of == rounds {
        true => by.to_owned(),
        false => format!("{by} ({of} of {rounds} rounds)"),
    })
}

/// Whether a load found its weights packed.
fn was_read(load: &Sample) -> bool {
    matches!(load.work, Work::Load { kept: Some(KeptWeights::Read), .. })
}
