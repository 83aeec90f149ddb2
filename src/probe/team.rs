//! Threads that start a pass together: what the probes of the machine have in common.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::{Error, Result};

const MAX_THREADS: u32 = 1024;
const MAX_PASSES: u32 = 10_000;

/// Refuses numbers of threads and passes that no measurement has; `probe` is its name in the message.
pub(super) fn check(probe: &str, threads: u32, passes: u32) -> Result<()> {
    if (1..=MAX_THREADS).contains(&threads) && (1..=MAX_PASSES).contains(&passes) {
        return Ok(());
    }
    Err(Error::input(format!(
        "{probe}: {threads} threads and {passes} passes; 1 to {MAX_THREADS} and 1 to {MAX_PASSES} are possible"
    )))
}

/// Runs a thread for each of `parts`: `prepare` (with the thread's number) once, then `pass` so many
/// times. A pass lasts from the moment all threads are ready until the last one is done. Threads are
/// pinned to one core each if there are enough cores that this process may use.
///
/// # Errors
/// [`Error::Environment`] if threads are refused; `probe` names the measurement in the message.
pub(super) fn passes<P: Send>(
    probe: &str,
    parts: Vec<P>,
    passes: u32,
    prepare: impl Fn(usize, &mut P) + Sync,
    pass: impl Fn(&mut P) + Sync,
) -> Result<Vec<Duration>> {
    let threads = parts.len();
    let cores = allowed_cores();
    let start_line = StartLine { threads, arrived: AtomicUsize::new(0), off: AtomicBool::new(false) };
    let windows: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
        let mut team = Vec::with_capacity(threads);
        for (index, mut part) in parts.into_iter().enumerate() {
            let core = if cores.len() >= threads { cores.get(index).copied() } else { None };
            let (start_line, prepare, pass) = (&start_line, &prepare, &pass);
            let spawned = std::thread::Builder::new().spawn_scoped(scope, move || {
                if let Some(core) = core {
                    pin(core);
                }
                prepare(index, &mut part);
                let mut windows = Vec::with_capacity(passes as usize);
                for n in 0..passes as usize {
                    if !start_line.wait(n) {
                        break;
                    }
                    let start = Instant::now();
                    pass(&mut part);
                    windows.push((start, Instant::now()));
                }
                windows
            });
            match spawned {
                Ok(thread) => team.push(thread),
                Err(e) => {
                    // Those already running wait for one that never comes.
                    start_line.off.store(true, Ordering::Release);
                    return Err(Error::environment(format!("{probe}: no {threads} threads to be had: {e}")));
                }
            }
        }
        team.into_iter()
            .map(|thread| {
                thread.join().map_err(|_| Error::environment(format!("{probe}: a thread panicked")))
            })
            .collect()
    })?;
    Ok((0..passes as usize)
        .filter_map(|n| {
            let start = windows.iter().filter_map(|w| w.get(n)).map(|w| w.0).min()?;
            let end = windows.iter().filter_map(|w| w.get(n)).map(|w| w.1).max()?;
            // Every pass takes longer than the clock's nanosecond; the bound keeps rates finite anyway.
            Some(end.duration_since(start).max(Duration::from_nanos(1)))
        })
        .collect())
}

/// Where threads wait for each other before each pass. It spins, because a wake-up by the kernel takes
/// longer than the differences that matter.
struct StartLine {
    threads: usize,
    /// Arrivals over all passes.
    arrived: AtomicUsize,
    /// Set when not all threads will come.
    off: AtomicBool,
}

impl StartLine {
    /// Waits until every thread has arrived for `pass`; false if the measurement is off.
    fn wait(&self, pass: usize) -> bool {
        /// After so many turns the missing thread probably waits for this one's core.
        const TURNS: u32 = 10_000;
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut turns = 0;
        while self.arrived.load(Ordering::Acquire) < (pass + 1) * self.threads {
            if self.off.load(Ordering::Acquire) {
                return false;
            }
            turns += 1;
            if turns < TURNS {
                spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        true
    }
}

/// The cores that this process may run on; none where that cannot be told.
#[cfg(target_os = "linux")]
fn allowed_cores() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(not(target_os = "linux"))]
fn allowed_cores() -> Vec<usize> {
    Vec::new()
}

/// Keeps the calling thread on `core`, if the system lets it.
#[cfg(target_os = "linux")]
fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    // Refused in some sandboxes; the threads then run where the scheduler puts them.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

#[cfg(not(target_os = "linux"))]
fn pin(_core: usize) {}
