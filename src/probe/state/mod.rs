//! The state of the host over a measured window: what else happened on the machine while it ran.
//!
//! Counters that the kernel keeps anyway (stolen time, load, throttling, memory pressure, swapping) are
//! read at both edges of the window only: exact, and free while it lasts. Frequency and temperature are
//! of an instant; a thread reads them four times a second, and only if the machine shows them.

mod counters;
mod sensors;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::allowed_cpus;
use crate::figure::Figure;
use crate::probe::clock;
use crate::units::Bytes;

use counters::Edge;
use sensors::Sensors;

/// Time between two readings of the sensors.
const INTERVAL: Duration = Duration::from_millis(250);

/// A pause is at least so many times as long as the CPU time of the reading before it: the thread that
/// reads uses at most 0.2 % of a CPU, however many files there are.
const PAUSE_PER_READING: u32 = 500;

/// The host over one window. A figure that the machine does not show says why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    /// Frequency of the busy CPUs.
    pub frequency: Figure<Frequency>,
    /// Highest temperature of the CPU, degrees Celsius.
    pub temperature_max_c: Figure<f64>,
    /// How often the CPUs used, or their packages, went above their thermal limit. An event that several
    /// CPUs report counts for each.
    pub throttle_events: Figure<u64>,
    /// Share of the time of the CPUs used that the hypervisor gave to others, 0 to 1.
    pub steal_share: Figure<f64>,
    /// CPUs that other processes and the kernel kept busy on the whole machine.
    pub other_load_cpus: Figure<f64>,
    /// Share of the window in which some task of the machine waited for memory, 0 to 1 (PSI `some`).
    pub memory_pressure_share: Figure<f64>,
    /// What the machine swapped.
    pub swap: Figure<Swap>,
}

/// Frequency of the busy CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Frequency {
    /// Mean over the CPUs and the window, MHz.
    pub mean_mhz: f64,
    /// Lowest reading of any of these CPUs, MHz.
    pub min_mhz: f64,
    /// How many times they were read.
    pub readings: u32,
}

/// Memory that went from and to swap space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Read back into memory.
    pub read: Bytes,
    /// Written out.
    pub written: Bytes,
}

/// The CPUs on which the measured threads run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// CPUs that the threads may run on, as the system numbers them.
    pub cpus: Vec<u32>,
    /// How many of them are busy at a time.
    pub threads: usize,
}

impl Busy {
    /// Those of a team of `threads` members: a CPU for each, or, where members are not pinned (one alone,
    /// or more than there are CPUs), all that this process may use.
    pub fn team(threads: usize) -> Busy {
        let allowed = allowed_cpus();
        let pinned = threads > 1 && allowed.len() >= threads;
        let cpus = if pinned { &allowed[..threads] } else { allowed };
        Busy { cpus: cpus.iter().map(|&cpu| cpu as u32).collect(), threads: threads.max(1) }
    }
}

/// A window under way; [`Watch::stop`] ends it.
///
/// Started before the first instrument of a window and stopped after the last, it costs the window
/// nothing but the sensors' readings.
#[derive(Debug)]
pub struct Watch {
    root: Option<PathBuf>,
    busy: Busy,
    edge: Edge,
    sensors: Reader,
}

/// Who reads the sensors until the window ends.
#[derive(Debug)]
enum Reader {
    Thread {
        stop: Arc<AtomicBool>,
        thread: JoinHandle<Sensors>,
    },
    /// Nothing to be read in between: no such files, or no thread to be had.
    Nobody(Sensors),
}

impl Watch {
    /// Begins a window of threads on `busy`. With `root`, the folders `proc`, `sys` and `dev` below it
    /// stand for the machine's, and all figures are [`Figure::Simulated`].
    pub fn start(root: Option<&Path>, busy: &Busy) -> Watch {
        let machine = root.unwrap_or(Path::new("/"));
        let sensors = Sensors::open(machine, busy);
        let sensors =
            if sensors.worth_a_thread() { read_by_thread(sensors) } else { Reader::Nobody(sensors) };
        // Last, so that what came before belongs to no window.
        let edge = Edge::read(machine, busy);
        Watch { root: root.map(Path::to_owned), busy: busy.clone(), edge, sensors }
    }

    /// Ends the window.
    pub fn stop(self) -> HostState {
        let end = Edge::read(self.root.as_deref().unwrap_or(Path::new("/")), &self.busy);
        let mut sensors = match self.sensors {
            Reader::Nobody(sensors) => sensors,
            Reader::Thread { stop, thread } => {
                stop.store(true, Ordering::Release);
                thread.thread().unpark();
                match thread.join() {
                    Ok(sensors) => sensors,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        };
        sensors.read();
        let simulated = self.root.is_some();
        HostState {
            frequency: figure(simulated, sensors.frequency()),
            temperature_max_c: figure(simulated, sensors.temperature_max_c()),
            throttle_events: figure(simulated, self.edge.throttle_events(&end)),
            steal_share: figure(simulated, self.edge.steal_share(&end)),
            other_load_cpus: figure(simulated, self.edge.other_load_cpus(&end)),
            memory_pressure_share: figure(simulated, self.edge.memory_pressure_share(&end)),
            swap: figure(simulated, self.edge.swap(&end)),
        }
    }
}

fn read_by_thread(sensors: Sensors) -> Reader {
    let stop = Arc::new(AtomicBool::new(false));
    // A thread that cannot be had gives nothing back: the files are opened again then.
    let (root, busy) = (sensors.root.clone(), sensors.busy.clone());
    let stopped = Arc::clone(&stop);
    let thread = std::thread::Builder::new().name("host-state".to_owned()).spawn(move || {
        let mut sensors = sensors;
        run_anywhere();
        let mut pause = INTERVAL;
        loop {
            let until = Instant::now() + pause;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                if stopped.load(Ordering::Acquire) {
                    return sensors;
                }
                std::thread::park_timeout(left);
            }
            let start = clock::thread_cpu_ns();
            sensors.read();
            let cost = Duration::from_nanos(clock::thread_cpu_ns().saturating_sub(start));
            pause = INTERVAL.max(cost * PAUSE_PER_READING);
        }
    });
    match thread {
        Ok(thread) => Reader::Thread { stop, thread },
        Err(_) => Reader::Nobody(Sensors::open(&root, &busy)),
    }
}

/// Lets the calling thread run on every CPU of the process: the thread that started it may be pinned, and
/// is what it must not disturb.
fn run_anywhere() {
    #[cfg(target_os = "linux")]
    {
        let mut set = rustix::thread::CpuSet::new();
        allowed_cpus().iter().for_each(|&cpu| set.set(cpu));
        // Refused in some sandboxes; the thread then stays where its parent was.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

/// A value with the instrument's name, or why there is none.
type Reading<T> = Result<(T, &'static str), String>;

fn figure<T>(simulated: bool, reading: Reading<T>) -> Figure<T> {
    match reading {
        Ok((value, by)) if simulated => Figure::Simulated { value, by: format!("simulated tree: {by}") },
        Ok((value, by)) => Figure::measured(value, by),
        Err(why) => Figure::unavailable(why),
    }
}
