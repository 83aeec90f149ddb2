//! Verification: every kernel, instruction set and thread count on the same tokens, against the exact
//! reference or against logits that another implementation computed.

use std::path::Path;

use bitjoule_kernels::{Isa, Kernel};
use serde::Deserialize;

use crate::backend::check::{self, Difference};
use crate::backend::native;
use crate::engine::{Engine, EngineOptions, KvType, allowed_cpus};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, I2sLayout};
use crate::model::Config;

/// Positions whose argmax must agree with golden logits when the cache is f16: its rounding flips some
/// of the int8 roundings behind it, so the logits themselves cannot agree.
const F16_KV_ARGMAX: f64 = 0.9;

/// Tokens compared without golden logits.
const TOKENS: usize = 16;

/// Logits of every position, made by another implementation: the JSON form of `tests/fixtures`.
#[derive(Debug, Clone, Deserialize)]
pub struct Golden {
    /// Who made them, and how.
    pub source: String,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Logits after each token, `[tokens][vocabulary]`.
    pub logits: Vec<Vec<f64>>,
}

impl Golden {
    /// Reads a golden file.
    ///
    /// # Errors
    /// If it cannot be read, is not of that form, or has no token.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        let golden: Golden = serde_json::from_slice(&text).map_err(|e| {
            Error::input(format!("{}: not a golden file (source, tokens, logits): {e}", path.display()))
        })?;
        if golden.tokens.is_empty() || golden.logits.len() != golden.tokens.len() {
            return Err(Error::input(format!(
                "{}: {} tokens with {} rows of logits; each token has one",
                path.display(),
                golden.tokens.len(),
                golden.logits.len()
            )));
        }
        Ok(golden)
    }
}

/// What to verify.
#[derive(Debug, Clone)]
pub struct Options {
    /// Layout of I2_S tensors.
    pub layout: I2sLayout,
    /// Element type of the KV cache.
    pub kv: KvType,
    /// The kernel, or all that can hold the model.
    pub kernel: Option<Kernel>,
    /// The instruction set, or all of this CPU.
    pub isa: Option<Isa>,
    /// The thread count, or 1 and all.
    pub threads: Option<usize>,
}

/// One line of the verdict.
#[derive(Debug, Clone)]
pub struct Line {
    /// The kernel.
    pub kernel: Kernel,
    /// Its instruction set.
    pub isa: Isa,
    /// Its threads.
    pub threads: usize,
    /// `batch` (prefill at once) or `tokens` (one by one).
    pub mode: &'static str,
    /// How far it is off.
    pub difference: Difference,
    /// Whether that passes; floating-point and lossy kernels are not judged.
    pub passed: Option<bool>,
}

/// The result of a verification.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// What everything was compared with.
    pub reference: String,
    /// What a ternary kernel has to meet.
    pub rule: String,
    /// One line for each kernel, instruction set, thread count and mode.
    pub lines: Vec<Line>,
    /// Kernels left out, and why.
    pub left_out: Vec<(Kernel, String)>,
}

/// Runs the verification; `progress` is told what is being computed.
///
/// # Errors
/// If the model or the golden file is wrong, or does not fit into memory.
pub fn verify(
    gguf: &Gguf,
    golden: Option<&Golden>,
    options: &Options,
    mut progress: impl FnMut(&str),
) -> Result<Verdict> {
    let vocab = Config::from_gguf(gguf)?.vocab;
    let tokens = match golden {
        Some(golden) => golden.tokens.clone(),
        None => native::prompt(1, TOKENS, vocab),
    };
    let engine = |kernel, isa, threads| {
        let (context, batch) = (tokens.len(), tokens.len());
        let options_of_engine = EngineOptions { threads, kv: options.kv, context, batch };
        native::engine(gguf, options.layout, kernel, isa, options_of_engine)
    };
    let (reference, rule, want) = match golden {
        Some(golden) => {
            let want: Vec<Vec<f32>> =
                golden.logits.iter().map(|row| row.iter().map(|&x| x as f32).collect()).collect();
            let rule = match options.kv {
                KvType::F32 => "relative difference at most 1e-5".to_owned(),
                KvType::F16 => {
                    format!("argmax agrees in at least {} % of the positions", F16_KV_ARGMAX * 100.0)
                }
            };
            (format!("golden logits: {}", golden.source), rule, want)
        }
        None => {
            let (kernel, isa) = check::reference_of(Kernel::I2S);
            progress(&format!("reference: {kernel} {isa}"));
            let want = match engine(kernel, isa, allowed_cpus().len().max(1)) {
                Ok(mut engine) => one_by_one(&mut engine, &tokens)?,
                // A model that is not ternary has floating-point kernels only.
                Err(Error::Input(_)) if options.kernel.is_none_or(|k| !k.is_ternary()) => {
                    let (kernel, isa) = check::reference_of(Kernel::F16);
                    progress(&format!("reference: {kernel} {isa}"));
                    one_by_one(&mut engine(kernel, isa, allowed_cpus().len().max(1))?, &tokens)?
                }
                Err(e) => return Err(e),
            };
            let reference = format!("{kernel} {isa}, exact integer sums, token by token");
            (reference, "relative difference at most 1e-5".to_owned(), want)
        }
    };
    let passes = |d: &Difference| match (golden, options.kv) {
        (Some(_), KvType::F16) => d.argmax_agreeing as f64 >= F16_KV_ARGMAX * d.positions as f64,
        _ => d.relative <= check::tolerance(Kernel::I2S),
    };

    let mut lines = Vec::new();
    let mut left_out = Vec::new();
    let all = [1, allowed_cpus().len().max(1)];
    for kernel in Kernel::ALL.into_iter().filter(|k| options.kernel.is_none_or(|only| *k == only)) {
        for isa in kernel.isas().into_iter().filter(|i| options.isa.is_none_or(|only| *i == only)) {
            let threads: &[usize] = match &options.threads {
                Some(n) => std::slice::from_ref(n),
                None if all[0] == all[1] => &all[..1],
                None => &all,
            };
            for &threads in threads {
                progress(&format!("{kernel} {isa} {threads}"));
                let mut engine = match engine(kernel, isa, threads) {
                    Ok(engine) => engine,
                    Err(e) if options.kernel.is_none() => {
                        if left_out.last().is_none_or(|(k, _)| *k != kernel) {
                            left_out.push((kernel, e.to_string()));
                        }
                        continue;
                    }
                    Err(e) => return Err(e),
                };
                let batch = engine.logits_of_each(&tokens)?;
                engine.clear();
                let single = one_by_one(&mut engine, &tokens)?;
                for (mode, got) in [("batch", batch), ("tokens", single)] {
                    let difference = check::compare(&got, &want)?;
                    let passed = kernel.is_exact().then(|| passes(&difference));
                    lines.push(Line { kernel, isa, threads, mode, difference, passed });
                }
            }
        }
    }
    if lines.is_empty() {
        let why: Vec<_> = left_out.iter().map(|(k, why)| format!("{k}: {why}")).collect();
        let why = if why.is_empty() {
            "the kernel has no code for that instruction set".to_owned()
        } else {
            why.join("; ")
        };
        return Err(Error::input(format!("{}: nothing to verify: {why}", gguf.path_label())));
    }
    Ok(Verdict { reference, rule, lines, left_out })
}

fn one_by_one(engine: &mut Engine, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
    tokens.iter().map(|&t| Ok(engine.decode(t)?.to_vec())).collect()
}
