//! Memory by part: what is predicted is what is measured, and a limit's kill is a result.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use bitjoule::backend::limit::{Enforcement, MemoryCap};
use bitjoule::backend::protocol::{Event, Job, ModelFile};
use bitjoule::engine::MemoryParts;
use bitjoule::journal::{Case, Failure, FailureKind, MemoryReading, Phase, Record, Work as Done, file};
use bitjoule::model::{Geometry, SYNTH_SEED, WeightType, synth};
use bitjoule::units::Bytes;
use common::{Work, bitjoule, stderr, stdout};

/// What a worker reports of a visit to the 125M model with 16 + 8 tokens and two threads.
fn visit(model: &Path, kernel: &str, cap: Option<MemoryCap>) -> Vec<Event> {
    let case = Case {
        id: "native/125M".into(),
        backend: "native".into(),
        model: "125M".into(),
        kernel: kernel.into(),
        isa: bitjoule_kernels::Isa::best().name().into(),
        threads: 2,
        n_prompt: 16,
        n_gen: 8,
        kv: "f16".into(),
        embedding: None,
        tied: None,
    };
    let job = Job::Visit {
        cap: cap.clone(),
        case,
        model: ModelFile::Path(model.to_owned()),
        seed: 1,
        phases: vec![Phase::Load, Phase::Prefill, Phase::Decode],
        check: None,
        kept: None,
        profile: false,
        energy: Default::default(),
    };
    let mut worker = bitjoule()
        .arg("__worker")
        // A known number of threads that pack the weights, each with a heap of its own.
        .env("RAYON_NUM_THREADS", "2")
        .envs(cap.is_some().then_some(("MALLOC_ARENA_MAX", "1")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = worker.stdin.take().unwrap();
    writeln!(stdin, "{}", serde_json::to_string(&job).unwrap()).unwrap();
    let mut events = Vec::new();
    for line in BufReader::new(worker.stdout.take().unwrap()).lines() {
        events.push(serde_json::from_str(&line.unwrap()).unwrap());
        let _ = writeln!(stdin);
    }
    worker.wait().unwrap();
    events
}

/// The 125M model, made once.
fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memory-125M.gguf");
        synth(Geometry::by_name("125M").unwrap(), None, WeightType::I2S, None, SYNTH_SEED, &path, true)
            .unwrap();
        path
    })
}

/// The prediction, and the reading at the end of decode.
fn memory(events: &[Event]) -> (MemoryParts, MemoryReading) {
    let predicted = events.iter().find_map(|e| match e {
        Event::Sample { work: Done::Load { predicted, .. }, .. } => *predicted,
        _ => None,
    });
    let reading = events.iter().find_map(|e| match e {
        Event::Sample { work: Done::Decode { .. }, memory, .. } => memory.value().copied(),
        _ => None,
    });
    (predicted.expect("a prediction"), reading.unwrap_or_else(|| panic!("no reading: {events:?}")))
}

#[test]
#[cfg(target_os = "linux")]
fn prediction_and_measurement_agree() {
    for kernel in ["i2_s", "tl2-lossy"] {
        let events = visit(model(), kernel, None);
        let (predicted, reading) = memory(&events);
        let held = (reading.anon.0 + reading.swapped.map_or(0, |s| s.0)) as f64;
        let total = predicted.total().0 as f64;
        // Besides the parts: the runtime and the heaps of two packing threads, about 2 MB; and two mappings
        // that can end in a huge page of 2 MB.
        let bound = 0.05 * total + 8e6;
        assert!(
            (held - total).abs() < bound,
            "{kernel}: {held} is held, {total} was predicted: {predicted:?}"
        );
        // The parts are those of the geometry: f16 embedding, 24 tokens of f16 keys and values.
        assert!(predicted.embedding.0 as f64 / (32_002.0 * 768.0 * 2.0) < 1.01, "{predicted:?}");
        let packed = events.iter().find_map(|e| match e {
            Event::Sample { work: Done::Load { weight_bytes, .. }, .. } => Some(weight_bytes.0),
            _ => None,
        });
        let norms = predicted.weights.0 + predicted.embedding.0 - packed.unwrap();
        assert!(norms < 1_000_000, "norms of {norms} bytes");
        let pss = events.iter().find_map(|e| match e {
            Event::Sample { pss, .. } => Some(pss),
            _ => None,
        });
        match pss.unwrap().value() {
            None => println!("not tested: {}", pss.unwrap().provenance()),
            Some(pss) => assert!(pss.0 as f64 > 0.9 * total, "{pss}"),
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn refused_memory_is_the_result_of_the_case() {
    // Room for the program and the mapped file of 76 MB, not for as much again of packed weights.
    let cap = |limit| MemoryCap { limit, enforcement: Enforcement::AddressSpace("a test".into()) };
    let events = visit(model(), "i2_s", Some(cap(Bytes(140_000_000))));
    let [Event::Failed { kind, reason }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(*kind, FailureKind::MemoryLimit);
    for needle in ["140 MB (RLIMIT_AS", "predicted to be needed", "cannot allocate"] {
        assert!(reason.contains(needle), "{reason}");
    }
    let events = visit(model(), "i2_s", Some(cap(Bytes(8 << 30))));
    assert_eq!(events.last(), Some(&Event::Done));
    let limits: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            Event::Sample { work: Done::Load { limit, .. }, .. } => limit.clone(),
            _ => None,
        })
        .collect();
    assert_eq!(limits.len(), 1);
    assert_eq!(limits[0].bytes, Bytes(8 << 30));
}

/// A finished run of the built-in model under a limit, and what it printed.
fn limited(limit: &str, threads: &str, rounds: u32) -> (Work, String) {
    let kernels = "kernels = [\"fp32-naive\", \"f16\", \"i2_s\"]";
    let work = Work::with(&[
        (kernels, "kernels = [\"i2_s\"]"),
        ("threads = [1, 2]", threads),
        ("rounds = 2", &format!("rounds = {rounds}")),
    ]);
    let suite = std::fs::read_to_string(work.suite()).unwrap();
    std::fs::write(work.suite(), format!("memory_limit = \"{limit}\"\n{suite}")).unwrap();
    let output = work.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed = stdout(&output);
    (work, printed)
}

fn failures(work: &Work) -> Vec<Failure> {
    let records = file::read(&work.out()).unwrap().records;
    let failure = |record| match record {
        Record::Failure(failure) => Some(failure),
        _ => None,
    };
    records.into_iter().filter_map(failure).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn a_worker_that_dies_of_the_limit_is_no_crash() {
    // Stacks of 63 threads do not fit; in a control group they do, because nobody touches them.
    let (work, _) = limited("100 MB", "threads = [64]", 1);
    let failures = failures(&work);
    if failures.is_empty() {
        println!("not tested: a control group limits memory here, not the address space");
        return;
    }
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].kind, FailureKind::MemoryLimit);
    let reason = &failures[0].reason;
    assert!(
        reason.starts_with("does not run in 100 MB (RLIMIT_AS") && reason.contains("code: 11"),
        "{reason}"
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_case_that_does_not_fit_the_limit_is_told_from_a_failure() {
    // Not even the program fits. It is killed or dies of a refused allocation, whatever enforces the limit.
    let (work, printed) = limited("1 MiB", "threads = [2]", 2);
    let failures = failures(&work);
    println!("{}", failures[0].reason);
    // Of two rounds: the second would show the same.
    assert_eq!(
        failures.iter().map(|f| (f.kind, f.round)).collect::<Vec<_>>(),
        [(FailureKind::MemoryLimit, 1)]
    );
    assert!(failures[0].reason.starts_with("does not run in 1 MiB ("), "{}", failures[0].reason);
    assert!(printed.contains("1 over the memory limit"), "{printed}");
    let mut rows = csv::Reader::from_path(work.out().join("memory.csv")).unwrap();
    for row in rows.deserialize::<std::collections::HashMap<String, String>>() {
        let row = row.unwrap();
        assert!(row["status"].starts_with("over limit: does not run in 1 MiB"), "{row:?}");
        assert_eq!((row["memory_limit_bytes"].as_str(), row["rss_anon_bytes"].as_str()), ("1048576", ""));
    }

    let (work, _) = limited("64 GiB", "threads = [2]", 1);
    let mut rows = csv::Reader::from_path(work.out().join("memory.csv")).unwrap();
    for row in rows.deserialize::<std::collections::HashMap<String, String>>() {
        let row = row.unwrap();
        assert_eq!(row["status"], "ok");
        println!("{}", row["memory_limit_enforced_by"]);
        assert!(!row["memory_limit_enforced_by"].is_empty() && !row["predicted_bytes"].is_empty());
        let sum: u64 = ["weights", "embedding", "kv_cache", "scratch"]
            .map(|part| row[&format!("predicted_{part}_bytes")].parse::<u64>().unwrap())
            .iter()
            .sum();
        assert_eq!(row["predicted_bytes"], sum.to_string());
    }
}
