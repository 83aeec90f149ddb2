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
    /// Time of the executions in it; the rest is waiting for counters at the edges and reading instruments.
    pub work_ns: u64,
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

impl EnergyWindow {
    /// The energy of one execution by one of the window's sources, in total: mean power of the window x time
    /// of the executions / their number. What the rest of the window took is part of the uncertainty, for its
    /// power was another.
    pub fn execution(&self, source: &SourceEnergy) -> Figure<Energy> {
        if self.work_ns == 0 && source.total().value().is_some() {
            return Figure::unavailable("nothing was executed within the energy window");
        }
        let share = match self.wall_ns {
            0 => 1.0,
            wall_ns => self.work_ns.min(wall_ns) as f64 / wall_ns as f64,
        };
        let repetitions = f64::from(self.repetitions.max(1));
        source.total().map(|e| Energy {
            energy_j: Joules(e.energy_j.0 * share / repetitions),
            uncertainty_j: e
                .uncertainty_j
                .map(|u| Joules((u.0 * share + e.energy_j.0 * (1.0 - share)) / repetitions)),
        })
    }

    /// Mean time of one execution in it, seconds: not rounded to nanoseconds, which net energy would show.
    pub fn execution_s(&self) -> f64 {
        self.work_ns as f64 / 1e9 / f64::from(self.repetitions.max(1))
    }
}

impl SourceEnergy {
    /// The total of the source: the domains that belong to it, none of which is part of another. The
    /// uncertainties add up, for those of the edges have one cause.
    pub fn total(&self) -> Figure<Energy> {
        let Some(domains) = self.energy.value() else {
            return Figure::unavailable(self.energy.found().err().unwrap_or_default());
        };
        let of_total: Vec<&DomainEnergy> =
            domains.iter().filter(|d| d.in_total.unwrap_or(d.domain.starts_with("package"))).collect();
        let sum: f64 = of_total.iter().map(|d| d.energy_j.0).sum();
        if of_total.is_empty() {
            Figure::unavailable("no energy domain that makes up a total (such as a package)")
        } else if of_total.iter().any(|d| !d.energy_j.0.is_finite() || d.energy_j.0 < 0.0) || !sum.is_finite()
        {
            Figure::unavailable("the energy counter gave an impossible reading")
        } else if sum == 0.0 {
            // A machine at work never uses nothing.
            Figure::unavailable("the energy counter did not advance within the window")
        } else {
            let uncertainty: Option<f64> = of_total.iter().map(|d| d.uncertainty_j.map(|u| u.0)).sum();
            let total = Energy { energy_j: Joules(sum), uncertainty_j: uncertainty.map(Joules) };
            self.energy.clone().map(|_| total)
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Sample, Work};
    use crate::units::Bytes;

    fn domain(name: &str, energy_j: f64, in_total: bool) -> DomainEnergy {
        let uncertainty_j = Some(Joules(0.5));
        DomainEnergy {
            domain: name.to_owned(),
            energy_j: Joules(energy_j),
            uncertainty_j,
            in_total: Some(in_total),
        }
    }

    fn sample(window: Option<EnergyWindow>, energy: Option<Figure<Vec<DomainEnergy>>>) -> Sample {
        Sample {
            case: "c".to_owned(),
            round: 1,
            visit: 1,
            ended_unix_ms: 0,
            wall_ns: 1,
            cpu_ns: 1,
            energy,
            energy_window: window,
            memory: Figure::unavailable("-"),
            pss: None,
            faults: None,
            counters: None,
            state: None,
            profile: None,
            work: Work::Load {
                file_bytes: Bytes(1),
                weight_bytes: Bytes(1),
                predicted: None,
                predicted_full: None,
                limit: None,
                kept: None,
            },
        }
    }

    #[test]
    fn one_execution_has_its_share_of_the_window_and_parts_are_not_added() {
        let domains = vec![
            domain("package-0", 60.0, true),
            domain("core-0", 40.0, false),
            domain("dram-0", 20.0, true),
        ];
        let source = SourceEnergy {
            source: "powercap".to_owned(),
            energy: Figure::measured(domains, "powercap"),
            marks: Vec::new(),
        };
        // 80 J, of which four executions had three quarters of the time.
        let window = EnergyWindow { wall_ns: 400, work_ns: 300, repetitions: 4, sources: vec![source] };
        // Repetitions of a few hundred microseconds would lose millionths to a rounded nanosecond each.
        assert_eq!(EnergyWindow { work_ns: 10, repetitions: 4, ..window.clone() }.execution_s(), 2.5e-9);
        let energy = *sample(Some(window), None).phase_energy().value().unwrap();
        assert_eq!(energy.energy_j, Joules(15.0));
        // 1 J of both domains, and the quarter that was not work.
        assert_eq!(energy.uncertainty_j, Some(Joules((1.0 * 0.75 + 80.0 * 0.25) / 4.0)));
    }

    #[test]
    fn old_journals_have_their_packages() {
        let old = |name: &str| {
            let domain = DomainEnergy { uncertainty_j: None, in_total: None, ..domain(name, 3.0, true) };
            sample(None, Some(Figure::measured(vec![domain], "powercap"))).phase_energy()
        };
        assert_eq!(old("package-0").value().unwrap().energy_j, Joules(3.0));
        assert!(old("psys").provenance().contains("no energy domain"));
        assert!(sample(None, None).phase_energy().provenance().contains("no energy"));
    }
}
