//! What derives from a journal: figures against values computed by hand, files against parsers.

mod markup;
mod synthetic;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use bitjoule::engine::{MemoryParts, Operation, Span};
use bitjoule::figure::Figure;
use bitjoule::journal::{
    Counter, CounterGroup, CounterReading, DomainEnergy, FailureKind, Faults, MemoryLimit, MemoryReading,
    Record, Work,
};
use bitjoule::probe::state::{Frequency, HostState, Swap};
use bitjoule::report::{host_states, terminal_profile, terminal_summary, verdict, write_all};
use bitjoule::stats::{Status, Summary, summarize};
use bitjoule::units::{Bytes, Joules};
use markup::{check_html, check_svg, svg_size};
use synthetic::{Journal, Visit, case, joules};

fn close(actual: f64, expected: f64) {
    assert!((actual - expected).abs() <= 1e-9 * expected.abs(), "{actual} is not {expected}");
}

/// A visit whose 31 decode steps take `ms` each.
fn steps(ms: u64) -> Visit {
    Visit { latencies_ns: vec![ms * 1_000_000; 31], ..Visit::default() }
}

fn reason<T: std::fmt::Debug>(figure: &Figure<T>) -> &str {
    match figure {
        Figure::Unavailable { why } => why,
        other => panic!("{other:?} is available"),
    }
}

/// i2_s at 10, 8, 12.5 ms a step, f16 at 40 ms, fp32-naive at 400, 320, 250 ms; 35 GB/s.
fn three_kernels() -> Journal {
    let (naive, f16, i2s) = (
        case("350M", "fp32-naive", "scalar", 2),
        case("350M", "f16", "avx512", 2),
        case("350M", "i2_s", "avx512-vnni", 2),
    );
    let mut journal = Journal::new(3, vec![naive.clone(), f16.clone(), i2s.clone()]);
    for (round, naive_ms, i2s_us) in [(1, 400, 10_000), (2, 320, 8_000), (3, 250, 12_500)] {
        journal.bandwidth(round, 2, &[30e9, 35e9, 34e9]);
        journal.visit(&naive, round, &Visit { energy: joules(310.0), ..steps(naive_ms) });
        journal.visit(
            &f16,
            round,
            &Visit { energy: joules(31.0), bytes_per_token: 700_000_000, ..steps(40) },
        );
        let visit = Visit { latencies_ns: vec![i2s_us * 1000; 31], energy: joules(6.2), ..Visit::default() };
        journal.visit(&i2s, round, &visit);
    }
    journal.check(&i2s, 1e-7);
    journal
}

#[test]
fn figures_are_those_computed_by_hand() {
    let summary = summarize(&three_kernels().records).unwrap();
    let row = &summary.rows[2];
    assert_eq!((row.case.kernel.as_str(), row.rounds, &row.status), ("i2_s", 3, &Status::Ok));
    let decode = row.decode_tok_s.unwrap();
    close(decode.median, 100.0);
    close(decode.min, 80.0);
    close(decode.max, 125.0);
    close(row.prefill_tok_s.unwrap().median, 160.0);
    close(row.ttft_ms.unwrap(), 200.0);
    close(row.load_ms.unwrap(), 50.0);
    // 35 GB/s / 250 MB = 140 steps/s.
    close(row.decode_roofline_tok_s.unwrap(), 140.0);
    close(*row.decode_roofline_percent.value().unwrap(), 100.0 * 100.0 / 140.0);
    close(row.bandwidth_bytes_per_s.unwrap(), 35e9);
    close(row.energy_j_per_token.value().unwrap().median, 0.2);
    assert_eq!(row.energy_j_per_token.provenance(), "measured: powercap");
    // 93 latencies: 31 each of 8, 10, 12.5 ms; rank 47 is 10, ranks 84 and 93 are 12.5.
    let latency = row.latency.unwrap();
    assert_eq!((latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms), (10.0, 12.5, 12.5, 12.5));
    close(row.decode_cpu_s_per_token.unwrap(), 0.6 / 31.0);
    close(row.decode_cpu_cores.unwrap(), 0.6 / 0.31);
    let memory = row.memory.value().unwrap();
    assert_eq!(
        (memory.peak, memory.anon, memory.file),
        (Bytes(300_000_000), Bytes(270_000_000), Bytes(12_000_000))
    );
}

#[test]
fn speedups_are_ratios_within_a_round() {
    let summary = summarize(&three_kernels().records).unwrap();
    let find = |kernel: &str, baseline: &str| {
        let s = summary.speedups.iter().find(|s| s.case.kernel == kernel && s.baseline == baseline);
        s.unwrap_or_else(|| panic!("no {kernel} against {baseline}"))
    };
    // Rounds: 40/10, 40/8, 40/12.5 and 400/10, 320/8, 250/12.5. Dividing medians would give 32.
    let f16 = find("i2_s", "f16");
    let decode = f16.decode.unwrap();
    close(decode.median, 4.0);
    close(decode.min, 3.2);
    close(decode.max, 5.0);
    close(f16.prefill.unwrap().median, 1.0);
    close(f16.energy_ratio.value().unwrap().median, 0.2);
    close(f16.energy_reduction_percent().unwrap(), 80.0);
    assert_eq!(f16.baseline_isa.as_deref(), Some("avx512"));
    close(find("i2_s", "fp32-naive").decode.unwrap().median, 40.0);
    close(find("f16", "fp32-naive").decode.unwrap().max, 10.0);
    close(find("fp32-naive", "f16").decode.unwrap().max, 40.0 / 250.0);
    assert_eq!(summary.speedups.len(), 4);
    assert_eq!(
        verdict(&summary),
        "i2_s decoded 4.00x (3.20-5.00) as fast as f16 and 40.0x (20.0-40.0) as fast as fp32-naive on 350M \
         with 2 threads."
    );
}

#[test]
fn the_baseline_is_of_the_same_isa_or_else_its_fastest() {
    let cases = [
        case("m", "f16", "scalar", 1),
        case("m", "f16", "avx2", 1),
        case("m", "i2_s", "scalar", 1),
        case("m", "i2_s", "vnni", 1),
        case("m", "i2_s", "vnni", 2),
    ];
    let mut journal = Journal::new(1, cases.to_vec());
    for (case, ms) in cases.iter().zip([200, 40, 100, 10, 5]) {
        journal.visit(case, 1, &steps(ms));
    }
    let summary = summarize(&journal.records).unwrap();
    let against: Vec<_> = summary
        .speedups
        .iter()
        .map(|s| (s.case.isa.as_str(), s.baseline_isa.as_deref().unwrap(), s.decode.unwrap().median))
        .collect();
    assert_eq!(against, [("scalar", "scalar", 2.0), ("vnni", "avx2", 4.0)]);
}

#[test]
fn a_wrong_case_is_neither_winner_nor_baseline() {
    let mut journal = three_kernels();
    let cases = journal.cases();
    journal.check(&cases[2], 0.3).check(&cases[2], 1e-7);
    let summary = summarize(&journal.records).unwrap();
    assert_eq!(
        summary.rows[2].status.to_string(),
        "wrong: logits differ from i2_s scalar by 3.00e-1, 1.00e-5 is tolerated"
    );
    for s in summary.speedups.iter().filter(|s| s.case.kernel == "i2_s") {
        assert!(s.decode.is_none() && s.prefill.is_none() && s.energy_ratio.value().is_none());
        assert!(s.status.starts_with("wrong: "));
    }
    assert_eq!(
        verdict(&summary),
        "f16 decoded 8.00x (6.25-10.0) as fast as fp32-naive on 350M with 2 threads. Of 3 cases: 1 wrong."
    );

    let mut journal = three_kernels();
    journal.check(&cases[1], 0.3);
    let summary = summarize(&journal.records).unwrap();
    let lost = summary.speedups.iter().find(|s| s.case.kernel == "i2_s" && s.baseline == "f16").unwrap();
    assert!(lost.status.starts_with("no usable case of f16: wrong: logits differ"), "{}", lost.status);
    assert_eq!(lost.decode, None);
}

#[test]
fn statuses() {
    let cases: Vec<_> = ["a", "b", "c", "d", "e", "f", "g"].map(|m| case(m, "i2_s", "avx2", 2)).to_vec();
    let mut journal = Journal::new(2, cases.clone());
    journal.visit(&cases[0], 1, &steps(10)).visit(&cases[0], 2, &steps(10));
    journal.visit(&cases[1], 2, &steps(10)).failure(&cases[1].id, 1, FailureKind::TimedOut, "over 60 s");
    journal.failure(&cases[2].id, 1, FailureKind::Crashed, "signal 9");
    journal.failure(&cases[3].id, 1, FailureKind::Skipped, "needs 14.2 GB, 8 GB are free");
    journal.failure(&cases[6].id, 1, FailureKind::MemoryLimit, "does not run in 1 MiB");
    // A failure that a resumed session made good.
    journal.failure(&cases[5].id, 1, FailureKind::Error, "no space");
    journal.visit(&cases[5], 1, &steps(10)).visit(&cases[5], 2, &steps(10));
    let summary = summarize(&journal.records).unwrap();
    let statuses: Vec<String> = summary.rows.iter().map(|r| r.status.to_string()).collect();
    assert_eq!(
        statuses,
        [
            "ok",
            "incomplete: 1 of 2 rounds; round 1: timed out: over 60 s",
            "failed: crashed: signal 9",
            "skipped: needs 14.2 GB, 8 GB are free",
            "incomplete: 0 of 2 rounds",
            "ok",
            "over limit: does not run in 1 MiB",
        ]
    );
    assert!(
        verdict(&summary)
            .ends_with(" Of 7 cases: 1 failed, 1 skipped, 1 over the memory limit, 2 incomplete.")
    );
}

#[test]
fn only_complete_rounds_count() {
    let c = case("m", "i2_s", "avx2", 2);
    let mut journal = Journal::new(2, vec![c.clone()]);
    journal.visit(&c, 1, &steps(10)).visit(&c, 2, &steps(20));
    journal.records.pop(); // The decode of round 2.
    let summary = summarize(&journal.records).unwrap();
    assert_eq!(summary.rows[0].status.to_string(), "incomplete: 1 of 2 rounds");
    assert_eq!(summary.rows[0].decode_tok_s.unwrap().rounds, 1);
    assert_eq!(summary.rows[0].prefill_tok_s.unwrap().rounds, 1);
}

#[test]
fn a_roofline_needs_a_rate_of_reading() {
    let c = case("m", "i2_s", "avx2", 2);
    let row = |visit: Visit| {
        let mut journal = Journal::new(1, vec![c.clone()]);
        journal.visit(&c, 1, &visit);
        summarize(&journal.records).unwrap().rows.remove(0)
    };
    for stream in [vec![], vec![0.0, f64::NAN, f64::INFINITY, -1.0]] {
        let absent = row(Visit { stream, ..steps(10) });
        assert_eq!(
            reason(&absent.decode_roofline_percent),
            "the rate of reading the weights was not measured"
        );
        assert_eq!((absent.decode_roofline_tok_s, absent.stream_bytes_per_s), (None, None));
        assert_eq!(absent.status, Status::Ok);
    }
    let nothing = row(Visit { bytes_per_token: 0, ..steps(10) });
    assert_eq!(reason(&nothing.decode_roofline_percent), "the bytes that a step reads are not known");
    let partial = {
        let mut j = Journal::new(2, vec![c.clone()]);
        j.visit(&c, 1, &steps(10)).visit(&c, 2, &Visit { stream: vec![], ..steps(10) });
        summarize(&j.records).unwrap().rows.remove(0)
    };
    assert_eq!(partial.decode_roofline_percent.provenance(), "measured: reading the weights (1 of 2 rounds)");
}

#[test]
fn the_roofline_of_prefill_is_arithmetic_then_memory() {
    let c = case("m", "i2_s", "avx2", 2);
    let row = |visit: &Visit, int8: &[f64], f32: &[f64]| {
        let mut journal = Journal::new(1, vec![c.clone()]);
        journal.visit(&c, 1, visit).peak(1, "avx2", 2, [int8, f32]).peak(1, "avx2", 1, [&[1.0], &[1.0]]);
        summarize(&journal.records).unwrap().rows.remove(0)
    };
    let visit = steps(10);
    // 8e9 at 160e9/s and 1e9 at 20e9/s: 100 ms for 32 tokens, which took 200 ms.
    let bound = row(&visit, &[150e9, 160e9], &[20e9, f64::NAN]);
    close(bound.prefill_roofline_tok_s.unwrap(), 320.0);
    close(*bound.prefill_roofline_percent.value().unwrap(), 50.0);
    close(bound.peak_int8_mac_per_s.unwrap(), 160e9);
    close(bound.peak_f32_mac_per_s.unwrap(), 20e9);
    close(bound.prefill_mac_per_token.unwrap(), 9e9 / 32.0);
    assert_eq!(
        bound.prefill_roofline_percent.provenance(),
        "measured: compute peak probe, reading the weights"
    );
    // 250 MB at 1 GB/s are 250 ms, whatever the arithmetic.
    let slow = row(&Visit { stream: vec![1e9], ..visit.clone() }, &[160e9], &[20e9]);
    close(slow.prefill_roofline_tok_s.unwrap(), 128.0);
    // What is not done needs no rate; what is done does.
    let mut float = visit.clone();
    float.cost.as_mut().unwrap().int8_macs = 0;
    close(row(&float, &[], &[20e9]).prefill_roofline_tok_s.unwrap(), 640.0);
    let absent = row(&visit, &[], &[20e9]);
    assert_eq!(reason(&absent.prefill_roofline_percent), "the compute peak was not measured in this round");
    assert_eq!((absent.prefill_roofline_tok_s, absent.peak_int8_mac_per_s), (None, None));
    let old = row(&Visit { cost: None, ..visit }, &[160e9], &[20e9]);
    assert!(reason(&old.prefill_roofline_percent).contains("older version"));
    assert_eq!(old.prefill_mac_per_token, None);
}

#[test]
fn a_journal_of_the_first_schema_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema-1.journal.jsonl");
    std::fs::copy(path, dir.path().join("journal.jsonl")).unwrap();
    let records = bitjoule::journal::file::read(dir.path()).unwrap().records;
    write_all(dir.path(), &records).unwrap();
    for row in read_csv(&dir.path().join("summary.csv")) {
        assert_eq!(row["status"], "ok");
        assert!(!row["decode_roofline_percent"].is_empty());
        assert_eq!((row["prefill_roofline_percent"].as_str(), row["peak_f32_mac_per_s"].as_str()), ("", ""));
        assert!(row["prefill_roofline_provenance"].starts_with("unavailable: what the prefill costs"));
    }
    for row in read_csv(&dir.path().join("memory.csv")) {
        assert!(!row["rss_anon_bytes"].is_empty());
        assert_eq!(
            ["predicted_bytes", "unaccounted_bytes", "pss_bytes", "swapped_bytes"].map(|c| &row[c]),
            [""; 4]
        );
        assert_eq!(row["pss_provenance"], "unavailable: not recorded (journal of an older version)");
    }
    for row in read_csv(&dir.path().join("counters.csv")) {
        assert_eq!(
            (row["page_faults"].as_str(), row["switches_provenance"].as_str()),
            ("", "unavailable: not counted")
        );
    }
}

#[test]
fn energy_is_of_packages_and_never_zero() {
    let c = case("m", "i2_s", "avx2", 2);
    let figure = |rounds: &[Figure<Vec<DomainEnergy>>]| {
        let mut journal = Journal::new(rounds.len() as u32, vec![c.clone()]);
        for (round, energy) in (1..).zip(rounds) {
            journal.visit(&c, round, &Visit { energy: energy.clone(), ..steps(10) });
        }
        summarize(&journal.records).unwrap().rows.remove(0).energy_j_per_token
    };
    let domains = |list: &[(&str, f64)]| {
        list.iter()
            .map(|(d, j)| DomainEnergy {
                domain: (*d).into(),
                energy_j: Joules(*j),
                uncertainty_j: None,
                in_total: None,
            })
            .collect::<Vec<_>>()
    };
    let two = domains(&[("package-0", 3.1), ("package-1", 6.2), ("core", 2.0), ("psys", 20.0)]);
    close(figure(&[Figure::measured(two, "powercap")]).value().unwrap().median, 0.3);
    assert!(reason(&figure(&[joules(0.0)])).contains("did not advance"));
    assert!(reason(&figure(&[joules(-1.0)])).contains("impossible"));
    assert!(reason(&figure(&[joules(f64::NAN)])).contains("impossible"));
    assert!(
        reason(&figure(&[Figure::measured(domains(&[("psys", 1.0)]), "powercap")]))
            .contains("no energy domain")
    );
    let none = Figure::unavailable("no powercap tree");
    assert_eq!(reason(&figure(std::slice::from_ref(&none))), "no powercap tree");
    let some = figure(&[joules(3.1), none]);
    assert_eq!(some.provenance(), "measured: powercap (1 of 2 rounds)");
    let simulated = Figure::Simulated { value: domains(&[("package-0", 3.1)]), by: "test source".into() };
    assert_eq!(figure(&[joules(3.1), simulated]).provenance(), "simulated: test source");
}

#[test]
fn a_journal_that_contradicts_itself_is_refused() {
    let c = case("m", "i2_s", "avx2", 2);
    let refusal = |edit: &dyn Fn(&mut Journal)| {
        let mut journal = Journal::new(2, vec![c.clone()]);
        edit(&mut journal);
        summarize(&journal.records).unwrap_err().to_string()
    };
    let twice = refusal(&|j| {
        j.visit(&c, 1, &steps(10)).visit(&c, 1, &steps(10));
    });
    assert_eq!(twice, format!("the journal holds the load phase of {} twice in round 1", c.id));
    let stranger = refusal(&|j| {
        j.visit(&case("x", "i2_s", "avx2", 2), 1, &steps(10));
    });
    assert!(stranger.contains("which was not planned"), "{stranger}");
    let round = refusal(&|j| {
        j.visit(&c, 3, &steps(10));
    });
    assert!(round.contains("rounds 1 to 2 were planned"), "{round}");
    let latencies = refusal(&|j| {
        j.visit(&c, 1, &steps(10));
        let Some(Record::Sample(sample)) = j.records.last_mut() else { unreachable!() };
        let Work::Decode { latencies_ns, .. } = &mut sample.work else { unreachable!() };
        latencies_ns.pop();
    });
    assert!(latencies.contains("30 latencies for 32 generated tokens"), "{latencies}");
    assert!(refusal(&|j| j.records.clear()).contains("does not begin"));
    assert!(refusal(&|j| j.records.extend(j.records.clone())).contains("more than one run"));
    assert!(refusal(&|j| j.header().schema = 99).contains("schema 99"));
    assert!(refusal(&|j| j.header().cases.push(c.clone())).contains("twice"));
}

/// Every cell of a CSV file, by column, after checking that all rows are as long as the header.
fn read_csv(path: &Path) -> Vec<HashMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let rows: Result<Vec<HashMap<String, String>>, _> = reader.deserialize().collect();
    rows.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Journals at the edges of what there may be, by name.
fn edge_cases() -> Vec<(&'static str, Journal)> {
    let c = case("m", "i2_s", "avx2", 2);
    let empty = Journal::new(3, vec![]);
    let nothing_yet = Journal::new(3, vec![c.clone()]);
    let mut one = Journal::new(1, vec![c.clone()]);
    one.visit(&c, 1, &steps(10));
    let mut no_time = Journal::new(1, vec![c.clone(), case("m", "f16", "avx2", 2)]);
    for case in no_time.cases() {
        let visit = Visit {
            load_ns: 0,
            prefill_ns: 0,
            latencies_ns: vec![0; 31],
            bytes_per_token: 0,
            ..Visit::default()
        };
        no_time.bandwidth(1, 2, &[35e9]).visit(&case, 1, &visit);
    }
    let mut no_steps = Journal::new(1, vec![c.clone()]);
    no_steps.visit(&c, 1, &Visit { latencies_ns: vec![], energy: joules(1.0), ..Visit::default() });
    let extreme = Visit {
        latencies_ns: vec![u64::MAX / 64; 31],
        cpu_ns: u64::MAX,
        bytes_per_token: u64::MAX,
        energy: joules(1e300),
        memory: Figure::measured(
            MemoryReading {
                peak_rss: Bytes(u64::MAX),
                anon: Bytes(u64::MAX),
                file: Bytes(1),
                shmem: Bytes(0),
                swapped: None,
            },
            "procfs",
        ),
        ..Visit::default()
    };
    let tiny =
        Visit { latencies_ns: vec![1; 31], energy: joules(1e-300), bytes_per_token: 1, ..Visit::default() };
    let mut spans =
        Journal::new(1, vec![c.clone(), case("m", "f16", "avx2", 2), case("m", "tl1", "avx2", 2)]);
    let cases = spans.cases();
    spans.bandwidth(1, 2, &[f64::MIN_POSITIVE, f64::MAX]);
    spans.visit(&cases[0], 1, &tiny).visit(&cases[1], 1, &extreme).visit(&cases[2], 1, &steps(3));
    let names =
        ["=1+1,\"quoted\"", "a|b\nc", "<&>\u{1}\u{ffff}'", "名前"].map(|n| case(n, "i2_s", "avx2", 2));
    let mut hostile = Journal::new(1, names.to_vec());
    hostile.visit(&names[0], 1, &steps(10)).failure(&names[1].id, 1, FailureKind::Error, "<b>\n|\u{0}&");
    let mut failed = Journal::new(1, vec![c.clone()]);
    failed.failure(&c.id, 1, FailureKind::Crashed, &"long ".repeat(200));
    vec![
        ("empty", empty),
        ("nothing yet", nothing_yet),
        ("one", one),
        ("no time", no_time),
        ("no steps", no_steps),
        ("spans", spans),
        ("hostile", hostile),
        ("failed", failed),
        ("three kernels", three_kernels()),
        ("many", many()),
    ]
}

/// 12 models with 5 kernels, some without figures, over six orders of magnitude.
fn many() -> Journal {
    let kernels = [
        ("fp32-naive", "scalar"),
        ("f16", "avx512"),
        ("i2_s", "avx512-vnni"),
        ("tl1", "avx2"),
        ("tl2", "avx2"),
    ];
    let cases: Vec<_> = (0..12)
        .flat_map(|m| {
            let model = format!(
                "{}{m}",
                if m % 3 == 0 { "organisation/a-rather-long-name-".repeat(4) } else { "m".into() }
            );
            kernels.map(|(kernel, isa)| case(&model, kernel, isa, 1 + m % 2))
        })
        .collect();
    let mut journal = Journal::new(2, cases.clone());
    for (i, case) in cases.iter().enumerate() {
        match i % 13 {
            5 => {
                journal.failure(&case.id, 1, FailureKind::Skipped, "needs 14.2 GB of memory, 8.1 GB are free")
            }
            7 => journal.visit(case, 1, &steps(3)).check(case, 0.5),
            _ => {
                let visit =
                    Visit { latencies_ns: vec![3u64.pow(i as u32 % 14) * 1000; 31], ..Visit::default() };
                journal.visit(case, 1, &visit).visit(case, 2, &visit)
            }
        };
    }
    journal
}

#[test]
fn every_journal_makes_files_that_parse_and_hold_no_infinities() {
    for (name, journal) in edge_cases() {
        let dir = tempfile::tempdir().unwrap();
        let (_, written) = write_all(dir.path(), &journal.records).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = [
            "samples",
            "latencies",
            "summary",
            "memory",
            "energy",
            "overhead",
            "counters",
            "speedup",
            "scaling",
        ]
        .map(|n| format!("{n}.csv"));
        let figures = ["decode_tok_s", "speedup", "rss", "latency", "rooflines", "energy"]
            .iter()
            .chain(has_energy(&journal).then_some(&"pareto"))
            .flat_map(|n| [format!("plots/{n}.svg"), format!("plots/{n}.png")]);
        let expected: HashSet<_> = expected
            .into_iter()
            .chain(["speedup.md", "report.html", "report.md"].map(str::to_owned))
            .chain(figures)
            .map(|n| dir.path().join(n))
            .collect();
        assert_eq!(written.iter().cloned().collect::<HashSet<_>>(), expected, "{name}");
        for path in &written {
            let at = format!("{name}: {}", path.display());
            match path.extension().unwrap().to_str().unwrap() {
                "csv" => {
                    for cell in read_csv(path).into_iter().flat_map(HashMap::into_values) {
                        assert!(!["NaN", "inf", "-inf"].contains(&cell.as_str()), "{at}");
                    }
                }
                "svg" => check_svg(&std::fs::read_to_string(path).unwrap(), &at),
                "html" => check_html(&std::fs::read_to_string(path).unwrap(), &at),
                "png" => {
                    let (svg, _) = svg_size(&std::fs::read_to_string(path.with_extension("svg")).unwrap());
                    let (width, height) = decode_png(&std::fs::read(path).unwrap());
                    assert_eq!(width, 1600, "{at}");
                    assert_eq!((width, height), (svg.0 * 2, svg.1 * 2), "{at}");
                }
                _ => {}
            }
        }
        let left: Vec<_> = walk(dir.path()).into_iter().filter(|p| !expected.contains(p)).collect();
        assert!(left.is_empty(), "{name}: {left:?} left behind");
        // Written twice: the derived files are replaced.
        write_all(dir.path(), &journal.records).unwrap();
        let summary = summarize(&journal.records).unwrap();
        for width in [0, 20, 80, 200] {
            for line in terminal_summary(&summary, width).lines() {
                assert!(line.chars().count() <= width.max(20), "{name}: {line}");
            }
        }
        let sentence = verdict(&summary);
        assert!(
            sentence.ends_with('.') && !sentence.contains("NaN") && !sentence.contains("inf"),
            "{sentence}"
        );
    }
}

fn has_energy(journal: &Journal) -> bool {
    let summary = summarize(&journal.records).unwrap();
    summary.rows.iter().any(|r| r.usable() && r.energy_j_per_token.value().is_some())
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn tables_hold_the_figures_of_the_summary() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = three_kernels();
    write_all(dir.path(), &journal.records).unwrap();
    let header = std::fs::read_to_string(dir.path().join("summary.csv")).unwrap();
    assert!(header.starts_with(
        "backend,model,kernel,isa,threads,n_prompt,n_gen,rounds,status,prefill_tok_s,decode_tok_s,\
         decode_tok_s_min,decode_tok_s_max,decode_roofline_percent,ttft_ms,latency_p50_ms,latency_p99_ms,\
         rss_peak_bytes,energy_j_per_token,energy_provenance,"
    ));
    let summary = read_csv(&dir.path().join("summary.csv"));
    assert_eq!(summary.len(), 3);
    let i2s = &summary[2];
    close(i2s["decode_tok_s"].parse().unwrap(), 100.0);
    close(i2s["energy_j_per_token"].parse().unwrap(), 0.2);
    assert_eq!(
        [
            "status",
            "rounds",
            "ttft_ms",
            "rss_peak_bytes",
            "check",
            "energy_provenance",
            "roofline_provenance"
        ]
        .map(|c| i2s[c].as_str()),
        ["ok", "3", "200", "300000000", "passed", "measured: powercap", "measured: reading the weights"]
    );
    assert_eq!(summary[0]["check"], "unchecked");

    let samples = read_csv(&dir.path().join("samples.csv"));
    assert_eq!(samples.len(), 27);
    let decode: Vec<_> = samples.iter().filter(|s| s["phase"] == "decode" && s["kernel"] == "i2_s").collect();
    assert_eq!(decode.len(), 3);
    close(decode[1]["tok_s"].parse().unwrap(), 125.0);
    close(decode[1]["roofline_percent"].parse().unwrap(), 100.0 * 125.0 / 140.0);
    assert_eq!(decode[1]["work_tokens"], "31");
    assert_eq!(decode[1]["tokens"].split(' ').count(), 32);
    assert_eq!(decode[1]["energy_domains"], "package-0=6.2");

    let latencies = read_csv(&dir.path().join("latencies.csv"));
    assert_eq!(latencies.len(), 9 * 31);
    assert_eq!((latencies[0]["token"].as_str(), latencies[0]["latency_ms"].as_str()), ("2", "400"));

    let speedups = read_csv(&dir.path().join("speedup.csv"));
    let row = speedups.iter().find(|s| s["kernel"] == "i2_s" && s["baseline_kernel"] == "f16").unwrap();
    assert_eq!((row["decode_speedup"].as_str(), row["rounds"].as_str()), ("4", "3"));
    let markdown = std::fs::read_to_string(dir.path().join("speedup.md")).unwrap();
    assert!(markdown.contains("| 4.00x (3.20-5.00) | 1.00x (1.00-1.00) | 80.0 % less |"), "{markdown}");

    // A wrong case keeps its row and its raw samples, and what it measured is not a speed.
    let cases = journal.cases();
    journal.check(&cases[2], 0.3);
    write_all(dir.path(), &journal.records).unwrap();
    let wrong = &read_csv(&dir.path().join("summary.csv"))[2];
    assert!(wrong["status"].starts_with("wrong: logits differ"));
    assert_eq!(
        ["check", "rounds", "decode_tok_s", "latency_p50_ms", "rss_peak_bytes"].map(|c| wrong[c].as_str()),
        ["failed", "3", "", "", ""]
    );
    assert_eq!(wrong["energy_provenance"], "unavailable: the check of the logits failed");
}

#[test]
fn memory_is_told_apart_and_counts_become_ratios() {
    let c = case("125M", "i2_s", "avx2", 2);
    let mut journal = Journal::new(2, vec![c.clone()]);
    let group = |counters: &[Counter], counts| CounterGroup { counters: counters.to_vec(), counts };
    for (round, anon) in [(1, 80_000_000), (2, 84_000_000)] {
        let reading = MemoryReading {
            peak_rss: Bytes(160_000_000),
            anon: Bytes(anon),
            file: Bytes(7_000_000),
            shmem: Bytes(0),
            swapped: Some(Bytes(1_000_000)),
        };
        journal.visit(
            &c,
            round,
            &Visit {
                memory: Figure::measured(reading, "procfs"),
                predicted: Some(MemoryParts {
                    weights: Bytes(26_000_000),
                    embedding: Bytes(49_000_000),
                    kv_cache: Bytes(1_000_000),
                    scratch: Bytes(2_000_000),
                }),
                limit: Some(MemoryLimit { bytes: Bytes(1 << 30), enforced_by: "RLIMIT_AS".into() }),
                pss: Some(Figure::measured(Bytes(83_000_000), "smaps_rollup")),
                faults: Some(Figure::measured(Faults { minor: 100, major: 4 }, "getrusage")),
                counters: Some(CounterReading {
                    groups: vec![
                        group(
                            &[
                                Counter::Cycles,
                                Counter::Instructions,
                                Counter::CacheReferences,
                                Counter::CacheMisses,
                            ],
                            Figure::measured(vec![1_000_000, 3_100_000, 40_000, 6_200], "perf, user space"),
                        ),
                        group(
                            &[Counter::Cycles, Counter::StalledBackend],
                            Figure::measured(vec![800_000, 200_000], "perf, multiplexed"),
                        ),
                        group(
                            &[Counter::DramReadBytes, Counter::DramWrittenBytes],
                            Figure::measured(vec![3_100_000_000, 31_000_000], "perf, memory controllers"),
                        ),
                        group(&[Counter::Migrations], Figure::unavailable("forbidden")),
                    ],
                }),
                ..steps(10)
            },
        );
    }
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &journal.records).unwrap();
    let memory = &read_csv(&dir.path().join("memory.csv"))[0];
    let cells = [
        ("predicted_bytes", "78000000"),
        ("rss_anon_bytes", "82000000"),
        // 82 resident and 1 swapped out.
        ("unaccounted_bytes", "5000000"),
        ("swapped_bytes", "1000000"),
        ("pss_bytes", "83000000"),
        ("decode_major_faults", "4"),
        ("memory_limit_enforced_by", "RLIMIT_AS"),
        ("faults_provenance", "measured: getrusage"),
    ];
    for (column, cell) in cells {
        assert_eq!(memory[column], cell, "{column}");
    }
    let counters = read_csv(&dir.path().join("counters.csv"));
    assert_eq!(counters.len(), 6);
    let decode = &counters[2];
    for (column, expected) in [
        ("instructions_per_cycle", 3.1),
        ("instructions_per_token", 100_000.0),
        ("cache_miss_percent", 15.5),
        ("cache_misses_per_1000_instructions", 2.0),
        ("stalled_backend_percent", 25.0),
        // In 310 ms.
        ("dram_read_bytes_per_s", 1e10),
        ("dram_written_bytes_per_s", 1e8),
        ("dram_read_bytes_per_token", 1e8),
    ] {
        close(decode[column].parse().unwrap_or_else(|_| panic!("{column}: {decode:?}")), expected);
    }
    assert_eq!(decode["stalled_backend_provenance"], "measured: perf, multiplexed");
    assert_eq!(
        (decode["migrations"].as_str(), decode["migrations_provenance"].as_str()),
        ("", "unavailable: forbidden")
    );
    assert_eq!(
        (decode["branch_misses"].as_str(), decode["branch_misses_per_1000_instructions"].as_str()),
        ("", "")
    );
    // Loading makes no tokens.
    assert_eq!(counters[0]["instructions_per_token"], "");
}

#[test]
fn missing_figures_are_empty_cells_with_a_reason() {
    let (_, journal) = edge_cases().into_iter().find(|(name, _)| *name == "no time").unwrap();
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &journal.records).unwrap();
    let row = &read_csv(&dir.path().join("summary.csv"))[0];
    for column in [
        "prefill_tok_s",
        "decode_tok_s",
        "decode_roofline_percent",
        "ttft_ms",
        "energy_j_per_token",
        "decode_cpu_cores",
    ] {
        assert_eq!(row[column], "", "{column}");
    }
    assert_eq!(row["energy_provenance"], "unavailable: no powercap tree");
    assert!(row["roofline_provenance"].starts_with("unavailable: "));
    assert!(row["notes"].contains("round 1: the decode window has no length"));
    let speedup = &read_csv(&dir.path().join("speedup.csv"))[0];
    assert_eq!((speedup["status"].as_str(), speedup["decode_speedup"].as_str()), ("no rates to divide", ""));
}

#[test]
fn an_unwritable_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("summary.csv");
    std::fs::create_dir(&blocked).unwrap();
    std::fs::write(blocked.join("occupied"), "").unwrap();
    let error = write_all(dir.path(), &three_kernels().records).unwrap_err().to_string();
    assert!(error.contains("summary.csv"), "{error}");
    assert!(walk(dir.path()).iter().all(|p| !p.file_name().unwrap().to_string_lossy().starts_with('.')));
    let missing = dir.path().join("missing");
    let error = write_all(&missing, &three_kernels().records).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("samples.csv"), "{error}");
}

#[test]
fn methodology_defines_every_column() {
    let text = include_str!("../METHODOLOGY.md");
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &three_kernels().records).unwrap();
    for file in [
        "samples.csv",
        "latencies.csv",
        "summary.csv",
        "speedup.csv",
        "scaling.csv",
        "memory.csv",
        "energy.csv",
        "overhead.csv",
        "counters.csv",
    ] {
        let (_, section) = text.split_once(&format!("### `{file}`")).unwrap_or_else(|| panic!("no {file}"));
        let section = section.split("\n### ").next().unwrap().split("\n## ").next().unwrap();
        let mut reader = csv::Reader::from_path(dir.path().join(file)).unwrap();
        for column in reader.headers().unwrap() {
            assert!(section.contains(&format!("`{column}`")), "{file}: {column} is not defined");
        }
    }
}

/// Two rounds of one case: operation i worked i + 1 (i + 3 in the second) and waited 1 ms for each of 32
/// tokens.
fn profiled() -> Journal {
    let c = case("m", "i2_s", "avx2", 2);
    let wrong = case("m", "tl1", "avx2", 2);
    let mut journal = Journal::new(2, vec![c.clone(), wrong.clone()]);
    for (round, extra) in [(1, 1), (2, 3)] {
        let spans = Operation::ALL.into_iter().enumerate().map(|(i, operation)| Span {
            operation,
            count: 24,
            work_ns: (i as u64 + extra) * 32_000_000,
            wait_ns: 32_000_000,
        });
        let visit = Visit { profile: Some(spans.collect()), latencies_ns: vec![1_000_000; 32], ..steps(1) };
        journal.visit(&c, round, &visit);
    }
    journal.visit(&wrong, 1, &steps(1)).check(&wrong, 0.5);
    journal
}

#[test]
fn a_profile_is_reported_where_there_is_one() {
    let journal = profiled();
    let dir = tempfile::tempdir().unwrap();
    let (_, written) = write_all(dir.path(), &journal.records).unwrap();
    let names = ["profile.csv", "plots/profile.svg", "plots/profile.png"];
    assert!(names.iter().all(|n| written.contains(&dir.path().join(n))), "{written:?}");
    // Two rounds, two phases, eight operations.
    let rows = read_csv(&dir.path().join("profile.csv"));
    assert_eq!(rows.len(), 2 * 2 * 8);
    let row = rows.iter().find(|r| r["operation"] == "gate_up" && r["phase"] == "decode").unwrap();
    assert_eq!(
        ["round", "count", "work_ns", "work_tokens", "work_ms_per_token", "wait_ms_per_token"]
            .map(|c| row[c].as_str()),
        ["1", "24", "192000000", "32", "6", "1"]
    );
    let text = include_str!("../METHODOLOGY.md");
    let section = text.split_once("### `profile.csv`").unwrap().1.split("\n### ").next().unwrap();
    for column in rows[0].keys() {
        assert!(section.contains(&format!("`{column}`")), "{column} is not defined");
    }
    for operation in Operation::ALL {
        assert!(section.contains(&format!("`{}`", operation.name())), "{operation:?} is not defined");
    }

    let summary = summarize(&journal.records).unwrap();
    let breakdown = &summary.rows[0].profile;
    assert_eq!(breakdown.len(), 2);
    // Medians of i + 1 and i + 3: 2 to 9; the waits of eight operations.
    assert_eq!(breakdown[1].work_ms[3], (Operation::Attention, 5.0));
    assert_eq!((breakdown[1].wait_ms, breakdown[1].total_ms()), (8.0, 52.0));
    assert!(summary.rows[1].profile.is_empty());

    let svg = std::fs::read_to_string(dir.path().join(names[1])).unwrap();
    check_svg(&svg, "profile");
    for text in ["prefill: 2 threads", "decode: 2 threads", "waiting for other threads", "52.0", "wrong: "] {
        assert!(svg.contains(text), "{text}");
    }
    assert_eq!(decode_png(&std::fs::read(dir.path().join(names[2])).unwrap()).0, 1600);

    let table = terminal_profile(&summary, 140);
    assert!(table.contains("decode") && table.contains("52.0"), "{table}");
    for width in [20, 60, 140] {
        assert!(terminal_profile(&summary, width).lines().all(|l| l.chars().count() <= width));
    }
    assert_eq!(terminal_profile(&summarize(&three_kernels().records).unwrap(), 140), "");
}

#[test]
fn a_journal_without_profiles_reads_as_before() {
    let line = serde_json::to_string(&three_kernels().records[0]).unwrap();
    assert!(!line.contains("profile"), "{line}");
    for journal in [three_kernels(), profiled()] {
        for record in &journal.records {
            let line = serde_json::to_string(record).unwrap();
            assert_eq!(&serde_json::from_str::<Record>(&line).unwrap(), record);
        }
    }
}

/// A host that others keep busy with `load` CPUs at `mhz`, or one of which that is not known.
fn host(load: Option<f64>, mhz: f64, throttled: u64) -> HostState {
    let none = "the window is shorter than 200 ms";
    HostState {
        frequency: Figure::measured(Frequency { mean_mhz: mhz, min_mhz: mhz - 1.0, readings: 2 }, "cpufreq"),
        temperature_max_c: Figure::unavailable("no sensor"),
        throttle_events: Figure::measured(throttled, "thermal_throttle"),
        steal_share: Figure::measured(0.01, "/proc/stat"),
        other_load_cpus: load.map_or(Figure::unavailable(none), |l| Figure::measured(l, "/proc/stat")),
        memory_pressure_share: Figure::measured(0.0, "/proc/pressure/memory"),
        swap: Figure::measured(Swap { read: Bytes(0), written: Bytes(0) }, "/proc/vmstat"),
    }
}

#[test]
fn samples_taken_in_a_bad_state_are_counted_and_stay() {
    let (fast, slow) = (case("m", "i2_s", "avx2", 2), case("m", "i2_s", "scalar", 2));
    let mut journal = Journal::new(4, vec![fast.clone(), slow.clone()]);
    let states = [
        host(Some(0.1), 3000.0, 0),
        host(Some(1.5), 3000.0, 1),
        host(Some(0.1), 2600.0, 0),
        host(None, 3000.0, 0),
    ];
    for (round, state) in (1..).zip(states) {
        journal.visit(&fast, round, &Visit { state: Some(Box::new(state)), ..steps(10) });
        // Another instruction set has another frequency, and no state in round 4.
        let state = (round < 4).then(|| Box::new(host(Some(0.0), 2000.0, 0)));
        journal.visit(&slow, round, &Visit { state, ..steps(20) });
    }
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &journal.records).unwrap();
    let rows = read_csv(&dir.path().join("samples.csv"));
    let states: Vec<&str> =
        rows.iter().filter(|r| r["phase"] == "decode").map(|r| r["state"].as_str()).collect();
    assert_eq!(
        states,
        [
            "ok",
            "ok",
            "other-load;throttled",
            "ok",
            "low-frequency",
            "ok",
            "unknown: the window is shorter than 200 ms",
            ""
        ]
    );
    let row = &rows[3 * 2];
    let cells = [
        "frequency_mean_mhz",
        "frequency_min_mhz",
        "frequency_provenance",
        "temperature_max_c",
        "throttle_events",
        "steal_share",
        "other_load_cpus",
        "memory_pressure_share",
        "swap_read_bytes",
        "swap_written_bytes",
    ];
    assert_eq!(
        cells.map(|c| row[c].as_str()),
        ["3000", "2999", "measured: cpufreq", "", "1", "0.01", "1.5", "0", "0", "0"]
    );

    let summary = summarize(&journal.records).unwrap();
    assert_eq!(
        host_states(&summary),
        "6 of 21 samples were taken in a bad state of the host (3 while other processes used the CPUs, 3 while \
         the CPU was too hot and throttled, 3 while the frequency was low); they stay in the figures. Of 3 of \
         21 samples the load of others is not known: the window is shorter than 200 ms."
    );
    let markdown = std::fs::read_to_string(dir.path().join("speedup.md")).unwrap();
    assert!(markdown.contains("6 of 21 samples were taken in a bad state"), "{markdown}");
    // All four rounds count.
    assert_eq!(summary.rows[0].decode_tok_s.unwrap().rounds, 4);
    assert_eq!(host_states(&summarize(&three_kernels().records).unwrap()), "");
    for record in &journal.records {
        let line = serde_json::to_string(record).unwrap();
        assert_eq!(&serde_json::from_str::<Record>(&line).unwrap(), record);
    }
    assert!(!serde_json::to_string(&three_kernels().records[1]).unwrap().contains("state"));
}

#[test]
fn gaps_are_drawn_with_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = three_kernels();
    let cases = journal.cases();
    journal.check(&cases[2], 0.3);
    write_all(dir.path(), &journal.records).unwrap();
    for figure in ["decode_tok_s", "speedup", "rss", "latency", "rooflines"] {
        let svg = std::fs::read_to_string(dir.path().join(format!("plots/{figure}.svg"))).unwrap();
        assert!(svg.contains("wrong: logits differ"), "{figure}");
    }
}

#[test]
fn the_terminal_says_once_what_is_the_same_everywhere() {
    let text = |summary: &Summary, width| terminal_summary(summary, width);
    let summary = summarize(&three_kernels().records).unwrap();
    let wide = text(&summary, 140);
    assert!(wide.starts_with("backend native, threads 2, prompt 32, generated 32, kv f16\n\n"), "{wide}");
    let lines: Vec<&str> = wide.lines().collect();
    assert_eq!(lines.len(), 6);
    assert!(lines[5].contains("100") && lines[5].contains("80.0-125") && lines[5].contains("71 %"), "{wide}");
    let narrow = text(&summary, 50);
    assert!(narrow.contains("decode tok/s") && !narrow.contains("ttft"), "{narrow}");
}

/// Size of a PNG that decodes to its end.
fn decode_png(bytes: &[u8]) -> (u32, u32) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    reader.finish().unwrap();
    (reader.info().width, reader.info().height)
}
