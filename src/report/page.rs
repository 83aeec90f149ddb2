//! `report.html` and `report.md`: the report as one page, from the summary and the other files of the run.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;

use super::claim::Claim;
use super::plots::Plot;
use super::reproduction::sentences;
use super::tables;
use super::text::{count, on_one_line, round_significant};
use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::journal::{CounterGroup, Record, RunHeader, Sample, file};
use crate::probe::energy::EnergyChoice;
use crate::probe::host::Host;
use crate::stats::{self, BASELINES, Status, Summary};
use crate::units::Bytes;

const HTML: &str = include_str!("../../reports/templates/report.html");
const MARKDOWN: &str = include_str!("../../reports/templates/report.md");

/// Rows of a table behind a figure; what is beyond them is in its file only.
const ROWS_MAX: usize = 400;

/// Both pages.
pub(super) struct Pages {
    pub(super) html: String,
    pub(super) markdown: String,
}

/// A table of text; a number's cell says so, to be set to the right.
#[derive(Debug, Serialize)]
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Cell>>,
    /// Columns with the same cell in every row, said once.
    everywhere: Vec<String>,
    /// Rows that only the file has.
    left_out: usize,
}

#[derive(Debug, Serialize)]
struct Cell {
    text: String,
    number: bool,
}

/// A figure on the page.
#[derive(Debug, Serialize)]
struct FigureView {
    name: &'static str,
    title: String,
    alt: String,
    svg: String,
    csv: &'static str,
    table: Table,
}

/// Makes the pages; `tables` are the CSV files of the run by name.
///
/// # Errors
/// If a template cannot be filled, which would be a mistake in it.
pub(super) fn pages(
    run_dir: &Path,
    records: &[Record],
    summary: &Summary,
    plots: &[Plot],
    tables: &BTreeMap<&str, Vec<u8>>,
) -> Result<Pages> {
    let header = stats::header(records)?;
    // What `memory` shows, `rss` shows with less.
    let by_part = plots.iter().any(|p| p.name == "memory");
    let figures = plots
        .iter()
        .filter(|plot| plot.name != "rss" || !by_part)
        .map(|plot| {
            let csv = tables.get(plot.csv).map(Vec::as_slice).unwrap_or_default();
            Ok(FigureView {
                name: plot.name,
                title: plot.title.clone(),
                alt: plot.alt.clone(),
                svg: plot.scene.svg()?,
                csv: plot.csv,
                table: behind(csv, plot.columns)?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let host = host(run_dir);
    let page = context! {
        suite => header.suite,
        claim => Claim::of(summary),
        published => summary.reproduction.as_ref().map(sentences).unwrap_or_default(),
        speedups => speedups(summary),
        tied => tied(summary),
        figures,
        methods => methods(header, summary, &host),
        instruments => instruments(records, summary),
        warnings => warnings(header, summary, records, &host),
        simulated => simulated(summary, records),
        command => command(header),
        run_id => header.run_id,
        journal => journal_hash(run_dir),
        files => tables.keys().collect::<Vec<_>>(),
    };
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|name| match name.ends_with(".html") {
        true => AutoEscape::Html,
        false => AutoEscape::None,
    });
    environment.add_filter("cell", |text: String| tables::cell(&text));
    // What would end a piece of code.
    environment.add_filter("code", |text: String| on_one_line(&text).replace('`', "'"));
    // What would end the text of an image.
    environment.add_filter("alt", |text: String| on_one_line(&text).replace(['[', ']', '<'], " "));
    let failed = |e: minijinja::Error| Error::environment(format!("cannot fill a template: {e:#}"));
    environment.add_template("report.html", HTML).map_err(failed)?;
    environment.add_template("report.md", MARKDOWN).map_err(failed)?;
    let render = |name| environment.get_template(name).and_then(|t| t.render(&page)).map_err(failed);
    Ok(Pages { html: legal(&render("report.html")?), markdown: legal(&render("report.md")?) })
}

/// A page without the characters that HTML does not allow, which a name in a journal may have.
fn legal(page: &str) -> String {
    let allowed =
        |c: char| matches!(c, '\n' | '\t') || !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    page.chars().map(|c| if allowed(c) { c } else { ' ' }).collect()
}

/// The columns of a CSV file that a figure shows, after those that identify a case and before its status.
fn behind(csv: &[u8], columns: &[&str]) -> Result<Table> {
    const IDENTITY: [&str; 9] =
        ["backend", "model", "unique_layers", "kernel", "isa", "threads", "n_prompt", "n_gen", "kv"];
    let failed = |e: csv::Error| Error::environment(format!("cannot read a table back: {e}"));
    let mut reader = csv::Reader::from_reader(csv);
    let titles: Vec<String> = reader.headers().map_err(failed)?.iter().map(str::to_owned).collect();
    let wanted = IDENTITY.iter().chain(columns).chain(&["status"]);
    let mut chosen: Vec<usize> = Vec::new();
    for column in wanted.filter_map(|c| titles.iter().position(|t| t == c)) {
        // A figure's own order goes before that of what identifies a case.
        if columns.contains(&titles[column].as_str()) {
            chosen.retain(|c| *c != column);
        }
        chosen.push(column);
    }
    let records = reader.into_records().collect::<std::result::Result<Vec<_>, _>>().map_err(failed)?;
    // Only tied models have a number of layers that are stored.
    let empty = |i: usize| records.iter().all(|record| record.get(i).is_none_or(str::is_empty));
    chosen.retain(|&i| !["unique_layers", "tied"].contains(&titles[i].as_str()) || !empty(i));
    let mut rows = Vec::new();
    let mut left_out = 0;
    for record in records {
        if rows.len() == ROWS_MAX {
            left_out += 1;
            continue;
        }
        rows.push(chosen.iter().map(|&i| record.get(i).unwrap_or_default().to_owned()).collect());
    }
    let header = chosen.iter().map(|&i| titles[i].clone()).collect();
    Ok(Table { left_out, ..table(header, rows, &IDENTITY) })
}

/// A table with its numbers rounded; of the columns `may_go`, those that are the same in every row are said
/// once.
fn table(header: Vec<String>, rows: Vec<Vec<String>>, may_go: &[&str]) -> Table {
    let same = |i: usize| rows.len() > 1 && rows.iter().all(|r| r[i] == rows[0][i]);
    let (gone, kept): (Vec<usize>, Vec<usize>) =
        (0..header.len()).partition(|&i| may_go.contains(&header[i].as_str()) && same(i));
    Table {
        everywhere: gone.iter().map(|&i| format!("{} {}", header[i], rows[0][i])).collect(),
        rows: rows.iter().map(|r| kept.iter().map(|&i| cell(&header[i], &r[i])).collect()).collect(),
        header: kept.into_iter().map(|i| header[i].clone()).collect(),
        left_out: 0,
    }
}

/// A cell as a person reads it: four digits, bytes with their unit.
fn cell(column: &str, text: &str) -> Cell {
    let number = text.parse::<f64>().ok().filter(|v| v.is_finite());
    let text = match number {
        Some(bytes) if column.ends_with("_bytes") && bytes >= 0.0 => Bytes(bytes.round() as u64).to_string(),
        Some(v) if text.len() > 5 => round_significant(v, 4),
        _ => text.to_owned(),
    };
    Cell { text, number: number.is_some() }
}

/// A table for each baseline, the one that decides first.
fn speedups(summary: &Summary) -> Vec<(&'static str, Table)> {
    let titles = [
        "backend",
        "model",
        "kernel",
        "isa",
        "threads",
        "prompt",
        "generated",
        "kv",
        "decode",
        "prefill",
        "energy",
    ];
    BASELINES
        .into_iter()
        .rev()
        .filter_map(|baseline| {
            let rows: Vec<Vec<String>> = summary
                .speedups
                .iter()
                .filter(|s| s.baseline == baseline && s.case.kernel != BASELINES[0])
                .map(|s| {
                    let c = &s.case;
                    let [decode, prefill, energy] = tables::speedup_cells(s);
                    vec![
                        c.backend.clone(),
                        c.model_label(),
                        c.kernel.clone(),
                        c.isa.clone(),
                        c.threads.to_string(),
                        c.n_prompt.to_string(),
                        c.n_gen.to_string(),
                        c.kv.clone(),
                        decode,
                        prefill,
                        energy,
                    ]
                })
                .collect();
            let header = titles.iter().map(|t| (*t).to_owned()).collect();
            let may_go = ["backend", "isa", "threads", "prompt", "generated", "kv", "energy"];
            (!rows.is_empty()).then(|| (baseline, table(header, rows, &may_go)))
        })
        .collect()
}

/// Cases of tied layers beside those of the full models, if the run has both.
fn tied(summary: &Summary) -> Option<Table> {
    let titles = ["model", "kernel", "isa", "threads", "decode", "verdict", "prefill", "prefill verdict"];
    let rows: Vec<Vec<String>> = summary
        .tied
        .iter()
        .map(|pair| {
            let [decode, prefill] = tables::tied_phases(pair);
            let case = &pair.case;
            let identity =
                [case.model_label(), case.kernel.clone(), case.isa.clone(), case.threads.to_string()];
            identity.into_iter().chain(decode).chain(prefill).collect()
        })
        .collect();
    let header = titles.iter().map(|t| (*t).to_owned()).collect();
    (!rows.is_empty()).then(|| table(header, rows, &["isa", "threads"]))
}

/// The description of the machine beside the journal, or why there is none.
fn host(run_dir: &Path) -> std::result::Result<Host, String> {
    let text = std::fs::read(run_dir.join("host.json")).map_err(|_| "host.json is not in this directory")?;
    serde_json::from_slice(&text).map_err(|e| format!("host.json cannot be understood: {e}"))
}

/// What was run on what, each with a name.
fn methods(
    header: &RunHeader,
    summary: &Summary,
    host: &std::result::Result<Host, String>,
) -> Vec<(&'static str, String)> {
    let mut methods = vec![
        (
            "Suite",
            format!(
                "{}: {} in {}, each in a process of its own, in shuffled order (seed {})",
                header.suite,
                count(summary.rows.len() as u64, "case"),
                count(header.rounds, "round"),
                header.seed
            ),
        ),
        ("bitjoule", format!("{}, commit {}", header.version, header.commit)),
        ("Started", format!("{} UTC", utc(header.started_unix_ms))),
    ];
    match host {
        Err(why) => methods.push(("Machine", format!("unknown: {why}"))),
        Ok(host) => {
            let or_why = |figure: Figure<String>| match figure {
                Figure::Unavailable { why } => format!("unknown ({why})"),
                figure => figure.value().cloned().unwrap_or_default(),
            };
            let number = |figure: &Figure<u32>| or_why(figure.clone().map(|n| n.to_string()));
            methods.extend([
                (
                    "CPU",
                    format!(
                        "{}; {} of {} hardware threads usable, sockets: {}",
                        or_why(host.cpu_model.clone()),
                        number(&host.usable_cores),
                        number(&host.logical_cores),
                        number(&host.sockets)
                    ),
                ),
                ("Memory", or_why(host.memory_total.clone().map(|b| b.to_string()))),
                (
                    "System",
                    format!(
                        "{}, {} {}, {}",
                        or_why(host.os_name.clone()),
                        host.os,
                        or_why(host.kernel.clone()),
                        host.arch
                    ),
                ),
                ("Virtualisation", or_why(host.virtualisation.clone())),
                ("Governor", or_why(host.governor.clone())),
                ("Build", format!("{}, {}, {}", host.build.profile, host.build.rustc, host.build.target)),
            ]);
        }
    }
    methods
}

/// Date and time of day of a moment, UTC: `2026-01-31 12:00:05`. (Days to date as in Howard Hinnant's
/// "chrono-compatible low-level date algorithms".)
fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60)
}

/// Where the figures of each instrument are from, in words, with how often.
fn instruments(records: &[Record], summary: &Summary) -> Vec<(&'static str, Vec<String>)> {
    let samples = || {
        records.iter().filter_map(|r| match r {
            Record::Sample(sample) => Some(sample),
            _ => None,
        })
    };
    let state = |of: &dyn Fn(&crate::probe::state::HostState) -> String| {
        tally(samples().filter_map(|s| s.state.as_deref()).map(of), "sample")
    };
    let mut all = vec![
        ("Time", vec!["measured: monotonic clock at the edges of each phase".to_owned()]),
        ("Energy", tally(summary.rows.iter().map(|r| r.energy_j_per_token.provenance()), "case")),
        ("Memory", tally(samples().map(|s| s.memory.provenance()), "sample")),
        ("Roofline", tally(summary.rows.iter().map(|r| r.decode_roofline_percent.provenance()), "case")),
        ("Counters", tally(samples().flat_map(counters), "event group")),
        ("Frequency", state(&|s| s.frequency.provenance())),
        ("Temperature", state(&|s| s.temperature_max_c.provenance())),
        ("Steal", state(&|s| s.steal_share.provenance())),
        ("Load of others", state(&|s| s.other_load_cpus.provenance())),
    ];
    for (_, found) in &mut all {
        if found.is_empty() {
            found.push("not in this journal".to_owned());
        }
    }
    all
}

fn counters(sample: &Sample) -> impl Iterator<Item = String> + '_ {
    let groups = sample.counters.iter().flat_map(|c| &c.groups);
    groups.map(|CounterGroup { counts, .. }| counts.provenance())
}

/// Each of `texts` once, the most frequent first, with its number.
fn tally(texts: impl Iterator<Item = String>, of: &str) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let rest = counts.split_off(counts.len().min(4));
    let mut lines: Vec<String> =
        counts.into_iter().map(|(text, n)| format!("{text} ({})", count(n, of))).collect();
    if !rest.is_empty() {
        lines.push(format!("and {} others, see the tables", rest.len()));
    }
    lines
}

/// What should make a reader careful.
fn warnings(
    header: &RunHeader,
    summary: &Summary,
    records: &[Record],
    host: &std::result::Result<Host, String>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if let (Some(reproduces), None) = (&header.reproduces, &summary.reproduction) {
        warnings.push(format!(
            "This run was to be held against the published table '{}', which this bitjoule does not have.",
            reproduces.target
        ));
    }
    warnings.extend(header.left_out.iter().map(|left| format!("{} was left out: {}.", left.model, left.why)));
    match host {
        Err(why) => warnings.push(format!("The machine is not described: {why}.")),
        Ok(host) => {
            if !host.build.profile.starts_with("release") {
                warnings.push(format!(
                    "bitjoule was built as {}: its speeds are not those of a release build.",
                    host.build.profile
                ));
            }
            if let Some(name) = host.virtualisation.value().filter(|v| *v != "none") {
                warnings.push(format!(
                    "A virtual machine ({name}): the host may give its cores and memory to others."
                ));
            }
            if host.build.commit.ends_with("-dirty") {
                warnings.push("The sources differed from the commit named.".to_owned());
            }
        }
    }
    for row in summary.rows.iter().filter(|r| r.status != Status::Ok) {
        warnings.push(format!("{}: {}", row.case.id, row.status));
    }
    // What is so of many cases of a model is said once.
    let mut noted: Vec<(String, String, Vec<&str>)> = Vec::new();
    for row in summary.rows.iter().filter(|r| !r.notes.is_empty()) {
        let (model, notes) = (row.case.model_label(), row.notes.join("; "));
        match noted.iter_mut().find(|noted| noted.0 == model && noted.1 == notes) {
            Some((.., cases)) => cases.push(&row.case.id),
            None => noted.push((model, notes, vec![&row.case.id])),
        }
    }
    for (model, notes, cases) in noted {
        warnings.push(match cases[..] {
            [case] => format!("{case}: {notes}"),
            _ => format!("{} of {model}: {notes}", count(cases.len() as u64, "case")),
        });
    }
    let planned = |name: &str| summary.rows.iter().any(|r| r.case.id == name);
    for record in records {
        if let Record::Failure(failure) = record
            && !planned(&failure.case)
        {
            warnings.push(format!("{}, round {}: {}", failure.case, failure.round, failure.reason));
        }
    }
    warnings.iter().map(|w| on_one_line(w)).collect()
}

/// What simulated the figures of the run that are simulated, each once.
fn simulated(summary: &Summary, records: &[Record]) -> Vec<String> {
    let by = |figure: Figure<()>| match figure {
        Figure::Simulated { by, .. } => Some(by),
        _ => None,
    };
    let of_rows = summary.rows.iter().filter_map(|r| by(r.energy_j_per_token.as_ref().map(|_| ())));
    let of_samples = records.iter().filter_map(|record| match record {
        Record::Sample(sample) => by(sample.phase_energy().map(|_| ())),
        _ => None,
    });
    let all: std::collections::BTreeSet<String> = of_rows.chain(of_samples).collect();
    all.into_iter().collect()
}

/// The command that measures the same again, in the directory of the run.
fn command(header: &RunHeader) -> String {
    let mut command = "bitjoule run suite.toml".to_owned();
    for (flag, on) in [(" --profile", header.profile), (" --keep-packed", header.keep_packed)] {
        if on {
            command += flag;
        }
    }
    if header.energy != EnergyChoice::Auto {
        command += &format!(" --energy {}", quoted(&header.energy.to_string()));
    }
    if let Some(tdp) = header.stated.tdp_w {
        command += &format!(" --assume-tdp {}", tdp.0);
    }
    if let Some(memory) = &header.stated.memory {
        let stated = format!("{}={}", memory.pj_per_byte, memory.source);
        command += &format!(" --memory-energy {}", quoted(&stated));
    }
    command
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// BLAKE3 of the journal, or why there is none.
fn journal_hash(run_dir: &Path) -> String {
    let path = run_dir.join(file::FILE_NAME);
    match std::fs::File::open(&path)
        .and_then(|f| blake3::Hasher::new().update_reader(f).map(|h| h.finalize()))
    {
        Ok(hash) => format!("BLAKE3 {hash}"),
        Err(_) => format!("unavailable: {} is not in this directory", file::FILE_NAME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_words_of_a_shell() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(utc(1_795_536_160_541), "2026-11-24 16:02:40");
        assert_eq!(quoted("powercap,perf"), "powercap,perf");
        assert_eq!(quoted("exec:it's -x"), r"'exec:it'\''s -x'");
    }

    #[test]
    fn cells_are_short() {
        let text = |column, text| cell(column, text).text;
        assert_eq!(text("decode_tok_s", "123.456789"), "123.5");
        assert_eq!(text("rss_peak_bytes", "300000000"), "300.0 MB");
        assert_eq!(text("model", "125M"), "125M");
        assert_eq!(text("threads", "2"), "2");
        assert!(!cell("status", "").number && cell("threads", "2").number);
    }
}
