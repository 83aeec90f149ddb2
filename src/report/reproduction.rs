//! A run held against a published table: the verdict in sentences, Markdown, CSV.

use std::fmt::Write as _;

use super::tables::{cell, csv, number};
use super::text::{range, ratio, round_significant};
use crate::error::Result;
use crate::figure::Figure;
use crate::stats::reproduce::{Comparison, READING_TOK_S, Reading, Reproduction, TOLERANCE, Verdict};
use crate::units::BytesPerS;

/// What the run says about the published claim, a sentence for each published machine and kernel, and for
/// each trend.
pub(super) fn sentences(reproduction: &Reproduction) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut said: Vec<(&str, Option<&str>, &str)> = Vec::new();
    for first in &reproduction.comparisons {
        let key = (first.cpu.as_str(), first.kernel.as_deref(), first.quantity);
        if said.contains(&key) {
            continue;
        }
        said.push(key);
        let of: Vec<&Comparison> = reproduction
            .comparisons
            .iter()
            .filter(|c| (c.cpu.as_str(), c.kernel.as_deref(), c.quantity) == key)
            .collect();
        sentences.push(sentence(reproduction, first, &of));
    }
    for trend in &reproduction.trends {
        sentences.push(format!(
            "The speedup of {} {} on {} (Kendall's tau over {} sizes: published {:.2}, here {:.2}).",
            trend.kernel,
            trend.verdict(),
            trend.cpu,
            trend.sizes,
            trend.published_tau,
            trend.here_tau
        ));
    }
    sentences.extend(reproduction.reading.as_ref().map(against_reading));
    sentences
}

/// How far the largest model is from the speed at which people read, and what that would take.
fn against_reading(reading: &Reading) -> String {
    let (low, high) = READING_TOK_S;
    let case = &reading.case;
    let tok_s = |rate: f64| round_significant(rate, 3);
    let gb_per_s = |rate: BytesPerS| format!("{} GB/s", round_significant(rate.0 / 1e9, 3));
    let machine = match reading.stream.found() {
        Ok((stream, _)) => format!(
            "; its threads read weights at {} here, which allows {} tokens/s",
            gb_per_s(*stream),
            tok_s(stream.0 / reading.bytes_per_token.0 as f64)
        ),
        Err(why) => format!("; the rate of this machine is unavailable: {why}"),
    };
    format!(
        "People read {low:.0}-{high:.0} tokens/s. {} with {} decoded {} tokens/s here. A token reads {}, so {low:.0} \
         tokens/s take {}{machine}.",
        case.model_label(),
        case.kernel,
        tok_s(reading.decode_tok_s),
        reading.bytes_per_token,
        gb_per_s(reading.needed()),
    )
}

fn sentence(reproduction: &Reproduction, first: &Comparison, of: &[&Comparison]) -> String {
    let count = |verdict: fn(&Verdict) -> bool| of.iter().filter(|c| verdict(&c.verdict)).count();
    let testable = of.len() - count(|v| matches!(v, Verdict::NotTestable(_)));
    let by = match (&first.kernel, &reproduction.against) {
        (Some(kernel), Some(against)) => format!("{}, {kernel} against {against}", first.quantity),
        (Some(kernel), None) => format!("{}, {kernel}", first.quantity),
        (None, _) => first.quantity.to_owned(),
    };
    if testable == 0 {
        let mut whys: Vec<String> = Vec::new();
        for c in of {
            let why = c.verdict.to_string();
            if !whys.contains(&why) {
                whys.push(why);
            }
        }
        let subjects: Vec<&str> = of.iter().map(|c| c.subject.as_str()).collect();
        return format!("{by}, {} of {}: {}.", subjects.join(", "), first.cpu, whys.join("; "));
    }
    let both = || of.iter().filter_map(|c| Some((c.published_ratio?, c.here_ratio.value()?.median)));
    let mark = of.iter().map(|c| mark_of(&c.here_ratio)).find(|mark| !mark.is_empty()).unwrap_or_default();
    let tied = match of.iter().filter(|c| c.tied.is_some() && c.here_ratio.value().is_some()).count() {
        0 => String::new(),
        n => format!(", {n} of them on tied layers"),
    };
    format!(
        "{by}: {}{mark} here; {} published for {}. Of {} published rows{tied}: {} reproduced, {} exceeded, {} not \
         reached, {} not testable here.",
        range(both().map(|(_, here)| here)),
        range(both().map(|(published, _)| published)),
        first.cpu,
        of.len(),
        count(|v| *v == Verdict::Reproduced),
        count(|v| *v == Verdict::Exceeded),
        count(|v| *v == Verdict::NotReached),
        of.len() - testable,
    )
}

/// The run held against the published table, as Markdown: `reproduction.md`, and what the terminal shows.
pub fn markdown(reproduction: &Reproduction) -> String {
    let target = reproduction.target;
    let mut out = format!("# {}\n\nPublished: {}.\n\n", target.name(), target.source());
    for sentence in sentences(reproduction) {
        let _ = writeln!(out, "- {}", cell(&sentence));
    }
    let _ = write!(
        out,
        "\nAbsolute figures belong to machines; judged are ratios. Reproduced: the published ratio lies within the \
         range over the rounds (in brackets) or within {:.0} % of its median.\n\n\
         | published on | of | quantity | kernel here | published | here | published ratio | ratio here | verdict |\n\
         | --- | --- | --- | --- | ---: | ---: | ---: | ---: | --- |\n",
        TOLERANCE * 100.0
    );
    for c in &reproduction.comparisons {
        let pair = |a: Option<f64>, b: Option<f64>| {
            let one = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| round_significant(v, 3));
            format!("{} / {} {}", one(a), one(b), c.unit)
        };
        let here = match (c.here_baseline.value(), c.here_value.value()) {
            (None, None) => "-".to_owned(),
            (a, b) => pair(a.copied(), b.copied()) + &mark_of(&c.here_value),
        };
        let tied = c.tied.as_ref().map_or_else(String::new, |tied| format!(" ({tied})"));
        let _ = writeln!(
            out,
            "| {} | {}{tied} | {} | {} | {} | {here} | {} | {} | {} |",
            cell(&c.cpu),
            cell(&c.subject),
            c.quantity,
            c.kernel.as_deref().unwrap_or("-"),
            pair(c.published_baseline, c.published_value),
            published_ratio(c),
            here_ratio(c, reproduction.rounds),
            cell(&c.verdict.to_string()),
        );
    }
    out
}

/// The ratio here, marked with what it is if not measured, and if it is not of every round.
fn here_ratio(c: &Comparison, rounds: u32) -> String {
    let figure = &c.here_ratio;
    let Some(spread) = figure.value() else { return "-".to_owned() };
    let measured = matches!(figure, Figure::Measured { .. } | Figure::Simulated { .. });
    let partial = match spread.rounds {
        n if measured && n < rounds as usize => format!(" ({n} of {})", super::text::count(rounds, "round")),
        _ => String::new(),
    };
    ratio(*spread) + &saved(c, spread.median) + &mark_of(figure) + &partial
}

/// A ratio of energies as what is saved, percent.
pub(super) fn reduction_percent(ratio: f64) -> f64 {
    100.0 * (1.0 - 1.0 / ratio)
}

/// A published ratio, and of energies what is saved.
fn published_ratio(c: &Comparison) -> String {
    let Some(ratio) = c.published_ratio else { return "-".to_owned() };
    format!("{}x{}", round_significant(ratio, 3), saved(c, ratio))
}

/// What a ratio of energies saves, in brackets.
fn saved(c: &Comparison, ratio: f64) -> String {
    match c.saves_energy() {
        true => format!(" ({} % less)", round_significant(reduction_percent(ratio), 3)),
        false => String::new(),
    }
}

/// What a figure is, in brackets, where it was not measured.
pub(super) fn mark_of<T>(figure: &Figure<T>) -> String {
    figure.not_measured().map_or_else(String::new, |kind| format!(" ({kind})"))
}

/// Table, baseline and a published figure.
type TableRow<'a> = (&'a str, &'a str, &'a Comparison);

/// `reproduction.csv`
pub(super) fn table(reproduction: &Reproduction) -> Result<Vec<u8>> {
    let against = reproduction.against.as_deref().unwrap_or_default();
    let rows: Vec<TableRow> =
        reproduction.comparisons.iter().map(|c| (reproduction.target.name(), against, c)).collect();
    csv::<TableRow>(
        &[
            ("target", |(target, ..)| (*target).to_owned()),
            ("published_on", |(.., c)| c.cpu.clone()),
            ("subject", |(.., c)| c.subject.clone()),
            ("quantity", |(.., c)| c.quantity.to_owned()),
            ("unit", |(.., c)| c.unit.to_owned()),
            ("published_baseline", |(.., c)| number(c.published_baseline)),
            ("published_value", |(.., c)| number(c.published_value)),
            ("published_ratio", |(.., c)| number(c.published_ratio)),
            ("against", |(_, against, _)| (*against).to_owned()),
            ("kernel", |(.., c)| c.kernel.clone().unwrap_or_default()),
            ("here_baseline", |(.., c)| number(c.here_baseline.value().copied())),
            ("here_value", |(.., c)| number(c.here_value.value().copied())),
            ("here_ratio", |(.., c)| number(c.here_ratio.value().map(|s| s.median))),
            ("here_ratio_min", |(.., c)| number(c.here_ratio.value().map(|s| s.min))),
            ("here_ratio_max", |(.., c)| number(c.here_ratio.value().map(|s| s.max))),
            ("rounds", |(.., c)| number(c.here_ratio.value().map(|s| s.rounds as f64))),
            ("here_provenance", |(.., c)| c.here_ratio.provenance()),
            ("verdict", |(.., c)| c.verdict.to_string()),
            ("tied", |(.., c)| c.tied.as_ref().map_or_else(String::new, ToString::to_string)),
            ("here_value_provenance", |(.., c)| c.here_value.provenance()),
            ("published_reduction_percent", |(.., c)| {
                number(c.published_ratio.filter(|_| c.saves_energy()).map(reduction_percent))
            }),
            ("here_reduction_percent", |(.., c)| {
                let ratio = c.here_ratio.value().filter(|_| c.saves_energy()).map(|s| s.median);
                number(ratio.map(reduction_percent))
            }),
        ],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::Target;

    #[test]
    fn what_is_not_testable_names_every_row_and_every_reason_once() {
        let row = |subject: &str, why: &str| Comparison {
            cpu: "a laptop".to_owned(),
            subject: subject.to_owned(),
            quantity: "decode speedup",
            published_baseline: None,
            published_value: Some(1.0),
            unit: "tokens/s",
            published_ratio: None,
            kernel: None,
            parameters: None,
            here_baseline: Figure::unavailable(why),
            here_value: Figure::unavailable(why),
            here_ratio: Figure::unavailable(why),
            tied: None,
            verdict: Verdict::NotTestable(why.to_owned()),
        };
        let reproduction = Reproduction {
            target: Target::Speed,
            against: Some("f16".to_owned()),
            rounds: 3,
            comparisons: vec![row("7B", "too large"), row("13B", "too large"), row("30B", "not published")],
            trends: Vec::new(),
            reading: None,
        };
        assert_eq!(
            sentences(&reproduction),
            [
                "decode speedup, 7B, 13B, 30B of a laptop: not testable here: too large; not testable here: not \
              published."
            ]
        );
    }
}
