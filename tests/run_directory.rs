//! What a run leaves is complete and consistent: the directory named by `BITJOULE_RUN_DIR`, or, without
//! it, that of a small run made here.

mod common;

use std::collections::{HashMap, HashSet};
use std::path::Path;

fn rows(path: &Path) -> (Vec<String>, Vec<HashMap<String, String>>) {
    let mut reader = csv::Reader::from_path(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let rows = reader
        .records()
        .map(|r| header.iter().cloned().zip(r.unwrap().iter().map(str::to_owned)).collect())
        .collect();
    (header, rows)
}

fn number(row: &HashMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column}: '{}' of {row:?}", row[column]))
}

#[test]
fn a_run_directory_is_complete_and_consistent() {
    match std::env::var_os("BITJOULE_RUN_DIR") {
        Some(dir) => check(Path::new(&dir)),
        None => {
            let work = common::Work::new();
            let run = work.run(&[]);
            assert!(run.status.success(), "{}", common::stderr(&run));
            check(&work.out());
        }
    }
}

fn check(dir: &Path) {
    let (header, summary) = rows(&dir.join("summary.csv"));
    let documented = [
        "backend",
        "model",
        "kernel",
        "isa",
        "threads",
        "n_prompt",
        "n_gen",
        "rounds",
        "status",
        "prefill_tok_s",
        "decode_tok_s",
        "decode_tok_s_min",
        "decode_tok_s_max",
        "decode_roofline_percent",
        "ttft_ms",
        "latency_p50_ms",
        "latency_p99_ms",
        "rss_peak_bytes",
        "energy_j_per_token",
        "energy_provenance",
    ];
    assert_eq!(header[..documented.len()], documented);
    assert!(!summary.is_empty());
    for row in &summary {
        assert_eq!(row["status"], "ok", "{row:?}");
        let [min, median, max] =
            ["decode_tok_s_min", "decode_tok_s", "decode_tok_s_max"].map(|c| number(row, c));
        assert!(0.0 < min && min <= median && median <= max, "{row:?}");
        let latency = ["p50", "p90", "p99", "max"].map(|p| number(row, &format!("latency_{p}_ms")));
        assert!(latency.is_sorted() && latency[0] > 0.0, "{row:?}");
        assert!(number(row, "decode_roofline_percent") > 0.0, "{row:?}");
        assert!(number(row, "rss_peak_bytes") > 1e6, "{row:?}");
        let (energy, provenance) = (&row["energy_j_per_token"], &row["energy_provenance"]);
        assert_eq!(energy.is_empty(), provenance.starts_with("unavailable: "), "{row:?}");
    }
    let (_, samples) = rows(&dir.join("samples.csv"));
    let key = |r: &HashMap<String, String>| {
        ["model", "kernel", "isa", "threads", "n_prompt", "n_gen", "round", "phase"].map(|c| r[c].clone())
    };
    let unique: HashSet<_> = samples.iter().map(key).collect();
    assert_eq!(unique.len(), samples.len(), "a phase twice");
    for sample in &samples {
        assert!(!sample["state"].is_empty() && !sample["frequency_provenance"].is_empty(), "{sample:?}");
    }
    let rounds: f64 = summary.iter().map(|r| number(r, "rounds")).sum();
    assert_eq!(samples.len() as f64, rounds * 3.0, "a sample for each phase of each round");
    let (_, speedups) = rows(&dir.join("speedup.csv"));
    assert!(!speedups.is_empty());
    for name in ["decode_tok_s", "speedup", "rss", "latency", "rooflines"] {
        let svg = std::fs::read_to_string(dir.join(format!("plots/{name}.svg"))).unwrap();
        assert!(svg.contains("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
        let png = std::fs::read(dir.join(format!("plots/{name}.png"))).unwrap();
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 1000, "{name}");
    }
    for name in ["host.json", "suite.toml", "journal.jsonl", "speedup.md", "latencies.csv"] {
        assert!(std::fs::metadata(dir.join(name)).unwrap().len() > 0, "{name}");
    }
}
