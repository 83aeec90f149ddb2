//! Storage formats of packed matrices: what the bytes mean, how to pack and to unpack them.
//!
//! All formats are cut into panels of [`crate::PANEL_ROWS`] rows. A matrix-vector product reads a
//! thread's share of the panels as one sequential stream of memory (a few, for the table formats, which
//! are cut into chunks of columns too). Missing rows of the last panel and columns up to a multiple of the
//! format's block are stored as zero weights.
//!
//! Two families of ternary formats are multiplied differently by instruction sets with lanes of different
//! widths, so their bytes are arranged for the instruction set that a matrix is packed for: [`tl1`] and
//! [`tl2`] for table lookups in bytes or in 16-bit words, [`base3`] for decoding by arithmetic or by
//! tables of bytes. The information and the size are the same.

pub mod base3;
pub mod blocks;
pub mod float_panels;
pub mod fp32_rows;
pub mod i2_s;
pub(crate) mod tables;
pub mod tl1;
pub mod tl2;
pub mod tq1_0;
pub mod tq2_0;

use half::f16;

use crate::{Isa, PANEL_ROWS};

/// Widest ternary matrix: keeps the scaled 32-bit sums of every kernel from overflowing. The largest term
/// is that of [`base3`]'s fifth digit, 168 * 128 for each five columns.
pub const MAX_TERNARY_COLS: usize = 1 << 18;

/// How the weights of a [`crate::Matrix`] are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// [`fp32_rows`]
    Fp32Rows,
    /// [`float_panels`] of f16
    F16Panels,
    /// [`float_panels`] of f32
    F32Panels,
    /// [`i2_s`]
    I2S,
    /// [`tl1`]
    Tl1,
    /// [`tl2`]
    Tl2,
    /// [`tl2`] with table entries rounded to 8 bits
    Tl2Lossy,
    /// [`tq1_0`]
    Tq1_0,
    /// [`tq2_0`]
    Tq2_0,
    /// [`base3`]
    Base3,
    /// [`blocks`] of 32 int8 with an f16 scale: for embeddings and output projections
    Q8_0,
    /// [`blocks`] of 256 six-bit codes, 16 sub-scales and an f16 scale: likewise
    Q6K,
}

impl Format {
    /// Every format of ternary weights.
    pub const TERNARY: [Format; 7] = [
        Format::I2S,
        Format::Tl1,
        Format::Tl2,
        Format::Tl2Lossy,
        Format::Tq1_0,
        Format::Tq2_0,
        Format::Base3,
    ];

    /// Whether the format holds ternary weights only, and is multiplied with quantized inputs.
    pub fn is_ternary(self) -> bool {
        Format::TERNARY.contains(&self)
    }

    /// Whether products look sums up in tables made of the input ([`crate::TokenInput::tabulate`]).
    pub fn needs_tables(self) -> bool {
        tables::Kind::of(self).is_some()
    }

    /// Whether products give exactly the sum of activation times trit.
    pub fn is_exact(self) -> bool {
        self.is_ternary() && self != Format::Tl2Lossy
    }

    /// Bytes that a packed matrix takes, padding included.
    pub fn packed_len(self, rows: usize, cols: usize) -> usize {
        match self {
            Format::Fp32Rows => fp32_rows::packed_len(rows, cols),
            Format::F16Panels => float_panels::packed_len::<f16>(rows, cols),
            Format::F32Panels => float_panels::packed_len::<f32>(rows, cols),
            _ => rows.div_ceil(PANEL_ROWS) * self.panel_len(cols),
        }
    }

    /// Bytes of one panel.
    pub(crate) fn panel_len(self, cols: usize) -> usize {
        match self {
            Format::I2S => i2_s::panel_len(cols),
            Format::Tl1 => tl1::panel_len(cols),
            Format::Tl2 | Format::Tl2Lossy => tl2::panel_len(cols),
            Format::Tq1_0 => tq1_0::panel_len(cols),
            Format::Tq2_0 => tq2_0::panel_len(cols),
            Format::Base3 => base3::panel_len(cols),
            Format::Q8_0 => cols / blocks::Q8_0_COLS * blocks::Q8_0_BYTES,
            Format::Q6K => cols / blocks::Q6_K_COLS * blocks::Q6_K_BYTES,
            _ => self.packed_len(PANEL_ROWS, cols),
        }
    }

    /// Bytes that a product of a matrix must read: its weights at the format's bits, without padding.
    pub fn payload_bytes(self, rows: usize, cols: usize) -> u64 {
        let (rows, cols) = (rows as u64, cols as u64);
        match self {
            Format::Fp32Rows | Format::F32Panels => rows * cols * 4,
            Format::F16Panels => rows * cols * 2,
            Format::I2S | Format::Tl1 => rows * cols / 4,
            Format::Tl2 | Format::Tl2Lossy => {
                let three = cols - cols % tl2::BLOCK_COLS as u64;
                rows * (three / 3 * 5 + (cols - three) * 2) / 8
            }
            Format::Tq1_0 => rows * cols * 54 / 256,
            Format::Tq2_0 => rows * cols * 66 / 256,
            Format::Base3 => rows * cols / 5,
            Format::Q8_0 => rows * cols * 34 / 32,
            Format::Q6K => rows * cols * 210 / 256,
        }
    }

    /// Columns with the padding that the format's blocks need.
    pub(crate) fn padded_cols(self, cols: usize) -> usize {
        match self {
            Format::Tl1 => cols.next_multiple_of(tl1::STEP_COLS),
            Format::Tl2 | Format::Tl2Lossy => {
                let three = cols - cols % tl2::BLOCK_COLS;
                three + (cols - three).next_multiple_of(tl1::STEP_COLS)
            }
            Format::Tq1_0 | Format::Tq2_0 => cols.next_multiple_of(tq2_0::BLOCK_COLS),
            Format::Base3 => cols.next_multiple_of(base3::STEP_COLS),
            _ => cols.next_multiple_of(crate::input::COLUMN_STEP),
        }
    }

    /// Packs one panel of a ternary matrix: `trits` holds 32 rows of [`Self::padded_cols`], `out` takes
    /// [`Self::panel_len`] bytes.
    pub(crate) fn pack_panel(self, isa: Isa, cols: usize, trits: &[i8], out: &mut [u8]) {
        match self {
            Format::I2S => i2_s::pack_panel(trits, out),
            Format::Tl1 => tl1::pack_panel(isa.word_tables(), cols, trits, out),
            Format::Tl2 | Format::Tl2Lossy => tl2::pack_panel(isa.word_tables(), cols, trits, out),
            Format::Tq1_0 => tq1_0::pack_panel(isa.base3_by_table(), trits, out),
            Format::Tq2_0 => tq2_0::pack_panel(trits, out),
            Format::Base3 => base3::pack_panel(isa.base3_by_table(), trits, out),
            _ => panic!("{self:?} does not hold trits"),
        }
    }
}

/// The rows of a panel's trits, each with its number.
pub(crate) fn rows_of(trits: &[i8]) -> impl Iterator<Item = (usize, &[i8])> {
    trits.chunks_exact(trits.len() / PANEL_ROWS).enumerate()
}
