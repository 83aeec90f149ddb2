//! The block formats, [`crate::format::blocks`]: codes become floats in registers, sixteen rows a vector.

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
/// The CPU has AVX-512 F, BW and VL. `panel` holds whole blocks for the columns of each input's `x`, `out` 32
/// values for each input, and `scratch` room for 32 x [`FLOAT_BLOCK_COLS`] floats, aligned as such.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
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
/// The CPU has AVX-512 F, BW and VL; 32 N codes and N activations are readable. N is even.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn columns<const N: usize>(codes: *const i8, x: *const f32) -> [__m512; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; 2];
        for c in (0..N).step_by(2) {
            // Indices that are known when compiled keep the sums in registers.
            for flight in 0..2 {
                let x = _mm512_set1_ps(*x.add(c + flight));
                for (half, sum) in sums.iter_mut().enumerate() {
                    let codes = _mm_loadu_si128(codes.add(PANEL_ROWS * (c + flight) + 16 * half).cast());
                    let w = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
                    sum[flight] = _mm512_fmadd_ps(w, x, sum[flight]);
                }
            }
        }
        [_mm512_add_ps(sums[0][0], sums[0][1]), _mm512_add_ps(sums[1][0], sums[1][1])]
    }
}

/// Sixteen f16 scales.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL; 32 bytes are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn scales(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

/// One `q8_0` panel times one input.
///
/// # Safety
/// As for [`panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn q8_0(panel: &[u8], input: &TokenInput, ahead: &Ahead, out: &mut [f32]) {
    // SAFETY: a block is 32 f16, then 32 codes for each of 32 columns.
    unsafe {
        let mut totals = [_mm512_setzero_ps(); 2];
        for (block, x) in panel.chunks_exact(Q8_0_BYTES).zip(input.x.chunks_exact(Q8_0_COLS)) {
            let block = block.as_ptr();
            ahead.request(block, Q8_0_BYTES);
            let sums = columns::<Q8_0_COLS>(block.add(SCALE_BYTES).cast(), x.as_ptr());
            for half in 0..2 {
                totals[half] = _mm512_fmadd_ps(sums[half], scales(block.add(32 * half)), totals[half]);
            }
        }
        store(totals, out);
    }
}

/// One `q6_k` panel times one input.
///
/// # Safety
/// As for [`panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn q6_k(panel: &[u8], input: &TokenInput, ahead: &Ahead, out: &mut [f32]) {
    // SAFETY: a block is 32 f16, then groups of 32 sub-scales and two chunks.
    unsafe {
        let mut codes = Codes([0; GROUP_COLS * PANEL_ROWS]);
        let mut totals = [_mm512_setzero_ps(); 2];
        for (block, x) in panel.chunks_exact(Q6_K_BYTES).zip(input.x.chunks_exact(Q6_K_COLS)) {
            let mut of_block = [_mm512_setzero_ps(); 2];
            let groups = block[SCALE_BYTES..].chunks_exact(GROUP_BYTES);
            for (group, x) in groups.zip(x.chunks_exact(GROUP_COLS)) {
                let group = group.as_ptr();
                ahead.request(group, GROUP_BYTES);
                for chunk in 0..2 {
                    let to = codes.0.as_mut_ptr().add(8 * PANEL_ROWS * chunk);
                    unpack_chunk(group.add(PANEL_ROWS + CHUNK_BYTES * chunk), to);
                }
                let sums = columns::<GROUP_COLS>(codes.0.as_ptr(), x.as_ptr());
                for half in 0..2 {
                    let sub_scales = _mm_loadu_si128(group.add(16 * half).cast());
                    let sub_scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sub_scales));
                    of_block[half] = _mm512_fmadd_ps(sums[half], sub_scales, of_block[half]);
                }
            }
            for half in 0..2 {
                let scales = scales(block.as_ptr().add(32 * half));
                totals[half] = _mm512_fmadd_ps(of_block[half], scales, totals[half]);
            }
        }
        store(totals, out);
    }
}

/// The signed codes of 8 columns.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL; 192 bytes are readable at `chunk`, 256 writable at `codes`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn unpack_chunk(chunk: *const u8, codes: *mut i8) {
    // SAFETY: the caller's promise.
    unsafe {
        let (low_bits, high_bits) = (_mm512_set1_epi8(0x0f), _mm512_set1_epi8(0x30));
        let low = [_mm512_loadu_si512(chunk.cast()), _mm512_loadu_si512(chunk.add(64).cast())];
        let high = _mm512_loadu_si512(chunk.add(128).cast());
        // Shifts of 16 bits: what crosses a byte is masked off.
        let pairs = [
            (low[0], _mm512_slli_epi16::<4>(high)),
            (_mm512_srli_epi16::<4>(low[0]), _mm512_slli_epi16::<2>(high)),
            (low[1], high),
            (_mm512_srli_epi16::<4>(low[1]), _mm512_srli_epi16::<2>(high)),
        ];
        for (pair, (low, high)) in pairs.into_iter().enumerate() {
            // (low & low_bits) | (high & high_bits)
            let high = _mm512_and_si512(high, high_bits);
            let code = _mm512_ternarylogic_epi32::<0xea>(low, low_bits, high);
            _mm512_storeu_si512(codes.add(64 * pair).cast(), _mm512_sub_epi8(code, _mm512_set1_epi8(32)));
        }
    }
}

/// Writes 32 sums.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store(sums: [__m512; 2], out: &mut [f32]) {
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(16)) {
        // SAFETY: `out` has 16 values.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
}
