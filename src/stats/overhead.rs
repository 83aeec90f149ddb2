//! What measuring costs: the same work with all instruments and without, in turns.

use super::{Spread, median_interval};
use crate::figure::Figure;
use crate::journal::{OverheadPair, Record};

/// The cost of the instruments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overhead {
    /// Threads that worked.
    pub threads: u32,
    /// How much longer the work took with instruments than without, percent, over all pairs.
    pub percent: Spread,
    /// The median of it lies in between with 95 % confidence; none for fewer than 6 pairs.
    pub interval_percent: Option<(f64, f64)>,
    /// What opening and closing a window took, before and after the timed work, nanoseconds.
    pub edges_ns: Spread,
}

impl Overhead {
    /// Summarises pairs of windows; none if no pair has a length.
    pub fn of(threads: u32, pairs: &[OverheadPair]) -> Option<Overhead> {
        let pairs = || pairs.iter().filter(|pair| pair.with_ns > 0 && pair.without_ns > 0);
        let percents = pairs().map(|pair| 100.0 * (pair.with_ns as f64 / pair.without_ns as f64 - 1.0));
        let mut percents: Vec<f64> = percents.collect();
        percents.sort_by(f64::total_cmp);
        Some(Overhead {
            threads,
            percent: Spread::of(percents.iter().copied())?,
            interval_percent: median_interval(&percents),
            edges_ns: Spread::of(pairs().map(|pair| pair.edges_ns as f64))?,
        })
    }

    /// Whether the pairs differ by more than the instruments cost: the interval of the median (the range,
    /// where there is none) contains zero.
    pub fn hidden_by_noise(&self) -> bool {
        let (low, high) = self.interval_percent.unwrap_or((self.percent.min, self.percent.max));
        (low..=high).contains(&0.0)
    }
}

/// The cost of a run's instruments, over the pairs of all its rounds.
pub(super) fn overhead(records: &[Record]) -> Figure<Overhead> {
    let mut pairs = Vec::new();
    let mut threads = 0;
    let mut why = "not measured (journal of an older version, or stopped before)";
    for record in records {
        match record {
            Record::Overhead(sample) => {
                threads = threads.max(sample.threads);
                pairs.extend_from_slice(&sample.pairs);
            }
            Record::Failure(failure) if failure.case == "overhead" => why = &failure.reason,
            _ => {}
        }
    }
    match Overhead::of(threads, &pairs) {
        Some(overhead) => Figure::measured(overhead, "monotonic clock"),
        None => Figure::unavailable(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(with_ns: u64, edges_ns: u64) -> OverheadPair {
        OverheadPair { with_ns, without_ns: 1000, edges_ns }
    }

    #[test]
    fn an_effect_is_told_from_noise() {
        let clear: Vec<OverheadPair> = (0..9).map(|i| pair(1010 + i, 50 + i)).collect();
        let overhead = Overhead::of(2, &clear).unwrap();
        assert!((overhead.percent.median - 1.4).abs() < 1e-9, "{overhead:?}");
        // Ranks 2 and 8 of 9.
        let (low, high) = overhead.interval_percent.unwrap();
        assert!((low - 1.1).abs() < 1e-9 && (high - 1.7).abs() < 1e-9, "{overhead:?}");
        assert_eq!(overhead.edges_ns.median, 54.0);
        assert!(!overhead.hidden_by_noise());
        let noisy: Vec<OverheadPair> = (0..9).map(|i| pair(980 + 10 * i, 50)).collect();
        assert!(Overhead::of(2, &noisy).unwrap().hidden_by_noise());
        let few = Overhead::of(2, &[pair(990, 1), pair(1020, 1)]).unwrap();
        assert!(few.interval_percent.is_none() && few.hidden_by_noise());
        assert_eq!(Overhead::of(2, &[OverheadPair { with_ns: 1, without_ns: 0, edges_ns: 1 }]), None);
    }
}
