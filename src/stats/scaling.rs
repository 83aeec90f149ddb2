//! How many times as fast a case is with more threads, from ratios taken within each round.

use crate::journal::Case;
use crate::stats::rounds::Round;
use crate::stats::{Row, Spread};

/// One case against the same case with the fewest threads it was run with.
#[derive(Debug, Clone)]
pub struct Scaling {
    /// The case whose rate is the numerator; the one with the fewest threads is among them, at 1.
    pub case: Case,
    /// Threads of the denominator.
    pub base_threads: u32,
    /// Ratio of the decode rates.
    pub decode: Option<Spread>,
    /// Ratio of the prefill rates.
    pub prefill: Option<Spread>,
    /// Ratio of the rates of the bandwidth probe with as many threads: what a decode that only waits for
    /// memory can gain.
    pub bandwidth: Option<Spread>,
    /// `ok`, or why there is no ratio.
    pub status: String,
}

/// Whether two cases differ in threads only.
fn same_but_threads(a: &Case, b: &Case) -> bool {
    (&a.backend, &a.model, &a.kernel, &a.isa, a.n_prompt, a.n_gen, &a.kv)
        == (&b.backend, &b.model, &b.kernel, &b.isa, b.n_prompt, b.n_gen, &b.kv)
}

/// Every case of which there is one with another thread count; `rounds[i]` are the rounds of `rows[i]`.
pub(super) fn scaling(rows: &[Row], rounds: &[Vec<Round>]) -> Vec<Scaling> {
    let mut all = Vec::new();
    for (row, of_row) in rows.iter().zip(rounds) {
        let family = || rows.iter().zip(rounds).filter(|(r, _)| same_but_threads(&r.case, &row.case));
        if family().all(|(r, _)| r.case.threads == row.case.threads) {
            continue;
        }
        let Some((base, of_base)) = family().min_by_key(|(r, _)| r.case.threads) else { continue };
        let usable = row.usable() && base.usable();
        let common: Vec<(&Round, &Round)> = of_row
            .iter()
            .filter(|_| usable)
            .filter_map(|r| Some((r, of_base.iter().find(|b| b.round == r.round)?)))
            .collect();
        let ratio = |rate: fn(&Round) -> Option<f64>| {
            Spread::of(common.iter().filter_map(|(a, b)| Some(rate(a)? / rate(b)?)))
        };
        let decode = ratio(|r| r.decode_tok_s);
        all.push(Scaling {
            case: row.case.clone(),
            base_threads: base.case.threads,
            decode,
            prefill: ratio(|r| r.prefill_tok_s),
            bandwidth: ratio(|r| r.bandwidth),
            status: match () {
                () if !row.usable() => row.status.to_string(),
                () if !base.usable() => format!("with {} threads: {}", base.case.threads, base.status),
                () if common.is_empty() => format!("no round in common with {} threads", base.case.threads),
                () if decode.is_none() => "no rates to divide".to_owned(),
                () => "ok".to_owned(),
            },
        });
    }
    all
}
