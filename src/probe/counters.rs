//! Performance counters of this process: what its threads executed, waited for and were interrupted by.
//!
//! Opened before the engine's threads start, a group is inherited by each of them, and one reading of it
//! is the sum over all. Events whose ratio matters are in one group: on the hardware together or not at
//! all, so a ratio is of the same instructions even where the kernel lets groups take turns.
//!
//! A reading costs a system call for each group, in which the kernel asks each CPU that runs one of the
//! threads: some microseconds in all, before and after the timed window.

use std::fs::File;
use std::path::Path;

use super::clock;
use super::perf::{self, Event, Scope, Snapshot};
use super::usage::{self, Usage};
use crate::figure::Figure;
use crate::journal::{Counter, CounterGroup, CounterReading};

/// `perf_type_id` of linux/perf_event.h.
const HARDWARE: u32 = 0;
/// The same.
const SOFTWARE: u32 = 1;

/// Events of a core, with their numbers (`perf_hw_id`). Two of these run on counters of their own and three
/// on general ones, of which every PMU of the last decade has at least four.
const CORE: &[(Counter, u64)] = &[
    (Counter::Cycles, 0),
    (Counter::Instructions, 1),
    (Counter::CacheReferences, 2),
    (Counter::CacheMisses, 3),
    (Counter::BranchMisses, 5),
];

/// Events that only some CPUs have; apart, so that they do not make the others take turns.
const STALLS: &[(Counter, u64)] =
    &[(Counter::Cycles, 0), (Counter::StalledFrontend, 7), (Counter::StalledBackend, 8)];

/// Events of the kernel (`perf_sw_ids`).
const KERNEL: &[(Counter, u64)] =
    &[(Counter::PageFaults, 2), (Counter::ContextSwitches, 3), (Counter::Migrations, 4)];

/// CPU time by the kernel's account of events. To the kernel this is a unit of its own, and a group must not
/// span units: led by the task clock, the group above lost all counts of every fourth window once threads
/// had inherited it (Linux 6.18).
const CLOCK: &[(Counter, u64)] = &[(Counter::TaskClockNs, 1)];

/// Highest `perf_event_paranoid` under which a user may count his own work in user space, with the kernel's
/// part of it, and the whole machine's (Documentation/admin-guide/sysctl/kernel.rst).
const PARANOID_USER: i32 = 2;
const PARANOID_KERNEL: i32 = 1;
const PARANOID_MACHINE: i32 = 0;

/// The counters of this process, counting until they are dropped.
#[derive(Debug)]
pub struct Counters {
    groups: Vec<Group>,
    controllers: Vec<Controller>,
    /// What is not counted, and why.
    missing: Vec<CounterGroup>,
    /// Whether the system's own accounts stand in for the kernel's events.
    accounts: bool,
}

/// Events that are read together.
#[derive(Debug)]
struct Group {
    counters: Vec<Counter>,
    /// The leader's file first.
    files: Vec<File>,
    by: &'static str,
}

/// A memory controller's events of one package.
#[derive(Debug)]
struct Controller {
    /// For each event whether it is a read, and the bytes that a count stands for.
    events: Vec<(bool, f64)>,
    files: Vec<File>,
}

/// The counters at one moment.
#[derive(Debug)]
pub struct Reading {
    groups: Vec<Result<Snapshot, String>>,
    controllers: Vec<Result<Snapshot, String>>,
    /// CPU time in nanoseconds, faults and switches, where the kernel's events are refused.
    accounts: Option<(u64, Figure<Usage>)>,
}

impl Counters {
    /// Opens every counter that this system has. Threads that exist already are not counted.
    pub fn open() -> Self {
        let root = Path::new("/");
        let mut missing = Vec::new();
        let mut groups = Vec::new();
        let units = perf::core_units(root);
        if units.len() > 1 {
            let why = format!(
                "this CPU has several kinds of cores, whose counters do not add up ({})",
                units.join(", ")
            );
            CORE.iter().chain(STALLS).for_each(|(counter, _)| miss(&mut missing, *counter, &why));
        } else {
            let user = Scope::Threads { kernel: false };
            for events in [CORE, STALLS] {
                groups.extend(Group::open(
                    HARDWARE,
                    events,
                    user,
                    "perf, user space",
                    |e| perf::refusal(e, root, PARANOID_USER),
                    &mut missing,
                ));
            }
        }
        let with_kernel = Scope::Threads { kernel: true };
        let mut refused = Vec::new();
        let opened: Vec<Group> = [CLOCK, KERNEL]
            .into_iter()
            .filter_map(|events| {
                let refusal = |e: &_| perf::refusal(e, root, PARANOID_KERNEL);
                Group::open(SOFTWARE, events, with_kernel, "perf", refusal, &mut refused)
            })
            .collect();
        // The system's own accounts have all but migrations.
        let accounts = opened.len() < 2;
        if accounts {
            refused.iter_mut().for_each(|g| g.counters.retain(|c| *c == Counter::Migrations));
        } else {
            groups.extend(opened);
        }
        missing.extend(refused.into_iter().filter(|g| !g.counters.is_empty()));
        let controllers = open_controllers(root).unwrap_or_else(|why| {
            DRAM.iter().for_each(|counter| miss(&mut missing, *counter, &why));
            Vec::new()
        });
        Counters { groups, controllers, missing, accounts }
    }

    /// Reads all of them.
    pub fn read(&self) -> Reading {
        Reading {
            groups: self.groups.iter().map(|g| perf::read(&g.files[0], g.files.len())).collect(),
            controllers: self.controllers.iter().map(|c| perf::read(&c.files[0], c.files.len())).collect(),
            accounts: self.accounts.then(|| (clock::cpu_ns(), usage::read())),
        }
    }

    /// What was counted between two readings of these counters.
    pub fn between(&self, a: &Reading, b: &Reading) -> CounterReading {
        let mut groups = Vec::new();
        for (group, (a, b)) in self.groups.iter().zip(a.groups.iter().zip(&b.groups)) {
            let counts = match delta(a, b) {
                Err(why) => Figure::unavailable(why),
                Ok(delta) => Figure::measured(delta.counts, by(group.by, delta.counted_share)),
            };
            groups.push(CounterGroup { counters: group.counters.clone(), counts });
        }
        if let (Some((cpu_a, usage_a)), Some((cpu_b, usage_b))) = (&a.accounts, &b.accounts) {
            groups.push(CounterGroup {
                counters: vec![Counter::TaskClockNs],
                counts: Figure::measured(vec![cpu_b.saturating_sub(*cpu_a)], "CPU clock of the process"),
            });
            groups.push(CounterGroup {
                counters: vec![Counter::PageFaults, Counter::ContextSwitches],
                counts: usage::between(usage_a, usage_b)
                    .map(|u| vec![u.minor_faults + u.major_faults, u.context_switches]),
            });
        }
        if !self.controllers.is_empty() {
            let of_each = self.controllers.iter().zip(a.controllers.iter().zip(&b.controllers));
            groups.push(CounterGroup {
                counters: DRAM.to_vec(),
                counts: dram(of_each.map(|(c, (a, b))| (c.events.as_slice(), delta(a, b)))),
            });
        }
        groups.extend(self.missing.iter().cloned());
        CounterReading { groups }
    }
}

impl Group {
    /// Opens a group of events; those that are refused are added to `missing`, with what `refusal` makes of
    /// it. None if the leader is refused, or nothing is left that it could be compared with.
    fn open(
        ty: u32,
        events: &[(Counter, u64)],
        scope: Scope,
        by: &'static str,
        refusal: impl Fn(&std::io::Error) -> String,
        missing: &mut Vec<CounterGroup>,
    ) -> Option<Group> {
        let mut group = Group { counters: Vec::new(), files: Vec::new(), by };
        for (i, (counter, number)) in events.iter().enumerate() {
            match perf::open(Event { ty, config: [*number, 0, 0] }, scope, group.files.first()) {
                Ok(file) => {
                    group.files.push(file);
                    group.counters.push(*counter);
                }
                Err(e) if i == 0 => {
                    let why = refusal(&e);
                    events.iter().for_each(|(counter, _)| miss(missing, *counter, &why));
                    return None;
                }
                Err(e) => miss(missing, *counter, &refusal(&e)),
            }
        }
        (group.files.len() > 1 || events.len() == 1).then_some(group)
    }
}

/// Notes that a counter is missing, beside others for the same reason.
fn miss(missing: &mut Vec<CounterGroup>, counter: Counter, why: &str) {
    let counts = Figure::unavailable(why);
    match missing.iter_mut().find(|g| g.counts == counts) {
        Some(group) if group.counters.contains(&counter) => {}
        Some(group) => group.counters.push(counter),
        None => missing.push(CounterGroup { counters: vec![counter], counts }),
    }
}

fn delta(a: &Result<Snapshot, String>, b: &Result<Snapshot, String>) -> Result<perf::Delta, String> {
    perf::between(a.as_ref()?, b.as_ref()?)
}

/// The instrument, and for which part of the window it counted.
fn by(instrument: &str, counted_share: Option<f64>) -> String {
    match counted_share {
        None => instrument.to_owned(),
        Some(share) => {
            format!("{instrument}, multiplexed: counted for {:.1} % of the time and scaled", 100.0 * share)
        }
    }
}

/// What memory controllers count.
const DRAM: [Counter; 2] = [Counter::DramReadBytes, Counter::DramWrittenBytes];

/// Names of events for reads and for writes of memory controllers; of several pairs the first that exists,
/// so that nothing is counted by two units. `cas_count_...` is that of Intel's servers (with the
/// sub-channel's name behind it where there are two), the others those of its clients.
const DRAM_EVENTS: &[(&str, &str)] =
    &[("cas_count_read", "cas_count_write"), ("data_read", "data_write"), ("data_reads", "data_writes")];

/// An event of a memory controller.
#[derive(Debug, Clone, PartialEq)]
struct DramEvent {
    event: Event,
    is_read: bool,
    bytes: f64,
}

/// For each memory controller and package its events and the CPU to open them on, as sysfs describes them.
///
/// # Errors
/// Why there are none.
fn describe_controllers(root: &Path) -> Result<Vec<(u32, Vec<DramEvent>)>, String> {
    let units = perf::entries(&root.join(perf::UNITS));
    for (reads, writes) in DRAM_EVENTS {
        let mut found = Vec::new();
        let (mut read, mut written) = (false, false);
        for unit in &units {
            let unit = root.join(perf::UNITS).join(unit);
            let mut cpus = Vec::new();
            let mut events = Vec::new();
            for name in perf::entries(&unit.join("events")) {
                let of = |wanted: &str| {
                    name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with("_sch"))
                        && !name.contains('.')
                };
                if !of(reads) && !of(writes) {
                    continue;
                }
                let described = perf::describe(&unit, &name)?;
                let factor = match described.unit.as_str() {
                    "MiB" => 1_048_576.0,
                    "KiB" => 1024.0,
                    "B" | "Bytes" | "bytes" => 1.0,
                    other => {
                        return Err(format!(
                            "{}: the unit of {name} is '{other}', which is none of bytes",
                            unit.display()
                        ));
                    }
                };
                let is_read = of(reads);
                (read, written) = (read || is_read, written || !is_read);
                cpus = described.cpus;
                events.push(DramEvent { event: described.event, is_read, bytes: described.scale * factor });
            }
            if events.len() > perf::MAX_MEMBERS {
                return Err(format!("{}: more events than a group can have", unit.display()));
            }
            if !events.is_empty() {
                found.extend(cpus.into_iter().map(|cpu| (cpu, events.clone())));
            }
        }
        if read && written {
            return Ok(found);
        }
    }
    Err(match units.iter().find(|u| u.starts_with("amd_umc") || u.starts_with("amd_df")) {
        Some(unit) => format!("the kernel has no names for the events of {unit} in sysfs"),
        None => "no memory controller shows events of reads and writes in sysfs (virtual machines have none)"
            .to_owned(),
    })
}

fn open_controllers(root: &Path) -> Result<Vec<Controller>, String> {
    let open = |(cpu, events): (u32, Vec<DramEvent>)| {
        let mut files = Vec::new();
        for event in &events {
            let file = perf::open(event.event, Scope::Cpu(cpu), files.first())
                .map_err(|e| perf::refusal(&e, root, PARANOID_MACHINE))?;
            files.push(file);
        }
        Ok(Controller { events: events.iter().map(|e| (e.is_read, e.bytes)).collect(), files })
    };
    describe_controllers(root)?.into_iter().map(open).collect()
}

/// Bytes read and written of all controllers; all or none, because a part would be taken for the whole.
fn dram<'a>(
    controllers: impl Iterator<Item = (&'a [(bool, f64)], Result<perf::Delta, String>)>,
) -> Figure<Vec<u64>> {
    let mut bytes = [0.0; 2];
    let mut least: Option<f64> = None;
    for (events, delta) in controllers {
        let delta = match delta {
            Ok(delta) => delta,
            Err(why) => return Figure::unavailable(why),
        };
        for ((is_read, factor), count) in events.iter().zip(delta.counts) {
            bytes[usize::from(!is_read)] += count as f64 * factor;
        }
        least = match (least, delta.counted_share) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    let by = by("perf, memory controllers, whole machine", least);
    Figure::measured(bytes.map(|b| b.round() as u64).to_vec(), by)
}

#[cfg(test)]
mod tests {
    use super::super::test_tree as tree;
    use super::*;

    const IMC: &str = "sys/bus/event_source/devices/uncore_imc_";

    /// A server's controller, with as many events as names are given.
    fn controller(files: &mut Vec<(String, String)>, number: u32, cpus: &str, events: &[(&str, &str)]) {
        let mut file =
            |path: &str, text: &str| files.push((format!("{IMC}{number}/{path}"), text.to_owned()));
        file("type", &(20 + number).to_string());
        file("cpumask", cpus);
        file("format/event", "config:0-7");
        file("format/umask", "config:8-15");
        for (name, terms) in events {
            file(&format!("events/{name}"), terms);
            file(&format!("events/{name}.scale"), "6.103515625e-5");
            file(&format!("events/{name}.unit"), "MiB");
        }
        file("events/clockticks", "event=0xff");
    }

    fn rooted(files: &[(String, String)]) -> tempfile::TempDir {
        tree(&files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>())
    }

    #[test]
    fn controllers_of_two_sockets_are_found() {
        let mut files = Vec::new();
        let events = [("cas_count_read", "event=0x4,umask=0x3"), ("cas_count_write", "event=0x4,umask=0xc")];
        controller(&mut files, 0, "0,18", &events);
        controller(&mut files, 1, "0,18", &events);
        // The same traffic once more, by another unit: not counted twice.
        controller(&mut files, 7, "0", &[("data_read", "event=1"), ("data_write", "event=2")]);
        let found = describe_controllers(rooted(&files).path()).unwrap();
        assert_eq!(found.iter().map(|(cpu, _)| *cpu).collect::<Vec<_>>(), [0, 18, 0, 18]);
        let event = |config, is_read| DramEvent {
            event: Event { ty: 20, config: [config, 0, 0] },
            is_read,
            bytes: 64.0,
        };
        assert_eq!(found[0].1, [event(0x304, true), event(0xc04, false)]);
    }

    #[test]
    fn sub_channels_are_all_of_the_traffic() {
        let mut files = Vec::new();
        let events =
            ["cas_count_read_sch0", "cas_count_read_sch1", "cas_count_write_sch0", "cas_count_write_sch1"];
        controller(&mut files, 0, "0", &events.map(|name| (name, "event=0x5,umask=0xcf")));
        let found = describe_controllers(rooted(&files).path()).unwrap();
        let reads: Vec<bool> = found[0].1.iter().map(|e| e.is_read).collect();
        assert_eq!(reads, [true, true, false, false]);
    }

    #[test]
    fn without_events_it_is_said_why() {
        let why = |files: &[(String, String)]| describe_controllers(rooted(files).path()).unwrap_err();
        assert!(why(&[]).contains("no memory controller"));
        let mut files = Vec::new();
        controller(&mut files, 0, "0", &[("cas_count_read", "event=4")]);
        assert!(why(&files).contains("no memory controller"), "reads without writes");
        let umc = |path: &str| format!("sys/bus/event_source/devices/amd_umc_0/{path}");
        assert!(why(&[(umc("type"), "30".into())]).contains("amd_umc_0"));
        let mut files = Vec::new();
        controller(&mut files, 0, "0", &[("cas_count_read", "event=4"), ("cas_count_write", "event=5")]);
        files.push((format!("{IMC}0/events/cas_count_read.unit"), "cacheline".into()));
        assert!(why(&files).contains("'cacheline'"));
    }

    #[test]
    fn traffic_is_the_sum_of_all_controllers_or_nothing() {
        let events = [(true, 64.0), (false, 64.0)];
        let counted =
            |counts: [u64; 2], counted_share| Ok(perf::Delta { counts: counts.to_vec(), counted_share });
        let whole = [(&events[..], counted([10, 1], None)), (&events[..], counted([20, 2], None))];
        assert_eq!(
            dram(whole.into_iter()),
            Figure::measured(vec![1920, 192], "perf, memory controllers, whole machine")
        );
        let shared =
            [(&events[..], counted([10, 1], Some(0.5))), (&events[..], counted([20, 2], Some(0.25)))];
        let shared = dram(shared.into_iter());
        assert!(shared.provenance().contains("multiplexed: counted for 25.0 %"), "{}", shared.provenance());
        let broken = [(&events[..], counted([10, 1], None)), (&events[..], Err("vanished".to_owned()))];
        assert_eq!(dram(broken.into_iter()), Figure::unavailable("vanished"));
    }

    #[test]
    fn what_is_missing_is_said_once() {
        let mut missing = Vec::new();
        for counter in [Counter::Cycles, Counter::Instructions, Counter::Cycles] {
            miss(&mut missing, counter, "no PMU");
        }
        miss(&mut missing, Counter::Migrations, "forbidden");
        let counters: Vec<&[Counter]> = missing.iter().map(|g| g.counters.as_slice()).collect();
        assert_eq!(counters, [&[Counter::Cycles, Counter::Instructions][..], &[Counter::Migrations][..]]);
    }

    /// A thread that touches 2048 pages of fresh memory, keeps its CPU busy, sleeps once, and then lives on
    /// until the sender is dropped.
    fn busy_thread() -> (std::thread::JoinHandle<()>, std::sync::mpsc::Sender<()>) {
        let (done, is_done) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut memory = vec![0_u8; 2048 * 4096];
            for round in 0..20 {
                memory.iter_mut().for_each(|byte| *byte = byte.wrapping_add(round));
            }
            std::hint::black_box(&memory);
            std::thread::sleep(std::time::Duration::from_millis(1));
            done.send(()).unwrap();
            let _ = ended.recv();
        });
        is_done.recv().unwrap();
        (thread, end)
    }

    #[test]
    fn threads_started_later_are_counted() {
        let counters = Counters::open();
        let a = counters.read();
        // One thread that is still there at the reading, and one that is gone.
        let (first, end) = busy_thread();
        drop(end);
        first.join().unwrap();
        let (second, end) = busy_thread();
        let b = counters.read();
        drop(end);
        second.join().unwrap();
        let reading = counters.between(&a, &b);
        for counter in Counter::ALL {
            println!("{counter:?}: {:?}", reading.get(counter));
        }
        // By perf or, where that is refused, by the system's accounts: these are counted everywhere.
        let value = |counter| *reading.get(counter).value().unwrap();
        assert!(value(Counter::TaskClockNs) > 1_000_000);
        // Huge pages make few faults of many pages.
        assert!(value(Counter::PageFaults) >= 8);
        assert!(value(Counter::ContextSwitches) >= 2);
        if counters.accounts {
            println!("not tested: groups that threads inherit; {:?}", counters.missing);
        } else {
            assert!(reading.get(Counter::Migrations).value().is_some());
            assert_eq!(reading.get(Counter::TaskClockNs).provenance(), "measured: perf");
        }
        // A counter is counted or missing for a reason, never 0 for want of one.
        for counter in Counter::ALL {
            if let Figure::Unavailable { why } = reading.get(counter) {
                assert!(!why.is_empty() && why != "not counted", "{counter:?}");
            }
        }
        match reading.ratio(Counter::Instructions, Counter::Cycles) {
            Figure::Unavailable { why } => println!("not tested: instructions and cycles; {why}"),
            ipc => assert!(*ipc.value().unwrap() > 0.01),
        }
    }

    #[test]
    fn no_window_of_many_loses_a_count() {
        const PAGES: usize = 64;
        let counters = Counters::open();
        if counters.accounts {
            println!("not tested: perf's page faults; {:?}", counters.missing);
            return;
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for window in 0..50 {
            let a = counters.read();
            let tasks = pool.install(|| {
                use rayon::prelude::*;
                let touch = |_| {
                    let mut memory = memmap2::MmapMut::map_anon(PAGES * 4096).unwrap();
                    // Each page a fault of its own; a kernel without huge pages refuses the advice.
                    #[cfg(target_os = "linux")]
                    let _ = memory.advise(memmap2::Advice::NoHugePage);
                    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
                    std::hint::black_box(&memory);
                    1
                };
                (0..8).into_par_iter().map(touch).sum::<usize>()
            });
            let reading = counters.between(&a, &counters.read());
            let faults = *reading.get(Counter::PageFaults).value().unwrap() as usize;
            assert!(faults >= tasks * PAGES, "window {window}: {faults}");
        }
    }

    #[test]
    fn the_systems_accounts_stand_in_for_refused_events() {
        let counters = Counters { groups: vec![], controllers: vec![], missing: vec![], accounts: true };
        let a = counters.read();
        let (thread, end) = busy_thread();
        let b = counters.read();
        drop(end);
        thread.join().unwrap();
        let reading = counters.between(&a, &b);
        assert!(*reading.get(Counter::TaskClockNs).value().unwrap() > 1_000_000);
        assert!(*reading.get(Counter::PageFaults).value().unwrap() >= 4);
        assert_eq!(reading.get(Counter::ContextSwitches).provenance(), "measured: getrusage");
    }
}
