//! One visit of a case on the native engine: load, prefill, decode, each in a window of its own.

use std::time::{Duration, Instant};

use bitjoule_kernels::{Isa, Kernel};

use crate::engine::{Engine, EngineOptions, KvType, Span, argmax};
use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::gguf::{Gguf, I2sLayout};
use crate::journal::{Case, DomainEnergy, FailureKind, Phase, Work};
use crate::model::{BUILTIN_GGUF, BUILTIN_NAME, EmbeddingType, Plan};
use crate::probe::clock;
use crate::probe::energy::{self, EnergyChoice, Meter};
use crate::probe::{bandwidth, compute, memory};
use crate::units::{Bytes, BytesPerS};

use super::check;
use super::cost::prefill_cost;
use super::protocol::{Event, Job, ModelFile, Reference};

/// Prompts longer than this are processed in several batches.
pub const BATCH: usize = 512;

/// How long the weights are read, before and after the decode window, to know the roofline.
const READ_FOR: Duration = Duration::from_millis(20);

/// Most passes over the weights in that time, for models that fit into a cache.
const MAX_READS: usize = 32;

/// Why a job ended without its result.
#[derive(Debug)]
pub struct Stop {
    kind: FailureKind,
    error: Error,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop { kind: FailureKind::Error, error }
    }
}

/// The case cannot run here, which is no fault of the kernel.
fn skip(error: Error) -> Stop {
    Stop { kind: FailureKind::Skipped, error }
}

impl ModelFile {
    /// Opens the file.
    ///
    /// # Errors
    /// If it cannot be read or is no GGUF file.
    pub fn open(&self) -> Result<Gguf> {
        match self {
            ModelFile::Builtin => Gguf::from_static(BUILTIN_GGUF, BUILTIN_NAME),
            ModelFile::Path(path) => Gguf::open(path),
        }
    }
}

/// The prompt of a workload: `n` tokens drawn from the whole vocabulary by SplitMix64 from `seed`.
/// Speed does not depend on which tokens they are.
pub fn prompt(seed: u64, n: usize, vocab: usize) -> Vec<u32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % vocab as u64) as u32
        })
        .collect()
}

/// Refuses, with the figures, what does not fit into memory.
///
/// # Errors
/// [`Error::Environment`] if `needed` exceeds what is available.
pub fn ensure_memory(what: &str, needed: Bytes) -> Result<()> {
    match memory::available().value() {
        Some(available) if needed > *available => Err(Error::environment(format!(
            "{what} needs {needed} of memory, but only {available} are available; use a smaller model or a \
             kernel with fewer bits a weight"
        ))),
        _ => Ok(()),
    }
}

/// Loads a model and makes an engine for it; refuses beforehand what does not fit into memory.
///
/// # Errors
/// If the file is wrong, the kernel cannot hold its weights, or it does not fit.
pub fn engine(
    gguf: &Gguf,
    layout: I2sLayout,
    kernel: Kernel,
    isa: Isa,
    options: EngineOptions,
) -> Result<Engine> {
    engine_with(gguf, layout, None, kernel, isa, options)
}

/// As [`engine`], with embedding and output projection as `embedding` (as in the file if none is given).
///
/// # Errors
/// As [`engine`], or if they cannot be stored so.
pub fn engine_with(
    gguf: &Gguf,
    layout: I2sLayout,
    embedding: Option<EmbeddingType>,
    kernel: Kernel,
    isa: Isa,
    options: EngineOptions,
) -> Result<Engine> {
    let plan = Plan::with_embedding(gguf, kernel, layout, embedding)?;
    let needed = Bytes(plan.weight_bytes().0 + options.memory_bytes(plan.config()).0);
    ensure_memory(&format!("{} with kernel {kernel}", gguf.path_label()), needed)?;
    Engine::new(plan.load(isa)?, options)
}

/// Does `job`, reporting through `emit`.
///
/// # Errors
/// Only those of `emit`; a job that fails is an event.
pub fn work(job: &Job, mut emit: impl FnMut(Event) -> Result<()>) -> Result<()> {
    let mut lost = None;
    let mut report = |event| {
        emit(event).map_err(|e| {
            lost = Some(e.clone());
            Stop::from(e)
        })
    };
    let outcome = match job {
        Job::Visit { case, model, seed, phases, check, profile, energy_root } => {
            let meter = Meter::open(&EnergyChoice::Auto, energy_root.as_deref());
            visit(case, model, *seed, phases, check.as_ref(), *profile, &meter, &mut report)
        }
        Job::Reference { model, embedding, seed, reference, kv, threads } => {
            write_reference(model, embedding.as_deref(), *seed, reference, kv, *threads)
        }
        Job::Bandwidth { threads, buffer, passes } => bandwidth::measure(*threads, *buffer, *passes)
            .map_err(Stop::from)
            .and_then(|b| report(Event::Bandwidth { buffer: b.buffer, passes: b.passes })),
        Job::Peak { isa, threads, passes } => Isa::by_name(isa)
            .map_err(|e| skip(Error::environment(e)))
            .and_then(|isa| compute::measure(isa, *threads, *passes).map_err(Stop::from))
            .and_then(|peak| report(Event::Peak { int8: peak.int8, f32: peak.f32 })),
    };
    match (lost, outcome) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => emit(Event::Done),
        (None, Err(Stop { kind, error })) => emit(Event::Failed { kind, reason: error.to_string() }),
    }
}

/// Runs one phase between readings of all instruments.
struct Window<'a> {
    meter: &'a Meter,
    energy: energy::Mark,
    cpu_ns: u64,
    start_ns: u64,
}

impl<'a> Window<'a> {
    /// The energy counter is read first and last, so that its window contains the timed one; reading it
    /// takes microseconds.
    fn open(meter: &'a Meter) -> Self {
        let energy = meter.mark();
        Window { meter, energy, cpu_ns: clock::cpu_ns(), start_ns: clock::monotonic_ns() }
    }

    fn close(self) -> impl FnOnce(Work, Option<Vec<Span>>) -> Event {
        let wall_ns = clock::monotonic_ns() - self.start_ns;
        let cpu_ns = clock::cpu_ns() - self.cpu_ns;
        let energy = domains(self.meter, &self.energy, &self.meter.mark());
        let (ended_unix_ms, memory) = (clock::unix_ms(), memory::read());
        move |work, profile| Event::Sample { ended_unix_ms, wall_ns, cpu_ns, energy, memory, profile, work }
    }
}

/// The energy between two marks, by domain of the first source.
fn domains(meter: &Meter, from: &energy::Mark, to: &energy::Mark) -> Figure<Vec<DomainEnergy>> {
    let energy = meter.between(from, to).swap_remove(0).energy;
    energy.map(|domains| {
        domains.into_iter().map(|d| DomainEnergy { domain: d.domain, energy_j: d.energy_j }).collect()
    })
}

#[allow(clippy::too_many_arguments, reason = "the fields of a visit")]
fn visit(
    case: &Case,
    model: &ModelFile,
    seed: u64,
    phases: &[Phase],
    reference: Option<&Reference>,
    profile: bool,
    meter: &Meter,
    emit: &mut impl FnMut(Event) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let kernel = Kernel::by_name(&case.kernel)
        .ok_or_else(|| Error::input(format!("there is no kernel '{}'", case.kernel)))?;
    let isa = Isa::by_name(&case.isa).map_err(|e| skip(Error::environment(e)))?;
    let kv = kv_type(&case.kv)?;
    let (n_prompt, n_gen) = (case.n_prompt as usize, case.n_gen as usize);
    let options = EngineOptions {
        threads: case.threads as usize,
        kv,
        context: (n_prompt + n_gen).max(check::CONTEXT),
        batch: n_prompt.clamp(check::CONTEXT, BATCH),
        profile,
    };

    let window = Window::open(meter);
    let gguf = model.open()?;
    // Whether the kernel can hold the model, and the memory hold both, is known before loading starts.
    let file_bytes = Bytes(gguf.file_bytes());
    let embedding = embedding_type(case.embedding.as_deref())?;
    let loaded = engine_with(&gguf, I2sLayout::X86_64, embedding, kernel, isa, options);
    let mut engine = loaded.map_err(|e| match e {
        Error::Environment(_) => skip(e),
        e => e.into(),
    })?;
    drop(gguf);
    let sample = window.close();
    let vocab = engine.model().config.vocab;
    let weight_bytes = Bytes(engine.model().packed_bytes());
    if phases.contains(&Phase::Load) {
        emit(sample(Work::Load { file_bytes, weight_bytes }, None))?;
    }

    // One step outside all windows wakes the threads and touches the buffers.
    engine.decode(0)?;
    engine.clear();
    // What is taken here belongs to no window.
    engine.take_profile();

    let prompt = prompt(seed, n_prompt, vocab);
    let mut tokens = Vec::with_capacity(n_gen);
    let mut latencies_ns = Vec::with_capacity(n_gen);
    let window = Window::open(meter);
    tokens.push(argmax(engine.prefill(&prompt)?));
    let sample = window.close();
    let spans = engine.take_profile();
    if phases.contains(&Phase::Prefill) {
        let cost = Some(prefill_cost(engine.model(), n_prompt));
        emit(sample(Work::Prefill { prompt, cost }, spans))?;
    }

    if phases.contains(&Phase::Decode) {
        let mut stream = Vec::with_capacity(MAX_READS * 2);
        read_weights(&mut engine, &mut stream);
        let window = Window::open(meter);
        let mut last = Instant::now();
        for i in 1..n_gen {
            let token = argmax(engine.decode(tokens[i - 1])?);
            tokens.push(token);
            let now = Instant::now();
            latencies_ns.push((now - last).as_nanos() as u64);
            last = now;
        }
        let sample = window.close();
        let spans = engine.take_profile();
        read_weights(&mut engine, &mut stream);
        // The context of the steps runs from n_prompt + 1 to n_prompt + n_gen - 1.
        let bytes_per_token = engine.decode_bytes(n_prompt + n_gen / 2);
        emit(sample(Work::Decode { tokens, latencies_ns, bytes_per_token, stream }, spans))?;
    }

    if let Some(reference) = reference {
        let want = check::read(&reference.path, vocab)?;
        let got = check::logits(&mut engine, seed)?;
        let difference = check::compare(&got, &want)?;
        let (kernel, isa) = check::reference_of(kernel);
        emit(Event::Checked {
            reference: format!("{kernel} {isa}"),
            relative_difference: difference.relative,
            tolerance: check::tolerance(kernel),
            positions: difference.positions as u32,
            argmax_agreeing: difference.argmax_agreeing as u32,
        })?;
    }
    Ok(())
}

/// Reads the weights again and again for 20 ms, at least twice, and notes the rate of each pass.
fn read_weights(engine: &mut Engine, rates: &mut Vec<BytesPerS>) {
    let start = Instant::now();
    for pass in 0..MAX_READS {
        let pass_start = Instant::now();
        let bytes = engine.read_weights();
        rates.push(BytesPerS(bytes.0 as f64 / pass_start.elapsed().as_secs_f64()));
        if pass > 0 && start.elapsed() >= READ_FOR {
            break;
        }
    }
}

fn write_reference(
    model: &ModelFile,
    embedding: Option<&str>,
    seed: u64,
    reference: &Reference,
    kv: &str,
    threads: u32,
) -> Result<(), Stop> {
    let kernel = Kernel::by_name(&reference.kernel)
        .ok_or_else(|| Error::input(format!("there is no kernel '{}'", reference.kernel)))?;
    let isa = Isa::SCALAR;
    let options = EngineOptions {
        threads: threads as usize,
        kv: kv_type(kv)?,
        context: check::CONTEXT,
        batch: BATCH,
        profile: false,
    };
    let embedding = embedding_type(embedding)?;
    let logits = model
        .open()
        .and_then(|gguf| engine_with(&gguf, I2sLayout::X86_64, embedding, kernel, isa, options))
        .and_then(|mut engine| check::logits(&mut engine, seed))
        .map_err(skip)?;
    // Whatever cannot be computed is skipped: an error means that the run directory cannot be written.
    Ok(check::write(&reference.path, &logits)?)
}

fn embedding_type(name: Option<&str>) -> Result<Option<EmbeddingType>> {
    name.map(EmbeddingType::by_name).transpose()
}

fn kv_type(name: &str) -> Result<KvType> {
    KvType::by_name(name).ok_or_else(|| Error::input(format!("a KV cache is f16 or f32, not '{name}'")))
}
