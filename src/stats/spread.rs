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

/// An interval that contains the median of what `sorted` (ascending) was drawn from in at least 95 of 100
/// cases, whatever its distribution: the k-th smallest and k-th largest value, with the largest k of which
/// that is true. `None` for fewer than 6 values, whose whole range does not reach that far.
///
/// Source: H. A. David, H. N. Nagaraja, Order Statistics, 3rd edition (2003), section 7.1.
pub fn median_interval(sorted: &[f64]) -> Option<(f64, f64)> {
    let n = sorted.len();
    // Fewer than k of n values below the median, as often as k tosses of n show heads.
    let mut ln_chance = -(n as f64) * std::f64::consts::LN_2;
    let (mut k, mut below) = (0, 0.0);
    loop {
        below += ln_chance.exp();
        if below > 0.025 || k >= n {
            break;
        }
        ln_chance += ((n - k) as f64 / (k + 1) as f64).ln();
        k += 1;
    }
    (k > 0).then(|| (sorted[k - 1], sorted[n - k]))
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
    fn intervals_of_the_median_are_those_of_the_tables() {
        let values: Vec<f64> = (1..=2000).map(f64::from).collect();
        // Ranks for 95 % of the sign test's tables.
        for (n, ranks) in [
            (6, Some((1.0, 6.0))),
            (8, Some((1.0, 8.0))),
            (9, Some((2.0, 8.0))),
            (15, Some((4.0, 12.0))),
            (30, Some((10.0, 21.0))),
            (100, Some((40.0, 61.0))),
            (5, None),
            (0, None),
        ] {
            assert_eq!(median_interval(&values[..n]), ranks, "{n}");
        }
        // 1000 - 1.96 x sqrt(2000) / 2, where no power of two would do.
        assert_eq!(median_interval(&values), Some((956.0, 1045.0)));
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
