//! Energy from the kernel's perf PMU `power`, which sums RAPL counters to 64 bits.
//!
//! Each event has its number, scale and unit in sysfs, and is opened once for each package, on the CPU
//! that `cpumask` names (arch/x86/events/rapl.c of Linux).
//!
//! A counter of the kernel has no file. In a simulated tree each is a file with its number,
//! `/perf_event/TYPE/CONFIG/CPU`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::powercap::{RAPL_PERIOD, RAPL_STEP};
use super::source::{
    Domain, DomainKind, NONE_IN_A_VM, Quantity, Raw, Reading, Refusal, Source, below, read, read_each,
    read_number, shown, virtual_machine,
};
use super::topology::{place, places, socket};
use crate::probe::perf::{self, Event, Scope};
use crate::units::Joules;

const DEVICES: &str = "/sys/bus/event_source/devices";

const EVENTS: [(&str, DomainKind, &str); 5] = [
    ("energy-pkg", DomainKind::Package, "package"),
    ("energy-cores", DomainKind::Core, "core"),
    ("energy-gpu", DomainKind::Uncore, "uncore"),
    ("energy-ram", DomainKind::Dram, "dram"),
    ("energy-psys", DomainKind::Psys, "psys"),
];

struct Perf {
    domains: Vec<Domain>,
    counters: Vec<Counter>,
}

pub(super) fn open(root: Option<&Path>) -> Result<Box<dyn Source>, Refusal> {
    let pmu = below(root, DEVICES).join("power");
    if !pmu.join("type").exists() {
        let why = format!("no PMU for energy at {}", pmu.display());
        return Err(if virtual_machine(root) {
            Refusal::with(format!("{why} (a virtual machine)"), NONE_IN_A_VM)
        } else {
            Refusal::with(why, "load the driver (Intel, and AMD since Zen)").command("sudo modprobe rapl")
        });
    }
    let mask = read(&pmu.join("cpumask")).map_err(Refusal::new)?;
    let cpus = crate::probe::cpu_list(&mask).filter(|cpus| !cpus.is_empty()).ok_or_else(|| {
        Refusal::new(format!(
            "{} holds '{}', which names no CPU",
            pmu.join("cpumask").display(),
            shown(&mask)
        ))
    })?;
    let all = places(root);
    let mut source = Perf { domains: Vec::new(), counters: Vec::new() };
    let has_packages = pmu.join("events/energy-pkg").exists();
    for (file, kind, prefix) in EVENTS {
        if !pmu.join("events").join(file).exists() {
            continue;
        }
        let in_total = match kind {
            DomainKind::Package | DomainKind::Dram => true,
            kind => kind == DomainKind::Psys && !has_packages,
        };
        match counters(root, &pmu, file, &cpus, kind) {
            Ok((unit, counters)) => {
                for (cpu, counter) in counters {
                    let name = match place(root, cpu) {
                        _ if kind == DomainKind::Psys => prefix.to_owned(),
                        Some(place) => format!("{prefix}-{}", socket(place, &all)),
                        None => format!("{prefix}-cpu{cpu}"),
                    };
                    if source.domains.iter().any(|domain| domain.name == name) {
                        let why = format!("{} names two CPUs of {name}", pmu.join("cpumask").display());
                        return Err(Refusal::new(why));
                    }
                    let quantity = Quantity::Counter { unit, turn: None, step: RAPL_STEP };
                    source.domains.push(Domain {
                        name,
                        kind,
                        in_total,
                        quantity,
                        update_period: RAPL_PERIOD,
                    });
                    source.counters.push(counter);
                }
            }
            Err(refusal) if in_total => return Err(refusal),
            Err(_) => {}
        }
    }
    if !source.domains.iter().any(|domain| domain.in_total) {
        let why = format!("{} has neither energy-pkg nor energy-psys", pmu.join("events").display());
        return Err(Refusal::new(why));
    }
    Ok(Box::new(source))
}

/// The unit of an event and its counter on each CPU; psys, which is one for the machine, on the first.
fn counters(
    root: Option<&Path>,
    pmu: &Path,
    file: &str,
    cpus: &[u32],
    kind: DomainKind,
) -> Result<(Joules, Vec<(u32, Counter)>), Refusal> {
    let event = event(pmu, file).map_err(Refusal::new)?;
    let path = |end: &str| pmu.join("events").join(format!("{file}{end}"));
    let unit = read(&path(".unit")).map_err(Refusal::new)?;
    if unit != "Joules" {
        let why = format!("{} holds '{}', not Joules", path(".unit").display(), shown(&unit));
        return Err(Refusal::new(why));
    }
    let text = read(&path(".scale")).map_err(Refusal::new)?;
    let scale: f64 =
        text.parse().ok().filter(|scale: &f64| scale.is_finite() && *scale > 0.0).ok_or_else(|| {
            Refusal::new(format!("{} holds '{}', which is no scale", path(".scale").display(), shown(&text)))
        })?;
    let cpus = if kind == DomainKind::Psys { &cpus[..1] } else { cpus };
    let counters: Result<Vec<_>, Refusal> = cpus
        .iter()
        .map(|&cpu| {
            let counter = Counter::open(root, event, cpu)?;
            counter.read().map_err(Refusal::new)?;
            Ok((cpu, counter))
        })
        .collect();
    Ok((Joules(scale), counters?))
}

/// The event of a PMU's folder that `events/FILE` describes.
fn event(pmu: &Path, file: &str) -> Result<Event, String> {
    let kind = read_number(&pmu.join("type"), "a PMU")?;
    let path = pmu.join("events").join(file);
    let text = read(&path)?;
    // Of RAPL and the MSR PMU `event` is the low end of config; other PMUs have more terms.
    let config = text.strip_prefix("event=0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    let (Ok(ty), Some(config)) = (u32::try_from(kind), config) else {
        return Err(format!("{} holds '{}', which is no event of energy", path.display(), shown(&text)));
    };
    Ok(Event { ty, config: [config, 0, 0] })
}

enum Counter {
    Kernel(File),
    Simulated(PathBuf),
}

impl Counter {
    fn open(root: Option<&Path>, event: Event, cpu: u32) -> Result<Counter, Refusal> {
        if let Some(root) = root {
            let Event { ty, config: [config, ..] } = event;
            return Ok(Counter::Simulated(root.join(format!("perf_event/{ty}/{config}/{cpu}"))));
        }
        perf::open(event, Scope::Cpu(cpu), None).map(Counter::Kernel).map_err(|e| {
            let why = format!("the kernel refuses the energy event on CPU {cpu}: {e}");
            match e.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    Refusal::with(why, "run as root, or allow it until the next boot")
                        .command("sudo sysctl kernel.perf_event_paranoid=0")
                }
                _ => Refusal::new(why),
            }
        })
    }

    fn read(&self) -> Result<u64, String> {
        match self {
            Counter::Kernel(file) => perf::read(file, 1).map(|counts| counts.leader()),
            Counter::Simulated(path) => read_number(path, "counts"),
        }
    }
}

impl Source for Perf {
    fn name(&self) -> &str {
        "perf"
    }

    fn domains(&self) -> &[Domain] {
        &self.domains
    }

    fn read(&mut self, _: Duration, only: Option<usize>, readings: &mut Vec<Reading>) {
        read_each(&self.counters, only, readings, |counter| counter.read().map(Raw::Counts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The opener of the energy events, on the one system-wide event that most machines have.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_time_stamp_counter_of_the_msr_pmu_is_read_for_real() {
        let pmu = Path::new(DEVICES).join("msr");
        let event = match event(&pmu, "tsc") {
            Ok(event) => event,
            Err(why) => return eprintln!("skipped: {why}"),
        };
        let counter = match Counter::open(None, event, 0) {
            Ok(counter) => counter,
            Err(refusal) => return eprintln!("skipped: {refusal}"),
        };
        let first = counter.read().unwrap();
        let second = counter.read().unwrap();
        assert!(second > first, "{first} {second}");
    }
}
