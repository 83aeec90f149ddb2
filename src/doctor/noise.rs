//! What the self-test's slices say: how far they spread, and what difference that lets one see.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::probe::noise::Slices;
use crate::stats::Spread;

/// Rounds of the run for which [`Noise::visible_difference_percent`] is given: those of suites/speed.toml.
pub const ROUNDS: u32 = 5;

/// Windows of a run are mostly longer than a slice: noise that is gone within this time does not matter to
/// them, and slices are averaged over it before their spread is taken for that of windows.
const WINDOW: Duration = Duration::from_millis(500);

/// Fewest windows that have a spread. A self-test too short for them is judged by its slices.
const MIN_WINDOWS: usize = 4;

/// The noise of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Threads that worked.
    pub threads: u32,
    /// Sum of the slices, seconds.
    pub seconds: f64,
    /// Of slices of arithmetic.
    pub compute: Dispersion,
    /// Of slices of reading memory.
    pub memory: Dispersion,
    /// Rounds that the difference below is for: [`ROUNDS`].
    pub rounds: u32,
    /// The smallest difference of two kernels' speeds that a run can tell from this noise, percent; see
    /// [`visible_difference`]. The noisier of the two kinds of slices counts.
    pub visible_difference_percent: f64,
}

/// How far repetitions of the same work are spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dispersion {
    /// Slices.
    pub slices: usize,
    /// Median length, milliseconds.
    pub median_ms: f64,
    /// Median absolute deviation of the slices from their median, percent of the median.
    pub mad_percent: f64,
    /// The same of the means of slices that follow each other for half a second.
    pub window_mad_percent: f64,
    /// Longest ÷ shortest.
    pub worst_over_best: f64,
}

impl Dispersion {
    /// Of some lengths; none if there are none, or one is zero.
    pub fn of(slices: &[Duration]) -> Option<Dispersion> {
        let spread = Spread::of(slices.iter().map(Duration::as_secs_f64))?;
        let windows = windows(slices);
        let window_mad_percent =
            if windows.len() >= MIN_WINDOWS { mad_percent(&windows)? } else { mad_percent(slices)? };
        (spread.min > 0.0).then_some(Dispersion {
            slices: slices.len(),
            median_ms: spread.median * 1e3,
            mad_percent: mad_percent(slices)?,
            window_mad_percent,
            worst_over_best: spread.max / spread.min,
        })
    }
}

/// Median absolute deviation from the median, percent of the median; none without lengths, or of zeros.
fn mad_percent(lengths: &[Duration]) -> Option<f64> {
    let seconds = || lengths.iter().map(Duration::as_secs_f64);
    let median = Spread::of(seconds())?.median;
    let deviation = Spread::of(seconds().map(|s| (s - median).abs()))?.median;
    (median > 0.0).then_some(100.0 * deviation / median)
}

/// Means of consecutive slices that together last [`WINDOW`]; what is left at the end is no window.
fn windows(slices: &[Duration]) -> Vec<Duration> {
    let (mut windows, mut sum, mut n) = (Vec::new(), Duration::ZERO, 0);
    for slice in slices {
        sum += *slice;
        n += 1;
        if sum >= WINDOW {
            windows.push(sum / n);
            (sum, n) = (Duration::ZERO, 0);
        }
    }
    windows
}

impl Noise {
    /// From the slices of a self-test; none if they are no measurement.
    pub fn of(slices: &Slices) -> Option<Noise> {
        let (compute, memory) = (Dispersion::of(&slices.compute)?, Dispersion::of(&slices.memory)?);
        let noisier = compute.window_mad_percent.max(memory.window_mad_percent);
        Some(Noise {
            threads: slices.threads,
            seconds: slices.compute.iter().chain(&slices.memory).map(Duration::as_secs_f64).sum(),
            compute,
            memory,
            rounds: ROUNDS,
            visible_difference_percent: visible_difference(noisier, ROUNDS),
        })
    }

    /// The larger ratio of longest to shortest slice.
    pub fn worst_over_best(&self) -> f64 {
        self.compute.worst_over_best.max(self.memory.worst_over_best)
    }
}

/// The smallest difference that the median of `rounds` ratios can tell from noise, in the unit of `mad`.
///
/// 1.4826 × MAD is the standard deviation of one window (of a normal distribution); a ratio of two has √2
/// of it; the median of n has √(π ÷ 2n) of that; and two standard errors leave one chance in twenty.
pub fn visible_difference(mad: f64, rounds: u32) -> f64 {
    const MAD_TO_DEVIATION: f64 = 1.4826;
    let median_of_ratios = (std::f64::consts::PI / f64::from(rounds.max(1))).sqrt();
    2.0 * MAD_TO_DEVIATION * median_of_ratios * mad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(ms: &[u64]) -> Vec<Duration> {
        ms.iter().map(|&ms| Duration::from_millis(ms)).collect()
    }

    #[test]
    fn dispersion_by_hand() {
        // Deviations 10, 0, 10, 20, 100: their median is 10.
        let d = Dispersion::of(&slices(&[90, 100, 110, 80, 200])).unwrap();
        assert_eq!((d.slices, d.median_ms, d.worst_over_best), (5, 100.0, 2.5));
        assert!((d.mad_percent - 10.0).abs() < 1e-9);
        // Too short for windows.
        assert_eq!(d.window_mad_percent, d.mad_percent);
        assert_eq!((Dispersion::of(&[]), Dispersion::of(&slices(&[0, 1]))), (None, None));
    }

    #[test]
    fn fast_noise_is_gone_in_a_window_and_slow_noise_is_not() {
        let fast = Dispersion::of(&slices(&[40, 60].repeat(100))).unwrap();
        assert!((fast.mad_percent - 20.0).abs() < 1e-9 && fast.window_mad_percent < 1e-9, "{fast:?}");
        let slow = Dispersion::of(&slices(&[vec![40; 130], vec![60; 90]].concat())).unwrap();
        assert!(slow.window_mad_percent > 15.0, "{slow:?}");
        // 49 slices of 10 ms are no window.
        assert_eq!(windows(&slices(&[10; 49])).len(), 0);
        assert_eq!(windows(&slices(&[10; 120])), slices(&[10, 10]));
    }

    #[test]
    fn the_noisier_kind_of_work_decides() {
        let quiet = slices(&[100, 100, 100]);
        let of = |compute: &[Duration], memory: &[Duration]| {
            Noise::of(&Slices { threads: 2, compute: compute.to_vec(), memory: memory.to_vec() }).unwrap()
        };
        assert_eq!(of(&quiet, &quiet).visible_difference_percent, 0.0);
        let noisy = slices(&[90, 100, 110]);
        // 2 × 1.4826 × √(π ÷ 5) × 10 %
        for noise in [of(&quiet, &noisy), of(&noisy, &quiet)] {
            assert!((noise.visible_difference_percent - 23.504).abs() < 1e-2);
            assert!((noise.worst_over_best() - 110.0 / 90.0).abs() < 1e-9);
        }
        assert!((visible_difference(1.0, 20) * 2.0 - visible_difference(1.0, 5)).abs() < 1e-12);
    }
}
