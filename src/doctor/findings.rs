//! What is looked at, in the order in which it is told, with what follows and what helps.

use std::path::Path;

use super::{Answer, Finding, Group, Level, Limit, Noise, Purpose};
use crate::figure::Figure;
use crate::probe::energy;
use crate::probe::energy::source::{Domain, Refusal};
use crate::probe::host::Host;
use crate::probe::state::{Busy, HostState};
use crate::probe::text;
use crate::stats::state::{MAX_MEMORY_PRESSURE, MAX_STEAL_SHARE, max_other_load_cpus};
use crate::units::Bytes;

use Answer::{No, WithCare};
use Purpose::{Energy, Gating, Speed};

/// Stolen time above this share is worth a look; above [`MAX_STEAL_SHARE`] samples are marked.
const SOME_STEAL: f64 = 0.01;

/// Load of others above which a gate would fail changes for what the neighbours do, in CPUs.
const HEAVY_LOAD_CPUS: f64 = 1.0;

/// Memory that the built-in suites need at least.
const LITTLE_MEMORY: Bytes = Bytes(2_000_000_000);

/// Smallest visible differences, percent, above which a purpose is limited.
const SPEED_CARE_PERCENT: f64 = 5.0;
const SPEED_NO_PERCENT: f64 = 25.0;
const GATING_CARE_PERCENT: f64 = 2.0;
const GATING_NO_PERCENT: f64 = 10.0;

/// Ratios of slowest to fastest slice above which single windows go astray, however small the spread of
/// the others.
const SPEED_CARE_RATIO: f64 = 1.5;
const GATING_CARE_RATIO: f64 = 1.2;

/// What there is to judge.
pub(super) struct Machine<'a> {
    /// Root of a simulated tree.
    pub(super) root: Option<&'a Path>,
    pub(super) host: &'a Host,
    /// During the self-test.
    pub(super) state: &'a HostState,
    pub(super) noise: &'a Figure<Noise>,
    pub(super) busy: &'a Busy,
}

impl Machine<'_> {
    /// A file of procfs or sysfs, `path` without the leading slash.
    fn text(&self, path: &str) -> Option<String> {
        text(self.root.unwrap_or(Path::new("/")).join(path))
    }

    fn exists(&self, path: &str) -> bool {
        self.root.unwrap_or(Path::new("/")).join(path).exists()
    }

    fn virtual_machine(&self) -> bool {
        self.host.virtualisation.value().is_some_and(|v| v != "none")
    }

    /// Whether this process has one of the capabilities `bits` (`capabilities(7)`).
    fn capable(&self, bits: &[u32]) -> bool {
        let status = self.text("proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
        bits.iter().any(|bit| effective >> bit & 1 == 1)
    }
}

/// All findings; instruments first.
pub(super) fn all(machine: &Machine) -> Vec<Finding> {
    let mut findings = vec![
        energy(machine),
        hardware_counters(machine),
        software_events(machine),
        frequency(machine),
        temperature(machine),
        throttle_counter(machine),
        memory_pressure(machine),
        noise_of(machine),
        virtualisation(machine),
        container(machine),
        cpu_quota(machine),
        governor(machine),
        boost(machine),
        smt(machine),
        other_load(machine),
        steal(machine),
        throttling(machine),
        huge_pages(machine),
        memory(machine),
        numa(machine),
    ];
    // A condition that is not the machine's is not told.
    findings.retain(|finding| !finding.found.is_empty());
    findings
}

impl Finding {
    fn new(id: &str, group: Group, level: Level, found: impl Into<String>) -> Finding {
        Finding {
            id: id.to_owned(),
            group,
            level,
            found: found.into(),
            why: None,
            remedy: None,
            commands: Vec::new(),
            limits: Vec::new(),
        }
    }

    fn instrument(id: &str, level: Level, found: impl Into<String>) -> Finding {
        Finding::new(id, Group::Instrument, level, found)
    }

    fn condition(id: &str, level: Level, found: impl Into<String>) -> Finding {
        Finding::new(id, Group::Condition, level, found)
    }

    fn why(mut self, why: impl Into<String>) -> Finding {
        self.why = Some(why.into());
        self
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = Some(remedy.into());
        self
    }

    fn command(mut self, command: impl Into<String>) -> Finding {
        self.commands.push(command.into());
        self
    }

    fn limits(mut self, purpose: Purpose, answer: Answer) -> Finding {
        self.limits.push(Limit { purpose, answer });
        self
    }

    /// The name for a person: `hardware counters`.
    pub fn title(&self) -> String {
        match self.id.as_str() {
            "smt" => "SMT".to_owned(),
            "cpu_quota" => "CPU quota".to_owned(),
            "numa" => "NUMA".to_owned(),
            id => id.replace('_', " "),
        }
    }
}

/// Why a figure is missing.
fn missing<T>(figure: &Figure<T>) -> &str {
    figure.found().err().unwrap_or_default()
}

fn energy(machine: &Machine) -> Finding {
    let domains =
        |domains: &[Domain]| domains.iter().map(|domain| domain.name.as_str()).collect::<Vec<_>>().join(", ");
    let (mut there, mut refusals): (Vec<String>, Vec<(&str, Refusal)>) = (Vec::new(), Vec::new());
    let mut on_request = Vec::new();
    for source in energy::survey(machine.root) {
        match source.found {
            Ok(found) if source.unasked => there.push(format!("{} ({})", source.name, domains(&found))),
            // What is not read unless it is named serves a run only if its user knows.
            Ok(found) => {
                on_request.push(format!("with --energy {}: {}", source.name, domains(&found)));
            }
            Err(refusal) => refusals.push((source.name, refusal)),
        }
    }
    let missing = refusals.iter().map(|(name, refusal)| format!("{name}: {}", refusal.why));
    if !there.is_empty() {
        let missing: Vec<String> = missing.map(|why| format!("not {why}")).collect();
        return Finding::instrument("energy", Level::Ok, [there, on_request, missing].concat().join("; "));
    }
    let found = missing.chain(on_request).collect::<Vec<_>>().join("; ");
    let mut remedies: Vec<&str> = refusals.iter().filter_map(|(_, r)| r.remedy.as_deref()).collect();
    remedies.dedup();
    let mut finding =
        Finding::instrument("energy", Level::No, found).remedy(remedies.join("; ")).limits(Energy, No);
    finding.commands = refusals.iter().filter_map(|(_, r)| r.command.map(str::to_owned)).collect();
    finding
}

/// Highest perf_event_paranoid with which a process may count its own user-space events (the kernel's
/// Documentation/admin-guide/sysctl/kernel.rst; Debian and Ubuntu have stricter levels above it).
const PARANOID_OWN_EVENTS: i32 = 2;

/// CAP_PERFMON and CAP_SYS_ADMIN, before which perf_event_paranoid does not count.
const PERF_CAPABILITIES: [u32; 2] = [38, 21];

/// Whether the kernel lets this process count its own events; else the finding that says why not.
fn may_count(machine: &Machine, id: &str) -> Result<String, Box<Finding>> {
    match machine.host.perf_event_paranoid.value() {
        None => Err(Box::new(Finding::instrument(id, Level::No, "the kernel has no perf_event_open"))),
        Some(level) if machine.capable(&PERF_CAPABILITIES) => {
            Ok(format!("allowed by capability (perf_event_paranoid is {level})"))
        }
        Some(&level) if level > PARANOID_OWN_EVENTS => {
            let found = format!("perf_event_paranoid is {level}, which forbids them");
            Err(Box::new(
                Finding::instrument(id, Level::No, found)
                    .remedy("let processes count their own events, until the next boot")
                    .command("sudo sysctl kernel.perf_event_paranoid=2"),
            ))
        }
        Some(level) => Ok(format!("allowed by perf_event_paranoid {level}")),
    }
}

fn hardware_counters(machine: &Machine) -> Finding {
    const ID: &str = "hardware_counters";
    const PMUS: [&str; 3] = ["cpu", "cpu_core", "cpu_atom"];
    let devices = machine.root.unwrap_or(Path::new("/")).join("sys/bus/event_source/devices");
    let mut pmus: Vec<String> = std::fs::read_dir(devices)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| PMUS.contains(&name.as_str()) || name.starts_with("armv"))
        .collect();
    pmus.sort();
    let allowed = may_count(machine, ID);
    if pmus.is_empty() {
        let finding = Finding::instrument(ID, Level::No, "the kernel shows no PMU of the CPU");
        return if machine.virtual_machine() {
            finding.remedy("ask for a virtual machine with a virtual PMU, or measure on the host")
        } else {
            finding
                .remedy("enable performance counters in the firmware; use a kernel with CONFIG_PERF_EVENTS")
        };
    }
    match allowed {
        Ok(how) => Finding::instrument(ID, Level::Ok, format!("{}; {how}", pmus.join(", "))),
        Err(finding) => *finding,
    }
}

fn software_events(machine: &Machine) -> Finding {
    const ID: &str = "software_events";
    match may_count(machine, ID) {
        Ok(how) => Finding::instrument(ID, Level::Ok, how),
        Err(finding) => *finding,
    }
}

/// A finding about a sensor: its figure's source, or why there is none, and what helps on bare metal.
fn sensor<T>(
    machine: &Machine,
    id: &str,
    figure: &Figure<T>,
    show: impl Fn(&T) -> String,
    remedy: &str,
    command: Option<&str>,
) -> Finding {
    match figure.found() {
        Ok((value, by)) => Finding::instrument(id, Level::Ok, format!("{} by {by}", show(value))),
        Err(why) if machine.virtual_machine() => {
            Finding::instrument(id, Level::No, why).remedy("none in a virtual machine")
        }
        Err(why) => {
            let finding = Finding::instrument(id, Level::No, why).remedy(remedy);
            command.map_or(finding.clone(), |command| finding.command(command))
        }
    }
}

fn frequency(machine: &Machine) -> Finding {
    sensor(
        machine,
        "frequency",
        &machine.state.frequency,
        |f| format!("{:.0} MHz, lowest {:.0} MHz,", f.mean_mhz, f.min_mhz),
        "load a cpufreq driver, or the msr module and run as root",
        Some("sudo modprobe msr"),
    )
}

fn temperature(machine: &Machine) -> Finding {
    let driver = match machine.host.cpu_vendor.value().map(String::as_str) {
        Some("GenuineIntel") => Some("sudo modprobe coretemp"),
        Some("AuthenticAMD") => Some("sudo modprobe k10temp"),
        _ => None,
    };
    let show = |c: &f64| format!("{c:.0} degrees C");
    sensor(
        machine,
        "temperature",
        &machine.state.temperature_max_c,
        show,
        "load the driver of the CPU's sensor",
        driver,
    )
}

fn throttle_counter(machine: &Machine) -> Finding {
    let show = |n: &u64| format!("{n} during the self-test,");
    let figure = &machine.state.throttle_events;
    sensor(machine, "throttle_events", figure, show, "none: watch the frequency instead", None)
}

fn memory_pressure(machine: &Machine) -> Finding {
    const ID: &str = "memory_pressure";
    match &machine.state.memory_pressure_share {
        Figure::Unavailable { why } => Finding::instrument(ID, Level::No, why.clone())
            .remedy("add psi=1 to the kernel's command line, if it was built with PSI"),
        figure => {
            let share = figure.value().copied().unwrap_or_default();
            let swapped = machine.state.swap.value().is_some_and(|s| s.written.0 > 0);
            let mut found = format!("tasks waited for memory for {:.1} % of the self-test", share * 100.0);
            if swapped {
                found += ", and the machine swapped";
            }
            if swapped || share > MAX_MEMORY_PRESSURE {
                return Finding::instrument(ID, Level::Care, found)
                    .remedy("end what uses the memory")
                    .limits(Speed, WithCare)
                    .limits(Energy, WithCare)
                    .limits(Gating, No);
            }
            Finding::instrument(ID, Level::Ok, found)
        }
    }
}

fn noise_of(machine: &Machine) -> Finding {
    const ID: &str = "noise";
    let noise = match machine.noise.found() {
        Ok((noise, _)) => noise,
        Err(why) => {
            return Finding::condition(ID, Level::Unknown, why)
                .limits(Speed, WithCare)
                .limits(Gating, WithCare);
        }
    };
    let (visible, ratio) = (noise.visible_difference_percent, noise.worst_over_best());
    let finding = |level| {
        let found = format!(
            "differences below {visible:.1} % are invisible in {} rounds; the slowest slice took {ratio:.2} \
             times as long as the fastest",
            noise.rounds
        );
        Finding::condition(ID, level, found)
    };
    let judge = |no: f64, care: f64, care_ratio: f64| match () {
        () if visible > no => Some(No),
        () if visible > care || ratio > care_ratio => Some(WithCare),
        () => None,
    };
    let speed = judge(SPEED_NO_PERCENT, SPEED_CARE_PERCENT, SPEED_CARE_RATIO);
    let gating = judge(GATING_NO_PERCENT, GATING_CARE_PERCENT, GATING_CARE_RATIO);
    let worst = speed.max(gating);
    let mut finding = finding(match worst {
        None => Level::Ok,
        Some(No) => Level::No,
        Some(_) => Level::Care,
    });
    if worst.is_some() {
        finding = finding.remedy("see the conditions below; measure more rounds");
    }
    for (purpose, answer) in [(Speed, speed), (Gating, gating)] {
        if let Some(answer) = answer {
            finding = finding.limits(purpose, answer);
        }
    }
    // Energy follows time.
    if speed.is_some() { finding.limits(Energy, WithCare) } else { finding }
}

fn virtualisation(machine: &Machine) -> Finding {
    const ID: &str = "virtualisation";
    match &machine.host.virtualisation {
        Figure::Unavailable { why } => Finding::condition(ID, Level::Unknown, why.clone()),
        figure => match figure.value().map_or("none", String::as_str) {
            "none" => Finding::condition(ID, Level::Ok, "none"),
            name => Finding::condition(ID, Level::Care, format!("a virtual machine ({name})"))
                .why("Neighbours on the host share caches, memory bandwidth and the power budget unseen.")
                .remedy("measure on the host, or on a dedicated one")
                .limits(Speed, WithCare)
                .limits(Energy, WithCare)
                .limits(Gating, WithCare),
        },
    }
}

fn container(machine: &Machine) -> Finding {
    let kind = if machine.exists(".dockerenv") {
        "docker"
    } else if machine.exists("run/.containerenv") {
        "podman"
    } else {
        return Finding::condition("container", Level::Ok, "none seen");
    };
    // The container shares the kernel: speed is the machine's.
    Finding::condition("container", Level::Ok, kind)
        .why("Its security profile can refuse counters and files that the machine has.")
}

/// CPUs' worth of time that the control group may use, if it is limited.
fn quota_cpus(machine: &Machine) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n > 0.0);
    if let Some(max) = machine.text("sys/fs/cgroup/cpu.max") {
        let (quota, period) = max.split_once(' ')?;
        return Some(number(quota)? / number(period)?);
    }
    let file = |name: &str| number(&machine.text(&format!("sys/fs/cgroup/cpu/cpu.cfs_{name}_us"))?);
    Some(file("quota")? / file("period")?)
}

fn cpu_quota(machine: &Machine) -> Finding {
    const ID: &str = "cpu_quota";
    let cpus = machine.busy.cpus.len();
    match quota_cpus(machine) {
        Some(quota) if quota < cpus as f64 => {
            let whole = (quota.floor() as usize).max(1);
            Finding::condition(ID, Level::Care, format!("{quota:.1} CPUs' worth of time on {cpus} CPUs"))
                .why("Threads are stopped in the middle of a token when the quota is used up.")
                .remedy(format!("start the container on whole CPUs, such as --cpuset-cpus=0-{}", whole - 1))
                .limits(Speed, WithCare)
                .limits(Gating, No)
        }
        _ => Finding::condition(ID, Level::Ok, "none below the CPUs that may be used"),
    }
}

fn governor(machine: &Machine) -> Finding {
    const ID: &str = "governor";
    match &machine.host.governor {
        Figure::Unavailable { why } => Finding::condition(ID, Level::Unknown, why.clone()),
        figure => match figure.value().map_or("", String::as_str) {
            "performance" => Finding::condition(ID, Level::Ok, "performance"),
            other => Finding::condition(ID, Level::Care, other)
                .why("The frequency follows the load and lags behind it.")
                .remedy("fix the governor, until the next boot")
                .command("echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
                .limits(Speed, WithCare)
                .limits(Gating, WithCare),
        },
    }
}

fn boost(machine: &Machine) -> Finding {
    const ID: &str = "boost";
    match machine.host.boost.value() {
        None => Finding::condition(ID, Level::Unknown, missing(&machine.host.boost)),
        Some(false) => Finding::condition(ID, Level::Ok, "off"),
        Some(true) => {
            let command = if machine.exists("sys/devices/system/cpu/intel_pstate/no_turbo") {
                "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
            } else {
                "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
            };
            Finding::condition(ID, Level::Care, "on")
                .why(
                    "The frequency depends on heat and on how many cores work; comparisons at one thread \
                      count stand, scaling with threads and results over days do not.",
                )
                .remedy("switch it off for gating, until the next boot")
                .command(command)
                .limits(Gating, WithCare)
        }
    }
}

fn smt(machine: &Machine) -> Finding {
    const ID: &str = "smt";
    match (machine.host.smt.value(), machine.host.physical_cores.value()) {
        (None, _) => Finding::condition(ID, Level::Unknown, missing(&machine.host.smt)),
        (Some(false), _) => Finding::condition(ID, Level::Ok, "off"),
        (Some(true), cores) => {
            let cores = cores.map_or(String::new(), |cores| format!(" ({cores})"));
            Finding::condition(ID, Level::Care, "on")
                .why(format!("With more threads than cores{cores}, two share one."))
                .remedy("choose the suite's threads accordingly, or switch it off until the next boot")
                .command("echo off | sudo tee /sys/devices/system/cpu/smt/control")
        }
    }
}

fn other_load(machine: &Machine) -> Finding {
    const ID: &str = "other_load";
    match &machine.state.other_load_cpus {
        Figure::Unavailable { why } => Finding::condition(ID, Level::Unknown, why.clone()),
        figure => {
            let load = figure.value().copied().unwrap_or_default();
            let found = format!("{load:.2} CPUs during the self-test");
            if load <= max_other_load_cpus(machine.busy.threads as u32) {
                return Finding::condition(ID, Level::Ok, found);
            }
            let gating = if load > HEAVY_LOAD_CPUS { No } else { WithCare };
            Finding::condition(ID, Level::Care, found)
                .remedy("end what runs beside; this lists it")
                .command("ps -eo pcpu,pid,comm --sort=-pcpu | head")
                .limits(Speed, WithCare)
                .limits(Energy, WithCare)
                .limits(Gating, gating)
        }
    }
}

fn steal(machine: &Machine) -> Finding {
    const ID: &str = "steal";
    match &machine.state.steal_share {
        Figure::Unavailable { why } => Finding::condition(ID, Level::Unknown, why.clone()),
        figure => {
            let share = figure.value().copied().unwrap_or_default();
            let found = format!("{:.1} % of the CPU time during the self-test", share * 100.0);
            if share <= SOME_STEAL {
                return Finding::condition(ID, Level::Ok, found);
            }
            let gating = if share > MAX_STEAL_SHARE { No } else { WithCare };
            Finding::condition(ID, Level::Care, found)
                .why("The hypervisor gave the CPUs to others while threads wanted to run.")
                .remedy("use a virtual machine with CPUs of its own")
                .limits(Speed, WithCare)
                .limits(Energy, WithCare)
                .limits(Gating, gating)
        }
    }
}

fn throttling(machine: &Machine) -> Finding {
    const ID: &str = "throttling";
    match machine.state.throttle_events.value() {
        // Whether it can be known is told among the instruments.
        None => Finding::condition(ID, Level::Unknown, ""),
        Some(0) => Finding::condition(ID, Level::Ok, "none during the self-test"),
        Some(events) => Finding::condition(ID, Level::Care, format!("{events} times during the self-test"))
            .why("The CPU was too hot for its frequency.")
            .remedy("cool it better, lower its power limit, or switch boost off")
            .limits(Speed, WithCare)
            .limits(Energy, WithCare)
            .limits(Gating, No),
    }
}

fn huge_pages(machine: &Machine) -> Finding {
    const ID: &str = "huge_pages";
    match &machine.host.transparent_huge_pages {
        Figure::Unavailable { why } => Finding::condition(ID, Level::Unknown, why.clone()),
        figure => match figure.value().map_or("", String::as_str) {
            "never" => Finding::condition(ID, Level::Care, "transparent huge pages: never")
                .why("Weights lie on small pages; part of the time is address translation.")
                .remedy("allow them where a program asks, until the next boot")
                .command("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled")
                .limits(Speed, WithCare),
            mode => Finding::condition(ID, Level::Ok, format!("transparent huge pages: {mode}")),
        },
    }
}

fn memory(machine: &Machine) -> Finding {
    const ID: &str = "memory";
    match &machine.host.memory_available {
        Figure::Unavailable { why } => Finding::condition(ID, Level::Unknown, why.clone()),
        figure => {
            let available = figure.value().copied().unwrap_or_default();
            let found = format!("{available} available");
            if available < LITTLE_MEMORY {
                return Finding::condition(ID, Level::Care, found)
                    .why("Models that do not fit are skipped.")
                    .remedy("end what uses the memory, or raise the limit of the control group")
                    .limits(Speed, WithCare);
            }
            Finding::condition(ID, Level::Ok, found)
        }
    }
}

fn numa(machine: &Machine) -> Finding {
    const ID: &str = "numa";
    match machine.host.numa_nodes.value() {
        None => Finding::condition(ID, Level::Unknown, missing(&machine.host.numa_nodes)),
        Some(1) => Finding::condition(ID, Level::Ok, "1 node"),
        Some(nodes) => Finding::condition(ID, Level::Care, format!("{nodes} nodes"))
            .why("Weights lie on one node; threads on the others read them over the link.")
            .remedy("keep a run on one node")
            .command("numactl --cpunodebind=0 --membind=0 bitjoule run")
            .limits(Speed, WithCare),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Dispersion;
    use crate::probe::state::Watch;

    /// The limits that a noise of this visible difference and this ratio of slowest to fastest sets.
    fn limits(visible_difference_percent: f64, worst_over_best: f64) -> (Level, [Option<Answer>; 3]) {
        let empty = tempfile::tempdir().unwrap();
        let busy = Busy { cpus: vec![0], threads: 1 };
        let calm = Dispersion {
            slices: 99,
            median_ms: 20.0,
            mad_percent: 0.1,
            window_mad_percent: 0.1,
            worst_over_best: 1.0,
        };
        let noise = Noise {
            threads: 1,
            seconds: 10.0,
            compute: calm,
            memory: Dispersion { worst_over_best, ..calm },
            rounds: 5,
            visible_difference_percent,
        };
        let finding = noise_of(&Machine {
            root: Some(empty.path()),
            host: &Host::detect_in(empty.path()),
            state: &Watch::start(Some(empty.path()), &busy).stop(),
            noise: &Figure::measured(noise, "the self-test"),
            busy: &busy,
        });
        let answer = |p| finding.limits.iter().find(|l| l.purpose == p).map(|l| l.answer);
        (finding.level, [answer(Speed), answer(Energy), answer(Gating)])
    }

    #[test]
    fn noise_limits_gates_first_then_speed() {
        let care = Some(WithCare);
        assert_eq!(limits(2.0, 1.2), (Level::Ok, [None, None, None]));
        assert_eq!(limits(2.1, 1.0), (Level::Care, [None, None, care]));
        assert_eq!(limits(0.1, 1.21), (Level::Care, [None, None, care]));
        assert_eq!(limits(5.1, 1.0), (Level::Care, [care, care, care]));
        assert_eq!(limits(0.1, 1.51), (Level::Care, [care, care, care]));
        assert_eq!(limits(10.1, 1.0), (Level::No, [care, care, Some(No)]));
        assert_eq!(limits(25.1, 1.0), (Level::No, [Some(No), care, Some(No)]));
    }
}
