//! powercap: trees as Intel and AMD machines have them.

use std::time::Duration;

use bitjoule::probe::energy::source::DomainKind;

use super::{Machine, Trace, joules, play_an_hour, seconds, why};

const FOLDER: &str = "sys/class/powercap";
const RANGE: u64 = 262_143_328_850;
const SMALL_RANGE: u64 = 65_532_610_987;

/// Folder, name and range of each zone of a server with two sockets, and the domain and trace that it shows.
const SERVER: [(&str, &str, u64, &str, Trace); 9] = [
    ("intel-rapl:0", "package-0", RANGE, "package-0", Trace::new(180.0, 120.0, 7.0)),
    ("intel-rapl:0:0", "core", RANGE, "core-0", Trace::new(120.0, 100.0, 7.0)),
    ("intel-rapl:0:1", "uncore", SMALL_RANGE, "uncore-0", Trace::new(9.0, 2.0, 31.0)),
    ("intel-rapl:0:2", "dram", SMALL_RANGE, "dram-0", Trace::new(30.0, 20.0, 3.0)),
    ("intel-rapl:1", "package-1", SMALL_RANGE, "package-1", Trace::new(240.0, 200.0, 110.0)),
    ("intel-rapl:1:0", "core", SMALL_RANGE, "core-1", Trace::new(160.0, 150.0, 110.0)),
    ("intel-rapl:1:1", "uncore", RANGE, "uncore-1", Trace::new(5.0, 1.0, 2.0)),
    ("intel-rapl:1:2", "dram", RANGE, "dram-1", Trace::new(25.0, 5.0, 0.7)),
    ("intel-rapl:2", "psys", SMALL_RANGE, "psys", Trace::new(600.0, 250.0, 13.0)),
];

impl Machine {
    fn zone(&self, folder: &str, name: &str, energy_uj: impl ToString, range_uj: u64) {
        self.write(&format!("{FOLDER}/{folder}/name"), format!("{name}\n"));
        self.write(&format!("{FOLDER}/{folder}/max_energy_range_uj"), format!("{range_uj}\n"));
        self.energy(folder, energy_uj);
    }

    fn energy(&self, folder: &str, energy_uj: impl ToString) {
        self.write(&format!("{FOLDER}/{folder}/energy_uj"), format!("{}\n", energy_uj.to_string()));
    }

    /// The server at this moment. Counters advance every millisecond by steps of 61 uJ, and stood just
    /// before their turn at the start.
    fn server(&self, t: Duration) {
        let tick = Duration::from_millis(t.as_millis() as u64);
        for (folder, _, range, _, trace) in SERVER {
            let steps = (trace.energy_j(tick) * 16_384.0) as u64;
            let uj = (steps as f64 / 16_384.0 * 1e6) as u64;
            self.energy(folder, (range - 1_000_000 + uj) % range);
        }
    }

    fn new_server() -> Machine {
        let machine = Machine::new();
        for (folder, name, range, ..) in SERVER {
            machine.zone(folder, name, range - 1_000_000, range);
        }
        // The control type itself, and the first package by another way.
        machine.write(&format!("{FOLDER}/intel-rapl/enabled"), 1);
        machine.zone("intel-rapl-mmio:0", "package-0", 5, RANGE);
        machine
    }
}

/// A machine with two packages, at 1 J and 5 J.
fn two_packages() -> Machine {
    let machine = Machine::new();
    machine.zone("intel-rapl:0", "package-0", 1_000_000, RANGE);
    machine.zone("intel-rapl:1", "package-1", 5_000_000, RANGE);
    machine
}

fn both_advance(machine: &Machine) {
    machine.energy("intel-rapl:0", 2_000_000);
    machine.energy("intel-rapl:1", 6_000_000);
}

/// Why a second has no energy in which `change` was made to both packages' advance by 1 J.
fn spoiled(change: impl FnOnce(&Machine)) -> String {
    let machine = two_packages();
    let mut tracker = machine.tracker("powercap");
    let start = tracker.mark(seconds(1.0), Duration::ZERO);
    both_advance(&machine);
    change(&machine);
    let end = tracker.mark(seconds(2.0), Duration::ZERO);
    let energy = tracker.between(&start, &end);
    assert!(!energy.marks.is_empty());
    why(&energy).to_owned()
}

#[test]
fn an_hour_of_two_sockets_with_five_domains_each() {
    let machine = Machine::new_server();
    let mut tracker = machine.tracker("powercap");
    // 65.5 kJ at 10 kW (psys), halved.
    assert!(tracker.interval().unwrap() < seconds(3.3));
    let trace = |domain: &str| SERVER.iter().find(|zone| zone.3 == domain).unwrap().4;
    play_an_hour(&mut tracker, |t| machine.server(t), trace);
}

#[test]
fn a_total_counts_nothing_twice() {
    let machine = Machine::new_server();
    let tracker = machine.tracker("powercap");
    let of_total: Vec<&str> =
        tracker.source().domains().iter().filter(|d| d.in_total).map(|d| d.name.as_str()).collect();
    assert_eq!(of_total, ["package-0", "dram-0", "package-1", "dram-1"]);
    let kinds = |kind| tracker.source().domains().iter().filter(|d| d.kind == kind).count();
    assert_eq!([kinds(DomainKind::Package), kinds(DomainKind::Psys), kinds(DomainKind::Core)], [2, 1, 2]);

    // Where only the twin or only the platform is there, it is the total.
    let machine = Machine::new();
    machine.zone("intel-rapl-mmio:0", "package-0", 5, RANGE);
    assert!(machine.tracker("powercap").source().domains()[0].in_total);
    let machine = Machine::new();
    machine.zone("intel-rapl:0", "psys", 5, RANGE);
    machine.zone("intel-rapl:1", "psys", 5, RANGE);
    let tracker = machine.tracker("powercap");
    let domains: Vec<(&str, bool)> =
        tracker.source().domains().iter().map(|d| (d.name.as_str(), d.in_total)).collect();
    assert_eq!(domains, [("psys", true), ("psys-1", false)]);
}

#[test]
fn two_ranges_turn_over_each_at_its_own() {
    let machine = two_packages();
    machine.zone("intel-rapl:0", "package-0", RANGE - 1_000_000, RANGE);
    machine.zone("intel-rapl:1", "package-1", SMALL_RANGE - 1_000_000, SMALL_RANGE);
    let mut tracker = machine.tracker("powercap");
    let start = tracker.mark(seconds(1.0), Duration::ZERO);
    both_advance(&machine);
    let end = tracker.mark(seconds(2.0), Duration::ZERO);
    let energy = tracker.between(&start, &end);
    assert_eq!([joules(&energy, "package-0"), joules(&energy, "package-1")], [3.0, 7.0]);
}

#[test]
fn equal_readings_are_no_turn_and_no_joule() {
    let machine = two_packages();
    let mut tracker = machine.tracker("powercap");
    let start = tracker.mark(seconds(1.0), Duration::ZERO);
    machine.energy("intel-rapl:0", 2_000_000);
    let end = tracker.mark(seconds(1.0003), Duration::ZERO);
    let energy = tracker.between(&start, &end);
    assert!(why(&energy).contains("package-1: the counter did not change in 0.300 ms"), "{energy:?}");
    assert!(why(&energy).contains("shorter than its update period"));
    // The step that follows is worth what it says.
    both_advance(&machine);
    let later = tracker.mark(seconds(1.1), Duration::ZERO);
    assert_eq!(joules(&tracker.between(&start, &later), "package-1"), 1.0);
}

#[test]
fn what_is_wrong_from_the_start_is_refused_with_the_reason() {
    let machine = Machine::new();
    assert!(machine.refusal("powercap").contains("no powercap tree"));
    assert!(machine.refusal("powercap").contains("modprobe"));
    machine.write("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor sse\n");
    assert!(machine.refusal("powercap").contains("virtual machine"), "{}", machine.refusal("powercap"));
    machine.write(&format!("{FOLDER}/dtpm/name"), "x");
    assert!(machine.refusal("powercap").contains("no package zone"));

    for garbage in ["", "-5", "12 uJ", "0x10", "99999999999999999999999", "\u{1b}[2J"] {
        let machine = two_packages();
        machine.energy("intel-rapl:1", garbage);
        let why = machine.refusal("powercap");
        assert!(why.contains("no number of microjoules") && !why.contains('\u{1b}'), "{why}");
    }
    let machine = two_packages();
    machine.zone("intel-rapl:1", "package-1", 5, 0);
    assert!(machine.refusal("powercap").contains("max_energy_range_uj is 0"));

    let machine = two_packages();
    machine.remove(&format!("{FOLDER}/intel-rapl:0/max_energy_range_uj"));
    assert!(machine.refusal("powercap").contains("is not there"));

    let machine = two_packages();
    machine.zone("intel-rapl:3", "package-0", 5, RANGE);
    assert!(machine.refusal("powercap").contains("two zones"));
}

#[test]
fn a_bad_part_is_left_out_and_costs_no_total() {
    let machine = two_packages();
    machine.zone("intel-rapl:0:0", "core", "garbage", RANGE);
    machine.zone("intel-rapl:0:1", "uncore", 0, RANGE);
    machine.zone("intel-rapl:1:0", "core", 7, RANGE);
    machine.zone("intel-rapl:1:1", "package-9", 7, RANGE);
    let mut tracker = machine.tracker("powercap");
    let names: Vec<&str> = tracker.source().domains().iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["package-0", "package-1", "core-1"]);
    let start = tracker.mark(seconds(1.0), Duration::ZERO);
    both_advance(&machine);
    machine.remove(&format!("{FOLDER}/intel-rapl:1:0"));
    let end = tracker.mark(seconds(2.0), Duration::ZERO);
    let energy = tracker.between(&start, &end);
    assert_eq!(energy.total().value().unwrap().energy.0, 2.0);
    assert!(energy.marks[0].starts_with("core-1: ") && energy.marks[0].ends_with("is not there"));
}

#[test]
fn what_goes_wrong_later_spoils_the_window() {
    let gone = spoiled(|m| m.remove(&format!("{FOLDER}/intel-rapl:1")));
    assert!(gone.contains("package-1: ") && gone.contains("is not there"), "{gone}");
    assert!(spoiled(|m| m.energy("intel-rapl:1", "garbage")).contains("'garbage'"));
    assert!(spoiled(|m| m.energy("intel-rapl:0", 999_999)).contains("reset or is broken"));
    assert!(spoiled(|m| m.energy("intel-rapl:0", 5_000_000_000_u64)).contains("more than 1000 W"));
    assert!(spoiled(|m| m.energy("intel-rapl:0", RANGE + 1)).contains("its range is"));
    assert!(
        spoiled(|m| m.energy("intel-rapl:0", 1_000_000)).contains("package-0: the counter did not change")
    );
}

#[test]
#[cfg(unix)]
fn root_only_counters_name_the_remedy() {
    use std::os::unix::fs::PermissionsExt;
    let machine = two_packages();
    let counter = machine.root().join(FOLDER).join("intel-rapl:0/energy_uj");
    std::fs::set_permissions(&counter, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&counter).is_ok() {
        eprintln!("skipped: this user reads every file; the message itself has a unit test");
        return;
    }
    assert!(machine.refusal("powercap").contains("sudo chmod a+r"));
}
