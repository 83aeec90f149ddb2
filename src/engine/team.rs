//! A persistent team of threads that split each stage of the forward pass.
//!
//! A decode step has hundreds of stages of some ten microseconds, so the threads wait for the next one
//! by spinning; they start to yield, and then sleep, only when none comes. This is the one place of the
//! engine with `unsafe`: it hands borrowed closures and disjoint parts of borrowed buffers to threads
//! that outlive the borrow, and waits for them before the borrow ends.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// Iterations of a spin loop before a waiting thread yields the CPU: some hundred microseconds, longer
/// than the leader takes between two stages.
const SPINS: u32 = 20_000;

/// Yields before an idle thread sleeps until it is woken.
const YIELDS: u32 = 200;

/// A stage: what each member does, given its number.
type Job = *const (dyn Fn(usize) + Sync);

#[derive(Debug)]
struct Shared {
    /// Number of the stage; changing it starts the stage.
    stage: AtomicU32,
    /// Members that have finished it.
    done: AtomicU32,
    job: Mutex<Option<JobCell>>,
    stop: AtomicBool,
    /// The first panic of a member in this stage.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: Vec<AtomicBool>,
    spins: u32,
}

#[derive(Debug, Clone, Copy)]
struct JobCell(Job);

// SAFETY: the pointee is `Sync`, and `Team::run` keeps it alive until every member is done with it.
unsafe impl Send for JobCell {}

/// Threads that work on one stage at a time; the thread that owns the team is member 0.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    pinned: bool,
    /// Affinity of the owning thread before it was pinned.
    #[cfg(target_os = "linux")]
    restore: Option<rustix::thread::CpuSet>,
}

/// The CPUs that this process may use, as the system numbers them; empty if it does not say. Asked once,
/// before any team pins the thread that asks.
pub fn allowed_cpus() -> &'static [usize] {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    CPUS.get_or_init(|| {
        #[cfg(target_os = "linux")]
        if let Ok(set) = rustix::thread::sched_getaffinity(None) {
            return (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
        }
        Vec::new()
    })
}

impl Team {
    /// A team of `threads` members (at least 1), each pinned to a CPU of its own where the system
    /// allows that and has enough of them.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let cpus = allowed_cpus();
        let cpus = if cpus.len() >= threads { cpus } else { &[] };
        #[cfg(target_os = "linux")]
        let restore = rustix::thread::sched_getaffinity(None).ok();
        // With fewer CPUs than members, a spinning member keeps another from working.
        let spins = if cpus.is_empty() && threads > 1 { 0 } else { SPINS };
        let shared = Arc::new(Shared {
            stage: AtomicU32::new(0),
            done: AtomicU32::new(0),
            job: Mutex::new(None),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            asleep: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            spins,
        });
        let pinned = threads > 1 && !cpus.is_empty();
        let workers = (1..threads)
            .map(|member| {
                let shared = Arc::clone(&shared);
                let cpu = cpus.get(member).copied();
                std::thread::Builder::new()
                    .name(format!("team-{member}"))
                    .spawn(move || {
                        pin(cpu);
                        work(&shared, member);
                    })
                    .expect("the system starts a thread")
            })
            .collect();
        if pinned {
            pin(cpus.first().copied());
        }
        Team {
            shared,
            workers,
            pinned,
            #[cfg(target_os = "linux")]
            restore,
        }
    }

    /// Number of members.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` once on each member, with the member's number, and waits for all.
    ///
    /// # Panics
    /// With the panic of a member.
    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return job(0);
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The pointer is used by members between the start of this
        // stage and their last access to `done`, for which this function waits, whatever panics.
        let erased: Job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job) };
        *lock(&shared.job) = Some(JobCell(erased));
        shared.done.store(0, Ordering::Relaxed);
        shared.stage.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep[1..]) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        let mut waited = 0;
        while shared.done.load(Ordering::Acquire) as usize != self.workers.len() {
            wait(&mut waited, shared.spins);
        }
        let member = lock(&shared.panic).take();
        if let Some(panic) = own.err().or(member) {
            resume_unwind(panic);
        }
    }

    /// Cuts `out` into parts of `unit` elements, shares these out evenly among the members in one
    /// contiguous piece each, and has each call `f` with the range of its units, their elements, and
    /// its own element of `locals`. Members without a unit are not called.
    ///
    /// # Panics
    /// If `out` is no whole number of units, or there are fewer `locals` than members; with the panic of
    /// a member.
    pub fn split<T: Send, L: Send>(
        &self,
        out: &mut [T],
        unit: usize,
        locals: &mut [L],
        f: impl Fn(Range<usize>, &mut [T], &mut L) + Sync,
    ) {
        assert!(unit > 0 && out.len().is_multiple_of(unit), "whole units");
        assert!(locals.len() >= self.threads(), "locals for each member");
        let (units, threads) = (out.len() / unit, self.threads());
        let out = Parts(out.as_mut_ptr());
        let locals = Parts(locals.as_mut_ptr());
        self.run(&|member| {
            let range = units * member / threads..units * (member + 1) / threads;
            if range.is_empty() {
                return;
            }
            // SAFETY: the ranges of different members are disjoint and within `out`, each member has its
            // own element of `locals`, and `run` calls each member once and returns only when all are
            // done, within the borrows of both.
            let (part, local) =
                unsafe { (out.part(range.start * unit, range.len() * unit), locals.part(member, 1)) };
            f(range, part, &mut local[0]);
        });
    }
}

/// Start of a buffer whose disjoint parts go to different threads.
struct Parts<T>(*mut T);

// SAFETY: `Team::split` gives each part to one thread only, and `T` may be sent there.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    /// # Safety
    /// The range is within the buffer, which outlives the result, and nobody else uses it meanwhile.
    #[allow(clippy::mut_from_ref, reason = "the caller promises that parts are disjoint")]
    unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.stage.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
        #[cfg(target_os = "linux")]
        if let (true, Some(set)) = (self.pinned, &self.restore) {
            let _ = rustix::thread::sched_setaffinity(None, set);
        }
    }
}

/// A worker's life: wait for a stage, do it, say so.
fn work(shared: &Shared, member: usize) {
    let mut last = 0;
    loop {
        let mut waited = 0;
        while shared.stage.load(Ordering::Acquire) == last {
            if waited < shared.spins + YIELDS {
                wait(&mut waited, shared.spins);
                continue;
            }
            // Announce the sleep before looking once more, so that the leader, who looks for sleepers
            // after it has started the stage, cannot miss it.
            shared.asleep[member].store(true, Ordering::SeqCst);
            if shared.stage.load(Ordering::SeqCst) == last {
                std::thread::park();
            }
            shared.asleep[member].store(false, Ordering::SeqCst);
        }
        last = last.wrapping_add(1);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let job = *lock(&shared.job);
        if let Some(JobCell(job)) = job {
            // SAFETY: the leader keeps the closure alive until `done` has counted this member.
            let job = unsafe { &*job };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(member))) {
                *lock(&shared.panic) = Some(panic);
            }
        }
        shared.done.fetch_add(1, Ordering::Release);
    }
}

/// One turn of waiting: spin at first, then let others run.
fn wait(waited: &mut u32, spins: u32) {
    if *waited < spins {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
    *waited = waited.saturating_add(1);
}

/// Locks; a panic of another holder does not matter, because each stage sets the content anew.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pins the calling thread. Pinning is a courtesy to the caches: where the system refuses it, the
/// thread runs unpinned.
fn pin(cpu: Option<usize>) {
    #[cfg(target_os = "linux")]
    if let Some(cpu) = cpu {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cpu;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_done_once() {
        for threads in [1, 2, 3, 7] {
            let team = Team::new(threads);
            let mut locals = vec![0usize; threads];
            for units in [0, 1, 2, 5, 64] {
                let mut out = vec![0u32; units * 3];
                for round in 1..200 {
                    team.split(&mut out, 3, &mut locals, |range, out, local| {
                        *local += range.len();
                        for (i, out) in range.zip(out.chunks_exact_mut(3)) {
                            out.iter_mut().for_each(|x| *x += i as u32 + 1);
                        }
                    });
                    for (i, x) in out.iter().enumerate() {
                        assert_eq!(*x, round * (i as u32 / 3 + 1));
                    }
                }
            }
            assert_eq!(locals.iter().sum::<usize>(), 199 * (1 + 2 + 5 + 64));
        }
    }

    #[test]
    fn sleeping_members_wake() {
        let team = Team::new(2);
        let mut out = [0u32; 2];
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            team.split(&mut out, 1, &mut [(), ()], |_, out, ()| out[0] += 1);
        }
        assert_eq!(out, [3, 3]);
    }

    #[test]
    fn a_panic_reaches_the_leader_and_the_team_lives_on() {
        let team = Team::new(2);
        let mut out = [0u32; 2];
        let panic = catch_unwind(AssertUnwindSafe(|| {
            team.split(&mut out, 1, &mut [(), ()], |range, _, ()| assert!(range.start == 0, "member 1"));
        }));
        assert!(panic.is_err());
        team.split(&mut out, 1, &mut [(), ()], |_, out, ()| out[0] += 1);
        assert_eq!(out, [1, 1]);
    }
}
