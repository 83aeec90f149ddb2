//! What a suite comes to on this machine: cases, model files, and the order of each round.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bitjoule_kernels::{Isa, Kernel};

use crate::backend::protocol::ModelFile;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::journal::{BLOCK_SCHEMA, Case, ENERGY_SCHEMA, PEAK_SCHEMA, TiedLayers};
use crate::model::{
    BUILTIN_GGUF, BUILTIN_NAME, Config, EmbeddingType, Geometry, SYNTH_SEED, WeightType, file_hash, synth,
};
use crate::suite::{Model, ModelSource, Suite, UniqueLayers};

/// Changes when the bytes of synthetic models do, so that old ones in the cache are not used.
const SYNTH_VERSION: u32 = 1;

/// The cases of `suite`, `all_threads` being what `"all"` means. A kernel is paired with the instruction
/// sets it has code for: `fp32-naive` runs once, as `scalar`, whatever the suite names. An instruction
/// set that this CPU lacks is a case all the same, which its worker skips with the reason.
///
/// # Errors
/// If a name is unknown, or a model's kernel has no code for any of the instruction sets it is to run in.
pub(super) fn cases(suite: &Suite, all_threads: u32) -> Result<Vec<Case>> {
    let mut cases = Vec::<Case>::new();
    for model in &suite.models {
        let tied = tied(model)?;
        for kernel_name in suite.kernels_of(model) {
            let kernel = Kernel::by_name(kernel_name)
                .ok_or_else(|| Error::input(format!("there is no kernel '{kernel_name}'")))?;
            let mut has_code = false;
            for isa in suite.isas_of(model) {
                let isa = match (kernel, isa.as_str()) {
                    (Kernel::Fp32Naive, _) => Isa::SCALAR.name(),
                    (_, "auto") => kernel.isas().last().map_or("scalar", |i| i.name()),
                    (_, named) if Isa::by_name(named).is_ok_and(|isa| !kernel.isas().contains(&isa)) => {
                        continue;
                    }
                    (_, named) => named,
                };
                has_code = true;
                let label = model.label();
                for threads in suite.thread_counts(all_threads) {
                    for workload in suite.workloads.iter().filter(|w| w.is_for(&label, isa)) {
                        let (n_prompt, n_gen) = (workload.n_prompt, workload.n_gen);
                        let label = label.clone();
                        let mut id = format!("native/{label}/{kernel}/{isa}/t{threads}/p{n_prompt}/g{n_gen}");
                        if let Some(tied) = &tied {
                            // Never taken for a case of the full model.
                            let _ = write!(id, "/tied{}", tied.unique_layers);
                        }
                        if cases.iter().any(|c| c.id == id) {
                            continue;
                        }
                        cases.push(Case {
                            id,
                            backend: "native".to_owned(),
                            model: label,
                            kernel: kernel_name.clone(),
                            isa: isa.to_owned(),
                            threads,
                            n_prompt,
                            n_gen,
                            kv: suite.kv.clone(),
                            embedding: model.embedding.clone(),
                            tied: tied.clone(),
                        });
                    }
                }
            }
            if !has_code {
                return Err(Error::input(format!(
                    "model '{}': kernel '{kernel}' has no code for {}; add one of its instruction sets ({}) to \
                     'isas', or take it from 'kernels'",
                    model.label(),
                    suite.isas_of(model).join(", "),
                    kernel.isas().iter().map(|i| i.name()).collect::<Vec<_>>().join(", ")
                )));
            }
        }
    }
    if cases.is_empty() {
        return Err(Error::input(format!(
            "suite '{}' has no case: no workload is for its models and instruction sets",
            suite.name
        )));
    }
    Ok(cases)
}

/// Which layers of `model` share weights, if that is decided: see [`super::tied`].
fn tied(model: &Model) -> Result<Option<TiedLayers>> {
    let (ModelSource::Synth(size), Some(UniqueLayers::Count(unique_layers))) =
        (&model.source, model.unique_layers)
    else {
        return Ok(None);
    };
    let layers = Geometry::by_name(size)?.layers;
    let full_model = model.default_label();
    Ok((unique_layers < layers).then_some(TiedLayers { unique_layers, layers, full_model }))
}

/// A model of the plan.
#[derive(Debug, Clone)]
pub(super) struct PlannedModel {
    /// Its label in the cases.
    pub(super) label: String,
    /// Where workers find it.
    pub(super) file: ModelFile,
    /// BLAKE3 of the file, hexadecimal.
    pub(super) blake3: String,
    /// Weights of the linear layers that a decode step multiplies.
    pub(super) linear_weights: u64,
    /// Those of them that are stored: fewer where layers are tied.
    pub(super) stored_weights: u64,
    /// Weights of the output projection.
    pub(super) head_weights: u64,
}

/// The models of `suite`, all of them existing and readable; synthetic ones are made in the cache
/// directory if they are not there yet, and `progress` is told before.
///
/// # Errors
/// If a file is no model that the engine runs, or one cannot be made.
pub(super) fn models(
    suite: &Suite,
    cache: &Path,
    mut progress: impl FnMut(&str),
) -> Result<Vec<PlannedModel>> {
    // What is wrong with a file is said before minutes go into making models.
    for model in &suite.models {
        if let ModelSource::File(path) = &model.source {
            Config::from_gguf(&Gguf::open(path)?)?;
        }
    }
    suite
        .models
        .iter()
        .map(|model| {
            let label = model.label();
            let (file, gguf) = match &model.source {
                ModelSource::Builtin(_) => {
                    (ModelFile::Builtin, Gguf::from_static(BUILTIN_GGUF, BUILTIN_NAME)?)
                }
                ModelSource::File(path) => (ModelFile::Path(path.clone()), Gguf::open(path)?),
                ModelSource::Synth(size) => {
                    let embedding = model.embedding.as_deref().map(EmbeddingType::by_name).transpose()?;
                    let unique_layers = tied(model)?.map(|tied| tied.unique_layers);
                    let path = cached(size, embedding, unique_layers, cache, &mut progress)?;
                    let gguf = Gguf::open(&path)?;
                    (ModelFile::Path(path), gguf)
                }
            };
            let config = Config::from_gguf(&gguf)?;
            let (hidden, ffn, heads) =
                (config.hidden as u64, config.ffn as u64, (config.heads * config.head_dim) as u64);
            let kv = (config.kv_heads * config.head_dim) as u64;
            let of_layer = 2 * hidden * heads + 2 * hidden * kv + 3 * hidden * ffn;
            let blake3 = match &file {
                ModelFile::Builtin => blake3::hash(BUILTIN_GGUF).to_string(),
                ModelFile::Path(path) => file_hash(path)?,
            };
            Ok(PlannedModel {
                label,
                file,
                blake3,
                linear_weights: config.layers as u64 * of_layer,
                stored_weights: config.unique_layers as u64 * of_layer,
                head_weights: config.vocab as u64 * hidden,
            })
        })
        .collect()
}

pub(super) fn cached(
    size: &str,
    embedding: Option<EmbeddingType>,
    unique_layers: Option<u32>,
    cache: &Path,
    progress: &mut impl FnMut(&str),
) -> Result<PathBuf> {
    let geometry = Geometry::by_name(size)?;
    // f16 is what they have anyway.
    let embedding = embedding.filter(|e| *e != EmbeddingType::F16);
    let mut suffix = embedding.map_or_else(String::new, |e| format!(".{}", e.name()));
    if let Some(unique_layers) = unique_layers {
        let _ = write!(suffix, ".tied{unique_layers}");
    }
    let ty = geometry.smallest_type()?;
    let extension = if ty == WeightType::I2S { "i2_s" } else { "f16" };
    let path = cache.join(format!("synth-v{SYNTH_VERSION}-{size}-seed{SYNTH_SEED}{suffix}.{extension}.gguf"));
    if !path.exists() {
        std::fs::create_dir_all(cache).map_err(|e| Error::io("create", cache, &e))?;
        progress(&format!("making synthetic model {size}{suffix} in {}", cache.display()));
        synth(geometry, unique_layers, ty, embedding, SYNTH_SEED, &path, true)?;
    }
    Ok(path)
}

/// Where synthetic models are kept: `$BITJOULE_CACHE`, else `bitjoule` in `$XDG_CACHE_HOME` or
/// `~/.cache`, else in the system's temporary directory.
pub(super) fn cache_dir() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("BITJOULE_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|d| d.join("bitjoule")))
        .or_else(|| var("HOME").map(|d| d.join(".cache/bitjoule")))
        .unwrap_or_else(|| std::env::temp_dir().join("bitjoule-cache"))
}

/// What is done in a round, in the order of the round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Task {
    /// A case, by its index.
    Case(usize),
    /// The energy of the idle machine.
    Idle,
    /// What the instruments cost.
    Overhead,
    /// The bandwidth of so many threads.
    Bandwidth(u32),
    /// The peak of multiply-accumulates of so many threads in an instruction set.
    Peak {
        /// Its name.
        isa: String,
        /// How many.
        threads: u32,
    },
}

/// The tasks of `round`, shuffled (Fisher-Yates, SplitMix64 from the seed and the round): the same order
/// in every session of the run. Cases whose rates are divided by each other (of one model, full or tied, with
/// the same threads, workload and KV type) are visited one behind the other, in shuffled order too, for how fast
/// a shared machine is may change from one minute to the next. The idle machine comes first.
///
/// A run of a schema before [`PEAK_SCHEMA`] has no compute peaks, one before [`ENERGY_SCHEMA`] neither idle machine
/// nor cost, one before [`BLOCK_SCHEMA`] shuffles cases one by one.
pub(super) fn order(schema: u32, cases: &[Case], seed: u64, round: u32) -> Vec<Task> {
    let mut threads: Vec<u32> = cases.iter().map(|c| c.threads).collect();
    threads.sort_unstable();
    threads.dedup();
    let mut blocks: Vec<Vec<Task>> = threads.into_iter().map(|n| vec![Task::Bandwidth(n)]).collect();
    if schema >= PEAK_SCHEMA {
        let mut peaks: Vec<(&str, u32)> = cases.iter().map(|c| (c.isa.as_str(), c.threads)).collect();
        peaks.sort_unstable();
        peaks.dedup();
        let peak = |(isa, threads): (&str, u32)| vec![Task::Peak { isa: isa.to_owned(), threads }];
        blocks.extend(peaks.into_iter().map(peak));
    }
    if schema >= ENERGY_SCHEMA {
        blocks.push(vec![Task::Overhead]);
    }
    let of_probes = blocks.len();
    for (i, case) in cases.iter().enumerate() {
        let divided = |block: &&mut Vec<Task>| match block[0] {
            Task::Case(first) => schema >= BLOCK_SCHEMA && comparable(&cases[first], case),
            _ => false,
        };
        match blocks[of_probes..].iter_mut().find(divided) {
            Some(block) => block.push(Task::Case(i)),
            None => blocks.push(vec![Task::Case(i)]),
        }
    }
    let mut state = seed ^ u64::from(round).wrapping_mul(0xd134_2543_de82_ef95);
    shuffle(&mut blocks, &mut state);
    for block in &mut blocks {
        shuffle(block, &mut state);
    }
    let mut tasks: Vec<Task> = blocks.into_iter().flatten().collect();
    // The machine is idle between the rounds.
    if schema >= ENERGY_SCHEMA {
        tasks.insert(0, Task::Idle);
    }
    tasks
}

/// Whether rates of two cases are divided by each other.
fn comparable(a: &Case, b: &Case) -> bool {
    fn full(case: &Case) -> &str {
        case.tied.as_ref().map_or(&case.model, |tied| &tied.full_model)
    }
    full(a) == full(b) && a.same_work(b)
}

fn shuffle<T>(items: &mut [T], state: &mut u64) {
    for i in (1..items.len()).rev() {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        items.swap(i, ((z ^ (z >> 31)) % (i as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::SCHEMA;
    use crate::run::estimate::Estimate;

    #[test]
    fn the_quick_suite_makes_its_cases_once() {
        let suite = Suite::quick().unwrap();
        let all = cases(&suite, 2).unwrap();
        assert_eq!(all.len(), 3 * 3 * 2);
        // On one core, "all" is 1 and says nothing new.
        assert_eq!(cases(&suite, 1).unwrap().len(), 3 * 3);
        assert!(all.iter().filter(|c| c.kernel == "fp32-naive").all(|c| c.isa == "scalar"));
        assert_eq!(all[0].id, "native/tiny-bitnet-b1.58/fp32-naive/scalar/t1/p16/g16");
    }

    #[test]
    fn models_and_workloads_narrow_the_cases() {
        let suite = |isas: &str| {
            let text = format!(
                "name = \"x\"\nkernels = [\"fp32-naive\", \"i2_s\"]\nisas = [\"scalar\", \"avx2\"]\nthreads = [1]\n\
                 [[models]]\nsynth = \"125M\"\n[[models]]\nsynth = \"350M\"\nkernels = [\"i2_s\"]\nisas = [{isas}]\n\
                 [[workloads]]\nn_prompt = 1\nn_gen = 2\n\
                 [[workloads]]\nn_prompt = 9\nn_gen = 2\nmodels = [\"125M\"]\nisas = [\"avx2\"]\n"
            );
            Suite::parse(&text, "x", Path::new("/")).unwrap()
        };
        let ids = |isas| cases(&suite(isas), 1).unwrap().into_iter().map(|c| c.id).collect::<Vec<_>>();
        // Whether or not this machine has AVX2: a case that cannot run is planned, and skipped by its worker.
        assert_eq!(
            ids("\"avx2\""),
            [
                "native/125M/fp32-naive/scalar/t1/p1/g2",
                "native/125M/i2_s/scalar/t1/p1/g2",
                "native/125M/i2_s/avx2/t1/p1/g2",
                "native/125M/i2_s/avx2/t1/p9/g2",
                "native/350M/i2_s/avx2/t1/p1/g2",
            ]
        );
        let mut nothing = suite("\"avx2\"");
        nothing.workloads.remove(0);
        nothing.models.remove(0);
        assert!(cases(&nothing, 1).unwrap_err().to_string().contains("no case"));
    }

    #[test]
    fn a_cached_model_is_the_synthetic_one_and_made_once() {
        let suite = "name = \"x\"\ndescription = \"x\"\nrounds = 1\nkernels = [\"i2_s\"]\nthreads = [1]\n\
                     [[models]]\nsynth = \"125M\"\n[[workloads]]\nn_prompt = 1\nn_gen = 2\n";
        let suite = Suite::parse(suite, "test", Path::new("")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let mut made = 0;
        let first = models(&suite, &cache, |_| made += 1).unwrap();
        let again = models(&suite, &cache, |_| made += 1).unwrap();
        assert_eq!((made, &first[0].file), (1, &again[0].file));
        let ModelFile::Path(cached) = &first[0].file else { panic!("{first:?}") };
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1);

        let geometry = Geometry::by_name("125M").unwrap();
        let direct = dir.path().join("direct.gguf");
        synth(geometry, None, WeightType::I2S, None, SYNTH_SEED, &direct, false).unwrap();
        assert!(std::fs::read(cached).unwrap() == std::fs::read(&direct).unwrap());
        assert_eq!(first[0].linear_weights, geometry.linear_weights());
        assert_eq!(first[0].head_weights, u64::from(geometry.vocab) * u64::from(geometry.hidden));
    }

    #[test]
    fn a_tied_model_is_another_file_and_another_case() {
        let suite = "name = \"x\"\nkernels = [\"i2_s\"]\nthreads = [1]\n[[models]]\nsynth = \"125M\"\n\
                     unique_layers = 2\n[[workloads]]\nn_prompt = 1\nn_gen = 2\n";
        let mut suite = Suite::parse(suite, "test", Path::new("")).unwrap();
        let tied = &cases(&suite, 1).unwrap()[0];
        assert!(tied.id.ends_with("/t1/p1/g2/tied2") && tied.model == "125M", "{tied:?}");
        let layers = tied.tied.clone().unwrap();
        assert_eq!((layers.unique_layers, layers.layers, layers.full_model.as_str()), (2, 11, "125M"));

        let dir = tempfile::tempdir().unwrap();
        let model = &models(&suite, dir.path(), |_| {}).unwrap()[0];
        let ModelFile::Path(path) = &model.file else { panic!("{model:?}") };
        assert!(path.to_str().unwrap().contains("125M-seed1.tied2."), "{}", path.display());
        assert_eq!(Config::from_gguf(&Gguf::open(path).unwrap()).unwrap().unique_layers, 2);
        // All layers are computed, two are loaded: in that order of magnitude a visit takes its time.
        let all = Geometry::by_name("125M").unwrap().linear_weights();
        assert_eq!((model.linear_weights, model.stored_weights), (all, all / 11 * 2));
        let estimate = |model: &PlannedModel| {
            let estimate = Estimate::new(std::slice::from_ref(tied), std::slice::from_ref(model));
            estimate.of([&Task::Case(0)])
        };
        assert!(estimate(model) < estimate(&PlannedModel { stored_weights: all, ..model.clone() }));

        // All layers stored are the full model.
        suite.models[0].unique_layers = Some(UniqueLayers::Count(11));
        let full = &cases(&suite, 1).unwrap()[0];
        assert!(full.tied.is_none() && full.id.ends_with("/g2"), "{full:?}");
    }

    #[test]
    fn rounds_are_permutations_that_the_seed_decides() {
        let cases = cases(&Suite::quick().unwrap(), 2).unwrap();
        let first = order(SCHEMA, &cases, 1, 1);
        assert_eq!(first, order(SCHEMA, &cases, 1, 1));
        assert_ne!(first, order(SCHEMA, &cases, 1, 2));
        assert_ne!(first, order(SCHEMA, &cases, 2, 1));
        for i in 0..cases.len() {
            assert_eq!(first.iter().filter(|t| **t == Task::Case(i)).count(), 1);
        }
        // Bandwidth with one thread and with two; peaks of both, in scalar and in the best set.
        let isas = if bitjoule_kernels::Isa::best() == Isa::SCALAR { 1 } else { 2 };
        assert_eq!(first.len(), cases.len() + 2 + 2 * isas + 2);
        assert_eq!(first[0], Task::Idle);
        assert_eq!(order(1, &cases, 1, 1).len(), cases.len() + 2);
        // What is compared is visited together: one model and thread count at a time; and was not before.
        let changes = |schema| {
            let order = order(schema, &cases, 1, 1);
            let of_cases = order.iter().filter_map(|task| match task {
                Task::Case(i) => Some((&cases[*i].model, cases[*i].threads)),
                _ => None,
            });
            let settings: Vec<_> = of_cases.collect();
            settings.windows(2).filter(|pair| pair[0] != pair[1]).count() + 1
        };
        assert_eq!(changes(SCHEMA), 3 * 2);
        assert!(changes(3) > 3 * 2);
        // A tied model is beside the full one.
        let mut tied = cases[0].clone();
        tied.model = "some-layers".to_owned();
        tied.tied = Some(TiedLayers { unique_layers: 1, layers: 4, full_model: cases[0].model.clone() });
        assert!(comparable(&cases[0], &tied) && !comparable(&cases[cases.len() - 1], &tied));
    }
}
