//! The host's state over a window, on simulated machines that change meanwhile, and on this one.

mod machine;

use std::thread::sleep;
use std::time::Duration;

use bitjoule::figure::Figure;
use bitjoule::probe::state::{Busy, Frequency, HostState, Swap, Watch};
use bitjoule::units::Bytes;
use machine::Machine;

fn both() -> Busy {
    Busy { cpus: vec![0, 1], threads: 2 }
}

/// Longer than the sensors' interval.
const WINDOW: Duration = Duration::from_millis(400);

/// The state over a window in whose middle `change` happens.
fn window(machine: &Machine, busy: &Busy, change: impl FnOnce(&Machine)) -> HostState {
    let watch = Watch::start(Some(machine.root()), busy);
    sleep(WINDOW);
    change(machine);
    sleep(WINDOW);
    watch.stop()
}

fn why<T: std::fmt::Debug>(figure: &Figure<T>) -> &str {
    match figure {
        Figure::Unavailable { why } => why,
        other => panic!("{other:?} is available"),
    }
}

#[test]
fn a_quiet_window_is_quiet_and_says_that_it_is_simulated() {
    let machine = Machine::intel_laptop();
    let state = window(&machine, &both(), |_| ());
    let Figure::Simulated { value: Frequency { mean_mhz, min_mhz, readings }, by } = &state.frequency else {
        panic!("{:?}", state.frequency)
    };
    assert!((mean_mhz - 2400.0).abs() < 1e-6 && *min_mhz == 2400.0, "{mean_mhz} {min_mhz}");
    assert!(*readings >= 3 && by == "simulated tree: cpufreq scaling_cur_freq", "{readings} {by}");
    assert_eq!(state.temperature_max_c.value(), Some(&64.0));
    assert_eq!(state.throttle_events.value(), Some(&0));
    assert_eq!(state.steal_share.value(), Some(&0.0));
    assert_eq!(state.other_load_cpus.value(), Some(&0.0));
    assert_eq!(state.memory_pressure_share.value(), Some(&0.0));
    assert_eq!(state.swap.value(), Some(&Swap { read: Bytes(0), written: Bytes(0) }));
}

#[test]
fn what_happens_within_the_window_is_seen() {
    let machine = Machine::intel_laptop();
    let state = window(&machine, &both(), |machine| {
        machine
            .stat(200, 30)
            .put("proc/pressure/memory", "some avg10=0 total=300000")
            .put("proc/vmstat", "pswpin 1\npswpout 2")
            .put("sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "800000")
            .put("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "12")
            .put("sys/class/thermal/thermal_zone1/temp", "99000");
        // Back to normal before the end: only a reading in between sees it.
        sleep(WINDOW);
        machine
            .put("sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "2400000")
            .put("sys/class/thermal/thermal_zone1/temp", "64000");
    });
    let frequency = state.frequency.value().unwrap();
    assert_eq!(frequency.min_mhz, 800.0);
    assert!(frequency.mean_mhz < 2400.0 && frequency.mean_mhz > 1600.0, "{frequency:?}");
    assert_eq!(state.temperature_max_c.value(), Some(&99.0));
    assert_eq!(state.throttle_events.value(), Some(&3));
    let (steal, load) = (*state.steal_share.value().unwrap(), *state.other_load_cpus.value().unwrap());
    // 300 ms of two CPUs each, and 4 s of work, in a window of 1.2 s or, on a busy machine, more.
    assert!(steal > 0.0 && steal <= 0.25 && load > 0.0 && load <= 4.0 / 1.2, "{steal} {load}");
    let pressure = *state.memory_pressure_share.value().unwrap();
    assert!(pressure > 0.0 && pressure <= 0.25, "{pressure}");
    let swap = state.swap.value().unwrap();
    assert!(swap.read.0 > 0 && swap.written.0 == 2 * swap.read.0, "{swap:?}");
}

#[test]
fn of_more_cpus_than_threads_the_fastest_are_the_busy_ones() {
    let machine = Machine::intel_laptop();
    machine.put("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "400000");
    let state = window(&machine, &Busy { cpus: vec![0, 1], threads: 1 }, |_| ());
    assert_eq!(state.frequency.value().unwrap().min_mhz, 2400.0);
}

/// An MSR device whose TSC stands at `tsc`, and whose APERF and MPERF are equal: in a file they overlap, as
/// they do not in a device, so all their bytes are `byte`.
fn msr(tsc: u64, byte: u8) -> Vec<u8> {
    let mut registers = vec![0; 256];
    registers[0x10..0x18].copy_from_slice(&tsc.to_ne_bytes());
    registers[0xe7..0xf0].fill(byte);
    registers
}

#[test]
fn cycles_of_the_registers_come_before_cpufreq() {
    let machine = Machine::intel_laptop();
    let write = |machine: &Machine, tsc, byte| {
        for cpu in 0..2 {
            let path = machine.root().join(format!("dev/cpu/{cpu}/msr"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, msr(tsc, byte)).unwrap();
        }
    };
    write(&machine, 1_000_000_000, 1);
    let state = window(&machine, &both(), |machine| write(machine, 1_500_000_000, 2));
    assert!(state.frequency.provenance().contains("APERF"), "{:?}", state.frequency);
    // 5e8 cycles at the base frequency in the 250 ms between two readings, or more on a busy machine.
    let mhz = state.frequency.value().unwrap().mean_mhz;
    assert!(mhz > 0.0 && mhz <= 2100.0, "{mhz}");
    // A hypervisor that answers 0, and a device that refuses.
    for registers in [msr(5, 0), vec![1; 9]] {
        std::fs::write(machine.root().join("dev/cpu/1/msr"), registers).unwrap();
        let state = Watch::start(Some(machine.root()), &both()).stop();
        assert!(state.frequency.provenance().contains("scaling_cur_freq"), "{:?}", state.frequency);
    }
}

#[test]
fn only_the_sensor_of_the_package_counts() {
    let machine = Machine::amd_server();
    let state = window(&machine, &both(), |_| ());
    // Not the disk's 99, not the 80 of a die.
    assert_eq!(state.temperature_max_c.value(), Some(&71.5));
    assert!(why(&state.throttle_events).contains("only Intel"));
}

#[test]
fn an_empty_machine_gives_reasons() {
    let machine = Machine::new();
    let state = Watch::start(Some(machine.root()), &both()).stop();
    assert!(why(&state.frequency).contains("msr"));
    assert!(why(&state.temperature_max_c).contains("hwmon"));
    assert!(why(&state.throttle_events).contains("thermal_throttle"));
    assert!(why(&state.steal_share).contains("/proc/stat cannot be read"));
    assert!(why(&state.other_load_cpus).contains("/proc/stat cannot be read"));
    assert!(why(&state.memory_pressure_share).contains("PSI"));
    assert!(why(&state.swap).contains("/proc/vmstat"));
}

#[test]
fn a_nominal_frequency_is_not_a_measured_one() {
    let machine = Machine::virtual_machine();
    let of = || Watch::start(Some(machine.root()), &both()).stop().frequency;
    assert!(why(&of()).contains("nominal"));
    machine.put("proc/cpuinfo", "processor : 0\ncpu MHz : 3100.000\nflags : fpu aperfmperf");
    let frequency = of();
    assert_eq!(frequency.value().unwrap().mean_mhz, 3100.0);
    assert!(frequency.provenance().contains("/proc/cpuinfo"));
}

#[test]
fn files_that_turn_to_garbage_or_vanish_leave_a_reason() {
    let machine = Machine::intel_laptop();
    let state = window(&machine, &both(), |machine| {
        machine.put("proc/stat", "cpu garbage").put("proc/vmstat", "pswpin x").remove("proc/pressure/memory");
        for cpu in 0..2 {
            machine
                .put(&format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"), "<unsupported>");
        }
    });
    assert!(why(&state.steal_share).contains("cannot be understood"));
    assert!(why(&state.other_load_cpus).contains("cannot be understood"));
    assert!(why(&state.memory_pressure_share).contains("cannot be read"));
    assert!(why(&state.swap).contains("no pswpin"));
    // What was read before remains.
    assert_eq!(state.frequency.value().unwrap().min_mhz, 2400.0);
    // A counter that was reset.
    let state = window(&machine, &both(), |machine| {
        machine.put("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "0");
    });
    assert!(why(&state.throttle_events).contains("went backwards"));
}

#[test]
#[cfg(target_os = "linux")]
fn this_machine_counts_the_load_of_others() {
    let busy = Busy::team(1);
    assert!(!busy.cpus.is_empty() && busy.threads == 1);
    let watch = Watch::start(None, &busy);
    sleep(Duration::from_millis(250));
    let state = watch.stop();
    let load = state.other_load_cpus.value().unwrap();
    assert!(load.is_finite() && *load >= 0.0);
    assert!((0.0..=1.0).contains(state.steal_share.value().unwrap()));
    assert!(state.other_load_cpus.provenance().starts_with("measured: /proc/stat"));
    let json = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<HostState>(&json).unwrap(), state);
    // A window of no length has no load, and says so.
    let none = Watch::start(None, &busy).stop();
    assert!(why(&none.other_load_cpus).contains("shorter than"));
}
