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
