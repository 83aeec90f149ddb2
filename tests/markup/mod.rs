//! Checks of SVG and HTML, for the tests of what a report draws.

#![allow(dead_code, reason = "each test uses a part")]

/// Width and height of an SVG, and its texts as (x, y, anchor, size, text).
pub(crate) type SvgText = (f64, f64, String, f64, String);

pub(crate) fn svg_size(svg: &str) -> ((u32, u32), Vec<SvgText>) {
    let attribute = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
        Some(rest.split('"').next()?.to_owned())
    };
    let root = svg.split('>').next().unwrap();
    let size = ["width", "height"].map(|n| attribute(root, n).unwrap().parse().unwrap());
    let texts = svg.split("<text").skip(1).map(|part| {
        let (tag, rest) = part.split_once('>').unwrap();
        let number = |name| attribute(tag, name).unwrap().parse::<f64>().unwrap();
        assert_eq!(attribute(tag, "font-family").unwrap(), "sans-serif");
        let text = rest.split('<').next().unwrap().trim().to_owned();
        (number("x"), number("y"), attribute(tag, "text-anchor").unwrap(), number("font-size"), text)
    });
    ((size[0], size[1]), texts.collect())
}

/// Well-formed (balanced tags, quoted attributes, known entities, legal characters), 800 wide, and
/// no text outside the figure or over another one.
pub(crate) fn check_svg(svg: &str, at: &str) {
    well_formed(svg, &[], at);
    let ((width, height), texts) = svg_size(svg);
    assert_eq!(width, 800, "{at}");
    let boxes: Vec<(f64, f64, f64, &SvgText)> = texts
        .iter()
        .map(|text| {
            let (x, y, anchor, size, content) = text;
            // Half an em a character: about what a sans-serif needs for lower-case letters and digits.
            let wide = content.chars().count() as f64 * size * 0.5;
            let left = match anchor.as_str() {
                "start" => *x,
                "middle" => x - wide / 2.0,
                _ => x - wide,
            };
            assert!(left >= 0.0 && left + wide <= 800.0 + 16.0, "{at}: {text:?} sticks out");
            assert!(*y > 0.0 && *y < f64::from(height), "{at}: {text:?} sticks out");
            (left, left + wide, *y, text)
        })
        .collect();
    for (i, a) in boxes.iter().enumerate() {
        for b in &boxes[i + 1..] {
            let same_line = (a.2 - b.2).abs() < a.3.3.min(b.3.3) * 0.8;
            assert!(!same_line || a.1 <= b.0 || b.1 <= a.0, "{at}: {:?} over {:?}", a.3, b.3);
        }
    }
}

fn check_entities(text: &str, at: &str) {
    for part in text.split('&').skip(1) {
        let entity = part.split(';').next().unwrap();
        assert!(["lt", "gt", "amp", "quot", "apos", "#x27", "#x2f"].contains(&entity), "{at}: &{entity}");
    }
}

/// Balanced tags but for the `void` ones, quoted attributes, known entities, legal characters.
fn well_formed(text: &str, void: &[&str], at: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some((between, after)) = rest.split_once('<') {
        check_entities(between, at);
        let (tag, after) = after.split_once('>').unwrap_or_else(|| panic!("{at}: unclosed tag"));
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{at}");
            continue;
        }
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let attributes = attributes.trim_end_matches('/');
        let quoted: Vec<&str> = attributes.split('"').collect();
        assert!(quoted.len() % 2 == 1, "{at}: {tag}");
        for (i, piece) in quoted.iter().enumerate() {
            if i % 2 == 0 && i + 1 < quoted.len() {
                let key = piece.trim().strip_suffix('=').unwrap_or_else(|| panic!("{at}: {tag}"));
                assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{at}: {tag}");
            }
            check_entities(piece, at);
        }
        if !tag.ends_with('/') && !void.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{at}: {open:?}");
    let legal = |c: char| matches!(c, '\n' | '\t' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    assert!(text.chars().all(legal), "{at}");
}

/// Well-formed, nothing from elsewhere, every figure with its table and its alternative text.
pub(crate) fn check_html(html: &str, at: &str) {
    let body = html.strip_prefix("<!doctype html>\n").unwrap_or_else(|| panic!("{at}: no doctype"));
    well_formed(body.trim_end(), &["meta", "link"], at);
    for foreign in ["<script", "http:", "https:", "url(", "@import", " src=", "<iframe", "<img"] {
        let found = body.replace("xmlns=\"http://www.w3.org/2000/svg\"", "").find(foreign);
        assert_eq!(found, None, "{at}: {foreign}");
    }
    let figures: Vec<&str> = body.split("<figure ").skip(1).collect();
    assert!(figures.len() >= 4, "{at}");
    for figure in figures {
        let figure = figure.split("</figure>").next().unwrap();
        let label = figure.split("aria-label=\"").nth(1).unwrap().split('"').next().unwrap();
        assert!(label.len() > 20, "{at}: {label}");
        assert_eq!(figure.matches("<svg").count(), 1, "{at}");
        assert_eq!(figure.matches("<table").count(), 1, "{at}");
    }
}
