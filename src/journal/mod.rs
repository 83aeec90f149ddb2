//! The journal: what a run measured, as JSON Lines, append-only; every table derives from it alone.
//!
//! The first line is [`Record::Run`], which says everything that was planned; each further line is
//! one finished sample, check, reading of a probe or failure. A line is written whole and synced
//! before the next measurement starts, so a kill costs at most the measurement under way.

mod counters;
mod energy;
pub mod file;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::engine::{MemoryParts, Span};
use crate::figure::Figure;
use crate::probe::energy::EnergyChoice;
use crate::probe::state::HostState;
use crate::units::{Bytes, BytesPerS, MacPerS};

pub use counters::{Counter, CounterGroup, CounterReading};
pub use energy::{
    DomainEnergy, Energy, EnergyWindow, IdleSample, MemoryEnergy, OverheadPair, OverheadSample, SourceEnergy,
    StatedEnergy,
};

/// Version of the records below; a reader refuses a journal of a newer one.
///
/// Fields that may be absent can be added without a new version: old journals lack them, old readers skip
/// them.
///
/// 2: [`Record::Peak`], [`PrefillCost`], [`Case::embedding`]. A run is gone on with in the schema it was started in.
/// 3: [`FailureKind::MemoryLimit`], [`EnergyWindow`], [`Record::Idle`], [`Record::Overhead`].
/// 4: no new record, but another order of cases within a round.
pub const SCHEMA: u32 = 4;

/// The first schema with [`Record::Peak`].
pub const PEAK_SCHEMA: u32 = 2;

/// The first schema with [`Record::Idle`] and [`Record::Overhead`].
pub const ENERGY_SCHEMA: u32 = 3;

/// The first schema whose rounds visit cases that are compared one behind the other.
pub const BLOCK_SCHEMA: u32 = 4;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly all records are samples")]
pub enum Record {
    /// What was planned: always the first line, once.
    Run(RunHeader),
    /// A coordinator started, or resumed, the run.
    Session(Session),
    /// One measured execution of one phase of one case in one round.
    Sample(Sample),
    /// The machine's read bandwidth, once for each thread count and round.
    Bandwidth(BandwidthSample),
    /// The machine's peak of multiply-accumulates, once for each instruction set, thread count and
    /// round.
    Peak(PeakSample),
    /// The energy of the idle machine, before each round and after the last.
    Idle(IdleSample),
    /// What measuring costs, once a round.
    Overhead(OverheadSample),
    /// A timed kernel's logits against the reference's.
    Check(Check),
    /// A visit that did not end well.
    Failure(Failure),
}

/// The plan of a run and its identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Random identity of the run, 16 hexadecimal digits.
    pub run_id: String,
    /// Name of the suite.
    pub suite: String,
    /// Start, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// Version of bitjoule.
    pub version: String,
    /// Commit it was built from, or `unknown`.
    pub commit: String,
    /// Seed of the order of cases and of the prompts.
    pub seed: u64,
    /// Number of rounds planned.
    pub rounds: u32,
    /// Size of the last-level cache, if known: cases that fit into it have no DRAM roofline.
    pub llc_bytes: Option<Bytes>,
    /// Whether samples of prefill and decode say where their time went.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub profile: bool,
    /// The limit under which every visit ran, if the suite sets one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<Bytes>,
    /// Whether packed weights are kept on disk beside the model files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_packed: bool,
    /// The model files, to know them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelFileId>,
    /// Models of the suite that this machine cannot run in any form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// The published table that the suite reproduces, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproduces: Option<Reproduces>,
    /// Which energy sources are read.
    #[serde(default)]
    pub energy: EnergyChoice,
    /// What the user states about energy.
    #[serde(default)]
    pub stated: StatedEnergy,
    /// Every case, in the suite's order (rounds shuffle it).
    pub cases: Vec<Case>,
}

/// A model that was to be run with as many layers stored as fit, and of which too few or none do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Label of the model.
    pub model: String,
    /// Why.
    pub why: String,
}

/// A published table and how it is held against the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reproduces {
    /// Name of the table: [`crate::published::Target::name`].
    pub target: String,
    /// The kernel that ratios divide by.
    pub against: String,
}

/// What a model file was when the run started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFileId {
    /// Label of the model: [`Case::model`].
    pub model: String,
    /// BLAKE3 of the file, hexadecimal.
    pub blake3: String,
}

/// A coordinator process at work on the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Start, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// Whether it resumed an earlier session's run.
    pub resumed: bool,
    /// One-minute load average at the start, if known.
    pub load_average_1m: Option<f64>,
}

/// One point of the suite: what is measured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Case {
    /// Unique and readable: `native/125M/i2_s/avx512-vnni/t2/p32/g32`.
    pub id: String,
    /// Engine that runs it: `native`.
    pub backend: String,
    /// Label of the model.
    pub model: String,
    /// Kernel name: `fp32-naive`, `f16`, `i2_s`.
    pub kernel: String,
    /// Instruction set, resolved (never `auto`).
    pub isa: String,
    /// Worker threads.
    pub threads: u32,
    /// Prompt tokens.
    pub n_prompt: u32,
    /// Tokens generated; the first comes from the prefill, so `n_gen - 1` decode steps are timed.
    pub n_gen: u32,
    /// Element type of the KV cache: `f16` or `f32`.
    pub kv: String,
    /// Type of embedding and output projection, where the suite names one: `f16`, `q8_0`, `q6_k`. Without
    /// it they are as in the file, in a synthetic model f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<String>,
    /// That layers share weights, in a model larger than the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tied: Option<TiedLayers>,
}

impl Case {
    /// Whether both do the same work with as many threads in one backend, whatever their models and kernels.
    pub fn same_work(&self, other: &Case) -> bool {
        (&self.backend, self.threads, self.n_prompt, self.n_gen, &self.kv)
            == (&other.backend, other.threads, other.n_prompt, other.n_gen, &other.kv)
    }

    /// The model as tables name it: `70B`, `70B (tied 6 of 80)`.
    pub fn model_label(&self) -> String {
        let model = &self.model;
        self.tied.as_ref().map_or_else(|| model.clone(), |tied| format!("{model} ({tied})"))
    }
}

/// A model whose layers share weights: fewer are stored than computed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TiedLayers {
    /// Layers stored.
    pub unique_layers: u32,
    /// Layers computed.
    pub layers: u32,
    /// Label of the same model with all layers stored, by which it is compared with it where a suite has
    /// both.
    pub full_model: String,
}

impl std::fmt::Display for TiedLayers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tied {} of {}", self.unique_layers, self.layers)
    }
}

/// Phase of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// From opening the model file to being ready for the first token.
    Load,
    /// The whole prompt, up to and including the choice of the first token.
    Prefill,
    /// Token by token, from the first token to the last.
    Decode,
}

/// One measured execution of one phase. (case, round, phase) is unique in a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// [`Case::id`].
    pub case: String,
    /// Round, from 1.
    pub round: u32,
    /// Identity of the worker process within the run; samples of one visit share it.
    pub visit: u32,
    /// End of the window, in milliseconds since the Unix epoch.
    pub ended_unix_ms: u64,
    /// Wall-clock length of the window, nanoseconds (monotonic clock).
    pub wall_ns: u64,
    /// CPU time of the whole worker process within the window, nanoseconds.
    pub cpu_ns: u64,
    /// Energy within the window, by package: in journals before schema 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Figure<Vec<DomainEnergy>>>,
    /// The window of energy that begins with this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_window: Option<EnergyWindow>,
    /// Memory of the worker at the end of the window.
    pub memory: Figure<MemoryReading>,
    /// The worker's share of memory after the window, pages that it shares with others divided among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pss: Option<Figure<Bytes>>,
    /// Page faults of the worker within the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<Figure<Faults>>,
    /// Counted events of the worker within the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<CounterReading>,
    /// The host while the window lasted; older journals do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Box<HostState>>,
    /// Where the time of the window went, if the run noted it: prefill and decode only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Vec<Span>>,
    /// What was done in the window.
    pub work: Work,
}

impl Sample {
    /// The window of energy. Before schema 3 energy was that of the sample's own window, by powercap.
    pub fn window_of_energy(&self) -> Option<Cow<'_, EnergyWindow>> {
        let old = || {
            let source = SourceEnergy {
                source: "powercap".to_owned(),
                energy: self.energy.clone()?,
                marks: Vec::new(),
            };
            let (wall_ns, sources) = (self.wall_ns, vec![source]);
            Some(EnergyWindow { wall_ns, work_ns: wall_ns, repetitions: 1, sources })
        };
        self.energy_window.as_ref().map(Cow::Borrowed).or_else(|| old().map(Cow::Owned))
    }

    /// The energy of one execution of the phase, in total, from the source that figures come from.
    pub fn phase_energy(&self) -> Figure<Energy> {
        let Some(window) = self.window_of_energy() else {
            return Figure::unavailable("the sample has no energy");
        };
        match window.sources.first() {
            Some(source) => window.execution(source),
            None => Figure::unavailable("no energy source was read"),
        }
    }

    /// The energies by domain of the source that figures come from, within the whole energy window.
    pub fn energy_domains(&self) -> &[DomainEnergy] {
        let first = self.energy_window.as_ref().and_then(|window| window.sources.first());
        let energy = first.map(|source| &source.energy).or(self.energy.as_ref());
        energy.and_then(Figure::value).map(Vec::as_slice).unwrap_or_default()
    }

    /// The phase this sample measured.
    pub fn phase(&self) -> Phase {
        match self.work {
            Work::Load { .. } => Phase::Load,
            Work::Prefill { .. } => Phase::Prefill,
            Work::Decode { .. } => Phase::Decode,
        }
    }
}

/// Resident memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReading {
    /// Largest resident set since the process started (kernel's high-water mark).
    pub peak_rss: Bytes,
    /// Resident now, anonymous (heap, stacks, packed weights).
    pub anon: Bytes,
    /// Resident now, backed by files (binary, mapped model).
    pub file: Bytes,
    /// Resident now, shared memory.
    pub shmem: Bytes,
    /// Swapped out now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swapped: Option<Bytes>,
}

/// Page faults of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Without reading: first touches, file pages that were in the page cache.
    pub minor: u64,
    /// That waited for a disk.
    pub major: u64,
}

/// A limit of the worker's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimit {
    /// How much.
    pub bytes: Bytes,
    /// What enforced it, in words.
    pub enforced_by: String,
}

/// The work of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Work {
    /// The model was opened and packed.
    Load {
        /// Size of the model file.
        file_bytes: Bytes,
        /// Memory that the packed weights occupy.
        weight_bytes: Bytes,
        /// What model and engine were predicted to allocate, before anything was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        predicted: Option<MemoryParts>,
        /// What they would if every layer had weights of its own, where layers are tied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        predicted_full: Option<MemoryParts>,
        /// The limit that the worker was under, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<MemoryLimit>,
        /// Where the packed weights came from, if the run keeps them on disk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<KeptWeights>,
    },
    /// The prompt was processed and the first token chosen: the window is the time to first token.
    Prefill {
        /// The prompt.
        prompt: Vec<u32>,
        /// What it cannot do without; schema 1 does not have it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<PrefillCost>,
        /// Its multiply-accumulates.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        macs: Option<MacCount>,
    },
    /// Tokens 2 to n were generated.
    Decode {
        /// All generated tokens, the first (from the prefill) included.
        tokens: Vec<u32>,
        /// Latency of each decode step: `tokens.len() - 1` entries, nanoseconds.
        latencies_ns: Vec<u64>,
        /// Bytes that one step must read: the weights in the kernel's format plus the KV cache at
        /// the mean context length of the window.
        bytes_per_token: Bytes,
        /// Rates at which the same threads read the packed weights, without arithmetic, immediately
        /// before and after the window.
        stream: Vec<BytesPerS>,
        /// Multiply-accumulates of all steps together.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        macs: Option<MacCount>,
    },
}

/// Multiply-accumulates of a phase, by the part of the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacCount {
    /// Of the linear layers: one for each weight and token.
    pub linear: u64,
    /// Of attention: keys with queries, and weights with values.
    pub attention: u64,
    /// Of the output projection.
    pub head: u64,
}

/// Packed weights that a run keeps on disk, in one load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptWeights {
    /// They were read as an earlier load left them.
    Read,
    /// They were packed, and written after the window.
    Written,
    /// They were packed, and could not be written.
    NotWritten(String),
}

/// What processing a prompt cannot do without, whoever does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefillCost {
    /// Multiply-accumulates of int8.
    pub int8_macs: u64,
    /// Multiply-accumulates of f32.
    pub f32_macs: u64,
    /// Weights in the kernel's format, each read once.
    pub read_bytes: Bytes,
}

/// Read bandwidth of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BandwidthSample {
    /// Round, from 1.
    pub round: u32,
    /// Threads reading.
    pub threads: u32,
    /// Size of the buffer that was read, all threads together.
    pub buffer: Bytes,
    /// Rate of each pass over the buffer.
    pub passes: Vec<BytesPerS>,
}

/// Peak of multiply-accumulates of the machine, all threads together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeakSample {
    /// Round, from 1.
    pub round: u32,
    /// Instruction set.
    pub isa: String,
    /// Threads multiplying.
    pub threads: u32,
    /// Rate of each pass with int8.
    pub int8: Vec<MacPerS>,
    /// Rate of each pass with f32.
    pub f32: Vec<MacPerS>,
}

/// A timed kernel's logits against the reference's, on the same tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// [`Case::id`].
    pub case: String,
    /// What it was compared with: `i2_s scalar` or `fp32-naive`.
    pub reference: String,
    /// Largest absolute logit difference over the largest absolute reference logit.
    pub relative_difference: f64,
    /// Largest difference that passes.
    pub tolerance: f64,
    /// Positions compared.
    pub positions: u32,
    /// Positions whose argmax agrees.
    pub argmax_agreeing: u32,
    /// Whether the case may be believed.
    pub passed: bool,
}

/// A visit that did not end well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// [`Case::id`], or the name of a probe (`bandwidth/t2`, `peak/avx2/t2`), or of reference logits that
    /// could not be made (`reference/125M/fp32-naive/scalar`).
    pub case: String,
    /// Round, from 1.
    pub round: u32,
    /// Identity of the worker process within the run.
    pub visit: u32,
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened, in words.
    pub reason: String,
}

/// How a visit failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Not started, because this machine cannot: too little memory, or no such instruction set.
    Skipped,
    /// The worker reported an error.
    Error,
    /// The worker was killed by a signal or ended without a result.
    Crashed,
    /// The worker exceeded the suite's time limit and was killed.
    TimedOut,
    /// The case needs more than the suite's memory limit.
    MemoryLimit,
}
