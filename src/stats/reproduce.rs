//! Published tables held against a run: ratios, a verdict by a stated rule, and trends.
//!
//! Absolute speeds belong to machines, so only ratios are judged, each against the same ratio of each
//! published machine. The rule: **reproduced** if the published ratio lies within the run's range over the
//! rounds, or within [`TOLERANCE`] of its median; else **exceeded** or **not reached**. A ratio that
//! cannot be had here is **not testable here**, with the reason.

use std::fmt;

use serde::Deserialize;

use crate::figure::Figure;
use crate::journal::{Case, RunHeader, TiedLayers};
use crate::published::{Target, rows};
use crate::stats::arithmetic;
use crate::stats::rounds::Round;
use crate::stats::{BASELINES, Row, Speedup, Spread, Status};
use crate::units::{Bytes, BytesPerS};

/// How far, relative to the median, a published ratio may lie from it and still be reproduced.
pub const TOLERANCE: f64 = 0.10;

/// Kendall's tau from which a ratio is said to grow with the size of the model.
pub const GROWS: f64 = 0.6;

const SPEED: &str = include_str!("../../suites/published/speed_2410.16144.csv");
const ENERGY: &str = include_str!("../../suites/published/energy_2410.16144.csv");
const EFFICIENCY: &str = include_str!("../../suites/published/efficiency_2504.12285.csv");
const KERNELS: &str = include_str!("../../suites/published/kernels_2026-01.csv");

/// What a published ratio came to here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The same, by the rule.
    Reproduced,
    /// More.
    Exceeded,
    /// Less.
    NotReached,
    /// Nothing can be said, and why.
    NotTestable(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Reproduced => f.write_str("reproduced"),
            Verdict::Exceeded => f.write_str("exceeded"),
            Verdict::NotReached => f.write_str("not reached"),
            Verdict::NotTestable(why) => write!(f, "not testable here: {why}"),
        }
    }
}

/// A published figure beside what was found here.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The published machine.
    pub cpu: String,
    /// The published model, test or thread count.
    pub subject: String,
    /// What the ratio is of: `decode speedup`.
    pub quantity: &'static str,
    /// The published value of the baseline, in `unit`, where there is one.
    pub published_baseline: Option<f64>,
    /// The published value.
    pub published_value: Option<f64>,
    /// Unit of both.
    pub unit: &'static str,
    /// The published ratio, the larger the better.
    pub published_ratio: Option<f64>,
    /// Kernel that was measured here, if any.
    pub kernel: Option<String>,
    /// Weights that a token is multiplied with in the model that was measured here.
    pub parameters: Option<f64>,
    /// That it was measured on tied layers.
    pub tied: Option<TiedLayers>,
    /// What this run has for the baseline, in `unit`; median.
    pub here_baseline: Figure<f64>,
    /// What it has for the value, in `unit`; median.
    pub here_value: Figure<f64>,
    /// The ratio here, over the rounds.
    pub here_ratio: Figure<Spread>,
    /// By the rule.
    pub verdict: Verdict,
}

/// The quantity whose ratios are energies.
const SAVED: &str = "energy of the baseline over energy";

impl Comparison {
    /// Whether the ratio is that of two energies of a token, so that it says how much is saved.
    pub fn saves_energy(&self) -> bool {
        self.quantity == SAVED
    }
}

/// Whether a ratio grows with the size of the model, published and here.
#[derive(Debug, Clone, PartialEq)]
pub struct Trend {
    /// The published machine.
    pub cpu: String,
    /// Kernel that was measured here.
    pub kernel: String,
    /// Sizes that both have.
    pub sizes: usize,
    /// How many of them were measured on tied layers.
    pub tied: usize,
    /// Kendall's tau of size and published ratio.
    pub published_tau: f64,
    /// Kendall's tau of size and ratio here.
    pub here_tau: f64,
}

impl Trend {
    /// What the taus come to.
    pub fn verdict(&self) -> &'static str {
        match (self.published_tau >= GROWS, self.here_tau >= GROWS) {
            (true, true) => "grows with size, as published",
            (true, false) => "does not grow with size as published",
            (false, true) => "grows with size, which the published one does not",
            (false, false) => "does not grow with size, nor does the published one",
        }
    }
}

/// A run held against a published table.
#[derive(Debug, Clone)]
pub struct Reproduction {
    /// The table.
    pub target: Target,
    /// The kernel that ratios divide by, where they divide by one.
    pub against: Option<String>,
    /// Rounds of the run.
    pub rounds: u32,
    /// Every published figure, for each kernel that was measured for it.
    pub comparisons: Vec<Comparison>,
    /// How ratios go with size.
    pub trends: Vec<Trend>,
    /// The largest model against the speed at which people read; only for speeds.
    pub reading: Option<Reading>,
}

/// Speed at which people read, tokens per second: "5-7 tokens per second" (arXiv:2410.16144).
pub const READING_TOK_S: (f64, f64) = (5.0, 7.0);

/// What the largest model of a run would need to be as fast as people read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The fastest ternary case of that model.
    pub case: Case,
    /// What it decoded, tokens per second; median.
    pub decode_tok_s: f64,
    /// Bytes that a token reads.
    pub bytes_per_token: Bytes,
    /// The rate at which its threads read its weights here; median over the rounds.
    pub stream: Figure<BytesPerS>,
}

impl Reading {
    /// The rate of reading that the lower end of [`READING_TOK_S`] needs.
    pub fn needed(&self) -> BytesPerS {
        BytesPerS(self.bytes_per_token.0 as f64 * READING_TOK_S.0)
    }
}

fn reading(run: &Run) -> Option<Reading> {
    let rated = || run.rows.iter().filter(|r| r.usable() && r.decode_tok_s.is_some());
    let size = |row: &Row| row.parameters.unwrap_or(0.0);
    let largest = rated().max_by(|a, b| size(a).total_cmp(&size(b)))?;
    let rate = |row: &Row| row.decode_tok_s.map_or(0.0, |s| s.median);
    let fastest = ternary(&largest.case.model, run)
        .into_iter()
        .filter(|r| r.usable())
        .max_by(|a, b| rate(a).total_cmp(&rate(b)))?;
    Some(Reading {
        case: fastest.case.clone(),
        decode_tok_s: fastest.decode_tok_s?.median,
        bytes_per_token: fastest
            .bytes_per_token
            .map(|bytes| Bytes(bytes.round() as u64))
            .filter(|b| b.0 > 0)?,
        stream: match fastest.stream_bytes_per_s {
            Some(rate) => Figure::measured(BytesPerS(rate), "reads of the weights"),
            None => Figure::unavailable("the weights were not read on their own"),
        },
    })
}

#[derive(Deserialize)]
struct SpeedRow {
    cpu: String,
    model: String,
    llama_cpp_f16_tok_s: Option<f64>,
    bitnet_cpp_tok_s: Option<f64>,
}

#[derive(Deserialize)]
struct EnergyRow {
    cpu: String,
    model: String,
    llama_cpp_f16_j_per_token: Option<f64>,
    bitnet_cpp_j_per_token: Option<f64>,
}

#[derive(Deserialize)]
struct EfficiencyRow {
    model: String,
    memory_gb: f64,
    decode_latency_ms: f64,
}

#[derive(Deserialize)]
struct KernelRow {
    cpu: String,
    test: String,
    threads: u32,
    latest_tok_s: f64,
}

/// What a run has, for [`reproduction`].
pub(super) struct Run<'a> {
    pub(super) header: &'a RunHeader,
    pub(super) rows: &'a [Row],
    pub(super) rounds: &'a [Vec<Round<'a>>],
    pub(super) speedups: &'a [Speedup],
}

/// Holds a run against `target`, ratios against the kernel `against`.
pub(super) fn reproduction(target: Target, against: &str, run: &Run) -> Reproduction {
    let comparisons = match target {
        Target::Speed => rows::<SpeedRow>(SPEED)
            .flat_map(|row| {
                let published = [row.llama_cpp_f16_tok_s, row.bitnet_cpp_tok_s];
                let subject = Subject { cpu: row.cpu, size: row.model, unit: "tokens/s", published };
                speed(&subject, against, run)
            })
            .collect(),
        Target::Energy => rows::<EnergyRow>(ENERGY)
            .flat_map(|row| {
                let published = [row.llama_cpp_f16_j_per_token, row.bitnet_cpp_j_per_token];
                let subject = Subject { cpu: row.cpu, size: row.model, unit: "J/token", published };
                energy(&subject, against, run)
            })
            .collect(),
        Target::Efficiency => efficiency(run),
        Target::Kernels => scaling(run),
    };
    let trends = if target == Target::Speed { trends(&comparisons) } else { Vec::new() };
    let reading = (target == Target::Speed).then(|| reading(run)).flatten();
    let against = target.has_baseline().then(|| against.to_owned());
    Reproduction { target, against, rounds: run.header.rounds, comparisons, trends, reading }
}

/// A published row: the baseline's value and the other's.
struct Subject {
    cpu: String,
    size: String,
    unit: &'static str,
    published: [Option<f64>; 2],
}

impl Subject {
    /// The label of the model that stands for the published size here.
    fn model(&self) -> &str {
        // geometries.csv: the charts call the 2.7B model 2.5B.
        if self.size == "2.5B" { "2.7B" } else { &self.size }
    }

    fn compare(
        &self,
        quantity: &'static str,
        published_ratio: Option<f64>,
        kernel: Option<&str>,
        [here_baseline, here_value]: [Figure<f64>; 2],
        ratio: Figure<Spread>,
    ) -> Comparison {
        let verdict = verdict(published_ratio, &ratio);
        Comparison {
            cpu: self.cpu.clone(),
            subject: self.size.clone(),
            quantity,
            published_baseline: self.published[0],
            published_value: self.published[1],
            unit: self.unit,
            published_ratio,
            kernel: kernel.map(str::to_owned),
            parameters: None,
            tied: None,
            here_baseline,
            here_value,
            here_ratio: ratio,
            verdict,
        }
    }
}

/// The rule.
fn verdict(published: Option<f64>, here: &Figure<Spread>) -> Verdict {
    let Some(published) = published else {
        return Verdict::NotTestable("there is no published ratio".to_owned());
    };
    match here.found() {
        Err(why) => Verdict::NotTestable(why.to_owned()),
        Ok((here, _)) => {
            let within = (here.min..=here.max).contains(&published);
            if within || (published / here.median - 1.0).abs() <= TOLERANCE {
                Verdict::Reproduced
            } else if here.median > published {
                Verdict::Exceeded
            } else {
                Verdict::NotReached
            }
        }
    }
}

/// Ternary cases of a model with the most threads that the run has.
fn ternary<'a>(model: &str, run: &'a Run) -> Vec<&'a Row> {
    let threads = run.rows.iter().map(|r| r.case.threads).max();
    let of = |case: &Case| {
        case.model == model
            && Some(case.threads) == threads
            && bitjoule_kernels::Kernel::by_name(&case.kernel).is_some_and(|k| k.is_ternary())
    };
    run.rows.iter().filter(|row| of(&row.case)).collect()
}

/// The baseline's row that a speedup divides by.
fn baseline<'a>(speedup: &Speedup, run: &'a Run) -> Option<&'a Row> {
    run.rows.iter().find(|row| {
        let (a, b) = (&row.case, &speedup.case);
        a.kernel == speedup.baseline
            && Some(&a.isa) == speedup.baseline_isa.as_ref()
            && a.model == b.model
            && a.same_work(b)
    })
}

/// One comparison for each ternary case of the subject's model, of a figure of rows and of its ratio.
fn each_kernel(
    subject: &Subject,
    (quantity, published): (&'static str, Option<f64>),
    against: &str,
    run: &Run,
    figure: fn(&Row) -> Figure<f64>,
    ratio: impl Fn(&Speedup) -> Figure<Spread>,
) -> Vec<Comparison> {
    let cases = ternary(subject.model(), run);
    if cases.is_empty() {
        let left_out = run.header.left_out.iter().find(|left| left.model == subject.model());
        let why = left_out.map_or("the suite does not measure this size", |left| &left.why);
        return vec![subject.compare(quantity, published, None, neither(why), Figure::unavailable(why))];
    }
    cases
        .into_iter()
        .map(|row| {
            let speedup = run.speedups.iter().find(|s| s.case.id == row.case.id && s.baseline == against);
            let without = |why: String| (Figure::unavailable(why.clone()), Figure::unavailable(why));
            let (base, ratio) = match speedup {
                Some(speedup) => {
                    let none = || Figure::unavailable(speedup.status.as_str());
                    (baseline(speedup, run).map_or_else(none, figure), ratio(speedup))
                }
                None if !row.usable() => without(row.status.to_string()),
                None if !BASELINES.contains(&against) => without(
                    "bitjoule does not run this baseline; divide by its own figures by hand, or take --against f16"
                        .to_owned(),
                ),
                None => without(format!("the suite measures no {against} of this size")),
            };
            let tied = row.case.tied.clone();
            let ratio = match &tied {
                Some(tied) => ratio.described(|by| format!("{by}, {tied} layers")),
                None => ratio,
            };
            let here = [base, figure(row)];
            let of_kernel = subject.compare(quantity, published, Some(&row.case.kernel), here, ratio);
            Comparison { tied, parameters: row.parameters, ..of_kernel }
        })
        .collect()
}

/// Neither a baseline's value nor another.
fn neither(why: &str) -> [Figure<f64>; 2] {
    [Figure::unavailable(why), Figure::unavailable(why)]
}

/// The median of a rate.
fn median(rate: Option<Spread>, status: &Status) -> Figure<f64> {
    match (rate, status) {
        (Some(rate), _) => Figure::measured(rate.median, "monotonic clock"),
        (None, Status::Ok) => Figure::unavailable("no tokens were timed"),
        (None, status) => Figure::unavailable(status.to_string()),
    }
}

fn speed(subject: &Subject, against: &str, run: &Run) -> Vec<Comparison> {
    let [baseline, value] = subject.published;
    let published = baseline.zip(value).map(|(baseline, value)| value / baseline);
    let quantity = ("decode speedup", published);
    each_kernel(
        subject,
        quantity,
        against,
        run,
        |row| median(row.decode_tok_s, &row.status),
        |speedup| match speedup.decode {
            Some(ratio) => Figure::measured(ratio, "monotonic clock"),
            // It may be ok for the prefill's sake.
            None if speedup.prefill.is_some() => Figure::unavailable("no decode steps were timed"),
            None => Figure::unavailable(speedup.status.clone()),
        },
    )
}

fn energy(subject: &Subject, against: &str, run: &Run) -> Vec<Comparison> {
    let [baseline, value] = subject.published;
    let published = baseline.zip(value).map(|(baseline, value)| baseline / value);
    let quantity = (SAVED, published);
    let joules = |row: &Row| row.energy_j_per_token.clone().map(|s| s.median);
    each_kernel(subject, quantity, against, run, joules, |speedup| saved(speedup, run))
}

/// The baseline's energy of a token over the case's, within each round.
fn saved(speedup: &Speedup, run: &Run) -> Figure<Spread> {
    let rounds_of = |case: &Case| Some(&run.rounds[run.rows.iter().position(|r| r.case.id == case.id)?]);
    let (ours, theirs) =
        (rounds_of(&speedup.case), baseline(speedup, run).and_then(|row| rounds_of(&row.case)));
    let ratios = ours.into_iter().flatten().filter_map(|our| {
        let their = theirs?.iter().find(|their| their.round == our.round)?;
        let ratio = their.energy_j_per_token.value()? / our.energy_j_per_token.value()?;
        ratio.is_finite().then_some(ratio)
    });
    match Spread::of(ratios) {
        Some(ratios) => speedup.energy_ratio.clone().map(|_| ratios),
        None => {
            Figure::unavailable(speedup.energy_ratio.found().err().unwrap_or("no round has both energies"))
        }
    }
}

fn modelled<T>(value: T, by: &str) -> Figure<T> {
    Figure::Modelled { value, by: by.to_owned() }
}

/// Memory and estimated energy follow from geometries, for 2B4T and the models it is compared with. The latency
/// of 2B4T is that of its fastest kernel in this run; those of the others would need their engines.
fn efficiency(run: &Run) -> Vec<Comparison> {
    const BITNET: &str = "BitNet b1.58 2B4T";
    const CPU: &str = "any (arXiv:2504.12285)";
    const WEIGHTS: &str = "weights of the geometry, 1.58 against 16 bits";
    const PASS: &str = "arithmetic of a pass over 512 tokens at 7 nm";
    let published: Vec<EfficiencyRow> = rows(EFFICIENCY).collect();
    let bitnet = published.iter().find(|r| r.model == BITNET).expect("the table has 2B4T");
    let estimates = arithmetic::published();
    let geometries = arithmetic::geometries();
    let weights = |model: &str| {
        let of = geometries.iter().find(|g| g.model == model).expect("a geometry for each model");
        of.linear_weights() as f64
    };
    let energy = |model: &str| {
        let of = estimates.iter().find(|e| e.model == model).expect("an estimate for each model");
        (of.published_j.0, of.pass_j.0)
    };
    // Non-embedding weights: log2(3) bits each in 2B4T, 16 in the others.
    let gigabytes = |model: &str| {
        let bits = if model == BITNET { 3f64.log2() } else { 16.0 };
        weights(model) * bits / 8e9
    };
    let exactly = |ratio: f64| Spread { median: ratio, min: ratio, max: ratio, rounds: 1 };
    let rate = |row: &&Row| row.decode_tok_s.map(|s| s.median);
    let cases = ternary("2B4T", run);
    let fastest = cases.iter().filter(|r| r.usable()).filter_map(|r| Some((rate(r)?, *r)));
    let fastest = fastest.max_by(|(a, _), (b, _)| a.total_cmp(b));
    let latency = || match fastest {
        Some((rate, _)) => Figure::measured(1000.0 / rate, "monotonic clock"),
        None => Figure::unavailable("this run has no decode speed of 2B4T"),
    };
    let mut comparisons = Vec::new();
    for other in published.iter().filter(|r| r.model != BITNET) {
        let subject = |unit, baseline, value| Subject {
            cpu: CPU.to_owned(),
            size: format!("2B4T against {}", other.model),
            unit,
            published: [Some(baseline), Some(value)],
        };
        let not_run = format!("bitjoule does not run {}", other.model);
        let (theirs, ours) = (gigabytes(&other.model), gigabytes(BITNET));
        comparisons.push(subject("GB", other.memory_gb, bitnet.memory_gb).compare(
            "memory without embedding",
            Some(other.memory_gb / bitnet.memory_gb),
            None,
            [theirs, ours].map(|gigabytes| modelled(gigabytes, WEIGHTS)),
            modelled(exactly(theirs / ours), WEIGHTS),
        ));
        comparisons.push(subject("ms", other.decode_latency_ms, bitnet.decode_latency_ms).compare(
            "decode latency",
            Some(other.decode_latency_ms / bitnet.decode_latency_ms),
            fastest.map(|(_, row)| row.case.kernel.as_str()),
            [Figure::unavailable(not_run.as_str()), latency()],
            Figure::unavailable(not_run.as_str()),
        ));
        let ((their_j, their_pass), (our_j, our_pass)) = (energy(&other.model), energy(BITNET));
        comparisons.push(subject("J", their_j, our_j).compare(
            "estimated energy",
            Some(their_j / our_j),
            None,
            [their_pass, our_pass].map(|joules| modelled(joules, PASS)),
            modelled(exactly(their_pass / our_pass), PASS),
        ));
    }
    comparisons
}

/// The thread counts of the table of thread scaling.
pub fn published_threads() -> Vec<u32> {
    rows::<KernelRow>(KERNELS).map(|row| row.threads).collect()
}

/// Rates with several threads over that with one, of prompts and of outputs as long as the published.
fn scaling(run: &Run) -> Vec<Comparison> {
    let published: Vec<KernelRow> = rows(KERNELS).collect();
    let mut comparisons = Vec::new();
    for row in published.iter().filter(|row| row.threads > 1) {
        let one = published.iter().find(|one| (&one.cpu, &one.test, one.threads) == (&row.cpu, &row.test, 1));
        let one = one.map(|one| one.latest_tok_s);
        let subject = Subject {
            cpu: row.cpu.clone(),
            size: format!("2B4T {}, {} threads over 1", row.test, row.threads),
            unit: "tokens/s",
            published: [one, Some(row.latest_tok_s)],
        };
        let ratio = one.map(|one| row.latest_tok_s / one);
        let (decode, length) = row.test.split_at(2);
        let (decode, length) = (decode == "tg", length.parse().ok());
        let cases: Vec<usize> = (0..run.rows.len())
            .filter(|&i| {
                let case = &run.rows[i].case;
                let ternary = bitjoule_kernels::Kernel::by_name(&case.kernel).is_some_and(|k| k.is_ternary());
                let tokens = if decode { case.n_gen } else { case.n_prompt };
                case.model == "2B4T" && case.threads == row.threads && ternary && Some(tokens) == length
            })
            .collect();
        if cases.is_empty() {
            let why = format!("this run has no {} with that many threads", row.test);
            let none = Figure::unavailable(why.as_str());
            comparisons.push(subject.compare("thread scaling", ratio, None, neither(&why), none));
        }
        for i in cases {
            let case = &run.rows[i].case;
            let alone = run.rows.iter().position(|r| {
                r.case.threads == 1
                    && (&r.case.model, &r.case.kernel, &r.case.isa) == (&case.model, &case.kernel, &case.isa)
                    && (r.case.n_prompt, r.case.n_gen) == (case.n_prompt, case.n_gen)
            });
            let rate_of = |i: usize| {
                let row: &Row = &run.rows[i];
                median(if decode { row.decode_tok_s } else { row.prefill_tok_s }, &row.status)
            };
            let none = || Figure::unavailable("no case with one thread");
            let here = [alone.map_or_else(none, rate_of), rate_of(i)];
            let why = here.iter().find_map(|figure| figure.found().err()).map(str::to_owned);
            let rate = |round: &Round| if decode { round.decode_tok_s } else { round.prefill_tok_s };
            let pairs = run.rounds[i].iter().filter_map(|r| {
                let one = run.rounds[alone?].iter().find(|one| one.round == r.round)?;
                Some(rate(r)? / rate(one)?)
            });
            let figure = match (why, Spread::of(pairs)) {
                (Some(why), _) => Figure::unavailable(why),
                (None, Some(ratios)) => Figure::measured(ratios, "monotonic clock"),
                (None, None) => Figure::unavailable("no round has both thread counts"),
            };
            comparisons.push(subject.compare("thread scaling", ratio, Some(&case.kernel), here, figure));
        }
    }
    comparisons
}

/// Of each published machine and kernel, whether the ratio grows with the size of the model.
fn trends(comparisons: &[Comparison]) -> Vec<Trend> {
    let mut trends: Vec<Trend> = Vec::new();
    for first in comparisons {
        let Some(kernel) = &first.kernel else { continue };
        if trends.iter().any(|t| (&t.cpu, &t.kernel) == (&first.cpu, kernel)) {
            continue;
        }
        // In the order of the table, which is that of sizes; of several cases of a size the best.
        let mut sizes: Vec<(&Comparison, f64, f64)> = Vec::new();
        for c in comparisons.iter().filter(|c| c.cpu == first.cpu && c.kernel.as_ref() == Some(kernel)) {
            let (Some(published), Some(here)) = (c.published_ratio, c.here_ratio.value()) else { continue };
            match sizes.iter_mut().find(|(size, ..)| size.subject == c.subject) {
                Some(size) if here.median > size.2 => *size = (c, published, here.median),
                Some(_) => {}
                None => sizes.push((c, published, here.median)),
            }
        }
        if sizes.len() >= 4 {
            let published: Vec<f64> = sizes.iter().map(|(_, published, _)| *published).collect();
            let here: Vec<f64> = sizes.iter().map(|(.., here)| *here).collect();
            trends.push(Trend {
                cpu: first.cpu.clone(),
                kernel: kernel.clone(),
                sizes: sizes.len(),
                tied: sizes.iter().filter(|(c, ..)| c.tied.is_some()).count(),
                published_tau: tau(&published),
                here_tau: tau(&here),
            });
        }
    }
    trends
}

/// Kendall's tau of `values` and their order: pairs that ascend less pairs that descend, over all pairs.
fn tau(values: &[f64]) -> f64 {
    let mut sum = 0i64;
    let mut pairs = 0i64;
    for (i, a) in values.iter().enumerate() {
        for b in &values[i + 1..] {
            sum += i64::from(b > a) - i64::from(b < a);
            pairs += 1;
        }
    }
    sum as f64 / pairs.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plan of a run of nothing.
    fn header() -> RunHeader {
        let fields = r#"{"schema": 4, "run_id": "", "suite": "", "started_unix_ms": 0, "version": "", "commit": "",
            "seed": 1, "rounds": 3, "llc_bytes": null, "cases": [],
            "left_out": [{"model": "70B", "why": "too little memory"}]}"#;
        serde_json::from_str(fields).unwrap()
    }

    fn spread(min: f64, median: f64, max: f64) -> Figure<Spread> {
        Figure::measured(Spread { median, min, max, rounds: 3 }, "clock")
    }

    #[test]
    fn the_rule_is_the_stated_one() {
        let of = |published, here| verdict(Some(published), &here);
        assert_eq!(of(3.0, spread(2.0, 2.4, 3.1)), Verdict::Reproduced); // within the range
        assert_eq!(of(3.0, spread(3.2, 3.25, 3.3)), Verdict::Reproduced); // 7.7 % below the median
        assert_eq!(of(3.0, spread(3.30, 3.31, 3.32)), Verdict::Reproduced); // 9.4 %
        assert_eq!(of(3.0, spread(2.70, 2.72, 2.74)), Verdict::NotReached); // 10.3 % above it
        assert_eq!(of(3.0, spread(3.2, 3.4, 3.5)), Verdict::Exceeded);
        assert_eq!(of(3.0, spread(2.0, 2.5, 2.9)), Verdict::NotReached);
        let why = |v| match v {
            Verdict::NotTestable(why) => why,
            v => panic!("{v}"),
        };
        assert_eq!(why(verdict(None, &spread(1.0, 1.0, 1.0))), "there is no published ratio");
        assert_eq!(why(verdict(Some(1.0), &Figure::unavailable("no energy source"))), "no energy source");
    }

    #[test]
    fn every_published_row_is_compared_or_says_why_not() {
        let header = header();
        let nothing = Run { header: &header, rows: &[], rounds: &[], speedups: &[] };
        for (target, rows) in [(Target::Speed, 24), (Target::Energy, 6), (Target::Efficiency, 15)] {
            let all = reproduction(target, "f16", &nothing).comparisons;
            assert_eq!(all.len(), rows, "{target:?}");
            for c in all {
                let here = c.here_ratio.value().is_some();
                assert_eq!(here, !matches!(c.verdict, Verdict::NotTestable(_)), "{c:?}");
                assert!(c.published_value.is_some() || c.published_baseline.is_some(), "{c:?}");
                let left_out = target.has_baseline() && c.subject == "70B" && c.published_ratio.is_some();
                let why = c.verdict.to_string();
                assert_eq!(left_out, why.contains("too little memory"), "{c:?}");
            }
        }
        let scaling = reproduction(Target::Kernels, "f16", &nothing).comparisons;
        assert_eq!(scaling.len(), 22);
        assert!(scaling.iter().all(|c| c.published_ratio.unwrap() > 1.0));
    }

    #[test]
    fn memory_and_estimates_of_2b4t_follow_from_its_geometry() {
        let header = header();
        for c in efficiency(&Run { header: &header, rows: &[], rounds: &[], speedups: &[] }) {
            let close = |published: Option<f64>, here: &Figure<f64>, by: f64| {
                (published.unwrap() - here.value().unwrap()).abs() <= by
            };
            match c.quantity {
                // Published to one decimal; SmolLM2's and MiniCPM's are cut off, not rounded.
                "memory without embedding" => {
                    assert!(close(c.published_baseline, &c.here_baseline, 0.1), "{c:?}");
                    assert!(close(c.published_value, &c.here_value, 0.05), "{c:?}");
                    assert_eq!(c.verdict, Verdict::Reproduced, "{c:?}");
                }
                "estimated energy" => assert_eq!(c.verdict, Verdict::Reproduced, "{c:?}"),
                _ => assert!(matches!(c.verdict, Verdict::NotTestable(_))),
            }
        }
    }

    #[test]
    fn tau_counts_pairs() {
        assert_eq!(tau(&[1.0, 2.0, 3.0, 4.0]), 1.0);
        assert_eq!(tau(&[4.0, 3.0, 2.0, 1.0]), -1.0);
        assert_eq!(tau(&[1.0, 3.0, 2.0]), 1.0 / 3.0);
        assert_eq!(tau(&[1.0]), 0.0);
    }
}
