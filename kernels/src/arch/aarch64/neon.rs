//! NEON as every 64-bit Arm CPU has it: `smlal` adds i8 x i8 products to 16-bit lanes.
//!
//! Codes are at most 2 and activations at least -128, so a product has a magnitude of at most 256. The
//! 16-bit sums are widened to 32 bits before they could overflow.

mod tables;

use std::arch::aarch64::*;
use std::arch::asm;

use crate::arch::FLOAT_BLOCK_COLS;
use crate::arch::scalar::finish_sums;
use crate::format::float_panels::Element;
use crate::format::i2_s::STEP_BYTES;
use crate::format::tables::Kind;
use crate::format::{Format, blocks, tq1_0, tq2_0};
use crate::matrix::Share;
use crate::{Isa, PANEL_ROWS, TokenInput};

/// Products of magnitude 256 that a 16-bit lane can sum: 127 * 256 = 32,512.
const MAX_16_BIT_TERMS: usize = 127;

/// Inputs that a GEMM tile of codes multiplies at a time: 2 x 8 accumulators, two vectors of activations
/// and four of codes fill most of the 32 registers.
const CODE_TILE_INPUTS: usize = 2;

/// Inputs that a GEMM tile of floats multiplies at a time: 4 x 4 accumulators, four vectors of weights
/// and as many activations leave some of the 32 registers for the loads ahead.
const FLOAT_TILE_INPUTS: usize = 4;

/// Sums of a panel's rows, four rows a vector.
pub(super) type Sums = [int32x4_t; 8];

/// Sums of a panel's steps of 128 bytes with the activations from their first column on.
///
/// # Safety
/// The CPU has the function's instruction set; the bytes are whole steps of the function's format, and the
/// activations have all their columns.
pub(super) type SumsOf = unsafe fn(&[u8], &[i8]) -> Sums;

/// One input times the panels of `share`; the outputs of two panels are `stride` apart.
///
/// # Safety
/// The CPU has NEON. The share's bytes are whole panels packed for this instruction set, the input is
/// quantized (and tabulated for a table format) for the share's columns, and `out` has 32 values for each
/// panel.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn gemv(share: &Share<'_>, input: &TokenInput, stride: usize, out: &mut [f32]) {
    // SAFETY: the caller's promises are those of the callee; the functions need NEON only.
    unsafe { gemv_by(i2_s_sums, base3_sums, share, input, stride, out) }
}

/// [`gemv`] with the sums of `i2_s` and `base3` steps that the given functions compute.
///
/// # Safety
/// As there, and the CPU has the functions' instruction set.
#[target_feature(enable = "neon")]
pub(super) unsafe fn gemv_by(
    i2_s_sums: SumsOf,
    base3_sums: SumsOf,
    share: &Share<'_>,
    input: &TokenInput,
    stride: usize,
    out: &mut [f32],
) {
    // SAFETY: the caller's promises are those of the callees; the quantized values are followed by zeros
    // enough for the last block.
    unsafe {
        if let Some(kind) = Kind::of(share.format) {
            return tables::gemv(share, kind, input, stride, out);
        }
        for (panel, out) in share.whole_panels().zip(out.chunks_mut(stride)) {
            let q = &input.q[..];
            let sums = match share.format {
                Format::Base3 => base3_sums(panel, q),
                Format::Tq1_0 => scaled_blocks(panel, tq1_0::BLOCK_BYTES, input, |block, q| {
                    let fives = base3_sums(&block[..tq1_0::BASE3_BYTES], q);
                    let fours =
                        i2_s_sums(&block[tq1_0::BASE3_BYTES..tq1_0::CODE_BYTES], &q[tq1_0::BASE3_COLS..]);
                    std::array::from_fn(|i| vaddq_s32(fives[i], fours[i]))
                }),
                Format::Tq2_0 => scaled_blocks(panel, tq2_0::BLOCK_BYTES, input, |block, q| {
                    i2_s_sums(&block[..tq2_0::CODE_BYTES], q)
                }),
                _ => i2_s_sums(panel, q),
            };
            let mut rows = [0i32; PANEL_ROWS];
            for (rows, sums) in rows.chunks_exact_mut(4).zip(sums) {
                vst1q_s32(rows.as_mut_ptr(), sums);
            }
            finish_sums(&rows, input.q_sum, share.scale, input, &mut out[..PANEL_ROWS]);
        }
    }
}

/// The sums of a panel of blocks of 256 columns, each block times its rows' scales. `sums_of` gives the sums
/// of a block's codes with the activations from its first column on.
///
/// # Safety
/// The CPU has NEON; the panel is whole and the input has its columns.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn scaled_blocks(
    panel: &[u8],
    block_bytes: usize,
    input: &TokenInput,
    sums_of: impl Fn(&[u8], &[i8]) -> Sums,
) -> Sums {
    // SAFETY: the scales are 32 u16 at the end of each block.
    unsafe {
        // The sum of the activations, which the caller subtracts from sums of codes, is in here already.
        let mut sums = [vdupq_n_s32(input.q_sum); 8];
        for (i, (block, q_sum)) in panel.chunks_exact(block_bytes).zip(&input.block_sums).enumerate() {
            let codes = sums_of(block, &input.q[i * tq2_0::BLOCK_COLS..]);
            let scales = block[block_bytes - tq2_0::SCALE_BYTES..].as_ptr();
            for (part, sum) in sums.iter_mut().enumerate() {
                let scale = vreinterpretq_s32_u32(vmovl_u16(vld1_u16(scales.add(8 * part).cast())));
                *sum = vmlaq_s32(*sum, scale, vsubq_s32(codes[part], vdupq_n_s32(*q_sum)));
            }
        }
        sums
    }
}

/// Four neighbouring quantized values, repeated in each 32-bit lane.
///
/// # Safety
/// The CPU has NEON; 4 values are readable at `q`.
#[target_feature(enable = "neon")]
#[inline]
pub(super) unsafe fn broadcast(q: *const i8) -> int8x16_t {
    // SAFETY: the caller's promise.
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(q.cast::<i32>().read_unaligned())) }
}

/// The codes in 16 bytes of an `i2_s` step: for each bit plane those of four rows, four neighbouring
/// columns each.
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
#[inline]
pub(super) unsafe fn i2_s_codes(tile: uint8x16_t) -> [uint8x16_t; 4] {
    // SAFETY: register arithmetic only; before Rust 1.87 these intrinsics count as unsafe.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        let mask = vdupq_n_u8(3);
        [
            vandq_u8(tile, mask),
            vandq_u8(vshrq_n_u8::<2>(tile), mask),
            vandq_u8(vshrq_n_u8::<4>(tile), mask),
            vshrq_n_u8::<6>(tile),
        ]
    }
}

/// The codes in 16 bytes of a `base3` step, which are fractions: for each digit those of four rows, four
/// neighbouring columns each.
///
/// A digit is the carry of a multiplication by 3, from the last one down. For a byte `b` that is
/// `3 b / 256 = ((b + b / 2) / 2) / 64`, where every division rounds down; `uhadd` adds and halves without
/// losing the carry.
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
#[inline]
pub(super) unsafe fn base3_codes(mut bytes: uint8x16_t) -> [uint8x16_t; 5] {
    // SAFETY: register arithmetic only; before Rust 1.87 these intrinsics count as unsafe.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        let mut codes = [bytes; 5];
        for codes in codes.iter_mut().rev() {
            *codes = vshrq_n_u8::<6>(vhaddq_u8(bytes, vshrq_n_u8::<1>(bytes)));
            bytes = vaddq_u8(bytes, vaddq_u8(bytes, bytes));
        }
        codes
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

/// Sums of `i2_s` steps: see [`SumsOf`].
///
/// # Safety
/// As there, for NEON.
#[target_feature(enable = "neon")]
unsafe fn i2_s_sums(steps: &[u8], q: &[i8]) -> Sums {
    // SAFETY: the caller's promise.
    unsafe { step_sums(steps, q, |tile| i2_s_codes(tile)) }
}

/// Sums of `base3` steps: see [`SumsOf`].
///
/// # Safety
/// As there, for NEON.
#[target_feature(enable = "neon")]
unsafe fn base3_sums(steps: &[u8], q: &[i8]) -> Sums {
    // SAFETY: the caller's promise.
    unsafe { step_sums(steps, q, |tile| base3_codes(tile)) }
}

/// Sums of steps that hold PLANES times four columns. `codes_of` spreads the 16 bytes of four rows.
///
/// # Safety
/// The CPU has NEON; `steps` is whole steps, and `q` has their columns.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn step_sums<const PLANES: usize>(
    steps: &[u8],
    q: &[i8],
    codes_of: impl Fn(uint8x16_t) -> [uint8x16_t; PLANES],
) -> Sums {
    // A step adds one product of each plane to a lane.
    let most = MAX_16_BIT_TERMS / PLANES;
    // SAFETY: a step is 128 bytes and 4 PLANES of q, both cut to that length.
    unsafe {
        let add = |mut sums: [int16x8_t; 2], w: *const u8, x: &[int8x16_t; PLANES]| {
            for (codes, x) in codes_of(vld1q_u8(w)).into_iter().zip(x) {
                sums = multiply_add(sums, codes, *x);
            }
            sums
        };
        let mut totals = [[vdupq_n_s32(0); 2]; 8];
        for (steps, q) in steps.chunks(most * STEP_BYTES).zip(q.chunks(most * 4 * PLANES)) {
            let mut sums = [[vdupq_n_s16(0); 2]; 8];
            for (step, q) in steps.chunks_exact(STEP_BYTES).zip(q.chunks_exact(4 * PLANES)) {
                let w = step.as_ptr();
                let x: [int8x16_t; PLANES] = std::array::from_fn(|p| broadcast(q.as_ptr().add(4 * p)));
                // Written out: as a loop the compiler leaves the sums in memory.
                sums = [
                    add(sums[0], w, &x),
                    add(sums[1], w.add(16), &x),
                    add(sums[2], w.add(32), &x),
                    add(sums[3], w.add(48), &x),
                    add(sums[4], w.add(64), &x),
                    add(sums[5], w.add(80), &x),
                    add(sums[6], w.add(96), &x),
                    add(sums[7], w.add(112), &x),
                ];
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = widen(*total, sum);
            }
        }
        totals.map(|total| vpaddq_s32(total[0], total[1]))
    }
}

/// Spreads the one panel of `share` to one code a byte, vectorised by the compiler: for each four columns
/// the 32 rows' four codes.
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn unpack(isa: Isa, share: &Share<'_>, codes: &mut [u8]) {
    crate::arch::scalar::unpack(isa, share, codes);
}

/// One panel, as codes of at most 2, times several inputs.
///
/// # Safety
/// The CPU has NEON. `codes` has 128 bytes for each four columns, each input's `q` as many values, and `out`
/// 32 values for each input.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn gemm(codes: &[u8], scale: f32, inputs: &[TokenInput], out: &mut [f32]) {
    debug_assert!(inputs.iter().all(|i| i.q.len() >= codes.len() / PANEL_ROWS));
    debug_assert_eq!(out.len(), inputs.len() * PANEL_ROWS);
    for (inputs, out) in inputs.chunks(CODE_TILE_INPUTS).zip(out.chunks_mut(CODE_TILE_INPUTS * PANEL_ROWS)) {
        for half in 0..2 {
            // SAFETY: the caller's promises are those of the callees.
            unsafe {
                match inputs.len() {
                    1 => code_tile::<1>(codes, half, scale, inputs, out),
                    _ => code_tile::<CODE_TILE_INPUTS>(codes, half, scale, inputs, out),
                }
            }
        }
    }
}

/// 16 rows (the panel's first or second half) x N inputs, from unpacked codes.
///
/// # Safety
/// As for [`gemm`]; `inputs` has N elements.
#[target_feature(enable = "neon")]
unsafe fn code_tile<const N: usize>(
    codes: &[u8],
    half: usize,
    scale: f32,
    inputs: &[TokenInput],
    out: &mut [f32],
) {
    let inputs: &[TokenInput; N] = inputs.try_into().expect("as many inputs as the tile is wide");
    // SAFETY: each four columns are 128 bytes of codes, 64 of them this half's, and 4 of each q.
    unsafe {
        let mut totals = [[[vdupq_n_s32(0); 2]; N]; 4];
        let mut done = 0;
        for block in codes.chunks(MAX_16_BIT_TERMS * STEP_BYTES) {
            let q: [*const i8; N] = std::array::from_fn(|n| inputs[n].q[done..].as_ptr());
            let mut sums = [[[vdupq_n_s16(0); 2]; N]; 4];
            for (c, columns) in block.chunks_exact(STEP_BYTES).enumerate() {
                let w = columns.as_ptr().add(64 * half);
                let x: [int8x16_t; N] = std::array::from_fn(|n| broadcast(q[n].add(4 * c)));
                for (part, sums) in sums.iter_mut().enumerate() {
                    let codes = vld1q_u8(w.add(16 * part));
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum = multiply_add(*sum, codes, x);
                    }
                }
            }
            for (totals, sums) in totals.iter_mut().zip(sums) {
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = widen(*total, sum);
                }
            }
            done += block.len() / PANEL_ROWS;
        }
        for (n, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            let mut rows = [0i32; 16];
            for (rows, total) in rows.chunks_exact_mut(4).zip(totals) {
                vst1q_s32(rows.as_mut_ptr(), vpaddq_s32(total[n][0], total[n][1]));
            }
            finish_sums(&rows, inputs[n].q_sum, scale, &inputs[n], &mut out[half * 16..][..16]);
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
            float_tiles(weights, b * FLOAT_BLOCK_COLS, inputs, out);
        }
        for out in out {
            *out *= scale;
        }
    }
}

/// One panel of a block format (see [`crate::format::blocks`]) times all inputs. Products with one input
/// are the plain ones, vectorised by the compiler; for several the codes are made floats, a block of columns
/// at a time.
///
/// # Safety
/// The CPU has NEON. `panel` holds whole blocks for the columns of each input's `x`, `out` 32 values for each
/// input, and `scratch` room for 32 x [`FLOAT_BLOCK_COLS`] floats, aligned as such.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn block_panel(
    format: Format,
    panel: &[u8],
    inputs: &[TokenInput],
    scratch: &mut [u8],
    out: &mut [f32],
) {
    debug_assert_eq!(out.len(), inputs.len() * PANEL_ROWS);
    let (Some((cols, bytes, _)), 2..) = (format.block(), inputs.len()) else {
        return crate::arch::scalar::blocks::panel(format, panel, inputs, out);
    };
    let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch);
    out.fill(0.0);
    for (b, part) in panel.chunks(FLOAT_BLOCK_COLS / cols * bytes).enumerate() {
        let weights = &mut scratch[..part.len() / bytes * cols * PANEL_ROWS];
        blocks::dequantize(format, part, weights);
        // SAFETY: the caller's promise; each input has the columns of these weights.
        unsafe { float_tiles(weights, b * FLOAT_BLOCK_COLS, inputs, out) };
    }
}

/// Adds a block of columns, from `col` on, times all inputs to their outputs.
///
/// # Safety
/// As for [`float_tile`], for any number of inputs.
#[target_feature(enable = "neon")]
unsafe fn float_tiles(weights: &[f32], col: usize, inputs: &[TokenInput], out: &mut [f32]) {
    let outs = out.chunks_mut(FLOAT_TILE_INPUTS * PANEL_ROWS);
    for (inputs, out) in inputs.chunks(FLOAT_TILE_INPUTS).zip(outs) {
        for half in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                match inputs.len() {
                    1 => float_tile::<1>(weights, half, col, inputs, out),
                    2 => float_tile::<2>(weights, half, col, inputs, out),
                    3 => float_tile::<3>(weights, half, col, inputs, out),
                    _ => float_tile::<FLOAT_TILE_INPUTS>(weights, half, col, inputs, out),
                }
            }
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

/// Adds weights[i] * values[i] to `out`, for each token: its weights, its part of `out`. Of each token's
/// row of weights the first are those of the values. Sums stay in registers over all values, so many at
/// a time that the additions hide each other's latency.
///
/// # Safety
/// The CPU has NEON. `T` is f16 or f32, a token's part of `out` is a multiple of 16 long, and `values` holds
/// vectors of that length, no more than each token has weights.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn add_values<T>(tokens: usize, weights: &[f32], values: &[T], out: &mut [f32]) {
    let (dim, stride) = (out.len() / tokens, weights.len() / tokens);
    debug_assert!(dim % 16 == 0 && values.len() % dim == 0 && values.len() / dim <= stride);
    let mut t = 0;
    while t < tokens {
        let group = if tokens - t >= 4 { 4 } else { 1 };
        let weights = &weights[t * stride..][..group * stride];
        let out = &mut out[t * dim..][..group * dim];
        let mut at = 0;
        while at < dim {
            // SAFETY: the elements from `at` on that each row of `out` still has.
            unsafe {
                at += match (group, (dim - at) / 8) {
                    (4, _) => add_values_of::<4, 2, T>(weights, stride, values, dim, at, out),
                    (_, 8..) => add_values_of::<1, 8, T>(weights, stride, values, dim, at, out),
                    (_, 4..8) => add_values_of::<1, 4, T>(weights, stride, values, dim, at, out),
                    _ => add_values_of::<1, 2, T>(weights, stride, values, dim, at, out),
                };
            }
        }
        t += group;
    }
}

/// N times eight elements, from element `at` on, of Q tokens of [`add_values`]; returns how many elements of
/// each those are.
///
/// # Safety
/// As for [`add_values`], with Q tokens; their parts of `out` have 8 N elements from `at` on.
#[target_feature(enable = "neon")]
unsafe fn add_values_of<const Q: usize, const N: usize, T>(
    weights: &[f32],
    stride: usize,
    values: &[T],
    dim: usize,
    at: usize,
    out: &mut [f32],
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let rows: [*const f32; Q] = std::array::from_fn(|q| weights[q * stride..].as_ptr());
        let mut sums = [[[vdupq_n_f32(0.0); 2]; Q]; N];
        for (n, sums) in sums.iter_mut().enumerate() {
            for (q, sum) in sums.iter_mut().enumerate() {
                *sum = load8(out[q * dim + at + 8 * n..].as_ptr());
            }
        }
        for i in 0..values.len() / dim {
            let value = values.as_ptr().add(i * dim + at);
            for (n, sums) in sums.iter_mut().enumerate() {
                let v = load8(value.add(8 * n));
                for (sum, row) in sums.iter_mut().zip(rows) {
                    let weight = *row.add(i);
                    sum[0] = vaddq_f32(sum[0], vmulq_n_f32(v[0], weight));
                    sum[1] = vaddq_f32(sum[1], vmulq_n_f32(v[1], weight));
                }
            }
        }
        for (n, sums) in sums.into_iter().enumerate() {
            for (q, sum) in sums.into_iter().enumerate() {
                let out = &mut out[q * dim + at + 8 * n..][..8];
                vst1q_f32(out.as_mut_ptr(), sum[0]);
                vst1q_f32(out[4..].as_mut_ptr(), sum[1]);
            }
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
