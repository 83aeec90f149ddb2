//! Energy of the whole machine from its batteries, while it runs on them.
//!
//! `energy_now` in microwatt-hours, or `charge_now` in microampere-hours times the mean of `voltage_now`
//! (Documentation/ABI/testing/sysfs-class-power of Linux). On mains a battery's fall says nothing of what
//! the machine takes, so it is refused, at the start and in the middle of a window. Batteries are coarse
//! and slow: they serve windows of many minutes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::source::{
    Domain, DomainKind, Quantity, Raw, Reading, Refusal, Source, below, read, read_each, read_number,
};
use crate::units::Joules;

const FOLDER: &str = "/sys/class/power_supply";

/// How often a battery renews its reading. No file says it; firmwares differ, most are faster.
const PERIOD: Duration = Duration::from_secs(10);

/// Batteries report in steps of 10 mWh or finer.
const STEP: Joules = Joules(36.0);

/// Where a battery's count begins: it can go down, and is then told from one that was full for long.
const BEGIN_UJ: i128 = 1 << 62;

struct Battery {
    supplies: PathBuf,
    domains: Vec<Domain>,
    packs: Vec<Pack>,
}

struct Pack {
    folder: PathBuf,
    gauge: Gauge,
    /// The reading before.
    last: (u64, u64),
    /// Energy given since the source was opened, in microjoules, and [`BEGIN_UJ`].
    given_uj: i128,
}

#[derive(Clone, Copy)]
enum Gauge {
    Energy,
    ChargeTimesVoltage,
}

pub(super) fn open(root: Option<&Path>) -> Result<Box<dyn Source>, Refusal> {
    const UNPLUG: &str = "run on battery: pull the plug";
    let supplies = below(root, FOLDER);
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&supplies)
        .map_err(|_| Refusal::new(format!("no power supplies at {}", supplies.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|folder| {
            // The batteries of mice and headsets have scope Device.
            let says = |file: &str, what: &str| read(&folder.join(file)).is_ok_and(|text| text == what);
            says("type", "Battery") && !says("scope", "Device")
        })
        .collect();
    folders.sort();
    if folders.is_empty() {
        return Err(Refusal::new(format!("{} has no battery", supplies.display())));
    }
    if let Some(mains) = mains(&supplies) {
        return Err(Refusal::with(format!("the machine is on mains ({mains} is online)"), UNPLUG));
    }
    let mut battery = Battery { supplies, domains: Vec::new(), packs: Vec::new() };
    for folder in folders {
        let gauge =
            if folder.join("energy_now").exists() { Gauge::Energy } else { Gauge::ChargeTimesVoltage };
        let last = gauge.read(&folder).map_err(Refusal::new)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        battery.domains.push(Domain {
            name,
            kind: DomainKind::Battery,
            in_total: true,
            quantity: Quantity::Counter { unit: Joules(1e-6), turn: None, step: STEP },
            update_period: PERIOD,
        });
        battery.packs.push(Pack { folder, gauge, last, given_uj: BEGIN_UJ });
    }
    let feeds = battery.plugged().map_or_else(|| battery.discharging(), Err);
    feeds.map_err(|why| Refusal::with(why, UNPLUG))?;
    Ok(Box::new(battery))
}

/// The first supply that is not a battery and is plugged in.
fn mains(supplies: &Path) -> Option<String> {
    std::fs::read_dir(supplies).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find_map(|folder| {
        let mains = read(&folder.join("type")).is_ok_and(|text| text == "Mains" || text == "USB");
        let online = read(&folder.join("online")).is_ok_and(|text| text != "0");
        (mains && online).then(|| folder.file_name().unwrap_or_default().to_string_lossy().into_owned())
    })
}

impl Battery {
    /// What else feeds the machine.
    fn plugged(&self) -> Option<String> {
        if let Some(mains) = mains(&self.supplies) {
            return Some(format!("the machine is on mains ({mains} is online)"));
        }
        let charging =
            |pack: &Pack| read(&pack.folder.join("status")).is_ok_and(|status| status == "Charging");
        let charged = self.packs.iter().zip(&self.domains).find(|(pack, _)| charging(pack));
        charged.map(|(_, domain)| format!("{} is charging", domain.name))
    }

    /// That the batteries feed it. Of several, one may rest.
    fn discharging(&self) -> Result<(), String> {
        for pack in &self.packs {
            if read(&pack.folder.join("status"))? == "Discharging" {
                return Ok(());
            }
        }
        Err("no battery says that it is discharging".to_owned())
    }
}

impl Gauge {
    /// Microwatt-hours and 0, or microampere-hours and microvolts.
    fn read(self, folder: &Path) -> Result<(u64, u64), String> {
        match self {
            Gauge::Energy => Ok((read_number(&folder.join("energy_now"), "microwatt-hours")?, 0)),
            Gauge::ChargeTimesVoltage => Ok((
                read_number(&folder.join("charge_now"), "microampere-hours")?,
                read_number(&folder.join("voltage_now"), "microvolts")?,
            )),
        }
    }

    /// The energy given between two readings, in microjoules; negative if there is more than before.
    fn given_uj(self, before: (u64, u64), after: (u64, u64)) -> i128 {
        let fall = i128::from(before.0) - i128::from(after.0);
        match self {
            Gauge::Energy => fall * 3600,
            // uAh * uV = 3600e-12 J
            Gauge::ChargeTimesVoltage => fall * (i128::from(before.1) + i128::from(after.1)) * 18 / 10_000,
        }
    }
}

impl Pack {
    fn counts(&mut self) -> Result<u64, String> {
        let now = self.gauge.read(&self.folder)?;
        // Charge is worth what the voltage was while it flowed, so it is taken up step by step.
        if now.0 != self.last.0 {
            self.given_uj += self.gauge.given_uj(self.last, now);
            self.last = now;
        }
        u64::try_from(self.given_uj).map_err(|_| format!("{} jumped absurdly", self.folder.display()))
    }
}

impl Source for Battery {
    fn name(&self) -> &str {
        "battery"
    }

    fn domains(&self) -> &[Domain] {
        &self.domains
    }

    fn read(&mut self, now: Duration, only: Option<usize>, readings: &mut Vec<Reading>) {
        let plugged = self.plugged();
        let discharging = plugged.clone().map_or_else(|| self.discharging(), Err);
        read_each(&mut self.packs, only, readings, |pack| {
            let counts = pack.counts();
            discharging.clone().and(counts).map(Raw::Counts)
        });
        // The plug may be out again at the next reading; what was measured meanwhile is spoiled all the same.
        if let Some(why) = plugged {
            let spoiled = |domain| Reading { domain, at: Some(now), raw: Err(why.clone()) };
            readings.extend((0..self.packs.len()).map(spoiled));
        }
    }
}
