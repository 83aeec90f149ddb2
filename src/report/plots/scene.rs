//! A drawing as a list of shapes, laid out once and then drawn by both backends, so that the SVG
//! and the PNG of a figure cannot differ.

use std::collections::HashMap;

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};

/// Pixels of the PNG for each unit of the drawing: twice, so that it stays sharp where a page shows
/// it at the width it was laid out for.
pub(super) const PNG_SCALE: u32 = 2;

/// Text is laid out by the font that the PNG embeds; the viewer of an SVG brings its own, and the
/// common ones are wider.
const FONT_SLACK: f64 = 1.2;

/// What a horizontal position of a text refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
}

#[derive(Debug)]
enum Shape {
    Rect { from: (f64, f64), to: (f64, f64), fill: Option<RGBColor>, stroke: Option<RGBColor> },
    Line { from: (f64, f64), to: (f64, f64), color: RGBColor, width: u32 },
    Path { points: Vec<(f64, f64)>, color: RGBColor },
    Dot { at: (f64, f64), radius: f64, fill: RGBColor, stroke: RGBColor },
    Polygon { corners: Vec<(f64, f64)>, fill: RGBColor, stroke: RGBColor },
    Text(Text),
}

/// A line of text; `size` is that of the em.
#[derive(Debug)]
struct Text {
    at: (f64, f64),
    anchor: Anchor,
    size: f64,
    color: RGBColor,
    text: String,
}

/// A drawing in units of one pixel at its nominal width, x to the right and y down.
#[derive(Debug)]
pub(in crate::report) struct Scene {
    width: u32,
    height: u32,
    shapes: Vec<Shape>,
    notes: Vec<Note>,
}

/// What an SVG says when one points at a part of it.
#[derive(Debug)]
struct Note {
    from: (f64, f64),
    to: (f64, f64),
    text: String,
}

impl Scene {
    /// An empty drawing; the height follows from what is drawn (see [`Scene::set_height`]).
    pub(super) fn new(width: u32) -> Scene {
        Scene { width, height: 0, shapes: Vec::new(), notes: Vec::new() }
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

    /// Parallel strokes through a rectangle, as one path whose turns lie on the edges: rising to the right,
    /// or falling.
    pub(super) fn hatch(&mut self, from: (f64, f64), to: (f64, f64), rising: bool, color: RGBColor) {
        /// Between two strokes, along the edge.
        const STEP: f64 = 7.0;
        let ((left, top), (right, bottom)) = (from, to);
        let height = bottom - top;
        let mut points: Vec<(f64, f64)> = Vec::new();
        let mut foot = left - height + STEP;
        let mut up = true;
        while foot < right {
            // A stroke of 45 degrees, cut at the sides.
            let low = (foot.max(left), bottom - (left - foot).max(0.0));
            let high = ((foot + height).min(right), top + (foot + height - right).max(0.0));
            let corner = match points.last() {
                Some(last) if up && last.1 < bottom && low.1 >= bottom => Some((left, bottom)),
                Some(last) if !up && last.0 < right && high.0 >= right => Some((right, top)),
                _ => None,
            };
            points.extend(corner);
            points.extend(if up { [low, high] } else { [high, low] });
            up = !up;
            foot += STEP;
        }
        if !rising {
            points.iter_mut().for_each(|(_, y)| *y = top + bottom - *y);
        }
        if points.len() > 1 {
            self.shapes.push(Shape::Path { points, color });
        }
    }

    pub(super) fn dot(&mut self, at: (f64, f64), radius: f64, fill: RGBColor, stroke: RGBColor) {
        self.shapes.push(Shape::Dot { at, radius, fill, stroke });
    }

    /// Text whose vertical middle is at `at.1`. Characters that XML cannot hold become spaces.
    pub(super) fn text(&mut self, at: (f64, f64), anchor: Anchor, size: f64, color: RGBColor, text: &str) {
        self.shapes.push(Shape::Text(Text { at, anchor, size, color, text: legal(text) }));
    }

    pub(super) fn polygon(&mut self, corners: Vec<(f64, f64)>, fill: RGBColor, stroke: RGBColor) {
        self.shapes.push(Shape::Polygon { corners, fill, stroke });
    }

    /// A text for whoever points at the rectangle `from` to `to`: of the SVG only, and in the table behind
    /// the figure for everybody else.
    pub(super) fn note(&mut self, from: (f64, f64), to: (f64, f64), text: &str) {
        self.notes.push(Note { from, to, text: legal(text) });
    }

    /// The drawing as an SVG document.
    pub(in crate::report) fn svg(&self) -> Result<String> {
        let mut document = String::new();
        let backend = SVGBackend::with_string(&mut document, (self.width, self.height));
        self.draw(&backend.into_drawing_area(), 1.0, svg_text)?;
        // Above everything else, so that they are what the pointer meets.
        let notes: String = self.notes.iter().map(Note::svg).collect();
        let end = document.rfind("</svg>").unwrap_or(document.len());
        document.insert_str(end, &notes);
        Ok(document)
    }

    /// The drawing as a PNG file, [`PNG_SCALE`] pixels a unit.
    pub(in crate::report) fn png(&self) -> Result<Vec<u8>> {
        let (width, height) = (self.width * PNG_SCALE, self.height * PNG_SCALE);
        let mut pixels = vec![0; width as usize * height as usize * 3];
        let backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
        self.draw(&backend.into_drawing_area(), f64::from(PNG_SCALE), png_text)?;
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        // Flat colours compress best as they are.
        encoder.set_filter(png::Filter::NoFilter);
        let indexed = indexed(&pixels);
        let data = match &indexed {
            Some((palette, indices)) => {
                encoder.set_color(png::ColorType::Indexed);
                encoder.set_palette(palette);
                indices
            }
            None => {
                encoder.set_color(png::ColorType::Rgb);
                &pixels
            }
        };
        let encoded = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(data)?;
            writer.finish()
        });
        encoded.map_err(|e| Error::environment(format!("cannot encode: {e}")))?;
        Ok(file)
    }

    fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        scale: f64,
        draw_text: impl Fn(&DrawingArea<DB, Shift>, &Text) -> Result<()>,
    ) -> Result<()> {
        let failed = failed::<DB>;
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
                Shape::Path { points, color } => {
                    let points: Vec<(i32, i32)> = points.iter().map(|at| px(*at)).collect();
                    area.draw(&PathElement::new(points, color.stroke_width(thick(1)))).map_err(failed)?;
                }
                Shape::Dot { at, radius, fill, stroke } => {
                    let radius = radius * scale;
                    area.draw(&Circle::new(px(*at), radius, stroke.filled())).map_err(failed)?;
                    area.draw(&Circle::new(px(*at), radius - scale, fill.filled())).map_err(failed)?;
                }
                Shape::Polygon { corners, fill, stroke } => {
                    let mut points: Vec<(i32, i32)> = corners.iter().map(|c| px(*c)).collect();
                    area.draw(&Polygon::new(points.clone(), fill.filled())).map_err(failed)?;
                    points.extend(points.first().copied());
                    area.draw(&PathElement::new(points, stroke.stroke_width(thick(1)))).map_err(failed)?;
                }
                Shape::Text(text) => draw_text(area, text)?,
            }
        }
        area.present().map_err(failed)
    }
}

impl Note {
    fn svg(&self) -> String {
        let [x, y] = [self.from.0, self.from.1].map(f64::round);
        let [width, height] = [self.to.0 - self.from.0, self.to.1 - self.from.1].map(f64::round);
        let text = self.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"none\" \
             pointer-events=\"all\"><title>{text}</title></rect>\n"
        )
    }
}

/// `text` with spaces for the characters that XML cannot hold.
fn legal(text: &str) -> String {
    let legal = |c: char| if c.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&c) { ' ' } else { c };
    text.chars().map(legal).collect()
}

fn failed<DB: DrawingBackend>(error: DrawingAreaErrorKind<DB::ErrorType>) -> Error {
    Error::environment(format!("cannot draw: {error}"))
}

/// Text of an SVG stays text: searchable, and set in the viewer's font.
fn svg_text(area: &DrawingArea<SVGBackend, Shift>, text: &Text) -> Result<()> {
    let horizontal = match text.anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
    };
    // plotters counts a font's size as the height of its line, 1.24 em.
    let style = TextStyle::from(("sans-serif", text.size * 1.24))
        .color(&text.color)
        .pos(Pos::new(horizontal, VPos::Center));
    let at = (text.at.0.round() as i32, text.at.1.round() as i32);
    area.draw_text(&text.text, &style, at).map_err(failed::<SVGBackend>)
}

/// The colours of `pixels`, three bytes each, and for each pixel its colour's place among them; `None` if they
/// are more than a byte can tell apart.
fn indexed(pixels: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut palette = Vec::new();
    let mut known: HashMap<&[u8], u8> = HashMap::new();
    let mut indices = Vec::with_capacity(pixels.len() / 3);
    let mut last: (&[u8], u8) = (&[], 0);
    for pixel in pixels.chunks_exact(3) {
        if pixel != last.0 {
            let index = match known.get(pixel) {
                Some(&index) => index,
                None => {
                    let index = u8::try_from(known.len()).ok()?;
                    known.insert(pixel, index);
                    palette.extend(pixel);
                    index
                }
            };
            last = (pixel, index);
        }
        indices.push(last.1);
    }
    Some((palette, indices))
}

/// Text of a PNG is drawn glyph by glyph from the embedded font, so that figures need no font of
/// the system. (plotters' own bitmap text leaves out the bearing of each glyph: uneven spacing.)
fn png_text(area: &DrawingArea<BitMapBackend, Shift>, text: &Text) -> Result<()> {
    let font = font()?;
    let scale = f64::from(PNG_SCALE);
    let size = text.size * scale;
    let (glyphs, width) = set(&font, &text.text, size);
    let x = match text.anchor {
        Anchor::Start => text.at.0 * scale,
        Anchor::Middle => text.at.0 * scale - width / 2.0,
    };
    // The middle of a line is that of its small letters and digits, about a third of an em up.
    let (x, y) = (x as f32, (text.at.1 * scale + size * 0.32).round() as f32);
    for mut glyph in glyphs {
        glyph.position += point(x, y);
        let Some(outline) = font.outline_glyph(glyph) else { continue };
        let corner = outline.px_bounds().min;
        let mut result = Ok(());
        outline.draw(|dx, dy, coverage| {
            let at = (corner.x as i32 + dx as i32, corner.y as i32 + dy as i32);
            let drawn = area.draw_pixel(at, &text.color.mix(f64::from(coverage.min(1.0))));
            if result.is_ok() {
                result = drawn;
            }
        });
        result.map_err(failed::<BitMapBackend>)?;
    }
    Ok(())
}

fn font() -> Result<FontRef<'static>> {
    FontRef::try_from_slice(epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|e| Error::environment(format!("the embedded font cannot be read: {e}")))
}

/// The glyphs of `text` from 0 to the right at em size `size`, and their width.
fn set(font: &FontRef, text: &str, size: f64) -> (Vec<Glyph>, f64) {
    let em = f64::from(font.units_per_em().unwrap_or(1000.0));
    let scale = PxScale::from((size * f64::from(font.height_unscaled()) / em) as f32);
    let scaled = font.as_scaled(scale);
    let mut x = 0.0;
    let mut previous = None;
    let mut glyphs = Vec::new();
    for c in text.chars() {
        let id = font.glyph_id(c);
        x += previous.map_or(0.0, |p| scaled.kern(p, id));
        glyphs.push(id.with_scale_and_position(scale, point(x, 0.0)));
        x += scaled.h_advance(id);
        previous = Some(id);
    }
    (glyphs, f64::from(x))
}

/// Width of `text` at em size `size`, with room for a viewer's wider font.
pub(super) fn text_width(text: &str, size: f64) -> Result<f64> {
    Ok(set(&font()?, text, size).1 * FONT_SLACK)
}

/// `text`, its middle replaced by an ellipsis where it is wider than `width`.
pub(super) fn elide(text: &str, size: f64, width: f64) -> Result<String> {
    // Half a pixel of tolerance: the width may have been computed from this very text.
    if text_width(text, size)? <= width + 0.5 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_indexed_as_long_as_a_byte_tells_them_apart() {
        let pixel = |i: u32| i.to_be_bytes()[1..].to_vec();
        let pixels = |n: u32| (0..n).chain([0, 0, n - 1]).flat_map(pixel).collect::<Vec<u8>>();
        let (palette, indices) = indexed(&pixels(256)).unwrap();
        let drawn: Vec<u8> =
            indices.iter().flat_map(|&i| palette[usize::from(i) * 3..][..3].to_vec()).collect();
        assert_eq!(drawn, pixels(256));
        assert_eq!(palette.len(), 256 * 3);
        assert_eq!(indexed(&pixels(257)), None);
    }
}
