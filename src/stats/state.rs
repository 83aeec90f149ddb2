//! Which samples were taken while the host was in a bad state, and why.
//!
//! A marked sample stays in the statistics: leaving it out would let the instrument choose its results.
//! It is counted, so that a reader knows what the figures went through.

use std::collections::HashMap;
use std::fmt;

use crate::figure::Figure;
use crate::journal::{Case, Phase, Record, Sample};
use crate::probe::state::HostState;
use crate::stats::Spread;

/// More of the CPUs' time stolen by the hypervisor than this is bad.
pub const MAX_STEAL_SHARE: f64 = 0.05;

/// More CPUs busy with others' work than this, or than [`MAX_OTHER_LOAD_SHARE`] of the case's threads if
/// that is more, is bad. Below it are the system's own services and the coarseness of the kernel's ticks.
pub const MAX_OTHER_LOAD_CPUS: f64 = 0.25;

/// See [`MAX_OTHER_LOAD_CPUS`].
pub const MAX_OTHER_LOAD_SHARE: f64 = 0.02;

/// A mean frequency so much below the median of its peers is bad.
pub const MAX_FREQUENCY_DROP: f64 = 0.1;

/// A larger share of the window with some task waiting for memory is bad.
pub const MAX_MEMORY_PRESSURE: f64 = 0.01;

/// What was wrong with the host while a sample was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BadState {
    /// The hypervisor took more than [`MAX_STEAL_SHARE`].
    Stolen,
    /// Others used more than [`MAX_OTHER_LOAD_CPUS`].
    OtherLoad,
    /// The CPU went above its thermal limit.
    Throttled,
    /// The frequency was [`MAX_FREQUENCY_DROP`] below the median of the run's samples of the same phase,
    /// instruction set and thread count: what else changes the frequency is the same for them.
    LowFrequency,
    /// Tasks waited for memory for more than [`MAX_MEMORY_PRESSURE`].
    MemoryPressure,
    /// The machine swapped.
    Swapping,
}

impl BadState {
    /// All, in the order in which they are told.
    pub const ALL: [BadState; 6] = [
        BadState::Stolen,
        BadState::OtherLoad,
        BadState::Throttled,
        BadState::LowFrequency,
        BadState::MemoryPressure,
        BadState::Swapping,
    ];

    /// The word in tables.
    pub fn name(self) -> &'static str {
        match self {
            BadState::Stolen => "stolen",
            BadState::OtherLoad => "other-load",
            BadState::Throttled => "throttled",
            BadState::LowFrequency => "low-frequency",
            BadState::MemoryPressure => "memory-pressure",
            BadState::Swapping => "swapping",
        }
    }
}

impl fmt::Display for BadState {
    /// What happened, to go on after "while".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadState::Stolen => "the hypervisor took CPU time",
            BadState::OtherLoad => "other processes used the CPUs",
            BadState::Throttled => "the CPU was too hot and throttled",
            BadState::LowFrequency => "the frequency was low",
            BadState::MemoryPressure => "tasks waited for memory",
            BadState::Swapping => "the machine swapped",
        })
    }
}

/// What is known of the host during one sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SampleState {
    /// Nothing was bad of what could be observed, and that includes the load of others.
    Ok,
    /// Everything that was bad, in the order of [`BadState::ALL`].
    Bad(Vec<BadState>),
    /// Nothing was seen to be bad, but the load of others could not be observed; why.
    Unknown(String),
}

impl fmt::Display for SampleState {
    /// The cell of a table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SampleState::Ok => f.write_str("ok"),
            SampleState::Bad(reasons) => {
                f.write_str(&reasons.iter().map(|r| r.name()).collect::<Vec<_>>().join(";"))
            }
            SampleState::Unknown(why) => write!(f, "unknown: {why}"),
        }
    }
}

/// What the frequency of a sample is compared among: cases that a CPU may run at the same frequency.
type Peers<'a> = (Phase, &'a str, u32);

/// Judges samples against the run that they are from.
pub struct StateJudge<'a> {
    cases: HashMap<&'a str, &'a Case>,
    median_mhz: HashMap<Peers<'a>, f64>,
}

impl<'a> StateJudge<'a> {
    /// Learns the run's frequencies. Records of cases that are not among `cases` are passed over.
    pub fn new(cases: &'a [Case], records: &[Record]) -> StateJudge<'a> {
        let mut judge = StateJudge {
            cases: cases.iter().map(|case| (case.id.as_str(), case)).collect(),
            median_mhz: HashMap::new(),
        };
        let mut frequencies: HashMap<Peers, Vec<f64>> = HashMap::new();
        for record in records {
            if let Record::Sample(sample) = record
                && let Some(peers) = judge.peers(sample)
                && let Some(mhz) = sample.state.as_deref().and_then(mean_mhz)
            {
                frequencies.entry(peers).or_default().push(mhz);
            }
        }
        judge.median_mhz =
            frequencies.into_iter().filter_map(|(k, mhz)| Some((k, Spread::of(mhz)?.median))).collect();
        judge
    }

    fn peers(&self, sample: &Sample) -> Option<Peers<'a>> {
        let case = self.cases.get(sample.case.as_str())?;
        Some((sample.phase(), case.isa.as_str(), case.threads))
    }

    /// The state in which `sample` was taken; none if the journal does not have it.
    pub fn of(&self, sample: &Sample) -> Option<SampleState> {
        let state = sample.state.as_deref()?;
        let threads = self.cases.get(sample.case.as_str())?.threads;
        let median_mhz = self.peers(sample).and_then(|peers| self.median_mhz.get(&peers)).copied();
        let bad: Vec<BadState> =
            BadState::ALL.into_iter().filter(|bad| is(*bad, state, threads, median_mhz)).collect();
        Some(match (bad.is_empty(), &state.other_load_cpus) {
            (false, _) => SampleState::Bad(bad),
            (true, Figure::Unavailable { why }) => SampleState::Unknown(why.clone()),
            (true, _) => SampleState::Ok,
        })
    }
}

fn mean_mhz(state: &HostState) -> Option<f64> {
    state.frequency.value().map(|f| f.mean_mhz).filter(|mhz| mhz.is_finite())
}

/// Whether `state` is bad in one way. What could not be observed is not held against a sample.
fn is(bad: BadState, state: &HostState, threads: u32, median_mhz: Option<f64>) -> bool {
    let above = |value: Option<&f64>, most: f64| value.is_some_and(|&value| value > most);
    match bad {
        BadState::Stolen => above(state.steal_share.value(), MAX_STEAL_SHARE),
        BadState::OtherLoad => above(state.other_load_cpus.value(), max_other_load_cpus(threads)),
        BadState::Throttled => state.throttle_events.value().is_some_and(|&events| events > 0),
        BadState::LowFrequency => match (mean_mhz(state), median_mhz) {
            (Some(mhz), Some(median)) => mhz < median * (1.0 - MAX_FREQUENCY_DROP),
            _ => false,
        },
        BadState::MemoryPressure => above(state.memory_pressure_share.value(), MAX_MEMORY_PRESSURE),
        BadState::Swapping => state.swap.value().is_some_and(|s| s.read.0 > 0 || s.written.0 > 0),
    }
}

/// The most CPUs that others may use beside `threads` threads.
pub fn max_other_load_cpus(threads: u32) -> f64 {
    MAX_OTHER_LOAD_CPUS.max(MAX_OTHER_LOAD_SHARE * f64::from(threads))
}

/// How many samples of a run were taken in which state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// Samples whose state the journal has.
    pub observed: usize,
    /// Of them, those taken in a bad state.
    pub bad: usize,
    /// Of them, those for which the load of others is not known.
    pub unknown: usize,
    /// Why the first of the unknown ones is.
    pub why_unknown: Option<String>,
    /// How many were taken in each bad state, those that occurred; a sample counts in each of its states.
    pub reasons: Vec<(BadState, usize)>,
}

impl StateCounts {
    /// Counts the samples of a run.
    pub fn of(cases: &[Case], records: &[Record]) -> StateCounts {
        let judge = StateJudge::new(cases, records);
        let mut counts = StateCounts::default();
        let mut reasons: HashMap<BadState, usize> = HashMap::new();
        for record in records {
            let Record::Sample(sample) = record else { continue };
            match judge.of(sample) {
                None => continue,
                Some(SampleState::Ok) => {}
                Some(SampleState::Bad(bad)) => {
                    counts.bad += 1;
                    bad.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
                }
                Some(SampleState::Unknown(why)) => {
                    counts.unknown += 1;
                    counts.why_unknown.get_or_insert(why);
                }
            }
            counts.observed += 1;
        }
        counts.reasons =
            BadState::ALL.into_iter().filter_map(|bad| Some((bad, *reasons.get(&bad)?))).collect();
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::state::{Frequency, Swap};
    use crate::units::Bytes;

    fn good() -> HostState {
        HostState {
            frequency: Figure::measured(Frequency { mean_mhz: 3000.0, min_mhz: 2900.0, readings: 3 }, "x"),
            temperature_max_c: Figure::measured(60.0, "x"),
            throttle_events: Figure::measured(0, "x"),
            steal_share: Figure::measured(0.05, "x"),
            other_load_cpus: Figure::measured(0.25, "x"),
            memory_pressure_share: Figure::measured(0.01, "x"),
            swap: Figure::measured(Swap { read: Bytes(0), written: Bytes(0) }, "x"),
        }
    }

    fn reasons(state: &HostState, threads: u32) -> Vec<BadState> {
        BadState::ALL.into_iter().filter(|bad| is(*bad, state, threads, Some(3000.0))).collect()
    }

    #[test]
    fn each_threshold_marks_beyond_and_not_at_it() {
        assert!(reasons(&good(), 2).is_empty());
        let low = |mhz| Figure::measured(Frequency { mean_mhz: mhz, min_mhz: 1.0, readings: 1 }, "x");
        let swap = |read, written| Figure::measured(Swap { read: Bytes(read), written: Bytes(written) }, "x");
        let m = |value| Figure::measured(value, "x");
        for (bad, state) in [
            (BadState::Stolen, HostState { steal_share: m(0.051), ..good() }),
            (BadState::OtherLoad, HostState { other_load_cpus: m(0.26), ..good() }),
            (BadState::Throttled, HostState { throttle_events: Figure::measured(1, "x"), ..good() }),
            (BadState::LowFrequency, HostState { frequency: low(2699.0), ..good() }),
            (BadState::MemoryPressure, HostState { memory_pressure_share: m(0.011), ..good() }),
            (BadState::Swapping, HostState { swap: swap(4096, 0), ..good() }),
            (BadState::Swapping, HostState { swap: swap(0, 4096), ..good() }),
        ] {
            assert_eq!(reasons(&state, 2), [bad]);
        }
        assert!(reasons(&HostState { frequency: low(2701.0), ..good() }, 2).is_empty());
        // On many threads the ticks of all of them add up.
        assert!(reasons(&HostState { other_load_cpus: m(1.2), ..good() }, 64).is_empty());
        assert_eq!(reasons(&HostState { other_load_cpus: m(1.3), ..good() }, 64), [BadState::OtherLoad]);
        let both = HostState { other_load_cpus: m(1.0), steal_share: m(0.5), ..good() };
        assert_eq!(reasons(&both, 2), [BadState::Stolen, BadState::OtherLoad]);
    }

    #[test]
    fn what_is_not_observed_is_not_bad() {
        let none = HostState {
            frequency: Figure::unavailable("no"),
            temperature_max_c: Figure::unavailable("no"),
            throttle_events: Figure::unavailable("no"),
            steal_share: Figure::unavailable("no"),
            other_load_cpus: Figure::unavailable("no"),
            memory_pressure_share: Figure::unavailable("no"),
            swap: Figure::unavailable("no"),
        };
        assert!(reasons(&none, 2).is_empty());
    }
}
