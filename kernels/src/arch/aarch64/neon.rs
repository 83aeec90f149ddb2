//! NEON as every 64-bit Arm CPU has it: `smlal` adds i8 x i8 products to 16-bit lanes.
//!
//! Codes are at most 2 and activations at least -128, so a product has a magnitude of at most 256. The
//! 16-bit sums are widened to 32 bits before they could overflow.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::arch::FLOAT_BLOCK_COLS;
use crate::arch::scalar::finish_sums;
use crate::format::float_panels::Element;
use crate::format::i2_s::STEP_BYTES;
use crate::input::COLUMN_STEP;
use crate::{PANEL_ROWS, TokenInput};

/// Products of magnitude 256 that a 16-bit lane can sum: 127 * 256 = 32,512.
const MAX_16_BIT_TERMS: usize = 127;

/// Steps of 16 columns that can be summed in 16 bits: each adds four products (one a bit plane, or one
/// for each four columns of unpacked codes) to a lane.
const MAX_16_BIT_STEPS: usize = MAX_16_BIT_TERMS / 4;

/// Inputs that a GEMM tile of codes multiplies at a time: 2 x 8 accumulators, eight vectors of
/// activations and one of codes fill most of the 32 registers.
const CODE_TILE_INPUTS: usize = 2;

/// Inputs that a GEMM tile of floats multiplies at a time: 4 x 4 accumulators, four vectors of weights
/// and as many activations leave some of the 32 registers for the loads ahead.
const FLOAT_TILE_INPUTS: usize = 4;

/// One `i2_s` panel times all inputs.
///
/// # Safety
/// The CPU has NEON. `panel` is whole (its length a multiple of [`STEP_BYTES`]), each input's `q` has
/// 16 values for each step, `out` 32 values for each input, and `scratch` four bytes for each byte of
/// the panel.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn i2_s(
    panel: &[u8],
    scale: f32,
    inputs: &[TokenInput],
    scratch: &mut [u8],
    out: &mut [f32],
) {
    debug_assert!(inputs.iter().all(|i| i.q.len() / COLUMN_STEP == panel.len() / STEP_BYTES));
    debug_assert_eq!(out.len(), inputs.len() * PANEL_ROWS);
    // SAFETY: the caller's promises are those of the callees.
    unsafe {
        if let [input] = inputs {
            i2_s_gemv(panel, scale, input, out);
        } else {
            unpack_i2_s(panel, scratch);
            codes_gemm(scratch, scale, inputs, out);
        }
    }
}

/// 16 quantized values as the kernels want them: four neighbours, repeated in each 32-bit lane, for
/// each of the four groups.
///
/// # Safety
/// The CPU has NEON; 16 values are readable at `q`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn broadcast(q: *const i8) -> [int8x16_t; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let q = vreinterpretq_s32_s8(vld1q_s8(q));
        [
            vreinterpretq_s8_s32(vdupq_laneq_s32::<0>(q)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<1>(q)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<2>(q)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<3>(q)),
        ]
    }
}

/// Adds the 16 products of codes and activations to two vectors of 16-bit sums: those of the first two
/// of the vector's four rows, and those of the others.
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn multiply_add(sums: [int16x8_t; 2], codes: uint8x16_t, x: int8x16_t) -> [int16x8_t; 2] {
    // SAFETY: register arithmetic only; before Rust 1.87 these intrinsics count as unsafe.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        let codes = vreinterpretq_s8_u8(codes);
        [vmlal_s8(sums[0], vget_low_s8(codes), vget_low_s8(x)), vmlal_high_s8(sums[1], codes, x)]
    }
}

/// Adds the pairs of 16-bit sums to 32-bit sums.
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn widen(totals: [int32x4_t; 2], sums: [int16x8_t; 2]) -> [int32x4_t; 2] {
    // SAFETY: register arithmetic only; before Rust 1.87 these intrinsics count as unsafe.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        [vpadalq_s16(totals[0], sums[0]), vpadalq_s16(totals[1], sums[1])]
    }
}

/// Adds 16 columns of four rows, in 16 packed bytes, to the rows' sums.
///
/// # Safety
/// The CPU has NEON; 16 bytes are readable at `w`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn add_tile(mut sums: [int16x8_t; 2], w: *const u8, x: [int8x16_t; 4]) -> [int16x8_t; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let (tile, mask) = (vld1q_u8(w), vdupq_n_u8(3));
        sums = multiply_add(sums, vandq_u8(tile, mask), x[0]);
        sums = multiply_add(sums, vandq_u8(vshrq_n_u8::<2>(tile), mask), x[1]);
        sums = multiply_add(sums, vandq_u8(vshrq_n_u8::<4>(tile), mask), x[2]);
        multiply_add(sums, vshrq_n_u8::<6>(tile), x[3])
    }
}

/// One panel times one input, straight from the packed codes.
///
/// # Safety
/// As for [`i2_s`].
#[target_feature(enable = "neon")]
unsafe fn i2_s_gemv(panel: &[u8], scale: f32, input: &TokenInput, out: &mut [f32]) {
    let mut rows = [0i32; PANEL_ROWS];
    // SAFETY: a step is 128 bytes of the panel and 16 of q, both cut to that length; `rows` is eight
    // vectors of four.
    unsafe {
        let mut totals = [[vdupq_n_s32(0); 2]; 8];
        let qs = input.q.chunks(MAX_16_BIT_STEPS * COLUMN_STEP);
        for (steps, q) in panel.chunks(MAX_16_BIT_STEPS * STEP_BYTES).zip(qs) {
            let mut sums = [[vdupq_n_s16(0); 2]; 8];
            for (step, q) in steps.chunks_exact(STEP_BYTES).zip(q.chunks_exact(COLUMN_STEP)) {
                let (w, x) = (step.as_ptr(), broadcast(q.as_ptr()));
                // Written out: as a loop the compiler leaves the sums in memory.
                sums = [
                    add_tile(sums[0], w, x),
                    add_tile(sums[1], w.add(16), x),
                    add_tile(sums[2], w.add(32), x),
                    add_tile(sums[3], w.add(48), x),
                    add_tile(sums[4], w.add(64), x),
                    add_tile(sums[5], w.add(80), x),
                    add_tile(sums[6], w.add(96), x),
                    add_tile(sums[7], w.add(112), x),
                ];
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = widen(*total, sum);
            }
        }
        for (rows, total) in rows.chunks_exact_mut(4).zip(totals) {
            vst1q_s32(rows.as_mut_ptr(), vpaddq_s32(total[0], total[1]));
        }
    }
    finish_sums(&rows, scale, input, out);
}

/// Spreads a packed panel to one code a byte: for each four columns the 32 rows' four codes.
///
/// # Safety
/// The CPU has NEON. `panel` is whole.
///
/// # Panics
/// If `scratch` has not four bytes for each byte of the panel.
#[target_feature(enable = "neon")]
pub(super) unsafe fn unpack_i2_s(panel: &[u8], scratch: &mut [u8]) {
    assert_eq!(scratch.len(), panel.len() * 4);
    for (step, out) in panel.chunks_exact(STEP_BYTES).zip(scratch.chunks_exact_mut(STEP_BYTES * 4)) {
        // Vectorised by the compiler.
        for (plane, out) in out.chunks_exact_mut(STEP_BYTES).enumerate() {
            for (out, codes) in out.iter_mut().zip(step) {
                *out = codes >> (2 * plane) & 3;
            }
        }
    }
}

/// One panel times all inputs, from codes unpacked to one a byte: for each four columns the 32 rows'
/// four codes, of at most 2.
///
/// # Safety
/// The CPU has NEON. Each input's `q` has 16 values for each 512 bytes of
/// `codes`, of which there are whole ones, and `out` 32 values for each input.
#[target_feature(enable = "neon")]
unsafe fn codes_gemm(codes: &[u8], scale: f32, inputs: &[TokenInput], out: &mut [f32]) {
    for (inputs, out) in inputs.chunks(CODE_TILE_INPUTS).zip(out.chunks_mut(CODE_TILE_INPUTS * PANEL_ROWS)) {
        for half in 0..2 {
            // SAFETY: the caller's promises are those of the callees.
            unsafe {
                match inputs.len() {
                    1 => codes_tile::<1>(codes, half, scale, inputs, out),
                    _ => codes_tile::<CODE_TILE_INPUTS>(codes, half, scale, inputs, out),
                }
            }
        }
    }
}

/// 16 rows (the panel's first or second half) x N inputs.
///
/// # Safety
/// As for [`codes_gemm`]; `inputs` has N elements.
#[target_feature(enable = "neon")]
unsafe fn codes_tile<const N: usize>(
    codes: &[u8],
    half: usize,
    scale: f32,
    inputs: &[TokenInput],
    out: &mut [f32],
) {
    let inputs: &[TokenInput; N] = inputs.try_into().expect("as many inputs as the tile is wide");
    // SAFETY: each 16 columns are 512 bytes of codes, of which each four columns have 64 in this half,
    // and 16 of each q.
    unsafe {
        let mut totals = [[[vdupq_n_s32(0); 2]; 4]; N];
        let mut q: [*const i8; N] = std::array::from_fn(|n| inputs[n].q.as_ptr());
        for steps in codes.chunks(MAX_16_BIT_STEPS * 4 * STEP_BYTES) {
            let mut sums = [[[vdupq_n_s16(0); 2]; 4]; N];
            for step in steps.chunks_exact(4 * STEP_BYTES) {
                let x: [[int8x16_t; 4]; N] = std::array::from_fn(|n| broadcast(q[n]));
                for group in 0..4 {
                    let w = step.as_ptr().add(group * STEP_BYTES + 64 * half);
                    for part in 0..4 {
                        let codes = vld1q_u8(w.add(16 * part));
                        for n in 0..N {
                            sums[n][part] = multiply_add(sums[n][part], codes, x[n][group]);
                        }
                    }
                }
                q = q.map(|q| q.add(COLUMN_STEP));
            }
            for n in 0..N {
                for part in 0..4 {
                    totals[n][part] = widen(totals[n][part], sums[n][part]);
                }
            }
        }
        for (n, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            let mut rows = [0i32; 16];
            for (rows, total) in rows.chunks_exact_mut(4).zip(totals[n]) {
                vst1q_s32(rows.as_mut_ptr(), vpaddq_s32(total[0], total[1]));
            }
            finish_sums(&rows, scale, &inputs[n], &mut out[half * 16..][..16]);
        }
    }
}

/// Eight elements as f32. The intrinsics that convert f16 are not stable.
///
/// # Safety
/// The CPU has NEON; `T` is f16 or f32 and 8 elements are readable at `p`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn load8<T>(p: *const T) -> [float32x4_t; 2] {
    // SAFETY: 8 elements of two or four bytes are one or two vectors; the instructions are of plain
    // NEON, on the named registers only.
    unsafe {
        if size_of::<T>() == 2 {
            let halves = vld1q_u16(p.cast());
            let (low, high): (float32x4_t, float32x4_t);
            asm!(
                "fcvtl {low:v}.4s, {halves:v}.4h",
                low = lateout(vreg) low,
                halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags),
            );
            asm!(
                "fcvtl2 {high:v}.4s, {halves:v}.8h",
                high = lateout(vreg) high,
                halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags),
            );
            [low, high]
        } else {
            [vld1q_f32(p.cast()), vld1q_f32(p.cast::<f32>().add(4))]
        }
    }
}

/// One float panel (elements f16 or f32) times all inputs.
///
/// # Safety
/// The CPU has NEON. `panel` has 32 elements for each value of an input's `x`, `out` 32 values for each
/// input, and `scratch` room for 32 x [`FLOAT_BLOCK_COLS`] floats, aligned as such.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn float_panel<T: Element>(
    panel: &[T],
    scale: f32,
    inputs: &[TokenInput],
    scratch: &mut [u8],
    out: &mut [f32],
) {
    debug_assert!(inputs.iter().all(|i| i.x.len() * PANEL_ROWS == panel.len()));
    debug_assert_eq!(out.len(), inputs.len() * PANEL_ROWS);
    // SAFETY: the caller's promises are those of the callees.
    unsafe {
        if let [input] = inputs {
            float_gemv(panel, scale, input, out);
            return;
        }
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch);
        out.fill(0.0);
        for (b, block) in panel.chunks(FLOAT_BLOCK_COLS * PANEL_ROWS).enumerate() {
            let weights = &mut scratch[..block.len()];
            for (w, out) in block.chunks_exact(8).zip(weights.chunks_exact_mut(8)) {
                let w = load8(w.as_ptr());
                vst1q_f32(out.as_mut_ptr(), w[0]);
                vst1q_f32(out[4..].as_mut_ptr(), w[1]);
            }
            let col = b * FLOAT_BLOCK_COLS;
            let outs = out.chunks_mut(FLOAT_TILE_INPUTS * PANEL_ROWS);
            for (inputs, out) in inputs.chunks(FLOAT_TILE_INPUTS).zip(outs) {
                for half in 0..2 {
                    match inputs.len() {
                        1 => float_tile::<1>(weights, half, col, inputs, out),
                        2 => float_tile::<2>(weights, half, col, inputs, out),
                        3 => float_tile::<3>(weights, half, col, inputs, out),
                        _ => float_tile::<FLOAT_TILE_INPUTS>(weights, half, col, inputs, out),
                    }
                }
            }
        }
        for out in out {
            *out *= scale;
        }
    }
}

/// One panel times one input: two columns in flight, so that additions do not wait for each other.
///
/// # Safety
/// As for [`float_panel`].
#[target_feature(enable = "neon")]
unsafe fn float_gemv<T: Element>(panel: &[T], scale: f32, input: &TokenInput, out: &mut [f32]) {
    // SAFETY: each round reads 2 columns of 32 elements; `out` has 32 values.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 8]; 2];
        for (columns, x) in panel.chunks_exact(2 * PANEL_ROWS).zip(input.x.chunks_exact(2)) {
            for (c, sums) in sums.iter_mut().enumerate() {
                let column = columns.as_ptr().add(c * PANEL_ROWS);
                for (part, sums) in sums.chunks_exact_mut(2).enumerate() {
                    let w = load8(column.add(8 * part));
                    sums[0] = vfmaq_n_f32(sums[0], w[0], x[c]);
                    sums[1] = vfmaq_n_f32(sums[1], w[1], x[c]);
                }
            }
        }
        for (part, out) in out.chunks_exact_mut(4).enumerate() {
            let sum = vaddq_f32(sums[0][part], sums[1][part]);
            vst1q_f32(out.as_mut_ptr(), vmulq_n_f32(sum, scale));
        }
    }
}

/// Adds a block of columns, from `col` on, times N inputs to 16 (first or second half) of their 32
/// outputs.
///
/// # Safety
/// As for [`float_panel`]; `inputs` has N elements with `weights.len() / 32` values from `col` on.
#[target_feature(enable = "neon")]
unsafe fn float_tile<const N: usize>(
    weights: &[f32],
    half: usize,
    col: usize,
    inputs: &[TokenInput],
    out: &mut [f32],
) {
    let inputs: &[TokenInput; N] = inputs.try_into().expect("as many inputs as the tile is wide");
    // SAFETY: each column is 32 floats of `weights`, 16 of them this half's, and one of each input's
    // x; `out` has 32 N values.
    unsafe {
        let x: [*const f32; N] = std::array::from_fn(|n| inputs[n].x[col..].as_ptr());
        let mut sums = [[vdupq_n_f32(0.0); 4]; N];
        for (c, column) in weights.chunks_exact(PANEL_ROWS).enumerate() {
            let w: [float32x4_t; 4] =
                std::array::from_fn(|part| vld1q_f32(column.as_ptr().add(16 * half + 4 * part)));
            for (sums, x) in sums.iter_mut().zip(x) {
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = vfmaq_n_f32(*sum, w, *x.add(c));
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out.chunks_exact_mut(PANEL_ROWS)) {
            for (sum, out) in sums.into_iter().zip(out[half * 16..][..16].chunks_exact_mut(4)) {
                vst1q_f32(out.as_mut_ptr(), vaddq_f32(vld1q_f32(out.as_ptr()), sum));
            }
        }
    }
}

/// Sum of 16 lanes, halves first: the order of the scalar form.
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn sum_lanes(x: [float32x4_t; 4]) -> f32 {
    // SAFETY: register arithmetic only; before Rust 1.87 these intrinsics count as unsafe.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        let x = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
        vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x)))
    }
}

/// `scores[i] = query . keys[i] * scale`. Products and sums are rounded one by one, in the order of the
/// scalar form; two keys at a time hide some of the latency of the additions.
///
/// # Safety
/// The CPU has NEON. `T` is f16 or f32, the query's length is a multiple of 16, and `keys` holds one of
/// that length for each score.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn attention_scores<T>(query: &[f32], keys: &[T], scale: f32, scores: &mut [f32]) {
    let dim = query.len();
    debug_assert_eq!(keys.len(), dim * scores.len());
    for (keys, scores) in keys.chunks(2 * dim).zip(scores.chunks_mut(2)) {
        // SAFETY: the keys of these (at most two) scores; a missing one reads the last again.
        unsafe {
            let key: [*const T; 2] = std::array::from_fn(|i| keys[i.min(scores.len() - 1) * dim..].as_ptr());
            let mut sums = [[vdupq_n_f32(0.0); 4]; 2];
            for at in (0..dim).step_by(16) {
                for half in 0..2 {
                    let at = at + 8 * half;
                    let q = load8(query.as_ptr().add(at));
                    for (sums, key) in sums.iter_mut().zip(key) {
                        let k = load8(key.add(at));
                        for part in 0..2 {
                            let sum = &mut sums[2 * half + part];
                            *sum = vaddq_f32(*sum, vmulq_f32(q[part], k[part]));
                        }
                    }
                }
            }
            for (score, sums) in scores.iter_mut().zip(sums) {
                *score = sum_lanes(sums) * scale;
            }
        }
    }
}

/// `out = sum of weights[i] * values[i]`, up to 64 elements of the result in registers at a time.
///
/// # Safety
/// The CPU has NEON. `T` is f16 or f32, `out`'s length is a multiple of 8, and `values` holds one vector
/// of that length for each weight.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn weighted_sum<T>(weights: &[f32], values: &[T], out: &mut [f32]) {
    let dim = out.len();
    debug_assert_eq!(values.len(), dim * weights.len());
    let mut at = 0;
    while at < dim {
        let values = values.as_ptr().wrapping_add(at);
        // SAFETY: the elements from `at` on that `out` still has.
        unsafe {
            at += match (dim - at) / 8 {
                8.. => weighted_sum_of::<8, T>(weights, values, dim, &mut out[at..]),
                4..8 => weighted_sum_of::<4, T>(weights, values, dim, &mut out[at..]),
                2..4 => weighted_sum_of::<2, T>(weights, values, dim, &mut out[at..]),
                _ => weighted_sum_of::<1, T>(weights, values, dim, &mut out[at..]),
            };
        }
    }
}

/// N times eight elements of [`weighted_sum`]; returns how many those are.
///
/// # Safety
/// The CPU has NEON; for each weight i, 8 N elements are readable at `values + i * dim`; `out` has as
/// many.
#[target_feature(enable = "neon")]
unsafe fn weighted_sum_of<const N: usize, T>(
    weights: &[f32],
    values: *const T,
    dim: usize,
    out: &mut [f32],
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 2]; N];
        for (i, weight) in weights.iter().enumerate() {
            let value = values.add(i * dim);
            for (n, sum) in sums.iter_mut().enumerate() {
                let v = load8(value.add(8 * n));
                sum[0] = vaddq_f32(sum[0], vmulq_n_f32(v[0], *weight));
                sum[1] = vaddq_f32(sum[1], vmulq_n_f32(v[1], *weight));
            }
        }
        for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(8)) {
            vst1q_f32(out.as_mut_ptr(), sum[0]);
            vst1q_f32(out[4..].as_mut_ptr(), sum[1]);
        }
    }
    8 * N
}

/// Sum of all words: see [`crate::vector::read`].
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn read(words: &[u64]) -> u64 {
    // Four cache lines a turn, each vector with a sum of its own.
    let blocks = words.chunks_exact(32);
    let rest = blocks.remainder();
    let mut lanes = [0u64; 2];
    // SAFETY: each block is 16 vectors of 2 words, `lanes` one.
    unsafe {
        let mut sums = [vdupq_n_u64(0); 16];
        for block in blocks {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = vaddq_u64(*sum, vld1q_u64(block.as_ptr().add(2 * i)));
            }
        }
        let total = sums.into_iter().fold(vdupq_n_u64(0), |a, b| vaddq_u64(a, b));
        vst1q_u64(lanes.as_mut_ptr(), total);
    }
    lanes.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}
