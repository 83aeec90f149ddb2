//! Plain Rust: the specification of every kernel, and the naive baseline.

use crate::format::float_panels::Element;
use crate::format::i2_s::STEP_BYTES;
use crate::input::COLUMN_STEP;
use crate::{PANEL_ROWS, TokenInput};

/// `fp32-naive`: one multiply and one add after the other, row by row. Floating-point addition is
/// not associative, so the compiler keeps the order, and the loop runs at the latency of an
/// addition: that is what makes it the naive baseline, and nothing here may hide it.
pub(crate) fn naive_rows(panel: &[f32], scale: f32, inputs: &[TokenInput], out: &mut [f32]) {
    for (input, out) in inputs.iter().zip(out.chunks_exact_mut(PANEL_ROWS)) {
        for (row, out) in panel.chunks_exact(input.x.len()).zip(out) {
            let mut sum = 0.0;
            for (w, x) in row.iter().zip(&input.x) {
                sum += w * x;
            }
            *out = sum * scale;
        }
    }
}

/// Float panels: 32 sums side by side, column by column.
pub(crate) fn float_panel<T: Element>(panel: &[T], scale: f32, inputs: &[TokenInput], out: &mut [f32]) {
    for (input, out) in inputs.iter().zip(out.chunks_exact_mut(PANEL_ROWS)) {
        let mut sums = [0.0; PANEL_ROWS];
        for (column, x) in panel.chunks_exact(PANEL_ROWS).zip(&input.x) {
            for (sum, w) in sums.iter_mut().zip(column) {
                *sum += w.to_f32() * x;
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum * scale;
        }
    }
}

/// `i2_s`: exact integer sums of `q * (code - 1)`.
pub(crate) fn i2_s(panel: &[u8], scale: f32, inputs: &[TokenInput], out: &mut [f32]) {
    for (input, out) in inputs.iter().zip(out.chunks_exact_mut(PANEL_ROWS)) {
        let mut sums = [0i32; PANEL_ROWS];
        for (step, q) in panel.chunks_exact(STEP_BYTES).zip(input.q.chunks_exact(COLUMN_STEP)) {
            for plane in 0..4 {
                for (sum, bytes) in sums.iter_mut().zip(step.chunks_exact(4)) {
                    for j in 0..4 {
                        let code = i32::from(bytes[j] >> (2 * plane) & 3);
                        *sum += code * i32::from(q[4 * plane + j]);
                    }
                }
            }
        }
        finish_sums(&sums, scale, input, out);
    }
}

/// From sums of `q * code` to outputs: subtracts the sum of `q` (codes are trits + 1) and scales.
/// Every instruction set computes exactly this, so that ternary results agree bit for bit.
#[inline(always)]
pub(crate) fn finish_sums(sums: &[i32], scale: f32, input: &TokenInput, out: &mut [f32]) {
    let factor = input.q_step * scale;
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = (sum - input.q_sum) as f32 * factor;
    }
}
