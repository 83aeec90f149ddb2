//! What several integration tests need: the fixtures.

#![allow(dead_code, reason = "each test uses a part")]

use std::io::Read;
use std::path::PathBuf;

use bitjoule::gguf::Gguf;
use serde::Deserialize;

/// Token ids and the logits of every position, as transformers computed them in float64.
#[derive(Debug, Deserialize)]
pub(crate) struct Golden {
    pub(crate) tokens: Vec<u32>,
    pub(crate) logits: Vec<Vec<f64>>,
}

impl Golden {
    pub(crate) fn load(name: &str) -> Golden {
        let path = fixture_path(&format!("{name}.golden.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

pub(crate) fn fixture_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub(crate) fn fixture(name: &str) -> Gguf {
    Gguf::open(&fixture_path(&format!("{name}.gguf"))).unwrap()
}

/// The bytes of a compressed fixture.
pub(crate) fn gunzip(name: &str) -> Vec<u8> {
    let file = std::fs::File::open(fixture_path(&format!("{name}.gguf.gz"))).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) fn fixture_gz(name: &str) -> Gguf {
    Gguf::from_bytes(gunzip(name), name).unwrap()
}

/// A directory with a small suite over the built-in model, and the command that runs it.
pub(crate) struct Work(pub(crate) tempfile::TempDir);

const SUITE: &str = r#"
name = "small"
description = "the built-in model"
rounds = 2
kernels = ["fp32-naive", "f16", "i2_s"]
threads = [1, 2]
[[models]]
builtin = "tiny-bitnet-b1.58"
[[workloads]]
n_prompt = 4
n_gen = 6
"#;

impl Work {
    pub(crate) fn new() -> Self {
        let work = Work(tempfile::tempdir().unwrap());
        std::fs::write(work.suite(), SUITE).unwrap();
        work
    }

    /// With parts of the suite replaced.
    pub(crate) fn with(changes: &[(&str, &str)]) -> Self {
        let text = changes.iter().fold(SUITE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        let work = Work::new();
        std::fs::write(work.suite(), text).unwrap();
        work
    }

    pub(crate) fn suite(&self) -> PathBuf {
        self.0.path().join("suite.toml")
    }

    /// The run directory.
    pub(crate) fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    /// The command `bitjoule run suite --out out`, with more arguments.
    pub(crate) fn command(&self, more: &[&str]) -> std::process::Command {
        let mut command = bitjoule();
        command.arg("run").arg(self.suite()).arg("--out").arg(self.out()).args(more);
        command
    }

    pub(crate) fn run(&self, more: &[&str]) -> std::process::Output {
        self.command(more).output().unwrap()
    }
}

pub(crate) fn bitjoule() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bitjoule"));
    // Not the user's: what a test does must not depend on what is there.
    command.env("BITJOULE_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    command
}

pub(crate) fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn stdout(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
