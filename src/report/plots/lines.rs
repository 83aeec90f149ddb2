//! Points over two axes, joined to lines: the layout of figures that show a trend.
//!
//! No point carries a label, so none can hide another: colour and shape are those of the legend, the
//! values are in the notes and in the table behind the figure.

use plotters::style::RGBColor;

use super::super::text::round_significant;
use super::axis::Axis;
use super::chart::{FAINT, GRID, INK, MARGIN, PANEL_GAP, PANEL_SIZE, SOFT, TEXT_SIZE, WIDTH, heading};
use super::scene::{Anchor, Scene, elide, text_width};
use crate::error::Result;

const PLOT_HEIGHT: f64 = 250.0;
const RADIUS: f64 = 5.0;
/// No label of a position on the x axis is wider.
const LABEL_MAX: f64 = 120.0;
const LABEL_ROW: f64 = 16.0;
const WHITE: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// A figure before it is laid out.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) title: String,
    pub(super) subtitle: String,
    /// Quantities and units of the axes, and whether they are logarithmic.
    pub(super) x: (&'static str, bool),
    pub(super) y: (&'static str, bool),
    /// A range of y with its name, in two short lines.
    pub(super) band: Option<(f64, f64, [&'static str; 2])>,
    pub(super) panels: Vec<Panel>,
    /// What to say where there is no panel.
    pub(super) empty: &'static str,
}

#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) series: Vec<Series>,
    /// Values of x that are marked by name.
    pub(super) names: Vec<(f64, String)>,
    /// Said below the panel.
    pub(super) remark: String,
}

#[derive(Debug)]
pub(super) struct Series {
    /// Series of the same label are one entry of the legend, with the look of the first.
    pub(super) label: String,
    pub(super) color: RGBColor,
    pub(super) look: Look,
    pub(super) points: Vec<Point>,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Points of the shape with this number, joined.
    Measured(usize),
    /// A dashed line: a bound, not a case.
    Bound,
}

#[derive(Debug)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Smallest and largest y.
    pub(super) spread: Option<(f64, f64)>,
    /// Drawn white inside: not a measurement.
    pub(super) hollow: bool,
    pub(super) note: String,
}

impl Lines {
    /// Places everything.
    pub(super) fn lay_out(&self) -> Result<Scene> {
        let width = f64::from(WIDTH);
        let mut scene = Scene::new(WIDTH);
        let mut y = heading(&mut scene, &self.title, &self.subtitle)?;
        y = self.legend(&mut scene, y)?;
        if self.panels.is_empty() {
            y += 40.0;
            scene.text((MARGIN, y), Anchor::Start, TEXT_SIZE, SOFT, self.empty);
            scene.set_height(y + 40.0);
            return Ok(scene);
        }
        for (index, panel) in self.panels.iter().enumerate() {
            y += if index == 0 { 12.0 } else { PANEL_GAP } + PANEL_SIZE / 2.0;
            let title = elide(&panel.title, PANEL_SIZE, width - 2.0 * MARGIN)?;
            scene.text((MARGIN, y), Anchor::Start, PANEL_SIZE, INK, &title);
            y += PANEL_SIZE / 2.0 + 4.0;
            scene.line((MARGIN, y), (width - MARGIN, y), SOFT, 1);
            y = self.panel(&mut scene, panel, y + 14.0)?;
        }
        scene.set_height(y + MARGIN);
        Ok(scene)
    }

    /// Draws the legend below `y`; returns where it ends.
    fn legend(&self, scene: &mut Scene, mut y: f64) -> Result<f64> {
        let mut seen: Vec<&str> = Vec::new();
        let mut x = MARGIN;
        for series in self.panels.iter().flat_map(|p| &p.series) {
            if seen.contains(&series.label.as_str()) {
                continue;
            }
            if seen.is_empty() {
                y += 14.0;
            }
            seen.push(&series.label);
            let room = f64::from(WIDTH) - 2.0 * MARGIN - 36.0;
            let label = elide(&series.label, TEXT_SIZE, room)?;
            let end = x + 36.0 + text_width(&label, TEXT_SIZE)?;
            if end > f64::from(WIDTH) - MARGIN && x > MARGIN {
                (x, y) = (MARGIN, y + 18.0);
            }
            join(scene, series, &[(x, y), (x + 28.0, y)]);
            if let Look::Measured(shape) = series.look {
                marker(scene, shape, (x + 14.0, y), series.color);
            }
            scene.text((x + 36.0, y), Anchor::Start, TEXT_SIZE, INK, &label);
            x += 36.0 + text_width(&label, TEXT_SIZE)? + 20.0;
        }
        Ok(if seen.is_empty() { y } else { y + 8.0 })
    }

    /// Draws one panel from `top` down; returns where it ends.
    fn panel(&self, scene: &mut Scene, panel: &Panel, top: f64) -> Result<f64> {
        let points = || panel.series.iter().flat_map(|s| &s.points);
        let band = self.band.iter().flat_map(|(low, high, _)| [*low, *high]);
        let ys: Vec<f64> = points()
            .flat_map(|p| [Some(p.y), p.spread.map(|s| s.0), p.spread.map(|s| s.1)])
            .flatten()
            .chain(band)
            .collect();
        let xs: Vec<f64> = points().map(|p| p.x).collect();
        let (x_scale, y_scale) = (Scale::fit(&xs, self.x.1), Scale::fit(&ys, self.y.1));
        let bottom = top + PLOT_HEIGHT;
        let y_ticks = y_scale.ticks(7);
        let mut widest: f64 = 24.0;
        for (_, label) in &y_ticks {
            widest = widest.max(text_width(label, TEXT_SIZE)?);
        }
        let left = MARGIN + widest + 10.0;
        let right = f64::from(WIDTH) - MARGIN - if self.band.is_some() { 116.0 } else { 12.0 };
        let x_of = |v: f64| left + x_scale.at(v) * (right - left);
        let y_of = |v: f64| bottom - y_scale.at(v) * (bottom - top);

        if let Some((low, high, name)) = &self.band {
            scene.rect((left, y_of(*high)), (right, y_of(*low)), Some(FAINT), None);
            let middle = y_of(*low).midpoint(y_of(*high));
            // Beside the plot, where no point can be.
            for (line, offset) in name.iter().zip([-8.0, 8.0]) {
                scene.text((right + 8.0, middle + offset), Anchor::Start, TEXT_SIZE, SOFT, line);
            }
        }
        for (value, label) in &y_ticks {
            let at = y_of(*value);
            scene.line((left - 4.0, at), (right, at), GRID, 1);
            let x = left - 8.0 - text_width(label, TEXT_SIZE)? / 2.0;
            scene.text((x, at), Anchor::Middle, TEXT_SIZE, SOFT, label);
        }
        let mut y = bottom + 13.0;
        let mut free = f64::NEG_INFINITY;
        // What is counted from zero comes in whole numbers.
        let whole = |v: &f64| self.x.1 || v.fract() == 0.0;
        for (value, label) in x_scale.ticks(9).into_iter().filter(|(v, _)| whole(v)) {
            let label = if self.x.1 { label } else { value.to_string() };
            let (at, half) = (x_of(value), text_width(&label, TEXT_SIZE)? / 2.0);
            scene.line((at, top), (at, bottom + 4.0), GRID, 1);
            if at - half > free {
                scene.text((at, y), Anchor::Middle, TEXT_SIZE, SOFT, &label);
                free = at + half + 10.0;
            }
        }
        scene.line((left, top), (left, bottom), SOFT, 1);
        scene.line((left, bottom), (right, bottom), SOFT, 1);
        y += names(scene, &panel.names, &x_of, (MARGIN, right), y + LABEL_ROW)?;
        // Series that share their few values of x stand side by side, that their spreads can be told apart.
        let measured = panel.series.iter().filter(|s| s.look != Look::Bound).count() as f64;
        let step = if self.x.1 { 0.0 } else { (60.0 / measured).min(9.0) };
        let mut place = -step * (measured - 1.0) / 2.0;
        let mut shifts = Vec::new();
        for series in &panel.series {
            let shift = if series.look == Look::Bound { 0.0 } else { place };
            let mut at: Vec<(f64, f64)> =
                series.points.iter().map(|p| (x_of(p.x) + shift, y_of(p.y))).collect();
            // Points above each other, such as two models of a size, are no slope: the line goes by the first.
            at.dedup_by(|next, last| next.0 - last.0 < 1.0);
            join(scene, series, &at);
            shifts.push(shift);
            place += if series.look == Look::Bound { 0.0 } else { step };
        }
        for (series, shift) in panel.series.iter().zip(shifts) {
            let Look::Measured(shape) = series.look else { continue };
            for point in &series.points {
                let (x, y) = (x_of(point.x) + shift, y_of(point.y));
                if let Some((min, max)) = point.spread.map(|(min, max)| (y_of(min), y_of(max)))
                    && min - max >= 3.0
                {
                    scene.line((x, min), (x, max), INK, 1);
                    for end in [min, max] {
                        scene.line((x - 3.0, end), (x + 3.0, end), INK, 1);
                    }
                }
                marker(scene, shape, (x, y), if point.hollow { WHITE } else { series.color });
                scene.note((x - 8.0, y - 8.0), (x + 8.0, y + 8.0), &point.note);
            }
        }
        y += TEXT_SIZE + 6.0;
        let unit = |(name, log): (&str, bool)| {
            if log { format!("{name} (log scale)") } else { name.to_owned() }
        };
        let axes = format!("across: {}; up: {}", unit(self.x), unit(self.y));
        scene.text((MARGIN, y), Anchor::Start, TEXT_SIZE, INK, &axes);
        if !panel.remark.is_empty() {
            y += TEXT_SIZE + 5.0;
            let room = f64::from(WIDTH) - 2.0 * MARGIN;
            scene.text((MARGIN, y), Anchor::Start, TEXT_SIZE, SOFT, &elide(&panel.remark, TEXT_SIZE, room)?);
        }
        Ok(y + TEXT_SIZE / 2.0)
    }
}

/// Writes the names below the axis, in as many rows as it takes for none to touch another; returns the
/// height they take.
fn names(
    scene: &mut Scene,
    names: &[(f64, String)],
    x_of: &dyn Fn(f64) -> f64,
    (left, right): (f64, f64),
    y: f64,
) -> Result<f64> {
    let mut sorted: Vec<&(f64, String)> = names.iter().collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free: Vec<f64> = Vec::new();
    for (value, name) in sorted {
        let name = elide(name, TEXT_SIZE, LABEL_MAX)?;
        let half = text_width(&name, TEXT_SIZE)? / 2.0;
        let x = x_of(*value).clamp(left + half, (right - half).max(left + half));
        let row = free.iter().position(|end| x - half > *end).unwrap_or_else(|| {
            free.push(0.0);
            free.len() - 1
        });
        free[row] = x + half + 8.0;
        scene.text((x, y + row as f64 * LABEL_ROW), Anchor::Middle, TEXT_SIZE, INK, &name);
    }
    Ok(free.len() as f64 * LABEL_ROW)
}

/// Joins points by the line of their series, with a dark edge so that a pale one is seen on white.
fn join(scene: &mut Scene, series: &Series, at: &[(f64, f64)]) {
    for ends in at.windows(2) {
        let (from, to) = (ends[0], ends[1]);
        match series.look {
            Look::Measured(_) => {
                scene.line(from, to, SOFT, 4);
                scene.line(from, to, series.color, 2);
            }
            Look::Bound => {
                let length = (to.0 - from.0).hypot(to.1 - from.1);
                let dashes = (length / 9.0).ceil().max(1.0) as usize;
                let part = |t: f64| (from.0 + (to.0 - from.0) * t, from.1 + (to.1 - from.1) * t);
                for dash in 0..dashes {
                    let start = dash as f64 / dashes as f64;
                    scene.line(part(start), part(start + 0.6 / dashes as f64), series.color, 2);
                }
            }
        }
    }
}

fn marker(scene: &mut Scene, shape: usize, (x, y): (f64, f64), fill: RGBColor) {
    let r = RADIUS;
    match shape % 4 {
        0 => scene.dot((x, y), r, fill, INK),
        1 => scene.polygon(vec![(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)], fill, INK),
        2 => {
            let r = r * 1.35;
            scene.polygon(vec![(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill, INK);
        }
        _ => {
            let r = r * 1.3;
            scene.polygon(vec![(x, y - r), (x + r, y + r * 0.8), (x - r, y + r * 0.8)], fill, INK);
        }
    }
}

/// A scale from 0 to 1, linear from zero or logarithmic around its values.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scale {
    Linear(Axis),
    /// Between two powers of ten, given by their exponents.
    Log {
        low: f64,
        high: f64,
    },
}

impl Scale {
    /// The scale that shows all `values`; only positive ones can be on a logarithmic one.
    fn fit(values: &[f64], log: bool) -> Scale {
        let positive = || values.iter().copied().filter(|v| v.is_finite() && *v > 0.0);
        let top = positive().fold(0.0, f64::max);
        let bottom = positive().fold(f64::INFINITY, f64::min);
        if !log || top <= 0.0 {
            return Scale::Linear(Axis::Linear {
                top: if top > 0.0 { (top * 1.06).min(f64::MAX) } else { 1.0 },
            });
        }
        // Room at both ends; and a range of less than a factor of four might have no round value in it. In
        // logarithms, for the quotient of what floats can hold may be infinite.
        let decades = top.log10() - bottom.log10();
        let edge = if decades < 2f64.log10() { 2f64.log10() } else { 0.06 + decades * 0.03 };
        Scale::Log { low: bottom.log10() - edge, high: top.log10() + edge }
    }

    fn at(self, value: f64) -> f64 {
        match self {
            Scale::Linear(axis) => axis.at(value),
            Scale::Log { low, high } => {
                ((value.max(f64::MIN_POSITIVE).log10() - low) / (high - low)).clamp(0.0, 1.0)
            }
        }
    }

    /// Round values for `room` labels at most, ascending, with their labels.
    fn ticks(self, room: usize) -> Vec<(f64, String)> {
        let (low, high) = match self {
            Scale::Linear(axis) => return axis.ticks(room),
            Scale::Log { low, high } => (low, high),
        };
        let decades = (low.floor() as i32)..=(high.ceil() as i32);
        let inside = |v: &f64| (low..=high).contains(&v.log10());
        for steps in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]] {
            let values: Vec<f64> = decades
                .clone()
                .flat_map(|e| steps.iter().map(move |m| m * 10f64.powi(e)))
                .filter(inside)
                .collect();
            if values.len() <= room {
                return values.into_iter().map(|v| (v, short(v))).collect();
            }
        }
        let every = ((high - low).ceil() as usize + 1).div_ceil(room).max(1);
        decades.step_by(every).map(|e| 10f64.powi(e)).filter(inside).map(|v| (v, short(v))).collect()
    }
}

/// A round number in as few characters as a reader of model sizes is used to: `0.05`, `20`, `5k`, `2B`.
fn short(value: f64) -> String {
    let (divisor, unit) = match value {
        1e3..1e6 => (1e3, "k"),
        1e6..1e9 => (1e6, "M"),
        1e9..1e12 => (1e9, "B"),
        1e12..1e15 => (1e12, "T"),
        _ => (1.0, ""),
    };
    // The value is a digit and a power of ten, up to rounding.
    let scaled = value / divisor;
    match scaled {
        0.001..1000.0 => {
            let decimals = (-scaled.log10().floor()).max(0.0) as usize;
            format!("{scaled:.decimals$}{unit}")
        }
        _ => round_significant(value, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_scales_have_round_ticks_and_room() {
        let labels = |values: &[f64], room| {
            let ticks = Scale::fit(values, true).ticks(room);
            ticks.into_iter().map(|(_, label)| label).collect::<Vec<_>>()
        };
        assert_eq!(labels(&[125e6, 7e9], 9), ["100M", "200M", "500M", "1B", "2B", "5B"]);
        assert_eq!(labels(&[3.0], 9), ["2", "5"]);
        assert_eq!(labels(&[0.002, 900.0], 7), ["0.01", "0.1", "1", "10", "100", "1k"]);
        for values in [&[1e-300, 1e300][..], &[1e-300], &[5e307], &[0.0], &[]] {
            let scale = Scale::fit(values, true);
            let ticks = scale.ticks(7);
            assert!((1..=8).contains(&ticks.len()), "{values:?}: {ticks:?}");
            assert!(ticks.iter().all(|(v, _)| (0.0..=1.0).contains(&scale.at(*v))));
        }
    }
}
