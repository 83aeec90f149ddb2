//! Horizontal bars in groups and panels: the layout of figures with a row a case.
//!
//! Horizontal, because names of models and kernels are long and many, and a row each never overlaps:
//! the figure grows downwards. Every row is labelled with its kernel, so that colour only helps.

use plotters::style::RGBColor;

use super::axis::Axis;
use super::scene::{Anchor, Scene, elide, text_width, wrap};
use crate::error::Result;

/// Nominal width of every figure.
pub(super) const WIDTH: u32 = 800;

pub(super) const MARGIN: f64 = 16.0;
const ROW: f64 = 19.0;
const BAR: f64 = 13.0;
const HEADING: f64 = 20.0;
const GROUP_GAP: f64 = 10.0;
pub(super) const PANEL_GAP: f64 = 22.0;
/// No column of labels at the left takes more than this of the width,
const LABEL_MAX: f64 = 170.0;
/// and no text at the right more than this.
const TEXT_MAX: f64 = 240.0;
/// Width of a sample of a fill in the legend.
const SWATCH: f64 = 16.0;
pub(super) const TITLE_SIZE: f64 = 19.0;
pub(super) const PANEL_SIZE: f64 = 14.5;
const GROUP_SIZE: f64 = 13.5;
pub(super) const TEXT_SIZE: f64 = 12.5;

pub(super) const INK: RGBColor = RGBColor(0x1a, 0x1a, 0x1a);
pub(super) const SOFT: RGBColor = RGBColor(0x44, 0x44, 0x44);
pub(super) const GRID: RGBColor = RGBColor(0xd8, 0xd8, 0xd8);
pub(super) const FAINT: RGBColor = RGBColor(0xee, 0xee, 0xee);
/// A range of values behind the bars.
pub(super) const BAND: RGBColor = RGBColor(0xe2, 0xe2, 0xe2);
/// Fill of the room between a bar and its limit.
const HOLLOW: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// A figure before it is laid out.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) subtitle: String,
    /// Quantity and unit of the values.
    pub(super) axis: &'static str,
    /// Whether values may be drawn over decades; sums that are stacked may not.
    pub(super) may_be_log: bool,
    /// A value marked in every panel, from which bars start on a log axis.
    pub(super) reference: Option<f64>,
    /// A range of values shaded in every panel that reaches it, and its name in the legend.
    pub(super) band: Option<(f64, f64, &'static str)>,
    pub(super) legend: Vec<(Fill, &'static str)>,
    pub(super) panels: Vec<Panel>,
    /// What to say where there is no panel.
    pub(super) empty: &'static str,
}

#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    /// Panels of the same scale share one axis, so that they can be compared.
    pub(super) scale: usize,
    pub(super) groups: Vec<Group>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) label: String,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug)]
pub(super) struct Row {
    /// Kernel and instruction set, each in a column of its own.
    pub(super) labels: [String; 2],
    pub(super) mark: Mark,
    /// Said at the right of the mark; of a gap, in its place.
    pub(super) text: String,
}

/// How an area is filled. What was not measured is hatched, each kind in its own way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill {
    /// Full.
    Solid(RGBColor),
    /// White with strokes that rise to the right.
    Rising(RGBColor),
    /// White with strokes that fall to the right.
    Falling(RGBColor),
    /// White with both.
    Crossed(RGBColor),
}

impl Fill {
    fn paint(self, scene: &mut Scene, from: (f64, f64), to: (f64, f64), stroke: RGBColor) {
        let (ground, strokes): (RGBColor, &[bool]) = match self {
            Fill::Solid(color) => (color, &[]),
            Fill::Rising(_) => (HOLLOW, &[true]),
            Fill::Falling(_) => (HOLLOW, &[false]),
            Fill::Crossed(_) => (HOLLOW, &[true, false]),
        };
        scene.rect(from, to, Some(ground), None);
        if let Fill::Rising(color) | Fill::Falling(color) | Fill::Crossed(color) = self {
            strokes.iter().for_each(|&rising| scene.hatch(from, to, rising, color));
        }
        scene.rect(from, to, None, Some(stroke));
    }
}

/// What a row shows.
#[derive(Debug)]
pub(super) enum Mark {
    /// Nothing but the text, which says why.
    Gap,
    /// A bar, with whiskers, and a hollow box up to what it could have reached.
    Bar { value: f64, spread: Option<(f64, f64)>, limit: Option<f64>, fill: Fill },
    /// Bars end to end, and perhaps a mark at a value of its own.
    Stack { parts: Vec<(f64, RGBColor)>, mark: Option<f64> },
    /// A dot at the first value, ticks at the middle ones, a line to the last.
    Range { values: [f64; 4], color: RGBColor },
}

impl Mark {
    fn values(&self) -> Vec<f64> {
        match self {
            Mark::Gap => Vec::new(),
            Mark::Bar { value, spread, limit, .. } => {
                let whiskers = spread.map(|(min, max)| [min, max]);
                [*value].into_iter().chain(whiskers.into_iter().flatten()).chain(*limit).collect()
            }
            Mark::Stack { parts, mark } => {
                [parts.iter().map(|p| p.0).sum()].into_iter().chain(*mark).collect()
            }
            Mark::Range { values, .. } => values.to_vec(),
        }
    }
}

impl Chart {
    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.panels.iter().flat_map(|p| &p.groups).flat_map(|g| &g.rows)
    }

    /// Places everything.
    pub(super) fn lay_out(&self) -> Result<Scene> {
        let width = f64::from(WIDTH);
        let mut scene = Scene::new(WIDTH);
        let mut y = heading(&mut scene, &self.title, &self.subtitle)?;
        let band = self.band.iter().map(|(_, _, name)| (Fill::Solid(BAND), *name));
        let legend: Vec<(Fill, &str)> = self.legend.iter().copied().chain(band).collect();
        if !legend.is_empty() {
            y += 14.0;
            let mut x = MARGIN;
            for (fill, label) in &legend {
                let wide = SWATCH + 6.0 + text_width(label, TEXT_SIZE)?;
                if x + wide > width - MARGIN && x > MARGIN {
                    (x, y) = (MARGIN, y + 18.0);
                }
                fill.paint(&mut scene, (x, y - 6.0), (x + SWATCH, y + 6.0), INK);
                scene.text((x + SWATCH + 6.0, y), Anchor::Start, TEXT_SIZE, INK, label);
                x += wide + 20.0;
            }
            y += 8.0;
        }
        if self.panels.is_empty() {
            y += 40.0;
            scene.text((MARGIN, y), Anchor::Start, TEXT_SIZE, SOFT, self.empty);
            scene.set_height(y + 40.0);
            return Ok(scene);
        }

        let widest = |texts: &mut dyn Iterator<Item = &str>, most: f64| -> Result<f64> {
            let mut widest: f64 = 0.0;
            for text in texts {
                widest = widest.max(text_width(text, TEXT_SIZE)?);
            }
            Ok(widest.min(most))
        };
        let drawn = || self.rows().filter(|r| !matches!(r.mark, Mark::Gap));
        let kernel_x = MARGIN + 12.0;
        let kernel_width = widest(&mut self.rows().map(|r| r.labels[0].as_str()), LABEL_MAX)?;
        let isa_x = kernel_x + kernel_width + 10.0;
        let isa_width = widest(&mut self.rows().map(|r| r.labels[1].as_str()), LABEL_MAX)?;
        let left = isa_x + isa_width + 10.0;
        let right = width - MARGIN - widest(&mut drawn().map(|r| r.text.as_str()), TEXT_MAX)?.max(24.0) - 8.0;
        for (index, panel) in self.panels.iter().enumerate() {
            let values: Vec<f64> = self
                .panels
                .iter()
                .filter(|p| p.scale == panel.scale)
                .flat_map(|p| &p.groups)
                .flat_map(|g| &g.rows)
                .flat_map(|r| r.mark.values())
                .collect();
            let axis = Axis::fit(&values, self.may_be_log, self.reference);
            let x_of = |value: f64| left + axis.at(value) * (right - left);
            let has_values = !values.is_empty();
            y += if index == 0 { 12.0 } else { PANEL_GAP };
            y += PANEL_SIZE / 2.0;
            let title = elide(&panel.title, PANEL_SIZE, width - 2.0 * MARGIN)?;
            scene.text((MARGIN, y), Anchor::Start, PANEL_SIZE, INK, &title);
            y += PANEL_SIZE / 2.0 + 4.0;
            scene.line((MARGIN, y), (width - MARGIN, y), SOFT, 1);
            let top = y;
            let rows: f64 =
                panel.groups.iter().map(|g| HEADING + g.rows.len() as f64 * ROW + GROUP_GAP).sum();
            let bottom = top + rows + 2.0;
            if has_values {
                if let Some((low, high, _)) = self.band {
                    let (low, high) = (x_of(low), x_of(high));
                    scene.rect((low, top + 2.0), (high, bottom), (high > low).then_some(BAND), None);
                }
                let mut ticks = axis.ticks(7);
                for room in (2..7).rev() {
                    if fits(&ticks, left, right, axis)? {
                        break;
                    }
                    ticks = axis.ticks(room);
                }
                for value in axis.minor_ticks() {
                    scene.line((x_of(value), top + 2.0), (x_of(value), bottom), FAINT, 1);
                }
                for (value, label) in ticks {
                    scene.line((x_of(value), top + 2.0), (x_of(value), bottom + 4.0), GRID, 1);
                    scene.text((x_of(value), bottom + 12.0), Anchor::Middle, TEXT_SIZE, SOFT, &label);
                }
                if let Some(reference) = self.reference {
                    scene.line((x_of(reference), top + 2.0), (x_of(reference), bottom), SOFT, 1);
                }
            }
            scene.line((left, top + 1.0), (left, bottom), SOFT, 1);
            for group in &panel.groups {
                y += GROUP_GAP / 2.0 + HEADING / 2.0;
                let heading = elide(&group.label, GROUP_SIZE, width - 2.0 * MARGIN)?;
                // Over the grid, which would cross the name.
                let end = MARGIN + text_width(&heading, GROUP_SIZE)? + 4.0;
                if end > left {
                    scene.rect((left - 2.0, y - 9.0), (end, y + 9.0), Some(RGBColor(255, 255, 255)), None);
                }
                scene.text((MARGIN, y), Anchor::Start, GROUP_SIZE, INK, &heading);
                y += HEADING / 2.0;
                for row in &group.rows {
                    let note = format!("{}, {} {}: {}", group.label, row.labels[0], row.labels[1], row.text);
                    scene.note((MARGIN, y), (width - MARGIN, y + ROW), &note);
                    let middle = y + ROW / 2.0;
                    for (label, x, room, color) in [
                        (&row.labels[0], kernel_x, kernel_width, INK),
                        (&row.labels[1], isa_x, isa_width, SOFT),
                    ] {
                        let label = elide(label, TEXT_SIZE, room)?;
                        scene.text((x, middle), Anchor::Start, TEXT_SIZE, color, &label);
                    }
                    let start = match self.reference {
                        Some(reference) if axis.is_log() => x_of(reference),
                        _ => left,
                    };
                    let end = draw(&mut scene, &row.mark, middle, start, &x_of);
                    let (x, color, room) = match row.mark {
                        Mark::Gap => (left + 6.0, SOFT, width - MARGIN - left - 6.0),
                        _ => (end + 8.0, INK, width - MARGIN - end - 8.0),
                    };
                    let text = elide(&row.text, TEXT_SIZE, room)?;
                    scene.rect(
                        (x - 3.0, middle - 7.0),
                        (x + text_width(&text, TEXT_SIZE)?, middle + 7.0),
                        Some(RGBColor(255, 255, 255)),
                        None,
                    );
                    scene.text((x, middle), Anchor::Start, TEXT_SIZE, color, &text);
                    y += ROW;
                }
                y += GROUP_GAP / 2.0;
            }
            y = bottom + 22.0;
            if has_values {
                y += TEXT_SIZE / 2.0;
                let unit =
                    if axis.is_log() { format!("{} (log scale)", self.axis) } else { self.axis.to_owned() };
                scene.text((left.midpoint(right), y), Anchor::Middle, TEXT_SIZE, INK, &unit);
                y += TEXT_SIZE / 2.0;
            }
        }
        scene.set_height(y + MARGIN);
        Ok(scene)
    }
}

/// Writes title and subtitle; returns the height below them.
pub(super) fn heading(scene: &mut Scene, title: &str, subtitle: &str) -> Result<f64> {
    let room = f64::from(WIDTH) - 2.0 * MARGIN;
    let mut y = MARGIN + TITLE_SIZE / 2.0;
    scene.text((MARGIN, y), Anchor::Start, TITLE_SIZE, INK, &elide(title, TITLE_SIZE, room)?);
    y += TITLE_SIZE / 2.0 + 4.0;
    for line in wrap(subtitle, TEXT_SIZE, room)? {
        y += TEXT_SIZE / 2.0 + 3.0;
        scene.text((MARGIN, y), Anchor::Start, TEXT_SIZE, SOFT, &line);
        y += TEXT_SIZE / 2.0 + 1.0;
    }
    Ok(y)
}

/// Whether the labels of `ticks` leave room between them.
fn fits(ticks: &[(f64, String)], left: f64, right: f64, axis: Axis) -> Result<bool> {
    let mut free = f64::NEG_INFINITY;
    for (value, label) in ticks {
        let (x, half) = (left + axis.at(*value) * (right - left), text_width(label, TEXT_SIZE)? / 2.0);
        if x - half < free {
            return Ok(false);
        }
        free = x + half + 14.0;
    }
    Ok(true)
}

/// Draws `mark` around the height `y` with bars from `start`; returns where it ends.
fn draw(scene: &mut Scene, mark: &Mark, y: f64, start: f64, x_of: &dyn Fn(f64) -> f64) -> f64 {
    let (top, bottom) = (y - BAR / 2.0, y + BAR / 2.0);
    let mut span = |from: f64, to: f64, fill: Fill, stroke| {
        fill.paint(scene, (from.min(to), top), (from.max(to), bottom), stroke);
    };
    match mark {
        Mark::Gap => start,
        Mark::Bar { value, spread, limit, fill } => {
            let end = x_of(*value);
            if let Some(limit) = limit {
                span(start, x_of(*limit), Fill::Solid(HOLLOW), SOFT);
            }
            span(start, end, *fill, INK);
            if let Some((min, max)) = spread {
                whisker(scene, x_of(*min), x_of(*max), y);
            }
            let reached = spread.map_or(end, |(_, max)| x_of(max)).max(limit.map_or(end, x_of));
            reached.max(start)
        }
        Mark::Stack { parts, mark } => {
            let (mut sum, mut from) = (0.0, start);
            for (part, color) in parts {
                sum += part;
                span(from, x_of(sum), Fill::Solid(*color), INK);
                from = x_of(sum);
            }
            let Some(mark) = mark.map(x_of) else { return from };
            scene.line((from, y), (mark, y), INK, 1);
            scene.line((mark, y - 8.0), (mark, y + 8.0), INK, 2);
            from.max(mark)
        }
        Mark::Range { values, color } => {
            let [dot, low, high, end] = values.map(x_of);
            scene.line((dot, y), (end, y), INK, 1);
            scene.line((low, y - 4.0), (low, y + 4.0), INK, 1);
            scene.line((high, y - 6.0), (high, y + 6.0), INK, 2);
            scene.line((end, y - 3.0), (end, y + 3.0), INK, 1);
            scene.dot((dot, y), 5.0, *color, INK);
            end.max(dot + 5.0)
        }
    }
}

/// A line with caps, with a white edge so that it is seen on a dark bar too. A spread narrower than
/// the caps themselves is not drawn: the end of the bar says as much.
fn whisker(scene: &mut Scene, from: f64, to: f64, y: f64) {
    if to - from < 3.0 {
        return;
    }
    let white = RGBColor(255, 255, 255);
    for (color, width) in [(white, 3), (INK, 1)] {
        let edge = f64::from(width / 2);
        scene.line((from - edge, y), (to + edge, y), color, width);
        for x in [from, to] {
            scene.line((x, y - 4.0 - edge), (x, y + 4.0 + edge), color, width);
        }
    }
}
