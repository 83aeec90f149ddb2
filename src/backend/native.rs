//! One visit of a case on the native engine: load, prefill, decode, each in a window of its own.

use std::time::{Duration, Instant};

use bitjoule_kernels::{Isa, Kernel};

use crate::engine::{Engine, EngineOptions, KvType, argmax};
use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::gguf::{Gguf, I2sLayout};
use crate::journal::{Case, FailureKind, KeptWeights, Phase, Work};
use crate::model::{BUILTIN_GGUF, BUILTIN_NAME, EmbeddingType, Keeping, Kept, Plan};
use crate::probe::{bandwidth, compute, memory};
use crate::units::{Bytes, BytesPerS};

use super::check;
use super::cost::{macs, prefill_cost};
use super::limit::{Enforcement, MemoryCap};
use super::protocol::{Event, Job, ModelFile, Reference};
use super::window::{Instruments, idle, open_meter, overhead};

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
    ensure_within(what, needed, &memory::available())
}

fn ensure_within(what: &str, needed: Bytes, available: &Figure<Bytes>) -> Result<()> {
    match available.value() {
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
    let needed = options.memory(&plan, isa).total();
    ensure_memory(&format!("{} with kernel {kernel}", gguf.path_label()), needed)?;
    Engine::new(plan.load(isa)?, options)
}

/// The engine that a visit of `case` runs.
///
/// # Errors
/// If there is no such KV cache.
pub fn options_of(case: &Case) -> Result<EngineOptions> {
    let (n_prompt, n_gen) = (case.n_prompt as usize, case.n_gen as usize);
    Ok(EngineOptions {
        threads: case.threads as usize,
        kv: kv_type(&case.kv)?,
        context: (n_prompt + n_gen).max(check::CONTEXT),
        batch: n_prompt.clamp(check::CONTEXT, BATCH),
        profile: false,
    })
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
        Job::Visit { case, model, seed, phases, check, kept, profile, energy, cap } => {
            // Before the engine's threads start, which inherit the counters.
            let instruments = Instruments::open(energy);
            let capped = Capped::enter(cap.as_ref());
            capped.and_then(|capped| {
                visit(
                    case,
                    model,
                    *seed,
                    phases,
                    check.as_ref(),
                    kept.as_deref(),
                    *profile,
                    &capped,
                    &instruments,
                    &mut report,
                )
            })
        }
        Job::Reference { model, embedding, seed, reference, kv, threads } => {
            write_reference(model, embedding.as_deref(), *seed, reference, kv, *threads)
        }
        Job::Idle { energy } => report(idle(&open_meter(energy))),
        Job::Overhead { energy, threads, pairs } => {
            overhead(&Instruments::open(energy), *threads as usize, *pairs as usize)
                .map_err(Stop::from)
                .and_then(|pairs| report(Event::Overhead { pairs }))
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

/// The memory limit that a visit is under, if any, and what was available before that.
struct Capped<'a> {
    cap: Option<&'a MemoryCap>,
    available: Figure<Bytes>,
}

impl<'a> Capped<'a> {
    fn enter(cap: Option<&'a MemoryCap>) -> Result<Self, Stop> {
        let available = memory::available();
        cap.map_or(Ok(()), MemoryCap::enter).map_err(skip)?;
        Ok(Capped { cap, available })
    }

    /// Refuses what the machine does not have. The limit refuses nothing beforehand: whether the case runs
    /// under it is what is to be found out; but it can take no more than that.
    fn ensure(&self, what: &str, needed: Bytes) -> Result<()> {
        let needed = self.cap.map_or(needed, |cap| needed.min(cap.limit));
        ensure_within(what, needed, &self.available)
    }

    /// What an error while loading means, if `needed` was predicted.
    fn stop(&self, error: Error, needed: Option<Bytes>) -> Stop {
        match (error, self.cap) {
            // Memory in use beyond a control group's limit is no error: the worker is killed.
            (Error::Memory(why), Some(cap @ MemoryCap { enforcement: Enforcement::AddressSpace(_), .. })) => {
                let predicted = needed.map_or_else(String::new, |n| format!("{n} predicted to be needed; "));
                let error = Error::Memory(format!("{cap}: {predicted}{why}"));
                Stop { kind: FailureKind::MemoryLimit, error }
            }
            (error @ (Error::Memory(_) | Error::Environment(_)), _) => skip(error),
            (error, _) => error.into(),
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "the fields of a visit")]
fn visit(
    case: &Case,
    model: &ModelFile,
    seed: u64,
    phases: &[Phase],
    reference: Option<&Reference>,
    model_hash: Option<&str>,
    profile: bool,
    capped: &Capped,
    instruments: &Instruments,
    emit: &mut impl FnMut(Event) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let kernel = Kernel::by_name(&case.kernel)
        .ok_or_else(|| Error::input(format!("there is no kernel '{}'", case.kernel)))?;
    let isa = Isa::by_name(&case.isa).map_err(|e| skip(Error::environment(e)))?;
    let (n_prompt, n_gen) = (case.n_prompt as usize, case.n_gen as usize);
    let options = EngineOptions { profile, ..options_of(case)? };

    let window = instruments.open_window(options.threads);
    let gguf = model.open().map_err(|e| match e {
        Error::Memory(_) => capped.stop(e, None),
        e => e.into(),
    })?;
    // Whether the kernel can hold the model, and the memory hold both, is known before loading starts.
    let file_bytes = Bytes(gguf.file_bytes());
    let embedding = embedding_type(case.embedding.as_deref())?;
    let kept = match (model, model_hash) {
        (ModelFile::Path(path), Some(hash)) => Some(Kept::beside(path, hash, kernel, isa, embedding)),
        _ => None,
    };
    let plan = Plan::with_embedding(&gguf, kernel, I2sLayout::X86_64, embedding)
        .map_err(|e| capped.stop(e, None))?;
    let predicted = options.memory(&plan, isa);
    let predicted_full = options.memory_of_all_layers(&plan, isa);
    let needed = predicted.total();
    let load = || {
        capped.ensure(&format!("{} with kernel {kernel}", gguf.path_label()), needed)?;
        let (model, keeping) = match &kept {
            Some(kept) => plan.load_kept(isa, kept)?,
            None => (plan.load(isa)?, Keeping::Packed),
        };
        Ok((Engine::new(model, options)?, keeping))
    };
    let (mut engine, keeping) = load().map_err(|e| capped.stop(e, Some(needed)))?;
    drop(gguf);
    // A load is not repeated: it would need the memory twice.
    let sample = window.stop().close(None)?;
    let kept = kept.map(|kept| match keeping {
        Keeping::Read => KeptWeights::Read,
        Keeping::Packed => match kept.write(engine.model()) {
            Ok(()) => KeptWeights::Written,
            Err(e) => KeptWeights::NotWritten(e.to_string()),
        },
    });
    let vocab = engine.model().config.vocab;
    let weight_bytes = Bytes(engine.model().packed_bytes());
    if phases.contains(&Phase::Load) {
        let limit = capped.cap.map(MemoryCap::describe);
        let predicted = Some(predicted);
        emit(sample(Work::Load { file_bytes, weight_bytes, predicted, predicted_full, limit, kept }, None))?;
    }

    // One step outside all windows wakes the threads and touches the buffers.
    engine.decode(0)?;
    engine.clear();
    // What is taken here belongs to no window.
    engine.take_profile();

    let prompt = prompt(seed, n_prompt, vocab);
    let mut tokens = Vec::with_capacity(n_gen);
    let mut latencies_ns = Vec::with_capacity(n_gen);
    let window = instruments.open_window(options.threads);
    tokens.push(argmax(engine.prefill(&prompt)?));
    let timed = window.stop();
    let spans = engine.take_profile();
    let sample = timed.close(Some(&mut || {
        engine.clear();
        engine.prefill(&prompt).map(drop)
    }))?;
    engine.take_profile();
    if phases.contains(&Phase::Prefill) {
        let cost = Some(prefill_cost(engine.model(), n_prompt));
        let macs = Some(macs(engine.model(), 0..n_prompt, 1));
        emit(sample(Work::Prefill { prompt, cost, macs }, spans))?;
    }

    if phases.contains(&Phase::Decode) {
        let mut stream = Vec::with_capacity(MAX_READS * 2);
        read_weights(&mut engine, &mut stream);
        let window = instruments.open_window(options.threads);
        let mut last = Instant::now();
        for i in 1..n_gen {
            let token = argmax(engine.decode(tokens[i - 1])?);
            tokens.push(token);
            let now = Instant::now();
            latencies_ns.push((now - last).as_nanos() as u64);
            last = now;
        }
        let timed = window.stop();
        let spans = engine.take_profile();
        let steps = &tokens[..n_gen - 1];
        let mut again = || {
            engine.rewind(n_prompt);
            steps.iter().try_for_each(|&token| engine.decode(token).map(drop))
        };
        let sample = timed.close((!steps.is_empty()).then_some(&mut again))?;
        engine.take_profile();
        read_weights(&mut engine, &mut stream);
        // The context of the steps runs from n_prompt + 1 to n_prompt + n_gen - 1.
        let bytes_per_token = engine.decode_bytes(n_prompt + n_gen / 2);
        let macs = Some(macs(engine.model(), n_prompt..n_prompt + n_gen - 1, n_gen - 1));
        emit(sample(Work::Decode { tokens, latencies_ns, bytes_per_token, stream, macs }, spans))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_tried_and_the_machine_is_not_overrun() {
        let cap = |enforcement| MemoryCap { limit: Bytes(10), enforcement };
        let address_space = cap(Enforcement::AddressSpace("why".into()));
        let capped = |cap, available| Capped { cap, available: Figure::measured(Bytes(available), "test") };
        // More than the limit is tried, as long as the machine has what the limit allows.
        assert!(capped(Some(&address_space), 15).ensure("x", Bytes(20)).is_ok());
        assert!(capped(Some(&address_space), 5).ensure("x", Bytes(20)).is_err());
        assert!(capped(None, 15).ensure("x", Bytes(20)).is_err());

        let stop = |cap, error| capped(cap, 15).stop(error, Some(Bytes(20)));
        let refused = || Error::Memory("no room".into());
        let limited = stop(Some(&address_space), refused());
        assert_eq!(limited.kind, FailureKind::MemoryLimit);
        let reason = limited.error.to_string();
        assert!(reason.contains("10 B (RLIMIT_AS") && reason.contains("20 B predicted"), "{reason}");
        // Without the limit, or in a control group, which kills and refuses nothing, it is the machine's.
        let group = cap(Enforcement::ControlGroup("/x".into()));
        assert_eq!(stop(None, refused()).kind, FailureKind::Skipped);
        assert_eq!(stop(Some(&group), refused()).kind, FailureKind::Skipped);
        assert_eq!(stop(Some(&address_space), Error::environment("no AVX")).kind, FailureKind::Skipped);
        assert_eq!(stop(Some(&address_space), Error::input("damaged")).kind, FailureKind::Error);
    }
}
