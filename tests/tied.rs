//! Tied layers: a model that stores fewer layers than it computes is the full one with those repeated, in
//! its logits, its work and its predicted memory; and no table lets it pass for the full one.

mod common;
mod synthetic;

use std::path::{Path, PathBuf};

use bitjoule::backend::check;
use bitjoule::backend::cost::{macs, prefill_cost};
use bitjoule::backend::native;
use bitjoule::backend::protocol::{Event, Job, ModelFile};
use bitjoule::engine::{Engine, EngineOptions, KvType, MemoryParts};
use bitjoule::figure::Figure;
use bitjoule::gguf::{Gguf, I2sLayout, TensorInfo, Value, Writer};
use bitjoule::journal::{Case, Phase, Record, Reproduces, TiedLayers, Work};
use bitjoule::model::{EmbeddingType, Geometry, Plan, WeightType, synth};
use bitjoule::report::{terminal_summary, verdict, write_all};
use bitjoule::stats::{TiedAgreement, summarize};
use bitjoule::units::Bytes;
use bitjoule_kernels::{Isa, Kernel};
use common::{bitjoule, stderr};
use synthetic::{Journal, Visit, case};

const KEY: &str = "bitjoule.unique_layers";
const LAYERS: u32 = 5;
const STORED: u32 = 2;

fn tiny() -> Geometry {
    Geometry {
        model: "tiny".to_owned(),
        architecture: "bitnet-b1.58".to_owned(),
        hidden: 256,
        ffn: 384,
        layers: LAYERS,
        heads: 4,
        kv_heads: 2,
        vocab: 600,
    }
}

fn tied_file(dir: &Path, embedding: Option<EmbeddingType>) -> PathBuf {
    let path = dir.join("tied.gguf");
    synth(&tiny(), Some(STORED), WeightType::I2S, embedding, 1, &path, true).unwrap();
    path
}

/// The tied model with every layer written out, under metadata without the key.
fn written_out(tied: &Gguf, path: &Path) -> Gguf {
    let metadata: Vec<(String, Value)> =
        tied.metadata().iter().filter(|(key, _)| key != KEY).map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(metadata.len() + 1, tied.metadata().len());
    let mut tensors: Vec<(String, &TensorInfo)> = Vec::new();
    for info in tied.tensors() {
        match info.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            None => tensors.push((info.name.clone(), info)),
            Some((stored, part)) => {
                let stored: u32 = stored.parse().unwrap();
                let layers = (0..LAYERS).filter(|layer| layer % STORED == stored);
                tensors.extend(layers.map(|layer| (format!("blk.{layer}.{part}"), info)));
            }
        }
    }
    let infos = tensors.iter().map(|(name, info)| TensorInfo::new(name.clone(), info.shape.clone(), info.ty));
    let mut writer = Writer::create(path, &metadata, infos.collect(), true).unwrap();
    for (_, info) in &tensors {
        writer.write_tensor_bytes(tied.data(info)).unwrap();
    }
    writer.finish().unwrap();
    Gguf::open(path).unwrap()
}

fn options(threads: usize) -> EngineOptions {
    EngineOptions { threads, kv: KvType::F16, context: 16, batch: 4, profile: false }
}

fn engine(gguf: &Gguf, kernel: Kernel, threads: usize) -> Engine {
    let model =
        Plan::new(gguf, kernel, I2sLayout::X86_64).unwrap().load(*kernel.isas().last().unwrap()).unwrap();
    Engine::new(model, options(threads)).unwrap()
}

#[test]
fn a_tied_model_is_the_full_one_with_its_layers_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let tied = Gguf::open(&tied_file(dir.path(), None)).unwrap();
    let full = written_out(&tied, &dir.path().join("full.gguf"));
    assert!(full.file_bytes() > tied.file_bytes());
    for kernel in [Kernel::I2S, Kernel::F16] {
        for threads in [1, 2] {
            let [mut tied, mut full] = [&tied, &full].map(|gguf| engine(gguf, kernel, threads));
            let logits = |engine: &mut Engine| {
                // Two batches and two steps.
                let mut all = vec![engine.prefill(&[3, 1, 4, 1, 5, 9]).unwrap().to_vec()];
                all.extend([2, 6].map(|token| engine.decode(token).unwrap().to_vec()));
                all
            };
            let (got, want) = (logits(&mut tied), logits(&mut full));
            assert!(want.iter().flatten().all(|x| x.is_finite()) && want[0] != want[1]);
            assert_eq!(got, want, "{kernel} with {threads} threads");

            // The work is that of all layers, the memory that of the stored ones.
            assert_eq!(tied.decode_bytes(8), full.decode_bytes(8));
            assert_eq!(tied.read_weights(), full.read_weights());
            assert_eq!(prefill_cost(tied.model(), 6), prefill_cost(full.model(), 6));
            assert_eq!(macs(tied.model(), 3..8, 2), macs(full.model(), 3..8, 2));
            assert_eq!((tied.model().layers.len(), full.model().layers.len()), (2, 5));
            assert!(tied.model().packed_bytes() < full.model().packed_bytes());
        }
    }
}

#[test]
fn the_check_of_logits_computes_every_stored_layer_once() {
    let dir = tempfile::tempdir().unwrap();
    let tied = Gguf::open(&tied_file(dir.path(), None)).unwrap();
    // The same weights as a model of so many layers: they depend on the place of a tensor alone.
    let short = dir.path().join("short.gguf");
    synth(&Geometry { layers: STORED, ..tiny() }, None, WeightType::I2S, None, 1, &short, true).unwrap();
    let short = Gguf::open(&short).unwrap();
    let [mut of_tied, mut of_short] = [&tied, &short].map(|gguf| engine(gguf, Kernel::I2S, 2));
    let got = check::logits(&mut of_tied, 7).unwrap();
    assert_eq!(got, check::logits(&mut of_short, 7).unwrap());
    // What is timed afterwards is all layers again.
    of_tied.clear();
    of_short.clear();
    assert_ne!(of_tied.prefill(&[3, 1]).unwrap(), of_short.prefill(&[3, 1]).unwrap());
}

#[test]
fn memory_is_predicted_of_the_tied_model_and_of_the_full_one() {
    let dir = tempfile::tempdir().unwrap();
    for embedding in [None, Some(EmbeddingType::Q8_0)] {
        let tied = Gguf::open(&tied_file(dir.path(), embedding)).unwrap();
        let full = written_out(&tied, &dir.path().join("full.gguf"));
        for kernel in Kernel::ALL {
            let isa = *kernel.isas().last().unwrap();
            let [of_tied, of_full] =
                [&tied, &full].map(|gguf| Plan::new(gguf, kernel, I2sLayout::X86_64).unwrap());
            let options = options(2);
            let (some, all) = (options.memory(&of_tied, isa), options.memory(&of_full, isa));
            assert_eq!(options.memory_of_all_layers(&of_tied, isa), Some(all), "{kernel}");
            assert_eq!(options.memory_of_all_layers(&of_full, isa), None);
            // Only the weights are fewer: the cache, among others, is that of all layers.
            assert!(some.weights < all.weights);
            assert_eq!(MemoryParts { weights: all.weights, ..some }, all);
            // The same is known before there is a file, and the arena is as long as was said.
            let config = tiny().config(Some(STORED)).unwrap();
            assert_eq!(options.memory_of_synthetic(&config, kernel, isa, embedding), some, "{kernel}");
            let norms = some.weights.0 + some.embedding.0 - of_tied.weight_bytes().0;
            let of_layer = 256 + 256 + 256 + 384;
            assert_eq!(norms, (u64::from(STORED) * of_layer + 256) * 4, "{kernel}");
            assert_eq!(of_tied.load(isa).unwrap().packed_bytes(), some.weights.0 + some.embedding.0 - norms);
        }
    }
}

#[test]
fn a_visit_reports_the_work_of_all_layers_and_both_memories() {
    let dir = tempfile::tempdir().unwrap();
    let path = tied_file(dir.path(), None);
    let file = Gguf::open(&path).unwrap();
    let case =
        Case { n_prompt: 4, n_gen: 3, isa: Isa::SCALAR.name().into(), ..tied(case("tiny", "i2_s", "", 1)) };
    let visit = |model: PathBuf| {
        let job = Job::Visit {
            cap: None,
            case: case.clone(),
            model: ModelFile::Path(model),
            seed: 1,
            phases: vec![Phase::Load, Phase::Prefill, Phase::Decode],
            check: None,
            kept: None,
            profile: false,
            energy: Default::default(),
        };
        let mut works = Vec::new();
        native::work(&job, |event| {
            match event {
                Event::Sample { work, .. } => works.push(work),
                Event::Done => {}
                other => panic!("{other:?}"),
            }
            Ok(())
        })
        .unwrap();
        works
    };
    let full = dir.path().join("full.gguf");
    written_out(&file, &full);
    let (some, all) = (visit(path), visit(full));
    match (&some[0], &all[0]) {
        (
            Work::Load { predicted: Some(tied), predicted_full: Some(modelled), .. },
            Work::Load { predicted: Some(full), predicted_full: None, .. },
        ) => assert!(modelled == full && tied.total() < full.total()),
        other => panic!("{other:?}"),
    }
    // The same tokens from the same multiplications.
    assert_eq!(some[1], all[1]);
    match (&some[2], &all[2]) {
        (
            Work::Decode { tokens: a, bytes_per_token: b, macs: c, .. },
            Work::Decode { tokens: x, bytes_per_token: y, macs: z, .. },
        ) => assert_eq!((a, b, c), (x, y, z)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_stores_no_layer_or_too_many_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tied = Gguf::open(&tied_file(dir.path(), None)).unwrap();
    let refused = |stored: u32| {
        let metadata: Vec<(String, Value)> = tied
            .metadata()
            .iter()
            .map(|(k, v)| (k.clone(), if k == KEY { Value::U32(stored) } else { v.clone() }))
            .collect();
        let path = dir.path().join("wrong.gguf");
        let infos = tied.tensors().iter().map(|t| TensorInfo::new(t.name.clone(), t.shape.clone(), t.ty));
        let mut writer = Writer::create(&path, &metadata, infos.collect(), true).unwrap();
        tied.tensors().iter().for_each(|t| writer.write_tensor_bytes(tied.data(t)).unwrap());
        writer.finish().unwrap();
        let gguf = Gguf::open(&path).unwrap();
        Plan::new(&gguf, Kernel::I2S, I2sLayout::X86_64).unwrap_err().to_string()
    };
    for stored in [0, 6] {
        let why = refused(stored);
        assert!(why.contains(KEY) && why.contains(&format!("{stored} is not within 1 to the 5")), "{why}");
    }
    // Fewer or more than there are in the file.
    assert!(refused(1).contains("blk.1."));
    assert!(refused(3).contains("there is no tensor 'blk.2."));
    let none = synth(&tiny(), Some(0), WeightType::I2S, None, 1, &dir.path().join("x"), true).unwrap_err();
    assert!(none.to_string().contains("0 layers"), "{none}");
}

/// `full` with two of five layers stored, under another label.
fn tied(full: Case) -> Case {
    Case {
        id: format!("{}/tied{STORED}", full.id),
        model: format!("{}-tied", full.model),
        tied: Some(TiedLayers { unique_layers: STORED, layers: LAYERS, full_model: full.model.clone() }),
        ..full
    }
}

fn steps(us: u64, prefill_us: u64) -> Visit {
    Visit { latencies_ns: vec![us * 1000; 31], prefill_ns: prefill_us * 1000, ..Visit::default() }
}

/// Decode within 3 % by the median; prefill slower in every round by more.
fn pair() -> Journal {
    let full = case("1B", "i2_s", "avx2", 2);
    let tied = tied(full.clone());
    let parts = |weights| MemoryParts {
        weights: Bytes(weights),
        embedding: Bytes(10),
        kv_cache: Bytes(1),
        scratch: Bytes(1),
    };
    let mut journal = Journal::new(3, vec![full.clone(), tied.clone()]);
    for (round, us, prefill_us) in [(1, 10_100, 11_000), (2, 9_900, 11_500), (3, 10_500, 10_500)] {
        journal.visit(&full, round, &Visit { predicted: Some(parts(50)), ..steps(10_000, 10_000) });
        let visit =
            Visit { predicted: Some(parts(20)), predicted_full: Some(parts(50)), ..steps(us, prefill_us) };
        journal.visit(&tied, round, &visit);
    }
    journal
}

fn rows(dir: &Path, name: &str) -> Vec<std::collections::HashMap<String, String>> {
    csv::Reader::from_path(dir.join(name)).unwrap().deserialize().map(Result::unwrap).collect()
}

#[test]
fn tied_is_compared_with_full_within_each_round() {
    let dir = tempfile::tempdir().unwrap();
    let journal = pair();
    let (_, written) = write_all(dir.path(), &journal.records).unwrap();
    assert!(written.contains(&dir.path().join("tied.csv")));
    let rows = rows(dir.path(), "tied.csv");
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    let number = |column: &str| row[column].parse::<f64>().unwrap();
    for (column, want) in [
        ("decode_ratio", 10_000.0 / 10_100.0),
        ("decode_ratio_min", 10_000.0 / 10_500.0),
        ("decode_ratio_max", 10_000.0 / 9_900.0),
        ("prefill_ratio", 10_000.0 / 11_000.0),
    ] {
        assert!((number(column) - want).abs() < 1e-12, "{column}: {}", row[column]);
    }
    assert_eq!((row["unique_layers"].as_str(), row["layers"].as_str()), ("2", "5"));
    assert_eq!(row["decode_verdict"], "within 3 % by the median");
    assert_eq!(row["prefill_verdict"], "differs by more than 3 % in every round");
    let markdown = std::fs::read_to_string(dir.path().join("speedup.md")).unwrap();
    assert!(markdown.contains("## Tied against full"), "{markdown}");
    assert!(markdown.contains("| 1B-tied (tied 2 of 5) | i2_s |"), "{markdown}");
    assert!(markdown.contains("0.990x (0.952-1.01) | within 3 % by the median |"), "{markdown}");

    // Every column is defined.
    let text = include_str!("../METHODOLOGY.md");
    let section = text.split_once("### `tied.csv`").unwrap().1.split("\n### ").next().unwrap();
    for column in row.keys() {
        assert!(section.contains(&format!("`{column}`")), "{column} is not defined");
    }
}

#[test]
fn the_median_decides_and_the_range_says_how_surely() {
    let spread = |median, min, max| bitjoule::stats::Spread { median, min, max, rounds: 3 };
    assert_eq!(TiedAgreement::of(spread(1.02, 0.971, 1.029)), TiedAgreement::Within);
    assert_eq!(TiedAgreement::of(spread(1.029, 0.5, 2.0)), TiedAgreement::WithinByMedian);
    assert_eq!(TiedAgreement::of(spread(1.0, 0.98, 1.04)), TiedAgreement::WithinByMedian);
    assert_eq!(TiedAgreement::of(spread(1.031, 1.02, 1.2)), TiedAgreement::Unclear);
    assert_eq!(TiedAgreement::of(spread(0.9, 0.8, 0.96)), TiedAgreement::Differs);
    assert_eq!(TiedAgreement::of(spread(0.9, 0.8, 1.2)), TiedAgreement::Unclear);
    assert_eq!(TiedAgreement::of(spread(1.2, 1.1, 1.3)), TiedAgreement::Differs);
}

#[test]
fn a_pair_without_figures_says_why_and_other_work_is_no_pair() {
    let full = case("1B", "i2_s", "avx2", 2);
    let mut journal =
        Journal::new(1, vec![full.clone(), tied(full.clone()), tied(case("1B", "f16", "avx2", 2))]);
    journal.visit(&tied(full.clone()), 1, &steps(10_000, 10_000));
    let summary = summarize(&journal.records).unwrap();
    let [pair] = summary.tied.as_slice() else { panic!("{:?}", summary.tied) };
    assert!(pair.decode.is_none() && pair.prefill.is_none());
    let why = pair.missing.as_ref().unwrap();
    assert!(why.starts_with("native/1B/i2_s/avx2/t2/p32/g32: incomplete"), "{why}");
    // One that is wrong is as little compared.
    journal.visit(&full, 1, &steps(10_000, 10_000)).check(&full, 0.5);
    let summary = summarize(&journal.records).unwrap();
    assert!(summary.tied[0].missing.as_ref().unwrap().contains("wrong"), "{:?}", summary.tied);
}

#[test]
fn no_table_lets_tied_layers_pass_for_the_full_model() {
    let dir = tempfile::tempdir().unwrap();
    let journal = pair();
    write_all(dir.path(), &journal.records).unwrap();
    let summary = rows(dir.path(), "summary.csv");
    assert_eq!((summary[0]["unique_layers"].as_str(), summary[0]["notes"].as_str()), ("", ""));
    assert_eq!((summary[1]["unique_layers"].as_str(), summary[1]["layers"].as_str()), ("2", "5"));
    assert!(summary[1]["notes"].contains("measured on tied layers"), "{}", summary[1]["notes"]);
    let memory = rows(dir.path(), "memory.csv");
    let cells = |row: &std::collections::HashMap<String, String>| {
        ["unique_layers", "predicted_bytes", "full_model_weights_bytes", "full_model_bytes"]
            .map(|c| row[c].clone())
    };
    assert_eq!(cells(&memory[0]), ["", "62", "", ""]);
    assert_eq!(cells(&memory[1]), ["2", "32", "50", "62"]);
    assert_eq!(memory[1]["full_model_provenance"], "modelled: parts of the model with all 5 layers stored");
    assert!(memory[0]["full_model_provenance"].starts_with("unavailable: not modelled"));

    let summary = summarize(&journal.records).unwrap();
    assert!(matches!(summary.rows[1].memory_use.full, Figure::Modelled { .. }));
    let table = terminal_summary(&summary, 140);
    assert!(table.contains("1B-tied (tied 2 of 5)"), "{table}");
    for plot in ["decode_tok_s", "rss", "latency", "rooflines"] {
        let svg = std::fs::read_to_string(dir.path().join(format!("plots/{plot}.svg"))).unwrap();
        assert!(svg.contains("1B-tied (tied 2 of 5)"), "{plot}");
        assert_eq!(plot == "rss", svg.contains("full model 62 B modelled"), "{plot}");
    }
    let mut alone = Journal::new(1, vec![tied(case("1B", "i2_s", "avx2", 2))]);
    let case = alone.cases().remove(0);
    alone.visit(&case, 1, &steps(10_000, 10_000));
    let sentence = verdict(&summarize(&alone.records).unwrap());
    assert!(sentence.contains("on 1B-tied (tied 2 of 5)"), "{sentence}");
}

#[test]
fn journals_without_tied_layers_read_as_before() {
    let journal = pair();
    for record in &journal.records {
        let line = serde_json::to_string(record).unwrap();
        assert_eq!(&serde_json::from_str::<Record>(&line).unwrap(), record);
    }
    let old = Journal::new(1, vec![case("m", "i2_s", "avx2", 2)]);
    assert!(!serde_json::to_string(&old.records[0]).unwrap().contains("tied"));
}

#[test]
fn a_run_refuses_layers_that_the_cache_would_hold() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("s.toml"),
        "name = \"s\"\nkernels = [\"native\"]\nthreads = [1]\n[[models]]\nsynth = \"125M\"\nunique_layers = 1\n\
         [[workloads]]\nn_prompt = 1\nn_gen = 2\n",
    )
    .unwrap();
    let output = bitjoule()
        .args(["run", "s.toml", "--out", "run"])
        .env("BITJOULE_CACHE", dir.path().join("cache"))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let why = stderr(&output);
    // 1.4 MB: less than twelve times the cache of any machine that says how large it is.
    assert!(matches!(output.status.code(), Some(2 | 3)) && why.contains("key 'unique_layers'"), "{why}");
    // Before anything was made.
    assert!(!dir.path().join("cache").exists() && !dir.path().join("run").exists());
}

#[test]
fn a_reproduced_ratio_of_tied_layers_is_marked() {
    let of = |kernel| {
        let mut tied = tied(case("70B", kernel, "avx2", 2));
        tied.model = "70B".into();
        tied
    };
    let (f16, ternary) = (of("f16"), of("i2_s"));
    let mut journal = Journal::new(1, vec![f16.clone(), ternary.clone()]);
    let Record::Run(header) = &mut journal.records[0] else { panic!("a plan") };
    header.reproduces = Some(Reproduces { target: "speed-2410.16144".into(), against: "f16".into() });
    journal.visit(&f16, 1, &steps(40_000, 40_000)).visit(&ternary, 1, &steps(10_000, 10_000));
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &journal.records).unwrap();
    let rows = rows(dir.path(), "reproduction.csv");
    let measured: Vec<_> =
        rows.iter().filter(|r| r["subject"] == "70B" && !r["here_ratio"].is_empty()).collect();
    assert!(!measured.is_empty());
    for row in measured {
        assert_eq!(row["here_provenance"], "measured: monotonic clock, tied 2 of 5 layers");
    }
    let markdown = std::fs::read_to_string(dir.path().join("reproduction.md")).unwrap();
    assert!(markdown.contains("| 70B (tied 2 of 5) |"), "{markdown}");
    let svg = std::fs::read_to_string(dir.path().join("plots/reproduction.svg")).unwrap();
    assert!(svg.contains("4.00x, tied 2 of 5, "), "{svg}");
}

#[test]
fn tied_and_full_are_compared_in_turns() {
    let run = |args: &[&str]| bitjoule().args(["model", "tied"]).args(args).output().unwrap();
    let output = run(&["125M", "--unique-layers", "6", "--threads", "1", "--pairs", "6"]);
    // Whether they are as fast is not for a test to say.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", stderr(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("125M with 6 layers stored, i2_s ") && said.contains("of 6 pairs; "), "{said}");
    for (args, why) in [
        (["125M", "--unique-layers", "11"], "125M has 11 layers; fewer have to be stored"),
        (["125M", "--unique-layers", "0"], "125M has 11 layers; fewer have to be stored"),
        (["12M", "--unique-layers", "1"], "12M"),
    ] {
        let refused = run(&args);
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(why), "{}", stderr(&refused));
    }
}
