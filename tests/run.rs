//! Runs from end to end: kills and resumption, added models, bad input, exit codes.

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use bitjoule::journal::{Phase, Record, Work as Done, file};
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
    let work = Work::new();
    let suite = work.0.path().join("suite.toml");
    let text = std::fs::read_to_string(&suite).unwrap().replace("rounds = 2", "rounds = 12");
    std::fs::write(&suite, text).unwrap();
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
