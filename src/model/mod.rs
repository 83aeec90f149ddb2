//! Models: geometries, configuration, weights packed for a kernel, synthesis and conversion.

mod config;
mod convert;
mod embedding;
mod encode;
mod geometry;
mod kept;
mod names;
mod packing;
mod synth;
mod tokenizer;
mod weights;

pub use config::{Activation, Architecture, Config, RopePairs};
pub use convert::convert;
pub use embedding::EmbeddingType;
pub use encode::WeightType;
pub use geometry::Geometry;
pub use kept::{Kept, file_hash};
pub use packing::{Keeping, Plan, linear_bytes, synthetic_head_bytes};
pub use synth::{SYNTH_SEED, synth};
pub use tokenizer::Tokenizer;
pub use weights::{Layer, Model};

/// A model that the binary carries: the tiny fixture, random ternary weights of architecture
/// `bitnet-b1.58`, written by bitnet.cpp's own quantizer. It lets the quick suite and the tests run
/// the engine on a file that another implementation made.
pub const BUILTIN_NAME: &str = "tiny-bitnet-b1.58";

/// The bytes of [`BUILTIN_NAME`].
pub const BUILTIN_GGUF: &[u8] = include_bytes!("../../tests/fixtures/tiny-bitnet-b1.58.i2_s.gguf");
