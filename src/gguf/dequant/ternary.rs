//! llama.cpp's ternary blocks, TQ1_0 and TQ2_0: 256 trits with one f16 scale.
//!
//! Layouts as in ggml's `ggml-common.h` (`block_tq1_0`, `block_tq2_0`) and gguf-py's `quants.py`.

use super::{Codes, bad_code, block_scale};
use crate::error::Result;

/// 54 bytes for 256 weights: 48 bytes of five trits, 4 bytes of four, an f16 scale.
///
/// A byte b holds its trits (plus one) as the digits of the ternary fraction b/256. So digit n is what
/// carries over when 3ⁿ·b, modulo 256, is multiplied by 3. Bytes 0..32 hold weights 0..160, bytes 32..48
/// weights 160..240, and the last four weights 240..256; in each group of g bytes, digit n of byte m is
/// the group's weight g·n + m.
pub(super) fn tq1_0(codes: Codes<'_>, out: &mut [f32]) -> Result<()> {
    let blocks = codes.bytes.as_chunks::<54>().0;
    for (i, (block, out)) in blocks.iter().zip(out.as_chunks_mut::<256>().0).enumerate() {
        let (trits, scale) = block.split_at(52);
        let scale = block_scale([scale[0], scale[1]], codes.start + 54 * i + 52)?;
        let (first, rest) = out.split_at_mut(160);
        let (second, third) = rest.split_at_mut(80);
        for (bytes, out) in [(&trits[..32], first), (&trits[32..48], second), (&trits[48..], third)] {
            for (out, power) in out.chunks_exact_mut(bytes.len()).zip([1u8, 3, 9, 27, 81]) {
                for (out, byte) in out.iter_mut().zip(bytes) {
                    let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                    *out = scale * (f32::from(digit) - 1.0);
                }
            }
        }
    }
    Ok(())
}

/// 66 bytes for 256 weights: 64 bytes of four trits, an f16 scale. Each half of a block (128 weights)
/// has 32 bytes; bits 2n and 2n+1 of byte m hold its weight 32·n + m, plus one.
pub(super) fn tq2_0(codes: Codes<'_>, out: &mut [f32]) -> Result<()> {
    let blocks = codes.bytes.as_chunks::<66>().0;
    for (i, (block, out)) in blocks.iter().zip(out.as_chunks_mut::<256>().0).enumerate() {
        let start = codes.start + 66 * i;
        let (trits, scale) = block.split_at(64);
        let scale = block_scale([scale[0], scale[1]], start + 64)?;
        if let Some(bad) = trits.iter().position(|byte| has_code_3(*byte)) {
            return Err(bad_code(trits[bad], start + bad));
        }
        for (bytes, out) in trits.chunks_exact(32).zip(out.chunks_exact_mut(128)) {
            for (n, out) in out.chunks_exact_mut(32).enumerate() {
                for (out, byte) in out.iter_mut().zip(bytes) {
                    *out = scale * (f32::from(byte >> (2 * n) & 3) - 1.0);
                }
            }
        }
    }
    Ok(())
}

/// Whether one of the four 2-bit codes in `byte` is 3.
pub(super) fn has_code_3(byte: u8) -> bool {
    byte & byte >> 1 & 0b0101_0101 != 0
}
