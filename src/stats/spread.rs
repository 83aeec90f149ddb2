//! The few statistics that the tables use, so that each is defined in exactly one place.

/// Median, smallest and largest of a figure over the rounds that have it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Median; of an even number of values the mean of the two in the middle.
    pub median: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// How many rounds it summarises.
    pub rounds: usize,
}

impl Spread {
    /// Summarises `values`, which must be finite; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { sorted[middle - 1].midpoint(sorted[middle]) };
        Some(Spread { median, min, max, rounds: sorted.len() })
    }
}

/// Percentile by nearest rank: the smallest value that at least `percent` % of all values do not
/// exceed. It is always a value that was measured. `sorted` ascends; `None` if it is empty.
pub fn percentile(sorted: &[u64], percent: u32) -> Option<u64> {
    let rank = (sorted.len() as u128 * u128::from(percent)).div_ceil(100).max(1);
    sorted.get(usize::try_from(rank).ok()? - 1).copied()
}

/// `count` things in `wall_ns` nanoseconds, as a rate per second; `None` where nothing was done or
/// no time passed, because neither says anything about speed.
pub fn per_second(count: usize, wall_ns: u64) -> Option<f64> {
    (count > 0 && wall_ns > 0).then(|| count as f64 * 1e9 / wall_ns as f64)
}

/// Nanoseconds as milliseconds.
pub fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_one_and_none() {
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max, odd.rounds), (2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 8.0]).unwrap().median, 3.0);
        assert_eq!(Spread::of([7.0]).unwrap(), Spread { median: 7.0, min: 7.0, max: 7.0, rounds: 1 });
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::MAX, f64::MAX]).unwrap().median, f64::MAX);
    }

    #[test]
    fn nearest_rank_percentiles() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50), Some(50));
        assert_eq!(percentile(&hundred, 99), Some(99));
        assert_eq!(percentile(&hundred, 100), Some(100));
        // The textbook example of the method.
        let five = [15, 20, 35, 40, 50];
        assert_eq!(percentile(&five, 5), Some(15));
        assert_eq!(percentile(&five, 30), Some(20));
        assert_eq!(percentile(&five, 40), Some(20));
        assert_eq!(percentile(&five, 50), Some(35));
        assert_eq!(percentile(&[9], 0), Some(9));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_rate_needs_work_and_time() {
        assert_eq!(per_second(31, 500_000_000), Some(62.0));
        assert_eq!(per_second(31, 0), None);
        assert_eq!(per_second(0, 5), None);
        assert!(per_second(usize::MAX, 1).unwrap().is_finite());
    }
}
