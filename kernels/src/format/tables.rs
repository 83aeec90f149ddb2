//! What the table formats [`tl1`] and [`tl2`] share: chunks of columns, and the tables of an input.
//!
//! The tables of a whole row do not fit into a first-level cache, and fetching them again for each panel
//! would compete with the stream of weights. So a matrix is cut into chunks of [`CHUNK_COLS`] columns, whose
//! tables (2 to 6 KiB) stay in the cache while the chunk's panels pass by; and 16-bit lanes can hold the
//! sums of a chunk whatever the activations are:
//!
//! ```text
//! chunk 0: panel 0, panel 1, ..., panel n    chunk 1: panel 0, panel 1, ..., panel n    ...
//! ```

use super::{Format, tl1, tl2};
use crate::isa::Level;
use crate::vector::for_each_isa;
use crate::{Isa, PANEL_ROWS};

/// Columns of a chunk. A 16-bit lane sums at most 192 * 128 = 24,576 in magnitude.
pub(crate) const CHUNK_COLS: usize = 4 * tl2::BLOCK_COLS;

/// Columns that a table stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// [`tl1`]
    Two,
    /// [`tl2`]
    Three,
}

impl Kind {
    /// The kind of a table format.
    pub(crate) fn of(format: Format) -> Option<Kind> {
        match format {
            Format::Tl1 => Some(Kind::Two),
            Format::Tl2 | Format::Tl2Lossy => Some(Kind::Three),
            _ => None,
        }
    }
}

/// Columns of a matrix that are stored together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    pub(crate) kind: Kind,
    /// First column.
    pub(crate) col: usize,
    /// Columns, padded to whole steps or blocks.
    pub(crate) cols: usize,
    /// Bytes of a panel.
    pub(crate) bytes: usize,
    /// Bytes of a panel in the chunks before.
    pub(crate) start: usize,
    /// Number of the first table.
    pub(crate) table: usize,
}

/// The chunks of a matrix in the form `kind`.
pub(crate) fn chunks(kind: Kind, words: bool, cols: usize) -> impl Iterator<Item = Chunk> + Clone {
    let three = if kind == Kind::Three { cols - cols % tl2::BLOCK_COLS } else { 0 };
    let (mut col, mut start, mut table) = (0, 0, 0);
    std::iter::from_fn(move || {
        let end = if col < three { three } else { cols };
        if col >= end {
            return None;
        }
        let width = (end - col).min(CHUNK_COLS);
        let chunk = if col < three {
            let bytes = width / tl2::BLOCK_COLS * tl2::BLOCK_BYTES;
            Chunk { kind: Kind::Three, col, cols: width, bytes, start, table }
        } else {
            let steps = width.div_ceil(tl1::STEP_COLS);
            let (cols, bytes) = (steps * tl1::STEP_COLS, steps * tl1::STEP_BYTES);
            Chunk { kind: Kind::Two, col, cols, bytes, start, table }
        };
        col += chunk.cols;
        start += chunk.bytes;
        table += chunk.tables(words);
        Some(chunk)
    })
}

impl Chunk {
    /// Tables of 16 entries that the chunk takes. One for 16-bit lanes counts as two: it has 32 entries, of
    /// two columns the same 16 twice.
    fn tables(self, words: bool) -> usize {
        let columns = match self.kind {
            Kind::Two => 2,
            Kind::Three => 3,
        };
        self.cols / columns * if words { 2 } else { 1 }
    }
}

/// Packs a panel, chunk after chunk.
pub(super) fn pack_panel(kind: Kind, words: bool, cols: usize, trits: &[i8], out: &mut [u8]) {
    let stride = trits.len() / PANEL_ROWS;
    for chunk in chunks(kind, words, cols) {
        let out = &mut out[chunk.start..][..chunk.bytes];
        match chunk.kind {
            Kind::Two => {
                for (i, out) in out.chunks_exact_mut(tl1::STEP_BYTES).enumerate() {
                    tl1::pack_step(words, trits, stride, chunk.col + i * tl1::STEP_COLS, out);
                }
            }
            Kind::Three => {
                for (i, out) in out.chunks_exact_mut(tl2::BLOCK_BYTES).enumerate() {
                    tl2::pack_block(words, trits, stride, chunk.col + i * tl2::BLOCK_COLS, out);
                }
            }
        }
    }
}

/// The codes of a panel's chunk, one a byte: for each four columns the 32 rows' four codes.
#[inline(always)]
pub(crate) fn unpack_chunk(chunk: Chunk, words: bool, panel: &[u8], codes: &mut [u8]) {
    match chunk.kind {
        Kind::Two => {
            let codes = codes.chunks_exact_mut(tl1::STEP_COLS * PANEL_ROWS);
            for (step, codes) in panel.chunks_exact(tl1::STEP_BYTES).zip(codes) {
                tl1::unpack_step(words, step, codes);
            }
        }
        Kind::Three => {
            let codes = codes.chunks_exact_mut(tl2::BLOCK_COLS * PANEL_ROWS);
            for (block, codes) in panel.chunks_exact(tl2::BLOCK_BYTES).zip(codes) {
                tl2::unpack_block(words, block, codes);
            }
        }
    }
}

/// Sixteen entries of a table. A table for 16-bit lanes holds sums; one for bytes holds their low bytes,
/// then their high bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(32))]
pub(crate) struct Table(pub(crate) [i16; 16]);

/// Two tables as they are stored, on a cache line of their own: a table of 64 bytes that begins in the middle
/// of a line would take two accesses.
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([Table; Line::TABLES]);

impl Line {
    /// Tables on a line; every chunk has a multiple of it.
    pub(crate) const TABLES: usize = 2;
}

/// What one unit of an 8-bit table entry stands for: three activations of up to 127 fit.
pub(crate) const LOSSY_STEP: i32 = 3;

/// An entry as 8 bits hold it: the nearest multiple of [`LOSSY_STEP`], in its units.
#[inline(always)]
pub(crate) fn lossy(entry: i32) -> i32 {
    ((entry.abs() + 1) / LOSSY_STEP * entry.signum()).clamp(-127, 127)
}

/// The trits of each index of a table, `[column][index]`, as factors of the columns' activations.
const TWO: [[i16; 16]; 2] = {
    let mut all = [[0; 16]; 2];
    let mut i = 0;
    while i < 9 {
        all[0][i] = i as i16 / 3 - 1;
        all[1][i] = i as i16 % 3 - 1;
        i += 1;
    }
    all
};
const THREE: [[i16; 32]; 3] = {
    let mut all = [[0; 32]; 3];
    let mut i = 0;
    while i < 32 {
        let t = tl2::trits_of(i as u8);
        (all[0][i], all[1][i], all[2][i]) = (t[0] as i16, t[1] as i16, t[2] as i16);
        i += 1;
    }
    all
};

/// Number of tables of an input.
pub(crate) fn count(kind: Kind, words: bool, cols: usize) -> usize {
    chunks(kind, words, cols).map(|chunk| chunk.tables(words)).sum()
}

for_each_isa! {
    /// Makes all tables of an input: `q` holds the quantized activations, zero beyond the last column.
    ///
    /// # Panics
    /// If `out` has not as many as [`count`] says.
    pub(crate) fn tabulate(kind: Kind, words: bool, lossless: bool, cols: usize, q: &[i8], out: &mut [Table])
        = tabulate_body
}

#[inline(always)]
fn tabulate_body(kind: Kind, words: bool, lossless: bool, cols: usize, q: &[i8], out: &mut [Table]) {
    // Hidden from the compiler, which otherwise replaces the multiplications by trits that it knows with
    // shuffles and selections, several times slower.
    let (two, three) = std::hint::black_box((&TWO, &THREE));
    let mut rest = out;
    for chunk in chunks(kind, words, cols) {
        let q = &q[chunk.col..][..chunk.cols];
        let (out, later) = rest.split_at_mut(chunk.tables(words));
        rest = later;
        match chunk.kind {
            Kind::Two if words => {
                for (q, out) in q.chunks_exact(4).zip(out.chunks_exact_mut(4)) {
                    for (i, out) in out.chunks_exact_mut(2).enumerate() {
                        out.fill(Table(sums([q[i], q[i + 2]], two, lossless)));
                    }
                }
            }
            Kind::Two => {
                for (q, out) in q.chunks_exact(4).zip(out.chunks_exact_mut(2)) {
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = in_bytes(&sums([q[i], q[i + 2]], two, lossless));
                    }
                }
            }
            Kind::Three if words => {
                for (q, out) in q.chunks_exact(24).zip(out.chunks_exact_mut(16)) {
                    for (i, out) in out.chunks_exact_mut(2).enumerate() {
                        let entries = sums([q[i], q[i + 8], q[i + 16]], three, lossless);
                        out[0].0.copy_from_slice(&entries[..16]);
                        out[1].0.copy_from_slice(&entries[16..]);
                    }
                }
            }
            Kind::Three => {
                for (q, out) in q.chunks_exact(24).zip(out.chunks_exact_mut(8)) {
                    for (i, out) in out.iter_mut().enumerate() {
                        let entries = sums([q[i], q[i + 8], q[i + 16]], three, lossless);
                        *out = in_bytes(&entries);
                    }
                }
            }
        }
    }
}

/// The sums of N columns for all indices of a table. Written so that the compiler vectorises it.
#[inline(always)]
fn sums<const N: usize, const ENTRIES: usize>(
    q: [i8; N],
    trits: &[[i16; ENTRIES]; N],
    lossless: bool,
) -> [i16; ENTRIES] {
    let mut entries = [0i16; ENTRIES];
    for (q, trits) in q.into_iter().zip(trits) {
        for (entry, t) in entries.iter_mut().zip(trits) {
            *entry += i16::from(q) * t;
        }
    }
    if !lossless {
        entries.iter_mut().for_each(|e| *e = lossy(i32::from(*e)) as i16);
    }
    entries
}

/// The low bytes, then the high bytes, of the first sixteen entries.
#[inline(always)]
fn in_bytes(entries: &[i16]) -> Table {
    let mut bytes = [0u8; 32];
    let (low, high) = bytes.split_at_mut(16);
    for ((low, high), e) in low.iter_mut().zip(high).zip(entries) {
        (*low, *high) = (*e as u8, (*e >> 8) as u8);
    }
    Table(bytemuck::cast(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_column_once() {
        for cols in [1, 7, 8, 47, 48, 49, 191, 192, 193, 240, 1000, 1536, 4096] {
            for kind in [Kind::Two, Kind::Three] {
                let (mut col, mut start) = (0, 0);
                for chunk in chunks(kind, true, cols) {
                    assert_eq!((chunk.col, chunk.start), (col, start), "{cols}");
                    assert!(chunk.cols <= CHUNK_COLS);
                    for words in [false, true] {
                        assert_eq!(chunk.tables(words) % Line::TABLES, 0, "{cols}");
                    }
                    col += chunk.cols;
                    start += chunk.bytes;
                }
                assert!((cols..cols + tl1::STEP_COLS).contains(&col), "{col} of {cols}");
                let panel = if kind == Kind::Two { tl1::panel_len(cols) } else { tl2::panel_len(cols) };
                assert_eq!(start, panel, "{cols}");
            }
        }
    }

    #[test]
    fn lossy_entries_are_within_half_a_step() {
        for entry in -384..=384 {
            let error = (lossy(entry) * LOSSY_STEP - entry).abs();
            assert!(error <= if entry.abs() > 382 { 3 } else { 1 }, "{entry}: {error}");
        }
    }
}
