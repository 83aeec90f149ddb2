//! Suites: TOML files that say what to measure, and the messages that mend a wrong one.
//!
//! The format is documented in `suites/README.md`.

mod parse;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::published::Target;
use crate::units::Bytes;
use crate::{Error, Result};

pub use parse::{AGAINST, BUILTINS, EMBEDDINGS, ISAS, KERNELS, KV_TYPES, synth_sizes};

/// The suite that `bitjoule run` measures without an argument.
const QUICK: &str = include_str!("../../suites/quick.toml");

/// The suites of the published tables, whole and quick.
const PUBLISHED: [(Target, &str, &str); 4] = [
    (
        Target::Speed,
        include_str!("../../suites/published/speed-2410.16144.toml"),
        include_str!("../../suites/published/speed-2410.16144-quick.toml"),
    ),
    (
        Target::Energy,
        include_str!("../../suites/published/energy-2410.16144.toml"),
        include_str!("../../suites/published/energy-2410.16144-quick.toml"),
    ),
    (
        Target::Efficiency,
        include_str!("../../suites/published/efficiency-2504.12285.toml"),
        include_str!("../../suites/published/efficiency-2504.12285-quick.toml"),
    ),
    (
        Target::Kernels,
        include_str!("../../suites/published/kernels-2026-01.toml"),
        include_str!("../../suites/published/kernels-2026-01-quick.toml"),
    ),
];

/// A suite file larger than this is not one.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What to measure: every model with its kernels, at every thread count and workload, in rounds.
///
/// [`Suite::parse`] is the way in: serde alone checks types, not names and limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Short name, part of the name of the run directory: letters, digits, `.`, `_`, `-`, `+`.
    pub name: String,
    /// What it is for, in a sentence; may be empty.
    pub description: String,
    /// Rounds; each measures every case once.
    pub rounds: u32,
    /// Seed of the order of cases and of the prompts; at most `i64::MAX`, which is as far as TOML goes.
    pub seed: u64,
    /// Element type of the KV cache, one of [`KV_TYPES`].
    pub kv: String,
    /// Seconds after which a visit of one case is killed.
    pub timeout_s: u32,
    /// Memory that the worker of a case may use; none: whatever the machine has.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "exact_bytes")]
    pub memory_limit: Option<Bytes>,
    /// The published table that the suite reproduces, one of [`crate::published::Target`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproduces: Option<String>,
    /// The baseline that its ratios divide by, one of [`AGAINST`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// Kernels of the models that do not name their own, each one of [`KERNELS`].
    pub kernels: Vec<String>,
    /// Instruction sets, each one of [`ISAS`].
    pub isas: Vec<String>,
    /// Worker threads.
    pub threads: Vec<Threads>,
    /// Models.
    pub models: Vec<Model>,
    /// Workloads.
    pub workloads: Vec<Workload>,
}

/// `512 MiB`, as suites have it.
mod exact_bytes {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use crate::units::Bytes;

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_str(&bytes.exact()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Bytes::parse(&text)
            .map(Some)
            .ok_or_else(|| D::Error::custom("expected an amount such as \"512 MiB\""))
    }
}

/// A number of worker threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Threads {
    /// So many.
    Count(u32),
    /// As many as this process may use cores; `"all"` in TOML.
    #[serde(with = "all")]
    All,
}

/// The module `$word`, which makes an untagged unit variant that word; it would be nothing at all.
macro_rules! word {
    ($word:ident) => {
        mod $word {
            use serde::de::{Deserialize, Deserializer, Error};
            use serde::ser::Serializer;

            pub(super) fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(stringify!($word))
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
                match String::deserialize(deserializer)?.as_str() {
                    stringify!($word) => Ok(()),
                    _ => Err(D::Error::custom(concat!("expected a number or \"", stringify!($word), "\""))),
                }
            }
        }
    };
}

word!(all);
word!(auto);

/// A model of a suite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Where it comes from.
    #[serde(flatten)]
    pub source: ModelSource,
    /// Label in tables, instead of the one that follows from the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Kernels to measure it with, instead of the suite's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Vec<String>>,
    /// Instruction sets to measure it with, instead of the suite's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isas: Option<Vec<String>>,
    /// Type of its embedding and output projection, one of [`EMBEDDINGS`]; none: as in the file, f16 in
    /// synthetic models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<String>,
    /// Layers whose weights are stored, of a synthetic model; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_layers: Option<UniqueLayers>,
}

/// How many layers of a synthetic model are stored; the others share their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UniqueLayers {
    /// So many.
    Count(u32),
    /// All if that fits into memory, else what fits into half of it; `"auto"` in TOML.
    #[serde(with = "auto")]
    Auto,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// A model that is part of bitjoule, one of [`BUILTINS`].
    Builtin(String),
    /// Random ternary weights in the geometry of this size, one of [`synth_sizes`].
    Synth(String),
    /// A GGUF file; an absolute path after parsing.
    File(PathBuf),
}

impl ModelSource {
    /// The label a model has without a name of its own: the builtin's name, the size, or the file's
    /// name without `.gguf`.
    pub fn label(&self) -> String {
        match self {
            ModelSource::Builtin(name) | ModelSource::Synth(name) => name.clone(),
            ModelSource::File(path) => {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                file.strip_suffix(".gguf").unwrap_or(&file).to_owned()
            }
        }
    }
}

impl Model {
    /// The label in tables: unique within the suite. A type of embedding that the suite names is part of
    /// it, because the same model with another one is another case: `700M-q6_k`.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.default_label())
    }

    /// The label without a name of its own.
    pub fn default_label(&self) -> String {
        match &self.embedding {
            Some(embedding) => format!("{}-{embedding}", self.source.label()),
            None => self.source.label(),
        }
    }
}

/// How much each case computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Prompt tokens, at least 1.
    pub n_prompt: u32,
    /// Tokens generated, at least 2: the first comes from the prefill, the others are decode steps.
    pub n_gen: u32,
    /// Labels of the only models that it is for; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// The only instruction sets that it is for, by the names that cases have (never `auto`); none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isas: Option<Vec<String>>,
}

impl Workload {
    /// Whether a model is measured with it in an instruction set.
    pub fn is_for(&self, model: &str, isa: &str) -> bool {
        let named =
            |list: &Option<Vec<String>>, name| list.as_ref().is_none_or(|l| l.iter().any(|n| n == name));
        named(&self.models, model) && named(&self.isas, isa)
    }
}

impl Suite {
    /// Reads a suite from `text`. Messages call the text `origin`; model files are relative to the
    /// folder `base` and become absolute paths (whether they exist is found out by opening them).
    ///
    /// # Errors
    /// [`Error::Input`] with the line and, for a misspelt name, the nearest valid one.
    pub fn parse(text: &str, origin: &str, base: &Path) -> Result<Suite> {
        parse::parse(text, origin, base)
    }

    /// Reads the suite file at `path`.
    ///
    /// # Errors
    /// As [`Suite::parse`], and those of reading the file.
    pub fn load(path: &Path) -> Result<Suite> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
            .map_err(|e| Error::io("read suite", path, &e))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(Error::input(format!(
                "{}: larger than {MAX_FILE_BYTES} bytes, so this is not a suite",
                path.display()
            )));
        }
        let base = path.parent().unwrap_or(Path::new(""));
        Suite::parse(&text, &path.display().to_string(), base)
    }

    /// The suite built into the binary, `suites/quick.toml`: small models, under two minutes.
    ///
    /// # Errors
    /// None in a released binary: a test parses the file.
    pub fn quick() -> Result<Suite> {
        Suite::parse(QUICK, "suites/quick.toml", Path::new(""))
    }

    /// The suite that reproduces a published table, or the part of it that takes minutes.
    ///
    /// # Errors
    /// None in a released binary: a test parses the files.
    pub fn published(target: Target, quick: bool) -> Result<Suite> {
        let (_, whole, short) =
            PUBLISHED.iter().find(|(t, ..)| *t == target).expect("every table has suites");
        Suite::parse(if quick { short } else { whole }, target.name(), Path::new(""))
    }

    /// The suite as TOML, everything resolved and every default written out; [`Suite::parse`] reads
    /// it back as the same suite from any folder.
    ///
    /// # Errors
    /// [`Error::Input`] if a path is not UTF-8, which no parsed suite has.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::input(format!("cannot write the suite as TOML: {e}")))
    }

    /// The kernels to measure `model` with.
    pub fn kernels_of<'a>(&'a self, model: &'a Model) -> &'a [String] {
        model.kernels.as_deref().unwrap_or(&self.kernels)
    }

    /// The instruction sets to measure `model` with.
    pub fn isas_of<'a>(&'a self, model: &'a Model) -> &'a [String] {
        model.isas.as_deref().unwrap_or(&self.isas)
    }

    /// The thread counts in the suite's order, `"all"` being `all` threads, each once.
    pub fn thread_counts(&self, all: u32) -> Vec<u32> {
        let mut counts = Vec::new();
        for threads in &self.threads {
            let count = match threads {
                Threads::Count(count) => *count,
                Threads::All => all,
            };
            if !counts.contains(&count) {
                counts.push(count);
            }
        }
        counts
    }
}
