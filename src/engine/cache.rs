//! The KV cache: keys and values of every token so far, in f32 or f16.

use half::f16;

/// Element type of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KvType {
    /// Two bytes an element, as every engine does by default.
    F16,
    /// Four bytes: for exact comparison with a reference.
    F32,
}

impl KvType {
    /// The name used in suites and tables.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
        }
    }

    /// The type called `name`, if there is one.
    pub fn by_name(name: &str) -> Option<KvType> {
        [KvType::F16, KvType::F32].into_iter().find(|t| t.name() == name)
    }

    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }
}

/// Elements of a cache, `[layer][key-value head][keys, values][position][padded head]`.
#[derive(Debug)]
pub(super) enum Elements {
    F16(Vec<f16>),
    F32(Vec<f32>),
}

/// Shape of a cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) context: usize,
    /// Elements of a head, padded to the vector length.
    pub(super) dim: usize,
}

impl Shape {
    /// Elements of one head of one layer: its keys, then its values.
    pub(super) fn head_len(self) -> usize {
        2 * self.context * self.dim
    }

    /// Elements of one layer.
    pub(super) fn layer_len(self) -> usize {
        self.heads * self.head_len()
    }

    fn len(self) -> usize {
        self.layers * self.layer_len()
    }
}

impl Elements {
    pub(super) fn new(ty: KvType, shape: Shape) -> Self {
        match ty {
            KvType::F16 => Elements::F16(vec![f16::ZERO; shape.len()]),
            KvType::F32 => Elements::F32(vec![0.0; shape.len()]),
        }
    }
}
