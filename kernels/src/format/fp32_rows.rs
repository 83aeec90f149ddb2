//! `fp32-naive`: 32-bit floats, row after row, as every textbook stores a matrix.
//!
//! Padding: rows to a multiple of 32, columns to a multiple of 16.

use rayon::prelude::*;

use super::float_panels::pack_panels;
use crate::PANEL_ROWS;

/// Bytes that `rows` x `cols` weights take.
pub fn packed_len(rows: usize, cols: usize) -> usize {
    super::float_panels::packed_len::<f32>(rows, cols)
}

/// Packs `rows` x `cols` weights into `out` (of [`packed_len`] bytes, zeroed). `fill` writes the
/// given rows, row-major, without padding; it is called from several threads.
///
/// # Errors
/// The first error of `fill`.
pub fn pack<E: Send>(
    out: &mut [u8],
    rows: usize,
    cols: usize,
    fill: impl Fn(std::ops::Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let stride = cols.next_multiple_of(crate::input::COLUMN_STEP);
    pack_panels(
        bytemuck::cast_slice_mut::<u8, f32>(out).par_chunks_mut(PANEL_ROWS * stride),
        rows,
        cols,
        fill,
        |panel, row, values| {
            panel[row * stride..][..cols].copy_from_slice(values);
        },
    )
}
