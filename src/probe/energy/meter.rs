//! The energy meter of a process: opens what was chosen, and gives the energy between two marks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::accumulate::LedgerMark;
use super::choice::{EnergyChoice, SourceChoice};
use super::source::{Refusal, Source};
use super::tracker::{SourceEnergy, Tracker};
use super::{SOURCES, exec, open};
use crate::figure::Figure;
use crate::probe::clock;

/// Update periods that a window needs for its edges not to matter much.
const MIN_WINDOW_PERIODS: u32 = 50;

/// The energy sources of this process.
pub struct Meter {
    shared: Arc<Shared>,
    /// Root of a simulated tree; none for the machine's own.
    simulated: Option<PathBuf>,
    reader: Option<JoinHandle<()>>,
}

struct Shared {
    epoch: Instant,
    slots: Vec<Slot>,
    stop: Mutex<bool>,
    stopped: Condvar,
}

enum Slot {
    Open(Box<Mutex<Tracker>>),
    Refused { name: String, why: String },
}

/// A moment, to be given to [`Meter::between`] of the same meter.
#[derive(Debug, Clone)]
pub struct Mark {
    epoch: Instant,
    at: Duration,
    /// None for a source that could not be opened.
    sources: Vec<Option<LedgerMark>>,
}

impl Mark {
    /// When it was made, since the meter was opened.
    pub fn at(&self) -> Duration {
        self.at
    }
}

impl Meter {
    /// Opens the chosen sources. With `root` in the place of `/`, every figure is [`Figure::Simulated`]. A
    /// source that cannot be opened is no error: its figures are [`Figure::Unavailable`] with the reason.
    pub fn open(choice: &EnergyChoice, root: Option<&Path>) -> Meter {
        let sources = match choice {
            EnergyChoice::None => vec![Err(refused("none", "no energy source was asked for"))],
            EnergyChoice::Auto => vec![first(root).map_err(|why| refused("auto", why))],
            EnergyChoice::Sources(sources) => sources.iter().map(|source| chosen(source, root)).collect(),
        };
        Meter::over(sources, root)
    }

    fn over(sources: Vec<Result<Box<dyn Source>, Slot>>, root: Option<&Path>) -> Meter {
        let epoch = Instant::now();
        let mut intervals = Vec::new();
        let mut slots = Vec::new();
        for source in sources {
            slots.push(match source {
                Err(refused) => refused,
                Ok(source) => {
                    let mut tracker = Tracker::new(source, clock::slept());
                    let start = epoch.elapsed();
                    tracker.read(start, clock::slept());
                    tracker.mind_cost(epoch.elapsed() - start);
                    if let Some(interval) = tracker.interval() {
                        intervals.push((slots.len(), interval));
                    }
                    Slot::Open(Box::new(Mutex::new(tracker)))
                }
            });
        }
        let shared = Arc::new(Shared { epoch, slots, stop: Mutex::new(false), stopped: Condvar::new() });
        let reader = (!intervals.is_empty()).then(|| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.keep_reading(&intervals))
        });
        Meter { shared, simulated: root.map(Path::to_owned), reader }
    }

    /// Whether a thread reads in the background: for counters that turn over, power, and readings that come of
    /// themselves.
    pub fn reads_in_background(&self) -> bool {
        self.reader.is_some()
    }

    /// Whether any source could be opened.
    pub fn is_open(&self) -> bool {
        self.shared.slots.iter().any(|slot| matches!(slot, Slot::Open(_)))
    }

    /// Reads everything now.
    pub fn mark(&self) -> Mark {
        self.mark_with(|tracker| tracker.mark(self.shared.epoch.elapsed(), clock::slept()))
    }

    /// As [`Meter::mark`], but waits until the counters in the total of the first source have moved, where they
    /// move at least every 5 ms, and one of them just now: that edge of the window is then known to some
    /// microseconds.
    pub fn mark_aligned(&self) -> Mark {
        let mut first = true;
        self.mark_with(|tracker| {
            if std::mem::take(&mut first) {
                tracker.mark_aligned(|| self.shared.epoch.elapsed(), clock::slept)
            } else {
                tracker.mark(self.shared.epoch.elapsed(), clock::slept())
            }
        })
    }

    fn mark_with(&self, mut mark: impl FnMut(&mut Tracker) -> LedgerMark) -> Mark {
        let sources = self.shared.slots.iter().map(|slot| match slot {
            Slot::Open(tracker) => Some(mark(&mut lock(tracker))),
            Slot::Refused { .. } => None,
        });
        let sources: Vec<_> = sources.collect();
        let at = sources.iter().flatten().map(LedgerMark::at).next();
        let at = at.unwrap_or_else(|| self.shared.epoch.elapsed());
        Mark { epoch: self.shared.epoch, at, sources }
    }

    /// The energy of each source between two marks of this meter, in the order of the choice: never
    /// empty, the first is the one that figures come from.
    pub fn between(&self, from: &Mark, to: &Mark) -> Vec<SourceEnergy> {
        let window = to.at.saturating_sub(from.at);
        let sources = self.shared.slots.iter().enumerate().map(|(i, slot)| match slot {
            Slot::Refused { name, why } => SourceEnergy::unavailable(name, window, why.clone()),
            Slot::Open(tracker) => {
                let tracker = lock(tracker);
                let marks = (from.sources.get(i).and_then(Option::as_ref), to.sources.get(i));
                let same = from.epoch == self.shared.epoch && to.epoch == self.shared.epoch;
                match marks {
                    (Some(from), Some(Some(to))) if same => tracker.between(from, to),
                    _ => SourceEnergy::unavailable(
                        tracker.source().name(),
                        window,
                        "the window began with another energy meter".to_owned(),
                    ),
                }
            }
        });
        sources.map(|energy| self.labelled(energy)).collect()
    }

    /// A simulated tree gives no measurement.
    fn labelled(&self, mut energy: SourceEnergy) -> SourceEnergy {
        if let (Some(root), Figure::Measured { value, by }) = (&self.simulated, &energy.energy) {
            let by = format!("{by} tree at {}", root.display());
            energy.energy = Figure::Simulated { value: value.clone(), by };
        }
        energy
    }

    /// The shortest window whose edges matter little: 50 update periods of the slowest domain in the
    /// total of the first source. Zero if that cannot be read.
    pub fn min_window(&self) -> Duration {
        let Some(Slot::Open(tracker)) = self.shared.slots.first() else { return Duration::ZERO };
        let tracker = lock(tracker);
        let domains = tracker.source().domains().iter().filter(|domain| domain.in_total);
        let slowest = domains.map(|domain| domain.update_period).max().unwrap_or_default();
        slowest.saturating_mul(MIN_WINDOW_PERIODS)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        *self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.stopped.notify_all();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Shared {
    /// Reads the trackers at these indices at their intervals until the meter is dropped.
    fn keep_reading(&self, intervals: &[(usize, Duration)]) {
        let mut due: Vec<Duration> = intervals.iter().map(|(_, interval)| *interval).collect();
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let next = due.iter().min().copied().unwrap_or(Duration::MAX);
            let pause = next.saturating_sub(self.epoch.elapsed());
            // The meter may have been dropped before this thread came here: then nobody will wake it.
            (stop, _) = self
                .stopped
                .wait_timeout_while(stop, pause, |stop| !*stop)
                .unwrap_or_else(PoisonError::into_inner);
            if *stop {
                return;
            }
            for ((index, interval), due) in intervals.iter().zip(&mut due) {
                let now = self.epoch.elapsed();
                if now >= *due
                    && let Slot::Open(tracker) = &self.slots[*index]
                {
                    let mut tracker = lock(tracker);
                    // The time may have passed in waiting for the lock.
                    tracker.read(self.epoch.elapsed(), clock::slept());
                    *due = now + *interval;
                }
            }
        }
    }
}

fn lock(tracker: &Mutex<Tracker>) -> MutexGuard<'_, Tracker> {
    tracker.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(name: &str, why: impl Into<String>) -> Slot {
    Slot::Refused { name: name.to_owned(), why: why.into() }
}

fn chosen(source: &SourceChoice, root: Option<&Path>) -> Result<Box<dyn Source>, Slot> {
    match source {
        SourceChoice::Named(name) => open(name, root).map_err(|refusal| refused(name, refusal.to_string())),
        SourceChoice::Exec(command) => {
            exec::open(command).map_err(|refusal| refused(&format!("exec: {command}"), refusal.to_string()))
        }
    }
}

/// The first source that is looked for unasked and found.
fn first(root: Option<&Path>) -> Result<Box<dyn Source>, String> {
    let mut refusals: Vec<(&str, Refusal)> = Vec::new();
    for &(name, ..) in SOURCES.iter().filter(|(_, _, unasked)| *unasked) {
        match open(name, root) {
            Ok(source) => return Ok(source),
            Err(refusal) => refusals.push((name, refusal)),
        }
    }
    let whys: Vec<String> =
        refusals.iter().map(|(name, refusal)| format!("{name}: {}", refusal.why)).collect();
    let helped = refusals.into_iter().map(|(_, refusal)| refusal).find(|refusal| refusal.remedy.is_some());
    let why = format!("no energy source ({})", whys.join("; "));
    let refusal = helped.map_or_else(|| Refusal::new(&*why), |helped| Refusal { why: why.clone(), ..helped });
    Err(refusal.to_string())
}
