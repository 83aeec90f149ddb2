//! Disks that are full or cannot be written: one clear message, nothing half-written, nothing lost.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bitjoule::journal::{Record, file};
use common::{fixture_path, stderr};

/// Runs a shell script in namespaces of its own, in which it may mount a small disk at `$DISK`. `None`, and
/// it says so, where the system allows no such namespaces.
fn with_mounts(test: &str, work: &Path, script: &str) -> Option<Output> {
    let disk = work.join("disk");
    std::fs::create_dir_all(&disk).unwrap();
    let unshare = |script: &str| {
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .env("DISK", &disk)
            .env("WORK", work)
            .env("BITJOULE", env!("CARGO_BIN_EXE_bitjoule"))
            .env("MODEL", fixture_path("tiny-bitnet-b1.58.i2_s.gguf"))
            .output()
    };
    match unshare("mount -t tmpfs -o size=4k none $DISK") {
        Ok(output) if output.status.success() => Some(unshare(script).unwrap()),
        Ok(output) => {
            println!("{test} skipped: no mount namespace: {}", stderr(&output).trim());
            None
        }
        Err(e) => {
            println!("{test} skipped: no unshare: {e}");
            None
        }
    }
}

/// All files below `dir`, relative to it.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    let mut left = vec![dir.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                all.insert(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    all
}

/// The one line that says why bitjoule ended; other lines tell the progress of a run.
#[track_caller]
fn complaint(said: &str) -> &str {
    assert!(!said.contains("panicked"), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("bitjoule: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    lines[0]
}

const SUITE: &str = r#"
name = "small"
description = "the built-in model, with a journal of some pages"
rounds = 1
kernels = ["i2_s"]
threads = [1]
[[models]]
builtin = "tiny-bitnet-b1.58"
[[workloads]]
n_prompt = 40
n_gen = 200
"#;

/// Disks of which nothing fits, then the plan, the reference, some samples, all of them, some plots.
const DISK_KIB: [u32; 6] = [4, 12, 24, 28, 64, 200];

#[test]
fn a_run_on_a_full_disk_is_resumed_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path();
    std::fs::write(work.join("suite.toml"), SUITE).unwrap();
    let sizes = DISK_KIB.map(|k| k.to_string()).join(" ");
    let script = format!(
        "for k in {sizes}; do
            mount -t tmpfs -o size=${{k}}k none $DISK
            $BITJOULE run $WORK/suite.toml --out $DISK/out >/dev/null 2>$WORK/$k.full.err
            echo $? >$WORK/$k.full.code
            cp -r $DISK/out $WORK/$k.full
            mount -o remount,size=64m none $DISK
            if [ -e $DISK/out/journal.jsonl ]; then how=\"--resume $DISK/out\"
            else how=\"$WORK/suite.toml --out $DISK/out\"; fi
            $BITJOULE run $how >/dev/null 2>$WORK/$k.end.err
            echo $? >$WORK/$k.end.code
            cp -r $DISK/out $WORK/$k.end
            umount $DISK
        done"
    );
    let Some(output) = with_mounts("a_run_on_a_full_disk_is_resumed_when_there_is_room", work, &script)
    else {
        return;
    };
    assert!(output.status.success(), "{}", stderr(&output));

    let (mut cut, mut measured) = (0, 0);
    for k in DISK_KIB {
        let text = |name: &str| std::fs::read_to_string(work.join(format!("{k}.{name}"))).unwrap();
        let (full, end) = (work.join(format!("{k}.full")), work.join(format!("{k}.end")));
        let said = text("full.err");
        assert_eq!(text("full.code").trim(), "3", "{k} KiB: {said}");
        let complaint = complaint(&said);
        assert!(complaint.contains("No space left"), "{k} KiB: {complaint}");
        assert_eq!(text("end.code").trim(), "0", "{k} KiB: {}", text("end.err"));

        let kept = match file::read(&full) {
            Ok(contents) => {
                assert!(complaint.contains("run --resume"), "{k} KiB: {complaint}");
                assert_eq!(contents.torn_bytes, 0, "{k} KiB");
                contents.records
            }
            Err(_) => Vec::new(),
        };
        let records = file::read(&end).unwrap().records;
        assert_eq!(records[..kept.len()], kept, "{k} KiB lost a record");
        let samples = |records: &[Record]| records.iter().filter(|r| matches!(r, Record::Sample(_))).count();
        assert_eq!(samples(&records), 3, "{k} KiB");
        let others = |r: &Record| matches!(r, Record::Failure(_));
        assert!(!records.iter().any(others), "{k} KiB: {records:?}");
        assert!(records.iter().any(|r| matches!(r, Record::Check(c) if c.passed)), "{k} KiB");
        match (kept.is_empty(), samples(&kept)) {
            (true, _) => assert_eq!(files(&full), BTreeSet::new(), "{k} KiB"),
            (false, 0..3) => cut += 1,
            (false, _) => measured += 1,
        }

        // What is there is whole.
        let complete = files(&end);
        for name in files(&full) {
            let shown = name.display();
            if name.starts_with(".reference") {
                assert!(name.extension().is_some_and(|e| e == "f32"), "{k} KiB: {shown}");
            } else if name.as_os_str() != file::FILE_NAME {
                assert!(complete.contains(&name), "{k} KiB: {shown}");
                let [ours, whole] = [&full, &end].map(|dir| std::fs::read(dir.join(&name)).unwrap());
                assert!(ours == whole, "{k} KiB: {shown} is not whole");
            }
        }
        assert!(complete.contains(Path::new("plots/latency.png")), "{k} KiB: {complete:?}");
    }
    assert!(
        cut > 0 && measured > 0,
        "no disk was full {} the measurements",
        if cut == 0 { "in" } else { "after" }
    );
}

#[test]
fn a_run_at_the_limit_of_file_sizes_is_resumed_without_it() {
    let work = common::Work::new();
    let more: String =
        (1..4).map(|n| format!("[[workloads]]\nn_prompt = {}\nn_gen = 200\n", 40 - n)).collect();
    std::fs::write(work.0.path().join("suite.toml"), format!("{SUITE}{more}")).unwrap();
    // 12 KiB: room for the reference, and for half of the journal.
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 24; exec \"$0\" run \"$1\" --out \"$2\""])
        .arg(env!("CARGO_BIN_EXE_bitjoule"))
        .args([work.0.path().join("suite.toml"), work.out()])
        .output()
        .unwrap();
    let said = stderr(&limited);
    assert_eq!(limited.status.code(), Some(3), "{said}");
    assert!(complaint(&said).contains("too large"), "{said}");
    let kept = file::read(&work.out()).unwrap().records;
    assert!(kept.iter().any(|r| matches!(r, Record::Sample(_))), "{said}");
    let end = common::bitjoule().args(["run", "--resume"]).arg(work.out()).output().unwrap();
    assert!(end.status.success(), "{}", stderr(&end));
    let records = file::read(&work.out()).unwrap().records;
    assert_eq!(records[..kept.len()], kept);
    assert_eq!(records.iter().filter(|r| matches!(r, Record::Sample(_))).count(), 4 * 3);
}

#[test]
fn a_model_on_a_full_disk_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m none $DISK
        $BITJOULE model synth 125M -o $DISK/m.gguf 2>$WORK/synth.err; echo $? >$WORK/synth.code
        ls -A $DISK >$WORK/synth.left
        $BITJOULE model convert $MODEL --type f32 -o $DISK/m.gguf 2>$WORK/convert.err; echo $? >$WORK/convert.code
        ls -A $DISK >$WORK/convert.left
        echo before >$DISK/m.gguf
        $BITJOULE model convert $MODEL --type i2_s --force -o $DISK/m.gguf 2>$WORK/force.err; echo $? >$WORK/force.code
        cat $DISK/* $DISK/.[!.]* >$WORK/force.left 2>/dev/null
        true";
    if with_mounts("a_model_on_a_full_disk_leaves_nothing", dir.path(), script).is_none() {
        return;
    }
    for (command, left) in [("synth", ""), ("convert", ""), ("force", "before\n")] {
        let text =
            |what: &str| std::fs::read_to_string(dir.path().join(format!("{command}.{what}"))).unwrap();
        let said = text("err");
        assert_eq!(text("code").trim(), "3", "{command}: {said}");
        assert_eq!(said.lines().count(), 1, "{command}: {said}");
        assert!(complaint(&said).contains("m.gguf: No space left"), "{command}: {said}");
        assert!(!said.contains("partial"), "{command}: {said}");
        assert_eq!(text("left"), left, "{command}");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path();
    std::fs::write(work.join("suite.toml"), SUITE).unwrap();
    let run = |out: &Path| {
        common::bitjoule().arg("run").arg(work.join("suite.toml")).arg("--out").arg(out).output().unwrap()
    };
    let refused = |output: &Output, code: i32, path: &Path| {
        let said = stderr(output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(complaint(&said).contains(path.to_str().unwrap()), "{said}");
    };
    // Below a file, and where directories cannot be made: a wrong path, whoever asks.
    refused(&run(&work.join("suite.toml/out")), 2, &work.join("suite.toml"));
    refused(&run(Path::new("/proc/nowhere/out")), 2, Path::new("/proc/nowhere"));

    // A file system that is mounted read-only stops root too.
    let script = "mount -t tmpfs -o ro none $DISK; exec $BITJOULE run $WORK/suite.toml --out $DISK/out";
    if let Some(output) = with_mounts("read-only file system", work, script) {
        refused(&output, 3, &work.join("disk/out"));
    }

    use std::os::unix::fs::PermissionsExt;
    let locked = work.join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::create_dir(locked.join("probe")).is_ok() {
        println!("read-only directory skipped: this user (root?) may write to it all the same");
        return;
    }
    refused(&run(&locked.join("out")), 3, &locked.join("out"));
    refused(&run(&locked.join("new/out")), 3, &locked.join("new"));
}
