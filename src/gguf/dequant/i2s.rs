//! I2_S, the ternary type of bitnet.cpp: 2-bit codes and one scale for the whole tensor.
//!
//! n weights take n/4 bytes of codes, then a little-endian f32 scale, then 28 bytes of padding. A code is
//! the trit plus one; a weight is trit × scale. Determined from files that bitnet.cpp's quantizer wrote.

use std::ops::Range;

use super::ternary::has_code_3;
use super::{Codes, bad_code, bad_scale};
use crate::error::{Error, Result};
use crate::gguf::tensor::I2S_TAIL_BYTES;

/// How the codes of an I2_S tensor are laid out. It depends on the machine that quantized the file, and
/// nothing in the file says which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum I2sLayout {
    /// Blocks of 128 weights in 32 bytes: byte j holds weights j, j+32, j+64 and j+96, from the highest
    /// two bits to the lowest. The published files are of this kind.
    #[default]
    X86_64,
    /// Blocks of 64 weights in 16 bytes: byte j holds weights j, j+16, j+32 and j+48, from the highest
    /// two bits to the lowest.
    Arm,
}

impl I2sLayout {
    /// Bytes of one block, which is also the distance between the weights that share a byte.
    fn block_bytes(self) -> usize {
        match self {
            I2sLayout::X86_64 => 32,
            I2sLayout::Arm => 16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            I2sLayout::X86_64 => "I2_S (x86-64 layout)",
            I2sLayout::Arm => "I2_S (ARM layout)",
        }
    }
}

/// Unpacks rows `rows` of an I2_S tensor to trits: −1, 0 or 1.
///
/// `data` are all bytes of the tensor, `cols` the elements of one row (a multiple of 128, or of 64 in the
/// ARM layout), and `out` receives `rows.len() × cols` trits, row by row.
///
/// # Errors
/// If `cols` is not a whole number of blocks, `rows` are not in `data`, `out` has another length, or a
/// code is 3. Messages name the byte within the tensor.
pub fn i2s_trits(
    data: &[u8],
    cols: usize,
    rows: Range<usize>,
    layout: I2sLayout,
    out: &mut [i8],
) -> Result<()> {
    unpack(data, cols, rows, layout, out, |code| code as i8 - 1)
}

/// The scale of an I2_S tensor of `n_elements` elements, whose bytes are `data`.
///
/// # Errors
/// If `data` is not as long as such a tensor is, or the scale is infinite or not a number. Zero and
/// negative scales are legal.
pub fn i2s_scale(data: &[u8], n_elements: usize) -> Result<f32> {
    let (codes, tail) = split(data)?;
    if codes.len().checked_mul(4) != Some(n_elements) {
        return Err(Error::input(format!(
            "{} bytes are not an I2_S tensor of {n_elements} elements; the file is damaged, get it again",
            data.len()
        )));
    }
    let [a, b, c, d, ..] = *tail;
    let scale = f32::from_le_bytes([a, b, c, d]);
    if scale.is_finite() { Ok(scale) } else { Err(bad_scale(scale, codes.len())) }
}

/// See [`dequantize_rows`](super::dequantize_rows).
pub(super) fn dequantize(
    data: &[u8],
    cols: usize,
    rows: Range<usize>,
    layout: I2sLayout,
    out: &mut [f32],
) -> Result<()> {
    let (codes, _) = split(data)?;
    let scale = i2s_scale(data, codes.len().saturating_mul(4))?;
    unpack(data, cols, rows, layout, out, |code| scale * (f32::from(code) - 1.0))
}

/// The codes of a tensor, and the 32 bytes after them.
fn split(data: &[u8]) -> Result<(&[u8], &[u8; I2S_TAIL_BYTES as usize])> {
    data.split_last_chunk().ok_or_else(|| {
        Error::input(format!(
            "{} bytes are too few for an I2_S tensor; the file is damaged, get it again",
            data.len()
        ))
    })
}

fn unpack<T>(
    data: &[u8],
    cols: usize,
    rows: Range<usize>,
    layout: I2sLayout,
    out: &mut [T],
    convert: impl Fn(u8) -> T,
) -> Result<()> {
    let (codes, _) = split(data)?;
    let stride = layout.block_bytes();
    let codes = Codes::of_rows(codes, layout.name(), (4 * stride, stride), cols, rows, out.len())?;
    if let Some(bad) = codes.bytes.iter().position(|byte| has_code_3(*byte)) {
        return Err(bad_code(codes.bytes[bad], codes.start + bad));
    }
    for (bytes, out) in codes.bytes.chunks_exact(stride).zip(out.chunks_exact_mut(4 * stride)) {
        for (out, shift) in out.chunks_exact_mut(stride).zip([6, 4, 2, 0]) {
            for (out, byte) in out.iter_mut().zip(bytes) {
                *out = convert(byte >> shift & 3);
            }
        }
    }
    Ok(())
}
