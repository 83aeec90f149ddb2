//! What the energy of a case is, by phase and source: gross, net of the idle machine, and, apart from both,
//! what models say.

use std::collections::BTreeSet;

use bitjoule_kernels::Kernel;

use super::arithmetic::{self, Process};
use super::rounds::{Round, phase_name};
use super::{Spread, over_figures};
use crate::figure::Figure;
use crate::journal::{Case, Energy, IdleSample, MacCount, Phase, Record, Sample, StatedEnergy, Work};

const NOT_RECORDED: &str = "not recorded (journal of an older version)";
const NO_TOKENS: &str = "loading computes no token";

/// What an energy belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One phase.
    Phase(Phase),
    /// Prefill and decode: every token that was computed.
    Total,
}

impl Part {
    /// All, in the order of a visit.
    pub const ALL: [Part; 4] =
        [Part::Phase(Phase::Load), Part::Phase(Phase::Prefill), Part::Phase(Phase::Decode), Part::Total];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Part::Phase(phase) => phase_name(phase),
            Part::Total => "total",
        }
    }

    /// The samples of a round that it is made of.
    fn samples<'a>(self, round: &Round<'a>) -> Vec<&'a Sample> {
        match self {
            Part::Phase(Phase::Load) => vec![round.load],
            Part::Phase(Phase::Prefill) => vec![round.prefill],
            Part::Phase(Phase::Decode) => vec![round.decode],
            Part::Total => vec![round.prefill, round.decode],
        }
    }
}

/// The energy of one part of a case by one source; medians and spreads over the complete rounds.
///
/// Energies are of one execution: a window that holds several counts for each of them. Those of a token
/// are divided by the prompt tokens, the decode steps, or both; a load has none.
#[derive(Debug, Clone)]
pub struct EnergyUse {
    /// Of what.
    pub part: Part,
    /// Name of the source.
    pub source: String,
    /// Median length of the energy window, seconds; of all its repetitions together.
    pub window_s: Option<f64>,
    /// Median of how often the phase ran in the window; none in total.
    pub repetitions: Option<f64>,
    /// Joules.
    pub j: Figure<Spread>,
    /// Joules a token.
    pub j_per_token: Figure<Spread>,
    /// Joules beyond those of the idle machine in the same time. Below 0 where the idle machine drew more.
    pub net_j: Figure<Spread>,
    /// The same a token.
    pub net_j_per_token: Figure<Spread>,
    /// Mean power, watts.
    pub power_w: Figure<f64>,
    /// Power of the idle machine around the round, watts.
    pub idle_w: Figure<f64>,
    /// Joules a token times seconds a token, both of the energy window: the energy-delay product.
    pub j_s_per_token: Figure<f64>,
    /// Tokens a joule.
    pub tokens_per_j: Figure<f64>,
    /// What `j` may be off by, joules.
    pub uncertainty_j: Figure<f64>,
    /// The same as a percentage of it.
    pub uncertainty_percent: Figure<f64>,
    /// `j` ÷ that of the first source in the same round.
    pub ratio_to_first: Figure<f64>,
    /// What a reader must know, and about which round.
    pub marks: Vec<String>,
    /// What models say of the same part.
    pub models: ModelledEnergy,
}

/// Joules a token that nobody measured; medians over the complete rounds.
#[derive(Debug, Clone)]
pub struct ModelledEnergy {
    /// `modelled:arithmetic` at 45 nm.
    pub arithmetic_45nm: Figure<f64>,
    /// `modelled:arithmetic` at 7 nm.
    pub arithmetic_7nm: Figure<f64>,
    /// `modelled:memory`, if the user stated what a byte takes.
    pub memory: Figure<f64>,
    /// `assumed:tdp`, if the user stated a power.
    pub tdp: Figure<f64>,
}

/// The idle machine, before and after the rounds.
pub(super) struct Idles<'a>(Vec<&'a IdleSample>);

impl<'a> Idles<'a> {
    /// Collects them from a journal.
    pub(super) fn new(records: &'a [Record]) -> Idles<'a> {
        let idle = records.iter().filter_map(|record| match record {
            Record::Idle(idle) => Some(idle),
            _ => None,
        });
        Idles(idle.collect())
    }

    /// Watts by `source`: the mean of those before and after `round`, or the one that there is.
    fn power_w(&self, round: u32, source: &str) -> Figure<f64> {
        let around = self.0.iter().filter(|idle| [round, round + 1].contains(&idle.before_round));
        let readings = around.filter_map(|idle| {
            let energy = idle.sources.iter().find(|s| s.source == source)?.total();
            Some(match idle.wall_ns {
                0 => Figure::unavailable("the idle window has no length"),
                wall_ns => energy.map(|e| e.energy_j.0 / (wall_ns as f64 / 1e9)),
            })
        });
        let readings: Vec<Figure<f64>> = readings.collect();
        let found: Vec<f64> = readings.iter().filter_map(Figure::value).copied().collect();
        let mean = (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64);
        Figure::derived(mean, &readings, "the idle machine was not measured with this source")
    }
}

/// One execution of a part in one round, by one source.
struct Execution {
    tokens: usize,
    /// Length of the energy windows, and how often their phases ran: of one sample only.
    window_s: f64,
    repetitions: Option<f64>,
    /// Mean time of one execution within the energy windows, seconds.
    time_s: f64,
    j: Figure<f64>,
    uncertainty_j: Figure<f64>,
    idle_w: Figure<f64>,
    marks: Vec<String>,
}

impl Execution {
    fn of(round: &Round, part: Part, source: &str, idles: &Idles) -> Execution {
        let samples = part.samples(round);
        let mut execution = Execution {
            tokens: samples.iter().map(|s| tokens(s)).sum(),
            window_s: 0.0,
            repetitions: None,
            time_s: 0.0,
            j: Figure::unavailable(NOT_RECORDED),
            uncertainty_j: Figure::unavailable(NOT_RECORDED),
            idle_w: idles.power_w(round.round, source),
            marks: Vec::new(),
        };
        let mut energies: Vec<Figure<Energy>> = Vec::new();
        for sample in &samples {
            let Some(window) = sample.window_of_energy() else { return execution };
            execution.window_s += window.wall_ns as f64 / 1e9;
            execution.time_s += window.execution_s();
            execution.repetitions = (samples.len() == 1).then_some(f64::from(window.repetitions));
            let read = window.sources.iter().find(|s| s.source == source);
            energies.push(match read {
                None => Figure::unavailable(format!("{source} was not read in this round")),
                Some(read) => window.execution(read),
            });
            execution.marks.extend(read.into_iter().flat_map(|s| s.marks.iter().cloned()));
        }
        execution.j = sum(energies.iter().map(|e| e.as_ref().map(|e| e.energy_j.0)));
        execution.uncertainty_j = sum(energies.iter().map(|e| match e.as_ref().map(|e| e.uncertainty_j) {
            Figure::Unavailable { why } => Figure::Unavailable { why },
            figure if figure.value().is_some_and(Option::is_none) => Figure::unavailable(NOT_RECORDED),
            figure => figure.map(|u| u.map_or(0.0, |u| u.0)),
        }));
        execution
    }

    fn net_j(&self) -> Figure<f64> {
        let net = self.j.value().zip(self.idle_w.value()).map(|(j, idle_w)| j - idle_w * self.time_s);
        Figure::derived(net, [&self.j, &self.idle_w], NOT_RECORDED)
    }

    /// `figure` of each token.
    fn per_token(&self, part: Part, figure: &Figure<f64>) -> Figure<f64> {
        per_token(part, self.tokens, figure.clone())
    }

    fn power_w(&self) -> Figure<f64> {
        match self.time_s > 0.0 {
            true => self.j.clone().map(|j| j / self.time_s),
            false => Figure::unavailable(
                self.j.found().err().unwrap_or("the energy window has no length").to_owned(),
            ),
        }
    }
}

/// All parts of a case by all sources that its complete rounds read. Without a round there is a row a part
/// that says why it is empty.
pub(super) fn energy_use(
    case: &Case,
    rounds: &[Round],
    idles: &Idles,
    stated: &StatedEnergy,
    absent: &str,
) -> Vec<EnergyUse> {
    let mut sources: Vec<String> = Vec::new();
    for sample in rounds.iter().flat_map(|r| [r.load, r.prefill, r.decode]) {
        for source in sample.window_of_energy().iter().flat_map(|w| &w.sources) {
            if !sources.contains(&source.source) {
                sources.push(source.source.clone());
            }
        }
    }
    if sources.is_empty() {
        sources.push(String::new());
    }
    let mut rows = Vec::new();
    for part in Part::ALL {
        let models = modelled(case, rounds, part, stated, absent);
        let executions = |source| rounds.iter().map(|r| Execution::of(r, part, source, idles)).collect();
        let first: Vec<Execution> = executions(&sources[0]);
        for source in &sources {
            rows.push(row(part, source, executions(source), &first, models.clone(), rounds, absent));
        }
    }
    rows
}

fn row(
    part: Part,
    source: &str,
    executions: Vec<Execution>,
    first: &[Execution],
    models: ModelledEnergy,
    rounds: &[Round],
    absent: &str,
) -> EnergyUse {
    let spread = |of: &dyn Fn(&Execution) -> Figure<f64>| {
        let figures: Vec<Figure<f64>> = executions.iter().map(of).collect();
        over_figures(figures.iter(), absent)
    };
    let median = |of: &dyn Fn(&Execution) -> Figure<f64>| spread(of).map(|s| s.median);
    let plain =
        |of: fn(&Execution) -> Option<f64>| Spread::of(executions.iter().filter_map(of)).map(|s| s.median);
    let finite = |figure: Figure<f64>| match figure.value() {
        Some(value) if !value.is_finite() => Figure::unavailable("the figures give an impossible ratio"),
        _ => figure,
    };
    let ratios: Vec<Figure<f64>> = executions
        .iter()
        .zip(first)
        .map(|(this, first)| {
            let ratio = this.j.value().zip(first.j.value()).map(|(this, first)| this / first);
            finite(Figure::derived(ratio, [&this.j, &first.j], NOT_RECORDED))
        })
        .collect();
    EnergyUse {
        part,
        source: source.to_owned(),
        window_s: plain(|e| (e.window_s > 0.0).then_some(e.window_s)),
        repetitions: plain(|e| e.repetitions),
        j: spread(&|e| e.j.clone()),
        j_per_token: spread(&|e| e.per_token(part, &e.j)),
        net_j: spread(&Execution::net_j),
        net_j_per_token: spread(&|e| e.per_token(part, &e.net_j())),
        power_w: median(&Execution::power_w),
        idle_w: median(&|e| e.idle_w.clone()),
        j_s_per_token: median(&|e| e.per_token(part, &e.j).map(|j| j * e.time_s / e.tokens as f64)),
        tokens_per_j: median(&|e| finite(e.per_token(part, &e.j).map(|j| 1.0 / j))),
        uncertainty_j: median(&|e| e.uncertainty_j.clone()),
        uncertainty_percent: median(&|e| {
            let percent = e.uncertainty_j.value().zip(e.j.value()).map(|(u, j)| 100.0 * u / j);
            finite(Figure::derived(percent, [&e.uncertainty_j, &e.j], NOT_RECORDED))
        }),
        ratio_to_first: over_figures(ratios.iter(), absent).map(|s| s.median),
        marks: marks(&executions, rounds),
        models,
    }
}

/// What the windows of the rounds are marked with; and why a round has no energy, where others have.
fn marks(executions: &[Execution], rounds: &[Round]) -> Vec<String> {
    let some = executions.iter().any(|e| e.j.value().is_some());
    let mut sentences: Vec<(&str, Vec<String>)> = Vec::new();
    for (execution, round) in executions.iter().zip(rounds) {
        let why = execution.j.found().err().filter(|_| some);
        let of_round: BTreeSet<&str> = execution.marks.iter().map(String::as_str).chain(why).collect();
        for sentence in of_round {
            let number = round.round.to_string();
            match sentences.iter_mut().find(|(known, _)| *known == sentence) {
                Some((_, of)) => of.push(number),
                None => sentences.push((sentence, vec![number])),
            }
        }
    }
    let said = |(sentence, of): (&str, Vec<String>)| {
        format!("round{} {}: {sentence}", if of.len() > 1 { "s" } else { "" }, of.join(", "))
    };
    sentences.into_iter().map(said).collect()
}

/// What the models say of a part, over the complete rounds.
fn modelled(
    case: &Case,
    rounds: &[Round],
    part: Part,
    stated: &StatedEnergy,
    absent: &str,
) -> ModelledEnergy {
    let model = |of: &dyn Fn(&Sample) -> Figure<f64>| {
        let figures: Vec<Figure<f64>> = rounds
            .iter()
            .map(|round| {
                let samples = part.samples(round);
                let joules = sum(samples.iter().map(|s| of(s)));
                per_token(part, samples.iter().map(|s| tokens(s)).sum(), joules)
            })
            .collect();
        over_figures(figures.iter(), absent).map(|s| s.median)
    };
    let kernel = Kernel::by_name(&case.kernel);
    let arithmetic_j = |process: Process| model(&move |sample| arithmetic_j(sample, kernel, process));
    ModelledEnergy {
        arithmetic_45nm: arithmetic_j(Process::Nm45),
        arithmetic_7nm: arithmetic_j(Process::Nm7),
        memory: model(&|sample| memory_j(sample, stated)),
        tdp: model(&|sample| tdp_j(sample, stated)),
    }
}

/// The operations of a phase at what their circuits take.
fn arithmetic_j(sample: &Sample, kernel: Option<Kernel>, process: Process) -> Figure<f64> {
    let macs: Option<MacCount> = match &sample.work {
        Work::Load { .. } => return Figure::unavailable(NO_TOKENS),
        Work::Prefill { macs, .. } | Work::Decode { macs, .. } => *macs,
    };
    match (macs, kernel) {
        (None, _) => Figure::unavailable(format!("the multiply-accumulates were {NOT_RECORDED}")),
        (_, None) => Figure::unavailable("the arithmetic of this kernel is not known"),
        (Some(macs), Some(kernel)) => Figure::Modelled {
            value: arithmetic::energy(macs, kernel, process).0,
            by: format!("arithmetic at {} nm", process.nm()),
        },
    }
}

/// The bytes that a phase must read at what the user states for each.
fn memory_j(sample: &Sample, stated: &StatedEnergy) -> Figure<f64> {
    let Some(memory) = &stated.memory else {
        return Figure::unavailable("nobody stated the energy of a byte (--memory-energy)");
    };
    let bytes = match &sample.work {
        Work::Load { .. } => return Figure::unavailable(NO_TOKENS),
        Work::Prefill { cost, .. } => cost.map(|cost| cost.read_bytes.0 as f64),
        Work::Decode { latencies_ns, bytes_per_token, .. } => {
            Some(bytes_per_token.0 as f64 * latencies_ns.len() as f64)
        }
    };
    match bytes {
        None => Figure::unavailable(format!("the bytes to be read were {NOT_RECORDED}")),
        Some(bytes) => Figure::Modelled {
            value: bytes * memory.pj_per_byte * 1e-12,
            by: format!("memory at {} pJ a byte, from {}", memory.pj_per_byte, memory.source),
        },
    }
}

/// The stated power for the CPUs' share of time that a phase used.
fn tdp_j(sample: &Sample, stated: &StatedEnergy) -> Figure<f64> {
    match (stated.tdp_w, stated.cpus) {
        (None, _) => Figure::unavailable("nobody stated a power (--assume-tdp)"),
        (_, None | Some(0)) => Figure::unavailable("the number of CPUs that share the power is not known"),
        (Some(tdp), Some(cpus)) => Figure::Assumed {
            value: tdp.0 * (sample.cpu_ns as f64 / 1e9) / f64::from(cpus),
            by: format!("tdp of {} W for {cpus} CPUs, as the user stated", tdp.0),
        },
    }
}

/// Tokens that a sample's window computed: the prompt, or the decode steps.
fn tokens(sample: &Sample) -> usize {
    match &sample.work {
        Work::Load { .. } => 0,
        Work::Prefill { prompt, .. } => prompt.len(),
        Work::Decode { latencies_ns, .. } => latencies_ns.len(),
    }
}

fn per_token(part: Part, tokens: usize, figure: Figure<f64>) -> Figure<f64> {
    match (part, tokens, &figure) {
        (Part::Phase(Phase::Load), ..) => Figure::unavailable(NO_TOKENS),
        (_, _, Figure::Unavailable { .. }) => figure,
        (Part::Phase(Phase::Decode), 0, _) => Figure::unavailable("no decode step"),
        (_, 0, _) => Figure::unavailable("no token"),
        (_, tokens, _) => figure.map(|value| value / tokens as f64),
    }
}

/// The sum, if there are all.
fn sum(figures: impl Iterator<Item = Figure<f64>>) -> Figure<f64> {
    let figures: Vec<Figure<f64>> = figures.collect();
    let sum: Option<f64> = figures.iter().map(|f| f.value().copied()).sum();
    Figure::derived(sum, &figures, NOT_RECORDED)
}
