//! `bitjoule doctor` on simulated machines, and once on this one.

mod machine;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use assert_cmd::Command;
use bitjoule::doctor::{Answer, Finding, Group, Level, Purpose, Report, examine, render};
use machine::Machine;

fn doctor(machine: &Machine) -> Report {
    examine(Some(machine.root()), Duration::ZERO)
}

fn finding<'a>(report: &'a Report, id: &str) -> &'a Finding {
    report.findings.iter().find(|f| f.id == id).unwrap_or_else(|| panic!("no {id}"))
}

fn answers(report: &Report) -> [Answer; 3] {
    Purpose::ALL.map(|purpose| report.verdict(purpose).unwrap().answer)
}

fn because(report: &Report, purpose: Purpose) -> Vec<&str> {
    report.verdict(purpose).unwrap().because.iter().map(String::as_str).collect()
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_bitjoule"))
}

#[test]
fn a_server_with_everything_serves_everything() {
    let report = doctor(&Machine::amd_server());
    for id in ["energy", "hardware_counters", "software_events", "frequency", "temperature", "governor"] {
        assert_eq!(finding(&report, id).level, Level::Ok, "{:?}", finding(&report, id));
    }
    let energy = &finding(&report, "energy").found;
    assert!(energy.contains("; not nvml: "), "{energy}");
    // Only the noise is not known: a simulated tree has none.
    assert_eq!(answers(&report), [Answer::WithCare, Answer::Yes, Answer::WithCare]);
    assert_eq!(because(&report, Purpose::Speed), ["noise"]);
    assert_eq!(because(&report, Purpose::Gating), ["noise"]);
    assert_eq!(finding(&report, "virtualisation").found, "none");
}

#[test]
fn a_laptop_is_told_what_to_change() {
    let machine = Machine::intel_laptop();
    let report = doctor(&machine);
    let command = |id| finding(&report, id).commands.join("\n");
    assert_eq!(finding(&report, "governor").found, "powersave");
    assert_eq!(
        command("governor"),
        "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    );
    assert_eq!(command("boost"), "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo");
    assert_eq!(command("smt"), "echo off | sudo tee /sys/devices/system/cpu/smt/control");
    assert!(finding(&report, "smt").why.as_ref().unwrap().contains("than cores (1),"));
    for id in ["hardware_counters", "software_events"] {
        assert_eq!(finding(&report, id).level, Level::No);
        assert_eq!(command(id), "sudo sysctl kernel.perf_event_paranoid=2");
    }
    assert_eq!(because(&report, Purpose::Gating), ["noise", "governor", "boost"]);

    // With the capability the level does not count.
    machine.put("proc/self/status", "CapEff:\t0000004000000000");
    let report = doctor(&machine);
    assert_eq!(finding(&report, "hardware_counters").level, Level::Ok);
    assert!(finding(&report, "hardware_counters").found.starts_with("cpu_atom, cpu_core;"));
}

#[test]
#[cfg(unix)]
fn energy_that_only_root_may_read_names_the_command() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::intel_laptop();
    let counter = machine.root().join("sys/class/powercap/intel-rapl:0/energy_uj");
    std::fs::set_permissions(&counter, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&counter).is_ok() {
        eprintln!("skipped: root reads everything, so the refusal cannot be seen here");
        return;
    }
    let report = doctor(&machine);
    assert_eq!(because(&report, Purpose::Energy), ["energy"]);
    assert!(finding(&report, "energy").commands[0].starts_with("sudo chmod a+r "));
}

#[test]
fn a_virtual_machine_with_nothing_says_so() {
    let report = doctor(&Machine::virtual_machine());
    for id in ["energy", "hardware_counters", "frequency", "temperature", "throttle_events"] {
        let finding = finding(&report, id);
        assert_eq!(finding.level, Level::No, "{finding:?}");
        assert!(finding.remedy.is_some() && finding.commands.is_empty(), "{finding:?}");
    }
    // Every kind of source says why it is not there, also those that are read on request only.
    for source in bitjoule::probe::energy::names() {
        let found = &finding(&report, "energy").found;
        assert!(found.contains(&format!("{source}: ")), "{source}: {found}");
    }
    assert_eq!(finding(&report, "software_events").level, Level::Ok);
    assert_eq!(finding(&report, "governor").level, Level::Unknown);
    assert_eq!(answers(&report), [Answer::WithCare, Answer::No, Answer::WithCare]);
    assert_eq!(because(&report, Purpose::Energy), ["energy"]);
    assert_eq!(because(&report, Purpose::Speed), ["noise", "virtualisation"]);
}

#[test]
fn a_container_with_a_quota_cannot_gate() {
    let machine = Machine::container();
    let report = doctor(&machine);
    assert_eq!(finding(&report, "container").found, "docker");
    let quota = finding(&report, "cpu_quota");
    assert_eq!((quota.level, quota.found.as_str()), (Level::Care, "1.5 CPUs' worth of time on 2 CPUs"));
    assert_eq!(because(&report, Purpose::Gating), ["cpu_quota"]);
    for unlimited in ["max 100000", "200000 100000", "garbage", "0 0"] {
        machine.put("sys/fs/cgroup/cpu.max", unlimited);
        assert_eq!(finding(&doctor(&machine), "cpu_quota").level, Level::Ok, "{unlimited}");
    }
    machine.remove("sys/fs/cgroup/cpu.max");
    machine.put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000");
    machine.put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
    assert_eq!(finding(&doctor(&machine), "cpu_quota").level, Level::Care);
    machine.put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
    assert_eq!(finding(&doctor(&machine), "cpu_quota").level, Level::Ok);
}

/// What a server's verdicts become if `change` happens to it again and again while it is watched, with
/// growing numbers.
fn disturbed(change: impl Fn(&Machine, u64) + Sync) -> Report {
    let machine = Machine::amd_server();
    for cpu in 0..2 {
        machine.put(&format!("sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"), "0");
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                if done.load(Ordering::Acquire) {
                    break;
                }
                change(&machine, n);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let report = doctor(&machine);
        done.store(true, Ordering::Release);
        report
    })
}

#[test]
fn what_happens_meanwhile_decides() {
    let load = disturbed(|m, n| {
        m.stat(n * 1000, 0);
    });
    assert_eq!(because(&load, Purpose::Gating), ["other_load"]);
    assert_eq!(answers(&load), [Answer::WithCare, Answer::WithCare, Answer::No]);
    let steal = disturbed(|m, n| {
        m.stat(0, n * 1000);
    });
    assert_eq!(because(&steal, Purpose::Gating), ["steal"]);
    let hot = disturbed(|m, n| {
        let file = "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count";
        m.replace(file, &n.to_string());
    });
    assert_eq!(because(&hot, Purpose::Gating), ["throttling"]);
    let full = disturbed(|m, n| {
        m.replace("proc/vmstat", &format!("pswpin 0\npswpout {n}"));
    });
    assert_eq!(because(&full, Purpose::Gating), ["memory_pressure"]);
    assert!(finding(&full, "memory_pressure").found.contains("swapped"));
    let waiting = disturbed(|m, n| {
        m.replace("proc/pressure/memory", &format!("some total={}", n * 1_000_000));
    });
    assert_eq!(because(&waiting, Purpose::Gating), ["memory_pressure"]);
    let quiet = disturbed(|_, _| ());
    assert_eq!(finding(&quiet, "throttling").level, Level::Ok);
    assert_eq!(answers(&quiet), [Answer::WithCare, Answer::Yes, Answer::WithCare]);
}

#[test]
fn conditions_are_judged_one_by_one() {
    let machine = Machine::amd_server();
    machine
        .put("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]")
        .put("sys/devices/system/node/online", "0-1")
        .put("proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 1000000 kB")
        .put("sys/devices/system/cpu/cpufreq/boost", "1")
        .remove("proc/sys/kernel/perf_event_paranoid");
    let report = doctor(&machine);
    for id in ["huge_pages", "numa", "memory", "boost"] {
        assert_eq!(finding(&report, id).level, Level::Care, "{id}");
    }
    assert_eq!(
        finding(&report, "boost").commands,
        ["echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"]
    );
    assert!(finding(&report, "software_events").found.contains("no perf_event_open"));
    assert_eq!(because(&report, Purpose::Speed), ["noise", "huge_pages", "memory", "numa"]);
}

#[test]
fn an_empty_machine_is_no_crash() {
    let report = doctor(&Machine::new());
    assert_eq!(answers(&report), [Answer::WithCare, Answer::No, Answer::WithCare]);
    assert!(report.findings.iter().all(|f| !f.found.is_empty()));
}

#[test]
fn the_text_fits_a_page_and_has_colours_on_a_terminal_only() {
    for machine in [
        Machine::amd_server(),
        Machine::intel_laptop(),
        Machine::virtual_machine(),
        Machine::container(),
        Machine::new(),
    ] {
        let report = doctor(&machine);
        let text = render(&report, false);
        // The folder of a test may be longer than a line.
        let paths = |line: &str| line.contains(machine.root().to_str().unwrap());
        assert!(text.lines().all(|l| l.chars().count() <= 80 || paths(l)), "{text}");
        assert!(!text.contains('\x1b') && text.contains("Simulated"), "{text}");
        for finding in &report.findings {
            assert!(text.contains(&finding.title()), "{}", finding.id);
        }
        let coloured = render(&report, true);
        assert!(coloured.contains("\x1b[") && coloured.lines().count() == text.lines().count());
    }
}

#[test]
fn methodology_knows_every_finding() {
    let text = include_str!("../METHODOLOGY.md");
    let (_, section) = text.split_once("## Doctor's verdicts").expect("the chapter");
    let section = section.split("\n## ").next().unwrap();
    let machine = Machine::intel_laptop();
    for finding in doctor(&machine).findings {
        assert!(section.contains(&format!("`{}`", finding.id)), "{} is not explained", finding.id);
    }
}

#[test]
fn exit_codes_follow_the_purpose() {
    let vm = Machine::virtual_machine();
    let run = |arguments: &[&str]| {
        let mut command = command();
        command.arg("doctor").args(arguments).output().unwrap()
    };
    let root = vm.root().to_str().unwrap();
    assert_eq!(run(&["--root", root]).status.code(), Some(0));
    assert_eq!(run(&["--root", root, "--for", "speed"]).status.code(), Some(0));
    let refused = run(&["--root", root, "--for", "energy", "--json"]);
    assert_eq!(refused.status.code(), Some(3));
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("cannot serve energy: powercap: no powercap tree"), "{stderr}");
    // The report is on standard output all the same.
    let report: Report = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(report.verdict(Purpose::Energy).unwrap().answer, Answer::No);
    let container = Machine::container();
    let container = container.root().to_str().unwrap();
    assert_eq!(run(&["--root", container, "--for", "gating"]).status.code(), Some(3));
    assert_eq!(run(&["--root", container, "--for", "energy"]).status.code(), Some(0));
    for wrong in [&["--for", "fame"][..], &["--root", "/nonexistent"], &["--self-test", "-1"], &["x"]] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn this_machine_is_examined() {
    let output = command().args(["doctor", "--json", "--self-test", "0.2"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["schema", "verdicts", "noise", "findings", "host", "state"] {
        assert!(json.get(key).is_some(), "{key}");
    }
    assert_eq!(json["schema"], 1);
    let report: Report = serde_json::from_value(json).unwrap();
    let noise = report.noise.value().unwrap();
    for kind in [noise.compute, noise.memory] {
        assert!(kind.slices >= 5 && kind.median_ms > 0.0 && kind.worst_over_best >= 1.0, "{kind:?}");
    }
    assert!(report.findings.iter().any(|f| f.group == Group::Instrument));
    assert_eq!(report.simulated_root, None);
}
