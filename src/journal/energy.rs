//! Energy in the journal: windows of phases, idle machines, and what measuring itself costs.

use serde::{Deserialize, Serialize};

use crate::figure::Figure;
use crate::units::{Joules, Watts};

/// The energy of a window that holds one phase, or, if the phase is short for its source, several
/// repetitions of it, one behind the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnergyWindow {
    /// From edge to edge, nanoseconds; the sample's own window is its beginning.
    pub wall_ns: u64,
    /// How often the phase ran in it, the sample's own execution included.
    pub repetitions: u32,
    /// Every source that was read; figures come from the first.
    pub sources: Vec<SourceEnergy>,
}

/// The energy of one source within a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceEnergy {
    /// Name of the source.
    pub source: String,
    /// By domain.
    pub energy: Figure<Vec<DomainEnergy>>,
    /// What a reader must know about this window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<String>,
}

/// Energy of one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainEnergy {
    /// Name of the domain: `package-0`.
    pub domain: String,
    /// Energy within the window.
    pub energy_j: Joules,
    /// What it may be off by; journals before schema 3 do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty_j: Option<Joules>,
    /// Whether it belongs to the total of its source; before schema 3 packages did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_total: Option<bool>,
}

/// An amount of energy and what it may be off by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Energy {
    /// The energy.
    pub energy_j: Joules,
    /// What it may be off by, where that is known.
    pub uncertainty_j: Option<Joules>,
}

impl Energy {
    /// The share of one of `parts`.
    pub fn divided(self, parts: f64) -> Energy {
        Energy {
            energy_j: Joules(self.energy_j.0 / parts),
            uncertainty_j: self.uncertainty_j.map(|u| Joules(u.0 / parts)),
        }
    }
}

impl SourceEnergy {
    /// The total of the source: the domains that belong to it, none of which is part of another. The
    /// uncertainties add up, for those of the edges have one cause.
    pub fn total(&self) -> Figure<Energy> {
        total(&self.energy)
    }
}

/// The total of the domains of one source.
pub(crate) fn total(energy: &Figure<Vec<DomainEnergy>>) -> Figure<Energy> {
    let Some(domains) = energy.value() else {
        return Figure::unavailable(energy.found().err().unwrap_or_default());
    };
    let of_total: Vec<&DomainEnergy> =
        domains.iter().filter(|d| d.in_total.unwrap_or(d.domain.starts_with("package"))).collect();
    let sum: f64 = of_total.iter().map(|d| d.energy_j.0).sum();
    if of_total.is_empty() {
        Figure::unavailable("no energy domain that makes up a total (such as a package)")
    } else if of_total.iter().any(|d| !d.energy_j.0.is_finite() || d.energy_j.0 < 0.0) || !sum.is_finite() {
        Figure::unavailable("the energy counter gave an impossible reading")
    } else if sum == 0.0 {
        // A machine at work never uses nothing.
        Figure::unavailable("the energy counter did not advance within the window")
    } else {
        let uncertainty: Option<f64> = of_total.iter().map(|d| d.uncertainty_j.map(|u| u.0)).sum();
        let total = Energy { energy_j: Joules(sum), uncertainty_j: uncertainty.map(Joules) };
        energy.clone().map(|_| total)
    }
}

/// What the machine uses when no case runs: measured before the first round, between rounds, and after
/// the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdleSample {
    /// The round that follows; one more than there are after the last.
    pub before_round: u32,
    /// End of the window, in milliseconds since the Unix epoch.
    pub ended_unix_ms: u64,
    /// Length of the window, nanoseconds.
    pub wall_ns: u64,
    /// Every source that was read.
    pub sources: Vec<SourceEnergy>,
}

/// What measuring costs: the same work with all instruments and without, in turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverheadSample {
    /// Round, from 1.
    pub round: u32,
    /// Threads that worked.
    pub threads: u32,
    /// Pairs of windows of the same work.
    pub pairs: Vec<OverheadPair>,
}

/// A window with instruments and one without, of the same work; which came first alternates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OverheadPair {
    /// Wall time of the work with instruments, nanoseconds.
    pub with_ns: u64,
    /// Wall time of the work without, nanoseconds.
    pub without_ns: u64,
    /// What opening and closing the window took, nanoseconds: before and after the time of the work.
    pub edges_ns: u64,
}

/// The model `modelled:memory`: bytes read x energy of a byte, as the user states it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryEnergy {
    /// Energy of reading a byte from memory, picojoules.
    pub pj_per_byte: f64,
    /// Where that figure is from.
    pub source: String,
}

/// What the user states about energy, for columns of their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatedEnergy {
    /// Power of the processor when all its CPUs are busy: the model `assumed:tdp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdp_w: Option<Watts>,
    /// CPUs among which that power is shared out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Energy of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryEnergy>,
}
