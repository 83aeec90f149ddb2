//! Types in which embedding and output projection are stored and multiplied.

use bitjoule_kernels::Format;

use crate::error::{Error, Result};
use crate::gguf::TensorType;

/// A type of embedding and output projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum EmbeddingType {
    /// 16 bits a weight.
    #[value(name = "f16")]
    F16,
    /// 8.5 bits a weight: blocks of 32 with an f16 scale.
    #[value(name = "q8_0")]
    Q8_0,
    /// 6.5625 bits a weight: blocks of 256 with sub-scales.
    #[value(name = "q6_k")]
    Q6K,
}

impl EmbeddingType {
    /// Every type.
    pub const ALL: [EmbeddingType; 3] = [EmbeddingType::F16, EmbeddingType::Q8_0, EmbeddingType::Q6K];

    /// The name used in suites and tables.
    pub fn name(self) -> &'static str {
        match self {
            EmbeddingType::F16 => "f16",
            EmbeddingType::Q8_0 => "q8_0",
            EmbeddingType::Q6K => "q6_k",
        }
    }

    /// The type called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn by_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|t| t.name() == name);
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::input(format!("there is no embedding type '{name}'; the types are {known}"))
        })
    }

    /// The GGUF tensor type.
    pub fn tensor_type(self) -> TensorType {
        match self {
            EmbeddingType::F16 => TensorType::F16,
            EmbeddingType::Q8_0 => TensorType::Q8_0,
            EmbeddingType::Q6K => TensorType::Q6K,
        }
    }

    /// Refuses rows that are no whole number of blocks.
    ///
    /// # Errors
    /// If rows of `cols` weights cannot be stored.
    pub(super) fn check_cols(self, cols: usize) -> Result<()> {
        let block = match self {
            EmbeddingType::F16 => 1,
            EmbeddingType::Q8_0 => 32,
            EmbeddingType::Q6K => 256,
        };
        if cols.is_multiple_of(block) {
            return Ok(());
        }
        let other = if cols.is_multiple_of(32) { "q8_0" } else { "f16" };
        Err(Error::input(format!(
            "rows of {cols} weights cannot be stored as {}, whose blocks hold {block}; use {other}",
            self.name()
        )))
    }
}

/// The format in which the kernels keep a tensor of that type in blocks, if they do.
pub(super) fn block_format(ty: TensorType) -> Option<Format> {
    match ty {
        TensorType::Q8_0 => Some(Format::Q8_0),
        TensorType::Q6K => Some(Format::Q6K),
        _ => None,
    }
}
