//! The kernel's performance events: opening them, decoding what they say, and reading in sysfs how the
//! units outside the cores name theirs.
//!
//! Events are opened through `perf-event-open-sys`, which is the system call beneath the crate `perf-event`.
//! That crate's groups have a placeholder as leader that new threads do not inherit, so they would count
//! the thread that opened them and no other.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::io::Errno;

use super::{cpu_list, text};

/// Most events of a group.
pub(super) const MAX_MEMBERS: usize = 8;

/// An event as the kernel numbers it: `type`, `config`, `config1` and `config2` of `perf_event_attr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) ty: u32,
    pub(super) config: [u64; 3],
}

/// Whose events are counted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope {
    /// The calling thread's and those of all threads that it starts from now on; with the kernel's own work
    /// for them or without.
    Threads {
        /// Whether what the kernel does for the threads counts.
        kernel: bool,
    },
    /// A CPU's, whoever runs there; for a unit outside the cores the CPU that the kernel reads it from.
    Cpu(u32),
}

/// Opens an event, counting at once: alone or as a member of the group that `leader` leads. Members are
/// on the hardware at the same time or not at all; the leader's file gives the counts of all.
///
/// A group is inherited whole by new threads and read in sums over them (Linux 4.13 and later).
///
/// # Errors
/// The kernel's refusal; see [`refusal`].
#[cfg(target_os = "linux")]
pub(super) fn open(event: Event, scope: Scope, leader: Option<&File>) -> io::Result<File> {
    use std::os::fd::{AsRawFd, FromRawFd};

    use perf_event_open_sys::bindings as sys;

    let mut attr = sys::perf_event_attr {
        size: size_of::<sys::perf_event_attr>() as u32,
        type_: event.ty,
        config: event.config[0],
        read_format: (sys::PERF_FORMAT_GROUP
            | sys::PERF_FORMAT_TOTAL_TIME_ENABLED
            | sys::PERF_FORMAT_TOTAL_TIME_RUNNING)
            .into(),
        ..Default::default()
    };
    attr.__bindgen_anon_3.config1 = event.config[1];
    attr.__bindgen_anon_4.config2 = event.config[2];
    let (pid, cpu) = match scope {
        Scope::Threads { kernel } => {
            attr.set_inherit(1);
            attr.set_exclude_kernel(u64::from(!kernel));
            attr.set_exclude_hv(u64::from(!kernel));
            (0, -1)
        }
        Scope::Cpu(cpu) => (-1, i32::try_from(cpu).map_err(|_| io::ErrorKind::InvalidInput)?),
    };
    let group = leader.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: the kernel reads `attr`, which says its size, and keeps no pointer to it.
    let fd = unsafe {
        perf_event_open_sys::perf_event_open(&mut attr, pid, cpu, group, sys::PERF_FLAG_FD_CLOEXEC.into())
    };
    match fd {
        // SAFETY: the kernel has just made the descriptor, and nobody else has it.
        0.. => Ok(unsafe { File::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As on Linux, which alone has them.
#[cfg(not(target_os = "linux"))]
pub(super) fn open(_: Event, _: Scope, _: Option<&File>) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What a group has counted since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Nanoseconds for which its threads ran, in sum over them.
    enabled_ns: u64,
    /// Nanoseconds of these in which the hardware counted the group.
    running_ns: u64,
    members: usize,
    counts: [u64; MAX_MEMBERS],
}

impl Snapshot {
    /// What the leader has counted.
    pub(super) fn leader(&self) -> u64 {
        self.counts[0]
    }
}

/// Reads the group of `members` events that the file leads.
///
/// # Errors
/// If the kernel's answer cannot be had or is of another shape.
pub(super) fn read(mut leader: &File, members: usize) -> Result<Snapshot, String> {
    let mut bytes = [0; 8 * (3 + MAX_MEMBERS)];
    let len = leader.read(&mut bytes).map_err(|e| format!("the counters cannot be read: {e}"))?;
    decode(&bytes[..len], members)
}

/// `nr`, `time_enabled`, `time_running`, then `nr` values, each a u64 in the machine's byte order
/// (`PERF_FORMAT_GROUP` in linux/perf_event.h, without ids).
fn decode(bytes: &[u8], members: usize) -> Result<Snapshot, String> {
    let mut words = bytes.chunks_exact(8).map(|w| u64::from_ne_bytes(w.try_into().unwrap_or_default()));
    let mut next = || words.next().ok_or_else(|| format!("the counters gave only {} bytes", bytes.len()));
    let (nr, enabled_ns, running_ns) = (next()?, next()?, next()?);
    // An event that failed for good (such as one of a CPU that was taken out) reads as nothing.
    if nr != members as u64 || members > MAX_MEMBERS {
        return Err(format!("the counters gave {nr} counts in the place of {members}"));
    }
    let mut counts = [0; MAX_MEMBERS];
    for count in &mut counts[..members] {
        *count = next()?;
    }
    Ok(Snapshot { enabled_ns, running_ns, members, counts })
}

/// Counts of a window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Delta {
    /// One for each member, scaled to the whole window.
    pub(super) counts: Vec<u64>,
    /// Share of the window in which the hardware counted them, if not all of it.
    pub(super) counted_share: Option<f64>,
}

/// What a group counted between two readings. Where the kernel had the group share the hardware with
/// others (multiplexing), counts are scaled by time enabled ÷ time running, as if the window had been alike
/// throughout.
///
/// # Errors
/// If it was not counted at all, or the readings contradict each other.
pub(super) fn between(a: &Snapshot, b: &Snapshot) -> Result<Delta, String> {
    let backwards = || "a counter went backwards".to_owned();
    let enabled = b.enabled_ns.checked_sub(a.enabled_ns).ok_or_else(backwards)?;
    let running = b.running_ns.checked_sub(a.running_ns).ok_or_else(backwards)?;
    if running == 0 {
        return Err(match enabled {
            0 => "the counters were not on within the window".to_owned(),
            _ => "the CPU's counters were in other hands for the whole window (often the NMI watchdog's: \
                  sudo sysctl kernel.nmi_watchdog=0)"
                .to_owned(),
        });
    }
    let whole = running >= enabled;
    let counts = a.counts[..a.members].iter().zip(&b.counts[..b.members]).map(|(a, b)| {
        let count = b.checked_sub(*a).ok_or_else(backwards)?;
        if whole {
            return Ok(count);
        }
        let (enabled, running) = (u128::from(enabled), u128::from(running));
        Ok(u64::try_from((u128::from(count) * enabled + running / 2) / running).unwrap_or(u64::MAX))
    });
    Ok(Delta {
        counts: counts.collect::<Result<_, String>>()?,
        counted_share: (!whole).then(|| running as f64 / enabled as f64),
    })
}

/// Why the kernel refused an event, and what to do; `root` is in the place of `/`. `needed` is the highest
/// `perf_event_paranoid` under which a user may have the event.
pub(super) fn refusal(error: &io::Error, root: &Path, needed: i32) -> String {
    let paranoid = text(root.join("proc/sys/kernel/perf_event_paranoid")).and_then(|p| p.parse::<i32>().ok());
    match Errno::from_io_error(error) {
        Some(Errno::ACCESS | Errno::PERM) => match paranoid {
            Some(level) if level > needed => format!(
                "perf_event_paranoid is {level}, which forbids it to users; allow it with: sudo sysctl \
                 kernel.perf_event_paranoid={needed}"
            ),
            _ => "perf_event_open is forbidden here (a container's seccomp profile does that; CAP_PERFMON \
                  allows it)"
                .to_owned(),
        },
        Some(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => match core_units(root).len() {
            0 => "the kernel knows no counters of this CPU; a virtual machine has them only if its host \
                  passes them on"
                .to_owned(),
            _ => "this CPU's counters do not have the event".to_owned(),
        },
        Some(Errno::NOSYS) => "the kernel is without perf events (CONFIG_PERF_EVENTS)".to_owned(),
        Some(Errno::INVAL) => {
            "the kernel refuses the event in a group that threads inherit (too few counters for the group, or \
             Linux before 4.13)"
                .to_owned()
        }
        Some(Errno::MFILE | Errno::NFILE) => "too many open files; raise the limit: ulimit -n".to_owned(),
        _ if error.kind() == io::ErrorKind::Unsupported => "only Linux has perf events".to_owned(),
        _ => error.to_string(),
    }
}

/// Folder of the units that have counters.
pub(super) const UNITS: &str = "sys/bus/event_source/devices";

/// Names of the units that count within cores. On x86 that is `cpu`, or `cpu_core` and `cpu_atom` if there
/// are two kinds; elsewhere each says by a file `cpus` which cores it is of.
pub(super) fn core_units(root: &Path) -> Vec<String> {
    let mut names = entries(&root.join(UNITS));
    names.retain(|name| name == "cpu" || root.join(UNITS).join(name).join("cpus").exists());
    names
}

/// Names of what is in a folder, in order; none if it cannot be read.
pub(super) fn entries(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// An event that a unit describes in sysfs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Described {
    pub(super) event: Event,
    /// What a count of 1 stands for, in `unit`.
    pub(super) scale: f64,
    /// As written: `MiB`, `Joules`; empty if none is named.
    pub(super) unit: String,
    /// The CPUs that the event is opened on, one for each package or die that has the unit.
    pub(super) cpus: Vec<u32>,
}

/// The event `name` of the unit in the folder `unit`
/// (Documentation/ABI/testing/sysfs-bus-event_source-devices-events and -format).
///
/// # Errors
/// Which file is missing or malformed.
pub(super) fn describe(unit: &Path, name: &str) -> Result<Described, String> {
    let file = |path: &str| {
        text(unit.join(path)).ok_or_else(|| format!("{} cannot be read", unit.join(path).display()))
    };
    let wrong = |path: &str, text: &str| format!("{}: '{text}' is not understood", unit.join(path).display());
    let ty = file("type")?;
    let mut event = Event { ty: ty.parse().map_err(|_| wrong("type", &ty))?, config: [0; 3] };
    let path = format!("events/{name}");
    let terms = file(&path)?;
    for term in terms.split(',') {
        let (field, value) = term.split_once('=').unwrap_or((term, "1"));
        let value = match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => value.parse().ok(),
        };
        let value = value.ok_or_else(|| wrong(&path, &terms))?;
        let format = format!("format/{field}");
        let places = file(&format)?;
        place(value, &places, &mut event.config).ok_or_else(|| wrong(&format, &places))?;
    }
    let scale = match text(unit.join(format!("{path}.scale"))) {
        None => 1.0,
        Some(scale) => scale
            .parse()
            .ok()
            .filter(|s: &f64| s.is_finite() && *s > 0.0)
            .ok_or_else(|| wrong(&format!("{path}.scale"), &scale))?,
    };
    let cpus = file("cpumask")?;
    Ok(Described {
        event,
        scale,
        unit: text(unit.join(format!("{path}.unit"))).unwrap_or_default(),
        cpus: cpu_list(&cpus).filter(|c| !c.is_empty()).ok_or_else(|| wrong("cpumask", &cpus))?,
    })
}

/// Puts `value`, lowest bits first, into the bits that `places` names: `config:0-7,21`. None if they are
/// no such, or too few.
fn place(mut value: u64, places: &str, config: &mut [u64; 3]) -> Option<()> {
    let (word, ranges) = places.split_once(':')?;
    let word = ["config", "config1", "config2"].iter().position(|w| *w == word)?;
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last > 63 {
            return None;
        }
        let mask = u64::MAX >> (63 - (last - first));
        config[word] |= (value & mask) << first;
        value = value.checked_shr(last - first + 1).unwrap_or(0);
    }
    (value == 0).then_some(())
}

#[cfg(test)]
mod tests {
    use super::super::test_tree as tree;
    use super::*;

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    fn snapshot(enabled: u64, running: u64, counts: &[u64]) -> Snapshot {
        let words = [&[counts.len() as u64, enabled, running], counts].concat();
        decode(&bytes(&words), counts.len()).unwrap()
    }

    #[test]
    fn a_group_is_decoded_and_anything_else_refused() {
        let group = snapshot(1000, 900, &[7, 8]);
        assert_eq!((group.enabled_ns, group.running_ns, &group.counts[..2]), (1000, 900, &[7, 8][..]));
        assert!(decode(&[], 1).is_err());
        assert!(decode(&bytes(&[2, 1, 1, 5]), 2).is_err());
        assert!(decode(&bytes(&[1, 1, 1, 5]), 2).unwrap_err().contains("1 counts in the place of 2"));
        assert!(decode(&bytes(&[u64::MAX, 1, 1, 5]), 2).is_err());
    }

    #[test]
    fn a_window_is_a_difference() {
        let delta = between(&snapshot(100, 100, &[10, 20]), &snapshot(300, 300, &[15, 90])).unwrap();
        assert_eq!(delta, Delta { counts: vec![5, 70], counted_share: None });
        let same = snapshot(100, 100, &[10]);
        assert!(between(&same, &same).unwrap_err().contains("not on"));
    }

    #[test]
    fn multiplexed_counts_are_scaled_and_flagged() {
        // 300 of 400 ns: a third more. What happened before the window does not matter.
        let delta = between(&snapshot(1000, 10, &[50, 1]), &snapshot(1400, 310, &[350, 2])).unwrap();
        assert_eq!(delta, Delta { counts: vec![400, 1], counted_share: Some(0.75) });
        let large = between(&snapshot(0, 0, &[0]), &snapshot(u64::MAX, 1, &[u64::MAX])).unwrap();
        assert_eq!(large.counts, [u64::MAX]);
        let never = between(&snapshot(0, 0, &[0]), &snapshot(500, 0, &[0])).unwrap_err();
        assert!(never.contains("nmi_watchdog"), "{never}");
        for (a, b) in [
            (snapshot(9, 9, &[1]), snapshot(8, 9, &[1])),
            (snapshot(9, 9, &[1]), snapshot(9, 8, &[1])),
            (snapshot(9, 9, &[1]), snapshot(19, 19, &[0])),
        ] {
            assert!(between(&a, &b).unwrap_err().contains("backwards"));
        }
    }

    #[test]
    fn a_unit_is_described_by_its_files() {
        let root = tree(&[
            ("imc/type", "14\n"),
            ("imc/cpumask", "0,18\n"),
            ("imc/format/event", "config:0-7\n"),
            ("imc/format/umask", "config:8-15\n"),
            ("imc/format/edge", "config:18\n"),
            ("imc/format/split", "config1:0-3,32-35\n"),
            ("imc/events/cas_count_read", "event=0x04,umask=0x03\n"),
            ("imc/events/cas_count_read.scale", "6.103515625e-5\n"),
            ("imc/events/cas_count_read.unit", "MiB\n"),
            ("imc/events/odd", "event=4,edge,split=0xab\n"),
            ("imc/events/too_wide", "edge=2\n"),
            ("imc/events/open", "event=?\n"),
            ("imc/events/unknown", "event=1,thresh=2\n"),
            ("imc/events/bad_scale", "event=1\n"),
            ("imc/events/bad_scale.scale", "-nan\n"),
            ("bare/type", "15\n"),
        ]);
        let imc = root.path().join("imc");
        assert_eq!(
            describe(&imc, "cas_count_read").unwrap(),
            Described {
                event: Event { ty: 14, config: [0x304, 0, 0] },
                scale: 6.103515625e-5,
                unit: "MiB".to_owned(),
                cpus: vec![0, 18],
            }
        );
        let odd = describe(&imc, "odd").unwrap();
        assert_eq!(odd.event.config, [4 | 1 << 18, 0xb | 0xa << 32, 0]);
        assert_eq!((odd.scale, odd.unit.as_str()), (1.0, ""));
        for (event, file) in [
            ("too_wide", "format/edge"),
            ("open", "events/open"),
            ("unknown", "format/thresh"),
            ("bad_scale", "bad_scale.scale"),
            ("missing", "events/missing"),
        ] {
            let why = describe(&imc, event).unwrap_err();
            assert!(why.contains(file), "{why}");
        }
        assert!(describe(&root.path().join("bare"), "x").is_err());
    }

    #[test]
    fn a_refusal_names_its_remedy() {
        let locked = tree(&[("proc/sys/kernel/perf_event_paranoid", "4\n")]);
        let open = tree(&[
            ("proc/sys/kernel/perf_event_paranoid", "-1\n"),
            ("sys/bus/event_source/devices/cpu/type", "4\n"),
        ]);
        let why = |error: Errno, root: &tempfile::TempDir| refusal(&error.into(), root.path(), 2);
        assert!(why(Errno::ACCESS, &locked).contains("is 4, which forbids it to users"));
        assert!(why(Errno::ACCESS, &locked).contains("sudo sysctl kernel.perf_event_paranoid=2"));
        assert!(why(Errno::PERM, &open).contains("seccomp"));
        assert!(why(Errno::NOENT, &locked).contains("virtual machine"));
        assert!(why(Errno::NOENT, &open).contains("do not have the event"));
        assert!(why(Errno::INVAL, &open).contains("too few counters"));
        assert!(why(Errno::NOSYS, &open).contains("CONFIG_PERF_EVENTS"));
    }

    #[test]
    fn kinds_of_cores_are_counted() {
        let root = tree(&[
            ("sys/bus/event_source/devices/cpu_core/cpus", "0-7\n"),
            ("sys/bus/event_source/devices/cpu_atom/cpus", "8-15\n"),
            ("sys/bus/event_source/devices/uncore_imc_0/cpumask", "0\n"),
        ]);
        assert_eq!(core_units(root.path()), ["cpu_atom", "cpu_core"]);
        assert!(core_units(tree(&[]).path()).is_empty());
    }
}
