//! Energy and power from hwmon: rails of boards, power supplies, CPUs and GPUs whose drivers tell it.
//!
//! Files and units are those of Documentation/hwmon/sysfs-interface.rst of Linux: `powerN_input` or
//! `powerN_average` in microwatts, `energyN_input` in microjoules, and of chips that only have both,
//! `inN_input` in millivolts times `currN_input` in milliamperes (INA3221, hwmon/ina3221.rst).
//!
//! What is a total, first that applies: CPU sockets (amd_energy); the supply of the whole board (`VDD_IN`,
//! `POM_5V_IN`); the machine's one power meter (ACPI); the inputs (`pin`) of its power supplies, if all are of
//! one driver, for that of a voltage regulator behind them is called the same; a power monitor that is the only
//! sensor. Rails of which nobody says whether one contains the other are never added up. Batteries, which hwmon
//! shows again, belong to another source.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::powercap::RAPL_PERIOD;
use super::source::{
    Domain, DomainKind, LONGEST_PERIOD, Quantity, Raw, Reading, Refusal, Source, below, read, read_each,
    read_number,
};
use crate::units::{Joules, Watts};

const FOLDER: &str = "/sys/class/hwmon";

/// Update period of a power sensor that does not state it.
pub(super) const UNSTATED: Duration = Duration::from_secs(1);

/// Rails that feed the whole board: Jetson Orin, Xavier NX and TX2 NX; Jetson Nano and TX1.
pub(super) const BOARD_INPUTS: [&str; 2] = ["VDD_IN", "POM_5V_IN"];

/// Beginnings of the names of drivers of chips that do nothing but measure a supply: TI's INA, Analog's LTC
/// and ADM, Microchip's PAC. The only power that another driver tells may be that of a laser or a fan.
pub(super) const MONITORS: [&str; 4] = ["ina", "ltc", "adm", "pac"];

/// Driver of ACPI's power meters.
const POWER_METER: &str = "power_meter";

/// Drivers of GPUs.
const GPUS: [&str; 4] = ["amdgpu", "nouveau", "i915", "xe"];

struct Hwmon {
    domains: Vec<Domain>,
    sensors: Vec<Sensor>,
}

enum Sensor {
    Energy(PathBuf),
    Power(PathBuf),
    VoltsTimesAmperes(PathBuf, PathBuf),
}

/// A sensor, before it is known which of them make the total.
struct Found {
    sensor: Sensor,
    driver: String,
    name: String,
    kind: DomainKind,
    tier: Tier,
    quantity: Quantity,
    update_period: Duration,
}

/// What a sensor may stand for; the lowest there is makes the total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Sockets,
    Board,
    Meter,
    Supplies,
    Part,
}

pub(super) fn open(root: Option<&Path>) -> Result<Box<dyn Source>, Refusal> {
    let folder = below(root, FOLDER);
    let mut chips: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map_err(|_| Refusal::new(format!("no sensors at {}", folder.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    chips.sort();
    let mut found: Vec<Found> = Vec::new();
    let batteries = batteries(root);
    for chip in chips {
        for mut sensor in sensors(&chip, &batteries) {
            if sensor.sensor.read().is_err() {
                continue; // A sensor that is switched off, or the root user's.
            }
            if found.iter().any(|other| other.name == sensor.name) {
                let chip = chip.file_name().unwrap_or_default().to_string_lossy();
                sensor.name = format!("{}-{chip}", sensor.name);
            }
            found.push(sensor);
        }
    }
    if found.is_empty() {
        return Err(Refusal::new(format!("no sensor of {} tells power or energy", folder.display())));
    }
    settle(&mut found);
    let tier = found.iter().map(|sensor| sensor.tier).min();
    let mut hwmon = Hwmon { domains: Vec::new(), sensors: Vec::new() };
    for sensor in found {
        hwmon.domains.push(Domain {
            in_total: sensor.tier < Tier::Part && Some(sensor.tier) == tier,
            name: sensor.name,
            kind: sensor.kind,
            quantity: sensor.quantity,
            update_period: sensor.update_period,
        });
        hwmon.sensors.push(sensor.sensor);
    }
    if !hwmon.domains.iter().any(|domain| domain.in_total) {
        let names: Vec<&str> = hwmon.domains.iter().map(|domain| domain.name.as_str()).collect();
        return Err(Refusal::new(format!(
            "the sensors of {} ({}) do not say which of them is the whole",
            folder.display(),
            names.join(", ")
        )));
    }
    Ok(Box::new(hwmon))
}

/// Corrects what each sensor alone promises by what the others are.
fn settle(found: &mut [Found]) {
    let drivers_of = |tier: Tier| -> Vec<&str> {
        found.iter().filter(|sensor| sensor.tier == tier).map(|sensor| sensor.driver.as_str()).collect()
    };
    // Of several meters, or of inputs of different drivers, nobody says whether one contains the other.
    let several_meters = drivers_of(Tier::Meter).len() > 1;
    let inputs = drivers_of(Tier::Supplies);
    let several_kinds = inputs.iter().any(|driver| *driver != inputs[0]);
    for sensor in found.iter_mut() {
        let unclear = match sensor.tier {
            Tier::Meter => several_meters,
            Tier::Supplies => several_kinds,
            _ => false,
        };
        if unclear {
            sensor.tier = Tier::Part;
        }
    }
    if let [sensor] = found
        && MONITORS.iter().any(|prefix| sensor.driver.starts_with(prefix))
    {
        sensor.tier = Tier::Board;
    }
}

/// The names under which hwmon shows power supplies again.
fn batteries(root: Option<&Path>) -> Vec<String> {
    let supplies = std::fs::read_dir(below(root, "/sys/class/power_supply"));
    let names = supplies.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.map(|name| name.replace('-', "_")).collect()
}

/// The sensors of power and energy of one chip.
fn sensors(chip: &Path, batteries: &[String]) -> Vec<Found> {
    let Ok(driver) = read(&chip.join("name")) else { return Vec::new() };
    if batteries.contains(&driver.replace('-', "_")) {
        return Vec::new();
    }
    // The driver of ACPI's power meter keeps its files with the device.
    let chip = if driver == POWER_METER && !chip.join("power1_average").exists() {
        &chip.join("device")
    } else {
        chip
    };
    let files: Vec<String> = std::fs::read_dir(chip)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let mut found = Vec::new();
    let numbers = |prefix: &str, suffix: &str| -> Vec<u32> {
        let number = |file: &String| file.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok();
        let mut numbers: Vec<u32> = files.iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    };
    let path = |file: String| chip.join(file);
    let milliseconds = |file: String| {
        let period = read_number(&path(file), "milliseconds").ok().map(Duration::from_millis);
        period.filter(|period| !period.is_zero() && *period <= LONGEST_PERIOD)
    };
    let interval = milliseconds("update_interval".to_owned());
    for n in numbers("energy", "_input") {
        let sensor = Sensor::Energy(path(format!("energy{n}_input")));
        let label = read(&path(format!("energy{n}_label"))).unwrap_or_else(|_| format!("{driver}-energy{n}"));
        let update_period = match interval {
            Some(interval) => interval,
            // amd_energy reads RAPL's counters.
            None if driver == "amd_energy" => RAPL_PERIOD,
            None => measured_period(|| sensor.read().ok()),
        };
        let quantity = Quantity::Counter { unit: Joules(1e-6), turn: None, step: Joules(1e-6) };
        found.push(named(sensor, &driver, label, quantity, update_period));
    }
    let averages = numbers("power", "_average");
    let inputs = numbers("power", "_input");
    for n in inputs.iter().chain(averages.iter().filter(|n| !inputs.contains(n))) {
        let average = !inputs.contains(n);
        let sensor = Sensor::Power(path(format!("power{n}_{}", if average { "average" } else { "input" })));
        let label = read(&path(format!("power{n}_label"))).unwrap_or_else(|_| format!("{driver}-power{n}"));
        let averaged = average.then(|| milliseconds(format!("power{n}_average_interval"))).flatten();
        let update_period = averaged.or(interval).unwrap_or(UNSTATED);
        found.push(named(sensor, &driver, label, Quantity::Power { step: Watts(1e-6) }, update_period));
    }
    if inputs.is_empty() && averages.is_empty() {
        let currents = numbers("curr", "_input");
        for n in numbers("in", "_input").into_iter().filter(|n| currents.contains(n)) {
            let sensor =
                Sensor::VoltsTimesAmperes(path(format!("in{n}_input")), path(format!("curr{n}_input")));
            // Without a label nobody knows that voltage and current of one number belong together.
            let Ok(label) = read(&path(format!("in{n}_label"))) else { continue };
            let update_period = interval.unwrap_or(UNSTATED);
            // A milliampere at 5 V.
            found.push(named(sensor, &driver, label, Quantity::Power { step: Watts(5e-3) }, update_period));
        }
    }
    found
}

/// What a sensor is, by its driver and label.
fn named(sensor: Sensor, driver: &str, label: String, quantity: Quantity, update_period: Duration) -> Found {
    let (name, kind, tier) = if let Some(socket) = label.strip_prefix("Esocket") {
        (format!("package-{socket}"), DomainKind::Package, Tier::Sockets)
    } else if let Some(core) = label.strip_prefix("Ecore") {
        (format!("core-{core}"), DomainKind::Core, Tier::Part)
    } else if BOARD_INPUTS.contains(&label.as_str()) {
        (label, DomainKind::Rail, Tier::Board)
    } else if GPUS.contains(&driver) {
        (format!("{driver}-{label}"), DomainKind::Gpu, Tier::Part)
    } else if driver == POWER_METER {
        (label, DomainKind::Meter, Tier::Meter)
    } else if label.starts_with("pin") {
        (format!("{driver}-{label}"), DomainKind::Meter, Tier::Supplies)
    } else {
        (label, DomainKind::Rail, Tier::Part)
    };
    Found { sensor, driver: driver.to_owned(), name, kind, tier, quantity, update_period }
}

/// How often a counter moves, measured for at most 50 ms; [`UNSTATED`] if it does not move twice.
fn measured_period(mut counter: impl FnMut() -> Option<u64>) -> Duration {
    const LONGEST: Duration = Duration::from_millis(50);
    let start = Instant::now();
    let (mut last, mut moves, mut first_move, mut last_move) = (counter(), 0, start, start);
    while start.elapsed() < LONGEST && moves < 10 {
        std::thread::sleep(Duration::from_micros(200));
        let now = counter();
        if now != last {
            (last, last_move, moves) = (now, Instant::now(), moves + 1);
            if moves == 1 {
                first_move = last_move;
            }
        }
    }
    if moves < 2 { UNSTATED } else { (last_move - first_move) / (moves - 1) }
}

impl Sensor {
    /// The value in the unit of its file: microjoules or microwatts.
    fn read(&self) -> Result<u64, String> {
        match self {
            Sensor::Energy(path) => read_number(path, "microjoules"),
            Sensor::Power(path) => read_number(path, "microwatts"),
            Sensor::VoltsTimesAmperes(volts, amperes) => {
                let (mv, ma) = (read_number(volts, "millivolts")?, read_number(amperes, "milliamperes")?);
                mv.checked_mul(ma).ok_or_else(|| format!("{} and its current are absurd", volts.display()))
            }
        }
    }

    fn raw(&self) -> Result<Raw, String> {
        let value = self.read()?;
        Ok(match self {
            Sensor::Energy(_) => Raw::Counts(value),
            Sensor::Power(_) | Sensor::VoltsTimesAmperes(..) => Raw::Power(Watts(value as f64 / 1e6)),
        })
    }
}

impl Source for Hwmon {
    fn name(&self) -> &str {
        "hwmon"
    }

    fn domains(&self) -> &[Domain] {
        &self.domains
    }

    fn read(&mut self, _: Duration, only: Option<usize>, readings: &mut Vec<Reading>) {
        read_each(&self.sensors, only, readings, Sensor::raw);
    }
}
