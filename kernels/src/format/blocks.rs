//! `q8_0` and `q6_k`: the block formats of embeddings and output projections, in panels of 32 rows.
//!
//! A panel is one sequential stream of blocks, from left to right, in which every byte vector holds the
//! same column of neighbouring rows: sums of rows lie side by side and need no horizontal addition.
//!
//! ```text
//! q8_0, a block of 32 columns:    32 f16 scales, a row each;
//!                                 column after column 32 int8 codes            (1088 bytes)
//! q6_k, a block of 256 columns:   32 f16 scales; then 16 groups of 16 columns  (6720 bytes)
//!       a group:                  32 int8 sub-scales; two chunks of 8 columns  ( 416 bytes)
//!       a chunk:                  bytes 0..64, 64..128: low four bits, bytes 128..192: high two bits
//! ```
//!
//! In a chunk, bytes l and l + 32 (l the row) belong to the even and the odd column of a pair. Pairs 0 and
//! 1 have their low bits in the lower and upper nibbles of the first 64 bytes, pairs 2 and 3 in those of
//! the second; pair p has its high bits in bits 2p and 2p + 1 of the last 64.
//!
//! The weight is `scale * code` in q8_0 and `scale * sub-scale * (code - 32)` in q6_k: codes and scales
//! are those of ggml's blocks of the same names, in another order. As there, rows are whole blocks; a
//! matrix of other columns cannot be stored.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use super::Format;
use super::float_panels::pack_panels;
use crate::PANEL_ROWS;

/// Columns of a `q8_0` block.
pub const Q8_0_COLS: usize = 32;
/// Bytes of a `q8_0` block of a panel.
pub(crate) const Q8_0_BYTES: usize = SCALE_BYTES + PANEL_ROWS * Q8_0_COLS;
/// Columns of a `q6_k` block.
pub const Q6_K_COLS: usize = 256;
/// Columns of a `q6_k` group, which shares a sub-scale.
pub(crate) const GROUP_COLS: usize = 16;
/// Bytes of a `q6_k` group.
pub(crate) const GROUP_BYTES: usize = PANEL_ROWS + 2 * CHUNK_BYTES;
/// Bytes of 8 columns of a group.
pub(crate) const CHUNK_BYTES: usize = 192;
/// Bytes of a `q6_k` block of a panel.
pub(crate) const Q6_K_BYTES: usize = SCALE_BYTES + Q6_K_COLS / GROUP_COLS * GROUP_BYTES;
/// Bytes of the f16 scales at the head of a block.
pub(crate) const SCALE_BYTES: usize = 2 * PANEL_ROWS;

/// Codes of a group, signed, column after column of 32 rows; aligned for whole vectors.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Codes(pub(crate) [i8; GROUP_COLS * PANEL_ROWS]);

impl Format {
    /// Columns of a block, its bytes in a panel, and those of a row of ggml's block, of a block format.
    pub(crate) fn block(self) -> Option<(usize, usize, usize)> {
        match self {
            Format::Q8_0 => Some((Q8_0_COLS, Q8_0_BYTES, 34)),
            Format::Q6K => Some((Q6_K_COLS, Q6_K_BYTES, 210)),
            _ => None,
        }
    }
}

/// Packs `rows` rows of `cols` columns into `out` (zeroed). `fill` writes the given rows as ggml's blocks,
/// one behind the other; it is called from several threads.
///
/// # Errors
/// The first error of `fill`.
///
/// # Panics
/// If the format has no blocks or `cols` is no whole number of them.
pub(crate) fn pack<E: Send>(
    format: Format,
    out: &mut [u8],
    rows: usize,
    cols: usize,
    fill: impl Fn(Range<usize>, &mut [u8]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let (block_cols, block_bytes, row_bytes) = format.block().expect("a format of blocks");
    assert!(cols % block_cols == 0, "{cols} columns are no whole number of {block_cols}");
    let blocks = cols / block_cols;
    let panels = out.par_chunks_mut((blocks * block_bytes).max(1));
    pack_panels(panels, rows, blocks * row_bytes, fill, |panel, row, bytes: &[u8]| {
        for (block, bytes) in panel.chunks_exact_mut(block_bytes).zip(bytes.chunks_exact(row_bytes)) {
            match format {
                Format::Q8_0 => pack_q8_0(bytes, row, block),
                _ => pack_q6_k(bytes, row, block),
            }
        }
    })
}

fn pack_q8_0(bytes: &[u8], row: usize, block: &mut [u8]) {
    let (scale, codes) = bytes.split_at(2);
    block[2 * row..][..2].copy_from_slice(scale);
    for (column, code) in block[SCALE_BYTES..].chunks_exact_mut(PANEL_ROWS).zip(codes) {
        column[row] = *code;
    }
}

fn pack_q6_k(bytes: &[u8], row: usize, block: &mut [u8]) {
    let (low, rest) = bytes.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (sub_scales, scale) = rest.split_at(16);
    let (scales, groups) = block.split_at_mut(SCALE_BYTES);
    scales[2 * row..][..2].copy_from_slice(scale);
    for (g, (group, sub_scale)) in groups.chunks_exact_mut(GROUP_BYTES).zip(sub_scales).enumerate() {
        group[row] = *sub_scale;
        for (c, chunk) in group[PANEL_ROWS..].chunks_exact_mut(CHUNK_BYTES).enumerate() {
            for i in 0..8 {
                // ggml's order: two halves of 128 weights, in each four runs of 32.
                let at = GROUP_COLS * g + 8 * c + i;
                let (half, run, l) = (at / 128, at % 128 / 32, at % 32);
                let low = low[64 * half + 32 * (run % 2) + l] >> (4 * (run / 2)) & 0xf;
                let high = high[32 * half + l] >> (2 * run) & 3;
                let (pair, lane) = (i / 2, i % 2 * PANEL_ROWS + row);
                chunk[pair / 2 * 64 + lane] |= low << (4 * (pair % 2));
                chunk[128 + lane] |= high << (2 * pair);
            }
        }
    }
}

/// The scale of row `row` in a block.
pub(crate) fn scale(block: &[u8], row: usize) -> f32 {
    f16::from_le_bytes([block[2 * row], block[2 * row + 1]]).to_f32()
}

/// The codes of a `q6_k` group.
#[inline(always)]
pub(crate) fn unpack_group(group: &[u8], codes: &mut Codes) {
    let chunks = group[PANEL_ROWS..].chunks_exact(CHUNK_BYTES);
    for (chunk, codes) in chunks.zip(codes.0.chunks_exact_mut(8 * PANEL_ROWS)) {
        for (pair, codes) in codes.chunks_exact_mut(64).enumerate() {
            let (low, high) = (&chunk[pair / 2 * 64..][..64], &chunk[128..][..64]);
            for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
                let low = low >> (4 * (pair % 2)) & 0xf;
                *code = (low | (high >> (2 * pair) & 3) << 4) as i8 - 32;
            }
        }
    }
}

/// Whole blocks of a panel as weights, column after column of 32 rows.
#[inline(always)]
pub(crate) fn dequantize(format: Format, blocks: &[u8], out: &mut [f32]) {
    let Some((cols, bytes, _)) = format.block() else { return };
    let mut codes = Codes([0; GROUP_COLS * PANEL_ROWS]);
    for (block, out) in blocks.chunks_exact(bytes).zip(out.chunks_exact_mut(cols * PANEL_ROWS)) {
        let scales: [f32; PANEL_ROWS] = std::array::from_fn(|row| scale(block, row));
        let columns = |scales: &[f32; PANEL_ROWS], codes: &[i8], out: &mut [f32]| {
            for (codes, out) in codes.chunks_exact(PANEL_ROWS).zip(out.chunks_exact_mut(PANEL_ROWS)) {
                for ((out, code), scale) in out.iter_mut().zip(codes).zip(scales) {
                    *out = scale * f32::from(*code);
                }
            }
        };
        if format == Format::Q8_0 {
            columns(&scales, bytemuck::cast_slice(&block[SCALE_BYTES..]), out);
            continue;
        }
        let groups = block[SCALE_BYTES..].chunks_exact(GROUP_BYTES);
        for (group, out) in groups.zip(out.chunks_exact_mut(GROUP_COLS * PANEL_ROWS)) {
            unpack_group(group, &mut codes);
            let scales = std::array::from_fn(|row| scales[row] * f32::from(group[row] as i8));
            columns(&scales, &codes.0, out);
        }
    }
}

/// Row `row` of a packed matrix of `cols` columns: what an embedding lookup needs.
pub(crate) fn unpack_row(format: Format, data: &[u8], cols: usize, row: usize, out: &mut [f32]) {
    let Some((block_cols, bytes, _)) = format.block() else { return };
    let panel = &data[row / PANEL_ROWS * (cols / block_cols * bytes)..];
    let row = row % PANEL_ROWS;
    for (block, out) in panel.chunks_exact(bytes).zip(out.chunks_exact_mut(block_cols)) {
        let scale = scale(block, row);
        if format == Format::Q8_0 {
            for (c, out) in out.iter_mut().enumerate() {
                *out = scale * f32::from(block[SCALE_BYTES + PANEL_ROWS * c + row] as i8);
            }
            continue;
        }
        for (c, out) in out.iter_mut().enumerate() {
            let group = &block[SCALE_BYTES + c / GROUP_COLS * GROUP_BYTES..];
            let chunk = &group[PANEL_ROWS + c % GROUP_COLS / 8 * CHUNK_BYTES..];
            let (pair, lane) = (c % 8 / 2, c % 2 * PANEL_ROWS + row);
            let low = chunk[pair / 2 * 64 + lane] >> (4 * (pair % 2)) & 0xf;
            let code = (low | (chunk[128 + lane] >> (2 * pair) & 3) << 4) as i8 - 32;
            *out = scale * f32::from(group[row] as i8) * f32::from(code);
        }
    }
}
