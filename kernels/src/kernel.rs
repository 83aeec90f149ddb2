//! The registry of kernels: their names, what they hold, and where they run.

use crate::Isa;

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
}

impl Kernel {
    /// Every kernel, baselines first.
    pub const ALL: [Kernel; 3] = [Kernel::Fp32Naive, Kernel::F16, Kernel::I2S];

    /// The name used in suites and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Fp32Naive => "fp32-naive",
            Kernel::F16 => "f16",
            Kernel::I2S => "i2_s",
        }
    }

    /// The kernel called `name`, if there is one.
    pub fn by_name(name: &str) -> Option<Kernel> {
        Kernel::ALL.into_iter().find(|k| k.name() == name)
    }

    /// Whether the kernel holds ternary weights only and quantizes activations to int8 (W1.58A8).
    pub fn is_ternary(self) -> bool {
        match self {
            Kernel::Fp32Naive | Kernel::F16 => false,
            Kernel::I2S => true,
        }
    }

    /// The instruction sets of this CPU that the kernel has code for, slowest first.
    pub fn isas(self) -> Vec<Isa> {
        match self {
            Kernel::Fp32Naive => vec![Isa::SCALAR],
            Kernel::F16 | Kernel::I2S => Isa::available(),
        }
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
