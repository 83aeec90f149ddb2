//! The published tables: what they are called, where they are from, and how their files are read.
//!
//! The files are in `suites/published`, each with its source in its first lines, beside the suites that
//! measure the same.

use serde::de::DeserializeOwned;

/// A published table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Tokens/s of models from 125M to 100B, f16 against ternary.
    Speed,
    /// Joules per token, f16 against ternary.
    Energy,
    /// Memory, latency and estimated energy of 2B4T against full-precision models.
    Efficiency,
    /// Thread scaling of the parallel kernels on 2B4T.
    Kernels,
}

impl Target {
    /// Every table, in the order in which they were published.
    pub const ALL: [Target; 4] = [Target::Speed, Target::Energy, Target::Efficiency, Target::Kernels];

    /// Name on the command line and in suites.
    pub fn name(self) -> &'static str {
        match self {
            Target::Speed => "speed-2410.16144",
            Target::Energy => "energy-2410.16144",
            Target::Efficiency => "efficiency-2504.12285",
            Target::Kernels => "kernels-2026-01",
        }
    }

    /// The target of that name.
    pub fn by_name(name: &str) -> Option<Target> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Whether its ratios divide by a baseline kernel.
    pub fn has_baseline(self) -> bool {
        matches!(self, Target::Speed | Target::Energy)
    }

    /// What a reader of the paper asks of a machine.
    pub fn question(self) -> &'static str {
        match self {
            Target::Speed => "Do the published speedups of bitnet.cpp hold on this machine?",
            Target::Energy => "Do the published energy savings of bitnet.cpp hold on this machine?",
            Target::Efficiency => "Do the published memory, latency and energy of BitNet b1.58 2B4T hold?",
            Target::Kernels => "Does the published thread scaling of bitnet.cpp hold on this machine?",
        }
    }

    /// Where it was published.
    pub fn source(self) -> &'static str {
        match self {
            Target::Speed => "arXiv:2410.16144 and the charts of the microsoft/BitNet README, October 2024",
            Target::Energy => "arXiv:2410.16144, energy of a generated token",
            Target::Efficiency => "arXiv:2504.12285, Table 1",
            Target::Kernels => "microsoft/BitNet, assets/performance.png, January 2026",
        }
    }
}

/// The rows of a table that ships with bitjoule.
pub(crate) fn rows<T: DeserializeOwned>(table: &'static str) -> impl Iterator<Item = T> {
    let reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(table.as_bytes());
    reader.into_deserialize().map(|row| row.expect("a table that ships is well-formed"))
}
