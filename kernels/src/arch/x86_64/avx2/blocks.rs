//! The block formats, [`crate::format::blocks`]: codes become floats in registers, eight rows a vector.

use std::arch::x86_64::*;

use super::float_tiles;
use crate::arch::FLOAT_BLOCK_COLS;
use crate::arch::x86_64::ahead::Ahead;
use crate::format::Format;
use crate::format::blocks::{
    self, CHUNK_BYTES, Codes, GROUP_BYTES, GROUP_COLS, Q6_K_BYTES, Q6_K_COLS, Q8_0_BYTES, Q8_0_COLS,
    SCALE_BYTES,
};
use crate::{PANEL_ROWS, TokenInput};

/// One panel times all inputs.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C. `panel` holds whole blocks for the columns of each input's `x`, `out` 32
/// values for each input, and `scratch` room for 32 x [`FLOAT_BLOCK_COLS`] floats, aligned as such.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn panel(
    format: Format,
    panel: &[u8],
    inputs: &[TokenInput],
    ahead: &Ahead,
    scratch: &mut [u8],
    out: &mut [f32],
) {
    debug_assert_eq!(out.len(), inputs.len() * PANEL_ROWS);
    // SAFETY: the caller's promises are those of the callees.
    unsafe {
        match (inputs, format) {
            ([input], Format::Q8_0) => q8_0(panel, input, ahead, out),
            ([input], _) => q6_k(panel, input, ahead, out),
            _ => {
                let Some((cols, bytes, _)) = format.block() else { return };
                let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch);
                out.fill(0.0);
                for (b, part) in panel.chunks(FLOAT_BLOCK_COLS / cols * bytes).enumerate() {
                    let weights = &mut scratch[..part.len() / bytes * cols * PANEL_ROWS];
                    blocks::dequantize(format, part, weights);
                    float_tiles(weights, b * FLOAT_BLOCK_COLS, inputs, out);
                }
            }
        }
    }
}

/// The sums of `code * x` over N columns of 32 rows: two columns in flight.
///
/// # Safety
/// The CPU has AVX2 and FMA; 32 N codes and N activations are readable. N is even.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn columns<const N: usize>(codes: *const i8, x: *const f32) -> [__m256; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; 4];
        for c in (0..N).step_by(2) {
            // Indices that are known when compiled keep the sums in registers.
            for flight in 0..2 {
                let x = _mm256_set1_ps(*x.add(c + flight));
                for (part, sum) in sums.iter_mut().enumerate() {
                    let codes = _mm_loadl_epi64(codes.add(PANEL_ROWS * (c + flight) + 8 * part).cast());
                    let w = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
                    sum[flight] = _mm256_fmadd_ps(w, x, sum[flight]);
                }
            }
        }
        sums.map(|sum| _mm256_add_ps(sum[0], sum[1]))
    }
}

/// Eight f16 scales.
///
/// # Safety
/// The CPU has AVX2 and F16C; 16 bytes are readable.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn scales(at: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

/// One `q8_0` panel times one input.
///
/// # Safety
/// As for [`panel`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q8_0(panel: &[u8], input: &TokenInput, ahead: &Ahead, out: &mut [f32]) {
    // SAFETY: a block is 32 f16, then 32 codes for each of 32 columns.
    unsafe {
        let mut totals = [_mm256_setzero_ps(); 4];
        for (block, x) in panel.chunks_exact(Q8_0_BYTES).zip(input.x.chunks_exact(Q8_0_COLS)) {
            let block = block.as_ptr();
            ahead.request(block, Q8_0_BYTES);
            let sums = columns::<Q8_0_COLS>(block.add(SCALE_BYTES).cast(), x.as_ptr());
            for (part, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                *total = _mm256_fmadd_ps(sum, scales(block.add(16 * part)), *total);
            }
        }
        store(totals, out);
    }
}

/// One `q6_k` panel times one input.
///
/// # Safety
/// As for [`panel`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q6_k(panel: &[u8], input: &TokenInput, ahead: &Ahead, out: &mut [f32]) {
    // SAFETY: a block is 32 f16, then groups of 32 sub-scales and two chunks.
    unsafe {
        let mut codes = Codes([0; GROUP_COLS * PANEL_ROWS]);
        let mut totals = [_mm256_setzero_ps(); 4];
        for (block, x) in panel.chunks_exact(Q6_K_BYTES).zip(input.x.chunks_exact(Q6_K_COLS)) {
            let mut of_block = [_mm256_setzero_ps(); 4];
            let groups = block[SCALE_BYTES..].chunks_exact(GROUP_BYTES);
            for (group, x) in groups.zip(x.chunks_exact(GROUP_COLS)) {
                let group = group.as_ptr();
                ahead.request(group, GROUP_BYTES);
                for chunk in 0..2 {
                    let to = codes.0.as_mut_ptr().add(8 * PANEL_ROWS * chunk);
                    unpack_chunk(group.add(PANEL_ROWS + CHUNK_BYTES * chunk), to);
                }
                let sums = columns::<GROUP_COLS>(codes.0.as_ptr(), x.as_ptr());
                for (part, (total, sum)) in of_block.iter_mut().zip(sums).enumerate() {
                    let sub_scales = _mm_loadl_epi64(group.add(8 * part).cast());
                    let sub_scales = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(sub_scales));
                    *total = _mm256_fmadd_ps(sum, sub_scales, *total);
                }
            }
            for (part, (total, sum)) in totals.iter_mut().zip(of_block).enumerate() {
                *total = _mm256_fmadd_ps(sum, scales(block.as_ptr().add(16 * part)), *total);
            }
        }
        store(totals, out);
    }
}

/// The signed codes of 8 columns.
///
/// # Safety
/// The CPU has AVX2; 192 bytes are readable at `chunk`, 256 writable at `codes`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn unpack_chunk(chunk: *const u8, codes: *mut i8) {
    // SAFETY: the caller's promise.
    unsafe {
        let (low_bits, high_bits) = (_mm256_set1_epi8(0x0f), _mm256_set1_epi8(0x30));
        // The even columns of the pairs, then the odd ones.
        for half in 0..2 {
            let load = |at: usize| _mm256_loadu_si256(chunk.add(at + 32 * half).cast());
            let (low, high) = ([load(0), load(64)], load(128));
            // Shifts of 16 bits: what crosses a byte is masked off.
            let pairs = [
                (low[0], _mm256_slli_epi16::<4>(high)),
                (_mm256_srli_epi16::<4>(low[0]), _mm256_slli_epi16::<2>(high)),
                (low[1], high),
                (_mm256_srli_epi16::<4>(low[1]), _mm256_srli_epi16::<2>(high)),
            ];
            for (pair, (low, high)) in pairs.into_iter().enumerate() {
                let code =
                    _mm256_or_si256(_mm256_and_si256(low, low_bits), _mm256_and_si256(high, high_bits));
                let to = codes.add(64 * pair + 32 * half);
                _mm256_storeu_si256(to.cast(), _mm256_sub_epi8(code, _mm256_set1_epi8(32)));
            }
        }
    }
}

/// Writes 32 sums.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn store(sums: [__m256; 4], out: &mut [f32]) {
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(8)) {
        // SAFETY: `out` has 8 values.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
    }
}
