//! What an engine allocates, part by part: known before anything is loaded.
//!
//! [`Lengths`] are the lengths that the engine makes its buffers with, so that the prediction and the
//! engine cannot drift apart.

use bitjoule_kernels::vector::{ATTEND_TOKENS, LANES};
use bitjoule_kernels::{Isa, Kernel, PANEL_ROWS, Scratch, TokenInput};
use serde::{Deserialize, Serialize};

use crate::model::{Config, EmbeddingType, Plan, linear_bytes, synthetic_head_bytes};
use crate::units::Bytes;

use super::cache::Shape;
use super::forward::EngineOptions;

/// Memory that a model and its engine need, by what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryParts {
    /// Packed linear layers and norms.
    pub weights: Bytes,
    /// Embedding and output projection (once where they are one).
    pub embedding: Bytes,
    /// Keys and values of the whole context.
    pub kv_cache: Bytes,
    /// Buffers of the forward pass, working memory of each thread, and the table of the rotary embedding.
    pub scratch: Bytes,
}

impl MemoryParts {
    /// All parts together.
    pub fn total(&self) -> Bytes {
        let parts = [self.weights, self.embedding, self.kv_cache, self.scratch];
        Bytes(parts.iter().fold(0, |sum, part| sum.saturating_add(part.0)))
    }
}

impl EngineOptions {
    /// What the planned model, packed for `isa`, and an engine for it will allocate.
    pub fn memory(&self, plan: &Plan, isa: Isa) -> MemoryParts {
        self.parts(plan.config(), plan.kernel(), isa, plan.linear_bytes(), plan.head_bytes())
    }

    /// What they would if every layer had weights of its own; none if every layer has.
    pub fn memory_of_all_layers(&self, plan: &Plan, isa: Isa) -> Option<MemoryParts> {
        let config = plan.config();
        let full = Config { unique_layers: config.layers, ..config.clone() };
        let parts =
            || self.parts(&full, plan.kernel(), isa, linear_bytes(&full, plan.kernel()), plan.head_bytes());
        (config.unique_layers < config.layers).then(parts)
    }

    /// What a synthetic model and an engine for it will allocate: known before there is a file.
    pub fn memory_of_synthetic(
        &self,
        config: &Config,
        kernel: Kernel,
        isa: Isa,
        embedding: Option<EmbeddingType>,
    ) -> MemoryParts {
        let embedding = synthetic_head_bytes(config, kernel, embedding);
        self.parts(config, kernel, isa, linear_bytes(config, kernel), embedding)
    }

    fn parts(
        &self,
        config: &Config,
        kernel: Kernel,
        isa: Isa,
        weights: Bytes,
        embedding: Bytes,
    ) -> MemoryParts {
        let format = kernel.format();
        let lengths = Lengths::new(self, config);
        let shape = lengths.shape;
        let input = TokenInput::memory_bytes(lengths.widest);
        let tables = TokenInput::table_bytes(isa, format, lengths.widest);
        let float = size_of::<f32>();
        let of_batch = (lengths.x + lengths.qkv + lengths.attention + lengths.ffn + lengths.logits) * float
            + lengths.batch * (input + if format.is_exact() { 0 } else { tables });
        let of_thread = Scratch::memory_bytes(lengths.widest)
            + input
            + tables
            + (lengths.products + 3 * lengths.heads + lengths.scores) * float;
        let rotary = 2 * self.context * (config.rope_dim / 2) * float;
        MemoryParts {
            weights,
            embedding,
            kv_cache: Bytes((shape.layers * shape.layer_len()) as u64 * self.kv.bytes()),
            scratch: Bytes((of_batch + lengths.threads * of_thread + rotary) as u64),
        }
    }
}

/// Lengths of an engine's buffers, in elements; see the fields of the same names in the engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    /// Tokens processed at a time.
    pub(super) batch: usize,
    pub(super) threads: usize,
    pub(super) shape: Shape,
    /// Elements of the widest vector.
    pub(super) widest: usize,
    pub(super) x: usize,
    pub(super) qkv: usize,
    pub(super) attention: usize,
    pub(super) ffn: usize,
    pub(super) logits: usize,
    /// A token's vector, or a panel's products; of each thread, as those below.
    pub(super) products: usize,
    pub(super) heads: usize,
    pub(super) scores: usize,
}

impl Lengths {
    pub(super) fn new(options: &EngineOptions, config: &Config) -> Self {
        let context = options.context;
        let shape = Shape {
            layers: config.layers,
            heads: config.kv_heads,
            context,
            dim: config.head_dim.next_multiple_of(LANES),
        };
        let batch = options.batch.clamp(1, context.max(1));
        let padded = |rows: usize| rows.next_multiple_of(PANEL_ROWS) * batch;
        let heads = config.heads * config.head_dim;
        let widest = config.hidden.max(config.ffn).max(heads);
        let few = ATTEND_TOKENS.min(batch);
        Lengths {
            batch,
            threads: options.threads.max(1),
            shape,
            widest,
            x: padded(config.hidden),
            qkv: padded(heads) + 2 * padded(config.kv_heads * config.head_dim),
            attention: config.heads * batch * shape.dim,
            ffn: padded(config.ffn),
            logits: config.vocab.next_multiple_of(PANEL_ROWS),
            products: widest.max(batch * PANEL_ROWS),
            heads: shape.dim * few,
            scores: context * few,
        }
    }
}
