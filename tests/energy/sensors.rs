//! hwmon, IIO and batteries: power that is integrated, counters of boards, what is a total.

use std::time::Duration;

use bitjoule::probe::energy::source::DomainKind;

use super::{Machine, Trace, joules, play_an_hour, seconds, why};

const JETSON: [(&str, Trace); 3] = [
    ("VDD_IN", Trace::new(14.0, 6.0, 40.0)),
    ("VDD_CPU_GPU_CV", Trace::new(8.0, 5.0, 40.0)),
    ("VDD_SOC", Trace::new(2.5, 0.5, 9.0)),
];

impl Machine {
    fn hwmon(&self, chip: u32, file: &str, content: impl ToString) {
        self.write(&format!("sys/class/hwmon/hwmon{chip}/{file}"), content);
    }

    fn iio(&self, device: u32, file: &str, content: impl ToString) {
        self.write(&format!("sys/bus/iio/devices/iio:device{device}/{file}"), content);
    }

    fn supply(&self, name: &str, file: &str, content: impl ToString) {
        self.write(&format!("sys/class/power_supply/{name}/{file}"), content);
    }

    /// Names and membership in the total.
    fn domains(&self, source: &str) -> Vec<(String, bool)> {
        self.tracker(source).source().domains().iter().map(|d| (d.name.clone(), d.in_total)).collect()
    }
}

/// A Jetson Orin: volts and amperes of three rails.
fn jetson(machine: &Machine, t: Duration) {
    for (n, (_, trace)) in JETSON.iter().enumerate() {
        machine.hwmon(1, &format!("in{}_input", n + 1), 4960);
        let ma = (trace.power_w(t) / 4.960 * 1e3).round();
        machine.hwmon(1, &format!("curr{}_input", n + 1), ma);
    }
}

fn new_jetson() -> Machine {
    let machine = Machine::new();
    machine.hwmon(0, "name", "tmp451");
    machine.hwmon(0, "temp1_input", 45000);
    machine.hwmon(1, "name", "ina3221");
    machine.hwmon(1, "update_interval", 400);
    for (n, (rail, _)) in JETSON.iter().enumerate() {
        machine.hwmon(1, &format!("in{}_label", n + 1), rail);
    }
    // The sum of the shunt voltages, which is no rail.
    machine.hwmon(1, "in7_input", 12);
    machine.hwmon(1, "in7_label", "sum of shunt voltages");
    jetson(&machine, Duration::ZERO);
    machine
}

#[test]
fn an_hour_of_a_jetson() {
    let machine = new_jetson();
    let of_total = [("VDD_IN", true), ("VDD_CPU_GPU_CV", false), ("VDD_SOC", false)];
    assert_eq!(machine.domains("hwmon"), of_total.map(|(name, total)| (name.to_owned(), total)));
    let mut tracker = machine.tracker("hwmon");
    assert_eq!(tracker.interval(), Some(Duration::from_millis(400)));
    let trace = |domain: &str| JETSON.iter().find(|(rail, _)| *rail == domain).unwrap().1;
    play_an_hour(&mut tracker, |t| jetson(&machine, t), trace);
}

#[test]
fn sockets_come_before_meters_and_meters_before_nothing() {
    let machine = Machine::new();
    machine.hwmon(0, "name", "amdgpu");
    machine.hwmon(0, "power1_average", 30_000_000);
    machine.hwmon(0, "power1_label", "PPT");
    // A GPU is not what computes here, also where it is the only sensor.
    assert!(machine.refusal("hwmon").contains("(amdgpu-PPT) do not say which of them is the whole"));
    machine.hwmon(1, "name", "power_meter");
    machine.hwmon(1, "power1_average", 250_000_000);
    machine.hwmon(1, "power1_average_interval", 2000);
    let names = machine.domains("hwmon");
    assert_eq!(names, [("amdgpu-PPT".to_owned(), false), ("power_meter-power1".to_owned(), true)]);
    let tracker = machine.tracker("hwmon");
    assert_eq!(tracker.source().domains()[1].update_period, Duration::from_secs(2));
    assert_eq!(tracker.source().domains()[0].kind, DomainKind::Gpu);
    // The inputs of the supplies are what the meter measures: one of both.
    machine.hwmon(3, "name", "dps650ab");
    machine.hwmon(3, "power1_input", 240_000_000);
    machine.hwmon(3, "power1_label", "pin");
    let names = machine.domains("hwmon");
    let total: Vec<&str> = names.iter().filter(|(_, total)| *total).map(|(name, _)| name.as_str()).collect();
    assert_eq!(total, ["power_meter-power1"]);
    // Of two meters nobody says whether one contains the other. Older drivers keep the files with the device.
    machine.hwmon(4, "name", "power_meter");
    machine.hwmon(4, "device/power1_average", 100_000_000);
    let names = machine.domains("hwmon");
    assert_eq!(names.iter().filter(|(name, _)| name.starts_with("power_meter")).count(), 2, "{names:?}");
    let total: Vec<&str> = names.iter().filter(|(_, total)| *total).map(|(name, _)| name.as_str()).collect();
    assert_eq!(total, ["dps650ab-pin"]);
    for chip in [3, 4] {
        machine.remove(&format!("sys/class/hwmon/hwmon{chip}"));
    }

    machine.hwmon(2, "name", "amd_energy");
    for (n, label) in ["Ecore000", "Ecore001", "Esocket0"].iter().enumerate() {
        machine.hwmon(2, &format!("energy{}_label", n + 1), label);
        machine.hwmon(2, &format!("energy{}_input", n + 1), 5_000_000);
    }
    let total: Vec<String> =
        machine.domains("hwmon").into_iter().filter(|(_, total)| *total).map(|(name, _)| name).collect();
    assert_eq!(total, ["package-0"]);
    let mut tracker = machine.tracker("hwmon");
    let start = tracker.mark(seconds(1.0), Duration::ZERO);
    machine.hwmon(2, "energy3_input", 7_500_000);
    let end = tracker.mark(seconds(1.1), Duration::ZERO);
    assert_eq!(tracker.between(&start, &end).total().value().unwrap().energy.0, 2.5);
}

#[test]
fn two_supplies_are_added_and_unknown_rails_never() {
    let machine = Machine::new();
    for chip in [0, 1] {
        machine.hwmon(chip, "name", "dps650ab");
        machine.hwmon(chip, "power1_input", 100_000_000);
        machine.hwmon(chip, "power1_label", "pin");
        machine.hwmon(chip, "power2_input", 90_000_000);
        machine.hwmon(chip, "power2_label", "pout1");
    }
    let total: Vec<(String, bool)> = machine.domains("hwmon");
    assert_eq!(total.iter().filter(|(_, total)| *total).count(), 2, "{total:?}");
    assert!(total.iter().all(|(name, total)| *total == name.contains("pin")), "{total:?}");

    // A voltage regulator behind the supplies calls its input the same.
    machine.hwmon(2, "name", "ir35221");
    machine.hwmon(2, "power1_input", 60_000_000);
    machine.hwmon(2, "power1_label", "pin");
    assert!(machine.refusal("hwmon").contains("do not say which of them is the whole"));

    // A monitor that is the only sensor measures the board; a transceiver's laser does not.
    let machine = Machine::new();
    machine.hwmon(0, "name", "ina219");
    machine.hwmon(0, "power1_input", 4_000_000);
    assert_eq!(machine.domains("hwmon"), [("ina219-power1".to_owned(), true)]);
    machine.hwmon(0, "name", "sfp_eth0");
    assert!(machine.refusal("hwmon").contains("do not say which of them is the whole"));
    // A battery's power is not the machine's while it is charged, and has a source of its own.
    machine.hwmon(0, "name", "ina_battery");
    machine.supply("ina-battery", "type", "Battery");
    assert!(machine.refusal("hwmon").contains("tells power or energy"));

    let machine = Machine::new();
    machine.hwmon(0, "name", "ina226");
    for rail in 1..3 {
        machine.hwmon(0, &format!("power{rail}_input"), 1_000_000);
    }
    assert!(machine.refusal("hwmon").contains("do not say which of them is the whole"));
    assert!(Machine::new().refusal("hwmon").contains("no sensors at"));
    let machine = Machine::new();
    machine.hwmon(0, "name", "coretemp");
    assert!(machine.refusal("hwmon").contains("tells power or energy"));
}

#[test]
fn a_rail_that_becomes_garbage_spoils_the_window() {
    let machine = new_jetson();
    let mut tracker = machine.tracker("hwmon");
    let marks = [1.0, 2.0, 3.0, 4.0].map(|s| {
        machine.hwmon(1, "curr1_input", if s == 3.0 { "n/a" } else { "1000" });
        tracker.mark(seconds(s), Duration::ZERO)
    });
    assert!((joules(&tracker.between(&marks[0], &marks[1]), "VDD_IN") - 4.96).abs() < 1e-9);
    let energy = tracker.between(&marks[1], &marks[2]);
    assert!(why(&energy).contains("VDD_IN: ") && why(&energy).contains("'n/a'"), "{energy:?}");
    machine.hwmon(1, "curr1_input", u64::MAX);
    let absurd = tracker.mark(seconds(5.0), Duration::ZERO);
    assert!(why(&tracker.between(&marks[3], &absurd)).contains("absurd"));
}

#[test]
fn an_hour_of_iio() {
    const BOARD: Trace = Trace::new(5.0, 3.0, 30.0);
    let machine = Machine::new();
    machine.iio(0, "name", "ina3221x");
    machine.iio(0, "rail_name_0", "POM_5V_IN");
    machine.iio(0, "rail_name_1", "POM_5V_GPU");
    machine.iio(0, "in_power1_input", 800);
    machine.iio(1, "name", "ina226");
    machine.iio(1, "in_power2_scale", "0.5");
    machine.iio(1, "in_power_sampling_frequency", "4");
    let show = |t: Duration| {
        machine.iio(0, "in_power0_input", (BOARD.power_w(t) * 1e3).round());
        machine.iio(1, "in_power2_raw", (BOARD.power_w(t) * 200.0).round());
    };
    show(Duration::ZERO);
    let names = machine.domains("iio");
    let want = [("POM_5V_IN", true), ("POM_5V_GPU", false), ("iio:device1-power2", false)];
    assert_eq!(names, want.map(|(name, total)| (name.to_owned(), total)));
    let mut tracker = machine.tracker("iio");
    assert_eq!(tracker.source().domains()[2].update_period, Duration::from_millis(250));
    let trace = |domain: &str| match domain {
        "POM_5V_IN" => BOARD,
        "POM_5V_GPU" => Trace::new(0.8, 0.0, 1.0),
        _ => Trace::new(0.5, 0.3, 30.0),
    };
    play_an_hour(&mut tracker, show, trace);

    // The only sensor, of a chip that measures supplies, and of one that may measure anything.
    let lone = Machine::new();
    lone.iio(0, "name", "ina226");
    lone.iio(0, "in_power0_input", 800);
    assert_eq!(lone.domains("iio"), [("iio:device0-power0".to_owned(), true)]);
    lone.iio(0, "name", "ade9000");
    assert!(lone.refusal("iio").contains("do not say which"));

    machine.iio(0, "in_power0_input", "NaN");
    assert!(machine.refusal("iio").contains("do not say which"));
    assert!(Machine::new().refusal("iio").contains("no IIO devices"));
}

fn laptop() -> Machine {
    let machine = Machine::new();
    machine.supply("AC", "type", "Mains");
    machine.supply("AC", "online", 0);
    machine.supply("BAT0", "type", "Battery");
    machine.supply("BAT0", "status", "Discharging");
    machine.supply("BAT0", "energy_now", 50_000_000);
    machine.supply("hidpp_battery_0", "type", "Battery");
    machine.supply("hidpp_battery_0", "scope", "Device");
    machine
}

#[test]
fn hours_of_a_battery() {
    // 12 W on average; windows of a minute are within the 10 s and 36 J of a battery only together, so
    // the hour is checked, and its uncertainty.
    const DRAIN: Trace = Trace::new(12.0, 5.0, 100.0);
    for charge in [false, true] {
        let machine = laptop();
        let show = |t: Duration| {
            let joules = DRAIN.energy_j(t);
            if charge {
                // The voltage sinks from 12.6 V by 1 V an hour: what of the charge C was given is
                // worth its mean, C * (12.6 - t / 7200) = E.
                let volts = 12.6 - t.as_secs_f64() / 3600.0;
                machine.supply("BAT0", "voltage_now", (volts * 1e6) as u64);
                let mut coulombs = 0.0;
                let mut s = 0.0;
                while s < t.as_secs_f64() {
                    coulombs += DRAIN.power_w(seconds(s + 5.0)) * 10.0 / (12.6 - (s + 5.0) / 3600.0);
                    s += 10.0;
                }
                machine.supply("BAT0", "charge_now", 4_000_000 - (coulombs / 3.6e-3) as u64);
            } else {
                machine.supply("BAT0", "energy_now", 50_000_000 - (joules / 36.0) as u64 * 10_000);
            }
        };
        if charge {
            machine.remove("sys/class/power_supply/BAT0/energy_now");
        }
        show(Duration::ZERO);
        let mut tracker = machine.tracker("battery");
        assert_eq!(tracker.source().domains().len(), 1);
        let start = tracker.mark(Duration::ZERO, Duration::ZERO);
        let mut end = start.clone();
        for step in 1..=360 {
            let now = seconds(f64::from(step) * 10.0);
            show(now);
            end = tracker.mark(now, Duration::ZERO);
        }
        let total = *tracker.between(&start, &end).total().value().unwrap();
        let want = DRAIN.energy_j(seconds(3600.0));
        assert!((total.energy.0 - want).abs() < 0.005 * want, "{charge}: {total:?}, not {want}");
        assert!((total.energy.0 - want).abs() <= total.uncertainty.0);
    }
}

#[test]
fn on_mains_a_battery_is_refused_from_the_start_and_in_mid_run() {
    let machine = laptop();
    machine.supply("AC", "online", 1);
    assert!(machine.refusal("battery").contains("on mains (AC is online)"));
    assert!(machine.refusal("battery").contains("pull the plug"));
    let machine = laptop();
    machine.supply("BAT0", "status", "Full");
    assert!(machine.refusal("battery").contains("discharging"));
    machine.supply("BAT0", "energy_now", "");
    assert!(machine.refusal("battery").contains("no number of microwatt-hours"));
    assert!(Machine::new().refusal("battery").contains("no power supplies"));
    let machine = Machine::new();
    machine.supply("AC", "type", "Mains");
    assert!(machine.refusal("battery").contains("no battery"));

    let machine = laptop();
    let mut tracker = machine.tracker("battery");
    let marks: Vec<_> = [(100.0, 49_900_000), (200.0, 49_800_000), (300.0, 49_700_000), (400.0, 49_600_000)]
        .into_iter()
        .map(|(s, uwh)| {
            machine.supply("BAT0", "energy_now", uwh);
            machine.supply("AC", "online", u32::from(s == 300.0));
            tracker.mark(seconds(s), Duration::ZERO)
        })
        .collect();
    assert_eq!(joules(&tracker.between(&marks[0], &marks[1]), "BAT0"), 360.0);
    assert!(why(&tracker.between(&marks[1], &marks[2])).contains("on mains"));
    // The plug was in between two marks, and a reading saw it.
    assert_eq!(tracker.interval(), Some(Duration::from_secs(1)));
    machine.supply("BAT0", "energy_now", 49_500_000);
    machine.supply("AC", "online", 1);
    tracker.read(seconds(450.0), Duration::ZERO);
    machine.supply("AC", "online", 0);
    let unplugged = tracker.mark(seconds(460.0), Duration::ZERO);
    assert!(why(&tracker.between(&marks[3], &unplugged)).contains("on mains"));
    // That no battery says what it does for a moment (two hand over) costs nothing.
    machine.supply("BAT0", "status", "Unknown");
    tracker.read(seconds(470.0), Duration::ZERO);
    machine.supply("BAT0", "status", "Discharging");
    machine.supply("BAT0", "energy_now", 49_400_000);
    let later = tracker.mark(seconds(480.0), Duration::ZERO);
    assert_eq!(joules(&tracker.between(&unplugged, &later), "BAT0"), 360.0);
    let marks = [marks[0].clone(), marks[1].clone(), marks[2].clone(), later];
    machine.supply("BAT0", "energy_now", 49_900_000);
    let charged = tracker.mark(seconds(500.0), Duration::ZERO);
    assert!(why(&tracker.between(&marks[3], &charged)).contains("went back"));
}
