//! TL1 and TL2: sums are looked up a byte at a time (`tbl`), the low and the high bytes of 16 rows in two
//! tables of 16 entries, and put together to 16 bits.

use std::arch::aarch64::*;

use crate::arch::scalar::finish_sums;
use crate::format::tables::{Kind, LOSSY_STEP, Table};
use crate::format::{Format, tl1, tl2};
use crate::matrix::Share;
use crate::{PANEL_ROWS, TokenInput};

/// Sums of 16 bits, eight rows a vector.
type Sums = [int16x8_t; 4];

/// One input times the panels of `share`, chunk after chunk: see [`super::gemv`]. Between chunks the sums
/// are kept, as integers, in the outputs.
///
/// # Safety
/// As there.
#[target_feature(enable = "neon")]
pub(super) unsafe fn gemv(share: &Share<'_>, kind: Kind, input: &TokenInput, stride: usize, out: &mut [f32]) {
    let mut first = true;
    for (chunk, bytes) in share.chunks(kind) {
        let tables = &input.tables()[chunk.table..];
        for (panel, out) in bytes.chunks_exact(chunk.bytes).zip(out.chunks_mut(stride)) {
            // SAFETY: the panel is one of the chunk, whose tables `tables` begins with; each vector of sums
            // is of eight outputs.
            unsafe {
                let sums = match chunk.kind {
                    Kind::Two => sums_of_two(panel, tables),
                    Kind::Three => sums_of_three(panel, tables),
                };
                for (sums, out) in sums.into_iter().zip(out[..PANEL_ROWS].chunks_exact_mut(8)) {
                    let sums = [vmovl_s16(vget_low_s16(sums)), vmovl_high_s16(sums)];
                    for (sums, out) in sums.into_iter().zip(out.chunks_exact_mut(4)) {
                        let to = out.as_mut_ptr().cast::<i32>();
                        let before = if first { vdupq_n_s32(0) } else { vld1q_s32(to) };
                        vst1q_s32(to, vaddq_s32(before, sums));
                    }
                }
            }
        }
        first = false;
    }
    let unit = if share.format == Format::Tl2Lossy { LOSSY_STEP } else { 1 };
    for out in out.chunks_mut(stride).take(share.panels.len()) {
        let sums: [i32; PANEL_ROWS] = std::array::from_fn(|row| out[row].to_bits() as i32 * unit);
        finish_sums(&sums, 0, share.scale, input, &mut out[..PANEL_ROWS]);
    }
}

/// The low and high bytes of a table's entries.
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn load(table: &Table) -> [uint8x16_t; 2] {
    let bytes = table.0.as_ptr().cast::<u8>();
    // SAFETY: a table is 32 bytes.
    unsafe { [vld1q_u8(bytes), vld1q_u8(bytes.add(16))] }
}

/// Adds 16 rows' 16-bit values, given as low and high bytes, to their two vectors of sums.
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn add(sums: &mut [int16x8_t], low: uint8x16_t, high: uint8x16_t) {
    // SAFETY: register arithmetic only; before Rust 1.87 these intrinsics count as unsafe.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        sums[0] = vaddq_s16(sums[0], vreinterpretq_s16_u8(vzip1q_u8(low, high)));
        sums[1] = vaddq_s16(sums[1], vreinterpretq_s16_u8(vzip2q_u8(low, high)));
    }
}

/// Sums of a chunk of two-trit steps.
///
/// # Safety
/// The CPU has NEON; the panel is whole steps.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn sums_of_two(panel: &[u8], tables: &[Table]) -> Sums {
    // SAFETY: half a step is 32 bytes, one of each row, and has two tables.
    unsafe {
        let mask = vdupq_n_u8(15);
        let mut sums = [vdupq_n_s16(0); 4];
        for (half, tables) in panel.chunks_exact(tl1::STEP_BYTES / 2).zip(tables.chunks_exact(2)) {
            let tables = [load(&tables[0]), load(&tables[1])];
            for (rows, sums) in sums.chunks_exact_mut(2).enumerate() {
                let w = vld1q_u8(half.as_ptr().add(16 * rows));
                for ([low, high], index) in tables.into_iter().zip([vandq_u8(w, mask), vshrq_n_u8::<4>(w)]) {
                    add(sums, vqtbl1q_u8(low, index), vqtbl1q_u8(high, index));
                }
            }
        }
        sums
    }
}

/// Sums of a chunk of three-trit blocks.
///
/// A negative sum is the one's complement of the positive one, plus one: complementing both bytes by the
/// sign is cheap, and the ones are counted for each row.
///
/// # Safety
/// The CPU has NEON; the panel is whole blocks.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn sums_of_three(panel: &[u8], tables: &[Table]) -> Sums {
    // SAFETY: half a block is 160 bytes, five of each row, and has eight tables.
    unsafe {
        let (mask, zero) = (vdupq_n_u8(15), vdupq_n_u8(0));
        let mut sums = [vdupq_n_s16(0); 4];
        // A chunk has 64 fields: at most 64 negatives.
        let mut negatives = [zero; 2];
        for (half, tables) in panel.chunks_exact(tl2::BLOCK_BYTES / 2).zip(tables.chunks_exact(8)) {
            let half = half.as_ptr();
            // The sign of field 7 is in the highest bit.
            let mut signs = [vld1q_u8(half.add(128)), vld1q_u8(half.add(144))];
            for (field, table) in tables.iter().enumerate().rev() {
                let [low, high] = load(table);
                for rows in 0..2 {
                    let w = vld1q_u8(half.add(field / 2 * 32 + 16 * rows));
                    let index = if field % 2 == 0 { vandq_u8(w, mask) } else { vshrq_n_u8::<4>(w) };
                    let negative = vcltzq_s8(vreinterpretq_s8_u8(signs[rows]));
                    let low = veorq_u8(vqtbl1q_u8(low, index), negative);
                    let high = veorq_u8(vqtbl1q_u8(high, index), negative);
                    add(&mut sums[2 * rows..], low, high);
                    negatives[rows] = vsubq_u8(negatives[rows], negative);
                    signs[rows] = vaddq_u8(signs[rows], signs[rows]);
                }
            }
        }
        for (sums, negatives) in sums.chunks_exact_mut(2).zip(negatives) {
            add(sums, negatives, zero);
        }
        sums
    }
}
