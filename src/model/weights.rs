//! A model in memory: configuration and weights, packed for one kernel.

use bitjoule_kernels::{Isa, Kernel, Matrix};

use super::Config;

/// A model whose linear layers are packed for [`Model::kernel`] on [`Model::isa`].
#[derive(Debug)]
pub struct Model {
    /// Architecture and shape.
    pub config: Config,
    /// The kernel it is packed for.
    pub kernel: Kernel,
    /// The instruction set it is packed for.
    pub isa: Isa,
    /// Token embedding, `vocab` x `hidden`.
    pub embedding: Matrix,
    /// Output projection, `vocab` x `hidden`; `None` where it is the embedding.
    pub output: Option<Matrix>,
    /// Final norm, `hidden`.
    pub output_norm: Vec<f32>,
    /// The layers that have weights of their own, in order: [`Config::unique_layers`].
    pub layers: Vec<Layer>,
}

/// One transformer layer.
#[derive(Debug)]
pub struct Layer {
    /// Norm before attention, `hidden`.
    pub attn_norm: Vec<f32>,
    /// Query projection.
    pub q: Matrix,
    /// Key projection.
    pub k: Matrix,
    /// Value projection.
    pub v: Matrix,
    /// Norm before the output projection.
    pub attn_sub_norm: Option<Vec<f32>>,
    /// Output projection of attention.
    pub o: Matrix,
    /// Norm before the feed-forward layer, `hidden`.
    pub ffn_norm: Vec<f32>,
    /// Gate projection.
    pub gate: Matrix,
    /// Up projection.
    pub up: Matrix,
    /// Norm before the down projection.
    pub ffn_sub_norm: Option<Vec<f32>>,
    /// Down projection.
    pub down: Matrix,
}

impl Model {
    /// The output projection, tied or not.
    pub fn head(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// The weights that layer `index` of the computed ones has.
    pub fn layer(&self, index: usize) -> &Layer {
        &self.layers[index % self.layers.len()]
    }

    /// Every matrix that a decode step multiplies, in that order; that of a tied layer each time.
    pub fn multiplied(&self) -> impl Iterator<Item = &Matrix> {
        let layers = (0..self.config.layers).map(|index| self.layer(index));
        let layers = layers.flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down]);
        layers.chain([self.head()])
    }

    /// Every matrix, in the order of the arena.
    pub(super) fn packed(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down]);
        [&self.embedding].into_iter().chain(layers).chain(&self.output)
    }

    /// Memory that the packed matrices occupy, in bytes.
    pub fn packed_bytes(&self) -> u64 {
        self.packed().map(|m| m.packed_bytes() as u64).sum()
    }
}
