//! The figures of a run, from its summary.

mod axis;
mod chart;
mod lines;
mod reproduction;
mod scene;
mod trends;

use plotters::style::RGBColor;

use super::text::{count, ratio, round_significant};
use crate::error::Result;
use crate::figure::Figure;
use crate::journal::{Case, Phase};
use crate::stats::{BASELINES, Row, Spread, Status, Summary, phase_name};
use chart::{Chart, Fill, Group, INK, Mark, Panel};
use lines::Lines;
use scene::Scene;

/// Colours of kernels. They differ in luminance first (CIE L* of the ten, greys included, is at
/// least 6 apart, so each is seen in greyscale) and along blue to yellow second (which the common
/// colour blindnesses keep). Neighbours in the list are far apart.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0x12, 0x2b, 0x5c), // deep blue
    RGBColor(0xc4, 0x6f, 0x33), // copper
    RGBColor(0xf2, 0xbd, 0x4b), // amber
    RGBColor(0x12, 0x5d, 0x66), // teal
    RGBColor(0xc4, 0xe3, 0xf2), // pale blue
    RGBColor(0x5c, 0x2c, 0x6e), // purple
    RGBColor(0x7b, 0x9c, 0xc4), // steel
    RGBColor(0x56, 0x76, 0x3c), // moss
];
/// The baselines are grey, so that colour belongs to what is compared with them.
const BASELINE_COLORS: [RGBColor; 2] = [RGBColor(0xf0, 0xf0, 0xf0), RGBColor(0xb0, 0xb0, 0xb0)];
const ANONYMOUS: RGBColor = PALETTE[0];
const FILE_BACKED: RGBColor = PALETTE[4];

/// A figure of a run.
pub(super) struct Plot {
    /// Name of its files.
    pub(super) name: &'static str,
    /// What it shows, in a line.
    pub(super) title: String,
    /// What it shows, for who does not see it.
    pub(super) alt: String,
    /// The file with its figures, and the columns they are in (beside those that identify a case).
    pub(super) csv: &'static str,
    pub(super) columns: &'static [&'static str],
    pub(super) scene: Scene,
}

impl Plot {
    fn bars(
        name: &'static str,
        chart: &Chart,
        (csv, columns): (&'static str, &'static [&'static str]),
    ) -> Result<Plot> {
        let rows: usize = chart.panels.iter().flat_map(|p| &p.groups).map(|g| g.rows.len()).sum();
        let alt = format!("Bars of {}, {}. {}", chart.axis, count(rows as u64, "row"), chart.subtitle);
        let title = chart.title.clone();
        Ok(Plot { name, title, alt, csv, columns, scene: chart.lay_out()? })
    }

    fn lines(
        name: &'static str,
        lines: &Lines,
        (csv, columns): (&'static str, &'static [&'static str]),
    ) -> Result<Plot> {
        let series: usize = lines.panels.iter().map(|p| p.series.len()).sum();
        let alt = format!(
            "Lines of {} over {}, {} in {}. {}",
            lines.y.0,
            lines.x.0,
            count(series as u64, "line"),
            count(lines.panels.len() as u64, "panel"),
            lines.subtitle
        );
        let title = lines.title.clone();
        Ok(Plot { name, title, alt, csv, columns, scene: lines.lay_out()? })
    }
}

/// Every figure of a run, in the order of the report; the last ones only where their figures are.
pub(super) fn figures(summary: &Summary) -> Result<Vec<Plot>> {
    const RATE: &[&str] =
        &["decode_tok_s", "decode_tok_s_min", "decode_tok_s_max", "decode_roofline_tok_s", "prefill_tok_s"];
    let mut figures = vec![
        Plot::bars("decode_tok_s", &decode(summary), ("summary.csv", RATE))?,
        Plot::bars(
            "speedup",
            &speedup(summary),
            (
                "speedup.csv",
                &[
                    "baseline_kernel",
                    "baseline_isa",
                    "decode_speedup",
                    "decode_speedup_min",
                    "decode_speedup_max",
                ],
            ),
        )?,
        Plot::bars(
            "rss",
            &rss(summary),
            ("summary.csv", &["rss_anon_bytes", "rss_file_bytes", "rss_peak_bytes"]),
        )?,
        Plot::bars(
            "latency",
            &latency(summary),
            ("summary.csv", &["latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "latency_max_ms"]),
        )?,
        Plot::bars(
            "rooflines",
            &rooflines(summary),
            (
                "summary.csv",
                &[
                    "decode_roofline_percent",
                    "roofline_provenance",
                    "prefill_roofline_percent",
                    "prefill_roofline_provenance",
                ],
            ),
        )?,
    ];
    let energies = &[
        "phase",
        "source",
        "energy_j_per_token",
        "energy_provenance",
        "modelled_arithmetic_7nm_j_per_token",
        "modelled_memory_j_per_token",
        "assumed_tdp_j_per_token",
    ];
    figures.push(Plot::bars("energy", &energy(summary), ("energy.csv", energies))?);
    if let Some(of) = &summary.reproduction {
        let columns = &[
            "published_on",
            "subject",
            "quantity",
            "kernel",
            "published_ratio",
            "here_ratio",
            "here_ratio_min",
            "here_ratio_max",
            "tied",
            "here_provenance",
            "verdict",
        ];
        let chart = reproduction::reproduction(summary, of);
        figures.insert(0, Plot::bars("reproduction", &chart, ("reproduction.csv", columns))?);
        if let Some(chart) = reproduction::published(summary, of) {
            let columns = &[
                "published_on",
                "subject",
                "unit",
                "published_baseline",
                "published_value",
                "kernel",
                "here_baseline",
                "here_value",
                "tied",
                "here_value_provenance",
                "verdict",
            ];
            figures.insert(1, Plot::bars("published", &chart, ("reproduction.csv", columns))?);
        }
    }
    let any = |has: fn(&Row) -> bool| summary.rows.iter().any(has);
    if any(|r| r.usable() && r.parameters.is_some()) {
        let columns = &["parameters", "decode_tok_s", "decode_tok_s_min", "decode_tok_s_max"];
        figures.push(Plot::lines("size", &trends::size(summary), ("summary.csv", columns))?);
    }
    if any(|r| r.usable() && r.parameters.is_some() && BASELINES[1] == r.case.kernel) {
        let columns = &["baseline", "decode_speedup", "decode_speedup_min", "decode_speedup_max"];
        figures.push(Plot::lines("speedup_size", &trends::speedup(summary), ("speedup.csv", columns))?);
    }
    if !summary.scaling.is_empty() {
        let columns = &[
            "base_threads",
            "decode_scaling",
            "decode_scaling_min",
            "decode_scaling_max",
            "bandwidth_scaling",
        ];
        figures.push(Plot::lines("scaling", &trends::scaling(summary), ("scaling.csv", columns))?);
    }
    if any(|r| r.memory_use.predicted.is_some()) {
        let columns = &[
            "predicted_weights_bytes",
            "predicted_embedding_bytes",
            "predicted_kv_cache_bytes",
            "predicted_scratch_bytes",
            "rss_anon_bytes",
            "unaccounted_bytes",
            "rss_file_bytes",
            "rss_peak_bytes",
        ];
        figures.push(Plot::bars("memory", &memory(summary), ("memory.csv", columns))?);
    }
    if any(|r| !r.profile.is_empty()) {
        let columns = &["round", "phase", "operation", "work_ms_per_token", "wait_ms_per_token"];
        figures.push(Plot::bars("profile", &profile(summary), ("profile.csv", columns))?);
    }
    if any(|r| r.usable() && r.energy_j_per_token.value().is_some()) {
        let columns = &[
            "decode_tok_s",
            "energy_j_per_token",
            "energy_j_per_token_min",
            "energy_j_per_token_max",
            "energy_provenance",
        ];
        figures.push(Plot::lines("pareto", &trends::pareto(summary), ("summary.csv", columns))?);
    }
    Ok(figures)
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

/// What was measured in full colour; everything else hatched, by its provenance.
fn fill_of<T>(figure: &Figure<T>, color: RGBColor) -> Fill {
    match figure {
        Figure::Measured { .. } | Figure::Unavailable { .. } => Fill::Solid(color),
        Figure::Simulated { .. } => Fill::Rising(INK),
        Figure::Modelled { .. } => Fill::Falling(INK),
        Figure::Assumed { .. } => Fill::Crossed(INK),
    }
}

fn decode(summary: &Summary) -> Chart {
    let bounded = summary.rows.iter().any(|r| r.usable() && r.decode_roofline_tok_s.is_some());
    Chart {
        title: "Decode speed".to_owned(),
        subtitle: format!(
            "Suite {}. {}{}",
            summary.suite,
            rounds(summary, "Median of", ", whiskers slowest to fastest"),
            if bounded { "Hollow box: roofline, at the rate of only reading the weights." } else { "" }
        ),
        axis: "tokens/s",
        may_be_log: true,
        reference: None,
        band: None,
        legend: Vec::new(),
        panels: by_case(summary, |row| {
            let speed = row.decode_tok_s?;
            let percent = row.decode_roofline_percent.value();
            let text = round_significant(speed.median, 3)
                + &percent.map_or_else(String::new, |p| format!(" ({p:.0} % of roofline)"));
            let spread = (speed.rounds > 1).then_some((speed.min, speed.max));
            let fill = Fill::Solid(color_of(summary, &row.case.kernel));
            Some((Mark::Bar { value: speed.median, spread, limit: row.decode_roofline_tok_s, fill }, text))
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
            "Suite {}. {}Bars: at the end of decode. Upright line, number: peak.",
            summary.suite,
            rounds(summary, "Median of", ", largest peak")
        ),
        axis,
        may_be_log: false,
        reference: None,
        band: None,
        legend: vec![
            (Fill::Solid(ANONYMOUS), "anonymous (heap, packed weights)"),
            (Fill::Solid(FILE_BACKED), "file-backed (mapped model)"),
        ],
        panels: by_case(summary, |row| {
            let memory = row.memory.value()?;
            let scaled = |bytes: crate::units::Bytes| bytes.0 as f64 / unit;
            let parts = vec![(scaled(memory.anon), ANONYMOUS), (scaled(memory.file), FILE_BACKED)];
            let peak = scaled(memory.peak);
            let text = match row.memory_use.full.value() {
                Some(full) => format!("{}; full model {} modelled", memory.peak, full.total()),
                None => memory.peak.to_string(),
            };
            Some((Mark::Stack { parts, mark: Some(peak) }, text))
        }),
        empty: "This run has no cases.",
    }
}

/// Parts of memory, predicted and measured, in the colours of both.
const PARTS: [(RGBColor, &str); 8] = [
    (PALETTE[0], "predicted: weights"),
    (PALETTE[2], "embedding"),
    (PALETTE[3], "KV cache"),
    (PALETTE[1], "scratch"),
    (PALETTE[6], "measured: anonymous"),
    (PALETTE[4], "file-backed"),
    (PALETTE[5], "shared"),
    (BASELINE_COLORS[1], "swapped out"),
];

/// What model and engine were predicted to take above what the kernel counted, a pair of rows a case.
fn memory(summary: &Summary) -> Chart {
    let largest = summary.rows.iter().filter_map(|r| r.memory.value()).map(|m| m.peak.0).max();
    let (unit, axis) = match largest.unwrap_or(0) {
        0..1_000_000_000 => (1e6, "memory (MB)"),
        _ => (1e9, "memory (GB)"),
    };
    let bytes = |value: f64| crate::units::Bytes(value.max(0.0) as u64);
    let mut panels = by_case(summary, |row| {
        let predicted = row.memory_use.predicted?;
        let parts = [predicted.weights, predicted.embedding, predicted.kv_cache, predicted.scratch];
        let parts = parts.into_iter().zip(PARTS).map(|(part, (color, _))| (part.0 as f64 / unit, color));
        let text = format!("{} predicted", predicted.total());
        Some((Mark::Stack { parts: parts.collect(), mark: None }, text))
    });
    let measured = by_case(summary, |row| {
        let held = &row.memory_use;
        let parts = [&held.anon, &held.file, &held.shmem, &held.swapped].map(|f| f.value().copied());
        let sum: f64 = parts.iter().flatten().sum();
        held.anon.value()?;
        let parts =
            parts.into_iter().zip(&PARTS[4..]).map(|(part, (color, _))| (part.unwrap_or(0.0) / unit, *color));
        let peak = row.memory.value().map(|m| m.peak);
        let text =
            format!("{}{}", bytes(sum), peak.map_or_else(String::new, |peak| format!(", peak {peak}")));
        Some((
            Mark::Stack {
                parts: parts.filter(|p| p.0 > 0.0).collect(),
                mark: peak.map(|peak| peak.0 as f64 / unit),
            },
            text,
        ))
    });
    for (group, below) in
        panels.iter_mut().flat_map(|p| &mut p.groups).zip(measured.into_iter().flat_map(|p| p.groups))
    {
        let mut below = below.rows.into_iter();
        let above = std::mem::take(&mut group.rows);
        for row in above {
            // One reason is enough for a case that has neither.
            let second = below.next().filter(|second| !matches!(second.mark, Mark::Gap));
            group.rows.push(row);
            group.rows.extend(second.map(|row| chart::Row { labels: [String::new(), String::new()], ..row }));
        }
    }
    Chart {
        title: "Memory by part".to_owned(),
        subtitle: format!(
            "Suite {}. {}Above: what model and engine were predicted to take. Below: what the kernel counted at \
             the end of decode; upright line: peak.",
            summary.suite,
            rounds(summary, "Median of", ", largest peak")
        ),
        axis,
        may_be_log: false,
        reference: None,
        band: None,
        legend: PARTS.map(|(color, name)| (Fill::Solid(color), name)).to_vec(),
        panels,
        empty: "This run has no cases.",
    }
}

fn latency(summary: &Summary) -> Chart {
    Chart {
        title: "Latency of a generated token".to_owned(),
        subtitle: format!(
            "Suite {}. Decode steps of {}. Dot p50, ticks p90 and p99, end slowest. Numbers: p50/p99/slowest.",
            summary.suite,
            count(summary.rounds, "round")
        ),
        axis: "milliseconds per token",
        may_be_log: true,
        reference: None,
        band: None,
        legend: Vec::new(),
        panels: by_case(summary, |row| {
            let l = row.latency?;
            let text = [l.p50_ms, l.p99_ms, l.max_ms].map(|v| round_significant(v, 3)).join("/");
            let color = color_of(summary, &row.case.kernel);
            Some((Mark::Range { values: [l.p50_ms, l.p90_ms, l.p99_ms, l.max_ms], color }, text))
        }),
        empty: "This run has no cases.",
    }
}

/// Operations in the order of the pass: the palette has a colour for each, and neighbours in it are far
/// apart.
const OPERATIONS: [&str; PALETTE.len()] =
    ["embedding", "norm, quantize", "q, k, v", "attention", "attention output", "gate, up", "down", "head"];
const WAITING: RGBColor = BASELINE_COLORS[0];

fn profile(summary: &Summary) -> Chart {
    let mut panels = Vec::new();
    for (scale, phase) in [Phase::Prefill, Phase::Decode].into_iter().enumerate() {
        let of_phase = by_case(summary, |row| {
            let breakdown = row.profile.iter().find(|b| b.phase == phase)?;
            let work = breakdown.work_ms.iter().zip(PALETTE).map(|((_, ms), color)| (*ms, color));
            let parts = work.chain([(breakdown.wait_ms, WAITING)]).collect();
            let text = round_significant(breakdown.total_ms(), 3);
            Some((Mark::Stack { parts, mark: None }, text))
        });
        panels.extend(of_phase.into_iter().map(|panel| Panel {
            title: format!("{}: {}", phase_name(phase), panel.title),
            scale,
            ..panel
        }));
    }
    let colors = OPERATIONS.into_iter().zip(PALETTE).map(|(name, color)| (Fill::Solid(color), name));
    Chart {
        title: "Where the time goes".to_owned(),
        subtitle: format!(
            "Suite {}. {}Time of the leading thread; operations from left to right as in the pass.",
            summary.suite,
            rounds(summary, "Medians of", "")
        ),
        axis: "milliseconds per token",
        may_be_log: false,
        reference: None,
        band: None,
        legend: colors.chain([(Fill::Solid(WAITING), "waiting for other threads")]).collect(),
        panels,
        empty: "This run has no cases.",
    }
}

/// How near every kernel comes to both walls: a panel each, with one workload for each case.
fn rooflines(summary: &Summary) -> Chart {
    let mut panels = Vec::new();
    for (scale, wall) in
        ["Decode: % of the bandwidth roofline", "Prefill: % of the compute roofline"].into_iter().enumerate()
    {
        let decode = scale == 0;
        // The workload that says most: many steps for decode, a long prompt for prefill.
        let weight = |c: &Case| if decode { (c.n_gen, c.n_prompt) } else { (c.n_prompt, c.n_gen) };
        let same = |a: &Case, b: &Case| {
            (&a.backend, &a.model, &a.kernel, &a.isa, a.threads, &a.kv)
                == (&b.backend, &b.model, &b.kernel, &b.isa, b.threads, &b.kv)
        };
        for row in &summary.rows {
            let case = &row.case;
            if summary.rows.iter().any(|o| same(&o.case, case) && weight(&o.case) > weight(case)) {
                continue;
            }
            let (figure, speed) = match decode {
                true => (&row.decode_roofline_percent, row.decode_tok_s),
                false => (&row.prefill_roofline_percent, row.prefill_tok_s),
            };
            let (mark, text) = match (figure.value(), speed) {
                (Some(value), Some(speed)) if row.usable() => (
                    Mark::Bar {
                        value: *value,
                        spread: None,
                        limit: None,
                        fill: Fill::Solid(color_of(summary, &case.kernel)),
                    },
                    format!("{value:.0} % ({} tok/s)", round_significant(speed.median, 3)),
                ),
                _ => (
                    Mark::Gap,
                    match (&row.status, figure) {
                        (Status::Ok, Figure::Unavailable { why }) => why.clone(),
                        (Status::Ok, _) => "no figure".to_owned(),
                        (status, _) => status.to_string(),
                    },
                ),
            };
            let work = match decode {
                true => format!(
                    "{} after a prompt of {}",
                    count(case.n_gen.saturating_sub(1), "step"),
                    case.n_prompt
                ),
                false => format!("prompt of {}", case.n_prompt),
            };
            let group = format!(
                "{}, {}, {work}, KV {}",
                model_label(summary, case),
                count(case.threads, "thread"),
                case.kv
            );
            place_in_group(&mut panels, (wall.to_owned(), 0), group, case, mark, text);
        }
    }
    Chart {
        title: "How near to the rooflines".to_owned(),
        subtitle: format!(
            "Suite {}. {}100 % (upright line): as fast as the same threads only read the weights, and as fast as \
             they multiply and add on registers alone.",
            summary.suite,
            rounds(summary, "Median of", "")
        ),
        axis: "% of the roofline",
        may_be_log: false,
        reference: Some(100.0),
        band: None,
        legend: Vec::new(),
        panels,
        empty: "This run has no cases.",
    }
}

/// What decoding takes, as measured and as models have it, each with a bar of its own.
fn energy(summary: &Summary) -> Chart {
    let usable = || summary.rows.iter().filter(|r| r.usable());
    let whys: Vec<&str> = usable().filter_map(|r| r.energy_j_per_token.found().err()).collect();
    // One reason for all is said once.
    let why = whys.first().filter(|why| whys.len() == usable().count() && whys.iter().all(|w| w == *why));
    let mut panels = Vec::new();
    for row in &summary.rows {
        let mut lines = Vec::new();
        if row.usable() {
            if why.is_none() {
                let how = row.energy_j_per_token.not_measured().unwrap_or("measured");
                lines.push(energy_line(summary, row, &row.energy_j_per_token, how));
            }
            if let Some(models) = row.decode_energy().map(|e| &e.models) {
                let models = [
                    (&models.arithmetic_45nm, "modelled: 45 nm"),
                    (&models.arithmetic_7nm, "modelled: 7 nm"),
                    (&models.memory, "modelled: memory"),
                    (&models.tdp, "assumed: tdp"),
                ];
                for (model, label) in models.into_iter().filter(|(model, _)| model.value().is_some()) {
                    let spread = model.clone().map(|v| Spread { median: v, min: v, max: v, rounds: 1 });
                    lines.push(energy_line(summary, row, &spread, label));
                }
            }
            if lines.is_empty() {
                lines.push((Mark::Gap, "nothing measured, and no model has what it needs".to_owned()));
            }
        } else {
            lines.push((Mark::Gap, row.status.to_string()));
        }
        for (i, (mark, text)) in lines.into_iter().enumerate() {
            // The bars of a case follow the one that bears its name.
            let case = match i {
                0 => row.case.clone(),
                _ => Case { kernel: String::new(), isa: String::new(), ..row.case.clone() },
            };
            place(&mut panels, (setting(&row.case), 0), summary, &case, mark, text);
        }
    }
    let measured = why.map_or_else(String::new, |why| format!("Measured: unavailable: {why}. "));
    let simulated = usable().any(|r| matches!(r.energy_j_per_token, Figure::Simulated { .. }));
    Chart {
        title: format!("Energy of a generated token{}", if simulated { " (simulated)" } else { "" }),
        subtitle: format!(
            "Suite {}. {}{measured}Only solid bars are measurements; arithmetic (45 and 7 nm) is without memory, \
             caches and leakage.",
            summary.suite,
            rounds(summary, "Median of", ", whiskers smallest to largest")
        ),
        axis: "joules per token",
        may_be_log: true,
        reference: None,
        band: None,
        legend: energy_legend(&panels),
        panels,
        empty: "This run has no cases.",
    }
}

/// The fills that bars of `panels` have, and what they say of their figures.
fn energy_legend(panels: &[Panel]) -> Vec<(Fill, &'static str)> {
    let kinds = [
        (Fill::Solid(INK), "measured"),
        (Fill::Rising(INK), "simulated"),
        (Fill::Falling(INK), "modelled"),
        (Fill::Crossed(INK), "assumed"),
    ];
    let rows = || panels.iter().flat_map(|p| &p.groups).flat_map(|g| &g.rows);
    let drawn = |kind: Fill| {
        let alike = |fill: &Fill| std::mem::discriminant(fill) == std::mem::discriminant(&kind);
        rows().any(|row| matches!(&row.mark, Mark::Bar { fill, .. } if alike(fill)))
    };
    kinds.into_iter().filter(|(kind, _)| drawn(*kind)).collect()
}

/// A bar that shows by its fill where the figure is from.
fn energy_line(summary: &Summary, row: &Row, figure: &Figure<Spread>, label: &str) -> (Mark, String) {
    let Some(value) = figure.value() else {
        return (Mark::Gap, format!("{label}: {}", figure.provenance()));
    };
    let fill = fill_of(figure, color_of(summary, &row.case.kernel));
    let spread = (value.rounds > 1).then_some((value.min, value.max));
    let text = format!("{} {label}", round_significant(value.median, 3));
    (Mark::Bar { value: value.median, spread, limit: None, fill }, text)
}

fn speedup(summary: &Summary) -> Chart {
    let mut panels = Vec::new();
    for (scale, baseline) in BASELINES.into_iter().enumerate().rev() {
        // The naive kernel is only ever divided by: its fraction of f16 is in speedup.csv.
        for s in summary.speedups.iter().filter(|s| s.baseline == baseline && s.case.kernel != BASELINES[0]) {
            let (mark, text) = match s.decode {
                Some(decode) => (
                    Mark::Bar {
                        value: decode.median,
                        spread: (decode.rounds > 1).then_some((decode.min, decode.max)),
                        limit: None,
                        fill: Fill::Solid(color_of(summary, &s.case.kernel)),
                    },
                    ratio(decode),
                ),
                None => {
                    (Mark::Gap, if s.status == "ok" { "no decode rate".to_owned() } else { s.status.clone() })
                }
            };
            let title = format!("against {baseline}, {}", setting(&s.case));
            place(&mut panels, (title, scale), summary, &s.case, mark, text);
        }
    }
    Chart {
        title: "Decode speed relative to a baseline kernel".to_owned(),
        subtitle: format!(
            "Suite {}. {}",
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
        band: None,
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
        place(&mut panels, (setting(&row.case), 0), summary, &row.case, mark, text);
    }
    panels
}

/// Adds a row to its panel and group, which begin where they are first needed.
fn place(
    panels: &mut Vec<Panel>,
    (title, scale): (String, usize),
    summary: &Summary,
    case: &Case,
    mark: Mark,
    text: String,
) {
    place_in_group(panels, (title, scale), model_label(summary, case), case, mark, text);
}

/// The model of a case, with its backend where there are several.
fn model_label(summary: &Summary, case: &Case) -> String {
    let several_backends = summary.rows.iter().any(|r| r.case.backend != summary.rows[0].case.backend);
    let model = case.model_label();
    if several_backends { format!("{}: {model}", case.backend) } else { model }
}

/// [`place`], in the group called `label`.
fn place_in_group(
    panels: &mut Vec<Panel>,
    (title, scale): (String, usize),
    label: String,
    case: &Case,
    mark: Mark,
    text: String,
) {
    let panel = panels.iter().position(|p| p.title == title).unwrap_or_else(|| {
        panels.push(Panel { title, scale, groups: Vec::new() });
        panels.len() - 1
    });
    let groups = &mut panels[panel].groups;
    let group = groups.iter().position(|g| g.label == label).unwrap_or_else(|| {
        groups.push(Group { label, rows: Vec::new() });
        groups.len() - 1
    });
    groups[group].rows.push(chart::Row { labels: [case.kernel.clone(), case.isa.clone()], mark, text });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CIE L*, 0 (black) to 100 (white).
    fn lightness(color: RGBColor) -> f64 {
        let linear = |channel: u8| {
            let c = f64::from(channel) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        let y = 0.2126 * linear(color.0) + 0.7152 * linear(color.1) + 0.0722 * linear(color.2);
        116.0 * y.cbrt() - 16.0
    }

    #[test]
    fn every_colour_is_a_grey_of_its_own() {
        let mut greys: Vec<f64> = PALETTE.into_iter().chain(BASELINE_COLORS).map(lightness).collect();
        greys.sort_by(f64::total_cmp);
        assert!(greys.windows(2).all(|w| w[1] - w[0] >= 6.0), "{greys:?}");
    }
}
