//! TL1 and TL2: sums are looked up in 16-bit lanes (`vpermw`), 32 rows at a time.
//!
//! An index needs no masking: `vpermw` takes the lowest five bits of a lane. A two-trit index has four, so
//! its 16 entries are there twice. They are stored so: broadcasting 32 bytes to a vector takes more time than
//! loading 64.

use std::arch::x86_64::*;

use crate::arch::scalar::finish_sums;
use crate::arch::x86_64::ahead::ChunkAhead;
use crate::format::tables::{Kind, LOSSY_STEP, Table};
use crate::format::{Format, tl1, tl2};
use crate::matrix::Share;
use crate::{PANEL_ROWS, TokenInput};

/// One input times the panels of `share`, chunk after chunk: see [`super::gemv`]. Between chunks the sums
/// are kept, as integers, in the outputs.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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
                let halves = [_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums)];
                for (half, sums) in halves.into_iter().enumerate() {
                    let to = out[16 * half..][..16].as_mut_ptr().cast();
                    let sums = _mm512_cvtepi16_epi32(sums);
                    let before = if first { _mm512_setzero_si512() } else { _mm512_loadu_si512(to) };
                    _mm512_storeu_si512(to.cast(), _mm512_add_epi32(before, sums));
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

/// Sums of a chunk of two-trit steps, 32 rows of 16 bits.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL; the panel is whole steps, and at `tables` are theirs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn sums_of_two(panel: &[u8], tables: *const Table, ahead: ChunkAhead) -> __m512i {
    let mut sums = [_mm512_setzero_si512(); 2];
    for (i, step) in panel.chunks_exact(tl1::STEP_BYTES).enumerate() {
        // SAFETY: a step is 64 bytes and has four tables of 32 entries; a prefetch never faults.
        unsafe {
            ahead.request(i * tl1::STEP_BYTES);
            let table = |n: usize| _mm512_loadu_si512(tables.add(8 * i + 2 * n).cast());
            let w = _mm512_loadu_si512(step.as_ptr().cast());
            let found = [
                _mm512_permutexvar_epi16(w, table(0)),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(w), table(1)),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(w), table(2)),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(w), table(3)),
            ];
            sums[0] = _mm512_add_epi16(sums[0], _mm512_add_epi16(found[0], found[1]));
            sums[1] = _mm512_add_epi16(sums[1], _mm512_add_epi16(found[2], found[3]));
        }
    }
    _mm512_add_epi16(sums[0], sums[1])
}

/// Sums of a chunk of three-trit blocks, 32 rows of 16 bits.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL; the panel is whole blocks, and at `tables` are theirs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn sums_of_three(panel: &[u8], tables: *const Table, ahead: ChunkAhead) -> __m512i {
    let mut sums = [_mm512_setzero_si512(); 2];
    for (i, block) in panel.chunks_exact(tl2::BLOCK_BYTES).enumerate() {
        // SAFETY: a block is five vectors and has sixteen tables of 32 entries; a prefetch never faults.
        unsafe {
            let tables = tables.add(32 * i);
            let look_up = |index: __m512i, n: usize| {
                _mm512_permutexvar_epi16(index, _mm512_loadu_si512(tables.add(2 * n).cast()))
            };
            let words: [__m512i; 5] =
                std::array::from_fn(|k| _mm512_loadu_si512(block.as_ptr().add(64 * k).cast()));
            for (k, w) in words.into_iter().enumerate() {
                ahead.request(i * tl2::BLOCK_BYTES + 64 * k);
                sums[0] = _mm512_add_epi16(sums[0], look_up(w, 3 * k));
                sums[1] = _mm512_add_epi16(sums[1], look_up(_mm512_srli_epi16::<5>(w), 3 * k + 1));
                sums[0] = _mm512_add_epi16(sums[0], look_up(_mm512_srli_epi16::<10>(w), 3 * k + 2));
            }
            sums[1] = _mm512_add_epi16(sums[1], look_up(last_field(words), 15));
        }
    }
    _mm512_add_epi16(sums[0], sums[1])
}

/// The sixteenth field of a block, whose bits are the highest of its five words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn last_field(words: [__m512i; 5]) -> __m512i {
    /// `a` where `mask` has ones, else `b`.
    const SELECT: i32 = 0xca;
    let bit = |n: i16| _mm512_set1_epi16(1 << n);
    let field = _mm512_srli_epi16::<15>(words[0]);
    let field = _mm512_ternarylogic_epi64::<SELECT>(bit(1), _mm512_srli_epi16::<14>(words[1]), field);
    let field = _mm512_ternarylogic_epi64::<SELECT>(bit(2), _mm512_srli_epi16::<13>(words[2]), field);
    let field = _mm512_ternarylogic_epi64::<SELECT>(bit(3), _mm512_srli_epi16::<12>(words[3]), field);
    _mm512_ternarylogic_epi64::<SELECT>(bit(4), _mm512_srli_epi16::<11>(words[4]), field)
}

/// Spreads the one panel of `share` to one code a byte: see [`super::unpack`]. Codes are looked up as sums
/// are, two columns at a time: one in the low byte of a lane, one in the high byte.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn unpack(share: &Share<'_>, kind: Kind, codes: &mut [u8]) {
    for (chunk, panel) in share.chunks(kind) {
        let codes = &mut codes[chunk.col * PANEL_ROWS..][..chunk.cols * PANEL_ROWS];
        match chunk.kind {
            Kind::Two => {
                let digits = [0, 1].map(|digit| Digit::new(|index| TWO[index % 16][digit]));
                let codes = codes.chunks_exact_mut(tl1::STEP_COLS * PANEL_ROWS);
                for (step, codes) in panel.chunks_exact(tl1::STEP_BYTES).zip(codes) {
                    // SAFETY: a step is one vector.
                    let w = unsafe { _mm512_loadu_si512(step.as_ptr().cast()) };
                    let w = [w, _mm512_srli_epi16::<8>(w)];
                    for (four, codes) in w.into_iter().zip(codes.chunks_exact_mut(4 * PANEL_ROWS)) {
                        let fields = [four, _mm512_srli_epi16::<4>(four)];
                        store_rows(digits.map(|digit| digit.look_up(fields)), codes);
                    }
                }
            }
            Kind::Three => {
                let digits = [0, 1, 2].map(|digit| Digit::new(|index| THREE[index][digit]));
                let codes = codes.chunks_exact_mut(tl2::BLOCK_COLS * PANEL_ROWS);
                for (block, codes) in panel.chunks_exact(tl2::BLOCK_BYTES).zip(codes) {
                    let words: [__m512i; 5] = std::array::from_fn(|k| {
                        // SAFETY: a block is five vectors.
                        unsafe { _mm512_loadu_si512(block[64 * k..][..64].as_ptr().cast()) }
                    });
                    let mut fields = [last_field(words); 16];
                    for (fields, w) in fields.chunks_exact_mut(3).zip(words) {
                        fields[0] = w;
                        fields[1] = _mm512_srli_epi16::<5>(w);
                        fields[2] = _mm512_srli_epi16::<10>(w);
                    }
                    // Fields 4 n to 4 n + 3 are four neighbouring columns for each digit.
                    for (n, f) in fields.chunks_exact(4).enumerate() {
                        for (d, digit) in digits.iter().enumerate() {
                            let pairs = [digit.look_up([f[0], f[1]]), digit.look_up([f[2], f[3]])];
                            let col = 24 * (n / 2) + 8 * d + 4 * (n % 2);
                            store_rows(pairs, &mut codes[col * PANEL_ROWS..][..4 * PANEL_ROWS]);
                        }
                    }
                }
            }
        }
    }
}

/// Tables of the codes of one trit of an index, in the low and in the high byte of a lane.
#[derive(Clone, Copy)]
struct Digit {
    low: __m512i,
    high: __m512i,
}

impl Digit {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    fn new(code: impl Fn(usize) -> u8) -> Self {
        let entries: [u16; 32] = std::array::from_fn(|index| u16::from(code(index)));
        // SAFETY: the entries are one vector.
        let low = unsafe { _mm512_loadu_si512(entries.as_ptr().cast()) };
        Digit { low, high: _mm512_slli_epi16::<8>(low) }
    }

    /// The codes of two indices.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    fn look_up(&self, [low, high]: [__m512i; 2]) -> __m512i {
        let low = _mm512_permutexvar_epi16(low, self.low);
        _mm512_or_si512(low, _mm512_permutexvar_epi16(high, self.high))
    }
}

/// Stores four columns' codes, given as the first two and the last two of each row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn store_rows(pairs: [__m512i; 2], codes: &mut [u8]) {
    const ROWS: [[u16; 32]; 2] = {
        let mut rows = [[0; 32]; 2];
        let mut i = 0;
        while i < 64 {
            // Lane i: row i / 2 of the first pair, or of the second.
            rows[i / 32][i % 32] = (i / 2 + 32 * (i % 2)) as u16;
            i += 1;
        }
        rows
    };
    for (rows, codes) in ROWS.iter().zip(codes.chunks_exact_mut(64)) {
        // SAFETY: the rows and the chunk of codes are one vector each.
        unsafe {
            let rows = _mm512_loadu_si512(rows.as_ptr().cast());
            let codes = codes.as_mut_ptr();
            _mm512_storeu_si512(codes.cast(), _mm512_permutex2var_epi16(pairs[0], rows, pairs[1]));
        }
    }
}

/// Codes of a two-trit index.
const TWO: [[u8; 2]; 16] = {
    let mut all = [[1; 2]; 16];
    let mut i = 0;
    while i < 9 {
        all[i] = [i as u8 / 3, i as u8 % 3];
        i += 1;
    }
    all
};

/// Codes of a three-trit field.
const THREE: [[u8; 3]; 32] = {
    let mut all = [[1; 3]; 32];
    let mut i = 0;
    while i < 32 {
        let t = tl2::trits_of(i as u8);
        all[i] = [(t[0] + 1) as u8, (t[1] + 1) as u8, (t[2] + 1) as u8];
        i += 1;
    }
    all
};
