//! From floats to ggml's blocks Q8_0 and Q6_K: what embeddings and output projections are stored in.

use half::f16;

use super::TensorType;
use crate::error::{Error, Result};

/// Appends a block of weights; none if it cannot hold them.
type Block = fn(&[f32], &mut Vec<u8>) -> Option<()>;

/// Appends `values`, whole blocks of the type `ty`, to `out`.
///
/// - **Q8_0**, as ggml: d = max|x| ÷ 127, stored as f16; the codes are x ÷ d (before its rounding),
///   rounded to the nearest, halves away from zero.
/// - **Q6_K**: each 16 weights have a step s = −x₀ ÷ 32, x₀ being the one of largest magnitude, which
///   thus gets the code −32. d = max|s| ÷ 127, stored as f16; the sub-scale is s ÷ d, rounded; the codes
///   are x ÷ (d × sub-scale), rounded and clamped to −32..31. (ggml's own quantizer starts from the same
///   step and searches around it for one with less error: its files differ, their readers do not.)
///
/// # Errors
/// If `ty` is another type, the values are no whole number of blocks, or one is not finite or too large
/// for f16 scales.
pub fn quantize(ty: TensorType, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    let (cols, block): (usize, Block) = match ty {
        TensorType::Q8_0 => (32, q8_0),
        TensorType::Q6K => (256, q6_k),
        _ => {
            return Err(Error::input(format!("weights are quantized to Q8_0 or Q6_K, not to {}", ty.name())));
        }
    };
    if !values.len().is_multiple_of(cols) {
        return Err(Error::input(format!(
            "{} weights are no whole number of {} blocks, which hold {cols}; use F16",
            values.len(),
            ty.name()
        )));
    }
    for values in values.chunks_exact(cols) {
        block(values, out).ok_or_else(|| {
            Error::input(format!(
                "weights of up to {} are beyond what {} holds; use F16 or F32",
                largest(values),
                ty.name()
            ))
        })?;
    }
    Ok(())
}

/// The value of largest magnitude; a NaN if there is one.
fn largest(values: &[f32]) -> f32 {
    values.iter().copied().reduce(|a, b| if b.is_nan() || b.abs() > a.abs() { b } else { a }).unwrap_or(0.0)
}

/// `d` as f16, if it is finite there.
fn scale(d: f32) -> Option<f16> {
    Some(f16::from_f32(d)).filter(|d| d.is_finite())
}

/// `x` ÷ `d`, and 0 where there is nothing to divide by.
fn steps(x: f32, d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { (x / d).round() }
}

fn q8_0(values: &[f32], out: &mut Vec<u8>) -> Option<()> {
    let d = largest(values).abs() / 127.0;
    out.extend(scale(d)?.to_le_bytes());
    out.extend(values.iter().map(|x| steps(*x, d) as i8 as u8));
    Some(())
}

fn q6_k(values: &[f32], out: &mut Vec<u8>) -> Option<()> {
    let step: [f32; 16] = std::array::from_fn(|g| largest(&values[16 * g..][..16]) / -32.0);
    let d = scale(largest(&step).abs() / 127.0)?;
    let sub_scales = step.map(|s| steps(s, d.to_f32()).clamp(-128.0, 127.0) as i8);
    let (mut low, mut high) = ([0u8; 128], [0u8; 64]);
    for (j, x) in values.iter().enumerate() {
        let step = d.to_f32() * f32::from(sub_scales[j / 16]);
        let code = (steps(*x, step).clamp(-32.0, 31.0) as i8 + 32) as u8;
        // The places of `dequant::blocks::q6_k`.
        let (half, k, l) = (j / 128, j % 128 / 32, j % 32);
        low[64 * half + 32 * (k % 2) + l] |= (code & 0xf) << (4 * (k / 2));
        high[32 * half + l] |= (code >> 4) << (2 * k);
    }
    out.extend(low);
    out.extend(high);
    out.extend(sub_scales.map(|s| s as u8));
    out.extend(d.to_le_bytes());
    Some(())
}
