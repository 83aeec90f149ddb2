//! The registry of kernels: their names, what they hold, and where they run.

use crate::{Format, Isa};

/// A way to store and multiply the linear layers of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kernel {
    /// 32-bit floats, row-major, plain loops: what a textbook would write. The naive baseline.
    Fp32Naive,
    /// Half-precision weights converted in registers, f32 arithmetic: the tuned baseline, meant
    /// for the memory wall.
    F16,
    /// Two bits a weight, int8 activations, exact integer sums.
    I2S,
    /// Tables of the sums of two columns: bitnet.cpp's TL1, lossless.
    Tl1,
    /// Tables of the sums of three columns: bitnet.cpp's TL2, lossless.
    Tl2,
    /// The same with table entries rounded to 8 bits, as in bitnet.cpp's TL2_0: not exact.
    Tl2Lossy,
    /// llama.cpp's TQ1_0: blocks of 256 weights, five and four to a byte.
    Tq1_0,
    /// llama.cpp's TQ2_0: blocks of 256 weights, four to a byte.
    Tq2_0,
    /// bitjoule's own: five weights to a byte, no blocks.
    Native,
}

impl Kernel {
    /// Every kernel, baselines first.
    pub const ALL: [Kernel; 9] = [
        Kernel::Fp32Naive,
        Kernel::F16,
        Kernel::I2S,
        Kernel::Tl1,
        Kernel::Tl2,
        Kernel::Tl2Lossy,
        Kernel::Tq1_0,
        Kernel::Tq2_0,
        Kernel::Native,
    ];

    /// The name used in suites and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Fp32Naive => "fp32-naive",
            Kernel::F16 => "f16",
            Kernel::I2S => "i2_s",
            Kernel::Tl1 => "tl1",
            Kernel::Tl2 => "tl2",
            Kernel::Tl2Lossy => "tl2-lossy",
            Kernel::Tq1_0 => "tq1_0",
            Kernel::Tq2_0 => "tq2_0",
            Kernel::Native => "native",
        }
    }

    /// The kernel called `name`, if there is one.
    pub fn by_name(name: &str) -> Option<Kernel> {
        Kernel::ALL.into_iter().find(|k| k.name() == name)
    }

    /// How the kernel stores the weights of linear layers.
    pub fn format(self) -> Format {
        match self {
            Kernel::Fp32Naive => Format::Fp32Rows,
            Kernel::F16 => Format::F16Panels,
            Kernel::I2S => Format::I2S,
            Kernel::Tl1 => Format::Tl1,
            Kernel::Tl2 => Format::Tl2,
            Kernel::Tl2Lossy => Format::Tl2Lossy,
            Kernel::Tq1_0 => Format::Tq1_0,
            Kernel::Tq2_0 => Format::Tq2_0,
            Kernel::Native => Format::Base3,
        }
    }

    /// Whether the kernel holds ternary weights only and quantizes activations to int8 (W1.58A8).
    pub fn is_ternary(self) -> bool {
        self.format().is_ternary()
    }

    /// Whether the kernel is ternary and its sums are exact: its logits are then those of every other such
    /// kernel.
    pub fn is_exact(self) -> bool {
        self.format().is_exact()
    }

    /// The instruction sets of this CPU that the kernel has code of its own for, slowest first.
    pub fn isas(self) -> Vec<Isa> {
        let mut isas = Isa::available();
        match self {
            Kernel::Fp32Naive => isas.truncate(1),
            Kernel::Native | Kernel::Tq1_0 => {}
            _ => isas.retain(|isa| !isa.base3_by_table()),
        }
        isas
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
