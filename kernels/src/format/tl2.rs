//! `tl2`: three trits are a sign and one of fourteen magnitudes, five bits: 5/3 = 1.67 bits a weight.
//!
//! As in `tl1` a product looks sums up in tables made of the activations: here a table holds
//! the sums of three columns (bitnet.cpp's TL2, arXiv:2502.11880, lossless variant: 16-bit entries). With
//! the trits `a`, `b`, `c` and `v = 9 a + 3 b + c`, the magnitude is `|v|` (0..=13) and the sign is that of
//! `v`: the negative of a sum needs no entry of its own.
//!
//! A block is 48 columns, in two halves of 24. Field `i` (0..16) stands for the columns `g`, `g+8`, `g+16`
//! of half `i / 8`, with `g = i % 8`. Columns beyond the last whole block are stored as in `tl1`, in
//! two-trit form.
//!
//! For lookups in 16-bit lanes (AVX-512's `vpermw` takes five index bits), a block is 320 bytes, five words
//! for each row. A field's bits are `magnitude | sign << 4`:
//!
//! ```text
//!              words 0..32    words 32..64   words 64..96   words 96..128   words 128..160
//!              row 0 .. 31    row 0 .. 31    ...
//! bits 4..0    field 0        field 3        field 6        field 9         field 12
//! bits 9..5    field 1        field 4        field 7        field 10        field 13
//! bits 14..10  field 2        field 5        field 8        field 11        field 14
//! bit 15       field 15       field 15       field 15       field 15        field 15
//!              bit 0          bit 1          bit 2          bit 3           bit 4
//! ```
//!
//! For lookups in bytes (four index bits, the sign applied apart), each half is 160 bytes:
//!
//! ```text
//!            bytes 0..32     bytes 32..64    bytes 64..96    bytes 96..128   bytes 128..160
//!            row 0 .. 31     row 0 .. 31     ...
//! bits 3..0  magnitude of 0  magnitude of 2  magnitude of 4  magnitude of 6  bit g: sign of
//! bits 7..4  magnitude of 1  magnitude of 3  magnitude of 5  magnitude of 7  the half's field g
//! ```
//!
//! Chunks of 192 columns as in `tl1`: see `tables`.
//!
//! The kernel `tl2-lossy` reads the same bytes with table entries rounded to 8 bits, as bitnet.cpp's TL2_0
//! does. In these layouts that saves nothing, because the sums are 16 bits wide anyway: it is there to show
//! what the rounding loses.

use super::tables::{self, Kind};
use super::tl1;
use crate::PANEL_ROWS;

/// Columns of a block.
pub const BLOCK_COLS: usize = 48;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 10 * PANEL_ROWS;

/// Bytes of one panel.
pub(crate) fn panel_len(cols: usize) -> usize {
    cols / BLOCK_COLS * BLOCK_BYTES + tl1::panel_len(cols % BLOCK_COLS)
}

pub(super) fn pack_panel(words: bool, cols: usize, trits: &[i8], out: &mut [u8]) {
    tables::pack_panel(Kind::Three, words, cols, trits, out);
}

/// `magnitude | sign << 4` of three trits.
fn field(a: i8, b: i8, c: i8) -> u8 {
    let v = 9 * a + 3 * b + c;
    v.unsigned_abs() | u8::from(v < 0) << 4
}

/// The trits of a field: the digits of a balanced ternary number.
pub(crate) const fn trits_of(field: u8) -> [i8; 3] {
    let mut v = (field & 15) as i8;
    if v > 13 {
        return [0; 3];
    }
    if field & 16 != 0 {
        v = -v;
    }
    // Adding 13 = 111 in base 3 makes the digits 0, 1, 2.
    let v = v + 13;
    [v / 9 - 1, v / 3 % 3 - 1, v % 3 - 1]
}

/// Packs the block of 48 columns from `col` on of a panel whose rows have `stride` trits.
pub(super) fn pack_block(words: bool, trits: &[i8], stride: usize, col: usize, out: &mut [u8]) {
    out.fill(0);
    for row in 0..PANEL_ROWS {
        let t = &trits[row * stride + col..][..BLOCK_COLS];
        if words {
            let field = |i: usize| {
                let t = &t[24 * (i / 8) + i % 8..];
                u16::from(field(t[0], t[8], t[16]))
            };
            for word in 0..5 {
                let fields = field(3 * word) | field(3 * word + 1) << 5 | field(3 * word + 2) << 10;
                let last = field(15) >> word & 1;
                let at = 2 * (PANEL_ROWS * word + row);
                out[at..at + 2].copy_from_slice(&(fields | last << 15).to_le_bytes());
            }
        } else {
            for (t, out) in t.chunks_exact(24).zip(out.chunks_exact_mut(5 * PANEL_ROWS)) {
                for g in 0..8 {
                    let field = field(t[g], t[g + 8], t[g + 16]);
                    out[g / 2 * PANEL_ROWS + row] |= (field & 15) << (4 * (g % 2));
                    out[4 * PANEL_ROWS + row] |= (field >> 4) << g;
                }
            }
        }
    }
}

/// The codes of a block, one a byte: for each four columns the 32 rows' four codes (1536 bytes).
#[inline(always)]
pub(crate) fn unpack_block(words: bool, block: &[u8], codes: &mut [u8]) {
    for row in 0..PANEL_ROWS {
        let mut put = |field: u8, i: usize| {
            for (k, t) in trits_of(field).into_iter().enumerate() {
                let col = 24 * (i / 8) + i % 8 + 8 * k;
                codes[col / 4 * 4 * PANEL_ROWS + 4 * row + col % 4] = (t + 1) as u8;
            }
        };
        if words {
            let mut last = 0;
            for word in 0..5 {
                let at = 2 * (PANEL_ROWS * word + row);
                let w = u16::from_le_bytes([block[at], block[at + 1]]);
                for i in 0..3 {
                    put((w >> (5 * i) & 31) as u8, 3 * word + i);
                }
                last |= ((w >> 15) as u8) << word;
            }
            put(last, 15);
        } else {
            for (half, block) in block.chunks_exact(5 * PANEL_ROWS).enumerate() {
                for g in 0..8 {
                    let magnitude = block[g / 2 * PANEL_ROWS + row] >> (4 * (g % 2)) & 15;
                    let sign = block[4 * PANEL_ROWS + row] >> g & 1;
                    put(magnitude | sign << 4, 8 * half + g);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_balanced_ternary_numbers() {
        for a in -1..=1 {
            for b in -1..=1 {
                for c in -1..=1 {
                    assert_eq!(trits_of(field(a, b, c)), [a, b, c]);
                }
            }
        }
    }
}
