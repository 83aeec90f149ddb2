//! What coordinator and worker say to each other: one JSON line each.
//!
//! The coordinator writes a [`Job`] to the worker's standard input. The worker writes [`Event`]s to its
//! standard output and waits for an empty line after each, so that nothing is measured while the
//! coordinator makes an event durable. If standard input ends, the coordinator is gone and the worker
//! stops.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::Span;
use crate::figure::Figure;
use crate::journal::{Case, CounterReading, EnergyWindow, FailureKind, Faults, MemoryReading, Phase, Work};
use crate::journal::{OverheadPair, SourceEnergy};
use crate::probe::energy::EnergyChoice;
use crate::probe::state::HostState;
use crate::units::{Bytes, BytesPerS, MacPerS};

use super::limit::MemoryCap;

/// Where a worker finds a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelFile {
    /// [`crate::model::BUILTIN_GGUF`]
    Builtin,
    /// A GGUF file.
    Path(PathBuf),
}

/// What a worker does, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "there is one job at a time")]
pub enum Job {
    /// Measures a case.
    Visit {
        /// The case.
        case: Case,
        /// Its model.
        model: ModelFile,
        /// Seed of the prompt.
        seed: u64,
        /// The phases whose samples are wanted; the others are run but not reported.
        phases: Vec<Phase>,
        /// Reference logits to check against.
        check: Option<Reference>,
        /// BLAKE3 of the model file, if packed weights are to be kept beside it.
        kept: Option<String>,
        /// Whether to note where the time of prefill and decode goes.
        profile: bool,
        /// Which energy sources to read.
        energy: EnergySetup,
        /// The limit to run it under.
        cap: Option<MemoryCap>,
    },
    /// Writes reference logits.
    Reference {
        /// The model.
        model: ModelFile,
        /// Type of its embedding and output projection, if not as in the file.
        embedding: Option<String>,
        /// Seed of the tokens.
        seed: u64,
        /// What to write and where.
        reference: Reference,
        /// Element type of the KV cache.
        kv: String,
        /// Threads.
        threads: u32,
    },
    /// Measures the energy of doing nothing.
    Idle {
        /// Which energy sources to read.
        energy: EnergySetup,
    },
    /// Measures what the instruments cost.
    Overhead {
        /// Which energy sources to read.
        energy: EnergySetup,
        /// Threads that work.
        threads: u32,
        /// Pairs of windows.
        pairs: u32,
    },
    /// Measures the machine's read bandwidth.
    Bandwidth {
        /// Threads that read.
        threads: u32,
        /// Bytes that they read, together.
        buffer: Bytes,
        /// Passes over the buffer.
        passes: u32,
    },
    /// Measures the machine's peak of multiply-accumulates.
    Peak {
        /// Instruction set.
        isa: String,
        /// Threads that multiply.
        threads: u32,
        /// Passes with each kind of arithmetic.
        passes: u32,
    },
}

/// The energy sources of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergySetup {
    /// Which.
    pub choice: EnergyChoice,
    /// Root of a simulated machine, whose sources are read in the place of this one's.
    pub root: Option<PathBuf>,
}

/// Reference logits of one model for one class of kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The kernel that makes them, in its scalar form.
    pub kernel: String,
    /// File that holds them: f32, little-endian, position after position.
    pub path: PathBuf,
}

/// What a worker reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "most events are samples")]
pub enum Event {
    /// A phase was measured; the fields are those of [`crate::journal::Sample`].
    Sample {
        /// End of the window, milliseconds since the Unix epoch.
        ended_unix_ms: u64,
        /// Wall-clock length, nanoseconds.
        wall_ns: u64,
        /// CPU time of the worker, nanoseconds.
        cpu_ns: u64,
        /// Energy of the window and of the repetitions behind it.
        energy: EnergyWindow,
        /// Memory at its end.
        memory: Figure<MemoryReading>,
        /// Share of memory after it.
        pss: Figure<Bytes>,
        /// Page faults within it.
        faults: Figure<Faults>,
        /// Counted events within it.
        counters: CounterReading,
        /// The host while it lasted.
        state: Option<Box<HostState>>,
        /// Where the time went, if that was asked for.
        profile: Option<Vec<Span>>,
        /// What was done.
        work: Work,
    },
    /// Logits were compared; the fields are those of [`crate::journal::Check`].
    Checked {
        /// What they were compared with.
        reference: String,
        /// Largest difference over the largest reference logit.
        relative_difference: f64,
        /// Largest difference that passes.
        tolerance: f64,
        /// Positions compared.
        positions: u32,
        /// Positions whose argmax agrees.
        argmax_agreeing: u32,
    },
    /// The energy of doing nothing was measured; the fields are those of [`crate::journal::IdleSample`].
    Idle {
        /// End of the window, milliseconds since the Unix epoch.
        ended_unix_ms: u64,
        /// Length of the window, nanoseconds.
        wall_ns: u64,
        /// Every source that was read.
        sources: Vec<SourceEnergy>,
    },
    /// The cost of the instruments was measured.
    Overhead {
        /// Every pair of windows.
        pairs: Vec<OverheadPair>,
    },
    /// Bandwidth was measured.
    Bandwidth {
        /// Bytes that were read in each pass.
        buffer: Bytes,
        /// Rate of each pass.
        passes: Vec<BytesPerS>,
    },
    /// The peak of multiply-accumulates was measured; rates of each pass.
    Peak {
        /// With int8.
        int8: Vec<MacPerS>,
        /// With f32.
        f32: Vec<MacPerS>,
    },
    /// The job cannot be done; nothing follows.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// Why.
        reason: String,
    },
    /// The job is done; nothing follows.
    Done,
}
