//! `i2_s`: two bits a weight, in tiles that one vector instruction sums without shuffles.
//!
//! A tile holds 16 rows x 16 columns in 64 bytes. Byte `4 r + j` belongs to row `r` (0..16) and holds
//! the columns `j`, `j+4`, `j+8`, `j+12` in its bit pairs 0, 1, 2, 3; a code is trit + 1.
//!
//! ```text
//!            byte 0      byte 1      byte 2      byte 3      byte 4      ...  byte 63
//!            row 0                                           row 1            row 15
//! bits 1..0  column 0    column 1    column 2    column 3    column 0         column 3
//! bits 3..2  column 4    column 5    column 6    column 7    column 4         column 7
//! bits 5..4  column 8    column 9    column 10   column 11   column 8         column 11
//! bits 7..6  column 12   column 13   column 14   column 15   column 12        column 15
//! ```
//!
//! So `tile & 0x03` is, in each 32-bit lane, four neighbouring columns of one row: the shape that
//! VNNI's `vpdpbusd`, `vpmaddubsw` and Arm's `sdot` multiply with four broadcast activations. The
//! sixteen sums come out in sixteen lanes and need no horizontal addition. A panel is 32 rows: for
//! each 16 columns a step of 128 bytes, the tile of rows 0..16, then that of rows 16..32.
//!
//! The weight is `(code - 1) * scale`, one scale a matrix. This is the information of bitnet.cpp's
//! I2_S tensors (same codes, same size) in an order of our own.

use super::rows_of;
use crate::PANEL_ROWS;
use crate::input::COLUMN_STEP;

/// Bytes that 16 columns of a panel take.
pub const STEP_BYTES: usize = PANEL_ROWS * COLUMN_STEP / 4;

/// Bytes of one panel.
pub(crate) fn panel_len(cols: usize) -> usize {
    cols.div_ceil(COLUMN_STEP) * STEP_BYTES
}

pub(super) fn pack_panel(trits: &[i8], out: &mut [u8]) {
    for (row, trits) in rows_of(trits) {
        for (trits, step) in trits.chunks_exact(COLUMN_STEP).zip(out.chunks_exact_mut(STEP_BYTES)) {
            pack_row(trits, &mut step[4 * row..][..4]);
        }
    }
}

/// Sixteen trits of a row to its four bytes of a step.
pub(super) fn pack_row(trits: &[i8], out: &mut [u8]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = (0..4).fold(0, |byte, plane| byte | ((trits[4 * plane + j] + 1) as u8) << (2 * plane));
    }
}

/// The codes of a step, one a byte: for each four columns the 32 rows' four codes (512 bytes).
#[inline(always)]
pub(crate) fn unpack_step(step: &[u8], codes: &mut [u8]) {
    for (plane, codes) in codes.chunks_exact_mut(STEP_BYTES).enumerate() {
        for (code, byte) in codes.iter_mut().zip(step) {
            *code = byte >> (2 * plane) & 3;
        }
    }
}
