//! GGUF, the file format that ternary models are exchanged in: read, written, dequantised.
//!
//! Versions 2 and 3, little-endian, as specified in ggml's `docs/gguf.md`. Files come from anywhere, so
//! nothing in one is believed before it is checked against the bytes that are there; whatever is wrong
//! becomes one message that names the file, the place, the fault and the way out.

mod dequant;
mod quantize;
mod read;
mod tensor;
mod value;
mod write;

pub use dequant::{I2sLayout, dequantize_rows, i2s_scale, i2s_trits};
pub use quantize::quantize;
pub use read::Gguf;
pub use tensor::{TensorInfo, TensorType, type_name};
pub use value::{Array, Value};
pub use write::{FileSink, Sink, Writer};

/// The first four bytes of a file.
const MAGIC: [u8; 4] = *b"GGUF";

/// Alignment of tensor data, in bytes, where the metadata does not say.
const DEFAULT_ALIGNMENT: u32 = 32;

/// The metadata key that overrides [`DEFAULT_ALIGNMENT`].
const ALIGNMENT_KEY: &str = "general.alignment";

/// Most dimensions of a tensor.
const MAX_DIMS: usize = 4;

/// Longest metadata key, in bytes (from the specification).
const MAX_KEY_BYTES: usize = 65_535;

/// Deepest nesting of arrays. The specification sets no limit and no known model nests at all; the
/// limit keeps a hostile file from overflowing the stack.
const MAX_ARRAY_DEPTH: usize = 4;

/// `name` in quotes, escaped and cut short, so that a hostile name cannot garble the message it is in.
fn quoted(name: &str) -> String {
    const SHOWN: usize = 80;
    match name.char_indices().nth(SHOWN) {
        None => format!("{name:?}"),
        Some((end, _)) => format!("{:?}... ({} bytes)", &name[..end], name.len()),
    }
}

/// `offset` rounded up to a multiple of `alignment`, which is a power of two; `None` on overflow.
fn align_up(offset: u64, alignment: u32) -> Option<u64> {
    offset.checked_next_multiple_of(u64::from(alignment))
}
