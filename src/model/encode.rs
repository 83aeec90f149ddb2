//! Weights in the types that bitjoule writes: F32, F16 and I2_S.

use half::f16;

use crate::error::{Error, Result};
use crate::gguf::TensorType;

/// Trits of an I2_S block, and its bytes: bits 7..6 of byte j hold trit j, 5..4 trit j + 32, and so on
/// (the x86-64 layout of bitnet.cpp).
const BLOCK: usize = 128;

/// A type in which linear layers can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum WeightType {
    /// 32-bit floats.
    #[value(name = "f32")]
    F32,
    /// 16-bit floats.
    #[value(name = "f16")]
    F16,
    /// Two bits a weight and a scale for each tensor, as bitnet.cpp writes it on x86-64.
    #[value(name = "i2_s")]
    I2S,
}

impl WeightType {
    /// The GGUF tensor type.
    pub fn tensor_type(self) -> TensorType {
        match self {
            WeightType::F32 => TensorType::F32,
            WeightType::F16 => TensorType::F16,
            WeightType::I2S => TensorType::I2S,
        }
    }

    /// Whether rows of `cols` weights are whole blocks of this type.
    pub fn fits(self, cols: usize) -> bool {
        self != WeightType::I2S || cols.is_multiple_of(BLOCK)
    }

    /// Appends whole rows of ternary weights, `trits` x `scale`, to `out`.
    ///
    /// # Errors
    /// For I2_S, if the trits are no whole number of blocks; for F16, if `scale` overflows it.
    pub(super) fn encode_trits(self, trits: &[i8], scale: f32, out: &mut Vec<u8>) -> Result<()> {
        match self {
            WeightType::I2S => {
                let blocks = trits.chunks_exact(BLOCK);
                if !blocks.remainder().is_empty() {
                    return Err(Error::input("rows of I2_S are multiples of 128 columns"));
                }
                for block in blocks {
                    let code = |i: usize| (block[i] + 1) as u8;
                    out.extend(
                        (0..32).map(|j| code(j) << 6 | code(j + 32) << 4 | code(j + 64) << 2 | code(j + 96)),
                    );
                }
                Ok(())
            }
            WeightType::F16 | WeightType::F32 => {
                let values = [-scale, 0.0, scale];
                trits.iter().try_for_each(|&t| self.encode_float(values[(t + 1) as usize], out))
            }
        }
    }

    /// What follows the rows of an I2_S tensor: its scale and padding; nothing for other types.
    pub(super) fn encode_tail(self, scale: f32, out: &mut Vec<u8>) {
        if self == WeightType::I2S {
            out.extend(scale.to_le_bytes());
            out.extend([0; 28]);
        }
    }

    /// Appends a weight to `out`.
    ///
    /// # Errors
    /// If F16 cannot hold it.
    pub(super) fn encode_float(self, w: f32, out: &mut Vec<u8>) -> Result<()> {
        match self {
            WeightType::F32 => out.extend(w.to_le_bytes()),
            WeightType::F16 => {
                let half = f16::from_f32(w);
                if half.is_infinite() {
                    return Err(Error::input(format!("{w} is beyond what f16 holds; write f32")));
                }
                out.extend(half.to_le_bytes());
            }
            WeightType::I2S => return Err(Error::input("I2_S holds trits, not floats")),
        }
        Ok(())
    }
}
