//! `tq1_0`: llama.cpp's TQ1_0, blocks of 256 weights, 240 of them five to a byte, 16 four to a byte, and
//! a scale of 16 bits: 1.6875 bits a weight.
//!
//! ```text
//! block of 32 rows x 256 columns, 1728 bytes:
//!   12 steps of 20 columns as in base3 (128 bytes each)   columns 0..240
//!   1 step of 16 columns as in i2_s (128 bytes)           columns 240..256
//!   32 x u16                                              scale of each row's block
//! ```
//!
//! The scale is in units of the matrix's, as in [`tq2_0`].

use super::{base3, i2_s, rows_of, tq2_0};

pub use tq2_0::BLOCK_COLS;

/// Steps of five trits a byte in a block.
pub(crate) const BASE3_STEPS: usize = 12;
/// Bytes of these steps.
pub(crate) const BASE3_BYTES: usize = BASE3_STEPS * base3::STEP_BYTES;
/// Columns of these steps.
pub(crate) const BASE3_COLS: usize = BASE3_STEPS * base3::STEP_COLS;
/// Bytes of the codes of a block.
pub(crate) const CODE_BYTES: usize = BASE3_BYTES + i2_s::STEP_BYTES;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = CODE_BYTES + tq2_0::SCALE_BYTES;

/// Bytes of one panel.
pub(crate) fn panel_len(cols: usize) -> usize {
    cols.div_ceil(BLOCK_COLS) * BLOCK_BYTES
}

pub(super) fn pack_panel(by_table: bool, trits: &[i8], out: &mut [u8]) {
    for (row, trits) in rows_of(trits) {
        for (trits, block) in trits.chunks_exact(BLOCK_COLS).zip(out.chunks_exact_mut(BLOCK_BYTES)) {
            let (fives, fours) = trits.split_at(BASE3_COLS);
            let (codes, scales) = block.split_at_mut(CODE_BYTES);
            for (i, trits) in fives.chunks_exact(base3::STEP_COLS).enumerate() {
                base3::pack_row(by_table, trits, &mut codes[i * base3::STEP_BYTES + 4 * row..][..4]);
            }
            i2_s::pack_row(fours, &mut codes[BASE3_BYTES + 4 * row..][..4]);
            scales[2 * row..][..2].copy_from_slice(&1u16.to_le_bytes());
        }
    }
}
