//! What a model file says of the model's architecture and shape.

use crate::error::{Error, Result};
use crate::gguf::Gguf;

use super::names;

/// The three architectures of public ternary models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `bitnet`: 1bitLLM's reproductions (large, 3B).
    BitNet,
    /// `bitnet-b1.58`, older `bitnet-25`: Microsoft's 2B4T.
    BitNetB158,
    /// `llama`: Llama3-8B-1.58, Falcon3, Falcon-E.
    Llama,
}

/// Gated activation of the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// SiLU(gate) * up
    Silu,
    /// relu(gate)^2 * up
    Relu2,
}

/// Which elements of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// i and i + d/2 (GPT-NeoX).
    Halves,
    /// 2i and 2i + 1; the file holds q and k permuted for it.
    Neighbours,
}

impl Architecture {
    /// The architecture that GGUF calls `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "bitnet" => Some(Self::BitNet),
            "bitnet-b1.58" | "bitnet-25" => Some(Self::BitNetB158),
            "llama" => Some(Self::Llama),
            _ => None,
        }
    }

    /// Activation of the feed-forward layer.
    pub fn activation(self) -> Activation {
        match self {
            Self::BitNet | Self::Llama => Activation::Silu,
            Self::BitNetB158 => Activation::Relu2,
        }
    }

    /// Whether there are norms before `attn_output` and `ffn_down`.
    pub fn has_sub_norms(self) -> bool {
        match self {
            Self::BitNet | Self::BitNetB158 => true,
            Self::Llama => false,
        }
    }

    /// Pairing of the rotary embedding.
    pub fn rope_pairs(self) -> RopePairs {
        match self {
            Self::BitNet | Self::BitNetB158 => RopePairs::Halves,
            Self::Llama => RopePairs::Neighbours,
        }
    }
}

/// Architecture and shape of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The architecture.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Layers that are computed.
    pub layers: usize,
    /// Layers whose weights there are, 1 to `layers`: layer i has those of layer i modulo this. Fewer than
    /// `layers` only in synthetic models larger than the machine; see METHODOLOGY.md, Tied layers.
    pub unique_layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Key and value heads; `heads` is a multiple of it.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Leading elements of a head that rotate.
    pub rope_dim: usize,
    /// Base of the rotation's frequencies.
    pub rope_base: f32,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Vocabulary: rows of the embedding.
    pub vocab: usize,
    /// Context length that the model was made for.
    pub context: usize,
    /// Whether the output projection is the token embedding.
    pub tied: bool,
}

/// Key of the number of layers that a file holds, where it is fewer than `block_count`: bitjoule's own.
pub(super) const UNIQUE_LAYERS: &str = "bitjoule.unique_layers";

/// Largest hidden or feed-forward width, head count and vocabulary: far beyond any model, and small
/// enough that no product of two of them overflows.
const MAX_DIM: u32 = 1 << 20;

impl Config {
    /// The configuration that a file's metadata describe.
    ///
    /// # Errors
    /// If the architecture is none of the three, a key is missing or out of range, or the file asks for
    /// something that the engine does not compute (RoPE scaling).
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let file = gguf.path_label();
        let name = gguf.req_str("general.architecture")?;
        let architecture = Architecture::by_name(name).ok_or_else(|| {
            Error::input(format!(
                "{file}: key 'general.architecture': '{name}' is no architecture of a ternary model; \
                 bitjoule runs bitnet, bitnet-b1.58 (bitnet-25) and llama"
            ))
        })?;
        let key = |k: &str| format!("{name}.{k}");
        let dimension = |k: &str, value: u32, max: u32| {
            if (1..=max).contains(&value) {
                Ok(value as usize)
            } else {
                Err(Error::input(format!("{file}: key '{}': {value} is not within 1 to {max}", key(k))))
            }
        };
        let required = |k: &str, max| dimension(k, gguf.req_u32(&key(k))?, max);
        let hidden = required("embedding_length", MAX_DIM)?;
        let ffn = required("feed_forward_length", MAX_DIM)?;
        let layers = required("block_count", 1 << 14)?;
        let unique_layers = match gguf.opt_u32(UNIQUE_LAYERS)? {
            None => layers,
            Some(unique) if (1..=layers).contains(&(unique as usize)) => unique as usize,
            Some(unique) => {
                return Err(Error::input(format!(
                    "{file}: key '{UNIQUE_LAYERS}': {unique} is not within 1 to the {layers} layers of the model"
                )));
            }
        };
        let heads = required("attention.head_count", 1 << 14)?;
        let context = required("context_length", 1 << 30)?;
        let optional = |k: &str, default: usize, max| match gguf.opt_u32(&key(k))? {
            Some(value) => dimension(k, value, max),
            None => Ok(default),
        };
        let kv_heads = optional("attention.head_count_kv", heads, 1 << 14)?;
        let head_dim = optional("attention.key_length", (hidden / heads).max(1), 1 << 14)?;
        let value_dim = optional("attention.value_length", head_dim, 1 << 14)?;
        let rope_dim = optional("rope.dimension_count", head_dim, 1 << 14)?;
        let rope_base = gguf.opt_f32(&key("rope.freq_base"))?.unwrap_or(10_000.0);
        let norm_eps = gguf.req_f32(&key("attention.layer_norm_rms_epsilon"))?;
        let wrong = |what: String| Err(Error::input(format!("{file}: {what}")));
        if heads % kv_heads != 0 {
            return wrong(format!("{heads} attention heads cannot share {kv_heads} key-value heads evenly"));
        }
        if gguf.opt_u32(&key("attention.key_length"))?.is_none() && hidden % heads != 0 {
            return wrong(format!("a width of {hidden} does not divide into {heads} heads"));
        }
        if value_dim != head_dim {
            return wrong(format!(
                "value heads of {value_dim} beside key heads of {head_dim} are not supported"
            ));
        }
        if rope_dim > head_dim || rope_dim % 2 != 0 {
            return wrong(format!(
                "key '{}': {rope_dim} of {head_dim} elements cannot rotate in pairs",
                key("rope.dimension_count")
            ));
        }
        if !(rope_base.is_finite() && rope_base > 0.0) {
            return wrong(format!("key '{}': {rope_base} is no base of frequencies", key("rope.freq_base")));
        }
        if !(norm_eps.is_finite() && norm_eps >= 0.0) {
            let k = key("attention.layer_norm_rms_epsilon");
            return wrong(format!("key '{k}': {norm_eps} is no epsilon"));
        }
        let scaling = gguf.opt_f32(&key("rope.scaling.factor"))?.unwrap_or(1.0);
        if scaling != 1.0 || gguf.tensor("rope_freqs.weight").is_some() {
            return wrong(
                "the model scales its rotary embedding (rope.scaling, rope_freqs); bitjoule would compute \
                 something else and does not run it"
                    .to_owned(),
            );
        }
        let embedding = gguf.tensor(names::EMBEDDING).ok_or_else(|| {
            Error::input(format!("{file}: there is no tensor '{}'; is this a whole model?", names::EMBEDDING))
        })?;
        let vocab =
            dimension("vocab_size", u32::try_from(embedding.rows()).unwrap_or(u32::MAX), MAX_DIM * 8)?;
        let tied = gguf.tensor(names::OUTPUT).is_none();
        Ok(Config {
            architecture,
            hidden,
            ffn,
            layers,
            unique_layers,
            heads,
            kv_heads,
            head_dim,
            rope_dim,
            rope_base,
            norm_eps,
            vocab,
            context,
            tied,
        })
    }
}
