//! TL1 and TL2: sums are looked up a byte at a time (`vpshufb`), the low and the high bytes of 32 rows in
//! two tables of 16 entries, and put together to 16 bits.

use std::arch::x86_64::*;

use crate::arch::scalar::finish_sums;
use crate::arch::x86_64::ahead::ChunkAhead;
use crate::format::tables::{Kind, LOSSY_STEP, Table};
use crate::format::{Format, tl1, tl2};
use crate::matrix::Share;
use crate::{PANEL_ROWS, TokenInput};

/// Sums of 16 bits: rows 0..8 and 16..24 in the first vector, the others in the second.
type Sums = [__m256i; 2];

/// One input times the panels of `share`, chunk after chunk: see [`super::gemv`]. Between chunks the sums
/// are kept, as integers, in the outputs.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn gemv(share: &Share<'_>, kind: Kind, input: &TokenInput, stride: usize, out: &mut [f32]) {
    let mut chunks = share.chunks(kind).peekable();
    let mut first = true;
    while let Some((chunk, bytes)) = chunks.next() {
        let next = chunks.peek().map(|(chunk, bytes)| (*bytes, chunk.bytes));
        let tables = input.tables()[chunk.table..].as_ptr();
        for (i, (panel, out)) in bytes.chunks_exact(chunk.bytes).zip(out.chunks_mut(stride)).enumerate() {
            let ahead = ChunkAhead::new(i, bytes, chunk.bytes, next, share.next);
            // SAFETY: the panel is one of the chunk, whose tables begin at `tables`; `out` has 32 values.
            unsafe {
                let sums = match chunk.kind {
                    Kind::Two => sums_of_two(panel, tables, ahead),
                    Kind::Three => sums_of_three(panel, tables, ahead),
                };
                let quarters = [
                    _mm256_castsi256_si128(sums[0]),
                    _mm256_castsi256_si128(sums[1]),
                    _mm256_extracti128_si256::<1>(sums[0]),
                    _mm256_extracti128_si256::<1>(sums[1]),
                ];
                for (quarter, sums) in quarters.into_iter().enumerate() {
                    let to = out[8 * quarter..][..8].as_mut_ptr().cast();
                    let sums = _mm256_cvtepi16_epi32(sums);
                    let before = if first { _mm256_setzero_si256() } else { _mm256_loadu_si256(to) };
                    _mm256_storeu_si256(to, _mm256_add_epi32(before, sums));
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

/// The low and high bytes of a table's entries, in both halves of a vector.
///
/// # Safety
/// The CPU has AVX2; `table` points to one.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load(table: *const Table) -> [__m256i; 2] {
    // SAFETY: the caller's promise; a table is 32 bytes.
    unsafe {
        [0, 1].map(|part| _mm256_broadcastsi128_si256(_mm_load_si128(table.cast::<__m128i>().add(part))))
    }
}

/// Adds 32 rows' 16-bit values, given as low and high bytes.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn add(sums: &mut Sums, low: __m256i, high: __m256i) {
    // SAFETY: register arithmetic only; before Rust 1.87 these intrinsics count as unsafe.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        sums[0] = _mm256_add_epi16(sums[0], _mm256_unpacklo_epi8(low, high));
        sums[1] = _mm256_add_epi16(sums[1], _mm256_unpackhi_epi8(low, high));
    }
}

/// Sums of a chunk of two-trit steps.
///
/// # Safety
/// The CPU has AVX2; the panel is whole steps, and at `tables` are theirs.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn sums_of_two(panel: &[u8], tables: *const Table, ahead: ChunkAhead) -> Sums {
    // SAFETY: half a step is 32 bytes and has two tables; a prefetch never faults.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let mut sums = [_mm256_setzero_si256(); 2];
        for (i, half) in panel.chunks_exact(tl1::STEP_BYTES / 2).enumerate() {
            if i % 2 == 0 {
                ahead.request(i * tl1::STEP_BYTES / 2);
            }
            let w = _mm256_loadu_si256(half.as_ptr().cast());
            for (n, index) in [w, _mm256_srli_epi16::<4>(w)].into_iter().enumerate() {
                let index = _mm256_and_si256(index, mask);
                let [low, high] = load(tables.add(2 * i + n));
                add(&mut sums, _mm256_shuffle_epi8(low, index), _mm256_shuffle_epi8(high, index));
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
/// The CPU has AVX2; the panel is whole blocks, and at `tables` are theirs.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn sums_of_three(panel: &[u8], tables: *const Table, ahead: ChunkAhead) -> Sums {
    const HALF_BYTES: usize = tl2::BLOCK_BYTES / 2;
    // SAFETY: half a block is 160 bytes and has eight tables; a prefetch never faults.
    unsafe {
        let (mask, zero) = (_mm256_set1_epi8(15), _mm256_setzero_si256());
        let mut sums = [zero; 2];
        // A chunk has 64 fields: at most 64 negatives.
        let mut negatives = zero;
        for (i, half) in panel.chunks_exact(HALF_BYTES).enumerate() {
            for line in (i * HALF_BYTES).div_ceil(64)..((i + 1) * HALF_BYTES).div_ceil(64) {
                ahead.request(64 * line);
            }
            // The sign of field 7 is in the highest bit.
            let mut signs = _mm256_loadu_si256(half.as_ptr().add(128).cast());
            for field in (0..8).rev() {
                let w = _mm256_loadu_si256(half.as_ptr().add(field / 2 * 32).cast());
                let w = if field % 2 == 0 { w } else { _mm256_srli_epi16::<4>(w) };
                let index = _mm256_and_si256(w, mask);
                let [low, high] = load(tables.add(8 * i + field));
                let negative = _mm256_cmpgt_epi8(zero, signs);
                let low = _mm256_xor_si256(_mm256_shuffle_epi8(low, index), negative);
                let high = _mm256_xor_si256(_mm256_shuffle_epi8(high, index), negative);
                add(&mut sums, low, high);
                negatives = _mm256_sub_epi8(negatives, negative);
                signs = _mm256_add_epi8(signs, signs);
            }
        }
        add(&mut sums, negatives, zero);
        sums
    }
}
