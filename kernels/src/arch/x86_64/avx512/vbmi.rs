//! VBMI: five trits in a byte are decoded by tables of 64 and 128 bytes (`vpermb`, `vpermi2b`).

use std::arch::x86_64::*;

use super::{
    Cursor, Planes, blocks, i2_s_steps, load_step, no_sums, plane_masks, store, store_codes, totals,
    unpack_with,
};
use crate::arch::x86_64::ahead::Ahead;
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
        let ahead = Ahead::new(share.bytes(), share.next);
        for (panel, out) in share.whole_panels().zip(out.chunks_mut(stride)) {
            let sums = if by_block {
                blocks(panel, tq1_0::BLOCK_BYTES, input, &ahead, |mut at, planes| {
                    decoder.add(&mut at, tq1_0::BASE3_STEPS, planes);
                    i2_s_steps(&mut at, 1, planes);
                })
            } else {
                let (mut at, mut planes) = (Cursor::new(panel, input, &ahead), no_sums());
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
                let (four, fifth) = decoder.decode(bytes);
                let planes = [
                    four,
                    _mm512_srli_epi16::<2>(four),
                    _mm512_srli_epi16::<4>(four),
                    _mm512_srli_epi16::<6>(four),
                ];
                for (plane, values) in planes.into_iter().enumerate() {
                    store_codes(_mm512_and_si512(values, mask), plane, half, codes);
                }
                // 84 and 168 have 1 and 2 in the bits above the lowest two.
                let fifth = _mm512_and_si512(_mm512_srli_epi16::<2>(fifth), mask);
                store_codes(fifth, 4, half, codes);
            }
        });
    }
}

/// The tables that decode a byte of five digits.
#[derive(Clone, Copy)]
struct Decoder {
    /// By the upper six bits of a byte: its fifth digit times [`base3::FIFTH`].
    fifths: __m512i,
    /// By what that leaves of the byte: the other digits in two bits each, an `i2_s` byte.
    fours: [__m512i; 2],
}

const FIFTHS: [u8; 64] = {
    let mut table = [0; 64];
    let mut i = 0;
    while i < 63 {
        table[i] = 4 * i as u8 / base3::FIFTH * base3::FIFTH;
        i += 1;
    }
    table
};

const FOURS: [u8; 128] = {
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
        // SAFETY: the tables are one and two vectors long.
        unsafe {
            Decoder {
                fifths: _mm512_loadu_si512(FIFTHS.as_ptr().cast()),
                fours: [0, 64].map(|at| _mm512_loadu_si512(FOURS[at..].as_ptr().cast())),
            }
        }
    }

    /// The four lower digits of 64 bytes, as an `i2_s` byte each, and the fifth times [`base3::FIFTH`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    #[inline]
    fn decode(&self, bytes: __m512i) -> (__m512i, __m512i) {
        // `vpermb` takes the lowest six bits of each byte: what a shift of 16 bits brings in from the
        // neighbour is above them.
        let fifth = _mm512_permutexvar_epi8(_mm512_srli_epi16::<2>(bytes), self.fifths);
        let rest = _mm512_sub_epi8(bytes, fifth);
        (_mm512_permutex2var_epi8(self.fours[0], rest, self.fours[1]), fifth)
    }

    /// Adds `n` steps of `base3` (128 bytes, 20 columns). The fifth digit's sums are of [`base3::FIFTH`] times
    /// the digit.
    ///
    /// # Safety
    /// The CPU has AVX-512 with VNNI and VBMI; at the cursor are as many steps and their activations.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    #[inline]
    unsafe fn add(&self, at: &mut Cursor<'_>, n: usize, planes: &mut Planes) {
        let masks = plane_masks();
        for _ in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                at.ahead.request(at.w, base3::STEP_BYTES);
                let x: [__m512i; 5] =
                    std::array::from_fn(|i| _mm512_set1_epi32(at.q.add(i).read_unaligned()));
                for (half, sums) in planes.iter_mut().enumerate() {
                    let bytes = _mm512_loadu_si512(at.w.add(64 * half).cast());
                    let (four, fifth) = self.decode(bytes);
                    for plane in 0..4 {
                        let codes = _mm512_and_si512(four, masks[plane]);
                        sums[plane] = _mm512_dpbusd_epi32(sums[plane], codes, x[plane]);
                    }
                    sums[4] = _mm512_dpbusd_epi32(sums[4], fifth, x[4]);
                }
                at.w = at.w.add(base3::STEP_BYTES);
                at.q = at.q.add(5);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_take_every_byte_apart() {
        for four in 0..81u8 {
            for fifth in 0..3 {
                let fifth = fifth * base3::FIFTH;
                assert_eq!(FIFTHS[usize::from((four + fifth) >> 2)], fifth, "{four} + {fifth}");
            }
            let byte = FOURS[usize::from(four)];
            let digits = (0..4).rev().fold(0, |v, n| 3 * v + ((byte >> (2 * n)) & 3));
            assert_eq!(digits, four);
        }
    }
}
