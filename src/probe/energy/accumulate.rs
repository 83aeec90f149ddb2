//! From readings to joules: turns of counters corrected, power integrated, every doubt marked.
//!
//! Pure: time is an argument, so an hour passes in a millisecond of a test. A doubt (a counter that went
//! back, froze, jumped or may have turned over unseen, a sample that came too late, a sleep of the
//! machine) spoils the windows it lies in, and no other.

use std::collections::VecDeque;
use std::time::Duration;

use super::source::{Domain, Quantity, Raw, Reading};
use crate::units::{Joules, Watts};

/// Slack in the length of an interval for the instrument's own schedule, which is not ours.
const SLACK: Duration = Duration::from_millis(100);

/// Update periods for which a counter may stand still, and the least time.
const FROZEN_PERIODS: u32 = 100;
const FROZEN_LEAST: Duration = Duration::from_secs(1);

/// Update periods for which a reading that comes of itself may be missing, and the least time.
const STALLED_PERIODS: u32 = 5;
const STALLED_LEAST: Duration = Duration::from_secs(1);

/// Update periods between two samples of power that are still integrated over, and the least time.
const GAP_PERIODS: u32 = 10;
const GAP_LEAST: Duration = Duration::from_secs(2);

/// Growth of the time slept that is a sleep, and not the difference of two readings of clocks.
const SLEEP_LEAST: Duration = Duration::from_millis(100);

/// Doubts that are kept by their words; of older ones only that they were is known.
const KEPT: usize = 16;

/// The accounts of a source's domains.
#[derive(Debug)]
pub struct Ledger {
    accounts: Vec<Account>,
    slept: Duration,
}

/// The state of a source's domains at one moment, for [`Ledger::between`].
#[derive(Debug, Clone)]
pub struct LedgerMark {
    at: Duration,
    positions: Vec<Result<Position, String>>,
}

impl LedgerMark {
    /// When it was made, since the meter was opened.
    pub fn at(&self) -> Duration {
        self.at
    }
}

/// The energy of a domain within a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Energy {
    /// The energy.
    pub energy: Joules,
    /// What it may be off by; see [`Ledger::between`].
    pub uncertainty: Joules,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    energy_j: f64,
    /// How old the value may be.
    edge: Duration,
    doubts: u64,
    deviation: Deviation,
}

/// How far integration with every second sample is off from integration with all.
#[derive(Debug, Clone, Copy, Default)]
struct Deviation {
    sum_j: f64,
    squares_j2: f64,
}

#[derive(Debug)]
struct Account {
    domain: Domain,
    /// The last good reading.
    last: Option<(Duration, Raw)>,
    /// Since when a counter shows what it shows.
    since: Duration,
    /// The last reading before a doubt, until it is known whether that reading or the doubtful one was wrong.
    before_doubt: Option<(Duration, u64)>,
    /// Since the account was opened. Counts are summed as integers, so that nothing is rounded away.
    counts: u128,
    integral_j: f64,
    /// The sample before the last, and the energy between both.
    pair: Option<(Duration, Watts, f64)>,
    deviation: Deviation,
    doubts: u64,
    kept: VecDeque<(u64, String)>,
    /// Why the newest reading failed.
    failed: Option<String>,
}

impl Ledger {
    /// Opens an account for each domain; `slept` is the time this machine has slept so far.
    pub fn new(domains: &[Domain], slept: Duration) -> Ledger {
        let accounts = domains.iter().cloned().map(Account::new).collect();
        Ledger { accounts, slept }
    }

    /// Enters readings that were made at `now`. `slept` is the time this machine has slept by then.
    pub fn enter(&mut self, now: Duration, slept: Duration, readings: &[Reading]) {
        let sleep = slept.saturating_sub(self.slept);
        self.slept = slept;
        if sleep >= SLEEP_LEAST {
            for account in &mut self.accounts {
                account.doubt(format!("the machine slept for {:.1} s", sleep.as_secs_f64()));
                account.restart(None);
            }
        }
        for reading in readings {
            if let Some(account) = self.accounts.get_mut(reading.domain) {
                match (&reading.raw, reading.at) {
                    (Ok(raw), at) => account.enter(at.unwrap_or(now), *raw),
                    (Err(why), Some(_)) => account.doubt(why.clone()),
                    (Err(why), None) => account.failed = Some(why.clone()),
                }
            }
        }
    }

    /// Notes a doubt about one domain that only the reader of the source knows.
    pub fn doubt(&mut self, domain: usize, why: String) {
        if let Some(account) = self.accounts.get_mut(domain) {
            account.doubt(why);
        }
    }

    /// The state at `now`. `edges` says for each domain how old its value can be, where that is better
    /// known than its update period.
    pub fn mark(&self, now: Duration, edges: impl Fn(usize) -> Option<Duration>) -> LedgerMark {
        let position = |(i, account): (usize, &Account)| account.position(now, edges(i));
        LedgerMark { at: now, positions: self.accounts.iter().enumerate().map(position).collect() }
    }

    /// The energy of each domain between two marks of this ledger, or why there is none.
    ///
    /// The uncertainty is the sum of: one step of the instrument (for power: one step over the whole
    /// window); the mean power times the age that the value may have at both edges; for power, what
    /// sampling may have missed, estimated as the difference between integrating over all samples and over
    /// every second one: the larger of the whole difference and the root of the sum of its squares.
    pub fn between(&self, from: &LedgerMark, to: &LedgerMark) -> Vec<Result<Energy, String>> {
        let window = to.at.saturating_sub(from.at);
        self.accounts
            .iter()
            .enumerate()
            .map(|(i, account)| match (from.positions.get(i), to.positions.get(i)) {
                (Some(Ok(_)), Some(Ok(_))) if window.is_zero() => Err("the window has no length".to_owned()),
                (Some(Ok(a)), Some(Ok(b))) => account.between(a, b, window),
                (Some(Err(why)), _) | (_, Some(Err(why))) => Err(why.clone()),
                _ => Err("the window began with another energy meter".to_owned()),
            })
            .collect()
    }
}

impl Account {
    fn new(domain: Domain) -> Account {
        Account {
            domain,
            last: None,
            since: Duration::ZERO,
            before_doubt: None,
            counts: 0,
            integral_j: 0.0,
            pair: None,
            deviation: Deviation::default(),
            doubts: 0,
            kept: VecDeque::new(),
            failed: None,
        }
    }

    fn doubt(&mut self, why: String) {
        self.doubts += 1;
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((self.doubts, why));
    }

    /// Goes on from this reading as if it were the first.
    fn restart(&mut self, from: Option<(Duration, Raw)>) {
        self.last = from;
        self.pair = None;
        if let Some((at, _)) = from {
            self.since = at;
        }
    }

    fn enter(&mut self, at: Duration, raw: Raw) {
        self.failed = None;
        let entered = match (self.last, self.domain.quantity, raw) {
            (None, ..) => self.possible(raw).map(|()| {
                if self.fits_before_doubt(at, raw) {
                    self.before_doubt = None;
                }
                self.restart(Some((at, raw)));
            }),
            (Some((then, _)), ..) if at < then => {
                Err(format!("the time of its readings went back by {:.3} s", (then - at).as_secs_f64()))
            }
            (Some((then, Raw::Counts(before))), Quantity::Counter { .. }, Raw::Counts(after)) => {
                self.possible(raw).and_then(|()| self.advance(before, after, at - then)).map(|counts| {
                    self.counts += u128::from(counts);
                    self.last = Some((at, raw));
                    if counts > 0 {
                        self.moved(at, raw);
                    }
                })
            }
            (Some((then, Raw::Power(before))), Quantity::Power { .. }, Raw::Power(after)) => {
                self.possible(raw).and_then(|()| self.integrate(then, before, at, after))
            }
            _ => Err("it gives power and energy by turns".to_owned()),
        };
        if let Err(why) = entered {
            self.doubt(why);
            if let Some((then, Raw::Counts(before))) = self.last {
                self.before_doubt = Some((then, before));
            }
            let usable = self.possible(raw).is_ok();
            self.restart(usable.then_some((at, raw)));
        } else if let Raw::Counts(_) = raw
            && at.saturating_sub(self.since) > self.limit(FROZEN_PERIODS, FROZEN_LEAST)
        {
            let standing = at.saturating_sub(self.since).as_secs_f64();
            self.doubt(format!(
                "the counter did not change in {standing:.3} s, far longer than its update period: it is frozen"
            ));
        }
    }

    /// Notes that a counter has moved. If where it is now could be reached from before the last doubt as well
    /// as from the reading in doubt (it read 510, then 0, now 512), nobody knows which of the two was wrong. A
    /// second wrong value (510, 0, 1, 512) is taken for a reset that went on.
    fn moved(&mut self, at: Duration, raw: Raw) {
        self.since = at;
        if self.fits_before_doubt(at, raw) {
            self.doubt(
                "the counter may have gone on from before the last doubtful reading, or from that".to_owned(),
            );
        }
        self.before_doubt = None;
    }

    fn fits_before_doubt(&self, at: Duration, raw: Raw) -> bool {
        match (self.before_doubt, raw) {
            (Some((then, before)), Raw::Counts(after)) => {
                at.checked_sub(then).is_some_and(|interval| self.advance(before, after, interval).is_ok())
            }
            _ => false,
        }
    }

    fn limit(&self, periods: u32, least: Duration) -> Duration {
        self.domain.update_period.saturating_mul(periods).max(least)
    }

    /// The counts between two readings of a counter.
    fn advance(&self, before: u64, after: u64, interval: Duration) -> Result<u64, String> {
        let Quantity::Counter { unit, turn, .. } = self.domain.quantity else {
            return Err("it gives energy for power".to_owned());
        };
        let most = self.domain.kind.most();
        let seconds = interval.as_secs_f64();
        let longest = interval.saturating_add(self.domain.update_period).saturating_add(SLACK);
        let most_j = most.0 * longest.as_secs_f64() + unit.0;
        let counts = match (after.checked_sub(before), turn) {
            (Some(counts), _) => counts,
            (None, Some(turn)) => turn - before + after,
            (None, None) => {
                return Err(format!(
                    "the counter went back from {before} to {after}: it was reset or is broken"
                ));
            }
        };
        let energy_j = counts as f64 * unit.0;
        if energy_j > most_j {
            let how = if after < before { "back " } else { "" };
            return Err(format!(
                "the counter went {how}from {before} to {after} in {seconds:.3} s, more than {:.0} W: it was \
                 reset or is broken",
                most.0
            ));
        }
        if let Some(turn) = turn
            && energy_j + turn as f64 * unit.0 <= most_j
        {
            return Err(format!(
                "the counter (one turn is {:.0} J) was not read for {seconds:.0} s and may have turned over \
                 unseen",
                turn as f64 * unit.0
            ));
        }
        Ok(counts)
    }

    /// Adds the trapezoid between two samples of power.
    fn integrate(&mut self, then: Duration, before: Watts, at: Duration, after: Watts) -> Result<(), String> {
        let interval = at - then;
        if interval > self.limit(GAP_PERIODS, GAP_LEAST) {
            return Err(format!("the power was not read for {:.1} s", interval.as_secs_f64()));
        }
        let trapezoid = |a: Watts, b: Watts, over: Duration| (a.0 + b.0) / 2.0 * over.as_secs_f64();
        let energy_j = trapezoid(before, after, interval);
        self.integral_j += energy_j;
        self.pair = match self.pair {
            None => Some((then, before, energy_j)),
            Some((start, first, fine_j)) => {
                let off = fine_j + energy_j - trapezoid(first, after, at - start);
                self.deviation.sum_j += off;
                self.deviation.squares_j2 += off * off;
                None
            }
        };
        self.last = Some((at, Raw::Power(after)));
        Ok(())
    }

    fn position(&self, now: Duration, edge: Option<Duration>) -> Result<Position, String> {
        if let Some(why) = &self.failed {
            return Err(why.clone());
        }
        let Some((at, raw)) = self.last else {
            return Err(self.kept.back().map_or("nothing was read yet", |(_, why)| why).to_owned());
        };
        let age = now.saturating_sub(at);
        if age > self.limit(STALLED_PERIODS, STALLED_LEAST) {
            return Err(format!("there has been no reading for {:.1} s", age.as_secs_f64()));
        }
        let energy_j = match (raw, self.domain.quantity) {
            (Raw::Counts(_), Quantity::Counter { unit, .. }) => self.counts as f64 * unit.0,
            // The power at the last sample, held until now.
            (Raw::Power(power), _) => self.integral_j + power.0 * (now.as_secs_f64() - at.as_secs_f64()),
            (Raw::Counts(_), Quantity::Power { .. }) => return Err("it gives counts for power".to_owned()),
        };
        // A counter that has stood still for a while may have stopped: what it has missed is within its edge.
        let standing = match self.domain.quantity {
            Quantity::Counter { .. } => now.saturating_sub(self.since),
            Quantity::Power { .. } => age,
        };
        let edge = edge.unwrap_or(self.domain.update_period.max(standing)).max(age);
        Ok(Position { energy_j, edge, doubts: self.doubts, deviation: self.deviation })
    }

    fn between(&self, a: &Position, b: &Position, window: Duration) -> Result<Energy, String> {
        if b.doubts > a.doubts {
            // The first that lies within the window, else (its words are lost) the oldest that is kept.
            let why = self.kept.iter().find(|(number, _)| *number > a.doubts);
            return Err(why.map_or_else(|| "the readings were in doubt".to_owned(), |(_, why)| why.clone()));
        }
        let seconds = window.as_secs_f64();
        let energy_j = b.energy_j - a.energy_j;
        if energy_j <= 0.0 {
            return Err(match self.domain.quantity {
                Quantity::Counter { .. } => format!(
                    "the counter did not change in {:.3} ms: the window is shorter than its update period",
                    seconds * 1e3
                ),
                Quantity::Power { .. } => {
                    "the power reads 0 W: nothing is connected to the sensor".to_owned()
                }
            });
        }
        let edges_j = energy_j / seconds * (a.edge + b.edge).as_secs_f64();
        let (step_j, sampling_j) = match self.domain.quantity {
            Quantity::Counter { step, .. } => (step.0, 0.0),
            Quantity::Power { step } => {
                let sum = (b.deviation.sum_j - a.deviation.sum_j).abs();
                let squares = (b.deviation.squares_j2 - a.deviation.squares_j2).max(0.0);
                (step.0 * seconds, sum.max(squares.sqrt()))
            }
        };
        let uncertainty = Joules(step_j + edges_j + sampling_j);
        Ok(Energy { energy: Joules(energy_j), uncertainty })
    }

    /// Whether one reading by itself is possible.
    fn possible(&self, raw: Raw) -> Result<(), String> {
        let most = self.domain.kind.most();
        match (self.domain.quantity, raw) {
            (Quantity::Counter { turn: Some(0), .. }, _) => {
                Err("the range of the counter is zero, so it cannot be read".to_owned())
            }
            (Quantity::Counter { turn: Some(turn), .. }, Raw::Counts(counts)) if counts > turn => {
                Err(format!("the counter reads {counts} but its range is {turn}"))
            }
            (Quantity::Power { .. }, Raw::Power(power)) if !power.0.is_finite() || power.0 < 0.0 => {
                Err(format!("the power reads {} W", power.0))
            }
            (Quantity::Power { .. }, Raw::Power(power)) if power.0 > most.0 => {
                Err(format!("the power reads {} W, more than {:.0} W", power.0, most.0))
            }
            (Quantity::Counter { .. }, Raw::Counts(_)) | (Quantity::Power { .. }, Raw::Power(_)) => Ok(()),
            _ => Err("it gives power for energy, or energy for power".to_owned()),
        }
    }
}
