//! From the bytes of a tensor to f32: one checked entrance, and one file for each family of types.

mod blocks;
mod float;
mod i2s;
mod ternary;

use std::ops::Range;

pub use i2s::{I2sLayout, i2s_scale, i2s_trits};

use super::TensorType;
use crate::error::{Error, Result};

/// Converts rows `rows` of a tensor to f32.
///
/// `data` are all bytes of the tensor (as [`Gguf::data`](super::Gguf::data) gives them), `cols` the
/// elements of one row, and `out` receives `rows.len() × cols` weights, row by row. `layout` matters for
/// I2_S only. F32, F16 and BF16 are passed on as they are, infinities and NaN included.
///
/// # Errors
/// If `cols` is not a whole number of blocks, `rows` are not in `data`, `out` has another length, a
/// scale is not finite, or a ternary code is not a trit. Messages name the byte within the tensor; the
/// caller knows the tensor's name ([`Gguf::dequantize`](super::Gguf::dequantize) adds it).
pub fn dequantize_rows(
    ty: TensorType,
    data: &[u8],
    cols: usize,
    rows: Range<usize>,
    layout: I2sLayout,
    out: &mut [f32],
) -> Result<()> {
    // Its block depends on the layout, and a scale and padding follow its codes.
    if ty == TensorType::I2S {
        return i2s::dequantize(data, cols, rows, layout, out);
    }
    let (elements, bytes) = ty.block();
    let codes = Codes::of_rows(data, ty.name(), (elements as usize, bytes as usize), cols, rows, out.len())?;
    match ty {
        TensorType::F32 => float::f32(codes.bytes, out),
        TensorType::F16 => float::f16(codes.bytes, out),
        TensorType::Bf16 => float::bf16(codes.bytes, out),
        TensorType::Q8_0 => blocks::q8_0(codes, out)?,
        TensorType::Q6K => blocks::q6_k(codes, out)?,
        TensorType::Tq1_0 => ternary::tq1_0(codes, out)?,
        TensorType::Tq2_0 => ternary::tq2_0(codes, out)?,
        TensorType::I2S => {} // returned above
    }
    Ok(())
}

/// The bytes of some rows of a tensor: whole blocks, exactly as many as the output has room for.
#[derive(Clone, Copy)]
struct Codes<'a> {
    bytes: &'a [u8],
    /// Offset of `bytes` within the tensor, for messages.
    start: usize,
}

impl<'a> Codes<'a> {
    /// Rows `rows`, of `cols` elements each, of a tensor of type `name` whose blocks are `block`
    /// (elements, bytes) and lie in `data`; they must be `out_len` elements.
    fn of_rows(
        data: &'a [u8],
        name: &str,
        block: (usize, usize),
        cols: usize,
        rows: Range<usize>,
        out_len: usize,
    ) -> Result<Codes<'a>> {
        let (elements, bytes) = block;
        if cols == 0 || !cols.is_multiple_of(elements) {
            return Err(Error::input(format!(
                "rows of {cols} elements do not fit {name}, whose blocks have {elements}; convert the model \
                 to F16 instead"
            )));
        }
        let range = (cols / elements)
            .checked_mul(bytes)
            .and_then(|row| Some(rows.start.checked_mul(row)?..rows.end.checked_mul(row)?));
        let found = range.and_then(|range| Some((data.get(range.clone())?, range.start)));
        let Some((bytes, start)) = found else {
            return Err(Error::input(format!(
                "rows {} to {} of {cols} elements are not in the {} bytes of the {name} tensor; the file is \
                 damaged, get it again",
                rows.start,
                rows.end,
                data.len()
            )));
        };
        // Cannot overflow: there are at least as many bytes in memory as a fifth of this.
        let needed = rows.len().saturating_mul(cols);
        if out_len != needed {
            return Err(Error::input(format!(
                "room for {out_len} weights where {needed} are asked for; this is a mistake in the program, \
                 please report it"
            )));
        }
        Ok(Codes { bytes, start })
    }
}

/// The f16 scale `bits` of a block, stored at byte `at` of the tensor.
fn block_scale(bits: [u8; 2], at: usize) -> Result<f32> {
    let scale = half::f16::from_le_bytes(bits).to_f32();
    if scale.is_finite() { Ok(scale) } else { Err(bad_scale(scale, at)) }
}

fn bad_scale(scale: f32, at: usize) -> Error {
    Error::input(format!(
        "byte {at} of the tensor: a scale of {scale}, which is not a finite number; the file is damaged, get \
         it again"
    ))
}

fn bad_code(byte: u8, at: usize) -> Error {
    Error::input(format!(
        "byte {at} of the tensor: {byte:#04x} holds the code 3, which is not a trit; the file is damaged or \
         not really ternary, get it again"
    ))
}
