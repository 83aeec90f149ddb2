//! One token's input to a linear layer, in the forms that the kernels want.

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
    /// The quantized values, zero-padded alike.
    pub(crate) q: Vec<i8>,
    /// What one step of `q` stands for: `max|x| / 127`.
    pub(crate) q_step: f32,
    /// Sum of `q`.
    pub(crate) q_sum: i32,
}

impl TokenInput {
    /// An input of capacity `max_cols` columns; using it for at most so many never allocates.
    pub fn new(max_cols: usize) -> Self {
        let len = max_cols.next_multiple_of(COLUMN_STEP);
        TokenInput { x: Vec::with_capacity(len), q: Vec::with_capacity(len), q_step: 0.0, q_sum: 0 }
    }

    /// Room for `cols` values, to be overwritten by the caller; the padding behind them is zero.
    pub fn values_mut(&mut self, cols: usize) -> &mut [f32] {
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
        self.q.resize(self.x.len(), 0);
        let (step, sum) = vector::quantize(isa, &self.x, &mut self.q);
        self.q_step = step;
        self.q_sum = sum;
    }

    /// The quantized values and their padding, and what one step stands for.
    pub fn quantized(&self) -> (&[i8], f32) {
        (&self.q, self.q_step)
    }
}
