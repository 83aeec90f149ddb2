//! msr: registers in sparse files, of Intel and AMD.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::{Machine, Trace, joules, play_an_hour, seconds, why};

/// Register, domain prefix and trace of an Intel server's socket.
const INTEL: [(u64, &str, Trace); 4] = [
    (0x611, "package", Trace::new(150.0, 100.0, 5.0)),
    (0x639, "core", Trace::new(100.0, 90.0, 5.0)),
    (0x641, "uncore", Trace::new(6.0, 1.0, 2.0)),
    (0x619, "dram", Trace::new(20.0, 12.0, 17.0)),
];
const PSYS: Trace = Trace::new(420.0, 200.0, 3.0);

/// Just before the first turn.
const START: u64 = (1 << 32) - 100_000;

impl Machine {
    fn set_register(&self, cpu: u32, register: u64, value: u64) {
        let path = self.root().join(format!("dev/cpu/{cpu}/msr"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        file.write_all_at(&value.to_le_bytes(), register * 8).unwrap();
    }

    /// Energy on a 32-bit counter, whose upper half is not zero.
    fn set_energy(&self, cpu: u32, register: u64, energy_j: f64, unit_j: f64) {
        let counts = (START + (energy_j / unit_j) as u64) % (1 << 32);
        self.set_register(cpu, register, counts | 0xABCD << 32);
    }

    fn cpuinfo(&self, vendor: &str, family: u32, model: u32) {
        let text = format!(
            "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
             model name\t: some CPU\n\n"
        );
        self.write("proc/cpuinfo", text);
    }

    /// `packages` sockets of `cores` cores with two threads each, threads numbered behind all cores.
    fn topology(&self, packages: u32, cores: u32) {
        let threads = packages * cores;
        self.write("sys/devices/system/cpu/online", format!("0-{}\n", 2 * threads - 1));
        for cpu in 0..2 * threads {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            self.write(&format!("{folder}/physical_package_id"), cpu % threads / cores);
            self.write(&format!("{folder}/core_id"), cpu % cores);
            self.write(&format!("{folder}/die_id"), 0);
        }
    }
}

/// Two sockets of a Skylake server (unit 2^-14 J, memory 2^-16 J), at a moment.
fn show_intel(machine: &Machine, t: Duration) {
    for (socket, cpu) in [(0, 0), (1, 2)] {
        for (register, prefix, trace) in INTEL {
            let unit = if prefix == "dram" { 1.0 / 65_536.0 } else { 1.0 / 16_384.0 };
            machine.set_energy(cpu, register, trace.energy_j(t) * f64::from(1 + socket), unit);
        }
    }
    machine.set_energy(0, 0x64D, PSYS.energy_j(t), 1.0 / 16_384.0);
}

fn intel() -> Machine {
    let machine = Machine::new();
    machine.cpuinfo("GenuineIntel", 6, 0x55);
    machine.topology(2, 2);
    for cpu in [0, 2] {
        machine.set_register(cpu, 0x606, 0x000A_0E03);
    }
    show_intel(&machine, Duration::ZERO);
    machine
}

fn scaled(trace: Trace, times: f64) -> Trace {
    Trace::new(trace.mean_w * times, trace.swing_w * times, trace.cycle_s)
}

#[test]
fn an_hour_of_two_intel_sockets_with_five_domains() {
    let machine = intel();
    let mut tracker = machine.tracker("msr");
    let of_total: Vec<&str> =
        tracker.source().domains().iter().filter(|d| d.in_total).map(|d| d.name.as_str()).collect();
    assert_eq!(of_total, ["package-0", "dram-0", "package-1", "dram-1"]);
    let trace = |domain: &str| match domain.split_once('-') {
        None => PSYS,
        Some((prefix, socket)) => {
            let times = if socket == "0" { 1.0 } else { 2.0 };
            scaled(INTEL.iter().find(|(_, name, _)| *name == prefix).unwrap().2, times)
        }
    };
    play_an_hour(&mut tracker, |t| show_intel(&machine, t), trace);
}

#[test]
fn an_hour_of_an_amd_socket_with_its_cores() {
    const PACKAGE: Trace = Trace::new(240.0, 100.0, 9.0);
    const CORE: Trace = Trace::new(12.0, 11.0, 9.0);
    let unit = 1.0 / 65_536.0;
    let machine = Machine::new();
    machine.cpuinfo("AuthenticAMD", 25, 17);
    machine.topology(1, 2);
    machine.set_register(0, 0xC001_0299, 0x000A_1003);
    let show = |t: Duration| {
        machine.set_energy(0, 0xC001_029B, PACKAGE.energy_j(t), unit);
        machine.set_energy(0, 0xC001_029A, CORE.energy_j(t), unit);
        machine.set_energy(1, 0xC001_029A, CORE.energy_j(t) * 0.5, unit);
    };
    show(Duration::ZERO);
    let mut tracker = machine.tracker("msr");
    let names: Vec<(&str, bool)> =
        tracker.source().domains().iter().map(|d| (d.name.as_str(), d.in_total)).collect();
    assert_eq!(names, [("package-0", true), ("core-0-0", false), ("core-0-1", false)]);
    let trace = |domain: &str| match domain {
        "package-0" => PACKAGE,
        "core-0-0" => CORE,
        _ => scaled(CORE, 0.5),
    };
    play_an_hour(&mut tracker, show, trace);
}

#[test]
fn units_that_the_register_does_not_tell() {
    // Sapphire Rapids: the platform in whole joules, the memory as the register says.
    let machine = intel();
    machine.cpuinfo("GenuineIntel", 6, 0x8F);
    let mut tracker = machine.tracker("msr");
    let start = tracker.mark(seconds(1.0), Duration::ZERO);
    machine.set_register(0, 0x64D, START + 90);
    machine.set_register(0, 0x619, START + 16_384);
    machine.set_register(2, 0x619, START + 16_384);
    machine.set_register(0, 0x611, START + 16_384);
    machine.set_register(2, 0x611, START + 16_384);
    let end = tracker.mark(seconds(2.0), Duration::ZERO);
    let energy = tracker.between(&start, &end);
    assert_eq!([joules(&energy, "psys"), joules(&energy, "dram-0")], [90.0, 1.0]);

    // Silvermont: 2^ESU uJ, here 32.
    let machine = Machine::new();
    machine.cpuinfo("GenuineIntel", 6, 0x37);
    machine.topology(1, 1);
    machine.set_register(0, 0x606, 0x0000_0505);
    machine.set_register(0, 0x611, START);
    let mut tracker = machine.tracker("msr");
    let start = tracker.mark(seconds(1.0), Duration::ZERO);
    machine.set_register(0, 0x611, START + 31_250);
    let end = tracker.mark(seconds(2.0), Duration::ZERO);
    assert!((joules(&tracker.between(&start, &end), "package-0") - 1.0).abs() < 1e-9);
}

#[test]
fn what_cannot_be_read_is_refused_with_the_remedy() {
    let machine = Machine::new();
    assert!(machine.refusal("msr").contains("no x86 CPU"));
    machine.cpuinfo("GenuineIntel", 15, 4);
    assert!(machine.refusal("msr").contains("where the CPUs are"));
    machine.topology(1, 1);
    assert!(machine.refusal("msr").contains("GenuineIntel family 15"));
    machine.cpuinfo("GenuineIntel", 6, 0x55);
    assert!(machine.refusal("msr").contains("sudo modprobe msr"));
    // A hypervisor that answers 0 to every register.
    machine.set_register(0, 0x606, 0);
    assert!(machine.refusal("msr").contains("reads 0, which is no unit"));
    machine.set_register(0, 0x606, 0x000A_0E03);
    machine.set_register(0, 0x611, 0);
    assert!(machine.refusal("msr").contains("0x611 of") && machine.refusal("msr").contains("reads 0"));
    // The file ends before the register.
    let machine = Machine::new();
    machine.cpuinfo("AuthenticAMD", 25, 17);
    machine.topology(1, 1);
    machine.set_register(0, 0x606, 1);
    assert!(machine.refusal("msr").contains("cannot read register 0xc0010299"));
}

#[test]
fn a_register_that_vanishes_spoils_the_window() {
    let machine = intel();
    let mut tracker = machine.tracker("msr");
    let start = tracker.mark(seconds(1.0), Duration::ZERO);
    show_intel(&machine, seconds(1.0));
    OpenOptions::new().write(true).open(machine.root().join("dev/cpu/2/msr")).unwrap().set_len(0).unwrap();
    let end = tracker.mark(seconds(2.0), Duration::ZERO);
    let energy = tracker.between(&start, &end);
    assert!(why(&energy).contains("package-1: cannot read register 0x611"), "{energy:?}");
}
