//! Energy from the powercap tree that Linux keeps for RAPL counters (Intel, and AMD since Zen).
//!
//! `intel-rapl:N` is a package (one socket, or one die) or psys; `intel-rapl:N:M` is a part of package N
//! (core, uncore) or the memory beside it (dram). `intel-rapl-mmio:N` is the same package by another way
//! and is read only where the first is missing. See Documentation/power/powercap/powercap.rst of Linux.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::source::{
    Domain, DomainKind, NONE_IN_A_VM, Quantity, Raw, Reading, Refusal, Source, below, read, read_each,
    read_number, shown, unreadable, virtual_machine,
};
use crate::units::Joules;

const FOLDER: &str = "/sys/class/powercap";

/// RAPL counters advance about every millisecond (Intel SDM volume 3, chapter "Power and Thermal
/// Management", PKG RAPL domain).
pub(super) const RAPL_PERIOD: Duration = Duration::from_millis(1);

/// The coarsest step of RAPL counters in common use, 2^-14 J; some step by 2^-16 J.
pub(super) const RAPL_STEP: Joules = Joules(1.0 / 16_384.0);

const CHMOD: &str = "sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj";

struct Powercap {
    domains: Vec<Domain>,
    counters: Vec<PathBuf>,
}

/// A zone whose folder is called `intel-rapl:PACKAGE` or `intel-rapl:PACKAGE:PART`.
struct Zone {
    package: u32,
    part: Option<u32>,
    path: PathBuf,
    name: String,
}

/// Opens the tree below `root`, or the machine's own.
///
/// # Errors
/// If there is none, or if a counter that the total needs cannot be read: a sum over some of the packages
/// would be wrong.
pub(super) fn open(root: Option<&Path>) -> Result<Box<dyn Source>, Refusal> {
    let folder = below(root, FOLDER);
    let zones = zones(&folder).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => no_tree(root, &folder),
        _ => Refusal::new(unreadable(&folder, &e)),
    })?;
    let mut named: Vec<Zone> = named(zones, "intel-rapl").map_err(refusal)?;
    if !named.iter().any(|zone| zone.part.is_none() && zone.name.starts_with("package-")) {
        let twins = self::zones(&folder).unwrap_or_default();
        named.extend(self::named(twins, "intel-rapl-mmio").map_err(refusal)?);
    }
    let has_packages = named.iter().any(|zone| zone.part.is_none() && zone.name.starts_with("package-"));
    let mut source = Powercap { domains: Vec::new(), counters: Vec::new() };
    for zone in &named {
        let Some((name, kind, in_total)) = what(zone, &named, has_packages) else { continue };
        if source.domains.iter().any(|domain| domain.name == name) {
            let why = format!("two zones of {} are called {name}", folder.display());
            return Err(Refusal::new(why));
        }
        match counter(zone, in_total) {
            Ok(Some(turn)) => {
                source.domains.push(Domain {
                    name,
                    kind,
                    in_total,
                    quantity: Quantity::Counter { unit: Joules(1e-6), turn: Some(turn), step: RAPL_STEP },
                    update_period: RAPL_PERIOD,
                });
                source.counters.push(zone.path.join("energy_uj"));
            }
            Ok(None) => {}
            Err(why) if in_total => return Err(refusal(why)),
            // A part that cannot be read is missed by no total.
            Err(_) => {}
        }
    }
    if !source.domains.iter().any(|domain| domain.in_total) {
        let why =
            format!("{} has no package zone (intel-rapl:N named package-*) and no psys", folder.display());
        return Err(Refusal::new(why));
    }
    Ok(Box::new(source))
}

/// The range of a zone's counter in microjoules; none if it counts nothing. Its faults are said when the
/// source is opened, not after the first window.
fn counter(zone: &Zone, in_total: bool) -> Result<Option<u64>, String> {
    let range = read_number(&zone.path.join("max_energy_range_uj"), "microjoules")?;
    if range == 0 {
        let path = zone.path.display();
        return Err(format!("{path}: max_energy_range_uj is 0, so the counter cannot be read"));
    }
    let counts = read_number(&zone.path.join("energy_uj"), "microjoules")?;
    // A part that has cost nothing since the machine was started is not wired, or not there.
    Ok((in_total || counts > 0).then_some(range))
}

/// What a zone measures: its domain's name, its kind, and whether the total needs it.
fn what(zone: &Zone, zones: &[Zone], has_packages: bool) -> Option<(String, DomainKind, bool)> {
    let Some(_) = zone.part else {
        return match zone.name.as_str() {
            name if name.starts_with("package-") => Some((name.to_owned(), DomainKind::Package, true)),
            "psys" => {
                let first = zones.iter().find(|z| z.name == "psys").is_some_and(|z| z.path == zone.path);
                let name = if first { "psys".to_owned() } else { format!("psys-{}", zone.package) };
                // Of a machine without packages the platform is all that is known; once.
                Some((name, DomainKind::Psys, !has_packages && first))
            }
            _ => None,
        };
    };
    let parent = zones.iter().find(|z| z.part.is_none() && z.package == zone.package)?;
    let socket = parent.name.strip_prefix("package-")?;
    let kind = match zone.name.as_str() {
        "core" => DomainKind::Core,
        "uncore" => DomainKind::Uncore,
        "dram" => DomainKind::Dram,
        _ => return None,
    };
    Some((format!("{}-{socket}", zone.name), kind, kind == DomainKind::Dram))
}

/// The entries of the tree's folder.
fn zones(folder: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// The zones of one control type with their names, packages before their parts.
fn named(paths: Vec<PathBuf>, control: &str) -> Result<Vec<Zone>, String> {
    let mut zones = Vec::new();
    for path in paths {
        let numbers =
            path.file_name().and_then(|name| name.to_str()?.strip_prefix(control)?.strip_prefix(':'));
        let Some(numbers) = numbers else { continue };
        let (package, part) = match numbers.split_once(':') {
            None => (numbers.parse().ok(), None),
            // Deeper zones (N:M:K) are none that RAPL has.
            Some((package, part)) => match part.parse() {
                Ok(part) => (package.parse().ok(), Some(part)),
                Err(_) => continue,
            },
        };
        let Some(package) = package else { continue };
        let name = read(&path.join("name"))?;
        zones.push(Zone { package, part, path, name });
    }
    zones.sort_by_key(|zone| (zone.package, zone.part));
    Ok(zones)
}

fn no_tree(root: Option<&Path>, folder: &Path) -> Refusal {
    let why = format!("no powercap tree at {}", folder.display());
    if virtual_machine(root) {
        return Refusal::with(
            format!("{why} (a virtual machine, to which RAPL is not passed)"),
            NONE_IN_A_VM,
        );
    }
    Refusal::with(
        format!("{why} (a CPU without RAPL, or the kernel module is not loaded)"),
        "load the driver (Intel, and AMD since Zen)",
    )
    .command("sudo modprobe intel_rapl_msr")
}

fn refusal(why: String) -> Refusal {
    if why.ends_with("by root only") {
        Refusal::with(why, "run as root, or allow it until the next boot").command(CHMOD)
    } else {
        Refusal::new(why)
    }
}

impl Source for Powercap {
    fn name(&self) -> &str {
        "powercap"
    }

    fn domains(&self) -> &[Domain] {
        &self.domains
    }

    fn read(&mut self, _: Duration, only: Option<usize>, readings: &mut Vec<Reading>) {
        read_each(&self.counters, only, readings, |path| {
            counts(path).map(Raw::Counts).map_err(|why| refusal(why).to_string())
        });
    }
}

/// Reads a counter without allocating, for it may be read in a tight loop.
fn counts(path: &Path) -> Result<u64, String> {
    use io::Read;
    let mut text = [0; 64];
    let mut file = File::open(path).map_err(|e| unreadable(path, &e))?;
    let length = file.read(&mut text).map_err(|e| unreadable(path, &e))?;
    let text = String::from_utf8_lossy(&text[..length]);
    text.trim_end().parse().map_err(|_| {
        format!("{} holds '{}', which is no number of microjoules", path.display(), shown(text.trim_end()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_for_a_missing_permission_is_exact() {
        let path = Path::new("/sys/class/powercap/intel-rapl:0/energy_uj");
        let why = unreadable(path, &io::Error::from(io::ErrorKind::PermissionDenied));
        let said = refusal(why).to_string();
        assert!(said.contains("sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj"), "{said}");
    }
}
