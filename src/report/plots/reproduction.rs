//! Published ratios and those of the run, side by side.

use super::chart::{Chart, Fill, Group, Mark, Panel, Row};
use plotters::style::RGBColor;

use super::{PALETTE, color_of, fill_of};
use crate::figure::Figure;
use crate::published::Target;
use crate::report::text::round_significant;
use crate::stats::reproduce::{Comparison, READING_TOK_S, Reproduction, Verdict};
use crate::stats::{BASELINES, Summary};

/// The colour of published bitnet.cpp, which no kernel here has.
const THEIRS: RGBColor = PALETTE[6];

/// A panel for each published machine and quantity, a group for each of its rows: the published ratio, and
/// each kernel's with its range and verdict.
pub(super) fn reproduction(summary: &Summary, of: &Reproduction) -> Chart {
    let mut panels: Vec<Panel> = Vec::new();
    for comparison in &of.comparisons {
        let Some(published) = comparison.published_ratio else { continue };
        let title = format!("{}: {}", comparison.cpu, comparison.quantity);
        let panel = match panels.iter().position(|p| p.title == title) {
            Some(i) => &mut panels[i],
            None => {
                panels.push(Panel { title, scale: 0, groups: Vec::new() });
                panels.last_mut().expect("pushed")
            }
        };
        if panel.groups.last().is_none_or(|g| g.label != comparison.subject) {
            let bar = Mark::Bar {
                value: published,
                spread: None,
                limit: None,
                fill: Fill::Solid(color_of(summary, BASELINES[1])),
            };
            let text = format!("{}x", round_significant(published, 3));
            let rows = vec![Row { labels: ["published".to_owned(), String::new()], mark: bar, text }];
            panel.groups.push(Group { label: comparison.subject.clone(), rows });
        }
        let group = panel.groups.last_mut().expect("there is one");
        group.rows.push(here(summary, comparison));
    }
    let simulated = of.comparisons.iter().any(|c| matches!(c.here_ratio, Figure::Simulated { .. }));
    let against = of.against.as_ref().map_or_else(String::new, |against| format!(" against {against}"));
    Chart {
        title: format!("Published and here{}", if simulated { " (simulated)" } else { "" }),
        subtitle: format!(
            "{} ({}). Ratios{against}; whiskers: range over the rounds.{}",
            of.target.name(),
            of.target.source(),
            if simulated { " Energy here is SIMULATED, not measured." } else { "" }
        ),
        axis: "ratio, times",
        may_be_log: true,
        reference: Some(1.0),
        band: None,
        legend: Vec::new(),
        panels,
        empty: "There is no published ratio.",
    }
}

/// The paper's own figures, of speeds or of energies: a panel for each published machine, a group for each
/// size: what was published, and what this run has. Other tables were not published as figures.
pub(super) fn published(summary: &Summary, of: &Reproduction) -> Option<Chart> {
    let (title, axis, band) = match of.target {
        Target::Speed => {
            let (low, high) = READING_TOK_S;
            ("Decode speed, published and here", "tokens/s", Some((low, high, "people read: 5-7 tokens/s")))
        }
        Target::Energy => ("Energy of a token, published and here", "J/token", None),
        Target::Efficiency | Target::Kernels => return None,
    };
    let mut panels: Vec<Panel> = Vec::new();
    for c in &of.comparisons {
        let title = format!("Published on {}", c.cpu);
        let panel = match panels.iter().position(|p| p.title == title) {
            Some(i) => &mut panels[i],
            None => {
                panels.push(Panel { title, scale: 0, groups: Vec::new() });
                panels.last_mut().expect("pushed")
            }
        };
        if panel.groups.last().is_none_or(|g| g.label != c.subject) {
            let rows = vec![
                theirs("llama.cpp f16", c.published_baseline, color_of(summary, BASELINES[1])),
                theirs("bitnet.cpp", c.published_value, THEIRS),
                ours(summary, of.against.as_deref().unwrap_or_default(), &c.here_baseline, c),
            ];
            panel.groups.push(Group { label: c.subject.clone(), rows });
        }
        if let Some(kernel) = &c.kernel {
            let group = panel.groups.last_mut().expect("there is one");
            group.rows.push(ours(summary, kernel, &c.here_value, c));
        }
    }
    let simulated = of.comparisons.iter().any(|c| matches!(c.here_value, Figure::Simulated { .. }));
    Some(Chart {
        title: format!("{title}{}", if simulated { " (simulated)" } else { "" }),
        subtitle: format!(
            "{}. Published bars are of other machines: what can be compared is how bars lie to each other.{}",
            of.target.source(),
            if simulated { " Energy here is SIMULATED, not measured." } else { "" }
        ),
        axis,
        may_be_log: true,
        reference: None,
        band,
        legend: Vec::new(),
        panels,
        empty: "There is no published figure.",
    })
}

fn theirs(name: &str, value: Option<f64>, color: RGBColor) -> Row {
    let labels = [name.to_owned(), "published".to_owned()];
    match value {
        Some(value) => Row {
            labels,
            mark: Mark::Bar { value, spread: None, limit: None, fill: Fill::Solid(color) },
            text: round_significant(value, 3),
        },
        None => Row { labels, mark: Mark::Gap, text: "not published".to_owned() },
    }
}

fn ours(summary: &Summary, kernel: &str, value: &Figure<f64>, c: &Comparison) -> Row {
    let labels = [kernel.to_owned(), "here".to_owned()];
    match value.found() {
        Ok((&median, _)) => {
            let tied = c.tied.as_ref().map_or_else(String::new, |tied| format!(", {tied}"));
            let fill = fill_of(value, color_of(summary, kernel));
            let text = format!("{}{}{tied}", round_significant(median, 3), mark_of(value));
            Row { labels, mark: Mark::Bar { value: median, spread: None, limit: None, fill }, text }
        }
        Err(why) => Row { labels, mark: Mark::Gap, text: format!("not here: {why}") },
    }
}

/// What a figure is, where it was not measured.
fn mark_of<T>(figure: &Figure<T>) -> String {
    figure.not_measured().map_or_else(String::new, |kind| format!(", {kind}"))
}

fn here(summary: &Summary, comparison: &Comparison) -> Row {
    let kernel = comparison.kernel.clone().unwrap_or_else(|| "here".to_owned());
    let (mark, text) = match (comparison.here_ratio.found(), &comparison.verdict) {
        (Ok((ratio, _)), verdict) => {
            let spread = (ratio.rounds > 1).then_some((ratio.min, ratio.max));
            let fill = fill_of(&comparison.here_ratio, color_of(summary, &kernel));
            let how = mark_of(&comparison.here_ratio);
            let tied = comparison.tied.as_ref().map_or_else(String::new, |tied| format!(", {tied}"));
            let text = format!("{}x{how}{tied}, {verdict}", round_significant(ratio.median, 3));
            (Mark::Bar { value: ratio.median, spread, limit: None, fill }, text)
        }
        (Err(_), Verdict::NotTestable(why)) => (Mark::Gap, format!("not testable here: {why}")),
        (Err(why), _) => (Mark::Gap, why.to_owned()),
    };
    Row { labels: [kernel, String::new()], mark, text }
}
