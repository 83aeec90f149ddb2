//! `base3`, the format of the `native` kernel: five trits a byte, 1.6 bits a weight.
//!
//! 3^5 = 243 of 256 values are used: no byte-aligned code of trits is denser. A step is 20 columns of the
//! panel's 32 rows in 128 bytes, in the order of an `i2_s` step: byte `4 r + j` belongs to
//! row `r` and holds the columns `j`, `j+4`, `j+8`, `j+12`, `j+16` as digits of base 3 (a digit is
//! trit + 1).
//!
//! ```text
//!           byte 0      byte 1      byte 2      byte 3      byte 4      ...  byte 127
//!           row 0                                           row 1            row 31
//! digit 0   column 0    column 1    column 2    column 3    column 0         column 3
//! digit 1   column 4    column 5    column 6    column 7    column 4         column 7
//! digit 2   column 8    column 9    column 10   column 11   column 8         column 11
//! digit 3   column 12   column 13   column 14   column 15   column 12        column 15
//! digit 4   column 16   column 17   column 18   column 19   column 16        column 19
//! ```
//!
//! The byte is either the number `d0 + 3 d1 + 9 d2 + 27 d3 + 84 d4`, for instruction sets with tables of
//! bytes (VBMI's `vpermb` and `vpermi2b`): with 84, a multiple of 4, in the place of 81 its upper six bits
//! tell `d4`, which a table of 64 turns into `84 d4`; what is left is below 81, and a table of 128 turns it
//! into an `i2_s` byte. Or, for the others, it is the fraction `ceil(256 v / 243)` of 256, where
//! `v = d0 + 3 d1 + 9 d2 + 27 d3 + 81 d4`: then a digit is the carry of a multiplication by 3, from `d4`
//! down, as in llama.cpp's TQ1_0.

use super::{MAX_TERNARY_COLS, i2_s, rows_of};

/// Columns of a step.
pub const STEP_COLS: usize = 20;
/// Bytes of a step: 32 rows.
pub const STEP_BYTES: usize = i2_s::STEP_BYTES;

/// What a fifth digit counts in a byte that is decoded by tables.
pub(crate) const FIFTH: u8 = 84;

// A 32-bit sum of fifth digits, four columns of each step, whatever the activations are.
const _: () =
    assert!(MAX_TERNARY_COLS.div_ceil(STEP_COLS) * 4 * (2 * FIFTH as usize) * 128 <= i32::MAX as usize);

/// Bytes of one panel.
pub(crate) fn panel_len(cols: usize) -> usize {
    cols.div_ceil(STEP_COLS) * STEP_BYTES
}

pub(super) fn pack_panel(by_table: bool, trits: &[i8], out: &mut [u8]) {
    for (row, trits) in rows_of(trits) {
        for (trits, step) in trits.chunks_exact(STEP_COLS).zip(out.chunks_exact_mut(STEP_BYTES)) {
            pack_row(by_table, trits, &mut step[4 * row..][..4]);
        }
    }
}

/// Twenty trits of a row to its four bytes of a step.
pub(super) fn pack_row(by_table: bool, trits: &[i8], out: &mut [u8]) {
    for (j, out) in out.iter_mut().enumerate() {
        let digit = |n: usize| (trits[4 * n + j] + 1) as u32;
        let four = (0..4).rev().fold(0, |v, n| 3 * v + digit(n));
        *out = match by_table {
            true => four as u8 + FIFTH * digit(4) as u8,
            false => (256 * (four + 81 * digit(4))).div_ceil(243) as u8,
        };
    }
}

/// The codes of a step, one a byte: for each four columns the 32 rows' four codes (640 bytes).
#[inline(always)]
pub(crate) fn unpack_step(by_table: bool, step: &[u8], codes: &mut [u8]) {
    for (i, &byte) in step.iter().enumerate() {
        if by_table {
            codes[4 * STEP_BYTES + i] = byte / FIFTH;
            let mut rest = byte % FIFTH;
            for plane in 0..4 {
                codes[plane * STEP_BYTES + i] = rest % 3;
                rest /= 3;
            }
        } else {
            let mut rest = u16::from(byte);
            for plane in (0..5).rev() {
                rest *= 3;
                codes[plane * STEP_BYTES + i] = (rest >> 8) as u8;
                rest &= 0xff;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_give_all_243_numbers_back() {
        for v in 0..243u32 {
            let digit = |k: u32| (v / 3u32.pow(k) % 3) as u8;
            let mut trits = [0i8; STEP_COLS];
            (0..5).for_each(|k| trits[4 * k as usize] = digit(k) as i8 - 1);
            for by_table in [false, true] {
                let mut step = [0u8; STEP_BYTES];
                pack_row(by_table, &trits, &mut step[..4]);
                let mut codes = [9u8; 5 * STEP_BYTES];
                unpack_step(by_table, &step, &mut codes);
                for k in 0..5 {
                    assert_eq!(codes[k as usize * STEP_BYTES], digit(k), "{v}, digit {k}, {by_table}");
                }
            }
        }
    }
}
