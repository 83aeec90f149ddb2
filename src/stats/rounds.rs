//! What one round of one case says, before anything is summarised over rounds.

use std::collections::{BTreeSet, HashMap};

use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::journal::{Case, Phase, PrefillCost, Record, RunHeader, Sample, Work};
use crate::stats::per_second;
use crate::units::{Bytes, BytesPerS, MacPerS};

/// The three samples of a complete round.
pub(super) struct Phases<'a> {
    round: u32,
    load: &'a Sample,
    prefill: &'a Sample,
    decode: &'a Sample,
}

/// Whether a failure of that name is of no case: of a probe of the machine, or of making reference logits.
fn is_probe(name: &str) -> bool {
    ["bandwidth/", "peak/", "reference/", "idle", "overhead"].iter().any(|probe| name.starts_with(probe))
}

/// The complete rounds of each case, by its identity, in the order of the rounds.
///
/// # Errors
/// [`Error::Input`] if the records contradict the plan or each other.
pub(super) fn rounds_of<'a>(
    header: &'a RunHeader,
    records: &'a [Record],
) -> Result<HashMap<&'a str, Vec<Phases<'a>>>> {
    let mut planned: HashMap<&str, HashMap<(u32, Phase), &Sample>> = HashMap::new();
    for case in &header.cases {
        if planned.insert(&case.id, HashMap::new()).is_some() {
            return Err(Error::input(format!("the journal plans the case {} twice", case.id)));
        }
    }
    for record in records {
        let (case, round) = match record {
            Record::Sample(s) => (&s.case, Some(s.round)),
            Record::Check(c) => (&c.case, None),
            Record::Failure(f) if !is_probe(&f.case) => (&f.case, Some(f.round)),
            Record::Failure(_)
            | Record::Run(_)
            | Record::Session(_)
            | Record::Bandwidth(_)
            | Record::Peak(_)
            | Record::Idle(_)
            | Record::Overhead(_) => continue,
        };
        let Some(samples) = planned.get_mut(case.as_str()) else {
            return Err(Error::input(format!("the journal holds a record of {case}, which was not planned")));
        };
        if let Some(round) = round.filter(|r| !(1..=header.rounds).contains(r)) {
            return Err(Error::input(format!(
                "the journal holds round {round} of {case}, but rounds 1 to {} were planned",
                header.rounds
            )));
        }
        let Record::Sample(sample) = record else { continue };
        if let Work::Decode { tokens, latencies_ns, .. } = &sample.work
            && latencies_ns.len() != tokens.len().saturating_sub(1)
        {
            return Err(Error::input(format!(
                "round {} of {case} has {} latencies for {} generated tokens; one less than tokens is right",
                sample.round,
                latencies_ns.len(),
                tokens.len()
            )));
        }
        if samples.insert((sample.round, sample.phase()), sample).is_some() {
            return Err(Error::input(format!(
                "the journal holds the {} phase of {case} twice in round {}",
                phase_name(sample.phase()),
                sample.round
            )));
        }
    }
    Ok(planned
        .into_iter()
        .map(|(case, samples)| {
            let at = |round, phase| samples.get(&(round, phase)).copied();
            // Those that are there, not those that were planned: a journal may plan billions.
            let rounds: BTreeSet<u32> = samples.keys().map(|(round, _)| *round).collect();
            let complete = rounds.into_iter().filter_map(|round| {
                Some(Phases {
                    round,
                    load: at(round, Phase::Load)?,
                    prefill: at(round, Phase::Prefill)?,
                    decode: at(round, Phase::Decode)?,
                })
            });
            (case, complete.collect())
        })
        .collect())
}

/// The name of a phase in messages and tables.
pub(crate) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Load => "load",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    }
}

/// The figures of one complete round of one case.
pub(super) struct Round<'a> {
    pub(super) round: u32,
    pub(super) load: &'a Sample,
    pub(super) prefill: &'a Sample,
    pub(super) decode: &'a Sample,
    /// Decode steps.
    pub(super) steps: usize,
    pub(super) bytes_per_token: Bytes,
    pub(super) prefill_tok_s: Option<f64>,
    pub(super) decode_tok_s: Option<f64>,
    pub(super) bandwidth: Option<f64>,
    pub(super) stream: Option<f64>,
    pub(super) roofline_tok_s: Figure<f64>,
    pub(super) roofline_percent: Figure<f64>,
    /// Highest rates of the compute peak probe.
    pub(super) peak: Option<Peak>,
    pub(super) prefill_mac_per_token: Option<f64>,
    pub(super) prefill_roofline_tok_s: Figure<f64>,
    pub(super) prefill_roofline_percent: Figure<f64>,
    pub(super) energy_j_per_token: Figure<f64>,
}

impl<'a> Round<'a> {
    pub(super) fn new(phases: &Phases<'a>, case: &Case, bandwidths: &Bandwidths, peaks: &Peaks) -> Round<'a> {
        let &Phases { round, load, prefill, decode } = phases;
        let (steps, bytes_per_token, stream) = match &decode.work {
            Work::Decode { latencies_ns, bytes_per_token, stream, .. } => {
                (latencies_ns.len(), *bytes_per_token, stream.as_slice())
            }
            Work::Load { .. } | Work::Prefill { .. } => (0, Bytes(0), &[][..]),
        };
        let (prompt, cost) = match &prefill.work {
            Work::Prefill { prompt, cost, .. } => (prompt.len(), cost.as_ref()),
            Work::Load { .. } | Work::Decode { .. } => (0, None),
        };
        let peak = peaks.of(round, &case.isa, case.threads);
        let prefill_tok_s = per_second(prompt, prefill.wall_ns);
        let prefill_roofline_tok_s = prefill_roofline_tok_s(prompt, cost, peak, stream);
        let decode_tok_s = per_second(steps, decode.wall_ns);
        let roofline_tok_s = roofline_tok_s(stream, bytes_per_token);
        Round {
            round,
            load,
            prefill,
            decode,
            steps,
            bytes_per_token,
            prefill_tok_s,
            decode_tok_s,
            bandwidth: bandwidths.of(round, case.threads),
            stream: highest(stream),
            roofline_percent: percent_of("decode", decode_tok_s, &roofline_tok_s),
            roofline_tok_s,
            peak,
            prefill_mac_per_token: cost
                .filter(|_| prompt > 0)
                .map(|cost| (cost.int8_macs as f64 + cost.f32_macs as f64) / prompt as f64),
            prefill_roofline_percent: percent_of("prefill", prefill_tok_s, &prefill_roofline_tok_s),
            prefill_roofline_tok_s,
            energy_j_per_token: match (decode.phase_energy().map(|e| e.energy_j.0), steps) {
                (Figure::Unavailable { why }, _) => Figure::Unavailable { why },
                (_, 0) => Figure::unavailable("no decode step"),
                (energy, steps) => energy.map(|j| j / steps as f64),
            },
        }
    }
}

impl Round<'_> {
    /// Weights that a decode step multiplies: of the linear layers and of the output projection.
    pub(super) fn parameters(&self) -> Option<f64> {
        match &self.decode.work {
            Work::Decode { macs: Some(macs), .. } if self.steps > 0 => {
                Some((macs.linear as f64 + macs.head as f64) / self.steps as f64)
            }
            Work::Load { .. } | Work::Prefill { .. } | Work::Decode { .. } => None,
        }
    }
}

/// 100 × `rate` of `phase` ÷ `roofline`, with the roofline's provenance.
pub(crate) fn percent_of(phase: &str, rate: Option<f64>, roofline: &Figure<f64>) -> Figure<f64> {
    let Some(rate) = rate else { return Figure::unavailable(format!("no {phase} rate")) };
    let percent = roofline.clone().map(|bound| 100.0 * rate / bound);
    if percent.value().is_some_and(|p| !p.is_finite()) {
        return Figure::unavailable("the roofline rate is impossible");
    }
    percent
}

/// The machine's read bandwidth in each round with each thread count: the highest pass of the probe.
pub struct Bandwidths(HashMap<(u32, u32), f64>);

impl Bandwidths {
    /// Collects the bandwidth samples of a journal.
    pub fn new(records: &[Record]) -> Bandwidths {
        let mut best = HashMap::new();
        for record in records {
            if let Record::Bandwidth(b) = record
                && let Some(rate) = highest(&b.passes)
            {
                let kept = best.entry((b.round, b.threads)).or_insert(rate);
                *kept = kept.max(rate);
            }
        }
        Bandwidths(best)
    }

    /// Bytes per second in `round` with `threads` threads reading.
    pub fn of(&self, round: u32, threads: u32) -> Option<f64> {
        self.0.get(&(round, threads)).copied()
    }
}

/// The highest of some rates; readings that no clock can give are left out.
pub(crate) fn highest(rates: &[BytesPerS]) -> Option<f64> {
    largest(rates.iter().map(|r| r.0))
}

fn largest(rates: impl Iterator<Item = f64>) -> Option<f64> {
    rates.filter(|r| r.is_finite() && *r > 0.0).reduce(f64::max)
}

/// Multiply-accumulates per second of the machine: the highest passes of the probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Peak {
    pub(super) int8_mac_per_s: Option<f64>,
    pub(super) f32_mac_per_s: Option<f64>,
}

/// The machine's peaks in each round, instruction set and thread count.
pub(super) struct Peaks<'a>(HashMap<(u32, &'a str, u32), Peak>);

impl<'a> Peaks<'a> {
    /// Collects the peaks of a journal.
    pub(super) fn new(records: &'a [Record]) -> Peaks<'a> {
        let mut best = HashMap::new();
        for record in records {
            if let Record::Peak(p) = record {
                let with =
                    |kept: Option<f64>, rates: &[MacPerS]| largest(rates.iter().map(|r| r.0).chain(kept));
                let kept = best
                    .entry((p.round, p.isa.as_str(), p.threads))
                    .or_insert(Peak { int8_mac_per_s: None, f32_mac_per_s: None });
                kept.int8_mac_per_s = with(kept.int8_mac_per_s, &p.int8);
                kept.f32_mac_per_s = with(kept.f32_mac_per_s, &p.f32);
            }
        }
        Peaks(best)
    }

    fn of(&self, round: u32, isa: &'a str, threads: u32) -> Option<Peak> {
        self.0.get(&(round, isa, threads)).copied()
    }
}

/// The most prompt tokens per second that arithmetic and memory allow: the multiply-accumulates of each
/// kind take the time of the peak probe, one kind after the other, and all of it not less than reading
/// the weights once. `stream` is that of the decode sample of the same visit.
fn prefill_roofline_tok_s(
    prompt: usize,
    cost: Option<&PrefillCost>,
    peak: Option<Peak>,
    stream: &[BytesPerS],
) -> Figure<f64> {
    let Some(cost) = cost else {
        return Figure::unavailable("what the prefill costs was not recorded (journal of an older version)");
    };
    // What is not done needs no rate.
    let seconds = |macs: u64, rate: Option<f64>| match macs {
        0 => Some(0.0),
        _ => rate.map(|rate| macs as f64 / rate),
    };
    let (int8, f32) = peak.map_or((None, None), |p| (p.int8_mac_per_s, p.f32_mac_per_s));
    let (Some(int8), Some(f32)) = (seconds(cost.int8_macs, int8), seconds(cost.f32_macs, f32)) else {
        return Figure::unavailable("the compute peak was not measured in this round");
    };
    let Some(read) = seconds(cost.read_bytes.0, highest(stream)) else {
        return Figure::unavailable("the rate of reading the weights was not measured");
    };
    let bound = prompt as f64 / (int8 + f32).max(read);
    if bound.is_normal() {
        Figure::measured(bound, "compute peak probe, reading the weights")
    } else {
        Figure::unavailable("the roofline rate is impossible")
    }
}

/// The most decode steps per second that memory allows: the rate at which the same threads read the
/// weights, ÷ bytes per token. `stream` and `bytes_per_token` are those of the decode sample.
pub(crate) fn roofline_tok_s(stream: &[BytesPerS], bytes_per_token: Bytes) -> Figure<f64> {
    if bytes_per_token.0 == 0 {
        return Figure::unavailable("the bytes that a step reads are not known");
    }
    match highest(stream).map(|rate| rate / bytes_per_token.0 as f64) {
        Some(bound) if bound.is_normal() => Figure::measured(bound, "reading the weights"),
        _ => Figure::unavailable("the rate of reading the weights was not measured"),
    }
}
