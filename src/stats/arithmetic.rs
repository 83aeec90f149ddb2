//! The model `modelled:arithmetic`: the energy of a phase's multiplications and additions, and nothing else.
//!
//! It is how published energies of 1-bit models were obtained (arXiv:2310.11453, arXiv:2504.12285): each
//! operation costs what its circuit costs in a given process. Reading weights, caches, clocks and
//! leakage, which take most of what a CPU draws, are not in it. So it says what an ideal machine would
//! save, never what this one used.

use std::sync::LazyLock;

use bitjoule_kernels::Kernel;
use serde::Deserialize;

use crate::journal::MacCount;
use crate::published::rows;
use crate::units::Joules;

/// Energies of one operation, with their source.
const OPERATIONS: &str = include_str!("../../suites/published/operation_energy.csv");

/// The published figures that the model is held against.
const PUBLISHED: &str = include_str!("../../suites/published/efficiency_2504.12285.csv");

/// The geometries of their models.
const GEOMETRIES: &str = include_str!("../../suites/published/efficiency_geometries.csv");

/// Tokens of the pass whose energy arXiv:2504.12285 gives as that of a token: see [`published`].
pub const PUBLISHED_TOKENS: u64 = 512;

/// A process for which the energy of operations is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// 45 nm (Horowitz, ISSCC 2014).
    Nm45,
    /// 7 nm (PokeBNN, CVPR 2022).
    Nm7,
}

impl Process {
    /// Both.
    pub const ALL: [Process; 2] = [Process::Nm45, Process::Nm7];

    /// Its structure width, nanometres.
    pub fn nm(self) -> u32 {
        match self {
            Process::Nm45 => 45,
            Process::Nm7 => 7,
        }
    }
}

/// What the two operations of a multiply-accumulate work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operand {
    Fp32,
    Fp16,
    /// With a ternary weight: the product is the operand, its negative or nothing, so only the addition
    /// counts (arXiv:2310.11453, section 2.4).
    TernaryInt8,
}

#[derive(Deserialize)]
struct Operation {
    process_nm: u32,
    r#type: String,
    add_pj: f64,
    mul_pj: f64,
}

/// Energy of one multiply-accumulate.
fn mac(process: Process, operand: Operand) -> Joules {
    let (name, multiplies) = match operand {
        Operand::Fp32 => ("fp32", true),
        Operand::Fp16 => ("fp16", true),
        Operand::TernaryInt8 => ("int8", false),
    };
    // A long journal asks a million times.
    static ROWS: LazyLock<Vec<Operation>> = LazyLock::new(|| rows(OPERATIONS).collect());
    let row = ROWS
        .iter()
        .find(|row| row.process_nm == process.nm() && row.r#type == name)
        .expect("the table has every process and type");
    Joules((row.add_pj + if multiplies { row.mul_pj } else { 0.0 }) * 1e-12)
}

/// The energy of `macs` done by `kernel` in `process`. Linear layers are counted in the kernel's own
/// arithmetic: ternary kernels add int8, `f16` multiplies and adds fp16, `fp32-naive` fp32. Attention and
/// the output projection are fp16, but for `fp32-naive`.
pub fn energy(macs: MacCount, kernel: Kernel, process: Process) -> Joules {
    let (linear, rest) = match kernel {
        Kernel::Fp32Naive => (Operand::Fp32, Operand::Fp32),
        Kernel::F16 => (Operand::Fp16, Operand::Fp16),
        _ => (Operand::TernaryInt8, Operand::Fp16),
    };
    let of = |macs: u64, operand| macs as f64 * mac(process, operand).0;
    Joules(of(macs.linear, linear) + of(macs.attention, rest) + of(macs.head, rest))
}

/// A published estimate and what the model gives for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// Name of the model.
    pub model: String,
    /// The published figure, called the energy of a token.
    pub published_j: Joules,
    /// The model's figure for a pass over [`PUBLISHED_TOKENS`] tokens.
    pub pass_j: Joules,
    /// The model's figure for one token of that pass.
    pub token_j: Joules,
}

/// What of a model's shape its arithmetic depends on.
#[derive(Deserialize)]
pub(super) struct Geometry {
    pub(super) model: String,
    layers: u64,
    hidden: u64,
    ffn: u64,
    attention: u64,
    kv: u64,
}

impl Geometry {
    /// Weights of the linear layers.
    pub(super) fn linear_weights(&self) -> u64 {
        self.layers * (2 * self.hidden * (self.attention + self.kv) + 3 * self.hidden * self.ffn)
    }
}

/// The models of arXiv:2504.12285, Table 1.
pub(super) fn geometries() -> Vec<Geometry> {
    rows(GEOMETRIES).collect()
}

/// The estimates of arXiv:2504.12285, Table 1, derived anew.
///
/// The published figures are those of a pass over 512 tokens, not of one token: linear layers (BitNet's as
/// int8 additions, the others' in fp16) and attention of every token to all 512, causal or not, in fp16,
/// at 7 nm, without the output projection. That reproduces all six to the last digit published, and no
/// count for a single token comes near any: they are 512 times too small.
pub fn published() -> Vec<Published> {
    #[derive(Deserialize)]
    struct Estimate {
        model: String,
        estimated_energy_j: f64,
    }
    let geometries = geometries();
    rows::<Estimate>(PUBLISHED)
        .map(|row| {
            let g = geometries.iter().find(|g| g.model == row.model).expect("a geometry for each model");
            let macs = MacCount {
                linear: g.linear_weights() * PUBLISHED_TOKENS,
                attention: 2 * PUBLISHED_TOKENS * PUBLISHED_TOKENS * g.attention * g.layers,
                head: 0,
            };
            let kernel = if g.model.starts_with("BitNet") { Kernel::I2S } else { Kernel::F16 };
            let pass = energy(macs, kernel, Process::Nm7);
            Published {
                model: row.model,
                published_j: Joules(row.estimated_energy_j),
                pass_j: pass,
                token_j: Joules(pass.0 / PUBLISHED_TOKENS as f64),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_estimate_is_that_of_512_tokens_to_its_last_digit() {
        let rows = published();
        assert_eq!(rows.len(), 6);
        for row in rows {
            assert_eq!(
                format!("{:.3}", row.pass_j.0),
                format!("{:.3}", row.published_j.0),
                "{}: {:?}",
                row.model,
                row.pass_j
            );
            assert!(row.token_j.0 * 500.0 < row.published_j.0, "{}: no single token comes near", row.model);
        }
    }

    #[test]
    fn kernels_pay_for_their_own_arithmetic() {
        let macs = MacCount { linear: 1_000_000_000_000, attention: 0, head: 0 };
        let joules = |kernel, process| (energy(macs, kernel, process).0 * 1e4).round() / 1e4;
        assert_eq!(joules(Kernel::I2S, Process::Nm7), 0.007);
        assert_eq!(joules(Kernel::Tl2, Process::Nm45), 0.03);
        assert_eq!(joules(Kernel::F16, Process::Nm7), 0.5);
        assert_eq!(joules(Kernel::Fp32Naive, Process::Nm45), 4.6);
        let rest = MacCount { linear: 0, attention: 400_000_000_000, head: 600_000_000_000 };
        assert_eq!((energy(rest, Kernel::I2S, Process::Nm45).0 * 1e4).round() / 1e4, 1.5);
    }
}
