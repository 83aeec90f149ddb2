//! Plain Rust: the specification of every kernel, and the naive baseline.

pub(crate) mod blocks;

use crate::format::float_panels::Element;
use crate::format::tables::{self, Kind};
use crate::format::{Format, base3, i2_s, tq1_0, tq2_0};
use crate::matrix::Share;
use crate::{Isa, PANEL_ROWS, TokenInput};

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

/// The codes (trit + 1) of the one panel of `share`, one a byte: for each four columns the 32 rows' four
/// codes. The bytes are those that `isa` was packed for.
#[inline(always)]
pub(crate) fn unpack(isa: Isa, share: &Share<'_>, codes: &mut [u8]) {
    let by_table = isa.base3_by_table();
    let fours = |panel: &[u8], codes: &mut [u8]| {
        let codes = codes.chunks_exact_mut(4 * i2_s::STEP_BYTES);
        panel.chunks_exact(i2_s::STEP_BYTES).zip(codes).for_each(|(s, c)| i2_s::unpack_step(s, c));
    };
    let fives = |panel: &[u8], codes: &mut [u8]| {
        let codes = codes.chunks_exact_mut(5 * base3::STEP_BYTES);
        let steps = panel.chunks_exact(base3::STEP_BYTES);
        steps.zip(codes).for_each(|(s, c)| base3::unpack_step(by_table, s, c));
    };
    if let Some(kind) = Kind::of(share.format) {
        for (chunk, panel) in share.chunks(kind) {
            let codes = &mut codes[chunk.col * PANEL_ROWS..][..chunk.cols * PANEL_ROWS];
            tables::unpack_chunk(chunk, isa.word_tables(), panel, codes);
        }
        return;
    }
    let Some(panel) = share.whole_panels().next() else { return };
    let blocks = codes.chunks_exact_mut(tq2_0::BLOCK_COLS * PANEL_ROWS);
    match share.format {
        Format::Tq1_0 => {
            for (block, codes) in panel.chunks_exact(tq1_0::BLOCK_BYTES).zip(blocks) {
                let (first, last) = codes.split_at_mut(tq1_0::BASE3_COLS * PANEL_ROWS);
                fives(&block[..tq1_0::BASE3_BYTES], first);
                fours(&block[tq1_0::BASE3_BYTES..tq1_0::CODE_BYTES], last);
            }
        }
        Format::Tq2_0 => {
            for (block, codes) in panel.chunks_exact(tq2_0::BLOCK_BYTES).zip(blocks) {
                fours(&block[..tq2_0::CODE_BYTES], codes);
            }
        }
        Format::Base3 => fives(panel, codes),
        _ => fours(panel, codes),
    }
}

/// One panel, as codes, times one input: the sums of `q * trit`.
pub(crate) fn gemv(share: &Share<'_>, codes: &[u8], input: &TokenInput, out: &mut [f32]) {
    if share.format == Format::Tl2Lossy {
        return lossy_gemv(share, codes, input, out);
    }
    let mut sums = [0i32; PANEL_ROWS];
    for (codes, q) in codes.chunks_exact(4 * PANEL_ROWS).zip(input.q.chunks_exact(4)) {
        for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(4)) {
            for (code, q) in codes.iter().zip(q) {
                *sum += i32::from(*code) * i32::from(*q);
            }
        }
    }
    finish_sums(&sums, input.q_sum, share.scale, input, out);
}

/// The sums of `tl2-lossy`: those of the columns of each table, rounded.
fn lossy_gemv(share: &Share<'_>, codes: &[u8], input: &TokenInput, out: &mut [f32]) {
    for (row, out) in out.iter_mut().enumerate() {
        let term = |col: usize| {
            let code = codes[4 * (col / 4 * PANEL_ROWS + row) + col % 4];
            (i32::from(code) - 1) * i32::from(input.q[col])
        };
        let mut sum = 0;
        for (chunk, _) in share.chunks(Kind::Three) {
            let columns = chunk.col..chunk.col + chunk.cols;
            match chunk.kind {
                Kind::Three => {
                    for half in columns.step_by(24) {
                        for c in half..half + 8 {
                            sum += tables::lossy(term(c) + term(c + 8) + term(c + 16));
                        }
                    }
                }
                Kind::Two => {
                    for four in columns.step_by(4) {
                        for c in four..four + 2 {
                            sum += tables::lossy(term(c) + term(c + 2));
                        }
                    }
                }
            }
        }
        finish_sums(&[sum * tables::LOSSY_STEP], 0, share.scale, input, std::slice::from_mut(out));
    }
}

/// From sums to outputs: subtracts `offset` (the sum of `q` where the sums are those of codes, trits + 1)
/// and scales. Every instruction set computes exactly this, so that ternary results agree bit for bit.
#[inline(always)]
pub(crate) fn finish_sums(sums: &[i32], offset: i32, scale: f32, input: &TokenInput, out: &mut [f32]) {
    let factor = input.q_step * scale;
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = (sum - offset) as f32 * factor;
    }
}
