//! Runs from end to end: kills and resumption, added models, bad input, exit codes.

mod common;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use bitjoule::journal::{Failure, FailureKind, KeptWeights, Phase, Record, Sample, Work as Done, file};
use common::{Work, bitjoule, fixture_path, stderr, stdout};

/// Case, round and phase of every sample; each once.
fn samples(dir: &Path) -> HashSet<(String, u32, Phase)> {
    let mut keys = HashSet::new();
    for record in file::read(dir).unwrap().records {
        if let Record::Sample(s) = record {
            assert!(
                keys.insert((s.case.clone(), s.round, s.phase())),
                "{} twice in round {}",
                s.case,
                s.round
            );
        }
    }
    keys
}

#[test]
fn killed_twenty_times_a_run_loses_nothing() {
    let work = Work::with(&[("rounds = 2", "rounds = 12")]);
    let out = work.out();
    let mut kills = 0;
    let mut state = 7u64;
    let mut before = HashSet::new();
    while kills < 20 {
        let mut command = if out.join(file::FILE_NAME).exists() {
            let mut command = bitjoule();
            command.arg("run").arg("--resume").arg(&out);
            command
        } else {
            let _ = std::fs::remove_dir_all(&out);
            work.command(&[])
        };
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(20 + (state >> 33) % 230));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        // A kill may come before the plan is written: then there is nothing to lose yet.
        if file::read(&out).is_ok_and(|c| !c.records.is_empty()) {
            let now = samples(&out);
            assert!(before.is_subset(&now), "kill {kills} lost a sample");
            before = now;
        } else {
            let _ = std::fs::remove_dir_all(&out);
        }
    }
    let end = bitjoule().arg("run").arg("--resume").arg(&out).output().unwrap();
    assert!(end.status.success(), "{}", stderr(&end));
    let after = samples(&out);
    assert!(before.is_subset(&after));
    assert_eq!(after.len(), 6 * 12 * 3);
    // A complete run stays as it is.
    let journal = std::fs::read(out.join(file::FILE_NAME)).unwrap();
    let again = bitjoule().arg("run").arg("--resume").arg(&out).output().unwrap();
    assert!(again.status.success(), "{}", stderr(&again));
    assert_eq!(std::fs::read(out.join(file::FILE_NAME)).unwrap(), journal);
}

#[test]
fn an_added_model_gives_the_tokens_of_generate_and_every_check_passes() {
    let work = Work::new();
    let model = work.0.path().join("added.gguf");
    std::fs::copy(fixture_path("tiny-bitnet-b1.58.i2_s.gguf"), &model).unwrap();
    let run = work.run(&["--model", model.to_str().unwrap()]);
    assert!(run.status.success(), "{}", stderr(&run));
    assert!(stdout(&run).contains("as fast as"), "{}", stdout(&run));
    let records = file::read(&work.out()).unwrap().records;
    let of = |kernel: &str| {
        let case = format!("native/added/{kernel}/");
        records.iter().filter_map(move |r| match r {
            Record::Sample(s) if s.case.starts_with(&case) => Some(&s.work),
            _ => None,
        })
    };
    for kernel in ["fp32-naive", "f16", "i2_s"] {
        let prompt = of(kernel).find_map(|w| match w {
            Done::Prefill { prompt, .. } => Some(prompt.clone()),
            _ => None,
        });
        let prompt: Vec<String> = prompt.unwrap().iter().map(u32::to_string).collect();
        let generate = bitjoule()
            .args(["generate", model.to_str().unwrap(), "--tokens", &prompt.join(","), "-n", "6"])
            .args(["--kernel", kernel])
            .output()
            .unwrap();
        assert!(generate.status.success(), "{}", stderr(&generate));
        let mut runs = 0;
        for work in of(kernel) {
            if let Done::Decode { tokens, .. } = work {
                let tokens: Vec<String> = tokens.iter().map(u32::to_string).collect();
                assert_eq!(stdout(&generate).trim(), tokens.join(","), "{kernel}");
                runs += 1;
            }
        }
        assert_eq!(runs, 2 * 2, "{kernel}");
    }
    let checks: Vec<_> = records.iter().filter(|r| matches!(r, Record::Check(c) if c.passed)).collect();
    assert_eq!(checks.len(), 2 * 3 * 2);

    // Everything derived comes again from the journal alone.
    let csv = |name: &str| std::fs::read(work.out().join(name)).unwrap();
    let names = ["summary.csv", "samples.csv", "speedup.csv", "latencies.csv", "speedup.md"];
    let before = names.map(csv);
    names.iter().for_each(|n| std::fs::remove_file(work.out().join(n)).unwrap());
    let report = bitjoule().arg("report").arg(work.out()).output().unwrap();
    assert!(report.status.success(), "{}", stderr(&report));
    assert_eq!(names.map(csv), before);

    // And the directory is not overwritten.
    let again = work.run(&[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("--resume"), "{}", stderr(&again));
}

#[test]
fn a_profile_adds_up_to_the_window() {
    let work = Work::new();
    let run = work.run(&["--profile"]);
    assert!(run.status.success(), "{}", stderr(&run));
    assert!(stdout(&run).contains("Milliseconds a token"), "{}", stdout(&run));
    let mut profiles = 0;
    for record in file::read(&work.out()).unwrap().records {
        let Record::Sample(sample) = record else { continue };
        assert_eq!(sample.profile.is_some(), sample.phase() != Phase::Load);
        let Some(spans) = sample.profile else { continue };
        profiles += 1;
        let sum: u64 = spans.iter().map(|s| s.work_ns + s.wait_ns).sum();
        assert!(0 < sum && sum <= sample.wall_ns, "{spans:?} in {} ns", sample.wall_ns);
        assert!(spans.iter().all(|s| s.count > 0), "{spans:?}");
    }
    assert_eq!(profiles, 6 * 2 * 2);
    for name in ["profile.csv", "plots/profile.svg", "plots/profile.png"] {
        assert!(work.out().join(name).exists(), "{name}");
    }
}

/// How the loads of a run got their packed weights.
fn kept(dir: &Path) -> Vec<Option<KeptWeights>> {
    let records = file::read(dir).unwrap().records;
    let loads = records.into_iter().filter_map(|record| match record {
        Record::Sample(Sample { work: Done::Load { kept, .. }, .. }) => Some(kept),
        _ => None,
    });
    loads.collect()
}

#[test]
fn packed_weights_are_kept_read_and_never_trusted_blindly() {
    let work = Work::with(&[
        ("[\"fp32-naive\", \"f16\", \"i2_s\"]", "[\"f16\", \"tl2\"]"),
        ("threads = [1, 2]", "threads = [1]"),
        ("builtin = \"tiny-bitnet-b1.58\"", "file = \"model.gguf\""),
    ]);
    let model = work.0.path().join("model.gguf");
    std::fs::copy(fixture_path("tiny-bitnet-b1.58.i2_s.gguf"), &model).unwrap();
    // Without being asked for, nothing is written beside the model.
    assert!(work.run(&[]).status.success());
    assert!(kept(&work.out()).iter().all(Option::is_none));
    let folder = work.0.path().join("model.gguf.packed");
    assert!(!folder.exists());

    // A kernel's first load keeps its weights; the other round reads them. The checks against the reference
    // pass with either.
    let run = |how: &[(KeptWeights, usize)]| {
        std::fs::remove_dir_all(work.out()).unwrap();
        let run = work.run(&["--keep-packed"]);
        assert!(run.status.success(), "{}", stderr(&run));
        let kept = kept(&work.out());
        assert_eq!(kept.len(), 2 * 2);
        for (how, n) in how {
            assert_eq!(kept.iter().filter(|k| k.as_ref() == Some(how)).count(), *n, "{kept:?}");
        }
        kept
    };
    run(&[(KeptWeights::Written, 2), (KeptWeights::Read, 2)]);
    run(&[(KeptWeights::Read, 4)]);
    let rows = table(&work.out(), "summary.csv");
    assert!(rows.iter().all(|r| r["load_ms"].is_empty() && !r["load_kept_ms"].is_empty()));

    // Damaged, cut short, or of another model, they are packed anew.
    let files = || std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
    let paths: Vec<_> = files().collect();
    let (mut flipped, cut) = (std::fs::read(&paths[0]).unwrap(), std::fs::read(&paths[1]).unwrap());
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&paths[0], flipped).unwrap();
    std::fs::write(&paths[1], &cut[..cut.len() / 2]).unwrap();
    run(&[(KeptWeights::Written, 2), (KeptWeights::Read, 2)]);
    let mut other = std::fs::read(&model).unwrap();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&model, &other).unwrap();
    run(&[(KeptWeights::Written, 2), (KeptWeights::Read, 2)]);
    assert_eq!(files().count(), 2);

    // Where they cannot be written, the run goes on and says why.
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    let kept = run(&[]);
    let said = |k: &Option<KeptWeights>| matches!(k, Some(KeptWeights::NotWritten(why)) if why.contains("model.gguf.packed"));
    assert!(kept.iter().all(said), "{kept:?}");
    let rows = table(&work.out(), "summary.csv");
    assert!(rows.iter().all(|r| r["notes"].contains("packed weights could not be kept")), "{rows:?}");

    // A run is not gone on with over another model file.
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&model, &other).unwrap();
    let resumed = bitjoule().arg("run").arg("--resume").arg(work.out()).output().unwrap();
    assert_eq!(resumed.status.code(), Some(2));
    assert!(stderr(&resumed).contains("not the one that this run began with"), "{}", stderr(&resumed));
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_run_says_how_to_go_on() {
    let work = Work::new();
    let child = work.command(&[]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    // A machine fast enough to be done by then ends well.
    assert!(matches!(output.status.code(), Some(130 | 0)), "{:?}", output.status);
    if output.status.code() == Some(130) {
        assert!(stderr(&output).contains("--resume"), "{}", stderr(&output));
    }
    let end = bitjoule().arg("run").arg("--resume").arg(work.out()).output().unwrap();
    assert!(end.status.success(), "{}", stderr(&end));
    assert_eq!(samples(&work.out()).len(), 6 * 2 * 3);
}

/// Ctrl-C on a terminal reaches every process of its group: a worker that it meets is no failure.
#[cfg(unix)]
#[test]
fn an_interrupt_of_the_whole_group_is_no_failure() {
    use std::os::unix::process::CommandExt;
    let work = Work::with(&[(", \"f16\", \"i2_s\"", ""), ("[1, 2]", "[1]"), ("n_gen = 6", "n_gen = 40")]);
    for interrupts in 0..6 {
        let mut command = match interrupts {
            0 => work.command(&[]),
            _ => {
                let mut command = bitjoule();
                command.arg("run").arg("--resume").arg(work.out());
                command
            }
        };
        let child = command.stderr(std::process::Stdio::piped()).process_group(0).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200 + 40 * interrupts));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process_group(pid, rustix::process::Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(matches!(output.status.code(), Some(130 | 0)), "{:?}: {}", output.status, stderr(&output));
        let records = file::read(&work.out()).unwrap().records;
        assert!(!records.iter().any(|r| matches!(r, Record::Failure(_))), "{records:?}");
    }
    let end = bitjoule().arg("run").arg("--resume").arg(work.out()).output().unwrap();
    assert!(end.status.success(), "{}", stderr(&end));
    assert_eq!(samples(&work.out()).len(), 2 * 3);
}

/// The children of a process.
#[cfg(target_os = "linux")]
fn children(parent: u32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Process, (name), state, parent; a name can hold anything.
        let fields = stat.rsplit_once(')')?.1;
        (fields.split_whitespace().nth(1)? == parent.to_string()).then_some(pid)
    });
    processes.collect()
}

#[cfg(target_os = "linux")]
#[test]
fn a_worker_killed_in_mid_visit_is_a_failure_of_that_round_only() {
    use rustix::process::{Pid, Signal, kill_process};
    const ROUNDS: u32 = 3;
    let work = Work::with(&[
        ("rounds = 2", "rounds = 3"),
        (", \"f16\", \"i2_s\"", ""),
        ("[1, 2]", "[1]"),
        ("n_gen = 6", "n_gen = 80"),
    ]);
    let mut command = work.command(&[]);
    let piped = std::process::Stdio::piped;
    let mut child = Some(command.stderr(piped()).stdout(piped()).spawn().unwrap());
    // Its load is on record, and eighty slow steps are to come.
    let mid_visit = || {
        let records = file::read(&work.out()).map(|c| c.records).unwrap_or_default();
        matches!(records.last(), Some(Record::Sample(s)) if s.round == 1 && s.phase() == Phase::Load)
    };
    while !mid_visit() {
        let running = child.as_mut().unwrap().try_wait().unwrap().is_none();
        assert!(running, "it ended: {}", stderr(&child.take().unwrap().wait_with_output().unwrap()));
        std::thread::sleep(Duration::from_millis(1));
    }
    let child = child.unwrap();
    for worker in children(child.id()) {
        kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let (out, said) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(1), "{out}{said}");
    assert!(out.contains("incomplete") && said.contains("killed by signal 9"), "{out}{said}");

    let records = file::read(&work.out()).unwrap().records;
    let failures: Vec<_> = records.iter().filter(|r| matches!(r, Record::Failure(_))).collect();
    let [Record::Failure(failure)] = failures[..] else { panic!("{failures:?}") };
    assert_eq!(failure.round, 1);
    assert!(failure.case.starts_with("native/"), "{failure:?}");
    for round in 2..=ROUNDS {
        let phases = samples(&work.out()).into_iter().filter(|(_, r, _)| *r == round).count();
        assert_eq!(phases, 3, "round {round}");
    }
    // The check of the first round was lost with it, and made good.
    assert!(records.iter().any(|r| matches!(r, Record::Check(c) if c.passed)));
    let summary = table(&work.out(), "summary.csv");
    let status = &summary[0]["status"];
    assert!(status.starts_with("incomplete: 2 of 3 rounds") && status.contains("signal 9"), "{status}");
    assert!(!summary[0]["decode_tok_s"].is_empty() && summary[0]["rounds"] == "2", "{summary:?}");
}

#[test]
fn a_reference_that_crashed_is_made_in_the_next_round() {
    let work = Work::with(&[("\"fp32-naive\", \"f16\", ", ""), ("[1, 2]", "[1]")]);
    assert!(work.run(&[]).status.success());
    // As if the worker had been killed while it made the reference, before anything was measured.
    let journal = work.out().join(file::FILE_NAME);
    let text = std::fs::read_to_string(&journal).unwrap();
    let crash = Record::Failure(Failure {
        case: "reference/tiny-bitnet-b1.58/i2_s/scalar".to_owned(),
        round: 1,
        visit: 1,
        kind: FailureKind::Crashed,
        reason: "the worker was killed by signal 9".to_owned(),
    });
    let crash = serde_json::to_string(&crash).unwrap();
    std::fs::write(&journal, format!("{}\n{crash}\n", text.lines().next().unwrap())).unwrap();
    let end = bitjoule().arg("run").arg("--resume").arg(work.out()).output().unwrap();
    assert!(end.status.success(), "{}", stderr(&end));
    let summary = table(&work.out(), "summary.csv");
    assert_eq!((&*summary[0]["check"], &*summary[0]["status"]), ("passed", "ok"));
}

#[test]
fn a_second_coordinator_is_turned_away() {
    let work =
        Work::with(&[("rounds = 2", "rounds = 4"), ("\"fp32-naive\", \"f16\", ", ""), ("[1, 2]", "[1]")]);
    let null = std::process::Stdio::null;
    let mut first = work.command(&[]).stdout(null()).stderr(null()).spawn().unwrap();
    while file::read(&work.out()).map_or(0, |c| c.records.len()) < 3 {
        assert!(first.try_wait().unwrap().is_none(), "the first ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = work.out();
    let out = out.to_str().unwrap();
    refused(&["run", "--resume", out], 2, &["journal.jsonl", "another bitjoule"]);
    refused(&["run", work.suite().to_str().unwrap(), "--out", out], 2, &["not empty"]);
    assert!(first.try_wait().unwrap().is_none(), "the first ended before the second came");
    assert!(first.wait().unwrap().success());
    assert_eq!(samples(&work.out()).len(), 4 * 3);
    let records = file::read(&work.out()).unwrap().records;
    assert!(!records.iter().any(|r| matches!(r, Record::Failure(_))));
    assert_eq!(records.iter().filter(|r| matches!(r, Record::Session(_))).count(), 1);
}

/// The rows of a table, by column.
fn table(dir: &Path, name: &str) -> Vec<HashMap<String, String>> {
    let mut reader = csv::Reader::from_path(dir.join(name)).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

#[test]
fn a_simulated_powercap_tree_fills_the_energy_columns_and_is_never_measured() {
    // As if it were the published table's smallest model, so that all of the path to its verdict is walked.
    let work = Work::with(&[
        ("\"fp32-naive\", ", ""),
        ("[1, 2]", "[1]"),
        ("n_gen = 6", "n_gen = 250"),
        ("rounds = 2", "rounds = 2\nreproduces = \"energy-2410.16144\""),
        ("builtin = \"tiny-bitnet-b1.58\"", "builtin = \"tiny-bitnet-b1.58\"\nname = \"700M\""),
    ]);
    let root = work.0.path().join("root");
    let tree = root.join("sys/class/powercap");
    for (zone, name) in [("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1")] {
        let zone = tree.join(zone);
        std::fs::create_dir_all(&zone).unwrap();
        std::fs::write(zone.join("name"), name).unwrap();
        std::fs::write(zone.join("energy_uj"), "0").unwrap();
        std::fs::write(zone.join("max_energy_range_uj"), "262143328850").unwrap();
    }
    // Two packages of 50 W each, whose counters advance every millisecond or so.
    let mut command = work.command(&["--energy-root", root.to_str().unwrap()]);
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let start = std::time::Instant::now();
    let status = loop {
        for zone in ["intel-rapl:0", "intel-rapl:1"] {
            let counter = tree.join(zone).join("energy_uj");
            let next = counter.with_extension("next");
            std::fs::write(&next, (start.elapsed().as_micros() * 50).to_string()).unwrap();
            std::fs::rename(&next, &counter).unwrap();
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(status.success());
    for row in table(&work.out(), "summary.csv") {
        assert!(row["energy_provenance"].starts_with("simulated: "), "{row:?}");
        let joules: f64 = row["energy_j_per_token"].parse().unwrap();
        assert!(joules > 0.0 && joules.is_finite(), "{row:?}");
        assert!(!row["energy_j_per_token_min"].is_empty() && !row["energy_j_per_token_max"].is_empty());
    }
    // Both sockets, 100 W, idle or not; windows of 50 update periods, and what is left of it.
    let rows = table(&work.out(), "energy.csv");
    assert_eq!(rows.len(), 2 * 4);
    let mut repeated = false;
    for row in rows.iter().filter(|row| row["phase"] != "load") {
        let at = |column: &str| row[column].parse::<f64>().unwrap_or_else(|_| panic!("{column}: {row:?}"));
        assert!(row["energy_provenance"].starts_with("simulated: "), "{row:?}");
        assert!(row["energy_net_provenance"].starts_with("simulated: "), "{row:?}");
        assert!(at("energy_window_s") >= 0.05 && at("energy_j_per_token") > 0.0, "{row:?}");
        // The player of this test may be late; twice the power would be a domain counted twice.
        assert!((50.0..150.0).contains(&at("power_w")), "{row:?}");
        assert!((80.0..120.0).contains(&at("idle_power_w")), "{row:?}");
        assert!(at("energy_net_j").abs() < at("energy_j"), "{row:?}");
        assert!(at("modelled_arithmetic_7nm_j_per_token") < at("modelled_arithmetic_45nm_j_per_token"));
        repeated |= row["phase"] == "prefill" && at("energy_repetitions") > 1.0;
    }
    assert!(repeated, "{rows:?}");
    let speedups = table(&work.out(), "speedup.csv");
    assert!(!speedups.is_empty());
    for row in speedups {
        assert!(row["energy_provenance"].starts_with("simulated: "), "{row:?}");
        assert!(row["energy_ratio"].parse::<f64>().unwrap() > 0.0, "{row:?}");
        assert!(!row["energy_reduction_percent"].is_empty(), "{row:?}");
    }
    let samples = table(&work.out(), "samples.csv");
    assert!(samples.iter().any(|row| row["energy_domains"].contains("package-1=")));
    for row in samples {
        assert!(!row["energy_provenance"].starts_with("measured"), "{row:?}");
        assert_eq!(
            row["energy_j"].is_empty(),
            row["energy_provenance"].starts_with("unavailable"),
            "{row:?}"
        );
    }
    let rows = table(&work.out(), "reproduction.csv");
    let of_size = |size: &str| rows.iter().filter(|row| row["subject"] == size).collect::<Vec<_>>();
    assert_eq!(of_size("700M").len(), 2, "one published row for each of two machines: {rows:?}");
    for row in of_size("700M") {
        assert!(row["here_ratio"].parse::<f64>().unwrap() > 0.0, "{row:?}");
        assert!(row["here_provenance"].starts_with("simulated: "), "{row:?}");
        assert!(["reproduced", "exceeded", "not reached"].contains(&row["verdict"].as_str()), "{row:?}");
    }
    for row in of_size("70B") {
        assert!(row["verdict"].starts_with("not testable here"), "{row:?}");
    }
    for (name, needle) in [
        ("report.html", "Energy on this page is simulated, not measured"),
        ("report.md", "Energy on this page is simulated, not measured"),
        ("reproduction.md", "(simulated)"),
        ("plots/reproduction.svg", "SIMULATED"),
        ("plots/published.svg", "SIMULATED"),
        ("plots/energy.svg", "simulated"),
    ] {
        let text = std::fs::read_to_string(work.out().join(name)).unwrap();
        assert!(text.contains(needle), "{name}: {needle}");
    }
}

/// Fails with that code and one line that contains all of `needles`.
fn refused(args: &[&str], code: i32, needles: &[&str]) {
    let output = bitjoule().args(args).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{args:?}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{args:?}: {said}");
    for needle in needles {
        assert!(said.contains(needle), "{args:?}: '{needle}' is not in: {said}");
    }
}

#[test]
fn bad_input_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let fixture = fixture_path("tiny-bitnet-b1.58.i2_s.gguf");
    let fixture = fixture.to_str().unwrap();
    std::fs::write(at("garbage.gguf"), b"not a model at all, but long enough to be read").unwrap();
    let whole = std::fs::read(fixture).unwrap();
    std::fs::write(at("cut.gguf"), &whole[..whole.len() / 2]).unwrap();
    for model in ["garbage.gguf", "cut.gguf", "missing.gguf"] {
        let path = at(model);
        refused(&["verify", &path], 2, &[model]);
        refused(&["generate", &path, "--tokens", "1"], 2, &[model]);
        refused(&["model", "inspect", &path], 2, &[model]);
        refused(&["model", "convert", &path, "--type", "f16", "-o", &at("out.gguf")], 2, &[model]);
        assert!(!dir.path().join("out.gguf").exists());
    }
    std::fs::write(at("typo.toml"), "name = \"x\"\nkernals = [\"f16\"]\n").unwrap();
    refused(&["run", &at("typo.toml"), "--out", &at("o")], 2, &["typo.toml:2", "kernals", "kernels"]);
    assert!(!dir.path().join("o").exists());
    refused(&["run", &at("none.toml")], 2, &["none.toml"]);
    refused(&["run", "--resume", &at("nowhere")], 2, &["nowhere"]);
    refused(&["report", &at("nowhere")], 2, &["run directory"]);
    refused(&["run", "--model", &at("missing.gguf"), "--out", &at("o2")], 2, &["missing.gguf"]);
    refused(&["model", "synth", "6B", "-o", &at("s.gguf")], 2, &["6B", "7B"]);
    refused(&["generate", fixture, "--tokens", "1", "--kernel", "i3"], 2, &["i3", "i2_s"]);
    refused(&["generate", fixture, "--tokens", "1", "--isa", "avx9"], 2, &["avx9", "scalar"]);
    refused(&["generate", fixture, "--tokens", "320"], 2, &["320"]);
    refused(&["generate", fixture, "--tokens", "1", "-n", "5000"], 2, &["context of 256"]);
    std::fs::write(at("bad.json"), "{\"tokens\": [1]}").unwrap();
    refused(&["verify", fixture, "--golden", &at("bad.json")], 2, &["bad.json"]);
    refused(&["model", "convert", fixture, "--type", "f16", "-o", fixture], 2, &["exists"]);
    refused(&["model", "synth", "125M", "-o", "/proc/nowhere.gguf"], 2, &["/proc/nowhere.gguf"]);
}

#[test]
fn verification_decides_the_exit_code() {
    let model = fixture_path("tiny-bitnet-b1.58.i2_s.gguf");
    let golden = fixture_path("tiny-bitnet-b1.58.golden.json");
    let verify = |golden: &Path, kv: &str| {
        bitjoule().arg("verify").arg(&model).arg("--golden").arg(golden).args(["--kv", kv]).output().unwrap()
    };
    for kv in ["f32", "f16"] {
        let output = verify(&golden, kv);
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    }
    // The other model's logits are not this model's.
    let other = verify(&fixture_path("tiny-bitnet.golden.json"), "f32");
    assert_eq!(other.status.code(), Some(1), "{}", stdout(&other));
    assert!(stdout(&other).contains("FAIL"));
    let exact = bitjoule().arg("verify").arg(&model).output().unwrap();
    assert_eq!(exact.status.code(), Some(0), "{}", stdout(&exact));
}

#[test]
fn conversions_agree_with_the_other_implementations() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let convert = |from: &Path, ty: &str, to: &Path| {
        let output = bitjoule()
            .args(["model", "convert"])
            .arg(from)
            .args(["--type", ty, "-o"])
            .arg(to)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };
    let i2s = fixture_path("tiny-bitnet-b1.58.i2_s.gguf");
    convert(&i2s, "f16", &at("f16.gguf"));
    convert(&at("f16.gguf"), "i2_s", &at("i2_s.gguf"));
    convert(&at("f16.gguf"), "f32", &at("f32.gguf"));
    convert(&at("f32.gguf"), "i2_s", &at("again.gguf"));
    let open = |p: &Path| bitjoule::gguf::Gguf::open(p).unwrap();
    // gguf-py's F16 file, bit by bit.
    let (ours, theirs) = (open(&at("f16.gguf")), common::fixture_gz("tiny-bitnet-b1.58.f16"));
    assert_eq!(ours.tensors().len(), theirs.tensors().len());
    for tensor in theirs.tensors() {
        let own = ours.tensor(&tensor.name).unwrap();
        assert_eq!(own.ty, tensor.ty, "{}", tensor.name);
        assert!(ours.data(own) == theirs.data(tensor), "{}", tensor.name);
    }
    // bitnet.cpp's I2_S file: codes and scale of every linear layer.
    let theirs = open(&i2s);
    for path in [at("i2_s.gguf"), at("again.gguf")] {
        let ours = open(&path);
        for tensor in theirs.tensors() {
            let own = ours.tensor(&tensor.name).unwrap();
            if tensor.ty == bitjoule::gguf::TensorType::I2S {
                let used = (tensor.elements() / 4 + 4) as usize;
                assert!(ours.data(own)[..used] == theirs.data(tensor)[..used], "{}", tensor.name);
            }
        }
    }
}
