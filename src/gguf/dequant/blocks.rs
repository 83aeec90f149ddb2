//! ggml's blocks of small integers: Q8_0 and Q6_K, in which embeddings and output layers are stored.
//!
//! Layouts as in ggml's `ggml-common.h` (`block_q8_0`, `block_q6_K`) and gguf-py's `quants.py`.

use super::{Codes, block_scale};
use crate::error::Result;

/// 34 bytes for 32 weights: an f16 scale, then 32 int8.
pub(super) fn q8_0(codes: Codes<'_>, out: &mut [f32]) -> Result<()> {
    let blocks = codes.bytes.as_chunks::<34>().0;
    for (i, ([d0, d1, quants @ ..], out)) in blocks.iter().zip(out.as_chunks_mut::<32>().0).enumerate() {
        let scale = block_scale([*d0, *d1], codes.start + 34 * i)?;
        for (out, quant) in out.iter_mut().zip(quants) {
            *out = scale * f32::from(*quant as i8);
        }
    }
    Ok(())
}

/// 210 bytes for 256 weights: 128 bytes with the low four bits of the 6-bit codes, 64 with the high two,
/// 16 int8 sub-scales (one for each 16 weights in order) and an f16 scale. A weight is
/// scale × sub-scale × (code − 32).
///
/// Each half of a block (128 weights) has 64 low bytes and 32 high bytes of its own. Within it, weight
/// 32·k + l (k 0..4, l 0..32) has its low bits in low byte 32·(k mod 2) + l, in the lower nibble for
/// k < 2, and its high bits in bits 2k and 2k+1 of high byte l.
pub(super) fn q6_k(codes: Codes<'_>, out: &mut [f32]) -> Result<()> {
    let blocks = codes.bytes.as_chunks::<210>().0;
    for (i, (block, out)) in blocks.iter().zip(out.as_chunks_mut::<256>().0).enumerate() {
        let (low, rest) = block.split_at(128);
        let (high, rest) = rest.split_at(64);
        let (sub_scales, scale) = rest.split_at(16);
        let scale = block_scale([scale[0], scale[1]], codes.start + 210 * i + 208)?;
        for (j, out) in out.iter_mut().enumerate() {
            let (half, k, l) = (j / 128, j % 128 / 32, j % 32);
            let low = low[64 * half + 32 * (k % 2) + l] >> (4 * (k / 2)) & 0xf;
            let high = high[32 * half + l] >> (2 * k) & 3;
            let code = (high << 4 | low) as i8 - 32;
            *out = scale * f32::from(sub_scales[j / 16] as i8) * f32::from(code);
        }
    }
    Ok(())
}
