//! NEON with the dot product instructions (Armv8.2 `dotprod`): `sdot` sums four i8 x i8 products into
//! each of 4 lanes, in 32 bits, so that no sum can overflow.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{self, Sums, base3_codes, broadcast, i2_s_codes};
use crate::arch::scalar::finish_sums;
use crate::format::i2_s::STEP_BYTES;
use crate::input::COLUMN_STEP;
use crate::matrix::Share;
use crate::{PANEL_ROWS, TokenInput};

/// Inputs that a GEMM tile multiplies at a time: 4 x 4 accumulators, four vectors of activations and
/// four of codes leave some of the 32 registers for the loads ahead.
const TILE_INPUTS: usize = 4;

/// One input times the panels of `share`; the outputs of two panels are `stride` apart.
///
/// # Safety
/// As for [`neon::gemv`], and the CPU has dot products.
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn gemv(share: &Share<'_>, input: &TokenInput, stride: usize, out: &mut [f32]) {
    // SAFETY: the caller's promises are those of the callee; the functions need dot products only.
    unsafe { neon::gemv_by(i2_s_sums, base3_sums, share, input, stride, out) }
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

/// Sums of `i2_s` steps: see [`neon::SumsOf`].
///
/// # Safety
/// As there, for NEON and its dot products.
#[target_feature(enable = "neon,dotprod")]
unsafe fn i2_s_sums(steps: &[u8], q: &[i8]) -> Sums {
    // SAFETY: the caller's promise.
    unsafe { step_sums(steps, q, |tile| i2_s_codes(tile)) }
}

/// Sums of `base3` steps: see [`neon::SumsOf`].
///
/// # Safety
/// As there, for NEON and its dot products.
#[target_feature(enable = "neon,dotprod")]
unsafe fn base3_sums(steps: &[u8], q: &[i8]) -> Sums {
    // SAFETY: the caller's promise.
    unsafe { step_sums(steps, q, |tile| base3_codes(tile)) }
}

/// Sums of steps that hold PLANES times four columns. `codes_of` spreads the 16 bytes of four rows.
///
/// # Safety
/// The CPU has NEON and its dot products; `steps` is whole steps, and `q` has their columns.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn step_sums<const PLANES: usize>(
    steps: &[u8],
    q: &[i8],
    codes_of: impl Fn(uint8x16_t) -> [uint8x16_t; PLANES],
) -> Sums {
    // SAFETY: a step is 128 bytes and 4 PLANES of q, both cut to that length.
    unsafe {
        let add = |mut sum: int32x4_t, w: *const u8, x: &[int8x16_t; PLANES]| {
            for (codes, x) in codes_of(vld1q_u8(w)).into_iter().zip(x) {
                sum = sdot::<0>(sum, vreinterpretq_s8_u8(codes), *x);
            }
            sum
        };
        let mut sums = [vdupq_n_s32(0); 8];
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
        sums
    }
}

/// One panel, as codes, times several inputs.
///
/// # Safety
/// The CPU has NEON and its dot products. `codes` has 128 bytes for each four columns, each input's `q` as
/// many values and 12 more, and `out` 32 values for each input.
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn gemm(codes: &[u8], scale: f32, inputs: &[TokenInput], out: &mut [f32]) {
    debug_assert!(inputs.iter().all(|i| i.q.len() >= codes.len() / PANEL_ROWS + 12));
    debug_assert_eq!(out.len(), inputs.len() * PANEL_ROWS);
    for (inputs, out) in inputs.chunks(TILE_INPUTS).zip(out.chunks_mut(TILE_INPUTS * PANEL_ROWS)) {
        for half in 0..2 {
            // SAFETY: the caller's promises are those of the callees.
            unsafe {
                match inputs.len() {
                    1 => code_tile::<1>(codes, half, scale, inputs, out),
                    2 => code_tile::<2>(codes, half, scale, inputs, out),
                    3 => code_tile::<3>(codes, half, scale, inputs, out),
                    _ => code_tile::<TILE_INPUTS>(codes, half, scale, inputs, out),
                }
            }
        }
    }
}

/// 16 rows (the panel's first or second half) x N inputs; all sums stay in registers.
///
/// # Safety
/// As for [`gemm`]; `inputs` has N elements.
#[target_feature(enable = "neon,dotprod")]
unsafe fn code_tile<const N: usize>(
    codes: &[u8],
    half: usize,
    scale: f32,
    inputs: &[TokenInput],
    out: &mut [f32],
) {
    let inputs: &[TokenInput; N] = inputs.try_into().expect("as many inputs as the tile is wide");
    // SAFETY: each four columns are 128 bytes of codes, 64 of them this half's, and 4 of each q, behind
    // which 12 more can be read.
    unsafe {
        let mut q: [*const i8; N] = std::array::from_fn(|n| inputs[n].q.as_ptr());
        let mut sums = [[vdupq_n_s32(0); 4]; N];
        let steps = codes.chunks_exact(4 * STEP_BYTES);
        let rest = steps.remainder();
        for codes in steps {
            let x: [int8x16_t; N] = std::array::from_fn(|n| vld1q_s8(q[n]));
            let w = codes.as_ptr().add(64 * half);
            add_columns::<0, N>(&mut sums, w, &x);
            add_columns::<1, N>(&mut sums, w.add(STEP_BYTES), &x);
            add_columns::<2, N>(&mut sums, w.add(2 * STEP_BYTES), &x);
            add_columns::<3, N>(&mut sums, w.add(3 * STEP_BYTES), &x);
            q = q.map(|q| q.wrapping_add(COLUMN_STEP));
        }
        for codes in rest.chunks_exact(STEP_BYTES) {
            let x: [int8x16_t; N] = std::array::from_fn(|n| vld1q_s8(q[n]));
            add_columns::<0, N>(&mut sums, codes.as_ptr().add(64 * half), &x);
            q = q.map(|q| q.wrapping_add(4));
        }
        for (n, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            let mut rows = [0i32; 16];
            for (rows, sum) in rows.chunks_exact_mut(4).zip(sums[n]) {
                vst1q_s32(rows.as_mut_ptr(), sum);
            }
            finish_sums(&rows, inputs[n].q_sum, scale, &inputs[n], &mut out[half * 16..][..16]);
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
