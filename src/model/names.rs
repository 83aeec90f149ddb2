//! The GGUF names of the tensors, and the shapes that a configuration gives them.

use super::Config;

/// Token embedding, and output projection where it is tied.
pub(super) const EMBEDDING: &str = "token_embd.weight";
/// Final norm.
pub(super) const OUTPUT_NORM: &str = "output_norm.weight";
/// Output projection where it is not tied.
pub(super) const OUTPUT: &str = "output.weight";

/// A tensor's name in layer `layer`.
pub(super) fn in_layer(layer: u32, part: &str) -> String {
    format!("blk.{layer}.{part}.weight")
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A vector of norm weights.
    Norm,
    /// Embedding or output projection: never ternary.
    Head,
    /// A linear layer: what the kernels multiply.
    Linear,
}

/// A tensor that a model has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// Every tensor of a model of this configuration, in the order of computation.
pub(super) fn expected(config: &Config) -> Vec<Expected> {
    let mut all = Vec::new();
    let mut add =
        |name: String, role, rows: usize, cols: usize| all.push(Expected { name, role, rows, cols });
    let (hidden, ffn) = (config.hidden, config.ffn);
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    add(EMBEDDING.to_owned(), Role::Head, config.vocab, hidden);
    for layer in 0..config.unique_layers as u32 {
        let mut add = |part, role, rows, cols| add(in_layer(layer, part), role, rows, cols);
        add("attn_norm", Role::Norm, 1, hidden);
        add("attn_q", Role::Linear, q, hidden);
        add("attn_k", Role::Linear, kv, hidden);
        add("attn_v", Role::Linear, kv, hidden);
        if config.architecture.has_sub_norms() {
            add("attn_sub_norm", Role::Norm, 1, q);
        }
        add("attn_output", Role::Linear, hidden, q);
        add("ffn_norm", Role::Norm, 1, hidden);
        add("ffn_gate", Role::Linear, ffn, hidden);
        add("ffn_up", Role::Linear, ffn, hidden);
        if config.architecture.has_sub_norms() {
            add("ffn_sub_norm", Role::Norm, 1, ffn);
        }
        add("ffn_down", Role::Linear, hidden, ffn);
    }
    add(OUTPUT_NORM.to_owned(), Role::Norm, 1, hidden);
    if !config.tied {
        add(OUTPUT.to_owned(), Role::Head, config.vocab, hidden);
    }
    all
}
