//! Figures as a person reads them: rounded numbers, the table on the terminal, the sentence that
//! says who won.

use std::fmt::Write as _;

use crate::figure::Figure;
use crate::stats::{BASELINES, Overhead, Row, Speedup, Spread, Status, Summary, phase_name};

/// `value` with `digits` significant digits; whole numbers keep all of theirs below a million.
pub(super) fn round_significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    // Through the exponent form, because rounding can carry into the next power of ten.
    let scientific = format!("{value:.*e}", digits.saturating_sub(1));
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    match exponent {
        -4..6 => {
            let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
            format!("{value:.decimals$}")
        }
        _ => scientific,
    }
}

/// A speedup and its spread: `4.21x (4.10-4.30)`.
pub(super) fn ratio(spread: Spread) -> String {
    let median = round_significant(spread.median, 3);
    if spread.rounds < 2 {
        return format!("{median}x");
    }
    format!("{median}x ({}-{})", round_significant(spread.min, 3), round_significant(spread.max, 3))
}

/// Smallest and largest of some ratios.
pub(super) fn range(ratios: impl Iterator<Item = f64>) -> String {
    match Spread::of(ratios) {
        Some(s) => {
            let [min, max] = [s.min, s.max].map(|ratio| round_significant(ratio, 3));
            if min == max { format!("{min}x") } else { format!("{min}-{max}x") }
        }
        None => "none".to_owned(),
    }
}

/// `1 thread`, `2 threads`.
pub(super) fn count(n: impl Into<u64>, noun: &str) -> String {
    match n.into() {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

/// `text` with spaces for line breaks and other control characters, which could move the cursor.
pub(super) fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `text` within `width` characters, the end replaced by an ellipsis where it is longer.
fn truncate(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) if width == 0 => String::new(),
        Some(_) => text.chars().take(width - 1).chain(['…']).collect(),
    }
}

/// `text` within `width` characters (at least 3), its middle replaced by an ellipsis where it is longer.
fn middle(text: &str, width: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= width {
        return text.to_owned();
    }
    let (head, tail) = (width / 2, (width - 1) / 2);
    chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect()
}

/// Longest name in the terminal's table.
const NAME_WIDTH: usize = 28;

/// A column of the terminal's table: title, whether numbers align to the right, cells.
struct TextColumn {
    title: &'static str,
    right: bool,
    cells: Vec<String>,
    /// Columns with the largest number go first where the terminal is narrow; 0 always stays.
    expendable: u8,
}

/// The summary as an aligned table of at most `width` columns (at least 20). Columns that are the
/// same in every row are said once above it; where the terminal is narrow, the columns that matter
/// least are left out. A case without figures shows its status instead.
pub fn terminal_summary(summary: &Summary, width: usize) -> String {
    let width = width.max(20);
    let rows = &summary.rows;
    let mut columns = vec![
        column("backend", false, 0, rows, |r| middle(&r.case.backend, NAME_WIDTH)),
        column("model", false, 0, rows, |r| middle(&r.case.model_label(), NAME_WIDTH)),
        column("kernel", false, 0, rows, |r| middle(&r.case.kernel, NAME_WIDTH)),
        column("isa", false, 1, rows, |r| middle(&r.case.isa, NAME_WIDTH)),
        column("threads", true, 0, rows, |r| r.case.threads.to_string()),
        column("prompt", true, 0, rows, |r| r.case.n_prompt.to_string()),
        column("generated", true, 0, rows, |r| r.case.n_gen.to_string()),
        column("kv", false, 0, rows, |r| r.case.kv.clone()),
    ];
    let mut out = String::new();
    let mut same = Vec::new();
    if rows.len() > 1 {
        columns.retain(|c| {
            let constant = !matches!(c.title, "model" | "kernel") && c.cells.iter().all(|v| *v == c.cells[0]);
            if constant {
                same.push(format!("{} {}", c.title, c.cells[0]));
            }
            !constant
        });
    }
    if !same.is_empty() {
        let _ = writeln!(out, "{}\n", truncate(&same.join(", "), width));
    }
    let first_figure = columns.len();
    columns.extend([
        column("rounds", true, 0, rows, |r| match r.status {
            Status::Incomplete { complete, planned, .. } if complete > 0 => format!("{complete}/{planned}"),
            _ => String::new(),
        }),
        column("decode tok/s", true, 0, rows, |r| r.decode_tok_s.map_or_else(String::new, short)),
        column("min-max", true, 4, rows, |r| {
            let spread = r.decode_tok_s.filter(|s| s.rounds > 1);
            spread.map_or_else(String::new, |s| {
                format!("{}-{}", round_significant(s.min, 3), round_significant(s.max, 3))
            })
        }),
        column("roofline", true, 2, rows, |r| {
            r.decode_roofline_percent.value().map_or_else(String::new, |p| format!("{p:.0} %"))
        }),
        column("prefill tok/s", true, 2, rows, |r| r.prefill_tok_s.map_or_else(String::new, short)),
        column("prefill roof", true, 3, rows, |r| {
            r.prefill_roofline_percent.value().map_or_else(String::new, |p| format!("{p:.0} %"))
        }),
        column("p50 ms", true, 7, rows, |r| {
            r.latency.map_or_else(String::new, |l| round_significant(l.p50_ms, 3))
        }),
        column("p99 ms", true, 6, rows, |r| {
            r.latency.map_or_else(String::new, |l| round_significant(l.p99_ms, 3))
        }),
        column("ttft ms", true, 8, rows, |r| r.ttft_ms.map_or_else(String::new, |t| round_significant(t, 3))),
        column("peak RSS", true, 5, rows, |r| {
            r.memory.value().map_or_else(String::new, |m| m.peak.to_string())
        }),
        column("J/token", true, 2, rows, |r| match &r.energy_j_per_token {
            Figure::Measured { value, .. } => short(*value),
            Figure::Simulated { value, .. }
            | Figure::Modelled { value, .. }
            | Figure::Assumed { value, .. } => {
                format!("~{}", short(*value))
            }
            Figure::Unavailable { .. } => String::new(),
        }),
    ]);
    // A figure that no case has is a column of nothing.
    let mut index = 0;
    columns.retain(|c| {
        index += 1;
        index <= first_figure || c.title == "decode tok/s" || c.cells.iter().any(|v| !v.is_empty())
    });
    let measure = |c: &TextColumn| {
        c.cells.iter().map(|v| v.chars().count()).max().unwrap_or(0).max(c.title.chars().count())
    };
    let total =
        |columns: &[TextColumn]| columns.iter().map(|c| measure(c) + 2).sum::<usize>().saturating_sub(2);
    while total(&columns) > width
        && let Some(worst) = columns.iter().filter(|c| c.expendable > 0).map(|c| c.expendable).max()
    {
        columns.retain(|c| c.expendable != worst);
    }
    let widths: Vec<usize> = columns.iter().map(measure).collect();
    let first_figure =
        columns.iter().position(|c| matches!(c.title, "rounds" | "decode tok/s")).unwrap_or(columns.len());
    let aligned = |texts: &[&str]| {
        let cells = texts.iter().zip(&columns).zip(&widths).map(|((text, c), &w)| match c.right {
            true => format!("{text:>w$}"),
            false => format!("{text:<w$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    let titles: Vec<&str> = columns.iter().map(|c| c.title).collect();
    let _ = writeln!(out, "{}", truncate(aligned(&titles).trim_end(), width));
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<&str> = columns.iter().map(|c| c.cells[i].as_str()).collect();
        let line = match &row.status {
            Status::Ok => aligned(&cells),
            Status::Incomplete { complete, .. } if *complete > 0 => aligned(&cells),
            status => format!("{}  {status}", aligned(&cells[..first_figure])),
        };
        let _ = writeln!(out, "{}", truncate(on_one_line(&line).trim_end(), width));
    }
    out
}

/// Where the time went, in milliseconds a token, a line for each phase of each case that noted it;
/// nothing if none did.
pub fn terminal_profile(summary: &Summary, width: usize) -> String {
    let name = |row: &Row| middle(&row.case.id, 44);
    let rows = || summary.rows.iter().filter(|r| !r.profile.is_empty());
    let Some(widest) = rows().map(|r| name(r).chars().count()).max() else { return String::new() };
    let titles = ["total", "wait", "embed", "norm+q", "qkv", "attn", "out", "gate/up", "down", "head"];
    let mut out = format!("{}\n", truncate("Milliseconds a token of the leading thread:", width));
    let mut line = |name: &str, phase: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|c| format!(" {c:>7}")).collect();
        let line = on_one_line(&format!("{name:<widest$}  {phase:<7}{cells}"));
        let _ = writeln!(out, "{}", truncate(line.trim_end(), width));
    };
    line("", "", &mut titles.iter().map(|t| (*t).to_owned()));
    for row in rows() {
        for breakdown in &row.profile {
            let operations = breakdown.work_ms.iter().map(|w| w.1);
            let figures = [breakdown.total_ms(), breakdown.wait_ms].into_iter().chain(operations);
            line(&name(row), phase_name(breakdown.phase), &mut figures.map(|ms| round_significant(ms, 3)));
        }
    }
    out + "\n"
}

fn short(spread: Spread) -> String {
    round_significant(spread.median, 3)
}

fn column(
    title: &'static str,
    right: bool,
    expendable: u8,
    rows: &[Row],
    cell: impl Fn(&Row) -> String,
) -> TextColumn {
    TextColumn { title, right, expendable, cells: rows.iter().map(cell).collect() }
}

/// The fastest of the cases that are `eligible`, among those of the heaviest model (the one whose steps read
/// most) with the most threads.
pub(super) fn winner(summary: &Summary, eligible: impl Fn(&Row) -> bool) -> Option<&Row> {
    let rated = || summary.rows.iter().filter(|r| r.usable() && r.decode_tok_s.is_some());
    let rate = |row: &Row| row.decode_tok_s.map_or(0.0, |s| s.median);
    let weight = |row: &Row| {
        // The same model weighs differently in each kernel's format; its heaviest form speaks for it.
        rated()
            .filter(|r| r.case.model == row.case.model)
            .filter_map(|r| r.bytes_per_token)
            .fold(0.0, f64::max)
    };
    rated().filter(|row| eligible(row)).max_by(|a, b| {
        weight(a)
            .total_cmp(&weight(b))
            .then(a.case.threads.cmp(&b.case.threads))
            .then(rate(a).total_cmp(&rate(b)))
    })
}

/// One sentence that says what won by how much: the fastest case of the heaviest model (the one
/// whose steps read most, then with most threads), against each baseline kernel, with the smallest
/// and largest ratio of the rounds. A second sentence counts the cases that do not enter it.
pub fn verdict(summary: &Summary) -> String {
    let sentence = match winner(summary, |_| true) {
        Some(row) => win(summary, row),
        None => match summary.rows.iter().find(|r| r.status != Status::Ok) {
            Some(row) => format!("No case has a decode speed; {}: {}.", row.case.id, row.status),
            None => "No case has a decode speed.".to_owned(),
        },
    };
    let tally = |noun: &str, matches: fn(&Status) -> bool| {
        let n = summary.rows.iter().filter(|r| matches(&r.status)).count();
        (n > 0).then(|| format!("{n} {noun}"))
    };
    let others: Vec<String> = [
        tally("wrong", |s| matches!(s, Status::Wrong(_))),
        tally("failed", |s| matches!(s, Status::Failed(_))),
        tally("skipped", |s| matches!(s, Status::Skipped(_))),
        tally("over the memory limit", |s| matches!(s, Status::OverLimit(_))),
        tally("incomplete", |s| matches!(s, Status::Incomplete { .. })),
    ]
    .into_iter()
    .flatten()
    .collect();
    let sentence = on_one_line(&sentence);
    if others.is_empty() {
        return sentence;
    }
    format!("{sentence} Of {}: {}.", count(summary.rows.len() as u64, "case"), others.join(", "))
}

/// One or two sentences: how many samples were taken while the host was in a bad state, and why. Nothing
/// if all were in a good one, or the journal does not tell.
pub fn host_states(summary: &Summary) -> String {
    let states = &summary.states;
    let all = count(states.observed as u64, "sample");
    let mut sentences = Vec::new();
    if states.bad > 0 {
        let reasons: Vec<String> = states.reasons.iter().map(|(bad, n)| format!("{n} while {bad}")).collect();
        let verb = if states.bad == 1 { "was" } else { "were" };
        sentences.push(format!(
            "{} of {all} {verb} taken in a bad state of the host ({}); they stay in the figures.",
            states.bad,
            reasons.join(", ")
        ));
    }
    if let Some(why) = &states.why_unknown {
        sentences.push(format!(
            "Of {} of {all} the load of others is not known: {}.",
            states.unknown,
            on_one_line(why)
        ));
    }
    sentences.join(" ")
}

/// What measuring costs, in a sentence or two.
pub fn overhead(overhead: &Figure<Overhead>) -> String {
    let overhead = match overhead.found() {
        Ok((overhead, _)) => overhead,
        Err(why) => return format!("The cost of measuring is not known: {}.", on_one_line(why)),
    };
    let percent = |value: f64| format!("{value:.2}");
    let Spread { median, min, max, rounds } = overhead.percent;
    let (low, high, what) = match overhead.interval_percent {
        Some((low, high)) => (low, high, "with 95 % confidence"),
        None => (min, max, "over all pairs"),
    };
    let mut text = format!(
        "Measuring cost {} % of the time (median of {}; {} to {} % {what}",
        percent(median),
        count(rounds as u64, "pair"),
        percent(low),
        percent(high),
    );
    if overhead.interval_percent.is_some() {
        let _ = write!(text, ", pairs from {} to {} %", percent(min), percent(max));
    }
    text += ")";
    if overhead.hidden_by_noise() {
        text += ": the noise is larger than that";
    }
    let ms = |ns: f64| round_significant(ns / 1e6, 3);
    let _ = write!(
        text,
        ". The edges of a window took {} ms ({}-{}), outside the timed part.",
        ms(overhead.edges_ns.median),
        ms(overhead.edges_ns.min),
        ms(overhead.edges_ns.max)
    );
    text
}

fn win(summary: &Summary, row: &Row) -> String {
    let place = format!("on {} with {}", row.case.model_label(), count(row.case.threads, "thread"));
    let against: Vec<String> = BASELINES
        .iter()
        .rev()
        .filter_map(|baseline| {
            let of = |s: &&Speedup| s.case.id == row.case.id && s.baseline == *baseline;
            let decode = summary.speedups.iter().find(of)?.decode?;
            let mut times = ratio(decode);
            if decode.rounds > 1 && (decode.min..=decode.max).contains(&1.0) {
                times.insert_str(times.len() - 1, ", no clear difference");
            }
            Some(format!("{times} as fast as {baseline}"))
        })
        .collect();
    let kernel = &row.case.kernel;
    if !against.is_empty() {
        return format!("{kernel} decoded {} {place}.", against.join(" and "));
    }
    let Some(rate) = row.decode_tok_s else { return format!("{kernel} has no decode speed {place}.") };
    let spread = match rate.rounds {
        0 | 1 => String::new(),
        _ => format!(" ({}-{})", round_significant(rate.min, 3), round_significant(rate.max, 3)),
    };
    let median = round_significant(rate.median, 3);
    format!("{kernel} decoded {median} tokens/s{spread} {place}; no baseline here to divide by.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (4.2149, "4.21"),
            (9.996, "10.0"),
            (31.04, "31.0"),
            (999.7, "1000"),
            (123_456.0, "123456"),
            (1_234_567.0, "1.23e6"),
            (0.012_34, "0.0123"),
            (0.000_012_34, "1.23e-5"),
            (-5.0, "-5.00"),
        ] {
            assert_eq!(round_significant(value, 3), text);
        }
    }

    #[test]
    fn truncation_keeps_the_width() {
        assert_eq!(truncate("abc", 3), "abc");
        assert_eq!(truncate("abcd", 3), "ab…");
        assert_eq!(truncate("äöüß", 3), "äö…");
        assert_eq!(truncate("abc", 0), "");
    }
}
