//! `tq2_0`: llama.cpp's TQ2_0, blocks of 256 weights with a scale of 16 bits: 2.0625 bits a weight.
//!
//! ```text
//! block of 32 rows x 256 columns, 2112 bytes:
//!   16 steps of 16 columns as in i2_s (128 bytes each)   codes
//!   32 x u16                                             scale of each row's block
//! ```
//!
//! In a file the block's scale is an f16. A ternary matrix has one scale, so here the block's is given in
//! units of the matrix's, which is always 1, and sums stay integers. A matrix-vector product reads and
//! multiplies it as llama.cpp does, so that its cost is that of the format; a product with several inputs
//! takes the codes alone.

use super::{i2_s, rows_of};
use crate::PANEL_ROWS;
use crate::input::COLUMN_STEP;

/// Columns of a block.
pub const BLOCK_COLS: usize = 256;
/// Bytes of the codes of a block.
pub(crate) const CODE_BYTES: usize = BLOCK_COLS / COLUMN_STEP * i2_s::STEP_BYTES;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = CODE_BYTES + SCALE_BYTES;
/// Bytes of the scales of a block.
pub(crate) const SCALE_BYTES: usize = 2 * PANEL_ROWS;

/// Bytes of one panel.
pub(crate) fn panel_len(cols: usize) -> usize {
    cols.div_ceil(BLOCK_COLS) * BLOCK_BYTES
}

pub(super) fn pack_panel(trits: &[i8], out: &mut [u8]) {
    for (row, trits) in rows_of(trits) {
        for (trits, block) in trits.chunks_exact(BLOCK_COLS).zip(out.chunks_exact_mut(BLOCK_BYTES)) {
            let (codes, scales) = block.split_at_mut(CODE_BYTES);
            for (trits, step) in trits.chunks_exact(COLUMN_STEP).zip(codes.chunks_exact_mut(i2_s::STEP_BYTES))
            {
                i2_s::pack_row(trits, &mut step[4 * row..][..4]);
            }
            scales[2 * row..][..2].copy_from_slice(&1u16.to_le_bytes());
        }
    }
}
