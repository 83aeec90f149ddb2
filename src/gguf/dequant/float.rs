//! The types that are floating-point already: widened, never judged.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Little-endian f32. `bytes` and `out` hold the same number of weights, here and below.
pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

/// Little-endian f16.
pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    // In pieces, because `half` asks the processor for its instructions once for each call.
    const PIECE: usize = 256;
    let mut halves = [f16::ZERO; PIECE];
    for (out, bytes) in out.chunks_mut(PIECE).zip(bytes.chunks(2 * PIECE)) {
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        let n = out.len();
        halves[..n].convert_to_f32_slice(out);
    }
}

/// Little-endian bf16: the upper half of an f32.
pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    for (out, [low, high]) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_le_bytes([0, 0, *low, *high]);
    }
}
