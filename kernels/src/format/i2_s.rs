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
//! each 16 columns the tile of rows 0..16, then that of rows 16..32 (128 bytes), from left to right.
//!
//! The weight is `(code - 1) * scale`, one scale a matrix. This is the information of bitnet.cpp's
//! I2_S tensors (same codes, same size) in an order of our own.

use std::ops::Range;

use rayon::prelude::*;

use super::float_panels::pack_panels;
use crate::PANEL_ROWS;
use crate::input::COLUMN_STEP;

/// Bytes that 16 columns of a panel take.
pub const STEP_BYTES: usize = PANEL_ROWS * COLUMN_STEP / 4;

/// Widest matrix: keeps the scaled 32-bit sums of the AVX-512 kernel from overflowing
/// (each step adds at most 4 * 2 * 64 * 128 to a lane).
pub const MAX_COLS: usize = (i32::MAX as usize / 65_536) * COLUMN_STEP;

/// Bytes that `rows` x `cols` trits take.
pub fn packed_len(rows: usize, cols: usize) -> usize {
    rows.next_multiple_of(PANEL_ROWS) * cols.next_multiple_of(COLUMN_STEP) / 4
}

/// Packs `rows` x `cols` trits (-1, 0, 1) into `out` (of [`packed_len`] bytes). `fill` writes the
/// given rows, row-major, without padding; it is called from several threads.
///
/// # Errors
/// The first error of `fill`.
///
/// # Panics
/// If `cols` exceeds [`MAX_COLS`], or `fill` wrote something that is no trit.
pub fn pack<E: Send>(
    out: &mut [u8],
    rows: usize,
    cols: usize,
    fill: impl Fn(Range<usize>, &mut [i8]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    assert!(cols <= MAX_COLS, "i2_s holds at most {MAX_COLS} columns, not {cols}");
    let steps = cols.div_ceil(COLUMN_STEP);
    // Code 1 is the trit 0, also in padding rows and columns.
    out.fill(0x55);
    pack_panels(out.par_chunks_mut(steps * STEP_BYTES), rows, cols, fill, |panel, row, trits: &[i8]| {
        let base = row / 16 * 64 + row % 16 * 4;
        for (step, trits) in trits.chunks(COLUMN_STEP).enumerate() {
            let mut codes = [1u8; COLUMN_STEP];
            for (code, &t) in codes.iter_mut().zip(trits) {
                *code = (t + 1) as u8;
            }
            assert!(codes.iter().all(|&c| c <= 2), "weights of an i2_s matrix must be -1, 0 or 1");
            let at = step * STEP_BYTES + base;
            for j in 0..4 {
                panel[at + j] = codes[j] | codes[j + 4] << 2 | codes[j + 8] << 4 | codes[j + 12] << 6;
            }
        }
    })
}

/// The code (0, 1, 2) of one weight of a packed matrix.
pub fn code(data: &[u8], cols: usize, row: usize, col: usize) -> u8 {
    let steps = cols.div_ceil(COLUMN_STEP);
    let r = row % PANEL_ROWS;
    let at = (row / PANEL_ROWS * steps + col / COLUMN_STEP) * STEP_BYTES + r / 16 * 64 + r % 16 * 4;
    let c = col % COLUMN_STEP;
    data[at + c % 4] >> (c / 4 * 2) & 3
}
