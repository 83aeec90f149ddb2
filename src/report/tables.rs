//! The CSV files and the Markdown table. Each column is one line: its name and how to fill a cell.
//!
//! Column names are a promise, kept by METHODOLOGY.md; a figure that is missing is an empty cell.

use std::collections::HashMap;
use std::fmt::Write as _;

use rayon::prelude::*;

use crate::engine::Span;
use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::journal::{
    Case, Counter, CounterReading, Energy, MemoryReading, PrefillCost, Record, Sample, Work,
};
use crate::probe::state::HostState;
use crate::report::text::{host_states, overhead, ratio, round_significant};
use crate::stats::state::{SampleState, StateJudge};
use crate::stats::{
    self, BASELINES, Bandwidths, EnergyUse, Latency, Overhead, Row, Scaling, Speedup, Spread, Summary,
    TiedAgreement, TiedPair, highest, ms, ms_per_token, per_second, percent_of, phase_name, roofline_tok_s,
};
use crate::units::Bytes;

/// A column: its name and the cell for one `T`.
pub(super) type Column<T> = (&'static str, fn(&T) -> String);

/// A number at full precision: what is read back is what was computed.
pub(super) fn number(value: impl Into<Option<f64>>) -> String {
    match value.into() {
        Some(v) if v.is_finite() && v != 0.0 && !(1e-5..1e16).contains(&v.abs()) => format!("{v:e}"),
        Some(v) if v.is_finite() => format!("{v}"),
        _ => String::new(),
    }
}

fn integer<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |v| v.to_string())
}

/// A whole or fractional figure; an empty cell where it is missing.
fn value(figure: &Figure<f64>) -> String {
    number(figure.value().copied())
}

fn median(spread: Option<Spread>) -> String {
    number(spread.map(|s| s.median))
}

fn min(spread: Option<Spread>) -> String {
    number(spread.map(|s| s.min))
}

fn max(spread: Option<Spread>) -> String {
    number(spread.map(|s| s.max))
}

pub(super) fn csv<T: Sync>(columns: &[Column<T>], rows: &[T]) -> Result<Vec<u8>> {
    /// Rows that one core formats at a time: a long journal has a million.
    const CHUNK: usize = 4096;
    let failed = |e: &dyn std::fmt::Display| Error::environment(format!("cannot format a table: {e}"));
    let header = || columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let formatted = |records: &mut dyn Iterator<Item = Vec<String>>| {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for record in records {
            writer.write_record(record).map_err(|e| failed(&e))?;
        }
        writer.into_inner().map_err(|e| failed(&e))
    };
    let chunks: Vec<Result<Vec<u8>>> = rows
        .par_chunks(CHUNK)
        .map(|rows| {
            formatted(&mut rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()))
        })
        .collect();
    let mut table = formatted(&mut std::iter::once_with(header))?;
    for chunk in chunks {
        table.extend(chunk?);
    }
    Ok(table)
}

const SUMMARY: &[Column<Row>] = &[
    ("backend", |r| r.case.backend.clone()),
    ("model", |r| r.case.model.clone()),
    ("kernel", |r| r.case.kernel.clone()),
    ("isa", |r| r.case.isa.clone()),
    ("threads", |r| r.case.threads.to_string()),
    ("n_prompt", |r| r.case.n_prompt.to_string()),
    ("n_gen", |r| r.case.n_gen.to_string()),
    ("rounds", |r| r.rounds.to_string()),
    ("status", |r| r.status.to_string()),
    ("prefill_tok_s", |r| median(r.prefill_tok_s)),
    ("decode_tok_s", |r| median(r.decode_tok_s)),
    ("decode_tok_s_min", |r| min(r.decode_tok_s)),
    ("decode_tok_s_max", |r| max(r.decode_tok_s)),
    ("decode_roofline_percent", |r| number(r.decode_roofline_percent.value().copied())),
    ("ttft_ms", |r| number(r.ttft_ms)),
    ("latency_p50_ms", |r| number(r.latency.map(|l| l.p50_ms))),
    ("latency_p99_ms", |r| number(r.latency.map(|l| l.p99_ms))),
    ("rss_peak_bytes", |r| integer(r.memory.value().map(|m| m.peak.0))),
    ("energy_j_per_token", |r| median(r.energy_j_per_token.value().copied())),
    ("energy_provenance", |r| r.energy_j_per_token.provenance()),
    ("kv", |r| r.case.kv.clone()),
    ("load_ms", |r| number(r.load_ms)),
    ("prefill_tok_s_min", |r| min(r.prefill_tok_s)),
    ("prefill_tok_s_max", |r| max(r.prefill_tok_s)),
    ("decode_roofline_tok_s", |r| number(r.decode_roofline_tok_s)),
    ("roofline_provenance", |r| r.decode_roofline_percent.provenance()),
    ("bytes_per_token", |r| number(r.bytes_per_token)),
    ("bandwidth_bytes_per_s", |r| number(r.bandwidth_bytes_per_s)),
    ("stream_bytes_per_s", |r| number(r.stream_bytes_per_s)),
    ("latency_p90_ms", |r| number(r.latency.map(|l| l.p90_ms))),
    ("latency_max_ms", |r| number(r.latency.map(|l| l.max_ms))),
    ("rss_anon_bytes", |r| integer(r.memory.value().map(|m| m.anon.0))),
    ("rss_file_bytes", |r| integer(r.memory.value().map(|m| m.file.0))),
    ("rss_peak_anon_bytes", |r| integer(r.memory.value().map(|m| m.peak_anon.0))),
    ("rss_peak_file_bytes", |r| integer(r.memory.value().map(|m| m.peak_file.0))),
    ("memory_provenance", |r| r.memory.provenance()),
    ("decode_cpu_s_per_token", |r| number(r.decode_cpu_s_per_token)),
    ("decode_cpu_cores", |r| number(r.decode_cpu_cores)),
    ("energy_j_per_token_min", |r| min(r.energy_j_per_token.value().copied())),
    ("energy_j_per_token_max", |r| max(r.energy_j_per_token.value().copied())),
    ("check", |r| {
        r.check.as_ref().map_or("unchecked", |c| if c.passed { "passed" } else { "failed" }).to_owned()
    }),
    ("check_reference", |r| integer(r.check.as_ref().map(|c| &c.reference))),
    ("check_relative_difference", |r| number(r.check.as_ref().map(|c| c.relative_difference))),
    ("check_tolerance", |r| number(r.check.as_ref().map(|c| c.tolerance))),
    ("check_positions", |r| integer(r.check.as_ref().map(|c| c.positions))),
    ("check_argmax_agreeing", |r| integer(r.check.as_ref().map(|c| c.argmax_agreeing))),
    ("notes", |r| r.notes.join("; ")),
    ("case", |r| r.case.id.clone()),
    ("prefill_roofline_percent", |r| number(r.prefill_roofline_percent.value().copied())),
    ("prefill_roofline_tok_s", |r| number(r.prefill_roofline_tok_s)),
    ("prefill_roofline_provenance", |r| r.prefill_roofline_percent.provenance()),
    ("peak_int8_mac_per_s", |r| number(r.peak_int8_mac_per_s)),
    ("peak_f32_mac_per_s", |r| number(r.peak_f32_mac_per_s)),
    ("prefill_mac_per_token", |r| number(r.prefill_mac_per_token)),
    ("embedding", |r| r.case.embedding.clone().unwrap_or_default()),
    ("load_kept_ms", |r| number(r.load_kept_ms)),
    ("unique_layers", |r| integer(r.case.tied.as_ref().map(|t| t.unique_layers))),
    ("layers", |r| integer(r.case.tied.as_ref().map(|t| t.layers))),
    ("energy_net_j_per_token", |r| decode_figure(r, |e| median(e.net_j_per_token.value().copied()))),
    ("energy_net_provenance", |r| decode_figure(r, |e| e.net_j_per_token.provenance())),
    ("modelled_arithmetic_45nm_j_per_token", |r| decode_figure(r, |e| value(&e.models.arithmetic_45nm))),
    ("modelled_arithmetic_7nm_j_per_token", |r| decode_figure(r, |e| value(&e.models.arithmetic_7nm))),
    ("modelled_arithmetic_provenance", |r| decode_figure(r, |e| e.models.arithmetic_7nm.provenance())),
    ("modelled_memory_j_per_token", |r| decode_figure(r, |e| value(&e.models.memory))),
    ("modelled_memory_provenance", |r| decode_figure(r, |e| e.models.memory.provenance())),
    ("assumed_tdp_j_per_token", |r| decode_figure(r, |e| value(&e.models.tdp))),
    ("assumed_tdp_provenance", |r| decode_figure(r, |e| e.models.tdp.provenance())),
    ("parameters", |r| number(r.parameters)),
];

/// A cell about the energy of decode, by the source that figures come from.
fn decode_figure(row: &Row, cell: impl Fn(&EnergyUse) -> String) -> String {
    row.decode_energy().map_or_else(String::new, cell)
}

/// `summary.csv`: a row a case.
pub(super) fn summary_csv(summary: &Summary) -> Result<Vec<u8>> {
    csv(SUMMARY, &summary.rows)
}

const MEMORY: &[Column<Row>] = &[
    ("case", |r| r.case.id.clone()),
    ("backend", |r| r.case.backend.clone()),
    ("model", |r| r.case.model.clone()),
    ("kernel", |r| r.case.kernel.clone()),
    ("isa", |r| r.case.isa.clone()),
    ("threads", |r| r.case.threads.to_string()),
    ("n_prompt", |r| r.case.n_prompt.to_string()),
    ("n_gen", |r| r.case.n_gen.to_string()),
    ("kv", |r| r.case.kv.clone()),
    ("rounds", |r| r.rounds.to_string()),
    ("status", |r| r.status.to_string()),
    ("predicted_weights_bytes", |r| integer(r.memory_use.predicted.map(|p| p.weights.0))),
    ("predicted_embedding_bytes", |r| integer(r.memory_use.predicted.map(|p| p.embedding.0))),
    ("predicted_kv_cache_bytes", |r| integer(r.memory_use.predicted.map(|p| p.kv_cache.0))),
    ("predicted_scratch_bytes", |r| integer(r.memory_use.predicted.map(|p| p.scratch.0))),
    ("predicted_bytes", |r| integer(r.memory_use.predicted.map(|p| p.total().0))),
    ("rss_anon_bytes", |r| value(&r.memory_use.anon)),
    ("unaccounted_bytes", |r| value(&r.memory_use.unaccounted)),
    ("rss_file_bytes", |r| value(&r.memory_use.file)),
    ("rss_shmem_bytes", |r| value(&r.memory_use.shmem)),
    ("swapped_bytes", |r| value(&r.memory_use.swapped)),
    ("rss_peak_bytes", |r| integer(r.memory.value().map(|m| m.peak.0))),
    ("memory_provenance", |r| r.memory_use.anon.provenance()),
    ("pss_bytes", |r| value(&r.memory_use.pss)),
    ("pss_provenance", |r| r.memory_use.pss.provenance()),
    ("load_minor_faults", |r| value(&r.memory_use.faults[0].minor)),
    ("load_major_faults", |r| value(&r.memory_use.faults[0].major)),
    ("prefill_minor_faults", |r| value(&r.memory_use.faults[1].minor)),
    ("prefill_major_faults", |r| value(&r.memory_use.faults[1].major)),
    ("decode_minor_faults", |r| value(&r.memory_use.faults[2].minor)),
    ("decode_major_faults", |r| value(&r.memory_use.faults[2].major)),
    ("faults_provenance", |r| r.memory_use.faults[2].minor.provenance()),
    ("memory_limit_bytes", |r| integer(r.memory_use.limit.map(|l| l.0))),
    ("memory_limit_enforced_by", |r| r.memory_use.limit_enforced_by.clone().unwrap_or_default()),
    ("unique_layers", |r| integer(r.case.tied.as_ref().map(|t| t.unique_layers))),
    ("full_model_weights_bytes", |r| integer(r.memory_use.full.value().map(|p| p.weights.0))),
    ("full_model_bytes", |r| integer(r.memory_use.full.value().map(|p| p.total().0))),
    ("full_model_provenance", |r| r.memory_use.full.provenance()),
];

/// `memory.csv`: a row a case.
pub(super) fn memory_csv(summary: &Summary) -> Result<Vec<u8>> {
    csv(MEMORY, &summary.rows)
}

/// The energy of one part of a case by one source.
struct EnergyRow<'a> {
    row: &'a Row,
    energy: &'a EnergyUse,
}

/// The columns of `energy.csv`.
fn energy_columns<'a>() -> Vec<Column<EnergyRow<'a>>> {
    vec![
        ("case", |e| e.row.case.id.clone()),
        ("backend", |e| e.row.case.backend.clone()),
        ("model", |e| e.row.case.model.clone()),
        ("kernel", |e| e.row.case.kernel.clone()),
        ("isa", |e| e.row.case.isa.clone()),
        ("threads", |e| e.row.case.threads.to_string()),
        ("n_prompt", |e| e.row.case.n_prompt.to_string()),
        ("n_gen", |e| e.row.case.n_gen.to_string()),
        ("kv", |e| e.row.case.kv.clone()),
        ("rounds", |e| e.row.rounds.to_string()),
        ("status", |e| e.row.status.to_string()),
        ("phase", |e| e.energy.part.name().to_owned()),
        ("source", |e| e.energy.source.clone()),
        ("energy_window_s", |e| number(e.energy.window_s)),
        ("energy_repetitions", |e| number(e.energy.repetitions)),
        ("energy_j", |e| median(e.energy.j.value().copied())),
        ("energy_j_min", |e| min(e.energy.j.value().copied())),
        ("energy_j_max", |e| max(e.energy.j.value().copied())),
        ("energy_j_per_token", |e| median(e.energy.j_per_token.value().copied())),
        ("energy_j_per_token_min", |e| min(e.energy.j_per_token.value().copied())),
        ("energy_j_per_token_max", |e| max(e.energy.j_per_token.value().copied())),
        ("tokens_per_j", |e| value(&e.energy.tokens_per_j)),
        ("energy_delay_j_s_per_token", |e| value(&e.energy.j_s_per_token)),
        ("power_w", |e| value(&e.energy.power_w)),
        ("energy_uncertainty_j", |e| value(&e.energy.uncertainty_j)),
        ("energy_uncertainty_percent", |e| value(&e.energy.uncertainty_percent)),
        ("energy_provenance", |e| e.energy.j.provenance()),
        ("idle_power_w", |e| value(&e.energy.idle_w)),
        ("energy_net_j", |e| median(e.energy.net_j.value().copied())),
        ("energy_net_j_per_token", |e| median(e.energy.net_j_per_token.value().copied())),
        ("energy_net_j_per_token_min", |e| min(e.energy.net_j_per_token.value().copied())),
        ("energy_net_j_per_token_max", |e| max(e.energy.net_j_per_token.value().copied())),
        ("energy_net_provenance", |e| e.energy.net_j.provenance()),
        ("compared", |e| value(&e.energy.ratio_to_first)),
        ("energy_marks", |e| e.energy.marks.join("; ")),
        ("modelled_arithmetic_45nm_j_per_token", |e| value(&e.energy.models.arithmetic_45nm)),
        ("modelled_arithmetic_45nm_provenance", |e| e.energy.models.arithmetic_45nm.provenance()),
        ("modelled_arithmetic_7nm_j_per_token", |e| value(&e.energy.models.arithmetic_7nm)),
        ("modelled_arithmetic_7nm_provenance", |e| e.energy.models.arithmetic_7nm.provenance()),
        ("modelled_memory_j_per_token", |e| value(&e.energy.models.memory)),
        ("modelled_memory_provenance", |e| e.energy.models.memory.provenance()),
        ("assumed_tdp_j_per_token", |e| value(&e.energy.models.tdp)),
        ("assumed_tdp_provenance", |e| e.energy.models.tdp.provenance()),
    ]
}

/// `energy.csv`: a row for each case, phase and source.
pub(super) fn energy_csv(summary: &Summary) -> Result<Vec<u8>> {
    let rows: Vec<EnergyRow> = summary
        .rows
        .iter()
        .flat_map(|row| row.energy.iter().map(move |energy| EnergyRow { row, energy }))
        .collect();
    csv(&energy_columns(), &rows)
}

const OVERHEAD: &[Column<Overhead>] = &[
    ("threads", |o| o.threads.to_string()),
    ("pairs", |o| o.percent.rounds.to_string()),
    ("overhead_percent", |o| number(o.percent.median)),
    ("overhead_percent_low", |o| number(o.interval_percent.map(|(low, _)| low))),
    ("overhead_percent_high", |o| number(o.interval_percent.map(|(_, high)| high))),
    ("overhead_percent_min", |o| number(o.percent.min)),
    ("overhead_percent_max", |o| number(o.percent.max)),
    ("hidden_by_noise", |o| o.hidden_by_noise().to_string()),
    ("edges_ns", |o| number(o.edges_ns.median)),
    ("edges_ns_min", |o| number(o.edges_ns.min)),
    ("edges_ns_max", |o| number(o.edges_ns.max)),
];

/// `overhead.csv`: one row, or none if the cost of the instruments is not known.
pub(super) fn overhead_csv(summary: &Summary) -> Result<Vec<u8>> {
    let rows: Vec<Overhead> = summary.overhead.value().copied().into_iter().collect();
    csv(OVERHEAD, &rows)
}

/// The counts of one sample.
struct CounterRow<'a> {
    case: &'a Case,
    sample: &'a Sample,
    reading: CounterReading,
}

impl CounterRow<'_> {
    fn count(&self, counter: Counter) -> String {
        integer(self.reading.get(counter).value())
    }

    /// `over` for each `per` events of `under`.
    fn ratio(&self, over: Counter, under: Counter, per: f64) -> String {
        number(self.reading.ratio(over, under).value().map(|r| r * per))
    }

    fn provenance(&self, counter: Counter) -> String {
        self.reading.get(counter).provenance()
    }

    fn per_second(&self, counter: Counter) -> String {
        let seconds = self.sample.wall_ns as f64 / 1e9;
        number(self.reading.get(counter).value().map(|count| *count as f64 / seconds))
    }

    fn per_token(&self, counter: Counter) -> String {
        let tokens = work_tokens(self.sample).filter(|n| *n > 0);
        let count = self.reading.get(counter).value().copied();
        number(count.zip(tokens).map(|(count, tokens)| count as f64 / tokens as f64))
    }
}

/// The columns of `counters.csv`.
fn counter_columns<'a>() -> Vec<Column<CounterRow<'a>>> {
    use Counter::*;
    vec![
        ("case", |r| r.case.id.clone()),
        ("backend", |r| r.case.backend.clone()),
        ("model", |r| r.case.model.clone()),
        ("kernel", |r| r.case.kernel.clone()),
        ("isa", |r| r.case.isa.clone()),
        ("threads", |r| r.case.threads.to_string()),
        ("n_prompt", |r| r.case.n_prompt.to_string()),
        ("n_gen", |r| r.case.n_gen.to_string()),
        ("kv", |r| r.case.kv.clone()),
        ("round", |r| r.sample.round.to_string()),
        ("visit", |r| r.sample.visit.to_string()),
        ("phase", |r| phase_name(r.sample.phase()).to_owned()),
        ("wall_ns", |r| r.sample.wall_ns.to_string()),
        ("work_tokens", |r| integer(work_tokens(r.sample))),
        ("instructions", |r| r.count(Instructions)),
        ("cycles", |r| r.count(Cycles)),
        ("instructions_per_cycle", |r| r.ratio(Instructions, Cycles, 1.0)),
        ("instructions_per_token", |r| r.per_token(Instructions)),
        ("instructions_provenance", |r| r.provenance(Instructions)),
        ("cache_references", |r| r.count(CacheReferences)),
        ("cache_misses", |r| r.count(CacheMisses)),
        ("cache_miss_percent", |r| r.ratio(CacheMisses, CacheReferences, 100.0)),
        ("cache_misses_per_1000_instructions", |r| r.ratio(CacheMisses, Instructions, 1000.0)),
        ("cache_provenance", |r| r.provenance(CacheMisses)),
        ("branch_misses", |r| r.count(BranchMisses)),
        ("branch_misses_per_1000_instructions", |r| r.ratio(BranchMisses, Instructions, 1000.0)),
        ("branch_misses_provenance", |r| r.provenance(BranchMisses)),
        ("stalled_frontend", |r| r.count(StalledFrontend)),
        ("stalled_frontend_percent", |r| r.ratio(StalledFrontend, Cycles, 100.0)),
        ("stalled_frontend_provenance", |r| r.provenance(StalledFrontend)),
        ("stalled_backend", |r| r.count(StalledBackend)),
        ("stalled_backend_percent", |r| r.ratio(StalledBackend, Cycles, 100.0)),
        ("stalled_backend_provenance", |r| r.provenance(StalledBackend)),
        ("task_clock_ns", |r| r.count(TaskClockNs)),
        ("task_clock_provenance", |r| r.provenance(TaskClockNs)),
        ("page_faults", |r| r.count(PageFaults)),
        ("context_switches", |r| r.count(ContextSwitches)),
        ("switches_provenance", |r| r.provenance(ContextSwitches)),
        ("migrations", |r| r.count(Migrations)),
        ("migrations_provenance", |r| r.provenance(Migrations)),
        ("dram_read_bytes", |r| r.count(DramReadBytes)),
        ("dram_written_bytes", |r| r.count(DramWrittenBytes)),
        ("dram_read_bytes_per_s", |r| r.per_second(DramReadBytes)),
        ("dram_written_bytes_per_s", |r| r.per_second(DramWrittenBytes)),
        ("dram_read_bytes_per_token", |r| r.per_token(DramReadBytes)),
        ("dram_provenance", |r| r.provenance(DramReadBytes)),
    ]
}

/// `counters.csv`: a row a sample, in the order of the journal.
pub(super) fn counters_csv(records: &[Record]) -> Result<Vec<u8>> {
    let header = stats::header(records)?;
    let cases: HashMap<&str, &Case> = header.cases.iter().map(|c| (c.id.as_str(), c)).collect();
    let rows: Vec<CounterRow> = records
        .iter()
        .filter_map(|record| {
            let Record::Sample(sample) = record else { return None };
            let case = *cases.get(sample.case.as_str())?;
            let reading = sample.counters.clone().unwrap_or_default();
            Some(CounterRow { case, sample, reading })
        })
        .collect();
    csv(&counter_columns(), &rows)
}

const SPEEDUP: &[Column<Speedup>] = &[
    ("backend", |s| s.case.backend.clone()),
    ("model", |s| s.case.model.clone()),
    ("kernel", |s| s.case.kernel.clone()),
    ("isa", |s| s.case.isa.clone()),
    ("threads", |s| s.case.threads.to_string()),
    ("n_prompt", |s| s.case.n_prompt.to_string()),
    ("n_gen", |s| s.case.n_gen.to_string()),
    ("kv", |s| s.case.kv.clone()),
    ("baseline_kernel", |s| s.baseline.to_owned()),
    ("baseline_isa", |s| s.baseline_isa.clone().unwrap_or_default()),
    ("rounds", |s| s.decode.or(s.prefill).map_or(0, |d| d.rounds).to_string()),
    ("status", |s| s.status.clone()),
    ("decode_speedup", |s| median(s.decode)),
    ("decode_speedup_min", |s| min(s.decode)),
    ("decode_speedup_max", |s| max(s.decode)),
    ("prefill_speedup", |s| median(s.prefill)),
    ("prefill_speedup_min", |s| min(s.prefill)),
    ("prefill_speedup_max", |s| max(s.prefill)),
    ("energy_ratio", |s| median(s.energy_ratio.value().copied())),
    ("energy_ratio_min", |s| min(s.energy_ratio.value().copied())),
    ("energy_ratio_max", |s| max(s.energy_ratio.value().copied())),
    ("energy_reduction_percent", |s| number(s.energy_reduction_percent())),
    ("energy_provenance", |s| s.energy_ratio.provenance()),
    ("unique_layers", |s| integer(s.case.tied.as_ref().map(|t| t.unique_layers))),
];

/// `speedup.csv`: a row for each case and baseline kernel.
pub(super) fn speedup_csv(summary: &Summary) -> Result<Vec<u8>> {
    csv(SPEEDUP, &summary.speedups)
}

const SCALING: &[Column<Scaling>] = &[
    ("backend", |s| s.case.backend.clone()),
    ("model", |s| s.case.model.clone()),
    ("kernel", |s| s.case.kernel.clone()),
    ("isa", |s| s.case.isa.clone()),
    ("threads", |s| s.case.threads.to_string()),
    ("n_prompt", |s| s.case.n_prompt.to_string()),
    ("n_gen", |s| s.case.n_gen.to_string()),
    ("kv", |s| s.case.kv.clone()),
    ("base_threads", |s| s.base_threads.to_string()),
    ("rounds", |s| s.decode.or(s.prefill).map_or(0, |d| d.rounds).to_string()),
    ("status", |s| s.status.clone()),
    ("decode_scaling", |s| median(s.decode)),
    ("decode_scaling_min", |s| min(s.decode)),
    ("decode_scaling_max", |s| max(s.decode)),
    ("prefill_scaling", |s| median(s.prefill)),
    ("prefill_scaling_min", |s| min(s.prefill)),
    ("prefill_scaling_max", |s| max(s.prefill)),
    ("bandwidth_scaling", |s| median(s.bandwidth)),
    ("unique_layers", |s| integer(s.case.tied.as_ref().map(|t| t.unique_layers))),
];

/// `scaling.csv`: a row for each case that was run with several thread counts.
pub(super) fn scaling_csv(summary: &Summary) -> Result<Vec<u8>> {
    csv(SCALING, &summary.scaling)
}

const TIED: &[Column<TiedPair>] = &[
    ("case", |p| p.case.id.clone()),
    ("full_case", |p| p.full.clone()),
    ("model", |p| p.case.model.clone()),
    ("kernel", |p| p.case.kernel.clone()),
    ("isa", |p| p.case.isa.clone()),
    ("threads", |p| p.case.threads.to_string()),
    ("n_prompt", |p| p.case.n_prompt.to_string()),
    ("n_gen", |p| p.case.n_gen.to_string()),
    ("unique_layers", |p| integer(p.case.tied.as_ref().map(|t| t.unique_layers))),
    ("layers", |p| integer(p.case.tied.as_ref().map(|t| t.layers))),
    ("rounds", |p| p.decode.or(p.prefill).map_or(0, |d| d.rounds).to_string()),
    ("status", |p| p.missing.clone().unwrap_or_else(|| "ok".to_owned())),
    ("decode_ratio", |p| median(p.decode)),
    ("decode_ratio_min", |p| min(p.decode)),
    ("decode_ratio_max", |p| max(p.decode)),
    ("decode_verdict", |p| integer(p.decode.map(TiedAgreement::of))),
    ("prefill_ratio", |p| median(p.prefill)),
    ("prefill_ratio_min", |p| min(p.prefill)),
    ("prefill_ratio_max", |p| max(p.prefill)),
    ("prefill_verdict", |p| integer(p.prefill.map(TiedAgreement::of))),
];

/// `tied.csv`: a row for each case of tied layers beside the full model's; `None` if there is none.
pub(super) fn tied_csv(summary: &Summary) -> Result<Option<Vec<u8>>> {
    if summary.tied.is_empty() { Ok(None) } else { csv(TIED, &summary.tied).map(Some) }
}

/// Tokens that a window computed: the prompt, or the decode steps.
fn work_tokens(sample: &Sample) -> Option<usize> {
    match &sample.work {
        Work::Load { .. } => None,
        Work::Prefill { prompt, .. } => Some(prompt.len()),
        Work::Decode { latencies_ns, .. } => Some(latencies_ns.len()),
    }
}

/// One sample beside what its round says about it.
struct SampleRow<'a> {
    case: &'a Case,
    sample: &'a Sample,
    energy: Figure<Energy>,
    bandwidth: Option<f64>,
    roofline_percent: Figure<f64>,
    state: Option<SampleState>,
}

impl SampleRow<'_> {
    fn tokens(&self) -> Option<&[u32]> {
        match &self.sample.work {
            Work::Load { .. } => None,
            Work::Prefill { prompt, .. } => Some(prompt),
            Work::Decode { tokens, .. } => Some(tokens),
        }
    }

    fn latency(&self) -> Option<Latency> {
        match &self.sample.work {
            Work::Load { .. } | Work::Prefill { .. } => None,
            Work::Decode { latencies_ns, .. } => Latency::of(latencies_ns.clone()),
        }
    }

    fn load_bytes(&self) -> Option<(Bytes, Bytes)> {
        match self.sample.work {
            Work::Load { file_bytes, weight_bytes, .. } => Some((file_bytes, weight_bytes)),
            Work::Prefill { .. } | Work::Decode { .. } => None,
        }
    }

    fn cost(&self) -> Option<&PrefillCost> {
        match &self.sample.work {
            Work::Prefill { cost, .. } => cost.as_ref(),
            Work::Load { .. } | Work::Decode { .. } => None,
        }
    }

    /// A figure of the host's state.
    fn host(&self, figure: impl Fn(&HostState) -> Option<f64>) -> String {
        number(self.sample.state.as_deref().and_then(figure))
    }

    fn memory(&self, part: impl Fn(&MemoryReading) -> Bytes) -> String {
        integer(self.sample.memory.value().map(|m| part(m).0))
    }
}

/// The columns of `samples.csv`.
fn sample_columns<'a>() -> Vec<Column<SampleRow<'a>>> {
    vec![
        ("case", |s| s.case.id.clone()),
        ("backend", |s| s.case.backend.clone()),
        ("model", |s| s.case.model.clone()),
        ("kernel", |s| s.case.kernel.clone()),
        ("isa", |s| s.case.isa.clone()),
        ("threads", |s| s.case.threads.to_string()),
        ("n_prompt", |s| s.case.n_prompt.to_string()),
        ("n_gen", |s| s.case.n_gen.to_string()),
        ("kv", |s| s.case.kv.clone()),
        ("round", |s| s.sample.round.to_string()),
        ("visit", |s| s.sample.visit.to_string()),
        ("phase", |s| phase_name(s.sample.phase()).to_owned()),
        ("ended_unix_ms", |s| s.sample.ended_unix_ms.to_string()),
        ("wall_ns", |s| s.sample.wall_ns.to_string()),
        ("cpu_ns", |s| s.sample.cpu_ns.to_string()),
        ("work_tokens", |s| integer(work_tokens(s.sample))),
        ("tok_s", |s| number(work_tokens(s.sample).and_then(|n| per_second(n, s.sample.wall_ns)))),
        ("energy_j", |s| number(s.energy.value().map(|e| e.energy_j.0))),
        ("energy_provenance", |s| s.energy.provenance()),
        ("energy_domains", |s| {
            let domains = s.sample.energy_domains();
            let cells: Vec<String> =
                domains.iter().map(|d| format!("{}={}", d.domain, number(d.energy_j.0))).collect();
            cells.join(";")
        }),
        ("rss_peak_bytes", |s| s.memory(|m| m.peak_rss)),
        ("rss_anon_bytes", |s| s.memory(|m| m.anon)),
        ("rss_file_bytes", |s| s.memory(|m| m.file)),
        ("rss_shmem_bytes", |s| s.memory(|m| m.shmem)),
        ("memory_provenance", |s| s.sample.memory.provenance()),
        ("file_bytes", |s| integer(s.load_bytes().map(|(file, _)| file.0))),
        ("weight_bytes", |s| integer(s.load_bytes().map(|(_, weights)| weights.0))),
        ("bytes_per_token", |s| match s.sample.work {
            Work::Decode { bytes_per_token, .. } => bytes_per_token.0.to_string(),
            Work::Load { .. } | Work::Prefill { .. } => String::new(),
        }),
        ("bandwidth_bytes_per_s", |s| number(s.bandwidth)),
        ("stream_bytes_per_s", |s| match &s.sample.work {
            Work::Decode { stream, .. } => number(highest(stream)),
            Work::Load { .. } | Work::Prefill { .. } => String::new(),
        }),
        ("roofline_percent", |s| number(s.roofline_percent.value().copied())),
        ("latency_p50_ms", |s| number(s.latency().map(|l| l.p50_ms))),
        ("latency_p90_ms", |s| number(s.latency().map(|l| l.p90_ms))),
        ("latency_p99_ms", |s| number(s.latency().map(|l| l.p99_ms))),
        ("latency_max_ms", |s| number(s.latency().map(|l| l.max_ms))),
        ("tokens", |s| {
            let tokens: Vec<String> = s.tokens().unwrap_or_default().iter().map(u32::to_string).collect();
            tokens.join(" ")
        }),
        ("int8_macs", |s| integer(s.cost().map(|c| c.int8_macs))),
        ("f32_macs", |s| integer(s.cost().map(|c| c.f32_macs))),
        ("prefill_read_bytes", |s| integer(s.cost().map(|c| c.read_bytes.0))),
        ("state", |s| integer(s.state.as_ref())),
        ("frequency_mean_mhz", |s| s.host(|h| h.frequency.value().map(|f| f.mean_mhz))),
        ("frequency_min_mhz", |s| s.host(|h| h.frequency.value().map(|f| f.min_mhz))),
        ("frequency_provenance", |s| integer(s.sample.state.as_ref().map(|h| h.frequency.provenance()))),
        ("temperature_max_c", |s| s.host(|h| h.temperature_max_c.value().copied())),
        ("throttle_events", |s| s.host(|h| h.throttle_events.value().map(|&n| n as f64))),
        ("steal_share", |s| s.host(|h| h.steal_share.value().copied())),
        ("other_load_cpus", |s| s.host(|h| h.other_load_cpus.value().copied())),
        ("memory_pressure_share", |s| s.host(|h| h.memory_pressure_share.value().copied())),
        ("swap_read_bytes", |s| s.host(|h| h.swap.value().map(|w| w.read.0 as f64))),
        ("swap_written_bytes", |s| s.host(|h| h.swap.value().map(|w| w.written.0 as f64))),
        ("energy_window_ns", |s| integer(s.sample.window_of_energy().map(|w| w.wall_ns))),
        ("energy_repetitions", |s| integer(s.sample.window_of_energy().map(|w| w.repetitions))),
        ("energy_uncertainty_j", |s| number(s.energy.value().and_then(|e| e.uncertainty_j).map(|u| u.0))),
        ("energy_marks", |s| {
            let window = s.sample.window_of_energy();
            let marks = window.iter().flat_map(|w| w.sources.first()).flat_map(|source| source.marks.clone());
            marks.collect::<Vec<_>>().join("; ")
        }),
    ]
}

/// `samples.csv`: a row a sample, in the order of the journal.
pub(super) fn samples_csv(records: &[Record]) -> Result<Vec<u8>> {
    let header = stats::header(records)?;
    let cases: HashMap<&str, &Case> = header.cases.iter().map(|c| (c.id.as_str(), c)).collect();
    let bandwidths = Bandwidths::new(records);
    let states = StateJudge::new(&header.cases, records);
    let rows: Vec<SampleRow> = records
        .iter()
        .filter_map(|record| {
            let Record::Sample(sample) = record else { return None };
            let case = *cases.get(sample.case.as_str())?;
            let (bandwidth, roofline_percent) = match &sample.work {
                Work::Decode { latencies_ns, bytes_per_token, stream, .. } => {
                    let bound = roofline_tok_s(stream, *bytes_per_token);
                    let rate = per_second(latencies_ns.len(), sample.wall_ns);
                    (bandwidths.of(sample.round, case.threads), percent_of("decode", rate, &bound))
                }
                Work::Load { .. } | Work::Prefill { .. } => {
                    (None, Figure::unavailable("only decode has a roofline"))
                }
            };
            let (energy, state) = (sample.phase_energy(), states.of(sample));
            Some(SampleRow { case, sample, energy, bandwidth, roofline_percent, state })
        })
        .collect();
    csv(&sample_columns(), &rows)
}

/// One decode step.
struct Step<'a> {
    case: &'a str,
    round: u32,
    token: usize,
    latency_ns: u64,
}

/// The columns of `latencies.csv`.
fn step_columns<'a>() -> [Column<Step<'a>>; 4] {
    [
        ("case", |s| s.case.to_owned()),
        ("round", |s| s.round.to_string()),
        ("token", |s| s.token.to_string()),
        ("latency_ms", |s| number(ms(s.latency_ns))),
    ]
}

/// `latencies.csv`: a row a decode step. Token 1 comes from the prefill, so the first row is token 2.
pub(super) fn latencies_csv(records: &[Record]) -> Result<Vec<u8>> {
    let rows: Vec<Step> = records
        .iter()
        .filter_map(|record| match record {
            Record::Sample(sample) => match &sample.work {
                Work::Decode { latencies_ns, .. } => Some((sample, latencies_ns)),
                Work::Load { .. } | Work::Prefill { .. } => None,
            },
            _ => None,
        })
        .flat_map(|(sample, latencies)| {
            latencies.iter().enumerate().map(|(i, &latency_ns)| Step {
                case: &sample.case,
                round: sample.round,
                token: i + 2,
                latency_ns,
            })
        })
        .collect();
    csv(&step_columns(), &rows)
}

/// The time of one operation in one sample.
struct SpanRow<'a> {
    case: &'a Case,
    sample: &'a Sample,
    tokens: usize,
    span: &'a Span,
}

/// The columns of `profile.csv`.
fn span_columns<'a>() -> Vec<Column<SpanRow<'a>>> {
    vec![
        ("case", |s| s.case.id.clone()),
        ("backend", |s| s.case.backend.clone()),
        ("model", |s| s.case.model.clone()),
        ("kernel", |s| s.case.kernel.clone()),
        ("isa", |s| s.case.isa.clone()),
        ("threads", |s| s.case.threads.to_string()),
        ("n_prompt", |s| s.case.n_prompt.to_string()),
        ("n_gen", |s| s.case.n_gen.to_string()),
        ("kv", |s| s.case.kv.clone()),
        ("round", |s| s.sample.round.to_string()),
        ("phase", |s| phase_name(s.sample.phase()).to_owned()),
        ("operation", |s| s.span.operation.name().to_owned()),
        ("count", |s| s.span.count.to_string()),
        ("work_ns", |s| s.span.work_ns.to_string()),
        ("wait_ns", |s| s.span.wait_ns.to_string()),
        ("work_tokens", |s| s.tokens.to_string()),
        ("work_ms_per_token", |s| number(ms_per_token(s.span.work_ns, s.tokens))),
        ("wait_ms_per_token", |s| number(ms_per_token(s.span.wait_ns, s.tokens))),
    ]
}

/// `profile.csv`: a row for each operation of each sample that has a profile; `None` if none has.
pub(super) fn profile_csv(records: &[Record]) -> Result<Option<Vec<u8>>> {
    let header = stats::header(records)?;
    let cases: HashMap<&str, &Case> = header.cases.iter().map(|c| (c.id.as_str(), c)).collect();
    let rows: Vec<SpanRow> = records
        .iter()
        .filter_map(|record| {
            let Record::Sample(sample) = record else { return None };
            let (tokens, spans) = stats::spans(sample)?;
            let case = *cases.get(sample.case.as_str())?;
            Some(spans.iter().map(move |span| SpanRow { case, sample, tokens, span }))
        })
        .flatten()
        .collect();
    if rows.is_empty() { Ok(None) } else { csv(&span_columns(), &rows).map(Some) }
}

/// Speedups in words: of decode (or why there is none), of prefill, and the energy saved.
pub(super) fn speedup_cells(s: &Speedup) -> [String; 3] {
    let spread = |s: Option<Spread>, absent: &str| s.map_or_else(|| absent.to_owned(), ratio);
    let absent = if s.status == "ok" { "-" } else { &s.status };
    let energy = match s.energy_reduction_percent() {
        Some(percent) if percent >= 0.0 => format!("{} % less", round_significant(percent, 3)),
        Some(percent) => format!("{} % more", round_significant(-percent, 3)),
        None => "unavailable".to_owned(),
    };
    let simulated = if matches!(s.energy_ratio, Figure::Simulated { .. }) { " (simulated)" } else { "" };
    [spread(s.decode, absent), spread(s.prefill, "-"), energy + simulated]
}

/// Text that is nothing but text in a cell of a Markdown table.
pub(super) fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '<' => out.push_str("&lt;"),
            '\\' | '|' | '[' | '`' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

/// `speedup.md`: a table for each baseline kernel, the same figures as `speedup.csv`.
pub(super) fn speedup_markdown(summary: &Summary) -> String {
    let rounds = match summary.rounds {
        1 => "1 round, so there is no spread".to_owned(),
        n => format!("median of the ratios of {n} rounds, smallest and largest in brackets"),
    };
    let mut out = format!(
        "# Speedups: {}\n\nHow many times as fast as the baseline; {rounds}. Energy is joules per token \
         relative to the baseline.\n",
        cell(&summary.suite)
    );
    let states = host_states(summary);
    if !states.is_empty() {
        let _ = write!(out, "\n{}\n", cell(&states));
    }
    let _ = write!(out, "\n{}\n", cell(&overhead(&summary.overhead)));
    for baseline in BASELINES {
        let rows: Vec<&Speedup> = summary.speedups.iter().filter(|s| s.baseline == baseline).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = write!(
            out,
            "\n## Against `{baseline}`\n\n\
             | backend | model | kernel | isa | threads | prompt | generated | kv | baseline isa | decode | prefill | energy |\n\
             | --- | --- | --- | --- | ---: | ---: | ---: | --- | --- | ---: | ---: | ---: |\n"
        );
        for s in rows {
            let [decode, prefill, energy] = speedup_cells(s).map(|text| cell(&text));
            let c = &s.case;
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {decode} | {prefill} | {energy} |",
                cell(&c.backend),
                cell(&c.model_label()),
                cell(&c.kernel),
                cell(&c.isa),
                c.threads,
                c.n_prompt,
                c.n_gen,
                cell(&c.kv),
                cell(s.baseline_isa.as_deref().unwrap_or("-")),
            );
        }
    }
    out.push_str(&tied_markdown(summary));
    if summary.speedups.is_empty() {
        let _ = write!(out, "\nThis run has no baseline kernel ({}) to divide by.\n", BASELINES.join(", "));
    }
    out
}

/// Decode and prefill of tied layers against those of the full model: the ratio, and what it says.
pub(super) fn tied_phases(pair: &TiedPair) -> [[String; 2]; 2] {
    [pair.decode, pair.prefill].map(|spread| match (spread, &pair.missing) {
        (Some(spread), _) => [ratio(spread), TiedAgreement::of(spread).to_string()],
        (None, why) => ["-".to_owned(), why.clone().unwrap_or_else(|| "no rates to divide".to_owned())],
    })
}

/// How the speed of tied layers compares with that of full models; nothing if the run has no pair.
fn tied_markdown(summary: &Summary) -> String {
    if summary.tied.is_empty() {
        return String::new();
    }
    let mut out = "\n## Tied against full\n\n\
                   Speed with fewer layers stored than computed, divided by that of the full model in the same round.\n\n\
                   | model | kernel | isa | threads | prompt | generated | decode | | prefill | |\n\
                   | --- | --- | --- | ---: | ---: | ---: | ---: | --- | ---: | --- |\n"
        .to_owned();
    for p in &summary.tied {
        let [decode, prefill] =
            tied_phases(p).map(|[ratio, verdict]| format!("{} | {}", cell(&ratio), cell(&verdict)));
        let c = &p.case;
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            cell(&c.model_label()),
            cell(&c.kernel),
            cell(&c.isa),
            c.threads,
            c.n_prompt,
            c.n_gen,
            decode,
            prefill,
        );
    }
    out
}
