//! Whether a model of tied layers runs as fast as the full one, from ratios taken within each round.

use std::fmt;

use crate::journal::Case;

use super::rounds::Round;
use super::{Row, Spread};

/// How far the median ratio may be from 1 for tied layers to stand for the full model.
pub const TOLERANCE: f64 = 0.03;

/// A case of tied layers against the same case of the full model.
#[derive(Debug, Clone)]
pub struct TiedPair {
    /// The case of tied layers: the numerator.
    pub case: Case,
    /// [`Case::id`] of the full model's.
    pub full: String,
    /// Ratio of the decode rates.
    pub decode: Option<Spread>,
    /// Ratio of the prefill rates.
    pub prefill: Option<Spread>,
    /// Why there is no ratio, if there is none.
    pub missing: Option<String>,
}

/// What the ratios of a phase say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TiedAgreement {
    /// Every round is within [`TOLERANCE`] of 1.
    Within,
    /// The median is, but not every round.
    WithinByMedian,
    /// The median is not, but some round is, or there are rounds on both sides.
    Unclear,
    /// Every round is further from 1, on the same side.
    Differs,
}

impl TiedAgreement {
    /// Judges the ratios of a phase.
    pub fn of(ratio: Spread) -> Self {
        let (low, high) = (1.0 - TOLERANCE, 1.0 + TOLERANCE);
        if low <= ratio.min && ratio.max <= high {
            TiedAgreement::Within
        } else if (low..=high).contains(&ratio.median) {
            TiedAgreement::WithinByMedian
        } else if ratio.min <= high && ratio.max >= low {
            TiedAgreement::Unclear
        } else {
            TiedAgreement::Differs
        }
    }
}

impl fmt::Display for TiedAgreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = TOLERANCE * 100.0;
        match self {
            TiedAgreement::Within => write!(f, "within {percent} % in every round"),
            TiedAgreement::WithinByMedian => write!(f, "within {percent} % by the median"),
            TiedAgreement::Unclear => {
                write!(f, "unclear: beyond {percent} % by the median, not in every round")
            }
            TiedAgreement::Differs => write!(f, "differs by more than {percent} % in every round"),
        }
    }
}

/// Every case of tied layers whose full model was planned beside it; `rounds[i]` are the rounds of `rows[i]`.
pub(super) fn pairs(rows: &[Row], rounds: &[Vec<Round>]) -> Vec<TiedPair> {
    let mut pairs = Vec::new();
    for (row, tied_rounds) in rows.iter().zip(rounds) {
        let Some(tied) = &row.case.tied else { continue };
        let full = rows.iter().zip(rounds).find(|(full, _)| {
            full.case.model == tied.full_model
                && full.case.tied.is_none()
                && same_kernel(&full.case, &row.case)
        });
        if let Some((full, full_rounds)) = full {
            pairs.push(pair((row, tied_rounds), (full, full_rounds)));
        }
    }
    pairs
}

/// Whether two cases differ in their model only.
fn same_kernel(a: &Case, b: &Case) -> bool {
    (&a.kernel, &a.isa, &a.embedding) == (&b.kernel, &b.isa, &b.embedding) && a.same_work(b)
}

fn pair((tied, tied_rounds): (&Row, &[Round]), (full, full_rounds): (&Row, &[Round])) -> TiedPair {
    let unusable = [tied, full].into_iter().find(|row| !row.usable());
    let common: Vec<(&Round, &Round)> = match unusable {
        Some(_) => Vec::new(),
        None => tied_rounds
            .iter()
            .filter_map(|t| Some((t, full_rounds.iter().find(|f| f.round == t.round)?)))
            .collect(),
    };
    let ratio = |rate: fn(&Round) -> Option<f64>| {
        Spread::of(common.iter().filter_map(|(tied, full)| Some(rate(tied)? / rate(full)?)))
    };
    let missing = match unusable {
        Some(row) => Some(format!("{}: {}", row.case.id, row.status)),
        None => common.is_empty().then(|| "no round in common".to_owned()),
    };
    TiedPair {
        case: tied.case.clone(),
        full: full.case.id.clone(),
        decode: ratio(|r| r.decode_tok_s),
        prefill: ratio(|r| r.prefill_tok_s),
        missing,
    }
}
