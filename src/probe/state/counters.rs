//! What the kernel counts: read at both edges of a window, the difference is exact.

use std::path::Path;
use std::time::Duration;

use super::{Busy, Reading, Swap};
use crate::probe::{clock, text};
use crate::units::Bytes;

/// The kernel shows CPU time in ticks of usually 10 ms. In a window of 20 ticks one tick is 5 % of a CPU;
/// a shorter window says nothing about stolen time and the load of others.
const MIN_TICKS: u64 = 20;

/// All counters at one edge of a window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Edge {
    at: Duration,
    /// CPU time of this process.
    own: Duration,
    tick: Duration,
    stat: Result<Stat, String>,
    throttled: Result<u64, String>,
    /// Microseconds in which some task waited for memory.
    pressure_us: Result<u64, String>,
    swap: Result<Swap, String>,
}

/// What `/proc/stat` says of the CPUs, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    /// Of all CPUs of the machine, in which they worked.
    busy: u64,
    /// Of the CPUs used, which were stolen.
    stolen: u64,
    /// CPUs used.
    cpus: u32,
}

impl Edge {
    pub(super) fn read(root: &Path, busy: &Busy) -> Edge {
        Edge {
            stat: contents(root, "proc/stat").and_then(|text| {
                stat(&text, &busy.cpus).ok_or_else(|| "/proc/stat cannot be understood".to_owned())
            }),
            throttled: throttled(root, &busy.cpus),
            pressure_us: contents(root, "proc/pressure/memory")
                .map_err(|why| format!("{why} (a kernel without PSI, or booted with psi=0)"))
                .and_then(|text| {
                    pressure_us(&text).ok_or_else(|| "/proc/pressure/memory cannot be understood".to_owned())
                }),
            swap: contents(root, "proc/vmstat").and_then(|text| {
                swap(&text, page_size()).ok_or_else(|| "/proc/vmstat has no pswpin and pswpout".to_owned())
            }),
            tick: tick(),
            at: Duration::from_nanos(clock::monotonic_ns()),
            own: Duration::from_nanos(clock::cpu_ns()),
        }
    }

    fn window(&self, end: &Edge) -> Duration {
        end.at.saturating_sub(self.at)
    }

    /// Both edges of `/proc/stat`, if the window is long enough for ticks.
    fn stats<'a>(&'a self, end: &'a Edge) -> Result<(&'a Stat, &'a Stat), String> {
        let (before, after) = both(&self.stat, &end.stat)?;
        let least = self.tick * MIN_TICKS as u32;
        if self.window(end) < least {
            return Err(format!(
                "the window is shorter than {} ms, and /proc/stat counts in ticks of {} ms",
                least.as_millis(),
                self.tick.as_millis()
            ));
        }
        if before.cpus != after.cpus {
            return Err("a CPU went offline or came online within the window".to_owned());
        }
        Ok((before, after))
    }

    pub(super) fn steal_share(&self, end: &Edge) -> Reading<f64> {
        let (before, after) = self.stats(end)?;
        let stolen = advance("stolen time", before.stolen, after.stolen)? as f64 * self.tick.as_secs_f64();
        let share = stolen / (self.window(end).as_secs_f64() * f64::from(before.cpus.max(1)));
        Ok((share.min(1.0), "/proc/stat"))
    }

    pub(super) fn other_load_cpus(&self, end: &Edge) -> Reading<f64> {
        let (before, after) = self.stats(end)?;
        let busy = advance("busy time", before.busy, after.busy)? as f64 * self.tick.as_secs_f64();
        let own = end.own.saturating_sub(self.own).as_secs_f64();
        // Ticks are coarser than the process's own clock: a difference below zero is none.
        Ok(((busy - own).max(0.0) / self.window(end).as_secs_f64(), "/proc/stat, less own CPU time"))
    }

    pub(super) fn throttle_events(&self, end: &Edge) -> Reading<u64> {
        let (before, after) = both(&self.throttled, &end.throttled)?;
        Ok((advance("the thermal throttle count", *before, *after)?, "thermal_throttle"))
    }

    pub(super) fn memory_pressure_share(&self, end: &Edge) -> Reading<f64> {
        let (before, after) = both(&self.pressure_us, &end.pressure_us)?;
        let waited = advance("memory pressure", *before, *after)? as f64 / 1e6;
        let window = self.window(end).as_secs_f64();
        if window == 0.0 {
            return Err("the window has no length".to_owned());
        }
        Ok(((waited / window).min(1.0), "/proc/pressure/memory"))
    }

    pub(super) fn swap(&self, end: &Edge) -> Reading<Swap> {
        let (before, after) = both(&self.swap, &end.swap)?;
        let advance = |a: Bytes, b: Bytes| advance("the count of swapped pages", a.0, b.0).map(Bytes);
        let swap = Swap {
            read: advance(before.read, after.read)?,
            written: advance(before.written, after.written)?,
        };
        Ok((swap, "/proc/vmstat"))
    }
}

fn both<'a, T>(
    before: &'a Result<T, String>,
    after: &'a Result<T, String>,
) -> Result<(&'a T, &'a T), String> {
    match (before, after) {
        (Ok(before), Ok(after)) => Ok((before, after)),
        (Err(why), _) | (_, Err(why)) => Err(why.clone()),
    }
}

fn advance(what: &str, before: u64, after: u64) -> Result<u64, String> {
    after.checked_sub(before).ok_or_else(|| format!("{what} went backwards, from {before} to {after}"))
}

fn contents(root: &Path, path: &str) -> Result<String, String> {
    text(root.join(path)).ok_or_else(|| format!("/{path} cannot be read"))
}

fn tick() -> Duration {
    #[cfg(target_os = "linux")]
    return Duration::from_secs(1) / rustix::param::clock_ticks_per_second().clamp(1, 1 << 20) as u32;
    // Nowhere else is there a file that counts in it.
    #[cfg(not(target_os = "linux"))]
    Duration::from_millis(10)
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// The ticks of `/proc/stat`: of the line of all CPUs those that were work (`proc_stat(5)`), of the lines
/// of `cpus` those that were stolen. CPUs that are offline have no line.
fn stat(text: &str, cpus: &[u32]) -> Option<Stat> {
    let mut found = Stat { busy: 0, stolen: 0, cpus: 0 };
    let mut all = false;
    for line in text.lines().take_while(|line| line.starts_with("cpu")) {
        let (name, ticks) = line.split_once(' ')?;
        // user nice system idle iowait irq softirq steal; guest time, which follows, is part of user time.
        let mut ticks = ticks.split_whitespace().map(|t| t.parse::<u64>().ok());
        let mut next = || ticks.next().flatten();
        let [user, nice, system, _idle, _iowait, irq, softirq, steal] =
            [next()?, next()?, next()?, next()?, next()?, next()?, next()?, next()?];
        match name.strip_prefix("cpu")? {
            "" => {
                found.busy = [user, nice, system, irq, softirq].into_iter().fold(0, u64::saturating_add);
                all = true;
            }
            number if cpus.contains(&number.parse().ok()?) => {
                found.stolen = found.stolen.saturating_add(steal);
                found.cpus += 1;
            }
            _ => {}
        }
    }
    (all && found.cpus > 0).then_some(found)
}

/// `total` of the line `some` of a pressure file, microseconds.
fn pressure_us(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("total="))?.parse().ok()
}

fn swap(vmstat: &str, page: u64) -> Option<Swap> {
    let pages = |key: &str| -> Option<Bytes> {
        let value = vmstat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        value.parse::<u64>().ok()?.checked_mul(page).map(Bytes)
    };
    Some(Swap { read: pages("pswpin")?, written: pages("pswpout")? })
}

/// Events of all `cpus` and their packages. Only Intel CPUs have these files.
fn throttled(root: &Path, cpus: &[u32]) -> Result<u64, String> {
    let mut events: Option<u64> = None;
    for cpu in cpus {
        let folder = root.join(format!("sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
        for name in ["core_throttle_count", "package_throttle_count"] {
            if let Some(count) = text(folder.join(name)).and_then(|text| text.parse::<u64>().ok()) {
                events = Some(events.unwrap_or(0).saturating_add(count));
            }
        }
    }
    events.ok_or_else(|| {
        "/sys/devices/system/cpu/cpu*/thermal_throttle is not there (only Intel CPUs outside virtual machines \
         have it)"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 10 50 900 40 5 6 7 3 0\ncpu0 50 5 25 450 20 2 3 4 1 0\n\
                        cpu1 50 5 25 450 20 3 3 3 2 0\nintr 5 0\nctxt 9\n";

    fn edge(at_ms: u64, own_ms: u64, stat_text: &str) -> Edge {
        Edge {
            at: Duration::from_millis(at_ms),
            own: Duration::from_millis(own_ms),
            tick: Duration::from_millis(10),
            stat: stat(stat_text, &[0, 1]).ok_or_else(|| "garbage".to_owned()),
            throttled: Ok(3),
            pressure_us: Ok(1_000),
            swap: Ok(Swap { read: Bytes(0), written: Bytes(4096) }),
        }
    }

    #[test]
    fn ticks_are_those_of_work_and_of_the_cpus_used() {
        assert_eq!(stat(STAT, &[0, 1]), Some(Stat { busy: 171, stolen: 7, cpus: 2 }));
        assert_eq!(stat(STAT, &[1, 5]), Some(Stat { busy: 171, stolen: 3, cpus: 1 }));
        for garbage in ["", "cpu 1 2 3\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu a b c d e f g h\n", "intr 1\n"] {
            assert_eq!(stat(garbage, &[0]), None, "{garbage}");
        }
        assert_eq!(stat(STAT, &[7]), None);
    }

    #[test]
    fn stolen_time_is_a_share_of_the_window() {
        // A second on two CPUs: 20 ticks of 200.
        let after = STAT.replace("450 20 2 3 4", "450 20 2 3 14").replace("450 20 3 3 3", "450 20 3 3 13");
        let (start, end) = (edge(0, 0, STAT), edge(1000, 0, &after));
        assert_eq!(start.steal_share(&end), Ok((0.1, "/proc/stat")));
        // Backwards is not a share.
        assert!(end.stats(&edge(3000, 0, STAT)).is_ok());
        let back = Edge { at: Duration::from_secs(3), ..start.clone() };
        assert!(end.steal_share(&back).unwrap_err().contains("went backwards"));
    }

    #[test]
    fn own_work_is_no_load_of_others() {
        // A second in which the machine worked for 1.5 s, this process for 1.2 s of them.
        let after = STAT.replace("cpu  100", "cpu  250");
        let load =
            |own_ms: u64| edge(0, 500, STAT).other_load_cpus(&edge(1000, 500 + own_ms, &after)).unwrap().0;
        assert!((load(1200) - 0.3).abs() < 1e-9);
        assert_eq!(load(1507), 0.0);
    }

    #[test]
    fn a_window_of_few_ticks_has_no_share() {
        let (start, end) = (edge(0, 0, STAT), edge(199, 0, STAT));
        for why in [start.steal_share(&end).unwrap_err(), start.other_load_cpus(&end).unwrap_err()] {
            assert!(why.contains("shorter than 200 ms"), "{why}");
        }
        assert!(start.steal_share(&edge(200, 0, STAT)).is_ok());
        // What is not counted in ticks is known all the same.
        assert_eq!(start.throttle_events(&end), Ok((0, "thermal_throttle")));
        assert_eq!(start.swap(&end).unwrap().0, Swap { read: Bytes(0), written: Bytes(0) });
    }

    #[test]
    fn a_cpu_that_comes_or_goes_leaves_no_share() {
        let gone: String =
            STAT.lines().filter(|l| !l.starts_with("cpu1")).map(|l| format!("{l}\n")).collect();
        let why = edge(0, 0, STAT).steal_share(&edge(1000, 0, &gone)).unwrap_err();
        assert!(why.contains("offline"), "{why}");
        let why = edge(0, 0, STAT).other_load_cpus(&edge(1000, 0, "")).unwrap_err();
        assert_eq!(why, "garbage");
    }

    #[test]
    fn pressure_and_swapping_are_differences() {
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=72039279\nfull avg10=0.00 total=5\n";
        assert_eq!(pressure_us(text), Some(72_039_279));
        assert_eq!((pressure_us("full total=5"), pressure_us("some total=x")), (None, None));
        let vmstat = "nr_free 1\npswpin 3\npswpout 5\n";
        assert_eq!(swap(vmstat, 4096), Some(Swap { read: Bytes(12288), written: Bytes(20480) }));
        assert_eq!((swap("pswpin 3", 4096), swap("pswpin x\npswpout 1", 4096)), (None, None));

        let start = edge(0, 0, STAT);
        let mut end = edge(100, 0, STAT);
        end.pressure_us = Ok(21_000);
        end.swap = Ok(Swap { read: Bytes(8192), written: Bytes(4096) });
        end.throttled = Ok(5);
        assert!((start.memory_pressure_share(&end).unwrap().0 - 0.2).abs() < 1e-9);
        assert_eq!(start.swap(&end).unwrap().0, Swap { read: Bytes(8192), written: Bytes(0) });
        assert_eq!(start.throttle_events(&end), Ok((2, "thermal_throttle")));
        assert!(start.memory_pressure_share(&edge(0, 0, STAT)).is_err(), "no length");
        assert!(end.swap(&start).unwrap_err().contains("backwards"));
        assert!(end.throttle_events(&start).unwrap_err().contains("backwards"));
    }
}
