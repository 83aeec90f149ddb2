//! `f16` (and f32, for heads that f16 cannot hold): float weights in panels of 32 rows, column by
//! column.
//!
//! ```text
//! panel p:  column 0              column 1             ...
//!           w[32p+0..32p+32, 0]   w[32p+0..32p+32, 1]  ...
//! ```
//!
//! A matrix-vector product then keeps 32 sums in registers, broadcasts one activation at a time and
//! needs no horizontal addition; memory is read front to back.

use std::ops::Range;

use rayon::prelude::*;

use crate::PANEL_ROWS;
use crate::input::COLUMN_STEP;

/// Element of a float panel.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Nearest element, halves to even.
    fn from_f32(x: f32) -> Self;
    /// Exact value.
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    fn from_f32(x: f32) -> Self {
        x
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for half::f16 {
    fn from_f32(x: f32) -> Self {
        half::f16::from_f32(x)
    }
    fn to_f32(self) -> f32 {
        half::f16::to_f32(self)
    }
}

/// Bytes that `rows` x `cols` weights take as elements `T`.
pub fn packed_len<T>(rows: usize, cols: usize) -> usize {
    rows.next_multiple_of(PANEL_ROWS) * cols.next_multiple_of(COLUMN_STEP) * size_of::<T>()
}

/// Packs `rows` x `cols` weights into `out` (of [`packed_len`] bytes, zeroed). `fill` writes the
/// given rows, row-major, without padding; it is called from several threads.
///
/// # Errors
/// The first error of `fill`.
pub fn pack<T: Element, E: Send>(
    out: &mut [u8],
    rows: usize,
    cols: usize,
    fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let stride = cols.next_multiple_of(COLUMN_STEP);
    let panels = bytemuck::cast_slice_mut::<u8, T>(out).par_chunks_mut(PANEL_ROWS * stride);
    pack_panels(panels, rows, cols, fill, |panel, row, values| {
        for (c, &v) in values.iter().enumerate() {
            panel[c * PANEL_ROWS + row] = T::from_f32(v);
        }
    })
}

/// Runs `fill` for the rows of each panel, in parallel, and hands each row to `store`.
pub(super) fn pack_panels<'a, P: Send + 'a, T: Default + Copy, E: Send>(
    panels: impl IndexedParallelIterator<Item = &'a mut [P]>,
    rows: usize,
    cols: usize,
    fill: impl Fn(Range<usize>, &mut [T]) -> Result<(), E> + Sync,
    store: impl Fn(&mut [P], usize, &[T]) + Sync,
) -> Result<(), E> {
    panels.enumerate().try_for_each(|(p, panel)| {
        let range = p * PANEL_ROWS..((p + 1) * PANEL_ROWS).min(rows);
        let mut values = vec![T::default(); range.len() * cols];
        fill(range, &mut values)?;
        for (row, values) in values.chunks_exact(cols).enumerate() {
            store(panel, row, values);
        }
        Ok(())
    })
}

/// Row `row` of a packed matrix of `cols` columns, into `out`: what an embedding lookup needs.
pub fn unpack_row<T: Element>(data: &[u8], cols: usize, row: usize, out: &mut [f32]) {
    let stride = cols.next_multiple_of(COLUMN_STEP);
    let panel = &bytemuck::cast_slice::<u8, T>(data)[row / PANEL_ROWS * PANEL_ROWS * stride..];
    for (c, out) in out.iter_mut().enumerate() {
        *out = panel[c * PANEL_ROWS + row % PANEL_ROWS].to_f32();
    }
}
