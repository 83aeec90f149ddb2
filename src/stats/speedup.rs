//! How many times as fast a case is as a baseline kernel, from ratios taken within each round.

use crate::figure::Figure;
use crate::journal::Case;
use crate::stats::rounds::Round;
use crate::stats::{Row, Spread};

/// The kernels that speedups divide by: where the field began, and what a user would otherwise run.
pub const BASELINES: [&str; 2] = ["fp32-naive", "f16"];

/// One case against one baseline kernel of the same backend, model, threads, workload and KV type.
#[derive(Debug, Clone)]
pub struct Speedup {
    /// The case whose rate is the numerator.
    pub case: Case,
    /// The baseline kernel.
    pub baseline: &'static str,
    /// Instruction set of the baseline case: the one of `case` if the baseline has it, else that of
    /// its fastest case. `None` if no case of the baseline is usable.
    pub baseline_isa: Option<String>,
    /// Ratio of the decode rates.
    pub decode: Option<Spread>,
    /// Ratio of the prefill rates.
    pub prefill: Option<Spread>,
    /// Energy per token of the case ÷ that of the baseline.
    pub energy_ratio: Figure<Spread>,
    /// `ok`, or why there is no ratio.
    pub status: String,
}

impl Speedup {
    /// 100 × (1 − median energy ratio): how much less energy a token takes, percent.
    pub fn energy_reduction_percent(&self) -> Option<f64> {
        self.energy_ratio.value().map(|ratio| 100.0 * (1.0 - ratio.median))
    }
}

/// Whether two cases differ in kernel and instruction set only.
fn same_group(a: &Case, b: &Case) -> bool {
    a.model == b.model && a.same_work(b)
}

/// Every case against every baseline kernel that was planned next to it; `rounds[i]` are the rounds
/// of `rows[i]`. Nothing is dropped: a pair without a ratio says why.
pub(super) fn speedups(rows: &[Row], rounds: &[Vec<Round>]) -> Vec<Speedup> {
    let mut speedups = Vec::new();
    for (row, row_rounds) in rows.iter().zip(rounds) {
        for baseline in BASELINES {
            let mut planned = rows
                .iter()
                .zip(rounds)
                .filter(|(b, _)| b.case.kernel == baseline && same_group(&b.case, &row.case))
                .peekable();
            if row.case.kernel == baseline {
                continue;
            }
            if let Some((first, _)) = planned.peek() {
                let why = format!("no usable case of {baseline}: {}", first.status);
                let usable: Vec<(&Row, &Vec<Round>)> = planned.filter(|(b, _)| b.usable()).collect();
                let rate = |row: &Row| row.decode_tok_s.map_or(0.0, |s| s.median);
                let chosen = usable
                    .iter()
                    .find(|(b, _)| b.case.isa == row.case.isa)
                    .or_else(|| usable.iter().max_by(|(a, _), (b, _)| rate(a).total_cmp(&rate(b))));
                speedups.push(match chosen {
                    Some((base, base_rounds)) => pair(row, row_rounds, baseline, base, base_rounds),
                    None => without(row, baseline, None, why),
                });
            }
        }
    }
    speedups
}

fn without(row: &Row, baseline: &'static str, isa: Option<String>, why: String) -> Speedup {
    Speedup {
        case: row.case.clone(),
        baseline,
        baseline_isa: isa,
        decode: None,
        prefill: None,
        energy_ratio: Figure::unavailable(why.clone()),
        status: why,
    }
}

fn pair(row: &Row, rounds: &[Round], baseline: &'static str, base: &Row, base_rounds: &[Round]) -> Speedup {
    let isa = Some(base.case.isa.clone());
    if !row.usable() {
        return without(row, baseline, isa, row.status.to_string());
    }
    let common: Vec<(&Round, &Round)> =
        rounds.iter().filter_map(|r| Some((r, base_rounds.iter().find(|b| b.round == r.round)?))).collect();
    let ratio = |rate: fn(&Round) -> Option<f64>| {
        Spread::of(common.iter().filter_map(|(a, b)| Some(rate(a)? / rate(b)?)))
    };
    let (decode, prefill) = (ratio(|r| r.decode_tok_s), ratio(|r| r.prefill_tok_s));
    let status = match (common.is_empty(), decode.is_none() && prefill.is_none()) {
        (true, _) => format!("no round in common with {baseline}"),
        (false, true) => "no rates to divide".to_owned(),
        (false, false) => "ok".to_owned(),
    };
    Speedup {
        case: row.case.clone(),
        baseline,
        baseline_isa: isa,
        decode,
        prefill,
        energy_ratio: energy_ratio(&common),
        status,
    }
}

/// The ratio of energy per token; as weakly known as either side in any round.
fn energy_ratio(common: &[(&Round, &Round)]) -> Figure<Spread> {
    let figures = common.iter().flat_map(|(a, b)| [&a.energy_j_per_token, &b.energy_j_per_token]);
    let ratios = common.iter().filter_map(|(a, b)| {
        let ratio = a.energy_j_per_token.value()? / b.energy_j_per_token.value()?;
        ratio.is_finite().then_some(ratio)
    });
    Figure::derived(Spread::of(ratios), figures, "no round in common")
}
