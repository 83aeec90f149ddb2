//! The figures that show a trend: speed over size, speed over threads, energy over speed.

use std::collections::HashMap;

use super::chart::INK;
use super::lines::{Lines, Look, Panel, Point, Series};
use super::{PALETTE, color_of, model_label, rounds, setting};
use crate::journal::Case;
use crate::published::Target;
use crate::report::text::{count, ratio, round_significant};
use crate::stats::reproduce::READING_TOK_S;
use crate::stats::{BASELINES, Row, Spread, Summary};

/// Colours of published lines: none that a kernel has beside them.
const PUBLISHED: [plotters::style::RGBColor; 2] = [INK, PALETTE[6]];

/// Decode speed of every kernel over the size of the models.
pub(super) fn size(summary: &Summary) -> Lines {
    let mut panels: Vec<Panel> = Vec::new();
    let mut missing: HashMap<String, usize> = HashMap::new();
    let mut tied = false;
    for row in summary.rows.iter().filter(|r| of_best_isa(summary, &r.case)) {
        let title = setting(&row.case);
        let (Some(speed), Some(parameters), true) = (row.decode_tok_s, row.parameters, row.usable()) else {
            *missing.entry(title).or_default() += 1;
            continue;
        };
        let panel = panel_of(&mut panels, &title);
        name_size(panel, parameters, &row.case, &mut tied);
        let note = format!(
            "{}, {} {}: {} tokens/s",
            row.case.model_label(),
            label(summary, &row.case),
            row.case.isa,
            brackets(speed)
        );
        add(summary, panel, &row.case, point(parameters, speed, note));
    }
    for panel in &mut panels {
        if let Some(n) = missing.get(&panel.title) {
            panel.remark = format!("{} without a figure; the table says why.", count(*n as u64, "case"));
        }
    }
    Lines {
        title: "Decode speed against model size".to_owned(),
        subtitle: format!(
            "Suite {}. {}Size: weights that a token is multiplied with. Of each kernel the fastest \
             instruction set. Grey band: the speed at which people read.{}",
            summary.suite,
            rounds(summary, "Median of", ", bars slowest to fastest"),
            if tied { " *: measured on tied layers." } else { "" }
        ),
        x: ("parameters", true),
        y: ("decode, tokens/s", true),
        band: Some((READING_TOK_S.0, READING_TOK_S.1, ["people read", "5-7 tokens/s"])),
        panels: sorted(panels),
        empty: "No case has a speed and a size.",
    }
}

/// Speedup of every ternary kernel over f16 against the size of the models, beside the published ones if the run
/// reproduces a table of them.
pub(super) fn speedup(summary: &Summary) -> Lines {
    let mut panels: Vec<Panel> = Vec::new();
    let mut tied = false;
    let against = BASELINES[1];
    let parameters_of = |case: &Case| summary.rows.iter().find(|r| r.case.id == case.id)?.parameters;
    let beyond_baselines = |case: &Case| !BASELINES.contains(&case.kernel.as_str());
    for s in summary.speedups.iter().filter(|s| s.baseline == against && beyond_baselines(&s.case)) {
        let (Some(ratios), Some(parameters)) = (s.decode, parameters_of(&s.case)) else { continue };
        if !of_best_isa(summary, &s.case) {
            continue;
        }
        let panel = panel_of(&mut panels, &setting(&s.case));
        name_size(panel, parameters, &s.case, &mut tied);
        let (model, kernel) = (s.case.model_label(), label(summary, &s.case));
        let note = format!("{model}, {kernel} {}: {} of {against}", s.case.isa, ratio(ratios));
        add(summary, panel, &s.case, point(parameters, ratios, note));
    }
    let published = summary.reproduction.iter().filter(|r| r.target == Target::Speed);
    let mut sources = Vec::new();
    for c in published.flat_map(|r| &r.comparisons) {
        let (Some(parameters), Some(ratio)) = (c.parameters, c.published_ratio) else { continue };
        if !sources.contains(&c.cpu.as_str()) {
            sources.push(&c.cpu);
        }
        let color = PUBLISHED[sources.iter().position(|s| *s == c.cpu).unwrap_or(0) % PUBLISHED.len()];
        for panel in &mut panels {
            let line = series(panel, &format!("published, {}", c.cpu), color, Look::Bound);
            if line.points.iter().all(|p| p.x != parameters) {
                line.points.push(Point {
                    x: parameters,
                    y: ratio,
                    spread: None,
                    hollow: false,
                    note: String::new(),
                });
            }
        }
    }
    Lines {
        title: "Decode speedup against model size".to_owned(),
        subtitle: format!(
            "Suite {}. {}Over {against}. Size: weights that a token is multiplied with. Of each kernel the fastest \
             instruction set.{}{}",
            summary.suite,
            rounds(summary, "Ratio within each round; median of", ", bars smallest to largest"),
            if sources.is_empty() { "" } else { " Dashed: as published, of other machines." },
            if tied { " *: measured on tied layers." } else { "" }
        ),
        x: ("parameters", true),
        y: ("times as fast as f16", true),
        band: None,
        panels: sorted(panels),
        empty: "No case has a speedup over f16 and a size.",
    }
}

/// Marks the size of a case's model by its name, with a star if its layers are tied: a label of full length would
/// have no room.
fn name_size(panel: &mut Panel, parameters: f64, case: &Case, tied: &mut bool) {
    *tied |= case.tied.is_some();
    let star = if case.tied.is_some() { "*" } else { "" };
    let name = (parameters, format!("{}{star}", case.model));
    if !panel.names.contains(&name) {
        panel.names.push(name);
    }
}

/// Speedup of every kernel by more threads, with that of the bandwidth probe.
pub(super) fn scaling(summary: &Summary) -> Lines {
    let mut panels: Vec<Panel> = Vec::new();
    for s in summary.scaling.iter().filter(|s| of_best_isa(summary, &s.case)) {
        let title = format!(
            "{}, prompt {}, generated {}, KV {}",
            model_label(summary, &s.case),
            s.case.n_prompt,
            s.case.n_gen,
            s.case.kv
        );
        let threads = f64::from(s.case.threads);
        let panel = panel_of(&mut panels, &title);
        if let Some(bandwidth) = s.bandwidth {
            let bound = series(panel, "memory bandwidth", INK, Look::Bound);
            if bound.points.iter().all(|p| p.x != threads) {
                bound.points.push(point(threads, bandwidth, String::new()));
            }
        }
        match s.decode {
            Some(decode) => {
                let note = format!(
                    "{} {}, {}: {} of {}",
                    label(summary, &s.case),
                    s.case.isa,
                    count(s.case.threads, "thread"),
                    ratio(decode),
                    count(s.base_threads, "thread")
                );
                add(summary, panel, &s.case, point(threads, decode, note));
            }
            None => panel.remark = "Cases without a figure are left out; the table says why.".to_owned(),
        }
    }
    Lines {
        title: "Decode speed against threads".to_owned(),
        subtitle: format!(
            "Suite {}. {}Of each kernel the fastest instruction set; points are set apart to be seen. Dashed: what the bandwidth probe gains, the bound of a decode \
             that waits for memory alone.",
            summary.suite,
            rounds(summary, "Ratio within each round; median of", ", bars smallest to largest")
        ),
        x: ("threads", false),
        y: ("times as fast as with the fewest", false),
        band: None,
        panels: sorted(panels),
        empty: "No case was run with several thread counts.",
    }
}

/// Energy of a token over speed: what is low and to the right is better than what is not.
pub(super) fn pareto(summary: &Summary) -> Lines {
    let mut panels: Vec<Panel> = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    for row in summary.rows.iter().filter(|r| r.usable() && of_best_isa(summary, &r.case)) {
        let (Some(speed), Some(energy)) = (row.decode_tok_s, row.energy_j_per_token.value()) else {
            continue;
        };
        let word = row.energy_j_per_token.kind();
        if !words.contains(&word) {
            words.push(word);
        }
        let title = format!(
            "{}, prompt {}, generated {}, KV {}",
            model_label(summary, &row.case),
            row.case.n_prompt,
            row.case.n_gen,
            row.case.kv
        );
        let note = format!(
            "{} {}, {}: {} tokens/s, {} J/token, {}",
            label(summary, &row.case),
            row.case.isa,
            count(row.case.threads, "thread"),
            round_significant(speed.median, 3),
            brackets(*energy),
            row.energy_j_per_token.provenance()
        );
        let hollow = word != "measured";
        let point = Point { hollow, ..point(speed.median, *energy, note) };
        add(summary, panel_of(&mut panels, &title), &row.case, point);
    }
    let marked: Vec<&str> = words.iter().copied().filter(|w| *w != "measured").collect();
    let suffix = if marked.is_empty() { String::new() } else { format!(" ({})", marked.join(", ")) };
    Lines {
        title: format!("Energy against speed{suffix}"),
        subtitle: format!(
            "Suite {}. {}Lower and further right is better. Of each kernel the fastest instruction set. Points of a kernel with several thread counts are \
             joined.{}",
            summary.suite,
            rounds(summary, "Medians of", ", bars lowest to highest energy"),
            if marked.is_empty() {
                String::new()
            } else {
                format!(" White inside: {}, not a measurement.", marked.join(" or "))
            }
        ),
        x: ("decode, tokens/s", true),
        y: ("energy, J/token", true),
        band: None,
        panels: sorted(panels),
        empty: "No case has an energy.",
    }
}

fn point(x: f64, y: Spread, note: String) -> Point {
    let spread = (y.rounds > 1).then_some((y.min, y.max));
    Point { x, y: y.median, spread, hollow: false, note }
}

fn brackets(spread: Spread) -> String {
    let median = round_significant(spread.median, 3);
    match spread.rounds {
        0 | 1 => median,
        _ => format!("{median} ({}-{})", round_significant(spread.min, 3), round_significant(spread.max, 3)),
    }
}

fn panel_of<'a>(panels: &'a mut Vec<Panel>, title: &str) -> &'a mut Panel {
    let at = panels.iter().position(|p| p.title == title).unwrap_or_else(|| {
        panels.push(Panel {
            title: title.to_owned(),
            series: Vec::new(),
            names: Vec::new(),
            remark: String::new(),
        });
        panels.len() - 1
    });
    &mut panels[at]
}

fn series<'a>(
    panel: &'a mut Panel,
    label: &str,
    color: plotters::style::RGBColor,
    look: Look,
) -> &'a mut Series {
    let at = panel.series.iter().position(|s| s.label == label).unwrap_or_else(|| {
        panel.series.push(Series { label: label.to_owned(), color, look, points: Vec::new() });
        panel.series.len() - 1
    });
    &mut panel.series[at]
}

/// Adds a point to the series of its kernel.
fn add(summary: &Summary, panel: &mut Panel, case: &Case, point: Point) {
    let mut kernels: Vec<&str> = Vec::new();
    for row in &summary.rows {
        if !kernels.contains(&row.case.kernel.as_str()) {
            kernels.push(&row.case.kernel);
        }
    }
    let shape = kernels.iter().position(|k| *k == case.kernel).unwrap_or(0);
    let color = color_of(summary, &case.kernel);
    series(panel, &label(summary, case), color, Look::Measured(shape)).points.push(point);
}

/// The kernel, with its backend where there are several.
fn label(summary: &Summary, case: &Case) -> String {
    match summary.rows.iter().any(|r| r.case.backend != case.backend) {
        true => format!("{}: {}", case.backend, case.kernel),
        false => case.kernel.clone(),
    }
}

/// Whether a case has the instruction set in which its kernel was fastest on this model and workload: one
/// line a kernel, as nobody would choose another set.
fn of_best_isa(summary: &Summary, case: &Case) -> bool {
    let same = |c: &Case| {
        (&c.backend, &c.model, &c.kernel, c.n_prompt, c.n_gen, &c.kv)
            == (&case.backend, &case.model, &case.kernel, case.n_prompt, case.n_gen, &case.kv)
    };
    let rate = |r: &Row| if r.usable() { r.decode_tok_s.map_or(0.0, |s| s.median) } else { 0.0 };
    let rows = summary.rows.iter().filter(|r| same(&r.case));
    rows.max_by(|a, b| rate(a).total_cmp(&rate(b))).is_none_or(|best| best.case.isa == case.isa)
}

/// The points of each series from left to right.
fn sorted(mut panels: Vec<Panel>) -> Vec<Panel> {
    for series in panels.iter_mut().flat_map(|p| &mut p.series) {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    panels
}
