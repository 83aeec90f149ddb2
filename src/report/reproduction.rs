//! A run held against a published table: the verdict in sentences, Markdown, CSV.

use std::fmt::Write as _;

use super::tables::{cell, csv, number};
use super::text::{ratio, round_significant};
use crate::error::Result;
use crate::figure::Figure;
use crate::stats::Spread;
use crate::stats::reproduce::{Comparison, Reproduction, TOLERANCE, Verdict};

/// What the run says about the published claim, a sentence for each published machine and kernel, and for
/// each trend.
pub fn sentences(reproduction: &Reproduction) -> Vec<String> {
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
    sentences
}

fn sentence(reproduction: &Reproduction, first: &Comparison, of: &[&Comparison]) -> String {
    let count = |verdict: fn(&Verdict) -> bool| of.iter().filter(|c| verdict(&c.verdict)).count();
    let testable = of.len() - count(|v| matches!(v, Verdict::NotTestable(_)));
    let by = match &first.kernel {
        Some(kernel) => format!("{}, {kernel} against {}", first.quantity, reproduction.against),
        None => first.quantity.to_owned(),
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
    let range = |values: Vec<f64>| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        format!("{}-{}x", round_significant(least, 3), round_significant(most, 3))
    };
    let both = || of.iter().filter_map(|c| Some((c.published_ratio?, c.here_ratio.value()?.median)));
    let simulated = of.iter().any(|c| matches!(c.here_ratio, Figure::Simulated { .. }));
    format!(
        "{by}: {}{} here; {} published for {}. Of {} published rows {} reproduced, {} exceeded, {} not reached, {} \
         not testable here.",
        range(both().map(|(_, here)| here).collect()),
        if simulated { " (simulated)" } else { "" },
        range(both().map(|(published, _)| published).collect()),
        first.cpu,
        of.len(),
        count(|v| *v == Verdict::Reproduced),
        count(|v| *v == Verdict::Exceeded),
        count(|v| *v == Verdict::NotReached),
        of.len() - testable,
    )
}

/// `reproduction.md`
pub(super) fn markdown(reproduction: &Reproduction) -> String {
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
        let here = match (c.here_baseline, c.here_value) {
            (None, None) => "-".to_owned(),
            (a, b) => pair(a, b),
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
            c.published_ratio.map_or_else(|| "-".to_owned(), |r| format!("{}x", round_significant(r, 3))),
            here_ratio(&c.here_ratio),
            cell(&c.verdict.to_string()),
        );
    }
    out
}

/// The ratio here, marked with what it is if not measured.
fn here_ratio(figure: &Figure<Spread>) -> String {
    let mark = match figure {
        Figure::Measured { .. } => "",
        Figure::Simulated { .. } => " (simulated)",
        Figure::Modelled { .. } => " (modelled)",
        Figure::Assumed { .. } => " (assumed)",
        Figure::Unavailable { .. } => return "-".to_owned(),
    };
    figure.value().map_or_else(String::new, |spread| ratio(*spread) + mark)
}

/// Table, baseline and a published figure.
type TableRow<'a> = (&'a str, &'a str, &'a Comparison);

/// `reproduction.csv`
pub(super) fn table(reproduction: &Reproduction) -> Result<Vec<u8>> {
    let against = reproduction.against.as_str();
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
            ("here_baseline", |(.., c)| number(c.here_baseline)),
            ("here_value", |(.., c)| number(c.here_value)),
            ("here_ratio", |(.., c)| number(c.here_ratio.value().map(|s| s.median))),
            ("here_ratio_min", |(.., c)| number(c.here_ratio.value().map(|s| s.min))),
            ("here_ratio_max", |(.., c)| number(c.here_ratio.value().map(|s| s.max))),
            ("here_provenance", |(.., c)| c.here_ratio.provenance()),
            ("verdict", |(.., c)| c.verdict.to_string()),
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
            here_baseline: None,
            here_value: None,
            here_ratio: Figure::unavailable(why),
            tied: None,
            verdict: Verdict::NotTestable(why.to_owned()),
        };
        let reproduction = Reproduction {
            target: Target::Speed,
            against: "f16".to_owned(),
            comparisons: vec![row("7B", "too large"), row("13B", "too large"), row("30B", "not published")],
            trends: Vec::new(),
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
