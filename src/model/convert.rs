//! Conversion of model files between F32, F16 and I2_S, and of their embeddings to Q8_0 and Q6_K.

use std::path::Path;

use bitjoule_kernels::Kernel;

use crate::error::{Error, Result};
use crate::gguf::{Gguf, I2sLayout, TensorInfo, TensorType, Value, Writer};

use super::names::{self, Role};
use super::packing::Source;
use super::{EmbeddingType, Plan, WeightType};

/// Rows converted at a time.
const ROWS: usize = 64;

/// Writes the model `gguf` to `path` with its linear layers as `ty`.
///
/// Norms become F32. Embedding and output projection become `embedding`; without it they keep F32, F16,
/// Q8_0 and Q6_K, and otherwise become F16 where it holds them exactly, else F32. All metadata are kept but `general.file_type`, and the keys that
/// name a quantization.
///
/// # Errors
/// If the file is no model that the engine runs, a linear layer is not ternary and `ty` is I2_S, F16
/// cannot hold a weight, or the target exists (and `overwrite` is not given) or cannot be written.
pub fn convert(
    gguf: &Gguf,
    layout: I2sLayout,
    ty: WeightType,
    embedding: Option<EmbeddingType>,
    path: &Path,
    overwrite: bool,
) -> Result<()> {
    // The plan for the kernel of the same type checks everything beforehand.
    let kernel = match ty {
        WeightType::F32 => Kernel::Fp32Naive,
        WeightType::F16 => Kernel::F16,
        WeightType::I2S => Kernel::I2S,
    };
    let plan = Plan::with_embedding(gguf, kernel, layout, embedding)?;
    let expected = names::expected(plan.config());
    let mut targets = Vec::new();
    for e in &expected {
        let mut source = Source::new(gguf, &e.name, layout)?;
        let target = match (e.role, source.info().ty) {
            (Role::Norm, _) => TensorType::F32,
            (Role::Linear, _) => ty.tensor_type(),
            (Role::Head, own) => {
                source = source.stored_as(embedding);
                match (embedding, own) {
                    (Some(embedding), _) => embedding.tensor_type(),
                    (None, TensorType::F16 | TensorType::F32 | TensorType::Q8_0 | TensorType::Q6K) => own,
                    (None, _) if source.is_exact_in_f16()? => TensorType::F16,
                    (None, _) => TensorType::F32,
                }
            }
        };
        if target == TensorType::I2S && e.cols % 128 != 0 {
            return Err(Error::input(format!(
                "{}: tensor '{}': I2_S needs rows of a multiple of 128 weights, not {}",
                gguf.path_label(),
                e.name,
                e.cols
            )));
        }
        targets.push((source, target));
    }
    let tensors = targets
        .iter()
        .map(|(s, target)| TensorInfo::new(s.info().name.clone(), s.info().shape.clone(), *target))
        .collect();
    let mut writer = Writer::create(path, &metadata(gguf, ty), tensors, overwrite)?;
    for (source, target) in targets {
        let (rows, cols) = source.shape();
        let written_as = match target {
            TensorType::I2S => Some(WeightType::I2S),
            TensorType::F32 => Some(WeightType::F32),
            TensorType::F16 => Some(WeightType::F16),
            _ => None, // in blocks
        };
        let scale = if target == TensorType::I2S { source.ternary_scale()? } else { 1.0 };
        let mut out = Vec::new();
        for first in (0..rows).step_by(ROWS) {
            let range = first..(first + ROWS).min(rows);
            out.clear();
            match written_as {
                None => source.block_rows(range, &mut out)?,
                Some(WeightType::I2S) => {
                    let mut trits = vec![0; range.len() * cols];
                    source.ternary_rows(range, scale, &mut trits)?;
                    WeightType::I2S.encode_trits(&trits, scale, &mut out)?;
                }
                Some(float) => {
                    let mut values = vec![0.0; range.len() * cols];
                    source.rows(range, &mut values)?;
                    values
                        .iter()
                        .try_for_each(|&w| float.encode_float(w, &mut out))
                        .map_err(|e| source.error(e))?;
                }
            }
            writer.write_tensor_bytes(&out)?;
        }
        if target == TensorType::I2S {
            out.clear();
            WeightType::I2S.encode_tail(scale, &mut out);
            writer.write_tensor_bytes(&out)?;
        }
    }
    writer.finish()
}

fn metadata(gguf: &Gguf, ty: WeightType) -> Vec<(String, Value)> {
    let file_type = match ty {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::I2S => 40,
    };
    let mut metadata = gguf.metadata().to_vec();
    metadata.retain(|(key, _)| key != "general.quantization_version" && key != "general.alignment");
    match metadata.iter_mut().find(|(key, _)| key == "general.file_type") {
        Some((_, value)) => *value = Value::U32(file_type),
        None => metadata.push(("general.file_type".to_owned(), Value::U32(file_type))),
    }
    metadata
}
