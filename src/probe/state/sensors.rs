//! What the machine shows of an instant: frequencies and temperatures, from files that stay open.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Busy, Frequency, Reading};
use crate::probe::text;

/// Drivers whose sensors are the CPU's, by the `name` of their hwmon folder.
const CPU_DRIVERS: [&str; 7] =
    ["coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "cpu0_thermal", "soc_thermal"];

/// Labels of the sensor that speaks for the whole package, best first; without one all are read.
const PACKAGE_LABELS: [&str; 3] = ["Package id", "Tdie", "Tctl"];

/// A CPU that is in its working state for less than this share of an interval is idle: what APERF and
/// MPERF counted of it is not the frequency of the measured threads.
const WORKING_SHARE: f64 = 0.1;

/// No CPU is faster: registers that were reset within an interval, as by sleep, give more.
const MAX_MHZ: f64 = 20_000.0;

/// The sensors, and what they have shown so far.
#[derive(Debug)]
pub(super) struct Sensors {
    pub(super) root: PathBuf,
    pub(super) busy: Busy,
    frequency: FrequencySource,
    temperature: Result<Vec<File>, String>,
    last: Instant,
    /// Frequencies of the CPUs in one reading, kept to be used again.
    mhz: Vec<f64>,
    /// Sum of mean frequency × time since the reading before.
    mhz_s: f64,
    seconds: f64,
    min_mhz: f64,
    readings: u32,
    frequency_failed: Option<String>,
    max_c: Option<f64>,
}

/// Where frequencies are from, in the order of preference.
#[derive(Debug)]
enum FrequencySource {
    /// Cycles that were worked, by CPU, with the reading before if there is one: the mean frequency between
    /// two readings.
    Cycles(Vec<(File, Option<Cycles>)>),
    /// `scaling_cur_freq` by CPU, kHz.
    Cpufreq(Vec<File>),
    /// `/proc/cpuinfo`: it is long, and read at the end of a window only.
    Cpuinfo,
    None(String),
}

/// Registers of a CPU at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cycles {
    /// IA32_TIME_STAMP_COUNTER: advances at the base frequency, always.
    tsc: u64,
    /// IA32_MPERF: advances as the TSC, in the working state C0 only.
    mperf: u64,
    /// IA32_APERF: advances at the actual frequency, in C0 only.
    aperf: u64,
}

impl Cycles {
    /// Reads an MSR device, whose offsets are register numbers (`msr(4)`; Intel SDM vol. 4, AMD APM vol. 2
    /// have the same three).
    fn read(msr: &File) -> Option<Cycles> {
        let register = |number: u64| {
            let mut bytes = [0; 8];
            msr.read_exact_at(&mut bytes, number).ok()?;
            Some(u64::from_ne_bytes(bytes))
        };
        let cycles = Cycles { tsc: register(0x10)?, mperf: register(0xe7)?, aperf: register(0xe8)? };
        // Some hypervisors answer 0 instead of refusing.
        (cycles.mperf != 0 && cycles.aperf != 0).then_some(cycles)
    }

    /// Mean frequency while working, between two readings `seconds` apart; none for an idle CPU.
    fn mhz(self, end: Cycles, seconds: f64) -> Option<f64> {
        let tsc = end.tsc.wrapping_sub(self.tsc) as f64;
        let mperf = end.mperf.wrapping_sub(self.mperf) as f64;
        let aperf = end.aperf.wrapping_sub(self.aperf) as f64;
        let mhz = aperf / mperf * tsc / seconds / 1e6;
        (mhz > 0.0 && mhz < MAX_MHZ && mperf >= tsc * WORKING_SHARE).then_some(mhz)
    }
}

impl Sensors {
    pub(super) fn open(root: &Path, busy: &Busy) -> Sensors {
        Sensors {
            root: root.to_owned(),
            busy: busy.clone(),
            frequency: frequency_source(root, &busy.cpus),
            temperature: temperature_files(root),
            last: Instant::now(),
            mhz: Vec::with_capacity(busy.cpus.len()),
            mhz_s: 0.0,
            seconds: 0.0,
            min_mhz: f64::INFINITY,
            readings: 0,
            frequency_failed: None,
            max_c: None,
        }
    }

    /// Whether anything is to be read while a window lasts.
    pub(super) fn worth_a_thread(&self) -> bool {
        let frequency = matches!(self.frequency, FrequencySource::Cycles(_) | FrequencySource::Cpufreq(_));
        frequency || self.temperature.is_ok()
    }

    /// Reads all sensors; the values stand for the time since the reading before.
    pub(super) fn read(&mut self) {
        let now = Instant::now();
        let seconds = now.duration_since(self.last).as_secs_f64();
        self.last = now;
        self.mhz.clear();
        match &mut self.frequency {
            FrequencySource::Cycles(cpus) => {
                for (msr, last) in cpus {
                    let cycles = Cycles::read(msr);
                    if cycles.is_none() {
                        self.frequency_failed = Some("/dev/cpu/*/msr became unreadable".to_owned());
                    }
                    if let (Some(last), Some(cycles)) = (*last, cycles) {
                        self.mhz.extend(last.mhz(cycles, seconds));
                    }
                    *last = cycles;
                }
            }
            FrequencySource::Cpufreq(cpus) => {
                for file in cpus {
                    match number(file) {
                        Some(khz) => self.mhz.push(khz / 1e3),
                        None => {
                            self.frequency_failed = Some("scaling_cur_freq became unreadable".to_owned());
                        }
                    }
                }
            }
            FrequencySource::Cpuinfo | FrequencySource::None(_) => {}
        }
        self.note_frequencies(seconds);
        for celsius in self.temperature.iter().flatten().filter_map(number).map(|milli| milli / 1e3) {
            self.max_c = Some(self.max_c.map_or(celsius, |max| max.max(celsius)));
        }
    }

    /// Takes `self.mhz` into account: of more CPUs than busy threads, the fastest are the busy ones.
    fn note_frequencies(&mut self, seconds: f64) {
        self.mhz.retain(|mhz| mhz.is_finite() && *mhz > 0.0);
        self.mhz.sort_by(|a, b| b.total_cmp(a));
        self.mhz.truncate(self.busy.threads);
        let Some(&slowest) = self.mhz.last() else { return };
        self.mhz_s += self.mhz.iter().sum::<f64>() / self.mhz.len() as f64 * seconds;
        self.seconds += seconds;
        self.min_mhz = self.min_mhz.min(slowest);
        self.readings += 1;
    }

    /// Mean and lowest frequency so far.
    pub(super) fn frequency(&mut self) -> Reading<Frequency> {
        let by = match &self.frequency {
            FrequencySource::Cycles(_) => "APERF and MPERF of /dev/cpu/*/msr",
            FrequencySource::Cpufreq(_) => "cpufreq scaling_cur_freq",
            FrequencySource::Cpuinfo => {
                let cpuinfo = text(self.root.join("proc/cpuinfo")).unwrap_or_default();
                self.mhz = cpuinfo_mhz(&cpuinfo, &self.busy.cpus);
                self.note_frequencies(1.0);
                "/proc/cpuinfo, at the end of the window"
            }
            FrequencySource::None(why) => return Err(why.clone()),
        };
        if self.readings == 0 || self.seconds == 0.0 {
            let why = self.frequency_failed.clone();
            return Err(why.unwrap_or_else(|| format!("{by}: no CPU worked long enough to have one")));
        }
        let mean_mhz = self.mhz_s / self.seconds;
        Ok((Frequency { mean_mhz, min_mhz: self.min_mhz, readings: self.readings }, by))
    }

    /// Highest temperature so far.
    pub(super) fn temperature_max_c(&self) -> Reading<f64> {
        let files = self.temperature.as_ref().map_err(String::clone)?;
        match self.max_c {
            Some(max) => Ok((max, "the CPU's temperature sensor")),
            None => Err(format!("{} temperature sensors became unreadable", files.len())),
        }
    }
}

/// The number that a small file holds, without an allocation.
fn number(file: &File) -> Option<f64> {
    let mut bytes = [0; 32];
    let length = file.read_at(&mut bytes, 0).ok()?;
    let number: i64 = std::str::from_utf8(bytes.get(..length)?).ok()?.trim().parse().ok()?;
    Some(number as f64)
}

fn frequency_source(root: &Path, cpus: &[u32]) -> FrequencySource {
    let of_all = |path: &dyn Fn(u32) -> String| -> Option<Vec<File>> {
        let files: Option<Vec<File>> =
            cpus.iter().map(|&cpu| File::open(root.join(path(cpu))).ok()).collect();
        files.filter(|files| !files.is_empty())
    };
    let cycles = of_all(&|cpu| format!("dev/cpu/{cpu}/msr")).and_then(|files| {
        files.into_iter().map(|msr| Cycles::read(&msr).map(|cycles| (msr, Some(cycles)))).collect()
    });
    if let Some(cycles) = cycles {
        return FrequencySource::Cycles(cycles);
    }
    let current = of_all(&|cpu| format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"));
    if let Some(files) = current.filter(|files| files.iter().all(|file| number(file).is_some())) {
        return FrequencySource::Cpufreq(files);
    }
    let cpuinfo = text(root.join("proc/cpuinfo")).unwrap_or_default();
    if cpuinfo_mhz(&cpuinfo, cpus).is_empty() {
        FrequencySource::None(
            "neither /dev/cpu/*/msr (module msr, root) nor cpufreq nor /proc/cpuinfo shows it".to_owned(),
        )
    } else if cpuinfo.lines().any(|l| l.starts_with("flags") && l.split(' ').any(|f| f == "aperfmperf")) {
        FrequencySource::Cpuinfo
    } else {
        // arch/x86/kernel/cpu/proc.c falls back to cpu_khz, which was found at boot.
        FrequencySource::None(
            "/proc/cpuinfo shows the nominal frequency only: the CPU has no APERF and MPERF (hidden in most \
             virtual machines)"
                .to_owned(),
        )
    }
}

/// The frequencies of `cpus` in `/proc/cpuinfo`.
fn cpuinfo_mhz(cpuinfo: &str, cpus: &[u32]) -> Vec<f64> {
    let mut cpu = None;
    let mut found = Vec::new();
    for (key, value) in cpuinfo.lines().filter_map(|line| line.split_once(':')) {
        match key.trim_end() {
            "processor" => cpu = value.trim().parse::<u32>().ok(),
            "cpu MHz" if cpu.is_some_and(|cpu| cpus.contains(&cpu)) => {
                found.extend(value.trim().parse::<f64>().ok());
            }
            _ => {}
        }
    }
    found
}

/// The open temperature files of the CPU, in thousandths of a degree.
fn temperature_files(root: &Path) -> Result<Vec<File>, String> {
    let folders = |path: &str| {
        let entries = fs::read_dir(root.join(path)).into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        folders.sort();
        folders
    };
    let mut inputs = Vec::new();
    for folder in folders("sys/class/hwmon") {
        if text(folder.join("name")).is_some_and(|name| CPU_DRIVERS.contains(&name.as_str())) {
            inputs.extend(package_inputs(&folder));
        }
    }
    if inputs.is_empty() {
        for zone in folders("sys/class/thermal") {
            let kind = text(zone.join("type")).unwrap_or_default().to_lowercase();
            if kind == "x86_pkg_temp" || kind.starts_with("cpu") || kind.starts_with("soc") {
                inputs.push(zone.join("temp"));
            }
        }
    }
    let files: Vec<File> = inputs
        .iter()
        .filter_map(|path| File::open(path).ok())
        .filter(|file| number(file).is_some())
        .collect();
    if files.is_empty() {
        return Err("neither /sys/class/hwmon nor /sys/class/thermal has a sensor of the CPU".to_owned());
    }
    Ok(files)
}

/// The inputs of a driver's folder that stand for whole packages, or all of them.
fn package_inputs(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut sensors: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let sensor = name.strip_suffix("_input").filter(|name| name.starts_with("temp"))?;
            let label = text(folder.join(format!("{sensor}_label"))).unwrap_or_default();
            Some((label, entry.path()))
        })
        .collect();
    let of_package = |sensors: &[(String, PathBuf)]| {
        PACKAGE_LABELS.into_iter().find(|&label| sensors.iter().any(|(l, _)| l.starts_with(label)))
    };
    if let Some(label) = of_package(&sensors) {
        sensors.retain(|(l, _)| l.starts_with(label));
    }
    sensors.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_give_the_frequency_while_working() {
        let start = Cycles { tsc: 1_000, mperf: u64::MAX - 99, aperf: 7 };
        // A second at a base of 2 GHz, half of it working, at 3 GHz then; MPERF turns over.
        let end = Cycles { tsc: 2_000_001_000, mperf: 999_999_900, aperf: 1_500_000_007 };
        assert_eq!(start.mhz(end, 1.0), Some(3000.0));
        let idle = Cycles { mperf: start.mperf.wrapping_add(100_000_000), aperf: 100_000_007, ..end };
        assert_eq!(start.mhz(idle, 1.0), None);
        assert_eq!(start.mhz(start, 1.0), None);
        assert_eq!(start.mhz(end, 0.0), None);
        // Counted from zero again after a sleep.
        assert_eq!(end.mhz(Cycles { tsc: 500, mperf: 400, aperf: 300 }, 1.0), None);
    }

    #[test]
    fn cpuinfo_is_read_by_processor() {
        let text = "processor\t: 0\ncpu MHz\t\t: 2000.5\n\nprocessor\t: 1\ncpu MHz\t\t: 3000\n";
        assert_eq!(cpuinfo_mhz(text, &[1]), [3000.0]);
        assert_eq!(cpuinfo_mhz(text, &[0, 1, 2]), [2000.5, 3000.0]);
        assert!(cpuinfo_mhz("cpu MHz : 5\nprocessor : 0\ncpu MHz : x\n", &[0]).is_empty());
    }
}
