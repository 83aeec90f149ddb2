//! Synthetic models: the geometry of a published model with random ternary weights.
//!
//! Speed does not depend on the values of ternary weights (no kernel skips zeros), so a synthetic
//! model of the right shape measures what the real one would; its text is noise. The weights depend
//! on the seed alone, not on the type they are written in, and are made and written a slice at a time.

use std::path::Path;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::gguf::{Array, TensorInfo, TensorType, Value, Writer, quantize};

use super::config::UNIQUE_LAYERS;
use super::names::{self, Expected, Role};
use super::{Config, EmbeddingType, Geometry, WeightType};

/// The seed of models that suites synthesise.
pub const SYNTH_SEED: u64 = 1;

/// Context length written into synthetic models.
const CONTEXT: u32 = 4096;

/// Weights made by one task; a multiple of every tensor's block.
const TASK_WEIGHTS: usize = 1 << 16;

/// Tasks encoded before their bytes are written: bounds the memory to tens of megabytes.
const TASKS_IN_FLIGHT: usize = 64;

/// Writes a synthetic model of `geometry` to `path`, its linear layers as `ty`, its embedding (and output
/// projection) as `embedding`: F16 if none is given, F32 if `ty` is. With `unique_layers` only so many layers
/// are written, of which every layer of the geometry has the weights of one: see [`Config::unique_layers`]. An
/// existing file is replaced only if `overwrite`.
///
/// # Errors
/// If there are not so many layers, the file exists or cannot be written, or the geometry's rows are no whole
/// number of blocks of `ty` or `embedding`.
pub fn synth(
    geometry: &Geometry,
    unique_layers: Option<u32>,
    ty: WeightType,
    embedding: Option<EmbeddingType>,
    seed: u64,
    path: &Path,
    overwrite: bool,
) -> Result<()> {
    let config = geometry.config(unique_layers)?;
    let expected = names::expected(&config);
    let head = match embedding {
        Some(embedding) => {
            embedding
                .check_cols(config.hidden)
                .map_err(|e| e.at(format_args!("embedding of {}", geometry.model)))?;
            embedding.tensor_type()
        }
        None if ty == WeightType::F32 => TensorType::F32,
        None => TensorType::F16,
    };
    if let Some(e) = expected.iter().find(|e| e.role == Role::Linear && !ty.fits(e.cols)) {
        return Err(Error::input(format!(
            "geometry {}: rows of {} weights ({}) are no whole number of the 128 that a block of I2_S has; write f16",
            geometry.model, e.cols, e.name
        )));
    }
    let tensors = expected.iter().map(|e| {
        let ty = match e.role {
            Role::Norm => TensorType::F32,
            Role::Head => head,
            Role::Linear => ty.tensor_type(),
        };
        let shape =
            if e.role == Role::Norm { vec![e.cols as u64] } else { vec![e.cols as u64, e.rows as u64] };
        TensorInfo::new(e.name.clone(), shape, ty)
    });
    let mut writer =
        Writer::create(path, &metadata(geometry, &config, ty, seed), tensors.collect(), overwrite)?;
    for (index, tensor) in expected.iter().enumerate() {
        // One generator for each tensor and task, so that tasks can run in any order.
        let rng = |task: usize| Rng::new(seed, ((index as u64) << 32) | task as u64);
        let n = tensor.rows * tensor.cols;
        let scale = linear_scale(tensor);
        let tasks: Vec<usize> = (0..n.div_ceil(TASK_WEIGHTS)).collect();
        for tasks in tasks.chunks(TASKS_IN_FLIGHT) {
            let encoded: Vec<Vec<u8>> = tasks
                .par_iter()
                .map(|&task| {
                    let len = TASK_WEIGHTS.min(n - task * TASK_WEIGHTS);
                    let mut out = Vec::new();
                    let mut rng = rng(task);
                    match tensor.role {
                        Role::Linear => {
                            let mut trits = vec![0i8; len];
                            rng.trits(&mut trits);
                            ty.encode_trits(&trits, scale, &mut out)?;
                        }
                        Role::Head => {
                            let values: Vec<f32> = (0..len).map(|_| rng.uniform(0.05)).collect();
                            match head {
                                TensorType::F32 => encode(WeightType::F32, &values, &mut out)?,
                                TensorType::F16 => encode(WeightType::F16, &values, &mut out)?,
                                blocks => quantize(blocks, &values, &mut out)?,
                            }
                        }
                        Role::Norm => (0..len).try_for_each(|_| {
                            WeightType::F32.encode_float(1.0 + rng.uniform(0.25), &mut out)
                        })?,
                    }
                    Ok(out)
                })
                .collect::<Result<_>>()
                .map_err(|e| e.at(&tensor.name))?;
            encoded.iter().try_for_each(|bytes| writer.write_tensor_bytes(bytes))?;
        }
        if tensor.role == Role::Linear {
            let mut tail = Vec::new();
            ty.encode_tail(scale, &mut tail);
            writer.write_tensor_bytes(&tail)?;
        }
    }
    writer.finish()
}

fn encode(ty: WeightType, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    values.iter().try_for_each(|&w| ty.encode_float(w, out))
}

/// A scale that keeps the size of activations: two thirds of the trits are not zero. Rounded to f16,
/// so that all types hold the same weights.
fn linear_scale(tensor: &Expected) -> f32 {
    half::f16::from_f32((1.5 / tensor.cols as f32).sqrt()).to_f32()
}

impl Geometry {
    /// The smallest type that can hold a synthetic model of this geometry: I2_S, or F16 where rows are no whole
    /// number of its blocks.
    ///
    /// # Errors
    /// As [`Geometry::config`].
    pub fn smallest_type(&self) -> Result<WeightType> {
        let config = self.config(None)?;
        let mut linear = names::expected(&config).into_iter().filter(|e| e.role == Role::Linear);
        Ok(if linear.all(|e| WeightType::I2S.fits(e.cols)) { WeightType::I2S } else { WeightType::F16 })
    }

    /// The configuration of a synthetic model of this geometry with so many layers stored; all if no
    /// number is given.
    ///
    /// # Errors
    /// If the geometry does not have so many layers, or an architecture that is unknown.
    pub fn config(&self, unique_layers: Option<u32>) -> Result<Config> {
        let architecture = super::Architecture::by_name(&self.architecture).ok_or_else(|| {
            Error::input(format!("geometry {}: unknown architecture {}", self.model, self.architecture))
        })?;
        let unique_layers = unique_layers.unwrap_or(self.layers);
        if !(1..=self.layers).contains(&unique_layers) {
            return Err(Error::input(format!(
                "geometry {}: {unique_layers} layers cannot be stored of {}",
                self.model, self.layers
            )));
        }
        let head_dim = (self.hidden / self.heads) as usize;
        Ok(Config {
            architecture,
            hidden: self.hidden as usize,
            ffn: self.ffn as usize,
            layers: self.layers as usize,
            unique_layers: unique_layers as usize,
            heads: self.heads as usize,
            kv_heads: self.kv_heads as usize,
            head_dim,
            rope_dim: head_dim,
            rope_base: rope_base(self),
            norm_eps: 1e-5,
            vocab: self.vocab as usize,
            context: CONTEXT as usize,
            // llama models of the table have an output projection of their own.
            tied: architecture != super::Architecture::Llama,
        })
    }
}

fn rope_base(g: &Geometry) -> f32 {
    if g.architecture == "bitnet" { 10_000.0 } else { 500_000.0 }
}

/// Metadata as llama.cpp and its forks want them, so that they can run the file too.
fn metadata(g: &Geometry, config: &Config, ty: WeightType, seed: u64) -> Vec<(String, Value)> {
    let arch = &g.architecture;
    let u = Value::U32;
    let s = |v: &str| Value::String(v.to_owned());
    // llama.cpp's `general.file_type` numbers; 40 is bitnet.cpp's for I2_S.
    let file_type = match ty {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::I2S => 40,
    };
    let head_dim = g.hidden / g.heads;
    let vocab = g.vocab as usize;
    let token = |i: usize| match i {
        0 => "<unk>".to_owned(),
        1 => "<s>".to_owned(),
        2 => "</s>".to_owned(),
        3..=258 => format!("<0x{:02X}>", i - 3),
        _ => format!("<{i}>"),
    };
    // llama.cpp's token types: 1 normal, 2 unknown, 3 control, 6 byte.
    let token_type = |i: usize| match i {
        0 => 2,
        1 | 2 => 3,
        3..=258 => 6,
        _ => 1,
    };
    let of_arch = |k: &str, v: Value| (format!("{arch}.{k}"), v);
    let of = |k: &str, v: Value| (k.to_owned(), v);
    let mut metadata = vec![
        of("general.architecture", s(arch)),
        of("general.name", s(&format!("bitjoule synthetic {}, seed {seed}", g.model))),
        of("general.file_type", u(file_type)),
        of_arch("block_count", u(g.layers)),
        of_arch("context_length", u(CONTEXT)),
        of_arch("embedding_length", u(g.hidden)),
        of_arch("feed_forward_length", u(g.ffn)),
        of_arch("attention.head_count", u(g.heads)),
        of_arch("attention.head_count_kv", u(g.kv_heads)),
        of_arch("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        of_arch("rope.freq_base", Value::F32(rope_base(g))),
        of_arch("rope.dimension_count", u(head_dim)),
        of_arch("rope.scaling.type", s("linear")),
        of_arch("rope.scaling.factor", Value::F32(1.0)),
        of_arch("vocab_size", u(g.vocab)),
        of("bitjoule.synth.geometry", s(&g.model)),
        of("bitjoule.synth.seed", Value::U64(seed)),
        of("tokenizer.ggml.model", s("llama")),
        of("tokenizer.ggml.pre", s("default")),
        of("tokenizer.ggml.tokens", Value::Array(Array::String((0..vocab).map(token).collect()))),
        of("tokenizer.ggml.scores", Value::Array(Array::F32((0..vocab).map(|i| -(i as f32)).collect()))),
        of("tokenizer.ggml.token_type", Value::Array(Array::I32((0..vocab).map(token_type).collect()))),
        of("tokenizer.ggml.bos_token_id", u(1)),
        of("tokenizer.ggml.eos_token_id", u(2)),
        of("tokenizer.ggml.unknown_token_id", u(0)),
    ];
    if config.unique_layers < config.layers {
        metadata.push(of(UNIQUE_LAYERS, u(config.unique_layers as u32)));
    }
    metadata
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, and the same everywhere for ever, which a
/// library's generator does not promise.
#[derive(Debug, Clone)]
struct Rng(u64);

impl Rng {
    fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Rng(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// -1, 0 and 1, a third each (one more in 256 for -1).
    fn trits(&mut self, out: &mut [i8]) {
        for chunk in out.chunks_mut(8) {
            for (out, byte) in chunk.iter_mut().zip(self.next().to_le_bytes()) {
                *out = ((u16::from(byte) * 3) >> 8) as i8 - 1;
            }
        }
    }

    /// Uniform in -max to max.
    fn uniform(&mut self, max: f32) -> f32 {
        ((self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trits_are_thirds() {
        let mut trits = vec![0; 30_000];
        Rng::new(1, 2).trits(&mut trits);
        for t in [-1, 0, 1] {
            let n = trits.iter().filter(|&&x| x == t).count();
            assert!((9_500..10_500).contains(&n), "{n} times {t}");
        }
    }
}
