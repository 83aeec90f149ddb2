//! `tl1`: two trits are one of nine indices in four bits: 2 bits a weight.
//!
//! A product makes, for each two columns, a table of the nine sums that an index can stand for, and looks
//! them up instead of multiplying (bitnet.cpp's TL1, arXiv:2502.11880, in its lossless variant: table
//! entries of 16 bits). The index is `3 (a + 1) + (b + 1)` for the trits `a`, `b`.
//!
//! For lookups in 16-bit lanes (AVX-512's `vpermw`), 8 columns of the 32 rows are 64 bytes:
//!
//! ```text
//!              word 0              word 1        ...  word 31
//!              row 0               row 1              row 31
//! bits 3..0    columns 0 and 2     columns 0 and 2
//! bits 7..4    columns 1 and 3
//! bits 11..8   columns 4 and 6
//! bits 15..12  columns 5 and 7
//! ```
//!
//! For lookups in bytes (`vpshufb`, Arm's `tbl`), 4 columns of the 32 rows are 32 bytes, two of these steps
//! for the same 8 columns:
//!
//! ```text
//!              byte 0              byte 1        ...  byte 31
//! bits 3..0    columns 0 and 2 of row 0
//! bits 7..4    columns 1 and 3
//! ```
//!
//! Nothing else differs. The steps of a panel are cut into chunks of 192 columns, and a matrix stores chunk
//! 0 of all panels, then chunk 1 of all, and so on: see `tables`.

use super::tables::{self, Kind};
use crate::PANEL_ROWS;

/// Columns to which a matrix is padded.
pub const STEP_COLS: usize = 8;
/// Bytes of these columns.
pub const STEP_BYTES: usize = 2 * PANEL_ROWS;

/// Bytes of one panel.
pub(crate) fn panel_len(cols: usize) -> usize {
    cols.div_ceil(STEP_COLS) * STEP_BYTES
}

pub(super) fn pack_panel(words: bool, cols: usize, trits: &[i8], out: &mut [u8]) {
    tables::pack_panel(Kind::Two, words, cols, trits, out);
}

/// Packs 8 columns, from `col` on, of a panel whose rows have `stride` trits.
pub(super) fn pack_step(words: bool, trits: &[i8], stride: usize, col: usize, out: &mut [u8]) {
    for row in 0..PANEL_ROWS {
        let t = &trits[row * stride + col..][..STEP_COLS];
        let index = |a: usize| (3 * (t[a] + 1) + t[a + 2] + 1) as u8;
        let [first, second] = bytes_of(words, row);
        out[first] = index(0) | index(1) << 4;
        out[second] = index(4) | index(5) << 4;
    }
}

/// Where a step holds the first and the last four columns of a row.
#[inline(always)]
fn bytes_of(words: bool, row: usize) -> [usize; 2] {
    if words { [2 * row, 2 * row + 1] } else { [row, PANEL_ROWS + row] }
}

/// The codes of 8 columns, one a byte: for each four columns the 32 rows' four codes (256 bytes).
#[inline(always)]
pub(crate) fn unpack_step(words: bool, step: &[u8], codes: &mut [u8]) {
    for row in 0..PANEL_ROWS {
        for (four, at) in bytes_of(words, row).into_iter().enumerate() {
            let (low, high) = (step[at] & 15, step[at] >> 4);
            let out = &mut codes[4 * (PANEL_ROWS * four + row)..][..4];
            out.copy_from_slice(&[low / 3, high / 3, low % 3, high % 3]);
        }
    }
}
