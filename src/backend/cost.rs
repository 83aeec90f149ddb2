//! What a prefill cannot do without: the numerators of its roofline.

use std::ops::Range;

use crate::journal::{MacCount, PrefillCost};
use crate::model::Model;
use crate::units::Bytes;

/// The multiply-accumulates and the reads that a prompt of `n_prompt` tokens costs at least.
///
/// - Every linear layer multiplies each of its weights with each token: in int8 where the kernel
///   quantizes activations, else in f32.
/// - Attention, in f32: token i multiplies its query with i keys and its weights with i values, in each
///   head of each layer (causal, its own included).
/// - The output projection, in f32, of the last token alone: only its logits are wanted.
/// - Norms, activations, rotary embedding and quantization are left out, so the bound stays one.
/// - Every weight is read once, however the prompt is cut into batches.
pub fn prefill_cost(model: &Model, n_prompt: usize) -> PrefillCost {
    let MacCount { linear, attention, head } = macs(model, 0..n_prompt, 1);
    let (int8_macs, float_linear) = if model.kernel.is_ternary() { (linear, 0) } else { (0, linear) };
    PrefillCost {
        int8_macs,
        f32_macs: float_linear + attention + head,
        read_bytes: Bytes(model.multiplied().map(|m| m.payload_bytes()).sum()),
    }
}

/// The multiply-accumulates of computing the tokens at `positions`, and the logits of `logits` of them.
/// Token i attends to i earlier ones and to itself.
pub fn macs(model: &Model, positions: Range<usize>, logits: usize) -> MacCount {
    let config = &model.config;
    let weights = |rows: usize, cols: usize| rows as u64 * cols as u64;
    let head = weights(model.head().rows(), model.head().cols());
    let linear = model.multiplied().map(|m| weights(m.rows(), m.cols())).sum::<u64>() - head;
    let up_to = |n: usize| n as u64 * (n as u64 + 1) / 2;
    let pairs = up_to(positions.end) - up_to(positions.start);
    MacCount {
        linear: linear * positions.len() as u64,
        attention: 2 * pairs * (config.layers * config.heads * config.head_dim) as u64,
        head: head * logits as u64,
    }
}

#[cfg(test)]
mod tests {
    use bitjoule_kernels::Kernel;

    use super::*;
    use crate::gguf::{Gguf, I2sLayout};
    use crate::model::{BUILTIN_GGUF, BUILTIN_NAME, Plan};

    #[test]
    fn the_cost_is_that_counted_by_hand() {
        let gguf = Gguf::from_static(BUILTIN_GGUF, BUILTIN_NAME).unwrap();
        let model = |kernel| {
            Plan::new(&gguf, kernel, I2sLayout::X86_64).unwrap().load(bitjoule_kernels::Isa::SCALAR).unwrap()
        };
        let c = model(Kernel::I2S).config;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let linear = (c.layers * (2 * c.hidden * q + 2 * c.hidden * kv + 3 * c.hidden * c.ffn)) as u64;
        let head = (c.vocab * c.hidden) as u64;
        // Three tokens see 1 + 2 + 3 keys, and as many values.
        let attention = (c.layers * 2 * 6 * q) as u64;
        let ternary = prefill_cost(&model(Kernel::I2S), 3);
        assert_eq!((ternary.int8_macs, ternary.f32_macs), (3 * linear, attention + head));
        assert_eq!(ternary.read_bytes, Bytes(linear / 4 + head * 2));
        // A token at position 3 sees 4 keys; the three before it and it together make one prompt of four.
        let next = macs(&model(Kernel::I2S), 3..4, 1);
        let step = MacCount { linear, attention: (c.layers * 2 * 4 * q) as u64, head };
        assert_eq!(next, step);
        let float = prefill_cost(&model(Kernel::F16), 3);
        assert_eq!((float.int8_macs, float.f32_macs), (0, 3 * linear + attention + head));
        assert_eq!(float.read_bytes, Bytes(linear * 2 + head * 2));
    }
}
