//! From TOML text to a [`Suite`], with a line number in every message.
//!
//! The document is walked by hand over toml's spanned values: serde's derived errors carry neither
//! the nearest valid key nor the line of a value that is out of range.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Model, ModelSource, Suite, Threads, UniqueLayers, Workload};
use crate::model::Geometry;
use crate::published::Target;
use crate::units::Bytes;
use crate::{Error, Result};

/// Kernel names.
pub const KERNELS: &[&str] =
    &["fp32-naive", "f16", "i2_s", "tl1", "tl2", "tl2-lossy", "tq1_0", "tq2_0", "native"];
/// Instruction set names; `auto` is the best that this machine and the kernel have.
pub const ISAS: &[&str] = &["auto", "scalar", "avx2", "avx512-vnni", "avx512-vbmi", "neon", "neon-dotprod"];
/// Element types of the KV cache.
pub const KV_TYPES: &[&str] = &["f16", "f32"];
/// Types of embedding and output projection.
pub const EMBEDDINGS: &[&str] = &["f16", "q8_0", "q6_k"];
/// Names of the models that are part of bitjoule.
pub const BUILTINS: &[&str] = &["tiny-bitnet-b1.58"];

/// The sizes that can be synthesised: the first column of the geometries.
pub fn synth_sizes() -> impl Iterator<Item = &'static str> {
    Geometry::all().iter().map(|geometry| geometry.model.as_str())
}

/// What published ratios are held against: our kernels, or an engine that bitjoule does not run.
pub const AGAINST: &[&str] = &["f16", "fp32-naive", "llama.cpp-f16"];

const ROUNDS: RangeInclusive<u64> = 1..=10_000;
const SEED: RangeInclusive<u64> = 0..=i64::MAX as u64;
const TIMEOUT_S: RangeInclusive<u64> = 1..=86_400;
const MEMORY_LIMIT: RangeInclusive<Bytes> = Bytes(1 << 20)..=Bytes(1 << 50);
const THREADS: RangeInclusive<u64> = 1..=1_024;
const N_PROMPT: RangeInclusive<u64> = 1..=131_072;
const N_GEN: RangeInclusive<u64> = 2..=131_072;
/// A plan is held in memory and its header is one line of the journal.
const MAX_CASES: usize = 10_000;
const MAX_NAME_CHARS: usize = 64;

const SUITE_KEYS: &[&str] = &[
    "name",
    "description",
    "rounds",
    "seed",
    "kv",
    "timeout_s",
    "memory_limit",
    "reproduces",
    "against",
    "kernels",
    "isas",
    "threads",
    "models",
    "workloads",
];
const MODEL_KEYS: &[&str] =
    &["builtin", "synth", "file", "name", "kernels", "isas", "embedding", "unique_layers"];
const WORKLOAD_KEYS: &[&str] = &["n_prompt", "n_gen", "models", "isas"];

type Value<'i> = Spanned<DeValue<'i>>;

pub(super) fn parse(text: &str, origin: &str, base: &Path) -> Result<Suite> {
    let source = Source { text, origin };
    let document = DeTable::parse(text).map_err(|e| {
        // Some messages of the parser span several lines; ours are one.
        let message = e.message().trim().replace('\n', ", ");
        match e.span() {
            Some(span) => source.error(span, message),
            None => Error::input(format!("{origin}: {message}")),
        }
    })?;
    let root = Table { source: &source, table: document.get_ref(), place: "", span: None };
    root.only(SUITE_KEYS)?;

    let mut suite = Suite {
        name: root.name(root.required("name")?, "name")?,
        description: match root.get("description") {
            Some(value) => root.string(value, "description")?.to_owned(),
            None => String::new(),
        },
        rounds: root.integer_or("rounds", ROUNDS, 3)? as u32,
        seed: root.integer_or("seed", SEED, 1)?,
        kv: match root.get("kv") {
            Some(value) => root.one_of(value, "kv", "KV cache type", KV_TYPES)?,
            None => "f16".to_owned(),
        },
        timeout_s: root.integer_or("timeout_s", TIMEOUT_S, 600)? as u32,
        memory_limit: root.get("memory_limit").map(|value| root.memory_limit(value)).transpose()?,
        reproduces: root
            .get("reproduces")
            .map(|value| {
                let names = Target::ALL.map(Target::name);
                root.one_of(value, "reproduces", "published table", &names)
            })
            .transpose()?,
        against: root
            .get("against")
            .map(|value| root.one_of(value, "against", "baseline", AGAINST))
            .transpose()?,
        kernels: root.names(root.required("kernels")?, "kernels", "kernel", KERNELS)?,
        isas: match root.get("isas") {
            Some(value) => root.names(value, "isas", "instruction set", ISAS)?,
            None => vec!["auto".to_owned()],
        },
        threads: root.list(root.required("threads")?, "threads", |value| root.threads(value))?,
        models: models(&root, base)?,
        workloads: Vec::new(),
    };
    let labels: Vec<String> = suite.models.iter().map(Model::label).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    suite.workloads = root.list(root.required("workloads")?, "workloads", |value| {
        let table = root.table(value, "workloads")?;
        table.only(WORKLOAD_KEYS)?;
        Ok(Workload {
            n_prompt: table.integer(table.required("n_prompt")?, "n_prompt", N_PROMPT)? as u32,
            n_gen: table.integer(table.required("n_gen")?, "n_gen", N_GEN)? as u32,
            models: table.optional_names("models", "model of this suite", &labels)?,
            // What `auto` comes to is not known here; every other name is.
            isas: table.optional_names("isas", "instruction set", &ISAS[1..])?,
        })
    })?;

    let kernels: usize =
        suite.models.iter().map(|model| suite.kernels_of(model).len() * suite.isas_of(model).len()).sum();
    let cases = [suite.threads.len(), suite.workloads.len()]
        .iter()
        .fold(kernels, |product, &n| product.saturating_mul(n));
    if cases > MAX_CASES {
        return Err(Error::input(format!(
            "{origin}: {cases} cases (models x kernels x isas x threads x workloads); at most {MAX_CASES} are possible"
        )));
    }
    Ok(suite)
}

fn models(root: &Table<'_, '_>, base: &Path) -> Result<Vec<Model>> {
    let spanned = root
        .each(root.required("models")?, "models", |value| model(root.table(value, "models")?, value, base))?;
    let mut models: Vec<Model> = Vec::with_capacity(spanned.len());
    for (model, span) in spanned {
        // Labels name the cases, so equal ones would mix two models' samples.
        let label = model.label();
        if models.iter().any(|other| other.label() == label) {
            return Err(root.source.error(
                span,
                format!("a second model with the label '{label}'; give it another with `name = \"...\"`"),
            ));
        }
        models.push(model);
    }
    Ok(models)
}

fn model(table: Table<'_, '_>, value: &Value<'_>, base: &Path) -> Result<Model> {
    table.only(MODEL_KEYS)?;
    let sources = (table.get("builtin"), table.get("synth"), table.get("file"));
    let source = match sources {
        (Some(builtin), None, None) => {
            ModelSource::Builtin(table.one_of(builtin, "builtin", "builtin model", BUILTINS)?)
        }
        (None, Some(synth), None) => {
            let sizes: Vec<&str> = synth_sizes().collect();
            ModelSource::Synth(table.one_of(synth, "synth", "synthetic size", &sizes)?)
        }
        (None, None, Some(file)) => {
            let path = table.string(file, "file")?;
            if path.is_empty() {
                return Err(table.source.error(file.span(), "'file' is empty"));
            }
            let path = std::path::absolute(base.join(path))
                .map_err(|e| Error::environment(format!("cannot find the current directory: {e}")))?;
            if path.to_str().is_none() {
                // The resolved suite is TOML, which has no other text.
                return Err(table
                    .source
                    .error(file.span(), format!("the path {} is not UTF-8", path.display())));
            }
            ModelSource::File(path)
        }
        (None, None, None) => {
            return Err(table
                .source
                .error(value.span(), "a model needs one of the keys 'builtin', 'synth' and 'file'"));
        }
        _ => {
            return Err(table
                .source
                .error(value.span(), "a model has only one of the keys 'builtin', 'synth' and 'file'"));
        }
    };
    let name = match table.get("name") {
        Some(value) => Some(table.name(value, "name")?),
        None => None,
    };
    if name.is_none()
        && let Err(why) = check_name(&source.label())
    {
        return Err(table.source.error(
            value.span(),
            format!("the file's name makes no label ({why}); give one with `name = \"...\"`"),
        ));
    }
    let kernels = table.optional_names("kernels", "kernel", KERNELS)?;
    let isas = table.optional_names("isas", "instruction set", ISAS)?;
    let embedding = match table.get("embedding") {
        Some(value) => Some(table.one_of(value, "embedding", "embedding type", EMBEDDINGS)?),
        None => None,
    };
    let unique_layers =
        table.get("unique_layers").map(|value| unique_layers(&table, value, &source)).transpose()?;
    Ok(Model { source, name, kernels, isas, embedding, unique_layers })
}

fn unique_layers(table: &Table<'_, '_>, value: &Value<'_>, source: &ModelSource) -> Result<UniqueLayers> {
    let ModelSource::Synth(size) = source else {
        return Err(table.source.error(
            value.span(),
            "'unique_layers' is for synthetic models ('synth'): the layers of a file are what they are",
        ));
    };
    let layers = Geometry::by_name(size)?.layers;
    let wanted = || {
        table.wrong(
            value,
            "unique_layers",
            &format!("a whole number from 1 to {layers}, the layers of {size}, or \"auto\""),
        )
    };
    match value.get_ref() {
        DeValue::String(word) if word == "auto" => Ok(UniqueLayers::Auto),
        DeValue::Integer(_) => {
            let count = table.integer(value, "unique_layers", 1..=layers.into()).map_err(|_| wanted())?;
            Ok(UniqueLayers::Count(count as u32))
        }
        _ => Err(wanted()),
    }
}

/// The text and what to call it.
struct Source<'a> {
    text: &'a str,
    origin: &'a str,
}

impl Source<'_> {
    fn error(&self, span: Range<usize>, message: impl Display) -> Error {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        Error::input(format!("{}:{line}: {message}", self.origin))
    }
}

/// A table of the document and where it is.
struct Table<'a, 'i> {
    source: &'a Source<'a>,
    table: &'a DeTable<'i>,
    /// ` in [[models]]`, or nothing for the top of the file.
    place: &'static str,
    /// Where the table begins; none for the top of the file.
    span: Option<Range<usize>>,
}

impl<'a, 'i> Table<'a, 'i> {
    fn get(&self, key: &str) -> Option<&'a Value<'i>> {
        self.table.get(key)
    }

    fn required(&self, key: &str) -> Result<&'a Value<'i>> {
        self.get(key).ok_or_else(|| {
            let message = format!("the key '{key}' is missing{}", self.place);
            match &self.span {
                Some(span) => self.source.error(span.clone(), message),
                None => Error::input(format!("{}: {message}", self.source.origin)),
            }
        })
    }

    /// Refuses keys other than `known`, the first one in the file first.
    fn only(&self, known: &[&str]) -> Result<()> {
        let unknown = self
            .table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        let Some(key) = unknown else { return Ok(()) };
        let name = key.get_ref().as_ref();
        // A key written below a [[...]] header belongs to that table: the commonest mistake in TOML
        // after misspelling.
        let hint = if self.span.is_some() && SUITE_KEYS.contains(&name) {
            "; it belongs at the top of the file, above the first [[...]].".to_owned()
        } else {
            did_you_mean(name, known)
        };
        Err(self.source.error(
            key.span(),
            format!(
                "unknown key '{}'{}{hint} Known keys here: {}",
                shown(name),
                self.place,
                known.join(", ")
            ),
        ))
    }

    fn wrong(&self, value: &Value<'_>, key: &str, wanted: &str) -> Error {
        let found = match value.get_ref() {
            DeValue::String(s) => format!("the string \"{}\"", shown(s)),
            DeValue::Integer(i) => format!("the number {}", shown(i.as_str())),
            DeValue::Float(x) => format!("the number {}", shown(x.as_str())),
            DeValue::Boolean(b) => b.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.source.error(value.span(), format!("'{key}' must be {wanted}, not {found}"))
    }

    fn string<'v>(&self, value: &'v Value<'_>, key: &str) -> Result<&'v str> {
        value.get_ref().as_str().ok_or_else(|| self.wrong(value, key, "a string"))
    }

    fn integer(&self, value: &Value<'_>, key: &str, range: RangeInclusive<u64>) -> Result<u64> {
        value
            .get_ref()
            .as_integer()
            .and_then(|i| u64::from_str_radix(i.as_str(), i.radix()).ok())
            .filter(|i| range.contains(i))
            .ok_or_else(|| {
                let wanted = format!("a whole number from {} to {}", range.start(), range.end());
                self.wrong(value, key, &wanted)
            })
    }

    fn integer_or(&self, key: &str, range: RangeInclusive<u64>, default: u64) -> Result<u64> {
        self.get(key).map_or(Ok(default), |value| self.integer(value, key, range))
    }

    fn memory_limit(&self, value: &Value<'_>) -> Result<Bytes> {
        let limit = value.get_ref().as_str().and_then(Bytes::parse);
        limit.filter(|limit| MEMORY_LIMIT.contains(limit)).ok_or_else(|| {
            let wanted = format!(
                "a string of a whole number and a unit (kB, KiB, MB, MiB, GB, GiB, TiB), from {} to {}, such as \
                 \"512 MiB\"",
                MEMORY_LIMIT.start().exact(),
                MEMORY_LIMIT.end().exact()
            );
            self.wrong(value, "memory_limit", &wanted)
        })
    }

    /// A name fit for a part of a path and of a case's id.
    fn name(&self, value: &Value<'_>, key: &str) -> Result<String> {
        let name = self.string(value, key)?;
        check_name(name).map_err(|why| {
            self.source.error(value.span(), format!("'{}' is no good {key}: {why}", shown(name)))
        })?;
        Ok(name.to_owned())
    }

    fn one_of(&self, value: &Value<'_>, key: &str, what: &str, valid: &[&str]) -> Result<String> {
        let name = self.string(value, key)?;
        if valid.contains(&name) {
            return Ok(name.to_owned());
        }
        let hint = did_you_mean(name, valid);
        Err(self.source.error(
            value.span(),
            format!("unknown {what} '{}'{hint} Valid are: {}", shown(name), valid.join(", ")),
        ))
    }

    fn names(&self, value: &Value<'_>, key: &str, what: &str, valid: &[&str]) -> Result<Vec<String>> {
        self.list(value, key, |value| self.one_of(value, key, what, valid))
    }

    fn optional_names(&self, key: &str, what: &str, valid: &[&str]) -> Result<Option<Vec<String>>> {
        self.get(key).map(|value| self.names(value, key, what, valid)).transpose()
    }

    fn threads(&self, value: &Value<'_>) -> Result<Threads> {
        match value.get_ref() {
            DeValue::Integer(_) => Ok(Threads::Count(self.integer(value, "threads", THREADS)? as u32)),
            DeValue::String(s) if s == "all" => Ok(Threads::All),
            _ => {
                let wanted =
                    format!("a list of numbers from {} to {} and \"all\"", THREADS.start(), THREADS.end());
                Err(self.wrong(value, "threads", &wanted))
            }
        }
    }

    /// Every element of the list at `key`, which is not empty, and where it is.
    fn each<T>(
        &self,
        value: &'a Value<'i>,
        key: &str,
        element: impl Fn(&'a Value<'i>) -> Result<T>,
    ) -> Result<Vec<(T, Range<usize>)>> {
        let wanted = if matches!(key, "models" | "workloads") {
            format!("one or more tables [[{key}]]")
        } else {
            "a list".to_owned()
        };
        let array = value.get_ref().as_array().ok_or_else(|| self.wrong(value, key, &wanted))?;
        if array.is_empty() {
            return Err(self.source.error(value.span(), format!("'{key}' is empty")));
        }
        // Each entry is at least a case. Refused here, before the searches for duplicates, which are
        // quadratic.
        if array.len() > MAX_CASES {
            return Err(self
                .source
                .error(value.span(), format!("'{key}' has more than {MAX_CASES} entries")));
        }
        array.iter().map(|value| Ok((element(value)?, value.span()))).collect()
    }

    /// As [`Table::each`], refusing an element that is there twice.
    fn list<T: PartialEq>(
        &self,
        value: &'a Value<'i>,
        key: &str,
        element: impl Fn(&'a Value<'i>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut list = Vec::new();
        for (item, span) in self.each(value, key, element)? {
            if list.contains(&item) {
                return Err(self.source.error(span, format!("'{key}' has this entry twice")));
            }
            list.push(item);
        }
        Ok(list)
    }

    fn table(&self, value: &'a Value<'i>, key: &'static str) -> Result<Table<'a, 'i>> {
        let place = if key == "models" { " in [[models]]" } else { " in [[workloads]]" };
        match value.get_ref() {
            DeValue::Table(table) => {
                Ok(Table { source: self.source, table, place, span: Some(value.span()) })
            }
            _ => Err(self.wrong(value, key, &format!("one or more tables [[{key}]]"))),
        }
    }
}

/// Whether `name` can be a part of a path, of a case's id and of a table's cell.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("it is empty".to_owned());
    }
    if name.chars().count() > MAX_NAME_CHARS {
        return Err(format!("it has more than {MAX_NAME_CHARS} characters"));
    }
    if name.starts_with('.') || name.starts_with('-') {
        return Err("it begins with '.' or '-'".to_owned());
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-+".contains(*c))) {
        Some(c) => Err(format!("'{}' is none of letters, digits, '.', '_', '-' and '+'", c.escape_debug())),
        None => Ok(()),
    }
}

/// Ends a sentence about the unknown `name` with the valid one that was probably meant, if any is near.
fn did_you_mean(name: &str, valid: &[&str]) -> String {
    let wanted = name.to_lowercase();
    let likeness = |valid: &str| {
        let valid = valid.to_lowercase();
        // `avx512` means `avx512-vnni`, although fewer letters make it `avx2`.
        if wanted.len() > 1 && valid.starts_with(&wanted) {
            return 1.0;
        }
        strsim::normalized_damerau_levenshtein(&wanted, &valid)
    };
    // Comparing a megabyte with anything is slow and finds nothing.
    let candidates = if name.len() > MAX_NAME_CHARS { &[] } else { valid };
    candidates
        .iter()
        .rev() // of equals the first
        .map(|valid| (likeness(valid), valid))
        .filter(|(likeness, _)| *likeness >= 0.4)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(|| ".".to_owned(), |(_, near)| format!("; did you mean '{near}'?"))
}

/// `text` from the file, fit for one line of a terminal.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_NAME_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_NAME_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}
