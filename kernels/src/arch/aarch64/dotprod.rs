//! NEON with the dot product instructions (Armv8.2 `dotprod`): `sdot` sums four i8 x i8 products into
//! each of 4 lanes, in 32 bits, so that no sum can overflow.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::unpack_i2_s;
use crate::arch::scalar::finish_sums;
use crate::format::i2_s::STEP_BYTES;
use crate::input::COLUMN_STEP;
use crate::{PANEL_ROWS, TokenInput};

/// Inputs that a GEMM tile multiplies at a time: 4 x 4 accumulators, four vectors of activations and
/// four of codes leave some of the 32 registers for the loads ahead.
const TILE_INPUTS: usize = 4;

/// One `i2_s` panel times all inputs.
///
/// # Safety
/// The CPU has NEON and its dot products. `panel` is whole (its length a multiple of [`STEP_BYTES`]),
/// each input's `q` has 16 values for each step, `out` 32 values for each input, and `scratch` four
/// bytes for each byte of the panel.
#[target_feature(enable = "neon,dotprod")]
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

/// Adds to each lane of `sum` the four products of its codes with the four values in lane `LANE` of
/// `q`. The intrinsic `vdotq_laneq_s32` is not stable.
///
/// # Safety
/// The CPU has NEON and its dot products; `LANE` is at most 3.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn sdot<const LANE: i32>(mut sum: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction that the CPU has by the caller's promise, on the named registers only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {q:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            q = in(vreg) q,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// One panel times one input, straight from the packed codes.
///
/// # Safety
/// As for [`i2_s`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn i2_s_gemv(panel: &[u8], scale: f32, input: &TokenInput, out: &mut [f32]) {
    let mut totals = [0i32; PANEL_ROWS];
    // SAFETY: a step is 128 bytes of the panel and 16 of q, both cut to that length; `totals` is eight
    // vectors of four.
    unsafe {
        let mask = vdupq_n_u8(3);
        let mut sums = [vdupq_n_s32(0); 8];
        for (step, q) in panel.chunks_exact(STEP_BYTES).zip(input.q.chunks_exact(COLUMN_STEP)) {
            let q = vld1q_s8(q.as_ptr());
            for (part, sum) in sums.iter_mut().enumerate() {
                // Four rows: in each lane one row's four neighbouring columns, four planes deep.
                let tile = vld1q_u8(step.as_ptr().add(16 * part));
                let codes = vreinterpretq_s8_u8(vandq_u8(tile, mask));
                *sum = sdot::<0>(*sum, codes, q);
                let codes = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(tile), mask));
                *sum = sdot::<1>(*sum, codes, q);
                let codes = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(tile), mask));
                *sum = sdot::<2>(*sum, codes, q);
                let codes = vreinterpretq_s8_u8(vshrq_n_u8::<6>(tile));
                *sum = sdot::<3>(*sum, codes, q);
            }
        }
        for (total, sum) in totals.chunks_exact_mut(4).zip(sums) {
            vst1q_s32(total.as_mut_ptr(), sum);
        }
    }
    finish_sums(&totals, scale, input, out);
}

/// One panel times all inputs, from codes unpacked to one a byte: for each four columns the 32 rows'
/// four codes.
///
/// # Safety
/// The CPU has NEON and its dot products. Each input's `q` has 16 values for each 512 bytes of `codes`,
/// of which there are whole ones, and `out` 32 values for each input.
#[target_feature(enable = "neon,dotprod")]
unsafe fn codes_gemm(codes: &[u8], scale: f32, inputs: &[TokenInput], out: &mut [f32]) {
    for (inputs, out) in inputs.chunks(TILE_INPUTS).zip(out.chunks_mut(TILE_INPUTS * PANEL_ROWS)) {
        for half in 0..2 {
            // SAFETY: the caller's promises are those of the callees.
            unsafe {
                match inputs.len() {
                    1 => codes_tile::<1>(codes, half, scale, inputs, out),
                    2 => codes_tile::<2>(codes, half, scale, inputs, out),
                    3 => codes_tile::<3>(codes, half, scale, inputs, out),
                    _ => codes_tile::<TILE_INPUTS>(codes, half, scale, inputs, out),
                }
            }
        }
    }
}

/// 16 rows (the panel's first or second half) x N inputs; all sums stay in registers.
///
/// # Safety
/// As for [`codes_gemm`]; `inputs` has N elements.
#[target_feature(enable = "neon,dotprod")]
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
        let mut sums = [[vdupq_n_s32(0); 4]; N];
        for (step, codes) in codes.chunks_exact(4 * STEP_BYTES).enumerate() {
            let mut q = [vdupq_n_s8(0); N];
            for (q, input) in q.iter_mut().zip(inputs) {
                *q = vld1q_s8(input.q.as_ptr().add(COLUMN_STEP * step));
            }
            let w = codes.as_ptr().add(64 * half);
            add_columns::<0, N>(&mut sums, w, &q);
            add_columns::<1, N>(&mut sums, w.add(STEP_BYTES), &q);
            add_columns::<2, N>(&mut sums, w.add(2 * STEP_BYTES), &q);
            add_columns::<3, N>(&mut sums, w.add(3 * STEP_BYTES), &q);
        }
        for (n, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            let mut totals = [0i32; 16];
            for (total, sum) in totals.chunks_exact_mut(4).zip(sums[n]) {
                vst1q_s32(total.as_mut_ptr(), sum);
            }
            finish_sums(&totals, scale, &inputs[n], &mut out[half * 16..][..16]);
        }
    }
}

/// Adds four columns, those of lane `LANE` of each `q`, to the sums of 16 rows.
///
/// # Safety
/// The CPU has NEON and its dot products; 64 codes are readable at `w`; `LANE` is at most 3.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn add_columns<const LANE: i32, const N: usize>(
    sums: &mut [[int32x4_t; 4]; N],
    w: *const u8,
    q: &[int8x16_t; N],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut codes = [vdupq_n_s8(0); 4];
        for (part, codes) in codes.iter_mut().enumerate() {
            *codes = vld1q_s8(w.add(16 * part).cast());
        }
        for (sums, q) in sums.iter_mut().zip(q) {
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = sdot::<LANE>(*sum, codes, *q);
            }
        }
    }
}
