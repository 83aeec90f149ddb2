//! Whether a kernel that is timed computes what it should: its logits against the reference's.
//!
//! An exact ternary kernel is held against `i2_s` in its scalar form, a lossy one against its own scalar
//! form: all their sums are integers, so the results have to be equal up to the order of summation in the
//! output projection. A floating-point kernel is held against `fp32-naive`, with room for the rounding of
//! weights to f16.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use bitjoule_kernels::{Isa, Kernel};

use crate::engine::{Engine, argmax};
use crate::error::{Error, Result};

/// Tokens that are processed as one batch, then one by one.
const BATCH_TOKENS: usize = 8;
/// Tokens decoded one by one after the batch.
const SINGLE_TOKENS: usize = 8;
/// Context that a check needs.
pub const CONTEXT: usize = BATCH_TOKENS + SINGLE_TOKENS;

/// The kernel and instruction set that `kernel` is held against.
pub fn reference_of(kernel: Kernel) -> (Kernel, Isa) {
    let reference = match (kernel.is_ternary(), kernel.is_exact()) {
        (true, true) => Kernel::I2S,
        (true, false) => kernel,
        (false, _) => Kernel::Fp32Naive,
    };
    (reference, Isa::SCALAR)
}

/// Largest relative difference that passes.
///
/// For ternary kernels the float32 noise of the output projection; for floating-point kernels what
/// rounding weights and cache to f16 does, with a margin.
pub fn tolerance(kernel: Kernel) -> f64 {
    if kernel.is_ternary() { 1e-5 } else { 1e-2 }
}

/// How far two sets of logits are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Largest absolute difference.
    pub absolute: f64,
    /// The same over the largest absolute reference logit.
    pub relative: f64,
    /// Positions compared.
    pub positions: usize,
    /// Positions whose argmax agrees.
    pub argmax_agreeing: usize,
    /// First position whose argmax differs.
    pub first_differing: Option<usize>,
}

/// Compares logits, position by position. A NaN on either side is an infinite difference.
///
/// # Errors
/// If the two are not of one shape.
pub fn compare(got: &[Vec<f32>], reference: &[Vec<f32>]) -> Result<Difference> {
    if got.len() != reference.len() || got.iter().zip(reference).any(|(g, r)| g.len() != r.len()) {
        let shape = |l: &[Vec<f32>]| format!("{} x {}", l.len(), l.first().map_or(0, Vec::len));
        return Err(Error::input(format!(
            "logits of {} (positions x vocabulary) cannot be compared with {}",
            shape(got),
            shape(reference)
        )));
    }
    let mut largest = 0f64;
    let mut absolute = 0f64;
    let mut argmax_agreeing = 0;
    let mut first_differing = None;
    for (position, (got, reference)) in got.iter().zip(reference).enumerate() {
        for (g, r) in got.iter().zip(reference) {
            let difference = (f64::from(*g) - f64::from(*r)).abs();
            absolute = if difference.is_nan() { f64::INFINITY } else { absolute.max(difference) };
            largest = largest.max(f64::from(r.abs()));
        }
        if argmax(got) == argmax(reference) {
            argmax_agreeing += 1;
        } else {
            first_differing = first_differing.or(Some(position));
        }
    }
    let relative = if absolute == 0.0 { 0.0 } else { absolute / largest };
    let relative = if relative.is_nan() { f64::INFINITY } else { relative };
    Ok(Difference { absolute, relative, positions: got.len(), argmax_agreeing, first_differing })
}

/// The logits that are compared: after a batch of eight tokens, then after each of eight more. Of a model
/// with tied layers each stored layer is computed once: every weight is checked, in the time that a model of
/// that size takes.
///
/// # Errors
/// Those of the engine.
pub fn logits(engine: &mut Engine, seed: u64) -> Result<Vec<Vec<f32>>> {
    let tokens = super::native::prompt(seed, CONTEXT, engine.model().config.vocab);
    let (batch, single) = tokens.split_at(BATCH_TOKENS);
    let (stored, layers) = (engine.model().config.unique_layers, engine.model().config.layers);
    engine.compute_layers(stored);
    let mut all = vec![engine.prefill(batch)?.to_vec()];
    for &token in single {
        all.push(engine.decode(token)?.to_vec());
    }
    engine.compute_layers(layers);
    Ok(all)
}

/// Writes logits to `path`, completely or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, logits: &[Vec<f32>]) -> Result<()> {
    let bytes: Vec<u8> = logits.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let partial = path.with_extension("partial");
    let written = File::create(&partial)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|e| {
        let _ = std::fs::remove_file(&partial);
        Error::io("write", path, &e)
    })
}

/// Reads logits of `vocab` values a position.
///
/// # Errors
/// If the file cannot be read or is not of that shape.
pub fn read(path: &Path, vocab: usize) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    if bytes.len() != vocab * (SINGLE_TOKENS + 1) * 4 {
        return Err(Error::input(format!("{}: not the reference logits of this model", path.display())));
    }
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(values.chunks_exact(vocab).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found() {
        let reference = vec![vec![1.0, -4.0, 2.0], vec![0.0, 1.0, 3.0]];
        let mut got = reference.clone();
        let same = compare(&got, &reference).unwrap();
        assert_eq!((same.relative, same.argmax_agreeing, same.first_differing), (0.0, 2, None));
        got[1][1] = 4.0;
        let other = compare(&got, &reference).unwrap();
        assert_eq!((other.absolute, other.relative), (3.0, 0.75));
        assert_eq!((other.argmax_agreeing, other.first_differing), (1, Some(1)));
        got[0][0] = f32::NAN;
        assert_eq!(compare(&got, &reference).unwrap().relative, f64::INFINITY);
        assert!(compare(&got[..1], &reference).is_err());
    }
}
