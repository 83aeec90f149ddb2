//! What a report says first: whether ternary inference was faster than f16 here, or a published table holds
//! here, by how much, and how sure that is.

use std::collections::{BTreeMap, BTreeSet};

use bitjoule_kernels::Kernel;
use serde::Serialize;

use super::reproduction::{mark_of, reduction_percent};
use super::text::{count, host_states, range, ratio, round_significant, winner};
use crate::figure::Figure;
use crate::journal::Case;
use crate::published::Target;
use crate::stats::reproduce::{Comparison, Reproduction, TOLERANCE, Trend, Verdict};
use crate::stats::{BASELINES, Row, Speedup, Spread, Summary};

/// The baseline of the claim: what a user would otherwise run.
const F16: &str = BASELINES[1];

/// The answer and what it rests on.
#[derive(Debug, Serialize)]
pub(super) struct Claim {
    /// What is answered.
    pub(super) question: String,
    /// `Yes`, `Yes, as far as tested`, `No`, `In part`, `Not clear`, `Not measured` or `Not tested`.
    pub(super) answer: &'static str,
    /// The speedup that decides, in a sentence.
    pub(super) headline: String,
    /// What else a reader needs to judge it, each with a name.
    pub(super) grounds: Vec<(&'static str, String)>,
}

/// How a ratio of speeds lies to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Faster,
    Unclear,
    Slower,
}

impl Side {
    fn of(ratio: Spread) -> Side {
        match () {
            () if ratio.min > 1.0 => Side::Faster,
            () if ratio.max < 1.0 => Side::Slower,
            () => Side::Unclear,
        }
    }
}

impl Claim {
    /// Judges a run by the fastest ternary kernel on the heaviest model with the most threads.
    pub(super) fn of(summary: &Summary) -> Claim {
        let best = winner(summary, |row| is_ternary(&row.case));
        let decided =
            best.and_then(|row| Some((row, against(summary, row, F16)?, decode(summary, row, F16)?)));
        let (answer, headline) = match (decided, best) {
            (Some((row, _, ratio)), _) => (answer(ratio), headline(row, ratio)),
            (None, Some(row)) => (
                "Not tested",
                format!("{} was measured on {}, but not beside {F16}.", row.case.kernel, row.case.model),
            ),
            (None, None) => ("Not tested", "No ternary kernel has a decode speed in this run.".to_owned()),
        };
        let mut grounds = Vec::new();
        let (mut question, mut answer, mut headline) =
            ("Is ternary inference faster than f16 on this machine?", answer, headline);
        if let Some(reproduction) = &summary.reproduction {
            let published = Published::of(reproduction);
            question = reproduction.target.question();
            grounds.push(("Published", published.source(reproduction)));
            grounds.push(("Against f16 here", format!("{answer}. {headline}")));
            grounds.extend(growth(&reproduction.trends).map(|text| ("Growth with size", text)));
            (answer, headline) = (published.answer(), published.headline(reproduction.against.as_deref()));
        }
        if let Some((row, speedup, ratio)) = decided {
            grounds.push(("Where", place(row, ratio)));
            grounds.push(("Baseline", baseline(summary, speedup)));
        }
        grounds.extend(everywhere(summary).map(|text| ("Everywhere", text)));
        grounds.push(("How sure", certainty(summary)));
        grounds.push(("Correct", correctness(summary)));
        grounds.push(("Energy", energy(decided.map(|(row, speedup, _)| (row, speedup)), best)));
        Claim { question: question.to_owned(), answer, headline, grounds }
    }
}

/// The rows of a published table, each with the kernel that does best here.
struct Published<'a> {
    rows: Vec<&'a Comparison>,
}

impl<'a> Published<'a> {
    fn of(reproduction: &'a Reproduction) -> Self {
        let mut rows: Vec<&Comparison> = Vec::new();
        let ratio = |c: &Comparison| c.here_ratio.value().map_or(0.0, |r| r.median);
        for c in &reproduction.comparisons {
            let same = |row: &&mut &Comparison| {
                (&row.cpu, &row.subject, row.quantity) == (&c.cpu, &c.subject, c.quantity)
            };
            match rows.iter_mut().find(same) {
                Some(row) if ratio(c) > ratio(row) => *row = c,
                Some(_) => {}
                None => rows.push(c),
            }
        }
        Published { rows }
    }

    fn tested(&self) -> Vec<&'a Comparison> {
        let tested = |c: &&Comparison| !matches!(c.verdict, Verdict::NotTestable(_));
        self.rows.iter().copied().filter(tested).collect()
    }

    /// Only measurements answer.
    fn answer(&self) -> &'static str {
        let tested = self.tested();
        let measured = || tested.iter().filter(|c| is_measured(c));
        match measured().filter(|c| holds(c)).count() {
            _ if tested.is_empty() => "Not tested",
            _ if measured().count() == 0 => "Not measured",
            0 => "No",
            n if n < measured().count() => "In part",
            _ if tested.len() < self.ratios().count() => "Yes, as far as tested",
            _ => "Yes",
        }
    }

    /// The rows that have a published ratio, which could be tested.
    fn ratios(&self) -> impl Iterator<Item = &'a Comparison> {
        self.rows.iter().copied().filter(|c| c.published_ratio.is_some())
    }

    /// How many ratios hold, of each published machine and quantity.
    fn headline(&self, against: Option<&str>) -> String {
        let tested = self.tested();
        let mut parts: Vec<String> = Vec::new();
        let mut said: Vec<(&str, &str, &str)> = Vec::new();
        for first in &tested {
            let key = key_of(first);
            if said.contains(&key) {
                continue;
            }
            said.push(key);
            let of: Vec<&&Comparison> = tested.iter().filter(|c| key_of(c) == key).collect();
            let held = of.iter().filter(|c| holds(c)).count();
            let here = || of.iter().filter_map(|c| Some(c.here_ratio.value()?.median));
            let published = || of.iter().filter_map(|c| c.published_ratio);
            let tied = match of.iter().filter(|c| c.tied.is_some()).count() {
                0 => String::new(),
                n => format!(", {n} of them on tied layers"),
            };
            let all = self.ratios().filter(|c| (c.quantity, &c.cpu) == (first.quantity, &first.cpu)).count();
            let tested = match of.len() {
                n if n == all => String::new(),
                n => format!("{n} tested, of "),
            };
            let saved = |ratios: &mut dyn Iterator<Item = f64>| match first.saves_energy() {
                true => format!(", {}", less(ratios)),
                false => String::new(),
            };
            parts.push(format!(
                "{}{}{}, {held} of {tested}{all} published on {} ({}{} here, {}{} published{tied})",
                first.quantity,
                against.map_or_else(String::new, |against| format!(" against {against}")),
                mark_of(&first.here_ratio),
                first.cpu,
                range(here()),
                saved(&mut here()),
                range(published()),
                saved(&mut published()),
            ));
        }
        if parts.is_empty() {
            return format!("None of {} can be tested here.", count(self.rows.len() as u64, "published row"));
        }
        let by = match tested.iter().any(|c| is_measured(c)) {
            true => "Reached or exceeded here",
            false => "By figures that are no measurement of this machine, reached or exceeded",
        };
        format!("{by}: {}.", parts.join("; "))
    }

    /// Where the table is from, by which rule it is judged, and what cannot be.
    fn source(&self, reproduction: &Reproduction) -> String {
        let mut text = format!(
            "{}. Judged are ratios, of the kernel that does best here{}: absolute speeds belong to \
             machines. A ratio is reached if the published one lies within the range over the rounds or within \
             {:.0} % of the median.",
            reproduction.target.source(),
            reproduction.against.as_ref().map_or_else(String::new, |against| format!(", against {against}")),
            100.0 * TOLERANCE
        );
        if reproduction.target == Target::Efficiency {
            text += " The published energy is that of a pass over 512 tokens, and is compared as that.";
        }
        let quantities: BTreeSet<&str> = self.rows.iter().map(|c| c.quantity).collect();
        // Why, what of which machine, and which rows: each said once.
        let mut whys: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
        for c in &self.rows {
            if let Verdict::NotTestable(why) = &c.verdict {
                let quantity = match quantities.len() {
                    1 => String::new(),
                    _ => format!("{}, ", c.quantity),
                };
                whys.entry((why, format!("{quantity}{}", c.cpu))).or_default().push(&c.subject);
            }
        }
        for ((why, of), rows) in whys {
            text += &format!(" Not testable: {of}, {} ({why}).", rows.join(", "));
        }
        text
    }
}

/// Ratios of energies as what is saved: `55.4-82.2 % less`.
fn less(ratios: &mut dyn Iterator<Item = f64>) -> String {
    let Some(s) = Spread::of(ratios.map(reduction_percent)) else { return "none".to_owned() };
    let [min, max] = [s.min, s.max].map(|percent| round_significant(percent, 3));
    if min == max { format!("{min} % less") } else { format!("{min}-{max} % less") }
}

/// Whether speedups grow with the size of the model as published: kernels of one verdict on one published
/// machine in one sentence.
fn growth(trends: &[Trend]) -> Option<String> {
    let key = |trend: &Trend| (trend.verdict(), trend.cpu.clone(), trend.sizes, trend.tied);
    let mut keys = Vec::new();
    for trend in trends {
        if !keys.contains(&key(trend)) {
            keys.push(key(trend));
        }
    }
    let sentence = |of_key: &(&str, String, usize, usize)| {
        let of: Vec<&Trend> = trends.iter().filter(|t| key(t) == *of_key).collect();
        let kernels: Vec<&str> = of.iter().map(|t| t.kernel.as_str()).collect();
        let taus = |tau: fn(&Trend) -> f64| {
            let taus = of.iter().map(|t| tau(t));
            let (min, max) = taus.fold((f64::MAX, f64::MIN), |(a, b), tau| (a.min(tau), b.max(tau)));
            if min == max { format!("{min:.2}") } else { format!("{min:.2} to {max:.2}") }
        };
        let (verdict, cpu, sizes, tied) = of_key;
        let tied = match tied {
            0 => String::new(),
            n => format!(", {n} of them tied"),
        };
        format!(
            "The speedup of {} {verdict} on {cpu} ({sizes} sizes{tied}; Kendall's tau published {}, here {}).",
            kernels.join(", "),
            taus(|t| t.published_tau),
            taus(|t| t.here_tau)
        )
    };
    let sentences: Vec<String> = keys.iter().map(sentence).collect();
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

fn is_measured(c: &Comparison) -> bool {
    matches!(c.here_ratio, Figure::Measured { .. })
}

/// What is told in one phrase: a quantity of one published machine, measured here or not.
fn key_of(c: &Comparison) -> (&'static str, &str, &'static str) {
    (c.quantity, &c.cpu, c.here_ratio.kind())
}

fn holds(c: &Comparison) -> bool {
    matches!(c.verdict, Verdict::Reproduced | Verdict::Exceeded)
}

/// Whether a case computes what the claim is about: ternary weights without loss. Kernels of other engines
/// are taken at their word.
fn is_ternary(case: &Case) -> bool {
    !BASELINES.contains(&case.kernel.as_str())
        && Kernel::by_name(&case.kernel).is_none_or(|kernel| kernel.is_ternary() && kernel.is_exact())
}

fn against<'a>(summary: &'a Summary, row: &Row, baseline: &str) -> Option<&'a Speedup> {
    summary.speedups.iter().find(|s| s.case.id == row.case.id && s.baseline == baseline)
}

fn decode(summary: &Summary, row: &Row, baseline: &str) -> Option<Spread> {
    against(summary, row, baseline)?.decode
}

fn answer(ratio: Spread) -> &'static str {
    match Side::of(ratio) {
        Side::Faster => "Yes",
        Side::Slower => "No",
        Side::Unclear => "Not clear",
    }
}

fn headline(row: &Row, times: Spread) -> String {
    let (kernel, model, threads) =
        (&row.case.kernel, row.case.model_label(), count(row.case.threads, "thread"));
    format!("{kernel} decoded {} as fast as {F16} on {model} with {threads}.", ratio(times))
}

fn place(row: &Row, times: Spread) -> String {
    let rounds = match times.rounds {
        1 => "One round, so nothing is known of the spread.".to_owned(),
        n => format!("Median of the ratios of {n} rounds; in brackets the smallest and the largest."),
    };
    format!(
        "The heaviest model, with the most threads, that this run has figures of; prompt of {}, {} generated. \
         {rounds}",
        row.case.n_prompt,
        count(row.case.n_gen, "token")
    )
}

fn baseline(summary: &Summary, speedup: &Speedup) -> String {
    let isa = speedup.baseline_isa.as_deref().unwrap_or("unknown");
    let mut text =
        format!("{F16} is bitjoule's tuned floating-point kernel ({isa}): what a user would otherwise run.");
    // Of the heaviest model that was measured beside both.
    let beside_both = summary
        .rows
        .iter()
        .filter(|r| is_ternary(&r.case))
        .filter_map(|row| Some((row, decode(summary, row, BASELINES[0])?, decode(summary, row, F16)?)));
    let size = |row: &Row| row.parameters.or(row.bytes_per_token).unwrap_or(0.0);
    let rate = |row: &Row| row.decode_tok_s.map_or(0.0, |s| s.median);
    let heaviest = beside_both.max_by(|(a, ..), (b, ..)| {
        let threads = a.case.threads.cmp(&b.case.threads);
        size(a).total_cmp(&size(b)).then(threads).then(rate(a).total_cmp(&rate(b)))
    });
    if let Some((row, naive, f16)) = heaviest {
        text += &format!(
            " What the choice does: {} on {} is {} as fast as {F16}, and {} as fast as {}, a textbook's loops; a \
             headline that divides by those says more about them.",
            row.case.kernel,
            row.case.model_label(),
            ratio(f16),
            ratio(naive),
            BASELINES[0],
        );
    }
    text
}

/// How the best ternary kernel of every model, thread count and workload does against f16.
fn everywhere(summary: &Summary) -> Option<String> {
    let mut best: Vec<&Speedup> = Vec::new();
    let same = |a: &Case, b: &Case| a.model == b.model && a.same_work(b);
    let median = |s: &Speedup| s.decode.map_or(0.0, |d| d.median);
    for s in summary.speedups.iter().filter(|s| s.baseline == F16 && is_ternary(&s.case)) {
        match best.iter_mut().find(|b| same(&b.case, &s.case)) {
            Some(b) if median(s) > median(b) => *b = s,
            Some(_) => {}
            None => best.push(s),
        }
    }
    let ratios: Vec<Spread> = best.iter().filter_map(|s| s.decode).collect();
    if best.len() < 2 {
        return None;
    }
    let tally = |side| ratios.iter().filter(|r| Side::of(**r) == side).count();
    let medians = Spread::of(ratios.iter().map(|r| r.median));
    let range = medians.map_or_else(String::new, |m| {
        format!(", medians from {}x to {}x", round_significant(m.min, 3), round_significant(m.max, 3))
    });
    Some(format!(
        "Of {} of model, threads and workload, the best lossless ternary kernel was faster than {F16} in every \
         round in {}, slower in every round in {}, and not clearly either in {}{}{range}.",
        count(best.len() as u64, "combination"),
        tally(Side::Faster),
        tally(Side::Slower),
        tally(Side::Unclear),
        match best.len() - ratios.len() {
            0 => String::new(),
            n => format!("; {n} without a ratio"),
        }
    ))
}

/// How far the rounds of a case lie apart, and what the host was like.
fn certainty(summary: &Summary) -> String {
    let spreads = summary.rows.iter().filter(|r| r.usable()).filter_map(|r| r.decode_tok_s);
    let widths = Spread::of(
        spreads
            .filter(|s| s.rounds > 1)
            .map(|s| 100.0 * (s.max - s.min) / s.median)
            .filter(|w| w.is_finite()),
    );
    let mut text = match widths {
        Some(w) => format!(
            "Decode speeds of one case differ between its {} by {} % of their median in a typical case, by {} % in \
             the worst (largest minus smallest). That is a range, not a confidence interval.",
            count(summary.rounds, "round"),
            round_significant(w.median, 2),
            round_significant(w.max, 2)
        ),
        None => "No case has two rounds, so nothing is known of the noise.".to_owned(),
    };
    let states = host_states(summary);
    if !states.is_empty() {
        text += &format!(" {states}");
    }
    text
}

fn correctness(summary: &Summary) -> String {
    let checked = summary.rows.iter().filter(|r| r.check.is_some()).count();
    let failed = summary.rows.iter().filter(|r| r.check.as_ref().is_some_and(|c| !c.passed)).count();
    let all = count(summary.rows.len() as u64, "case");
    match (checked, failed) {
        (0, _) => format!("None of {all} was checked against a reference."),
        (n, 0) => {
            format!("The logits of {n} of {all} were compared with a reference in this run; all agree.")
        }
        (n, failed) => format!(
            "The logits of {n} of {all} were compared with a reference in this run; {failed} differ and have no \
             figures."
        ),
    }
}

fn energy(decided: Option<(&Row, &Speedup)>, best: Option<&Row>) -> String {
    if let Some((row, speedup)) = decided
        && let Some(percent) = speedup.energy_reduction_percent()
    {
        let (amount, word) = if percent >= 0.0 { (percent, "less") } else { (-percent, "more") };
        return format!(
            "{} took {} % {word} energy a token than {F16} ({}).",
            row.case.kernel,
            round_significant(amount, 3),
            speedup.energy_ratio.provenance()
        );
    }
    match best.map(|row| &row.energy_j_per_token) {
        Some(Figure::Unavailable { why }) => format!("Unavailable: {why}."),
        Some(figure) => format!("No ratio; of the kernel alone {}.", figure.provenance()),
        None => "Unavailable: no ternary kernel was measured.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_said_of_each_machine_with_its_kernels() {
        let trend = |cpu: &str, kernel: &str, here_tau| Trend {
            cpu: cpu.to_owned(),
            kernel: kernel.to_owned(),
            sizes: 9,
            tied: 2,
            published_tau: 0.9,
            here_tau,
        };
        let trends = [
            trend("a laptop", "i2_s", 0.7),
            trend("a laptop", "tl2", 0.2),
            trend("a desktop", "i2_s", 0.5),
            trend("a desktop", "tl2", 0.1),
        ];
        assert_eq!(
            growth(&trends).unwrap(),
            "The speedup of i2_s grows with size, as published on a laptop (9 sizes, 2 of them tied; Kendall's tau \
             published 0.90, here 0.70). The speedup of tl2 does not grow with size as published on a laptop (9 \
             sizes, 2 of them tied; Kendall's tau published 0.90, here 0.20). The speedup of i2_s, tl2 does not grow \
             with size as published on a desktop (9 sizes, 2 of them tied; Kendall's tau published 0.90, here 0.10 \
             to 0.50)."
        );
        assert_eq!(growth(&[]), None);
    }
}
