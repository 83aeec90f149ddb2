//! VBMI: five trits in a byte are decoded by a table of 128 bytes (`vpermi2b`).

use std::arch::x86_64::*;

use super::{
    Cursor, Planes, blocks, i2_s_steps, load_step, no_sums, plane_masks, prefetch_step, store, store_codes,
    totals, unpack_with,
};
use crate::format::{Format, base3, tq1_0};
use crate::matrix::Share;
use crate::{PANEL_ROWS, TokenInput};

/// One input times the panels of `share`: see [`super::gemv`].
///
/// # Safety
/// As there, and the CPU has VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(crate) unsafe fn gemv(share: &Share<'_>, input: &TokenInput, stride: usize, out: &mut [f32]) {
    // SAFETY: the caller's promises are those of the callees.
    unsafe {
        let by_block = match share.format {
            Format::Base3 => false,
            Format::Tq1_0 => true,
            _ => return super::gemv(share, input, stride, out),
        };
        let decoder = Decoder::new();
        for (panel, out) in share.whole_panels().zip(out.chunks_mut(stride)) {
            let sums = if by_block {
                blocks(panel, tq1_0::BLOCK_BYTES, input, |mut at, planes| {
                    decoder.add(&mut at, tq1_0::BASE3_STEPS, planes);
                    i2_s_steps(&mut at, 1, planes);
                })
            } else {
                let (mut at, mut planes) = (Cursor::new(panel, input), no_sums());
                decoder.add(&mut at, panel.len() / base3::STEP_BYTES, &mut planes);
                totals(&planes)
            };
            store(sums, input.q_sum, share.scale, input, &mut out[..PANEL_ROWS]);
        }
    }
}

/// Spreads the one panel of `share` to one code a byte: see [`super::unpack`].
///
/// # Safety
/// As there, and the CPU has VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(crate) unsafe fn unpack(share: &Share<'_>, codes: &mut [u8]) {
    let decoder = Decoder::new();
    let mask = _mm512_set1_epi8(3);
    // SAFETY: the caller's promises.
    unsafe {
        unpack_with(share, codes, |step, codes| {
            for (half, bytes) in load_step(step).into_iter().enumerate() {
                let (four, rest) = decoder.four(bytes);
                let planes = [
                    four,
                    _mm512_srli_epi16::<2>(four),
                    _mm512_srli_epi16::<4>(four),
                    _mm512_srli_epi16::<6>(four),
                ];
                for (plane, values) in planes.into_iter().enumerate() {
                    store_codes(_mm512_and_si512(values, mask), plane, half, codes);
                }
                // 81 and 162 have 1 and 2 in their lowest bits.
                let fifth = _mm512_and_si512(_mm512_sub_epi8(bytes, rest), mask);
                store_codes(fifth, 4, half, codes);
            }
        });
    }
}

/// The table that turns a number below 81 into four codes of two bits, an `i2_s` byte.
#[derive(Clone, Copy)]
struct Decoder {
    table: [__m512i; 2],
}

const TABLE: [u8; 128] = {
    let mut table = [0; 128];
    let mut v = 0;
    while v < 81 {
        table[v] = ((v % 3) | ((v / 3 % 3) << 2) | ((v / 9 % 3) << 4) | ((v / 27) << 6)) as u8;
        v += 1;
    }
    table
};

impl Decoder {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    fn new() -> Self {
        // SAFETY: the table is two vectors long.
        let table = unsafe { [0, 64].map(|at| _mm512_loadu_si512(TABLE[at..].as_ptr().cast())) };
        Decoder { table }
    }

    /// The four lower digits of 64 bytes, as an `i2_s` byte each, and the bytes without the fifth.
    ///
    /// Subtracting 81 wraps around where a byte is smaller, so the minimum subtracts it only where it can.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    #[inline]
    fn four(&self, bytes: __m512i) -> (__m512i, __m512i) {
        let fifth = _mm512_set1_epi8(81);
        let rest = _mm512_min_epu8(bytes, _mm512_sub_epi8(bytes, fifth));
        let rest = _mm512_min_epu8(rest, _mm512_sub_epi8(rest, fifth));
        (_mm512_permutex2var_epi8(self.table[0], rest, self.table[1]), rest)
    }

    /// Adds `n` steps of `base3` (128 bytes, 20 columns). The fifth digit's sums are of 81 times the digit.
    ///
    /// # Safety
    /// The CPU has AVX-512 with VNNI and VBMI; at the cursor are as many steps and their activations.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    #[inline]
    unsafe fn add(&self, at: &mut Cursor, n: usize, planes: &mut Planes) {
        let masks = plane_masks();
        for _ in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                prefetch_step(at.w);
                let x: [__m512i; 5] =
                    std::array::from_fn(|i| _mm512_set1_epi32(at.q.add(i).read_unaligned()));
                for (half, sums) in planes.iter_mut().enumerate() {
                    let bytes = _mm512_loadu_si512(at.w.add(64 * half).cast());
                    let (four, rest) = self.four(bytes);
                    for plane in 0..4 {
                        let codes = _mm512_and_si512(four, masks[plane]);
                        sums[plane] = _mm512_dpbusd_epi32(sums[plane], codes, x[plane]);
                    }
                    sums[4] = _mm512_dpbusd_epi32(sums[4], _mm512_sub_epi8(bytes, rest), x[4]);
                }
                at.w = at.w.add(base3::STEP_BYTES);
                at.q = at.q.add(5);
            }
        }
    }
}
