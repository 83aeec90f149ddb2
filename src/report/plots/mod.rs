//! The figures of a run, from its summary.

mod axis;
mod chart;
mod scene;

use plotters::style::RGBColor;

use super::text::{count, ratio, round_significant};
use crate::error::Result;
use crate::journal::Case;
use crate::stats::{BASELINES, Row, Status, Summary};
use chart::{Chart, Group, Mark, Panel};
use scene::Scene;

/// Colours of kernels. They differ in luminance first (each step is seen in greyscale) and along
/// blue to yellow second (which the common colour blindnesses keep).
const PALETTE: [RGBColor; 8] = [
    RGBColor(0x1b, 0x3a, 0x6b), // deep blue
    RGBColor(0xf0, 0xe4, 0x9c), // pale yellow
    RGBColor(0x2f, 0x86, 0x8c), // teal
    RGBColor(0xe8, 0xa0, 0x3c), // amber
    RGBColor(0x6a, 0x3d, 0x6f), // plum
    RGBColor(0xa8, 0xd5, 0xe8), // light blue
    RGBColor(0xb8, 0x5a, 0x3c), // rust
    RGBColor(0x8f, 0xa8, 0xc8), // steel
];
/// The baselines are grey, so that colour belongs to what is compared with them.
const BASELINE_COLORS: [RGBColor; 2] = [RGBColor(0xe4, 0xe4, 0xe4), RGBColor(0xa4, 0xa4, 0xa4)];
const ANONYMOUS: RGBColor = RGBColor(0x1b, 0x3a, 0x6b);
const FILE_BACKED: RGBColor = RGBColor(0xa8, 0xd5, 0xe8);

/// Every figure with the name of its files.
pub(super) fn figures(summary: &Summary) -> Result<Vec<(&'static str, Scene)>> {
    Ok(vec![
        ("decode_tok_s", decode(summary).lay_out()?),
        ("speedup", speedup(summary).lay_out()?),
        ("rss", rss(summary).lay_out()?),
        ("latency", latency(summary).lay_out()?),
    ])
}

/// The colour of a kernel: grey for a baseline, else by its place among the run's other kernels.
fn color_of(summary: &Summary, kernel: &str) -> RGBColor {
    if let Some(i) = BASELINES.iter().position(|b| *b == kernel) {
        return BASELINE_COLORS[i];
    }
    let mut others: Vec<&str> = Vec::new();
    for row in &summary.rows {
        let name = row.case.kernel.as_str();
        if !BASELINES.contains(&name) && !others.contains(&name) {
            others.push(name);
        }
    }
    let place = others.iter().position(|o| *o == kernel).unwrap_or(0);
    PALETTE[place % PALETTE.len()]
}

fn decode(summary: &Summary) -> Chart {
    Chart {
        title: "Decode speed".to_owned(),
        subtitle: format!(
            "Suite {}. {}Hollow box: roofline, what the measured memory bandwidth allows.",
            summary.suite,
            rounds(summary, "Median of", ", whiskers from the slowest to the fastest")
        ),
        axis: "tokens/s",
        may_be_log: true,
        reference: None,
        legend: Vec::new(),
        panels: by_case(summary, |row| {
            let speed = row.decode_tok_s?;
            let percent = row.decode_roofline_percent.value();
            let text = round_significant(speed.median, 3)
                + &percent.map_or_else(String::new, |p| format!(" ({p:.0} % of roofline)"));
            let spread = (speed.rounds > 1).then_some((speed.min, speed.max));
            let color = color_of(summary, &row.case.kernel);
            Some((Mark::Bar { value: speed.median, spread, limit: row.decode_roofline_tok_s, color }, text))
        }),
        empty: "This run has no cases.",
    }
}

fn rss(summary: &Summary) -> Chart {
    let largest = summary.rows.iter().filter_map(|r| r.memory.value()).map(|m| m.peak.0).max();
    let (unit, axis) = match largest.unwrap_or(0) {
        0..1_000_000_000 => (1e6, "resident memory (MB)"),
        _ => (1e9, "resident memory (GB)"),
    };
    Chart {
        title: "Memory of the worker process".to_owned(),
        subtitle: format!(
            "Suite {}. {}Bars: at the end of decode. Upright line and number: peak of the process.",
            summary.suite,
            rounds(summary, "Median of", ", the peak is the largest of them")
        ),
        axis,
        may_be_log: false,
        reference: None,
        legend: vec![
            (ANONYMOUS, "anonymous (heap, packed weights)"),
            (FILE_BACKED, "file-backed (mapped model)"),
        ],
        panels: by_case(summary, |row| {
            let memory = row.memory.value()?;
            let scaled = |bytes: crate::units::Bytes| bytes.0 as f64 / unit;
            let parts = vec![(scaled(memory.anon), ANONYMOUS), (scaled(memory.file), FILE_BACKED)];
            let peak = scaled(memory.peak);
            Some((Mark::Stack { parts, mark: peak }, round_significant(peak, 3)))
        }),
        empty: "This run has no cases.",
    }
}

fn latency(summary: &Summary) -> Chart {
    Chart {
        title: "Latency of a generated token".to_owned(),
        subtitle: format!(
            "Suite {}. All decode steps of {}. Dot: p50; ticks: p90 and, longer, p99; end of the line: slowest \
             step. Numbers: p50 / p99 / slowest.",
            summary.suite,
            count(summary.rounds, "round")
        ),
        axis: "milliseconds per token",
        may_be_log: true,
        reference: None,
        legend: Vec::new(),
        panels: by_case(summary, |row| {
            let l = row.latency?;
            let text = [l.p50_ms, l.p99_ms, l.max_ms].map(|v| round_significant(v, 3)).join(" / ");
            let color = color_of(summary, &row.case.kernel);
            Some((Mark::Range { values: [l.p50_ms, l.p90_ms, l.p99_ms, l.max_ms], color }, text))
        }),
        empty: "This run has no cases.",
    }
}

fn speedup(summary: &Summary) -> Chart {
    let mut panels = Vec::new();
    for baseline in BASELINES.into_iter().rev() {
        // The naive kernel is only ever divided by: its fraction of f16 is in speedup.csv.
        for s in summary.speedups.iter().filter(|s| s.baseline == baseline && s.case.kernel != BASELINES[0]) {
            let (mark, text) = match s.decode {
                Some(decode) => (
                    Mark::Bar {
                        value: decode.median,
                        spread: (decode.rounds > 1).then_some((decode.min, decode.max)),
                        limit: None,
                        color: color_of(summary, &s.case.kernel),
                    },
                    ratio(decode),
                ),
                None => {
                    (Mark::Gap, if s.status == "ok" { "no decode rate".to_owned() } else { s.status.clone() })
                }
            };
            let title = format!("against {baseline}, {}", setting(&s.case));
            place(&mut panels, title, summary, &s.case, mark, text);
        }
    }
    Chart {
        title: "Decode speed relative to a baseline kernel".to_owned(),
        subtitle: format!(
            "Suite {}. {}1 is as fast as the baseline.",
            summary.suite,
            rounds(
                summary,
                "Ratio within each round; median of",
                ", whiskers and brackets from smallest to largest"
            )
        ),
        axis: "times as fast",
        may_be_log: true,
        reference: Some(1.0),
        legend: Vec::new(),
        panels,
        empty: "This run has no baseline kernel, or nothing to compare with one.",
    }
}

/// `Median of 3 rounds, whiskers ... . `, or that there was but one round.
fn rounds(summary: &Summary, statistic: &str, spread: &str) -> String {
    match summary.rounds {
        1 => "One round, no spread. ".to_owned(),
        n => format!("{statistic} {n} rounds{spread}. "),
    }
}

/// What a panel holds constant.
fn setting(case: &Case) -> String {
    format!(
        "{}, prompt {}, generated {}, KV {}",
        count(case.threads, "thread"),
        case.n_prompt,
        case.n_gen,
        case.kv
    )
}

/// A panel for each threads, workload and KV type; in it a group a model; in it a row a case.
/// `mark` draws a case that is usable; one without figures keeps its row and says why.
fn by_case(summary: &Summary, mark: impl Fn(&Row) -> Option<(Mark, String)>) -> Vec<Panel> {
    let mut panels = Vec::new();
    for row in &summary.rows {
        let drawn = if row.usable() { mark(row) } else { None };
        let (mark, text) = match (drawn, &row.status) {
            (Some((mark, text)), Status::Incomplete { complete, planned, .. }) => {
                (mark, format!("{text}, {complete} of {planned} rounds"))
            }
            (Some(drawn), _) => drawn,
            (None, Status::Ok) => (Mark::Gap, "no figure".to_owned()),
            (None, status) => (Mark::Gap, status.to_string()),
        };
        place(&mut panels, setting(&row.case), summary, &row.case, mark, text);
    }
    panels
}

/// Adds a row to its panel and group, which begin where they are first needed.
fn place(panels: &mut Vec<Panel>, title: String, summary: &Summary, case: &Case, mark: Mark, text: String) {
    let several_backends = summary.rows.iter().any(|r| r.case.backend != summary.rows[0].case.backend);
    let label =
        if several_backends { format!("{}: {}", case.backend, case.model) } else { case.model.clone() };
    let panel = panels.iter().position(|p| p.title == title).unwrap_or_else(|| {
        panels.push(Panel { title, groups: Vec::new() });
        panels.len() - 1
    });
    let groups = &mut panels[panel].groups;
    let group = groups.iter().position(|g| g.label == label).unwrap_or_else(|| {
        groups.push(Group { label, rows: Vec::new() });
        groups.len() - 1
    });
    groups[group].rows.push(chart::Row { label: format!("{} {}", case.kernel, case.isa), mark, text });
}
