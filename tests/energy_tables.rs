//! Energy as a table: windows, idle machines and models against values computed by hand.

mod synthetic;

use std::collections::HashMap;
use std::path::Path;

use bitjoule::figure::Figure;
use bitjoule::journal::{
    DomainEnergy, EnergyWindow, IdleSample, MacCount, MemoryEnergy, OverheadPair, OverheadSample, Phase,
    Record, Sample, SourceEnergy, StatedEnergy, Work,
};
use bitjoule::report::{overhead, write_all};
use bitjoule::stats::summarize;
use bitjoule::units::{Joules, Watts};
use synthetic::{Journal, Visit, case};

fn close(actual: f64, expected: f64) {
    assert!((actual - expected).abs() <= 1e-9 * expected.abs(), "{actual} is not {expected}");
}

/// A reading of `joules` of a package, its memory and, no part of the total, its cores.
fn rapl(joules: f64) -> SourceEnergy {
    let domain = |name: &str, share: f64, in_total| DomainEnergy {
        domain: name.to_owned(),
        energy_j: Joules(joules * share),
        uncertainty_j: Some(Joules(joules * share * 0.01)),
        in_total: Some(in_total),
    };
    SourceEnergy {
        source: "powercap".to_owned(),
        energy: Figure::measured(
            vec![domain("package-0", 0.75, true), domain("dram-0", 0.25, true), domain("core-0", 0.5, false)],
            "powercap",
        ),
        marks: Vec::new(),
    }
}

/// A meter at the wall that reads twice as much.
fn wall(joules: f64) -> SourceEnergy {
    let mut energy = rapl(2.0 * joules);
    energy.source = "exec: meter".to_owned();
    energy.energy = energy.energy.described(|_| "exec: meter".to_owned());
    energy
}

fn samples(journal: &mut Journal) -> impl Iterator<Item = &mut Sample> {
    journal.records.iter_mut().filter_map(|record| match record {
        Record::Sample(sample) => Some(sample),
        _ => None,
    })
}

/// Two rounds of one case: load 50 ms once, prefill of 32 tokens in 0.2 s five times, 31 steps of 10 ms
/// twice. Round 1 at 40 W, round 2 at 50 W; the idle machine at 10, 20 and 30 W.
fn journal() -> Journal {
    let c = case("m", "i2_s", "avx2", 2);
    let mut journal = Journal::new(2, vec![c.clone()]);
    let idle = |before_round, watts: f64| {
        Record::Idle(IdleSample {
            before_round,
            ended_unix_ms: 0,
            wall_ns: 2_000_000_000,
            sources: vec![rapl(2.0 * watts), wall(2.0 * watts)],
        })
    };
    journal.header().stated = StatedEnergy {
        tdp_w: Some(Watts(60.0)),
        cpus: Some(4),
        memory: Some(MemoryEnergy { pj_per_byte: 40.0, source: "a book".to_owned() }),
    };
    journal.records.push(idle(1, 10.0));
    journal.visit(&c, 1, &Visit::default());
    journal.records.push(idle(2, 20.0));
    journal.visit(&c, 2, &Visit::default());
    journal.records.push(idle(3, 30.0));
    for sample in samples(&mut journal) {
        let repetitions = match &mut sample.work {
            Work::Load { .. } => 1,
            Work::Prefill { macs, .. } => {
                *macs = Some(MacCount { linear: 32_000_000_000, attention: 0, head: 0 });
                5
            }
            Work::Decode { macs, .. } => {
                *macs = Some(MacCount { linear: 31_000_000_000, attention: 0, head: 31_000_000 });
                2
            }
        };
        let wall_ns = sample.wall_ns * u64::from(repetitions);
        let joules = [40.0, 50.0][sample.round as usize - 1] * wall_ns as f64 / 1e9;
        sample.energy = None;
        sample.energy_window = Some(EnergyWindow {
            wall_ns,
            work_ns: wall_ns,
            repetitions,
            sources: vec![rapl(joules), wall(joules)],
        });
    }
    journal
}

type Row = HashMap<String, String>;

fn read(dir: &Path, name: &str) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(dir.join(name)).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

fn tables(journal: &Journal) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &journal.records).unwrap();
    dir
}

fn row<'a>(rows: &'a [Row], phase: &str, source: &str) -> &'a Row {
    rows.iter().find(|r| r["phase"] == phase && r["source"] == source).unwrap()
}

fn at(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column}: {row:?}"))
}

#[test]
fn figures_are_those_computed_by_hand() {
    let dir = tables(&journal());
    let rows = read(dir.path(), "energy.csv");
    assert_eq!(rows.len(), 4 * 2);
    let decode = row(&rows, "decode", "powercap");
    // 40 and 50 W for 0.31 s.
    for (column, expected) in [
        ("energy_window_s", 0.62),
        ("energy_repetitions", 2.0),
        ("energy_j", 13.95),
        ("energy_j_min", 12.4),
        ("energy_j_max", 15.5),
        ("energy_j_per_token", 0.45),
        ("energy_j_per_token_max", 0.5),
        ("power_w", 45.0),
        ("energy_uncertainty_j", 0.1395),
        ("energy_uncertainty_percent", 1.0),
        // 15 and 25 W of them idle.
        ("idle_power_w", 20.0),
        ("energy_net_j", 7.75),
        ("energy_net_j_per_token", 0.25),
        ("energy_delay_j_s_per_token", 0.0045),
        ("tokens_per_j", 2.25),
        ("compared", 1.0),
        // 0.03 pJ of 1e9 additions, and 1.5 pJ of 1e6 of the head.
        ("modelled_arithmetic_45nm_j_per_token", 31.5e-6),
        ("modelled_arithmetic_7nm_j_per_token", 7.5e-6),
        // 250 MB at 40 pJ.
        ("modelled_memory_j_per_token", 0.01),
        // 0.6 s of CPU time at 15 W.
        ("assumed_tdp_j_per_token", 9.0 / 31.0),
    ] {
        let actual = at(decode, column);
        assert!((actual - expected).abs() <= 1e-9 * expected, "{column}: {actual} is not {expected}");
    }
    assert_eq!(decode["energy_provenance"], "measured: powercap");
    assert_eq!(decode["energy_marks"], "");
    assert_eq!(decode["modelled_arithmetic_45nm_provenance"], "modelled: arithmetic at 45 nm");
    assert_eq!(decode["modelled_memory_provenance"], "modelled: memory at 40 pJ a byte, from a book");
    assert_eq!(decode["assumed_tdp_provenance"], "assumed: tdp of 60 W for 4 CPUs, as the user stated");

    // 0.2 s for 32 tokens; 0.51 s for 63.
    close(at(row(&rows, "prefill", "powercap"), "energy_j_per_token"), 9.0 / 32.0);
    close(at(row(&rows, "prefill", "powercap"), "modelled_memory_j_per_token"), 0.01 / 32.0);
    let total = row(&rows, "total", "powercap");
    close(at(total, "energy_j_per_token"), 45.0 * 0.51 / 63.0);
    close(at(total, "energy_net_j_per_token"), 25.0 * 0.51 / 63.0);
    close(at(total, "power_w"), 45.0);
    assert_eq!(total["energy_repetitions"], "");
    let load = row(&rows, "load", "powercap");
    close(at(load, "energy_j"), 45.0 * 0.05);
    for column in ["energy_j_per_token", "tokens_per_j", "modelled_memory_j_per_token"] {
        assert_eq!(load[column], "", "{column}");
    }
    // The other source has figures of its own, and is compared, not mixed.
    let meter = row(&rows, "decode", "exec: meter");
    close(at(meter, "energy_j"), 27.9);
    close(at(meter, "idle_power_w"), 40.0);
    close(at(meter, "compared"), 2.0);

    let summary = &read(dir.path(), "summary.csv")[0];
    close(at(summary, "energy_j_per_token"), 0.45);
    close(at(summary, "energy_net_j_per_token"), 0.25);
    close(at(summary, "modelled_arithmetic_7nm_j_per_token"), 7.5e-6);
    let sample = &read(dir.path(), "samples.csv")[2];
    assert_eq!(
        (sample["energy_window_ns"].as_str(), sample["energy_repetitions"].as_str()),
        ("620000000", "2")
    );
    close(at(sample, "energy_j"), 12.4);
    close(at(sample, "energy_uncertainty_j"), 0.124);
}

#[test]
fn what_is_missing_is_empty_and_says_why() {
    // No idle machine: no net, and gross as before.
    let mut lost = journal();
    lost.records.retain(|r| !matches!(r, Record::Idle(_)));
    let dir = tables(&lost);
    let rows = read(dir.path(), "energy.csv");
    let decode = row(&rows, "decode", "powercap");
    assert_eq!((decode["energy_net_j"].as_str(), decode["idle_power_w"].as_str()), ("", ""));
    let why = "unavailable: the idle machine was not measured with this source";
    assert_eq!(decode["energy_net_provenance"], why);
    close(at(decode, "energy_j"), 13.95);

    // One idle sample is enough; a simulated one makes net simulated, and gross not.
    let mut one = journal();
    one.records.retain(|r| !matches!(r, Record::Idle(i) if i.before_round == 1));
    for record in &mut one.records {
        if let Record::Idle(idle) = record
            && let Figure::Measured { value, by } = idle.sources[0].energy.clone()
        {
            idle.sources[0].energy = Figure::Simulated { value, by };
        }
    }
    let dir = tables(&one);
    let rows = read(dir.path(), "energy.csv");
    let decode = row(&rows, "decode", "powercap");
    // 20 W, and the mean of 20 and 30.
    close(at(decode, "idle_power_w"), 22.5);
    assert_eq!(decode["energy_net_provenance"], "simulated: powercap");
    assert_eq!(decode["energy_provenance"], "measured: powercap");

    // A round whose meter died, and one whose counter was marked.
    let mut died = journal();
    for sample in samples(&mut died) {
        let (phase, round) = (sample.phase(), sample.round);
        let source = &mut sample.energy_window.as_mut().unwrap().sources[0];
        match (round, phase) {
            (1, Phase::Decode) => source.marks.push("core-0 froze".to_owned()),
            (2, Phase::Decode) => source.energy = Figure::unavailable("the meter died"),
            _ => {}
        }
    }
    let dir = tables(&died);
    let rows = read(dir.path(), "energy.csv");
    let decode = row(&rows, "decode", "powercap");
    close(at(decode, "energy_j"), 12.4);
    assert_eq!(decode["energy_provenance"], "measured: powercap (1 of 2 rounds)");
    assert_eq!(decode["energy_marks"], "round 1: core-0 froze; round 2: the meter died");
    // Half of a total is none.
    assert_eq!(row(&rows, "total", "powercap")["energy_provenance"], "measured: powercap (1 of 2 rounds)");
    assert_eq!(at(row(&rows, "decode", "exec: meter"), "compared"), 2.0);
    assert_eq!(read(dir.path(), "samples.csv")[2]["energy_marks"], "core-0 froze");

    // A wrong case has no energy, not even a modelled one.
    let mut wrong = journal();
    let c = wrong.cases()[0].clone();
    wrong.check(&c, 0.5);
    let dir = tables(&wrong);
    for row in read(dir.path(), "energy.csv") {
        for (column, cell) in &row {
            assert!(!column.ends_with("_j_per_token") || cell.is_empty(), "{column}: {cell}");
            assert!(
                !column.ends_with("_provenance") || cell.contains("check of the logits failed"),
                "{cell}"
            );
        }
    }
}

#[test]
fn only_measured_energy_is_drawn_solid() {
    let hatches = |journal: &Journal| {
        let dir = tables(journal);
        let svg = std::fs::read_to_string(dir.path().join("plots/energy.svg")).unwrap();
        // The strokes of a hatch are a path of many points; whiskers and axes have two.
        let long =
            svg.split("points=\"").skip(1).filter(|p| p.split('"').next().unwrap().split(' ').count() > 5);
        (long.count(), svg)
    };
    // Two kinds in the legend that are not solid, of which one is crossed.
    let legend = 3;
    let (measured, svg) = hatches(&journal());
    assert_eq!(measured, legend + 3 + 2, "three models, and an assumption in two paths");
    for text in ["0.450 measured", "modelled: 45 nm", "modelled: memory", "0.290 assumed: tdp"] {
        assert!(svg.contains(text), "{text}");
    }
    let mut simulated = journal();
    for sample in samples(&mut simulated) {
        let source = &mut sample.energy_window.as_mut().unwrap().sources[0];
        if let Figure::Measured { value, by } = source.energy.clone() {
            source.energy = Figure::Simulated { value, by };
        }
    }
    let (hatched, svg) = hatches(&simulated);
    assert_eq!(hatched, measured + 2, "the bar, and its kind in the legend");
    assert!(svg.contains("0.450 simulated") && !svg.contains(" measured<"));
    let mut none = journal();
    for sample in samples(&mut none) {
        sample.energy_window.as_mut().unwrap().sources[0].energy = Figure::unavailable("no source here");
    }
    let (_, svg) = hatches(&none);
    assert!(svg.contains("Measured: unavailable: no source here."), "{svg}");
}

#[test]
fn the_cost_of_measuring_is_reported_with_its_noise() {
    let with = |percent: &[u64]| {
        let mut journal = journal();
        let pairs = percent.iter().map(|p| OverheadPair {
            with_ns: 100_000_000 + p * 1_000_000,
            without_ns: 100_000_000,
            edges_ns: 2_000_000,
        });
        journal.records.push(Record::Overhead(OverheadSample {
            round: 1,
            threads: 2,
            pairs: pairs.collect(),
        }));
        journal
    };
    let clear = with(&[1, 1, 2, 2, 3, 3]);
    let summary = summarize(&clear.records).unwrap();
    assert_eq!(
        overhead(&summary.overhead),
        "Measuring cost 2.00 % of the time (median of 6 pairs; 1.00 to 3.00 % with 95 % confidence, pairs from \
         1.00 to 3.00 %). The edges of a window took 2.00 ms (2.00-2.00), outside the timed part."
    );
    let dir = tables(&clear);
    let rows = read(dir.path(), "overhead.csv");
    assert_eq!(rows.len(), 1);
    close(at(&rows[0], "overhead_percent"), 2.0);
    assert_eq!(rows[0]["hidden_by_noise"], "false");
    let markdown = std::fs::read_to_string(dir.path().join("speedup.md")).unwrap();
    assert!(markdown.contains("Measuring cost 2.00 %"), "{markdown}");

    let noisy = summarize(&with(&[0, 2]).records).unwrap();
    assert!(overhead(&noisy.overhead).contains("0.00 to 2.00 % over all pairs): the noise is larger"));

    let mut failed = journal();
    failed.failure("overhead", 1, bitjoule::journal::FailureKind::Error, "no model");
    let text = overhead(&summarize(&failed.records).unwrap().overhead);
    assert_eq!(text, "The cost of measuring is not known: no model.");
    assert!(read(tables(&failed).path(), "overhead.csv").is_empty());
}
