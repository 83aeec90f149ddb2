//! A drawing as a list of shapes, laid out once and then drawn by both backends, so that the SVG
//! and the PNG of a figure cannot differ.

use std::path::Path;
use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::error::{Error, Result};

/// Pixels of the PNG for each unit of the drawing: twice, so that it stays sharp where a page shows
/// it at the width it was laid out for.
pub(super) const PNG_SCALE: u32 = 2;

/// Text is laid out by the font that the PNG embeds; the viewer of an SVG brings its own, and the
/// common ones are wider.
const FONT_SLACK: f64 = 1.06;

/// What a horizontal position of a text refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

#[derive(Debug)]
enum Shape {
    Rect { from: (f64, f64), to: (f64, f64), fill: Option<RGBColor>, stroke: Option<RGBColor> },
    Line { from: (f64, f64), to: (f64, f64), color: RGBColor, width: u32 },
    Dot { at: (f64, f64), radius: f64, fill: RGBColor, stroke: RGBColor },
    Text { at: (f64, f64), anchor: Anchor, size: f64, color: RGBColor, text: String },
}

/// A drawing in units of one pixel at its nominal width, x to the right and y down.
#[derive(Debug)]
pub(in crate::report) struct Scene {
    width: u32,
    height: u32,
    shapes: Vec<Shape>,
}

impl Scene {
    /// An empty drawing; the height follows from what is drawn (see [`Scene::set_height`]).
    pub(super) fn new(width: u32) -> Scene {
        Scene { width, height: 0, shapes: Vec::new() }
    }

    pub(super) fn set_height(&mut self, height: f64) {
        self.height = height.ceil().max(1.0) as u32;
    }

    pub(super) fn rect(
        &mut self,
        from: (f64, f64),
        to: (f64, f64),
        fill: Option<RGBColor>,
        stroke: Option<RGBColor>,
    ) {
        self.shapes.push(Shape::Rect { from, to, fill, stroke });
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), color: RGBColor, width: u32) {
        self.shapes.push(Shape::Line { from, to, color, width });
    }

    pub(super) fn dot(&mut self, at: (f64, f64), radius: f64, fill: RGBColor, stroke: RGBColor) {
        self.shapes.push(Shape::Dot { at, radius, fill, stroke });
    }

    /// Text whose vertical middle is at `at.1`. Characters that XML cannot hold become spaces.
    pub(super) fn text(&mut self, at: (f64, f64), anchor: Anchor, size: f64, color: RGBColor, text: &str) {
        let text = text
            .chars()
            .map(|c| if c.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&c) { ' ' } else { c });
        self.shapes.push(Shape::Text { at, anchor, size, color, text: text.collect() });
    }

    /// The drawing as an SVG document.
    pub(in crate::report) fn svg(&self) -> Result<String> {
        let mut document = String::new();
        let backend = SVGBackend::with_string(&mut document, (self.width, self.height));
        self.draw(&backend.into_drawing_area(), 1.0)?;
        Ok(document)
    }

    /// Writes the drawing as a PNG file, [`PNG_SCALE`] pixels a unit.
    pub(in crate::report) fn write_png(&self, path: &Path) -> Result<()> {
        let size = (self.width * PNG_SCALE, self.height * PNG_SCALE);
        self.draw(&BitMapBackend::new(path, size).into_drawing_area(), f64::from(PNG_SCALE))
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<()> {
        load_font()?;
        let failed = |e: DrawingAreaErrorKind<DB::ErrorType>| Error::environment(format!("cannot draw: {e}"));
        let px = |(x, y): (f64, f64)| ((x * scale).round() as i32, (y * scale).round() as i32);
        let thick = |width: u32| width * scale as u32;
        area.fill(&WHITE).map_err(failed)?;
        for shape in &self.shapes {
            match shape {
                Shape::Rect { from, to, fill, stroke } => {
                    let corners = [px(*from), px(*to)];
                    if let Some(fill) = fill {
                        area.draw(&Rectangle::new(corners, fill.filled())).map_err(failed)?;
                    }
                    if let Some(stroke) = stroke {
                        // As a path: the bitmap backend draws rectangles one pixel wide whatever is asked.
                        let [(x0, y0), (x1, y1)] = corners;
                        let style = stroke.stroke_width(thick(1));
                        for ends in [
                            [(x0, y0), (x1, y0)],
                            [(x0, y1), (x1, y1)],
                            [(x0, y0), (x0, y1)],
                            [(x1, y0), (x1, y1)],
                        ] {
                            area.draw(&PathElement::new(ends, style)).map_err(failed)?;
                        }
                    }
                }
                Shape::Line { from, to, color, width } => {
                    let style = color.stroke_width(thick(*width));
                    area.draw(&PathElement::new([px(*from), px(*to)], style)).map_err(failed)?;
                }
                Shape::Dot { at, radius, fill, stroke } => {
                    let radius = radius * scale;
                    area.draw(&Circle::new(px(*at), radius, stroke.filled())).map_err(failed)?;
                    area.draw(&Circle::new(px(*at), radius - scale, fill.filled())).map_err(failed)?;
                }
                Shape::Text { at, anchor, size, color, text } => {
                    let horizontal = match anchor {
                        Anchor::Start => HPos::Left,
                        Anchor::Middle => HPos::Center,
                        Anchor::End => HPos::Right,
                    };
                    let style = TextStyle::from(("sans-serif", size * scale))
                        .color(color)
                        .pos(Pos::new(horizontal, VPos::Center));
                    area.draw_text(text, &style, px(*at)).map_err(failed)?;
                }
            }
        }
        area.present().map_err(failed)
    }
}

/// Registers the embedded font as `sans-serif`, once: figures need no font of the system.
fn load_font() -> Result<()> {
    static LOADED: OnceLock<bool> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).is_ok()
    });
    if *loaded { Ok(()) } else { Err(Error::environment("the embedded font cannot be read")) }
}

/// Width of `text` at font size `size`, with room for a viewer's wider font.
pub(super) fn text_width(text: &str, size: f64) -> Result<f64> {
    load_font()?;
    // Measured large, because the measure is in whole pixels.
    let style = TextStyle::from(("sans-serif", 100.0));
    let ((x0, _), (x1, _)) =
        style.font.layout_box(text).map_err(|e| Error::environment(format!("cannot measure text: {e}")))?;
    Ok(f64::from(x1 - x0) * size / 100.0 * FONT_SLACK)
}

/// `text`, its middle replaced by an ellipsis where it is wider than `width`.
pub(super) fn elide(text: &str, size: f64, width: f64) -> Result<String> {
    if text_width(text, size)? <= width {
        return Ok(text.to_owned());
    }
    let chars: Vec<char> = text.chars().collect();
    let (mut fits, mut too_long) = (0, chars.len());
    let keep = |n: usize| -> String {
        let head = n.div_ceil(2);
        chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - (n - head)..]).collect()
    };
    while too_long - fits > 1 {
        let middle = fits.midpoint(too_long);
        match text_width(&keep(middle), size)? <= width {
            true => fits = middle,
            false => too_long = middle,
        }
    }
    Ok(keep(fits))
}

/// `text` broken between words into lines of at most `width`.
pub(super) fn wrap(text: &str, size: f64, width: f64) -> Result<Vec<String>> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line} {word}"), size)? <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(elide(word, size, width)?),
        }
    }
    Ok(lines)
}
