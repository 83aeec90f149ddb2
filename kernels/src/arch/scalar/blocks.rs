//! Products of the block formats in plain Rust: the specification of the others.

use crate::format::Format;
use crate::format::blocks::{
    self, Codes, GROUP_BYTES, GROUP_COLS, Q6_K_BYTES, Q6_K_COLS, Q8_0_BYTES, Q8_0_COLS, SCALE_BYTES,
};
use crate::{PANEL_ROWS, TokenInput};

/// One panel times all inputs: codes times activations are summed for each scale, the sums multiplied by it.
pub(crate) fn panel(format: Format, panel: &[u8], inputs: &[TokenInput], out: &mut [f32]) {
    for (input, out) in inputs.iter().zip(out.chunks_exact_mut(PANEL_ROWS)) {
        out.fill(0.0);
        match format {
            Format::Q8_0 => {
                for (block, x) in panel.chunks_exact(Q8_0_BYTES).zip(input.x.chunks_exact(Q8_0_COLS)) {
                    let sums = columns(bytemuck::cast_slice(&block[SCALE_BYTES..]), x);
                    for (row, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                        *out += blocks::scale(block, row) * sum;
                    }
                }
            }
            _ => {
                let mut codes = Codes([0; GROUP_COLS * PANEL_ROWS]);
                for (block, x) in panel.chunks_exact(Q6_K_BYTES).zip(input.x.chunks_exact(Q6_K_COLS)) {
                    let mut totals = [0f32; PANEL_ROWS];
                    let groups = block[SCALE_BYTES..].chunks_exact(GROUP_BYTES);
                    for (group, x) in groups.zip(x.chunks_exact(GROUP_COLS)) {
                        blocks::unpack_group(group, &mut codes);
                        let sums = columns(&codes.0, x);
                        for ((total, sum), sub_scale) in totals.iter_mut().zip(sums).zip(group) {
                            *total += f32::from(*sub_scale as i8) * sum;
                        }
                    }
                    for (row, (out, total)) in out.iter_mut().zip(totals).enumerate() {
                        *out += blocks::scale(block, row) * total;
                    }
                }
            }
        }
    }
}

/// The sums of `code * x` of 32 rows.
fn columns(codes: &[i8], x: &[f32]) -> [f32; PANEL_ROWS] {
    let mut sums = [0f32; PANEL_ROWS];
    for (codes, x) in codes.chunks_exact(PANEL_ROWS).zip(x) {
        for (sum, code) in sums.iter_mut().zip(codes) {
            *sum += f32::from(*code) * x;
        }
    }
    sums
}
