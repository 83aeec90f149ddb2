//! Package energy from the powercap tree that Linux keeps for RAPL counters (Intel, and AMD since Zen).
//!
//! Read are the top-level zones `intel-rapl:N` whose name is `package-*`: each is one socket (or die)
//! with everything on it. Their subzones (`core`, `uncore`, `dram`) are parts of them or not the
//! package, `psys` contains them, and `intel-rapl-mmio:N` is the same counter by another way; adding
//! any of these would count energy twice.
//!
//! A counter advances about every millisecond and returns to zero after `max_energy_range_uj`. Between
//! two readings the energy is therefore known up to whole turns, and the figure is given only where
//! exactly one number of turns is physically possible (see `MAX_PACKAGE_W`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::figure::Figure;
use crate::journal::DomainEnergy;
use crate::units::Joules;

const DEFAULT_ROOT: &str = "/sys/class/powercap";

/// More than any package draws, in watts (the largest are specified for about 500). It bounds what a
/// window can have cost: a difference above the bound is not energy, and a window long enough for a
/// further whole turn of the counter below it cannot be told from one turn less. A counter of 65 kJ
/// (AMD) is good for windows of 65 s and more, one of 262 kJ (Intel) for 262 s and more.
const MAX_PACKAGE_W: f64 = 1000.0;

/// Slack in the length of a window for the counter's own schedule, which is not ours.
const UPDATE_SLACK: Duration = Duration::from_millis(100);

/// The package energy counters of this machine.
#[derive(Debug, Clone)]
pub struct EnergyMeter {
    /// Root of a simulated tree; none for the machine's own.
    simulated: Option<PathBuf>,
    /// The packages, or why there are none.
    zones: Result<Vec<Zone>, String>,
}

#[derive(Debug, Clone)]
struct Zone {
    /// Such as `package-0`.
    name: String,
    energy_uj: PathBuf,
    range_uj: u64,
}

/// The counters at one moment, to be given to [`EnergyMeter::since`] of the same meter.
#[derive(Debug, Clone)]
pub struct Reading {
    taken: Instant,
    /// A counter for each zone, or why one could not be read.
    counters_uj: Result<Vec<u64>, String>,
}

impl EnergyMeter {
    /// Opens the machine's powercap tree, or a simulated one at `root`, whose figures are then
    /// [`Figure::Simulated`]. A machine without usable counters gives a meter whose every figure is
    /// [`Figure::Unavailable`] with the reason.
    pub fn open(root: Option<&Path>) -> EnergyMeter {
        let zones = zones(root.unwrap_or(Path::new(DEFAULT_ROOT)));
        EnergyMeter { simulated: root.map(Path::to_owned), zones }
    }

    /// Reads the counters: the start of a window.
    pub fn start(&self) -> Reading {
        let counters_uj = match &self.zones {
            Ok(zones) => zones.iter().map(|zone| read_uj(&zone.energy_uj)).collect(),
            Err(why) => Err(why.clone()),
        };
        Reading { taken: Instant::now(), counters_uj }
    }

    /// The energy of each package since `start`, a reading of this meter. All packages or none: a sum
    /// over some of them would be wrong.
    ///
    /// The counters' update period (about 1 ms) is the resolution at both ends of the window; a window
    /// in which some counter did not move at all has no figure.
    pub fn since(&self, start: &Reading) -> Figure<Vec<DomainEnergy>> {
        let end = self.start();
        match self.energies(start, &end) {
            Ok(energies) => match &self.simulated {
                None => Figure::measured(energies, "powercap"),
                Some(root) => {
                    Figure::Simulated { value: energies, by: format!("powercap tree at {}", root.display()) }
                }
            },
            Err(why) => Figure::unavailable(why),
        }
    }

    fn energies(&self, start: &Reading, end: &Reading) -> Result<Vec<DomainEnergy>, String> {
        let zones = self.zones.as_ref().map_err(String::clone)?;
        let before = start.counters_uj.as_ref().map_err(String::clone)?;
        let after = end.counters_uj.as_ref().map_err(String::clone)?;
        if before.len() != zones.len() {
            return Err("the window began with another energy meter".to_owned());
        }
        let window = end.taken.saturating_duration_since(start.taken);
        zones
            .iter()
            .zip(before.iter().zip(after))
            .map(|(zone, (&before, &after))| {
                let energy_j = energy(before, after, zone.range_uj, window)
                    .map_err(|why| format!("{}: {why}", zone.name))?;
                Ok(DomainEnergy { domain: zone.name.clone(), energy_j })
            })
            .collect()
    }
}

/// The energy between two readings of a counter that returns to zero after `range_uj`.
fn energy(before: u64, after: u64, range_uj: u64, window: Duration) -> Result<Joules, String> {
    if before > range_uj || after > range_uj {
        return Err(format!("the counter reads {} uJ but its range is {range_uj} uJ", before.max(after)));
    }
    if before == after {
        return Err(format!(
            "the counter did not change in {:.3} ms: the window is shorter than its update period",
            window.as_secs_f64() * 1e3
        ));
    }
    let uj = if after > before { after - before } else { range_uj - before + after };
    let energy_j = uj as f64 / 1e6;
    let range_j = range_uj as f64 / 1e6;
    let most_j = MAX_PACKAGE_W * (window + UPDATE_SLACK).as_secs_f64();
    if energy_j > most_j {
        return Err(format!(
            "the counter went from {before} to {after} uJ in {:.3} s, more than {MAX_PACKAGE_W} W: it was reset or is broken",
            window.as_secs_f64()
        ));
    }
    if energy_j + range_j <= most_j {
        return Err(format!(
            "the window of {:.0} s is long enough for the counter (range {range_j:.0} J) to turn over unseen",
            window.as_secs_f64()
        ));
    }
    Ok(Joules(energy_j))
}

/// The package zones of the tree at `root`, in the order of their numbers.
fn zones(root: &Path) -> Result<Vec<Zone>, String> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(format!(
                "no powercap tree at {} (a virtual machine to which none is passed, a CPU without RAPL, or the intel_rapl module not loaded)",
                root.display()
            ));
        }
        Err(e) => return Err(format!("cannot list {}: {e}", root.display())),
    };
    let mut numbered = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| format!("cannot list {}: {e}", root.display()))?;
        let number =
            entry.file_name().to_str().and_then(|name| name.strip_prefix("intel-rapl:")?.parse().ok());
        if let Some(number) = number {
            numbered.push((number, entry.path()));
        }
    }
    numbered.sort_by_key(|(number, _): &(u32, PathBuf)| *number);

    let mut zones: Vec<Zone> = Vec::new();
    for (_, path) in numbered {
        let name = read(&path.join("name"))?;
        if !name.starts_with("package-") {
            continue;
        }
        if zones.iter().any(|zone| zone.name == name) {
            return Err(format!("two zones of {} are called {name}", root.display()));
        }
        let range_uj = read_uj(&path.join("max_energy_range_uj"))?;
        if range_uj == 0 {
            return Err(format!(
                "{}: max_energy_range_uj is 0, so the counter cannot be read",
                path.display()
            ));
        }
        let energy_uj = path.join("energy_uj");
        read_uj(&energy_uj)?; // Said when the meter is opened, not after the first window.
        zones.push(Zone { name, energy_uj, range_uj });
    }
    if zones.is_empty() {
        return Err(format!("{} has no package zone (intel-rapl:N named package-*)", root.display()));
    }
    Ok(zones)
}

fn read_uj(path: &Path) -> Result<u64, String> {
    let text = read(path)?;
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
        format!("{} holds '{shown}', which is no number of microjoules", path.display())
    })
}

fn read(path: &Path) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(e) => Err(refusal(path, &e)),
    }
}

/// Why `path` cannot be read and, if a permission is lacking, what gives it.
fn refusal(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "{} is readable by root only; run as root, or allow it until the next boot with: sudo chmod a+r {DEFAULT_ROOT}/intel-rapl:*/energy_uj",
            path.display()
        ),
        io::ErrorKind::NotFound => format!("{} is not there", path.display()),
        _ => format!("cannot read {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: u64 = 65_532_610_987;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn differences_and_one_turn_are_energy() {
        assert_eq!(energy(1_000_000, 101_000_000, RANGE, SECOND), Ok(Joules(100.0)));
        assert_eq!(energy(RANGE - 40_000_000, 60_000_000, RANGE, SECOND), Ok(Joules(100.0)));
        assert_eq!(energy(RANGE, 5, RANGE, SECOND), Ok(Joules(5e-6)));
    }

    #[test]
    fn doubtful_differences_are_not() {
        let why = |before, after, window| energy(before, after, RANGE, window).unwrap_err();
        assert!(why(7, 7, Duration::from_micros(300)).contains("did not change in 0.300 ms"));
        assert!(why(7, RANGE + 1, SECOND).contains("its range is"));
        // Went back a little: a reset, because almost a whole turn in a second is no power of a CPU.
        assert!(why(9_000_000, 8_000_000, SECOND).contains("reset or is broken"));
        assert!(why(0, 2_000_000_000, SECOND).contains("more than 1000 W"));
        // 10 J and 65.5 kJ + 10 J are both possible in 100 s.
        assert!(why(0, 10_000_000, 100 * SECOND).contains("turn over unseen"));
        assert!(energy(0, 10_000_000_000, RANGE, 70 * SECOND).is_ok());
    }

    #[test]
    fn the_remedy_for_a_missing_permission_is_exact() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        let why = refusal(Path::new("/sys/class/powercap/intel-rapl:0/energy_uj"), &error);
        assert!(why.contains("sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"), "{why}");
    }
}
