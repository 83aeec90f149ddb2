//! The value axis of a figure: linear from zero, or decades where values span more than two.

use super::super::text::round_significant;

/// Values whose ratio exceeds this are drawn over decades: on a linear axis the smallest would not
/// be seen.
const LOG_RATIO: f64 = 100.0;

/// A scale from 0 (left) to 1 (right).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Axis {
    Linear {
        top: f64,
    },
    /// From 10 to the power `low` to `top`.
    Log {
        low: i32,
        top: f64,
    },
}

impl Axis {
    /// The axis that shows all `values` (the positive ones count; none at all gives 0 to 1).
    /// `reference` is the value that bars start from on a log axis, such as 1 for ratios.
    pub(super) fn fit(values: &[f64], may_be_log: bool, reference: Option<f64>) -> Axis {
        let positive = || values.iter().copied().filter(|v| v.is_finite() && *v > 0.0).chain(reference);
        let top = positive().fold(0.0, f64::max);
        let bottom = positive().fold(f64::INFINITY, f64::min);
        if top <= 0.0 {
            return Axis::Linear { top: 1.0 };
        }
        if !may_be_log || top / bottom <= LOG_RATIO {
            return Axis::Linear { top };
        }
        let low = bottom.log10().floor() as i32;
        // A value on the edge would be a bar of no length, unless bars start at that very value.
        let on_edge = reference.is_none() && bottom < 10f64.powi(low) * 1.2;
        Axis::Log { low: if on_edge { low - 1 } else { low }, top }
    }

    pub(super) fn is_log(self) -> bool {
        matches!(self, Axis::Log { .. })
    }

    /// Where `value` lies; what is outside is drawn at the edge.
    pub(super) fn at(self, value: f64) -> f64 {
        let position = match self {
            Axis::Linear { top } => value / top,
            Axis::Log { low, top } => {
                (value.max(f64::MIN_POSITIVE).log10() - f64::from(low)) / (top.log10() - f64::from(low))
            }
        };
        position.clamp(0.0, 1.0)
    }

    /// Round values for `room` labels at most (at least 2), ascending, with their labels.
    pub(super) fn ticks(self, room: usize) -> Vec<(f64, String)> {
        let room = room.max(2);
        match self {
            Axis::Linear { top } => {
                let raw = top / (room - 1) as f64;
                let power = 10f64.powf(raw.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999);
                let step = step.unwrap_or(top);
                let decimals = (-step.log10().floor()).clamp(0.0, 300.0) as usize;
                (0..room)
                    .map(|i| i as f64 * step)
                    .take_while(|v| *v <= top * 1.000_001)
                    .map(|v| {
                        let plain = format!("{v:.decimals$}");
                        (v, if plain.len() <= 7 { plain } else { round_significant(v, 2) })
                    })
                    .collect()
            }
            Axis::Log { low, top } => {
                let high = top.log10().floor() as i32;
                let every = ((high - low) as usize + 1).div_ceil(room).max(1);
                (low..=high).step_by(every).map(|e| (10f64.powi(e), decade(e))).collect()
            }
        }
    }

    /// Unlabelled positions between the decades of a log axis that has few of them.
    pub(super) fn minor_ticks(self) -> Vec<f64> {
        match self {
            Axis::Log { low, top } if top.log10() - f64::from(low) <= 6.0 => (low..=top.log10() as i32)
                .flat_map(|e| (2..10).map(move |m| f64::from(m) * 10f64.powi(e)))
                .filter(|v| *v <= top)
                .collect(),
            Axis::Log { .. } | Axis::Linear { .. } => Vec::new(),
        }
    }
}

/// 10 to the power `exponent` as a label.
fn decade(exponent: i32) -> String {
    match exponent {
        0..=4 => format!("{}", 10u32.pow(exponent as u32)),
        -3..0 => format!("{:.*}", exponent.unsigned_abs() as usize, 10f64.powi(exponent)),
        _ => format!("1e{exponent}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis, room: usize) -> Vec<String> {
        axis.ticks(room).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn linear_axes_start_at_zero_and_have_round_ticks() {
        let axis = Axis::fit(&[40.0, 128.0], true, None);
        assert_eq!(axis, Axis::Linear { top: 128.0 });
        assert_eq!(labels(axis, 6), ["0", "50", "100"]);
        assert_eq!(labels(Axis::Linear { top: 0.03 }, 6), ["0.00", "0.01", "0.02", "0.03"]);
        assert_eq!(labels(Axis::Linear { top: 3e9 }, 4), ["0", "1.0e9", "2.0e9", "3.0e9"]);
        assert_eq!(axis.at(64.0), 0.5);
        assert_eq!(axis.at(1e9), 1.0);
    }

    #[test]
    fn more_than_two_decades_are_logarithmic() {
        let axis = Axis::fit(&[0.3, 31.0, 280.0], true, None);
        assert_eq!(axis, Axis::Log { low: -1, top: 280.0 });
        assert_eq!(labels(axis, 10), ["0.1", "1", "10", "100"]);
        assert_eq!(labels(axis, 2), ["0.1", "10"]);
        assert_eq!(axis.at(280.0), 1.0);
        assert!((Axis::Log { low: -1, top: 1000.0 }.at(10.0) - 0.5).abs() < 1e-12);
        // A bar never has no length.
        assert_eq!(Axis::fit(&[1.0, 1000.0], true, None), Axis::Log { low: -1, top: 1000.0 });
        // Ratios start at 1 whatever they are.
        assert_eq!(Axis::fit(&[3.0, 300.0], true, Some(1.0)), Axis::Log { low: 0, top: 300.0 });
        assert_eq!(Axis::fit(&[1e-9, 1.0], false, None), Axis::Linear { top: 1.0 });
    }

    #[test]
    fn no_values_and_extreme_values_are_drawable() {
        assert_eq!(Axis::fit(&[], true, None), Axis::Linear { top: 1.0 });
        assert_eq!(Axis::fit(&[0.0, f64::NAN, f64::INFINITY], true, None), Axis::Linear { top: 1.0 });
        for axis in [Axis::fit(&[1e-300, 1e300], true, None), Axis::fit(&[1e-300], true, None)] {
            let ticks = axis.ticks(6);
            assert!((2..=6).contains(&ticks.len()), "{ticks:?}");
            assert!(ticks.iter().all(|(v, _)| (0.0..=1.0).contains(&axis.at(*v))));
        }
    }
}
