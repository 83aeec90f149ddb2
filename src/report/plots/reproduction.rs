//! Published ratios and those of the run, side by side.

use super::chart::{Chart, Fill, Group, Mark, Panel, Row};
use super::{color_of, fill_of};
use crate::figure::Figure;
use crate::report::text::round_significant;
use crate::stats::reproduce::{Comparison, Reproduction, Verdict};
use crate::stats::{BASELINES, Summary};

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
    Chart {
        title: "Published and here".to_owned(),
        subtitle: format!(
            "{} ({}). Ratios against {}; whiskers: range over the rounds.{}",
            of.target.name(),
            of.target.source(),
            of.against,
            if simulated { " Energy here is SIMULATED, not measured." } else { "" }
        ),
        axis: "ratio, times",
        may_be_log: true,
        reference: Some(1.0),
        legend: Vec::new(),
        panels,
        empty: "There is no published ratio.",
    }
}

fn here(summary: &Summary, comparison: &Comparison) -> Row {
    let kernel = comparison.kernel.clone().unwrap_or_else(|| "here".to_owned());
    let (mark, text) = match (comparison.here_ratio.found(), &comparison.verdict) {
        (Ok((ratio, _)), verdict) => {
            let spread = (ratio.rounds > 1).then_some((ratio.min, ratio.max));
            let fill = fill_of(&comparison.here_ratio, color_of(summary, &kernel));
            let how = match comparison.here_ratio {
                Figure::Measured { .. } => "",
                Figure::Simulated { .. } => "simulated, ",
                Figure::Modelled { .. } => "modelled, ",
                Figure::Assumed { .. } | Figure::Unavailable { .. } => "assumed, ",
            };
            let tied = comparison.tied.as_ref().map_or_else(String::new, |tied| format!("{tied}, "));
            let text = format!("{}x, {how}{tied}{verdict}", round_significant(ratio.median, 3));
            (Mark::Bar { value: ratio.median, spread, limit: None, fill }, text)
        }
        (Err(_), Verdict::NotTestable(why)) => (Mark::Gap, format!("not testable here: {why}")),
        (Err(why), _) => (Mark::Gap, why.to_owned()),
    };
    Row { labels: [kernel, String::new()], mark, text }
}
