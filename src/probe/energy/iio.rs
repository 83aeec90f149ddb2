//! Power from IIO devices: the INA3221 of older Jetson boards, and other monitors on the I2C bus.
//!
//! `in_powerN_input` is in milliwatts, or `in_powerN_raw` times `in_powerN_scale` (or `in_power_scale`) is
//! (Documentation/ABI/testing/sysfs-bus-iio of Linux); NVIDIA's driver names its rails in `rail_name_N`.
//! What makes the total is decided as in `hwmon`: the supply of the whole board, else a power monitor that is
//! the only sensor.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hwmon::{BOARD_INPUTS, MONITORS, UNSTATED};
use super::source::{
    Domain, DomainKind, LONGEST_PERIOD, Quantity, Raw, Reading, Refusal, Source, below, read, read_each,
    shown,
};
use crate::units::Watts;

const FOLDER: &str = "/sys/bus/iio/devices";

struct Iio {
    domains: Vec<Domain>,
    sensors: Vec<Sensor>,
}

struct Sensor {
    path: PathBuf,
    /// Whether its device does nothing but measure a supply.
    is_monitor: bool,
    /// Milliwatts of one unit of the file.
    scale: f64,
}

pub(super) fn open(root: Option<&Path>) -> Result<Box<dyn Source>, Refusal> {
    let folder = below(root, FOLDER);
    let mut devices: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map_err(|_| Refusal::new(format!("no IIO devices at {}", folder.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    devices.sort();
    let mut iio = Iio { domains: Vec::new(), sensors: Vec::new() };
    for device in devices {
        iio.add(&device);
    }
    if let ([domain], Some(true)) = (iio.domains.as_mut_slice(), iio.sensors.first().map(|s| s.is_monitor)) {
        domain.in_total = true;
    }
    if iio.domains.is_empty() {
        return Err(Refusal::new(format!("no device of {} tells power", folder.display())));
    }
    if !iio.domains.iter().any(|domain| domain.in_total) {
        let names: Vec<&str> = iio.domains.iter().map(|domain| domain.name.as_str()).collect();
        return Err(Refusal::new(format!(
            "the sensors of {} ({}) do not say which of them is the whole",
            folder.display(),
            names.join(", ")
        )));
    }
    Ok(Box::new(iio))
}

impl Iio {
    fn add(&mut self, device: &Path) {
        let mut files: Vec<String> = std::fs::read_dir(device)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        files.sort();
        let number = |file: String| read(&device.join(file)).ok()?.parse::<f64>().ok();
        let driver = read(&device.join("name")).unwrap_or_default();
        let is_monitor = MONITORS.iter().any(|prefix| driver.starts_with(prefix));
        let rate =
            number("in_power_sampling_frequency".to_owned()).or(number("sampling_frequency".to_owned()));
        let update_period = rate
            .filter(|hz| *hz > 0.0)
            .and_then(|hz| Duration::try_from_secs_f64(1.0 / hz).ok())
            .filter(|period| *period <= LONGEST_PERIOD)
            .unwrap_or(UNSTATED);
        for file in &files {
            let Some(channel) = file.strip_prefix("in_power") else { continue };
            let (n, scale) = if let Some(n) = channel.strip_suffix("_input") {
                (n, Some(1.0))
            } else if let Some(n) = channel.strip_suffix("_raw") {
                if files.contains(&format!("in_power{n}_input")) {
                    continue;
                }
                let scale = number(format!("in_power{n}_scale")).or(number("in_power_scale".to_owned()));
                (n, scale.filter(|scale| scale.is_finite() && *scale > 0.0))
            } else {
                continue;
            };
            let Some(scale) = scale else { continue };
            let sensor = Sensor { path: device.join(file), is_monitor, scale };
            if sensor.raw().is_err() {
                continue;
            }
            let folder = device.file_name().unwrap_or_default().to_string_lossy();
            let mut name = read(&device.join(format!("rail_name_{n}")))
                .or_else(|_| read(&device.join(format!("in_power{n}_label"))))
                .unwrap_or_else(|_| format!("{folder}-power{n}"));
            if self.domains.iter().any(|domain| domain.name == name) {
                name = format!("{name}-{folder}");
            }
            self.domains.push(Domain {
                in_total: BOARD_INPUTS.contains(&name.as_str()),
                name,
                kind: DomainKind::Rail,
                quantity: Quantity::Power { step: Watts(scale / 1e3) },
                update_period,
            });
            self.sensors.push(sensor);
        }
    }
}

impl Sensor {
    fn raw(&self) -> Result<Raw, String> {
        let text = read(&self.path)?;
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Raw::Power(Watts(value * self.scale / 1e3))),
            _ => Err(format!("{} holds '{}', which is no power", self.path.display(), shown(&text))),
        }
    }
}

impl Source for Iio {
    fn name(&self) -> &str {
        "iio"
    }

    fn domains(&self) -> &[Domain] {
        &self.domains
    }

    fn read(&mut self, _: Duration, only: Option<usize>, readings: &mut Vec<Reading>) {
        read_each(&self.sensors, only, readings, Sensor::raw);
    }
}
