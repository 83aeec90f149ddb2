//! A source and its ledger: read by the clock of whoever drives it, the machine's or a test's.

use std::time::Duration;

use super::accumulate::{Energy, Ledger, LedgerMark};
use super::source::{Domain, DomainKind, Quantity, Raw, Reading, Source};
use crate::figure::Figure;
use crate::units::Joules;

/// Power is sampled no more often than this, whatever the sensor's period.
const SAMPLING_LEAST: Duration = Duration::from_millis(100);

/// Power is sampled at least this often, whatever it costs.
const SAMPLING_MOST: Duration = Duration::from_secs(1);

/// Sampling may take a 500th of a thread's time.
const SAMPLING_SHARE: u32 = 500;

/// How often readings that came of themselves are taken up, and the state of the plug.
const TAKING_UP: Duration = Duration::from_secs(1);

/// Counters up to this period are waited for at the edges of a window.
const ALIGNABLE: Duration = Duration::from_millis(5);

/// A counter that can be waited for and does not move for so long is frozen.
pub(super) const STANDING_STILL: Duration = Duration::from_millis(200);

/// A source that is being followed.
pub struct Tracker {
    source: Box<dyn Source>,
    ledger: Ledger,
    readings: Vec<Reading>,
    interval: Option<Duration>,
}

/// The energy of one source within a window.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceEnergy {
    /// Name of the source.
    pub source: String,
    /// From the first mark to the second: the window that the energy belongs to.
    pub window: Duration,
    /// The energy of every domain that is known, those of the total among them; there is none if one
    /// that the total needs is unavailable.
    pub energy: Figure<Vec<DomainEnergy>>,
    /// What a reader must know about this window: one sentence for each domain without energy.
    pub marks: Vec<String>,
}

/// The energy of one domain within a window.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainEnergy {
    /// Name of the domain.
    pub domain: String,
    /// What it is.
    pub kind: DomainKind,
    /// Whether it belongs to the total of its source.
    pub in_total: bool,
    /// Its energy.
    pub energy_j: Joules,
    /// What it may be off by.
    pub uncertainty_j: Joules,
}

impl SourceEnergy {
    /// No energy, and why.
    pub(super) fn unavailable(source: &str, window: Duration, why: String) -> SourceEnergy {
        let energy = Figure::unavailable(why);
        SourceEnergy { source: source.to_owned(), window, energy, marks: Vec::new() }
    }

    /// The total of the source. Uncertainties add up, for those of the edges have one cause.
    pub fn total(&self) -> Figure<Energy> {
        self.energy.clone().map(|domains| {
            let of_total = || domains.iter().filter(|domain| domain.in_total);
            Energy {
                energy: Joules(of_total().map(|domain| domain.energy_j.0).sum()),
                uncertainty: Joules(of_total().map(|domain| domain.uncertainty_j.0).sum()),
            }
        })
    }
}

impl Tracker {
    /// Follows `source` from now on; `slept` is the time this machine has slept so far.
    pub fn new(source: Box<dyn Source>, slept: Duration) -> Tracker {
        let ledger = Ledger::new(source.domains(), slept);
        let interval = interval(&*source);
        Tracker { source, ledger, readings: Vec::new(), interval }
    }

    /// The source.
    pub fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// How often [`Tracker::read`] has to be called between marks, if at all: so often that no counter
    /// turns over twice at the most that its domain can draw, that power is sampled, that no meter has to wait
    /// with its lines, and that no battery is charged unseen.
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Makes sampling rarer where one reading takes so long that it would disturb.
    pub(super) fn mind_cost(&mut self, cost: Duration) {
        if self.source.domains().iter().any(|domain| matches!(domain.quantity, Quantity::Power { .. })) {
            self.interval =
                self.interval.map(|interval| interval.max((cost * SAMPLING_SHARE).min(SAMPLING_MOST)));
        }
    }

    /// Reads all domains at `now`, a time since the tracker was made.
    pub fn read(&mut self, now: Duration, slept: Duration) {
        self.readings.clear();
        self.source.read(now, None, &mut self.readings);
        self.ledger.enter(now, slept, &self.readings);
    }

    /// Reads all domains at `now` and notes where they stand.
    pub fn mark(&mut self, now: Duration, slept: Duration) -> LedgerMark {
        self.read(now, slept);
        self.ledger.mark(now, |_| None)
    }

    /// As [`Tracker::mark`], at the moment when the counter of the first domain of the total has just
    /// moved, once the others of the total have. Spins for two update periods at most; a counter that has not
    /// moved by then is waited for with pauses, and one that does not move at all spoils the window. Counters
    /// that are renewed too rarely, and readings that come of themselves, are not waited for.
    pub(super) fn mark_aligned(
        &mut self,
        clock: impl Fn() -> Duration,
        slept: impl Fn() -> Duration,
    ) -> LedgerMark {
        let domains = self.source.domains().iter().enumerate();
        let mut counters: Vec<usize> =
            domains.filter(|(_, domain)| alignable(domain)).map(|(i, _)| i).collect();
        if self.source.pushes() {
            counters.clear();
        }
        // The first comes last: its move is the edge.
        counters.reverse();
        let looks: Vec<_> = counters.iter().map(|&domain| self.look(domain, &clock)).collect();
        let mut edge = None;
        for (i, (&domain, &look)) in counters.iter().zip(&looks).enumerate() {
            let look = if i + 1 == counters.len() { self.look(domain, &clock) } else { look };
            edge = look.and_then(|look| self.wait_for_move(domain, look, &clock)).map(|at| (domain, at));
        }
        let end = clock();
        self.read(end, slept());
        self.ledger.mark(end, |i| edge.filter(|(domain, _)| *domain == i).map(|(_, before)| end - before))
    }

    /// The time, and what the counter of one domain showed then.
    fn look(&mut self, domain: usize, clock: &impl Fn() -> Duration) -> Option<(Duration, u64)> {
        let now = clock();
        self.counts(domain, now).map(|shown| (now, shown))
    }

    /// Waits until the counter of one domain shows something else than at an earlier look, and says when the
    /// last look was before it moved; none if it cannot be read any more, or does not move, which is put down
    /// as a doubt.
    fn wait_for_move(
        &mut self,
        domain: usize,
        (mut before, shown): (Duration, u64),
        clock: &impl Fn() -> Duration,
    ) -> Option<Duration> {
        let period = self.source.domains()[domain].update_period;
        let start = clock();
        loop {
            let (now, showing) = self.look(domain, clock)?;
            if showing != shown {
                return Some(before);
            }
            before = now;
            if now - start > STANDING_STILL {
                let why = format!(
                    "the counter did not change in {} ms at the edge of the window: it is frozen",
                    STANDING_STILL.as_millis()
                );
                self.ledger.doubt(domain, why);
                return None;
            }
            if now - start > 2 * period {
                std::thread::sleep(period);
            }
        }
    }

    /// What the counter of one domain shows.
    fn counts(&mut self, domain: usize, now: Duration) -> Option<u64> {
        self.readings.clear();
        self.source.read(now, Some(domain), &mut self.readings);
        match self.readings.first() {
            Some(Reading { raw: Ok(Raw::Counts(counts)), .. }) => Some(*counts),
            _ => None,
        }
    }

    /// The energy between two marks of this tracker.
    pub fn between(&self, from: &LedgerMark, to: &LedgerMark) -> SourceEnergy {
        let window = to.at().saturating_sub(from.at());
        let mut energies = Vec::new();
        let mut marks = Vec::new();
        let mut lacking = Vec::new();
        for (domain, energy) in self.source.domains().iter().zip(self.ledger.between(from, to)) {
            match energy {
                Ok(Energy { energy, uncertainty }) => energies.push(DomainEnergy {
                    domain: domain.name.clone(),
                    kind: domain.kind,
                    in_total: domain.in_total,
                    energy_j: energy,
                    uncertainty_j: uncertainty,
                }),
                Err(why) => {
                    let sentence = format!("{}: {why}", domain.name);
                    if domain.in_total {
                        lacking.push(sentence.clone());
                    }
                    marks.push(sentence);
                }
            }
        }
        let name = self.source.name();
        if !self.source.domains().iter().any(|domain| domain.in_total) {
            lacking.push(format!("none of the domains of {name} is known to be the whole"));
        }
        let energy = match (lacking.is_empty(), self.source.simulated()) {
            (false, _) => Figure::unavailable(lacking.join("; ")),
            (true, None) => Figure::measured(energies, name),
            (true, Some(by)) => Figure::Simulated { value: energies, by: format!("{name} ({by})") },
        };
        SourceEnergy { source: name.to_owned(), window, energy, marks }
    }
}

/// Whether it is a counter of the total that moves so often that it can be waited for.
pub(super) fn alignable(domain: &Domain) -> bool {
    domain.in_total
        && matches!(domain.quantity, Quantity::Counter { .. })
        && domain.update_period <= ALIGNABLE
}

fn interval(source: &dyn Source) -> Option<Duration> {
    // What comes of itself is taken up before it is too much.
    if source.pushes() {
        return Some(TAKING_UP);
    }
    let of_domain = |domain: &Domain| match domain.quantity {
        // Half of the shortest time that a turn can take.
        Quantity::Counter { unit, turn: Some(turn), .. } => {
            Some(Duration::from_secs_f64(turn as f64 * unit.0 / domain.kind.most().0 / 2.0))
        }
        // The plug may come and go between two marks.
        Quantity::Counter { turn: None, .. } => (domain.kind == DomainKind::Battery).then_some(TAKING_UP),
        Quantity::Power { .. } => Some(domain.update_period.max(SAMPLING_LEAST)),
    };
    source.domains().iter().filter_map(of_domain).min()
}
