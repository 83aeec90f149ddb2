//! Runs with programs as energy meters, and without any source: what each table says.

#![cfg(unix)]

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bitjoule::journal::{Phase, Record, file};
use common::{Work, bitjoule, stderr, stdout};

type Row = HashMap<String, String>;

fn table(dir: &Path, name: &str) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(dir.join(name)).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

/// One kernel on one thread.
fn small(rounds: &str) -> Work {
    Work::with(&[("\"fp32-naive\", \"f16\", ", ""), ("[1, 2]", "[1]"), ("rounds = 2", rounds)])
}

#[test]
fn the_demo_meter_fills_the_columns_and_is_never_measured() {
    let work = small("rounds = 1");
    let args = ["--energy", "exec:meters/demo 35 0.02", "--assume-tdp", "65", "--memory-energy", "50=a book"];
    let run = work.command(&args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(run.status.success(), "{}", stderr(&run));
    assert!(stdout(&run).contains("Measuring cost "), "{}", stdout(&run));
    let rows = table(&work.out(), "energy.csv");
    let phases: Vec<&str> = rows.iter().map(|r| r["phase"].as_str()).collect();
    assert_eq!(phases, ["load", "prefill", "decode", "total"]);
    for row in &rows[1..] {
        let at = |column: &str| row[column].parse::<f64>().unwrap_or_else(|_| panic!("{column}: {row:?}"));
        assert!(row["energy_provenance"].starts_with("simulated: exec: meters/demo 35"), "{row:?}");
        for column in ["power_w", "idle_power_w"] {
            assert!((at(column) - 35.0).abs() < 0.01, "{row:?}");
        }
        assert!(at("energy_j_per_token") > 0.0 && at("energy_uncertainty_percent") > 0.0, "{row:?}");
        assert!(at("energy_net_j").abs() < 1e-6 * at("energy_j"), "nothing beyond idle: {row:?}");
        assert!(row["phase"] == "total" || at("energy_repetitions") > 1.0, "{row:?}");
        assert_eq!(row["modelled_memory_provenance"], "modelled: memory at 50 pJ a byte, from a book");
        assert!(row["assumed_tdp_provenance"].starts_with("assumed: tdp of 65 W"), "{row:?}");
        assert!(at("modelled_memory_j_per_token") > 0.0 && at("assumed_tdp_j_per_token") > 0.0);
    }
    for name in ["energy.csv", "summary.csv", "samples.csv", "speedup.csv"] {
        for row in table(&work.out(), name) {
            let of_energy = row.iter().filter(|(column, _)| column.starts_with("energy"));
            for (column, cell) in of_energy {
                assert!(!cell.contains("measured"), "{name}: {column}: {cell}");
            }
        }
    }
    let svg = std::fs::read_to_string(work.out().join("plots/energy.svg")).unwrap();
    for label in ["simulated", "modelled: 7 nm", "modelled: memory", "assumed: tdp"] {
        assert!(svg.contains(label), "{label}");
    }
}

#[test]
fn without_a_source_every_table_says_why_and_none_says_zero() {
    let work = small("rounds = 1");
    let root = work.0.path().join("nothing");
    std::fs::create_dir(&root).unwrap();
    let run = work.run(&["--energy-root", root.to_str().unwrap()]);
    assert!(run.status.success(), "{}", stderr(&run));
    let why = "unavailable: no energy source (powercap: ";
    let figures = ["energy_j", "energy_j_per_token", "power_w", "idle_power_w", "energy_net_j_per_token"];
    for name in ["energy.csv", "summary.csv", "samples.csv"] {
        for row in table(&work.out(), name) {
            assert!(row["energy_provenance"].starts_with(why), "{name}: {row:?}");
            assert!(row.get("energy_net_provenance").is_none_or(|net| net.starts_with(why)), "{row:?}");
            for figure in figures {
                assert_eq!(row.get(figure).map_or("", String::as_str), "", "{name}: {figure}: {row:?}");
            }
        }
    }
    // What needs no source is there.
    let rows = table(&work.out(), "energy.csv");
    assert!(rows[2]["modelled_arithmetic_7nm_j_per_token"].parse::<f64>().unwrap() > 0.0, "{rows:?}");
    assert_eq!(rows[2]["energy_repetitions"], "1");
    let svg = std::fs::read_to_string(work.out().join("plots/energy.svg")).unwrap();
    assert!(svg.contains("Measured: unavailable: no energy source") && svg.contains("modelled: 45 nm"));
    let overhead = table(&work.out(), "overhead.csv");
    assert_eq!((overhead.len(), overhead[0]["pairs"].as_str()), (1, "2"));
}

#[test]
fn a_meter_that_dies_takes_its_energy_with_it_and_nothing_else() {
    let work = small("rounds = 2");
    let (meter, dead) = (work.0.path().join("meter.sh"), work.0.path().join("dead"));
    if !Path::new("/proc/uptime").exists() {
        println!("skipped: the meter of this test tells the time by /proc/uptime");
        return;
    }
    let script = format!(
        "while [ ! -e '{}' ]; do read -r now _ </proc/uptime; echo \"$now watts wall 40.0\"; sleep 0.01; done\n\
         echo 'the cable is out' >&2\nexit 7\n",
        dead.display()
    );
    std::fs::write(&meter, script).unwrap();
    let energy = format!("exec:sh {}", meter.display());
    let piped = std::process::Stdio::piped;
    let mut child = work.command(&["--energy", &energy]).stdout(piped()).stderr(piped()).spawn().unwrap();
    let decoded = || {
        let records = file::read(&work.out()).map(|c| c.records).unwrap_or_default();
        records.iter().any(|r| matches!(r, Record::Sample(s) if s.round == 1 && s.phase() == Phase::Decode))
    };
    while !decoded() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::write(&dead, "").unwrap();
    let run = child.wait_with_output().unwrap();
    assert!(run.status.success(), "{}", stderr(&run));

    let samples = table(&work.out(), "samples.csv");
    assert_eq!(samples.len(), 2 * 3);
    for sample in &samples[..3] {
        assert!(sample["energy_provenance"].starts_with("measured: exec: sh "), "{sample:?}");
        assert!(sample["energy_j"].parse::<f64>().unwrap() > 0.0, "{sample:?}");
    }
    for sample in &samples[3..] {
        assert_eq!(sample["energy_j"], "", "{sample:?}");
        let why = &sample["energy_provenance"];
        assert!(why.starts_with("unavailable: ") && why.contains("the cable is out"), "{why}");
        assert!(!sample["tok_s"].is_empty() || sample["phase"] == "load", "{sample:?}");
    }
    let decode = &table(&work.out(), "energy.csv")[2];
    assert!(decode["energy_provenance"].ends_with("(1 of 2 rounds)"), "{decode:?}");
    let marks = &decode["energy_marks"];
    assert!(marks.contains("round 2: ") && marks.contains("the cable is out"), "{marks}");
    assert_eq!(table(&work.out(), "summary.csv")[0]["status"], "ok");
}

#[test]
fn the_source_that_was_found_first_is_kept() {
    let work = small("rounds = 2");
    let root = work.0.path().join("machine");
    let monitor = root.join("sys/class/hwmon/hwmon0");
    std::fs::create_dir_all(&monitor).unwrap();
    for (file, content) in [("name", "ina219"), ("power1_input", "5000000"), ("update_interval", "1")] {
        std::fs::write(monitor.join(file), content).unwrap();
    }
    let args = ["--energy-root", root.to_str().unwrap()];
    let mut child = work.command(&args).stderr(std::process::Stdio::null()).spawn().unwrap();
    let records = || file::read(&work.out()).map(|c| c.records).unwrap_or_default();
    while !records().iter().any(|r| matches!(r, Record::Idle(_))) && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // A source that would have come before it, and always has energy.
    let zone = root.join("sys/class/powercap/intel-rapl:0");
    std::fs::create_dir_all(&zone).unwrap();
    for (file, content) in
        [("name", "package-0"), ("max_energy_range_uj", "262143328850"), ("energy_uj", "1")]
    {
        std::fs::write(zone.join(file), content).unwrap();
    }
    assert!(child.wait().unwrap().success());
    let records = records();
    let of_sample = |r: &Record| match r {
        Record::Sample(s) => s.energy_window.as_ref().map(|w| w.sources.clone()),
        Record::Idle(i) => Some(i.sources.clone()),
        _ => None,
    };
    let sources: Vec<String> =
        records.iter().filter_map(of_sample).flatten().map(|source| source.source).collect();
    assert!(sources.len() >= 2 * 3 + 3 && sources.iter().all(|source| source == "hwmon"), "{sources:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn no_meter_outlives_a_run_that_is_killed() {
    let work = small("rounds = 1");
    let (meter, pid) = (work.0.path().join("meter.sh"), work.0.path().join("pid"));
    // It ends of no signal that can be ignored, nor of a pipe that nobody reads.
    let script = format!(
        "trap '' TERM PIPE INT HUP\necho $$ >'{}'\ni=0\nwhile [ $i -lt 3000 ]; do i=$((i+1)); \
         read -r now _ </proc/uptime; echo \"$now watts wall 40.0\"; sleep 0.02; done\n",
        pid.display()
    );
    std::fs::write(&meter, script).unwrap();
    let energy = format!("exec:sh {}", meter.display());
    let quiet = std::process::Stdio::null;
    let mut child = work.command(&["--energy", &energy]).stdout(quiet()).stderr(quiet()).spawn().unwrap();
    let number = loop {
        match std::fs::read_to_string(&pid) {
            Ok(text) if text.ends_with('\n') => break text.trim().to_owned(),
            _ => assert!(child.try_wait().unwrap().is_none()),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    // A killed process that nobody has waited for yet is a zombie.
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    for _ in 0..1000 {
        if !alive() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the meter {number} is still there");
}

#[test]
fn overhead_is_measured_apart_from_a_run() {
    let run =
        bitjoule().args(["overhead", "--pairs", "2", "--threads", "1", "--energy", "none"]).output().unwrap();
    assert!(run.status.success(), "{}", stderr(&run));
    let text = stdout(&run);
    for part in ["median of 2 pairs", "over all pairs", "The edges of a window took "] {
        assert!(text.contains(part), "{text}");
    }
    let wrong = bitjoule().args(["overhead", "--pairs", "0"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
}
