//! perf: the PMU `power` as sysfs describes it, its counters as files.

use std::time::Duration;

use super::{Machine, Trace, joules, play_an_hour, seconds, why};

const PMU: &str = "sys/bus/event_source/devices/power";
const TYPE: u32 = 23;
const SCALE: f64 = 1.0 / 4_294_967_296.0;

/// Event, its number, its domains on the CPUs 0 and 24.
const EVENTS: [(&str, u64, &str, Trace); 4] = [
    ("energy-cores", 1, "core", Trace::new(100.0, 90.0, 5.0)),
    ("energy-pkg", 2, "package", Trace::new(150.0, 100.0, 5.0)),
    ("energy-ram", 3, "dram", Trace::new(20.0, 12.0, 17.0)),
    ("energy-gpu", 4, "uncore", Trace::new(6.0, 1.0, 2.0)),
];
const PSYS: Trace = Trace::new(420.0, 200.0, 3.0);

impl Machine {
    fn pmu_event(&self, event: &str, number: u64) {
        self.write(&format!("{PMU}/events/{event}"), format!("event=0x{number:02x}\n"));
        self.write(&format!("{PMU}/events/{event}.unit"), "Joules\n");
        self.write(&format!("{PMU}/events/{event}.scale"), "2.3283064365386962890625e-10\n");
    }

    fn perf_count(&self, event: u64, cpu: u32, energy_j: f64) {
        // A counter begins at zero and has counted something when it is looked at for the second time.
        self.write(&format!("perf_event/{TYPE}/{event}/{cpu}"), (energy_j / SCALE) as u64 + 1);
    }

    fn show_perf(&self, t: Duration) {
        for (_, number, _, trace) in EVENTS {
            self.perf_count(number, 0, trace.energy_j(t));
            self.perf_count(number, 24, trace.energy_j(t) * 1.5);
        }
        self.perf_count(5, 0, PSYS.energy_j(t));
    }
}

/// Two sockets, whose first CPUs are 0 and 24.
fn server() -> Machine {
    let machine = Machine::new();
    machine.write(&format!("{PMU}/type"), format!("{TYPE}\n"));
    machine.write(&format!("{PMU}/cpumask"), "0,24\n");
    EVENTS.iter().for_each(|(event, number, ..)| machine.pmu_event(event, *number));
    machine.pmu_event("energy-psys", 5);
    machine.write("sys/devices/system/cpu/online", "0-47\n");
    for cpu in 0..48 {
        let folder = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        machine.write(&format!("{folder}/physical_package_id"), cpu / 24);
        machine.write(&format!("{folder}/core_id"), cpu % 24);
    }
    machine.show_perf(Duration::ZERO);
    machine
}

#[test]
fn an_hour_of_two_sockets_with_five_domains() {
    let machine = server();
    let mut tracker = machine.tracker("perf");
    assert_eq!(tracker.interval(), None, "the kernel sees every turn");
    let names: Vec<&str> =
        tracker.source().domains().iter().filter(|d| d.in_total).map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["package-0", "package-1", "dram-0", "dram-1"]);
    assert_eq!(tracker.source().domains().len(), 9);
    let trace = |domain: &str| {
        if domain == "psys" {
            return PSYS;
        }
        let (prefix, socket) = domain.split_once('-').unwrap();
        let Trace { mean_w, swing_w, cycle_s } = EVENTS.iter().find(|e| e.2 == prefix).unwrap().3;
        let times = if socket == "0" { 1.0 } else { 1.5 };
        Trace::new(mean_w * times, swing_w * times, cycle_s)
    };
    play_an_hour(&mut tracker, |t| machine.show_perf(t), trace);
}

#[test]
fn a_platform_alone_is_its_own_total() {
    let machine = server();
    for event in ["energy-pkg", "energy-ram", "energy-cores", "energy-gpu"] {
        machine.remove(&format!("{PMU}/events/{event}"));
    }
    let tracker = machine.tracker("perf");
    assert!(matches!(tracker.source().domains(), [psys] if psys.name == "psys" && psys.in_total));
}

#[test]
fn bad_descriptions_are_refused_with_the_file() {
    assert!(Machine::new().refusal("perf").contains("modprobe rapl"));
    let refused = |file: &str, content: &str| {
        let machine = server();
        machine.write(&format!("{PMU}/{file}"), content);
        machine.refusal("perf")
    };
    for (file, content) in [
        ("type", "x"),
        ("type", "99999999999"),
        ("cpumask", ""),
        ("cpumask", "zero"),
        ("events/energy-pkg", "event=2,umask=0x1"),
        ("events/energy-pkg", ""),
        ("events/energy-pkg.unit", "Watts"),
        ("events/energy-pkg.scale", "0"),
        ("events/energy-ram.scale", "nan"),
    ] {
        let why = refused(file, content);
        assert!(why.contains("power/"), "{file} {content}: {why}");
    }
    let machine = server();
    machine.remove(&format!("perf_event/{TYPE}/2/24"));
    assert!(machine.refusal("perf").contains("is not there"));
    // A part that is badly described is left out.
    let machine = server();
    machine.write(&format!("{PMU}/events/energy-cores.scale"), "x");
    assert_eq!(machine.tracker("perf").source().domains().len(), 7);
}

#[test]
fn a_count_that_goes_back_or_away_spoils_the_window() {
    let machine = server();
    let mut tracker = machine.tracker("perf");
    let marks = [10.0, 11.0, 12.0].map(|s| {
        machine.show_perf(seconds(s));
        if s == 11.0 {
            machine.perf_count(2, 24, 0.0);
        }
        tracker.mark(seconds(s), Duration::ZERO)
    });
    let energy = tracker.between(&marks[0], &marks[1]);
    assert!(why(&energy).contains("package-1: the counter went back"), "{energy:?}");
    machine.show_perf(seconds(13.0));
    let later = tracker.mark(seconds(13.0), Duration::ZERO);
    assert!(joules(&tracker.between(&marks[2], &later), "package-1") > 0.0);
    machine.remove(&format!("perf_event/{TYPE}/3/0"));
    let gone = tracker.mark(seconds(14.0), Duration::ZERO);
    assert!(why(&tracker.between(&later, &gone)).contains("dram-0: "));
}

/// Linux finds the platform's counter in a virtual machine on Emerald Rapids, whose host does not count with it.
#[test]
fn a_counter_that_stays_at_zero_is_refused() {
    let machine = Machine::new();
    machine.write(&format!("{PMU}/type"), "9\n");
    machine.write(&format!("{PMU}/cpumask"), "0\n");
    machine.pmu_event("energy-psys", 5);
    machine.write("perf_event/9/5/0", 0);
    let refusal = machine.refusal("perf");
    assert!(refusal.contains("psys is there but counts nothing"), "{refusal}");

    machine.write("perf_event/9/5/0", 1);
    machine.tracker("perf");
}
