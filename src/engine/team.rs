//! A persistent team of threads that split each stage of the forward pass.
//!
//! A decode step has hundreds of stages of some ten microseconds, so the threads wait for the next one
//! by spinning; they start to yield, and then sleep, only when none comes. This is the one place of the
//! engine with `unsafe`: it hands borrowed closures and disjoint parts of borrowed buffers to threads
//! that outlive the borrow, and waits for them before the borrow ends.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// Iterations of a spin loop before a waiting thread yields the CPU: some hundred microseconds, longer
/// than the leader takes between two stages.
const SPINS: u32 = 20_000;

/// Yields before an idle thread sleeps until it is woken.
const YIELDS: u32 = 200;

/// A stage: what each member does, given its number.
type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// Keeps what one thread writes and others wait for in cache lines of its own (two, because the
/// prefetcher fetches pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

#[derive(Debug)]
struct Shared {
    /// Number of the stage; changing it starts the stage.
    stage: Apart<AtomicU32>,
    /// Members that have finished it.
    done: Apart<AtomicU32>,
    /// Where the stage's [`Job`] is. Written before `stage` changes, read after that was seen.
    job: AtomicPtr<Job<'static>>,
    stop: AtomicBool,
    /// Whether `panic` holds something: the leader looks at every stage's end, and a lock costs more.
    panicked: AtomicBool,
    /// The first panic of a member in this stage.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: Vec<AtomicBool>,
    spins: u32,
}

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
            stage: Apart::default(),
            done: Apart::default(),
            job: AtomicPtr::new(std::ptr::null_mut()),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
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
    fn run(&self, job: Job<'_>) {
        if self.workers.is_empty() {
            return job(0);
        }
        let shared = &*self.shared;
        // Members use `job` itself, which is on this stack, between the start of the stage and their
        // last access to `done`, for which this function waits, whatever panics.
        shared.job.store((&raw const job).cast::<Job<'static>>().cast_mut(), Ordering::Relaxed);
        shared.done.0.store(0, Ordering::Relaxed);
        shared.stage.0.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep[1..]) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        let mut waited = 0;
        while shared.done.0.load(Ordering::Acquire) as usize != self.workers.len() {
            wait(&mut waited, shared.spins);
        }
        let member = match shared.panicked.load(Ordering::Relaxed) {
            true => {
                shared.panicked.store(false, Ordering::Relaxed);
                lock(&shared.panic).take()
            }
            false => None,
        };
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
        self.split_two((out, unit), (&mut [], 1), locals, |range, out, _, _: &mut [()], local| {
            f(range, out, local);
        });
    }

    /// [`split`](Self::split) of two buffers at once, each given with its unit and shared out by itself.
    /// Members without a unit of either are not called.
    ///
    /// # Panics
    /// As [`split`](Self::split).
    pub fn split_two<T: Send, U: Send, L: Send>(
        &self,
        (a, a_unit): (&mut [T], usize),
        (b, b_unit): (&mut [U], usize),
        locals: &mut [L],
        f: impl Fn(Range<usize>, &mut [T], Range<usize>, &mut [U], &mut L) + Sync,
    ) {
        assert!(a_unit > 0 && a.len().is_multiple_of(a_unit), "whole units");
        assert!(b_unit > 0 && b.len().is_multiple_of(b_unit), "whole units");
        assert!(locals.len() >= self.threads(), "locals for each member");
        let (a_units, b_units, threads) = (a.len() / a_unit, b.len() / b_unit, self.threads());
        let (a, b) = (Parts(a.as_mut_ptr()), Parts(b.as_mut_ptr()));
        let locals = Parts(locals.as_mut_ptr());
        self.run(&|member| {
            let (of_a, of_b) = (share(a_units, member, threads), share(b_units, member, threads));
            if of_a.is_empty() && of_b.is_empty() {
                return;
            }
            // SAFETY: the ranges of different members are disjoint and within the buffers, each member
            // has its own element of `locals`, and `run` calls each member once and returns only when
            // all are done, within the borrows of all three.
            let (a, b, local) = unsafe {
                (
                    a.part(of_a.start * a_unit, of_a.len() * a_unit),
                    b.part(of_b.start * b_unit, of_b.len() * b_unit),
                    locals.part(member, 1),
                )
            };
            f(of_a, a, of_b, b, &mut local[0]);
        });
    }
}

/// The units, of `units`, that are `member`'s of `threads`.
pub(super) fn share(units: usize, member: usize, threads: usize) -> Range<usize> {
    units * member / threads..units * (member + 1) / threads
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
        self.shared.stage.0.fetch_add(1, Ordering::SeqCst);
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
        while shared.stage.0.load(Ordering::Acquire) == last {
            if waited < shared.spins + YIELDS {
                wait(&mut waited, shared.spins);
                continue;
            }
            // Announce the sleep before looking once more, so that the leader, who looks for sleepers
            // after it has started the stage, cannot miss it.
            shared.asleep[member].store(true, Ordering::SeqCst);
            if shared.stage.0.load(Ordering::SeqCst) == last {
                std::thread::park();
            }
            shared.asleep[member].store(false, Ordering::SeqCst);
        }
        last = last.wrapping_add(1);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: `run` stored the address of a job before it changed `stage`, which was seen with
        // acquire ordering, and keeps both the reference and its closure alive until `done` has counted
        // this member.
        let job = unsafe { *shared.job.load(Ordering::Relaxed) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(member))) {
            lock(&shared.panic).get_or_insert(panic);
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.done.0.fetch_add(1, Ordering::Release);
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
    fn two_buffers_are_split_each_by_itself() {
        for threads in [1, 2, 3] {
            let team = Team::new(threads);
            for (a_units, b_units) in [(0, 5), (1, 0), (2, 7), (6, 1)] {
                let (mut a, mut b) = (vec![0usize; a_units * 2], vec![0usize; b_units]);
                let mut locals = vec![(); threads];
                team.split_two((&mut a, 2), (&mut b, 1), &mut locals, |of_a, a, of_b, b, ()| {
                    for (i, a) in of_a.zip(a.chunks_exact_mut(2)) {
                        a.iter_mut().for_each(|x| *x += i + 1);
                    }
                    of_b.zip(b).for_each(|(i, x)| *x += i + 1);
                });
                assert!(a.iter().enumerate().all(|(i, x)| *x == i / 2 + 1), "{a:?}");
                assert!(b.iter().enumerate().all(|(i, x)| *x == i + 1), "{b:?}");
            }
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
