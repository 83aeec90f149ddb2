//! `bitjoule generate`

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use bitjoule_kernels::{Isa, Kernel};

use crate::backend::native;
use crate::engine::{EngineOptions, KvType, Sampler, Sampling, allowed_cpus};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::{Config, Tokenizer};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Model file (GGUF)
    model: PathBuf,
    /// Prompt
    #[arg(short, long, required_unless_present = "tokens", conflicts_with = "tokens")]
    prompt: Option<String>,
    /// Prompt as token ids, separated by commas; the answer is printed as token ids too
    #[arg(long, value_delimiter = ',', value_name = "ID,...")]
    tokens: Vec<u32>,
    /// Tokens to generate
    #[arg(short, long, default_value_t = 64)]
    n: usize,
    /// Kernel: fp32-naive, f16, i2_s, tl1, tl2, tl2-lossy, tq1_0, tq2_0 or native
    #[arg(long, default_value = "i2_s")]
    kernel: String,
    /// Instruction set: auto, scalar, avx2, avx512-vnni, avx512-vbmi, neon or neon-dotprod
    #[arg(long, default_value = "auto")]
    isa: String,
    /// Threads; by default all that this process may use
    #[arg(short, long)]
    threads: Option<usize>,
    /// Element type of the KV cache
    #[arg(long, default_value = "f16")]
    kv: KvType,
    /// Order of the weights in I2_S tensors
    #[arg(long, default_value = "x86")]
    i2s_layout: super::Layout,
    /// Temperature of sampling; 0 always takes the most likely token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Sample from the K most likely tokens only (0: all)
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,
    /// Sample from the most likely tokens that together reach probability P only (1: all)
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f32,
    /// Seed of sampling
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The kernel called `name`.
pub(super) fn kernel(name: &str) -> Result<Kernel> {
    let known = Kernel::ALL.map(Kernel::name).join(", ");
    Kernel::by_name(name)
        .ok_or_else(|| Error::input(format!("there is no kernel '{name}'; the kernels are {known}")))
}

/// The instruction set called `name`.
pub(super) fn isa(name: &str) -> Result<Isa> {
    use bitjoule_kernels::UnsupportedIsa::{Missing, Unknown};
    Isa::by_name(name).map_err(|e| match e {
        Unknown(_) => Error::input(e),
        Missing(_) => Error::environment(e),
    })
}

/// A thread count within reason.
pub(super) fn threads(n: Option<usize>) -> Result<usize> {
    match n {
        None => Ok(allowed_cpus().len().max(1)),
        Some(n @ 1..=1024) => Ok(n),
        Some(n) => Err(Error::input(format!("{n} threads: give 1 to 1024"))),
    }
}

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        if self.n == 0 {
            return Err(Error::input("-n 0: give at least 1 token to generate"));
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0 && self.top_p > 0.0 && self.top_p <= 1.0)
        {
            return Err(Error::input("--temperature is 0 or more, --top-p more than 0 and at most 1"));
        }
        let (kernel, isa, threads) = (kernel(&self.kernel)?, isa(&self.isa)?, threads(self.threads)?);
        let gguf = Gguf::open(&self.model)?;
        let config = Config::from_gguf(&gguf)?;
        let tokenizer = Tokenizer::from_gguf(&gguf, config.vocab);
        let prompt = match &self.prompt {
            Some(text) => {
                eprintln!(
                    "note: the file's own tokenizer is not supported yet; the prompt is spelled byte by byte, \
                     which a trained model was not trained on"
                );
                tokenizer.encode(text)
            }
            None => self.tokens.clone(),
        };
        if prompt.is_empty() {
            return Err(Error::input("the prompt is empty; give at least one byte or token"));
        }
        let context = prompt.len().checked_add(self.n).filter(|&c| c <= config.context).ok_or_else(|| {
            Error::input(format!(
                "{} prompt tokens and {} to generate exceed the model's context of {}",
                prompt.len(),
                self.n,
                config.context
            ))
        })?;
        let options = EngineOptions {
            threads,
            kv: self.kv,
            context,
            batch: native::BATCH.min(context),
            profile: false,
        };
        let start = Instant::now();
        let mut engine = native::engine(&gguf, self.i2s_layout.into(), kernel, isa, options)?;
        drop(gguf);
        let load = start.elapsed();

        let sampling =
            Sampling { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p, seed: self.seed };
        let mut sampler = Sampler::new(sampling, config.vocab);
        let mut stdout = std::io::stdout();
        let mut show = |i: usize, token: u32| {
            let piece = match &self.prompt {
                Some(_) => tokenizer.decode(token),
                None => format!("{}{token}", if i == 0 { "" } else { "," }).into_bytes(),
            };
            // A reader that has gone away ends the output, not the measurement.
            let _ = stdout.write_all(&piece).and_then(|()| stdout.flush());
        };
        let start = Instant::now();
        let mut token = sampler.sample(engine.prefill(&prompt)?);
        let prefill = start.elapsed();
        show(0, token);
        let start = Instant::now();
        let mut generated = 1;
        // Given token ids, the answer is to be compared: it does not stop at the end of a text.
        let end = self.prompt.as_ref().and(tokenizer.end());
        while generated < self.n && Some(token) != end {
            token = sampler.sample(engine.decode(token)?);
            show(generated, token);
            generated += 1;
        }
        let decode = start.elapsed();
        super::print("\n");
        eprintln!(
            "{kernel} {isa}, {threads} threads: load {:.2} s; prefill {} tokens in {:.1} ms, {:.1} tokens/s; \
             decode {} tokens, {}",
            load.as_secs_f64(),
            prompt.len(),
            prefill.as_secs_f64() * 1e3,
            prompt.len() as f64 / prefill.as_secs_f64(),
            generated - 1,
            match generated {
                1 => "no speed".to_owned(),
                n => format!("{:.1} tokens/s", (n - 1) as f64 / decode.as_secs_f64()),
            }
        );
        Ok(0)
    }
}
