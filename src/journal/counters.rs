//! Counted events of a window, in groups: counts of one group belong together, so their ratios hold.

use serde::{Deserialize, Serialize};

use crate::figure::Figure;

/// A kind of event that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counter {
    /// Cycles of the cores on which the worker ran, in user space.
    Cycles,
    /// Instructions retired in user space.
    Instructions,
    /// What the kernel calls `cache-references`: of the last-level cache on Intel's CPUs, of the second
    /// level on AMD's since Zen.
    CacheReferences,
    /// What the kernel calls `cache-misses`, of the same cache.
    CacheMisses,
    /// Branches that were predicted wrongly.
    BranchMisses,
    /// Cycles in which no instruction could be fetched or decoded.
    StalledFrontend,
    /// Cycles in which an instruction waited for a result or for memory.
    StalledBackend,
    /// CPU time of all threads, nanoseconds.
    TaskClockNs,
    /// Page faults, minor and major.
    PageFaults,
    /// Switches of a CPU away from one of the threads.
    ContextSwitches,
    /// Moves of a thread to another CPU.
    Migrations,
    /// Bytes that the memory controllers read, for the whole machine.
    DramReadBytes,
    /// Bytes that they wrote.
    DramWrittenBytes,
}

impl Counter {
    /// All of them, in the order of `counters.csv`.
    pub const ALL: [Counter; 13] = [
        Counter::Cycles,
        Counter::Instructions,
        Counter::CacheReferences,
        Counter::CacheMisses,
        Counter::BranchMisses,
        Counter::StalledFrontend,
        Counter::StalledBackend,
        Counter::TaskClockNs,
        Counter::PageFaults,
        Counter::ContextSwitches,
        Counter::Migrations,
        Counter::DramReadBytes,
        Counter::DramWrittenBytes,
    ];
}

/// Events that were counted at the same time, or that are missing for the same reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CounterGroup {
    /// Which events.
    pub counters: Vec<Counter>,
    /// How many of each, in the same order. Where the group shared the CPU's counters with others, the
    /// counts are scaled to the whole window, and the provenance says so.
    pub counts: Figure<Vec<u64>>,
}

/// Counts of a window. A counter can be in several groups: each ratio is taken within one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CounterReading {
    /// The groups.
    pub groups: Vec<CounterGroup>,
}

impl CounterReading {
    /// How many events of a kind; of several groups that have it, the first.
    pub fn get(&self, counter: Counter) -> Figure<u64> {
        match self.together([counter]) {
            Some(figure) => figure.map(|[count]| count),
            None => Figure::unavailable("not counted"),
        }
    }

    /// `over` per `under`, of one group; unavailable if `under` is 0.
    pub fn ratio(&self, over: Counter, under: Counter) -> Figure<f64> {
        match self.together([over, under]) {
            Some(figure) if figure.value().is_some_and(|[_, under]| *under == 0) => {
                Figure::unavailable("a count of 0 divides nothing")
            }
            Some(figure) => figure.map(|[over, under]| over as f64 / under as f64),
            None => match (self.get(over), self.get(under)) {
                (Figure::Unavailable { why }, _) | (_, Figure::Unavailable { why }) => {
                    Figure::Unavailable { why }
                }
                _ => Figure::unavailable("not counted together"),
            },
        }
    }

    /// The counts of the first group that has all of `wanted`, in their order; of groups that are available
    /// rather than of others.
    fn together<const N: usize>(&self, wanted: [Counter; N]) -> Option<Figure<[u64; N]>> {
        let mut missing = None;
        for group in &self.groups {
            let places = wanted.map(|w| group.counters.iter().position(|c| *c == w));
            if places.contains(&None) {
                continue;
            }
            match group.counts.found() {
                Err(why) => {
                    missing.get_or_insert_with(|| Figure::unavailable(why));
                }
                // A file that someone has edited may have fewer counts than counters.
                Ok((value, _)) => {
                    let counts = places.map(|p| value.get(p?).copied());
                    if !counts.contains(&None) {
                        return Some(group.counts.clone().map(|_| counts.map(Option::unwrap_or_default)));
                    }
                }
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> CounterReading {
        let group = |counters: &[Counter], counts| CounterGroup { counters: counters.to_vec(), counts };
        CounterReading {
            groups: vec![
                group(&[Counter::Migrations], Figure::unavailable("forbidden")),
                group(
                    &[Counter::Cycles, Counter::Instructions, Counter::BranchMisses],
                    Figure::measured(vec![200, 500, 0], "perf"),
                ),
                group(
                    &[Counter::Cycles, Counter::StalledBackend],
                    Figure::measured(vec![100, 25], "perf, half the time"),
                ),
            ],
        }
    }

    #[test]
    fn ratios_are_of_one_group() {
        let reading = reading();
        assert_eq!(reading.ratio(Counter::Instructions, Counter::Cycles).value(), Some(&2.5));
        // Not 25 of the first group's 200 cycles.
        let stalled = reading.ratio(Counter::StalledBackend, Counter::Cycles);
        assert_eq!(stalled, Figure::measured(0.25, "perf, half the time"));
        assert_eq!(
            reading.ratio(Counter::StalledBackend, Counter::Instructions),
            Figure::unavailable("not counted together")
        );
        assert_eq!(reading.ratio(Counter::Cycles, Counter::BranchMisses).value(), None);
        assert_eq!(reading.ratio(Counter::Migrations, Counter::Cycles), Figure::unavailable("forbidden"));
        assert_eq!(reading.get(Counter::PageFaults), Figure::unavailable("not counted"));
        assert_eq!(reading.get(Counter::Cycles), Figure::measured(200, "perf"));
    }

    #[test]
    fn it_is_read_as_it_was_written_and_damage_is_no_panic() {
        let text = serde_json::to_string(&reading()).unwrap();
        assert_eq!(serde_json::from_str::<CounterReading>(&text).unwrap(), reading());
        let mut short = reading();
        short.groups[1].counts = Figure::measured(vec![1], "perf");
        assert_eq!(short.get(Counter::Instructions).value(), None);
    }
}
