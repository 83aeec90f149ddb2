//! AVX2 with FMA and F16C: `vpmaddubsw` sums two u8 x i8 products into each of 16 16-bit lanes.
//!
//! Codes are at most 2 and activations at least -128, so one `vpmaddubsw` adds at most 512 in
//! magnitude to a 16-bit lane. The sums are widened to 32 bits before they could overflow; adding on
//! for a whole row, as bitnet.cpp does, wraps with saturated activations of one sign
//! (microsoft/BitNet issue 629).

pub(crate) mod blocks;
mod tables;

use std::arch::x86_64::*;

use crate::arch::FLOAT_BLOCK_COLS;
use crate::arch::scalar::finish_sums;
use crate::arch::x86_64::ahead::{Ahead, request_next};
use crate::format::float_panels::Element;
use crate::format::tables::Kind;
use crate::format::{Format, base3, i2_s, tq1_0, tq2_0};
use crate::input::COLUMN_STEP;
use crate::matrix::Share;
use crate::{Isa, PANEL_ROWS, TokenInput};

/// Products of magnitude 512 that a 16-bit lane can sum: 63 * 512 = 32,256.
const MAX_16_BIT_TERMS: usize = 63;

/// Inputs that a GEMM tile multiplies at a time: 4 x 2 accumulators, two weight vectors and
/// temporaries fill the 16 registers.
const TILE_INPUTS: usize = 4;

/// Calls `$tile::<N>` for the number of inputs at hand, 1 to 4.
macro_rules! dispatch_tile {
    ($n:expr, $tile:ident, $($arg:expr),*) => {
        match $n {
            1 => $tile::<1>($($arg),*),
            2 => $tile::<2>($($arg),*),
            3 => $tile::<3>($($arg),*),
            _ => $tile::<4>($($arg),*),
        }
    };
}

/// One input times the panels of `share`; the outputs of two panels are `stride` apart.
///
/// # Safety
/// The CPU has AVX2. The share's bytes are whole panels packed for this instruction set, the input is
/// quantized (and tabulated for a table format) for the share's columns, and `out` has 32 values for each
/// panel.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn gemv(share: &Share<'_>, input: &TokenInput, stride: usize, out: &mut [f32]) {
    // SAFETY: the caller's promises are those of the callees.
    unsafe {
        if let Some(kind) = Kind::of(share.format) {
            return tables::gemv(share, kind, input, stride, out);
        }
        let ahead = &Ahead::new(share.bytes(), share.next);
        for (panel, out) in share.whole_panels().zip(out.chunks_mut(stride)) {
            let q = &input.q[..];
            let sums = match share.format {
                Format::Base3 => base3_sums(panel, q, ahead),
                Format::Tq1_0 => blocks(panel, tq1_0::BLOCK_BYTES, input, |block, q| {
                    let fives = base3_sums(&block[..tq1_0::BASE3_BYTES], q, ahead);
                    let fours = i2_s_sums(
                        &block[tq1_0::BASE3_BYTES..tq1_0::CODE_BYTES],
                        &q[tq1_0::BASE3_COLS..],
                        ahead,
                    );
                    std::array::from_fn(|i| _mm256_add_epi32(fives[i], fours[i]))
                }),
                Format::Tq2_0 => blocks(panel, tq2_0::BLOCK_BYTES, input, |block, q| {
                    i2_s_sums(&block[..tq2_0::CODE_BYTES], q, ahead)
                }),
                _ => i2_s_sums(panel, q, ahead),
            };
            let mut lanes = [0i32; PANEL_ROWS];
            for (lanes, sums) in lanes.chunks_exact_mut(8).zip(sums) {
                _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums);
            }
            finish_sums(&lanes, input.q_sum, share.scale, input, &mut out[..PANEL_ROWS]);
        }
    }
}

/// Adds the pairs of 16-bit sums to 32-bit sums.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn widen(total: __m256i, sums: __m256i) -> __m256i {
    // SAFETY: register arithmetic only; before Rust 1.87 these intrinsics count as unsafe.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        _mm256_add_epi32(total, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)))
    }
}

/// Sums of `i2_s` steps, straight from the packed codes, 8 rows a vector.
///
/// # Safety
/// The CPU has AVX2; `steps` is whole steps, and `q` has their 16 columns each.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn i2_s_sums(steps: &[u8], q: &[i8], ahead: &Ahead) -> [__m256i; 4] {
    // A step adds four products (one a bit plane) to each lane.
    const STEPS: usize = MAX_16_BIT_TERMS / 4;
    // SAFETY: step `s` reads bytes 128 s .. 128 s + 128 and 16 s .. 16 s + 16 of q, both within bounds by
    // the caller's promise.
    unsafe {
        let mask = _mm256_set1_epi8(3);
        let mut totals = [_mm256_setzero_si256(); 4];
        for (steps, q) in steps.chunks(STEPS * i2_s::STEP_BYTES).zip(q.chunks(STEPS * COLUMN_STEP)) {
            let mut sums = [_mm256_setzero_si256(); 4];
            let mut w = steps.as_ptr();
            let mut q = q.as_ptr().cast::<i32>();
            for _ in 0..steps.len() / i2_s::STEP_BYTES {
                ahead.request(w, i2_s::STEP_BYTES);
                let x: [__m256i; 4] = std::array::from_fn(|p| _mm256_set1_epi32(q.add(p).read_unaligned()));
                for (part, sum) in sums.iter_mut().enumerate() {
                    let tile = _mm256_loadu_si256(w.add(32 * part).cast());
                    let planes = [
                        tile,
                        _mm256_srli_epi16::<2>(tile),
                        _mm256_srli_epi16::<4>(tile),
                        _mm256_srli_epi16::<6>(tile),
                    ];
                    for (codes, x) in planes.into_iter().zip(x) {
                        let products = _mm256_maddubs_epi16(_mm256_and_si256(codes, mask), x);
                        *sum = _mm256_add_epi16(*sum, products);
                    }
                }
                w = w.add(i2_s::STEP_BYTES);
                q = q.add(4);
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = widen(*total, sum);
            }
        }
        totals
    }
}

/// Sums of `base3` steps whose bytes are fractions, 8 rows a vector.
///
/// # Safety
/// The CPU has AVX2; `steps` is whole steps, and `q` has their 20 columns each.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn base3_sums(steps: &[u8], q: &[i8], ahead: &Ahead) -> [__m256i; 4] {
    // A step adds five products to each lane.
    const STEPS: usize = MAX_16_BIT_TERMS / 5;
    // SAFETY: step `s` reads bytes 128 s .. 128 s + 128 and 20 s .. 20 s + 20 of q, both within bounds by
    // the caller's promise.
    unsafe {
        let one = _mm256_set1_epi8(1);
        // A third of 256 is 85.3: the carries of a multiplication by 3 are how many of these are exceeded.
        let thirds = [85u8, 170].map(|t| _mm256_set1_epi8(t as i8));
        let mut totals = [_mm256_setzero_si256(); 4];
        for (steps, q) in steps.chunks(STEPS * base3::STEP_BYTES).zip(q.chunks(STEPS * base3::STEP_COLS)) {
            let mut sums = [_mm256_setzero_si256(); 4];
            let mut w = steps.as_ptr();
            let mut q = q.as_ptr().cast::<i32>();
            for _ in 0..steps.len() / base3::STEP_BYTES {
                ahead.request(w, base3::STEP_BYTES);
                let x: [__m256i; 5] = std::array::from_fn(|p| _mm256_set1_epi32(q.add(p).read_unaligned()));
                for (part, sum) in sums.iter_mut().enumerate() {
                    let mut bytes = _mm256_loadu_si256(w.add(32 * part).cast());
                    for x in x.into_iter().rev() {
                        let [a, b] = thirds.map(|t| _mm256_min_epu8(_mm256_subs_epu8(bytes, t), one));
                        let products = _mm256_maddubs_epi16(_mm256_add_epi8(a, b), x);
                        *sum = _mm256_add_epi16(*sum, products);
                        bytes = _mm256_add_epi8(bytes, _mm256_add_epi8(bytes, bytes));
                    }
                }
                w = w.add(base3::STEP_BYTES);
                q = q.add(5);
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = widen(*total, sum);
            }
        }
        totals
    }
}

/// The sums of a panel of blocks of 256 columns, each block times its rows' scales. `sums_of` gives the sums
/// of a block's codes with the activations from its first column on.
///
/// # Safety
/// The CPU has AVX2; the panel is whole and the input has its columns.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn blocks(
    panel: &[u8],
    block_bytes: usize,
    input: &TokenInput,
    sums_of: impl Fn(&[u8], &[i8]) -> [__m256i; 4],
) -> [__m256i; 4] {
    // SAFETY: the scales are 32 u16 at the end of each block.
    #[allow(unused_unsafe, reason = "register arithmetic is safe since Rust 1.87")]
    unsafe {
        // The sum of the activations, which the caller subtracts from sums of codes, is in here already.
        let mut sums = [_mm256_set1_epi32(input.q_sum); 4];
        for (i, (block, q_sum)) in panel.chunks_exact(block_bytes).zip(&input.block_sums).enumerate() {
            let codes = sums_of(block, &input.q[i * tq2_0::BLOCK_COLS..]);
            let scales = block[block_bytes - tq2_0::SCALE_BYTES..].as_ptr();
            for (part, sum) in sums.iter_mut().enumerate() {
                let scale = _mm256_cvtepu16_epi32(_mm_loadu_si128(scales.add(16 * part).cast()));
                let trits = _mm256_sub_epi32(codes[part], _mm256_set1_epi32(*q_sum));
                *sum = _mm256_add_epi32(*sum, _mm256_mullo_epi32(scale, trits));
            }
        }
        sums
    }
}

/// Spreads the one panel of `share` to one code a byte, vectorised by the compiler: for each four columns
/// the 32 rows' four codes.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn unpack(isa: Isa, share: &Share<'_>, codes: &mut [u8]) {
    crate::arch::scalar::unpack(isa, share, codes);
}

/// One panel, as codes, times several inputs.
///
/// # Safety
/// The CPU has AVX2. `codes` has 128 bytes for each four columns, each input's `q` as many values, and `out`
/// 32 values for each input.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn gemm(codes: &[u8], scale: f32, inputs: &[TokenInput], out: &mut [f32]) {
    debug_assert!(inputs.iter().all(|i| i.q.len() >= codes.len() / PANEL_ROWS));
    debug_assert_eq!(out.len(), inputs.len() * PANEL_ROWS);
    for (inputs, out) in inputs.chunks(TILE_INPUTS).zip(out.chunks_mut(TILE_INPUTS * PANEL_ROWS)) {
        for half in 0..2 {
            // SAFETY: the caller's promises are those of the callee.
            unsafe { dispatch_tile!(inputs.len(), code_tile, codes, half, scale, inputs, out) };
        }
    }
}

/// 16 rows (the panel's first or second half) x N inputs, from unpacked codes.
///
/// # Safety
/// As for [`gemm`]; `inputs` has N elements.
#[target_feature(enable = "avx2,fma,f16c")]
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
        let mut totals = [[_mm256_setzero_si256(); 2]; N];
        let mut done = 0;
        for block in codes.chunks(MAX_16_BIT_TERMS * 128) {
            let q: [*const i8; N] = std::array::from_fn(|n| inputs[n].q[done..].as_ptr());
            let mut sums = [[_mm256_setzero_si256(); 2]; N];
            let mut w = block.as_ptr().add(64 * half);
            for c in 0..block.len() / 128 {
                let tiles = [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(32).cast())];
                for n in 0..N {
                    let x = _mm256_set1_epi32(q[n].add(4 * c).cast::<i32>().read_unaligned());
                    sums[n][0] = _mm256_add_epi16(sums[n][0], _mm256_maddubs_epi16(tiles[0], x));
                    sums[n][1] = _mm256_add_epi16(sums[n][1], _mm256_maddubs_epi16(tiles[1], x));
                }
                w = w.wrapping_add(128);
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = [widen(total[0], sum[0]), widen(total[1], sum[1])];
            }
            done += block.len() / 32;
        }
        for (n, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            let mut sums = [0i32; 16];
            _mm256_storeu_si256(sums.as_mut_ptr().cast(), totals[n][0]);
            _mm256_storeu_si256(sums[8..].as_mut_ptr().cast(), totals[n][1]);
            finish_sums(&sums, inputs[n].q_sum, scale, &inputs[n], &mut out[half * 16..][..16]);
        }
    }
}

/// Eight elements as f32.
///
/// # Safety
/// The CPU has AVX and F16C; `T` is f16 or f32 and 8 elements are readable at `p`.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn load8<T>(p: *const T) -> __m256 {
    // SAFETY: 8 elements of two or four bytes are 16 or 32 bytes.
    unsafe {
        if size_of::<T>() == 2 {
            _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
        } else {
            _mm256_loadu_ps(p.cast())
        }
    }
}

/// One float panel (elements f16 or f32) times all inputs.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C. `panel` has 32 elements for each value of an input's `x`, `out` 32
/// values for each input, and `scratch` room for 32 x [`FLOAT_BLOCK_COLS`] floats, aligned as such.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn float_panel<T: Element>(
    panel: &[T],
    scale: f32,
    inputs: &[TokenInput],
    ahead: &Ahead,
    scratch: &mut [u8],
    out: &mut [f32],
) {
    debug_assert!(inputs.iter().all(|i| i.x.len() * PANEL_ROWS == panel.len()));
    debug_assert_eq!(out.len(), inputs.len() * PANEL_ROWS);
    // SAFETY: the caller's promises are those of the callees.
    unsafe {
        if let [input] = inputs {
            float_gemv(panel, scale, input, ahead, out);
            return;
        }
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch);
        out.fill(0.0);
        for (b, block) in panel.chunks(FLOAT_BLOCK_COLS * PANEL_ROWS).enumerate() {
            let weights = &mut scratch[..block.len()];
            for (w, out) in block.chunks_exact(8).zip(weights.chunks_exact_mut(8)) {
                _mm256_storeu_ps(out.as_mut_ptr(), load8(w.as_ptr()));
            }
            float_tiles(weights, b * FLOAT_BLOCK_COLS, inputs, out);
        }
        for out in out {
            *out *= scale;
        }
    }
}

/// Adds a block of columns, from `col` on, times all inputs to their outputs.
///
/// # Safety
/// As for [`float_tile`], for any number of inputs.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_tiles(weights: &[f32], col: usize, inputs: &[TokenInput], out: &mut [f32]) {
    for (inputs, out) in inputs.chunks(TILE_INPUTS).zip(out.chunks_mut(TILE_INPUTS * PANEL_ROWS)) {
        for half in 0..2 {
            // SAFETY: the caller's promise.
            unsafe { dispatch_tile!(inputs.len(), float_tile, weights, half, col, inputs, out) };
        }
    }
}

/// One panel times one input: two columns in flight, so that additions do not wait for each other.
///
/// # Safety
/// As for [`float_panel`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_gemv<T: Element>(
    panel: &[T],
    scale: f32,
    input: &TokenInput,
    ahead: &Ahead,
    out: &mut [f32],
) {
    // SAFETY: each round reads 2 columns of 32 elements; a prefetch never faults; `out` has 32 values.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; 4];
        for (columns, x) in panel.chunks_exact(2 * PANEL_ROWS).zip(input.x.chunks_exact(2)) {
            let w = columns.as_ptr();
            ahead.request(w.cast(), size_of_val(columns));
            for c in 0..2 {
                let x = _mm256_set1_ps(x[c]);
                for (part, sum) in sums.iter_mut().enumerate() {
                    sum[c] = _mm256_fmadd_ps(load8(w.add(c * PANEL_ROWS + 8 * part)), x, sum[c]);
                }
            }
        }
        for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(8)) {
            let sum = _mm256_add_ps(sum[0], sum[1]);
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(sum, _mm256_set1_ps(scale)));
        }
    }
}

/// Adds a block of columns, from `col` on, times N inputs to 16 (first or second half) of their 32
/// outputs.
///
/// # Safety
/// As for [`float_panel`]; `inputs` has N elements with `weights.len() / 32` values from `col` on.
#[target_feature(enable = "avx2,fma,f16c")]
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
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        let mut w = weights.as_ptr().add(16 * half);
        for c in 0..weights.len() / PANEL_ROWS {
            let columns = [_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))];
            for n in 0..N {
                let x = _mm256_set1_ps(*x[n].add(c));
                sums[n][0] = _mm256_fmadd_ps(columns[0], x, sums[n][0]);
                sums[n][1] = _mm256_fmadd_ps(columns[1], x, sums[n][1]);
            }
            w = w.wrapping_add(PANEL_ROWS);
        }
        for (n, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            for part in 0..2 {
                let to = out[half * 16 + part * 8..].as_mut_ptr();
                _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), sums[n][part]));
            }
        }
    }
}

/// Sum of eight lanes, halves first: the order of the scalar form.
///
/// # Safety
/// The CPU has AVX.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn sum_lanes(x: __m256) -> f32 {
    // SAFETY: register arithmetic only; before Rust 1.87 these intrinsics count as unsafe.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }
}

/// `scores[i] = query . keys[i] * scale`. Products and sums are rounded one by one, in the order of the
/// scalar form; two keys at a time hide some of the latency of the additions. `next` is read after the
/// keys.
///
/// # Safety
/// The CPU has AVX2 and F16C. `T` is f16 or f32, the query's length is a multiple of 16, and `keys` holds
/// one of that length for each score.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn attention_scores<T>(
    query: &[f32],
    keys: &[T],
    next: &[T],
    scale: f32,
    scores: &mut [f32],
) {
    let dim = query.len();
    debug_assert_eq!(keys.len(), dim * scores.len());
    for (block, (part, scores)) in keys.chunks(2 * dim).zip(scores.chunks_mut(2)).enumerate() {
        request_next(next, block * 2 * dim * size_of::<T>(), size_of_val(part));
        // SAFETY: the keys of these (at most two) scores; a missing one reads the last again.
        unsafe {
            let key: [*const T; 2] = std::array::from_fn(|i| part[i.min(scores.len() - 1) * dim..].as_ptr());
            let mut sums = [[_mm256_setzero_ps(); 2]; 2];
            for at in (0..dim).step_by(16) {
                for (half, at) in [at, at + 8].into_iter().enumerate() {
                    let q = _mm256_loadu_ps(query.as_ptr().add(at));
                    for (sum, key) in sums.iter_mut().zip(key) {
                        sum[half] = _mm256_add_ps(sum[half], _mm256_mul_ps(q, load8(key.add(at))));
                    }
                }
            }
            for (score, sum) in scores.iter_mut().zip(sums) {
                *score = sum_lanes(_mm256_add_ps(sum[0], sum[1])) * scale;
            }
        }
    }
}

/// Adds weights[i] * values[i] to `out`, for each token: its weights, its part of `out`. Of each token's
/// row of weights the first are those of the values. Sums stay in registers over all values, so many at
/// a time that the additions hide each other's latency.
///
/// # Safety
/// The CPU has AVX2 and F16C. `T` is f16 or f32, a token's part of `out` is a multiple of 16 long, and
/// `values` holds vectors of that length, no more than each token has weights.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn add_values<T>(
    tokens: usize,
    weights: &[f32],
    values: &[T],
    next: &[T],
    out: &mut [f32],
) {
    let (dim, stride) = (out.len() / tokens, weights.len() / tokens);
    debug_assert!(dim % 16 == 0 && values.len() % dim == 0 && values.len() / dim <= stride);
    let mut t = 0;
    while t < tokens {
        let group = if tokens - t >= 4 { 4 } else { 1 };
        let weights = &weights[t * stride..][..group * stride];
        let out = &mut out[t * dim..][..group * dim];
        let mut at = 0;
        while at < dim {
            // SAFETY: the vectors from `at` on that each row of `out` still has.
            unsafe {
                at += match (group, (dim - at) / 8) {
                    (4, _) => add_values_of::<4, 2, T>(weights, stride, values, next, dim, at, out),
                    (_, 8..) => add_values_of::<1, 8, T>(weights, stride, values, next, dim, at, out),
                    (_, 4..8) => add_values_of::<1, 4, T>(weights, stride, values, next, dim, at, out),
                    _ => add_values_of::<1, 2, T>(weights, stride, values, next, dim, at, out),
                };
            }
        }
        t += group;
    }
}

/// N vectors, from element `at` on, of Q tokens of [`add_values`]; returns how many elements of each
/// those are.
///
/// # Safety
/// As for [`add_values`], with Q tokens; their parts of `out` have 8 N elements from `at` on.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_values_of<const Q: usize, const N: usize, T>(
    weights: &[f32],
    stride: usize,
    values: &[T],
    next: &[T],
    dim: usize,
    at: usize,
    out: &mut [f32],
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let rows: [*const f32; Q] = std::array::from_fn(|q| weights[q * stride..].as_ptr());
        let mut sums = [[_mm256_setzero_ps(); Q]; N];
        for (n, sums) in sums.iter_mut().enumerate() {
            for (q, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_loadu_ps(out[q * dim + at + 8 * n..].as_ptr());
            }
        }
        for i in 0..values.len() / dim {
            let value = values.as_ptr().add(i * dim + at);
            let bytes = N * 8 * size_of::<T>();
            request_next(next, (i * dim + at) * size_of::<T>(), bytes);
            for (n, sums) in sums.iter_mut().enumerate() {
                let v = load8(value.add(8 * n));
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = _mm256_add_ps(*sum, _mm256_mul_ps(_mm256_set1_ps(*row.add(i)), v));
                }
            }
        }
        for (n, sums) in sums.into_iter().enumerate() {
            for (q, sum) in sums.into_iter().enumerate() {
                _mm256_storeu_ps(out[q * dim + at + 8 * n..][..8].as_mut_ptr(), sum);
            }
        }
    }
    8 * N
}

/// Rounds floats to elements of a KV cache: see [`crate::vector::to_cache`].
///
/// # Safety
/// The CPU has AVX and F16C; `T` is f16 or f32, and the lengths are equal.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn to_cache<T: crate::vector::KvElement>(from: &[f32], to: &mut [T]) {
    debug_assert_eq!(from.len(), to.len());
    let (blocks, rest) = from.split_at(from.len() / 8 * 8);
    let (to_blocks, to_rest) = to.split_at_mut(blocks.len());
    for (from, to) in blocks.chunks_exact(8).zip(to_blocks.chunks_exact_mut(8)) {
        // SAFETY: eight floats, and room for eight elements of two or four bytes.
        unsafe {
            let x = _mm256_loadu_ps(from.as_ptr());
            if size_of::<T>() == 2 {
                let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
                _mm_storeu_si128(to.as_mut_ptr().cast(), half);
            } else {
                _mm256_storeu_ps(to.as_mut_ptr().cast(), x);
            }
        }
    }
    for (to, x) in to_rest.iter_mut().zip(rest) {
        *to = T::from_f32(*x);
    }
}

/// Sum of all words: see [`crate::vector::read`].
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn read(words: &[u64], next: *const u8) -> u64 {
    let ahead = Ahead::new(bytemuck::cast_slice(words), next);
    // Four cache lines a turn, each vector with a sum of its own.
    let blocks = words.chunks_exact(32);
    let rest = blocks.remainder();
    let mut lanes = [0u64; 4];
    // SAFETY: each block is 8 vectors of 4 words; a prefetch never faults.
    unsafe {
        let mut sums = [_mm256_setzero_si256(); 8];
        for block in blocks {
            for (i, sum) in sums.iter_mut().enumerate() {
                if i % 2 == 0 {
                    ahead.request(block.as_ptr().wrapping_add(4 * i).cast(), 64);
                }
                *sum = _mm256_add_epi64(*sum, _mm256_loadu_si256(block.as_ptr().add(4 * i).cast()));
            }
        }
        let total = sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_add_epi64(a, b));
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), total);
    }
    lanes.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}
