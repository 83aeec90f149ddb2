//! One token's input to a linear layer, in the forms that the kernels want.

use crate::format::Format;
use crate::format::tables::{self, Kind, Line, Table};
use crate::format::tq2_0::BLOCK_COLS;
use crate::{Isa, vector};

/// Columns are padded with zeros to a multiple of this, so that kernels need no column tails.
pub(crate) const COLUMN_STEP: usize = 16;

/// The input vector of a linear layer for one token: f32, and quantized to int8 where a ternary
/// kernel asked for it.
///
/// Quantization per token as in BitNet b1.58 (W1.58A8): `q = round(x * 127 / max|x|)`, halves to
/// even, with the maximum taken as at least 1e-5.
#[derive(Debug, Clone, Default)]
pub struct TokenInput {
    /// The values, zero-padded to a multiple of 16.
    pub(crate) x: Vec<f32>,
    /// The quantized values, zero-padded alike, and [`SLACK`] more zeros.
    pub(crate) q: Vec<i8>,
    /// What one step of `q` stands for: `max|x| / 127`.
    pub(crate) q_step: f32,
    /// Sum of `q`.
    pub(crate) q_sum: i32,
    /// Sums of each 256 values of `q`.
    pub(crate) block_sums: Vec<i32>,
    /// What the table formats look up; empty if nothing was tabulated since the last change.
    tables: Vec<Line>,
    /// The format that the tables are for.
    pub(crate) tables_of: Option<Format>,
}

/// Zeros behind the quantized values, so that a kernel may read them in whole blocks of its format.
pub(crate) const SLACK: usize = 256;

impl TokenInput {
    /// An input of capacity `max_cols` columns; using it for at most so many never allocates.
    pub fn new(max_cols: usize) -> Self {
        let len = max_cols.next_multiple_of(COLUMN_STEP);
        TokenInput {
            x: Vec::with_capacity(len),
            q: Vec::with_capacity(len + SLACK),
            block_sums: Vec::with_capacity(len.div_ceil(BLOCK_COLS)),
            ..TokenInput::default()
        }
    }

    /// Memory in bytes that an input of capacity `max_cols` columns takes, without tables.
    pub fn memory_bytes(max_cols: usize) -> usize {
        let len = max_cols.next_multiple_of(COLUMN_STEP);
        len * size_of::<f32>() + len + SLACK + len.div_ceil(BLOCK_COLS) * size_of::<i32>()
    }

    /// Memory in bytes of the tables that [`reserve_tables`](Self::reserve_tables) makes room for.
    pub fn table_bytes(isa: Isa, format: Format, max_cols: usize) -> usize {
        let tables = Kind::of(format).map_or(0, |kind| tables::count(kind, isa.word_tables(), max_cols));
        tables * size_of::<Table>()
    }

    /// Room for `cols` values, to be overwritten by the caller; the padding behind them is zero.
    pub fn values_mut(&mut self, cols: usize) -> &mut [f32] {
        self.tables_of = None;
        self.x.clear();
        self.x.resize(cols.next_multiple_of(COLUMN_STEP), 0.0);
        &mut self.x[..cols]
    }

    /// The values and their padding.
    pub fn values(&self) -> &[f32] {
        &self.x
    }

    /// Quantizes the values for ternary kernels.
    pub fn quantize(&mut self, isa: Isa) {
        let len = self.x.len();
        self.tables_of = None;
        self.q.resize(len + SLACK, 0);
        self.q[len..].fill(0);
        let (step, sum) = vector::quantize(isa, &self.x, &mut self.q[..len]);
        self.q_step = step;
        self.q_sum = sum;
        self.block_sums.clear();
        let blocks = self.q[..len].chunks(BLOCK_COLS);
        self.block_sums.extend(blocks.map(|b| b.iter().map(|&q| i32::from(q)).sum::<i32>()));
    }

    /// Room for the tables of `format`, so that tabulating at most `max_cols` columns does not allocate.
    pub fn reserve_tables(&mut self, isa: Isa, format: Format, max_cols: usize) {
        if let Some(kind) = Kind::of(format) {
            self.tables.reserve_exact(tables::count(kind, isa.word_tables(), max_cols) / Line::TABLES);
        }
    }

    /// Makes the tables that a product of one token with a matrix of `format` looks up, of the quantized
    /// values of its `cols` columns. See
    /// [`reserve_tables`](Self::reserve_tables).
    ///
    /// # Panics
    /// If the values have not been quantized.
    pub fn tabulate(&mut self, isa: Isa, format: Format, cols: usize) {
        let Some(kind) = Kind::of(format) else { return };
        assert_eq!(self.q.len(), self.x.len() + SLACK, "the values are quantized");
        let words = isa.word_tables();
        self.tables.resize(tables::count(kind, words, cols) / Line::TABLES, Line::default());
        let lossless = format.is_exact();
        let tables = bytemuck::cast_slice_mut(&mut self.tables);
        tables::tabulate(isa, kind, words, lossless, cols, &self.q, tables);
        self.tables_of = Some(format);
    }

    /// The tables. The first is at the beginning of a cache line.
    pub(crate) fn tables(&self) -> &[Table] {
        bytemuck::cast_slice(&self.tables)
    }

    /// The quantized values and their padding, and what one step stands for.
    pub fn quantized(&self) -> (&[i8], f32) {
        (&self.q[..self.x.len()], self.q_step)
    }
}
