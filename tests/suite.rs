//! The suite format: what is accepted, and that every mistake is one clear message with its line.

use std::path::Path;

use bitjoule::Error;
use bitjoule::published::Target;
use bitjoule::suite::{Model, ModelSource, Suite, Threads, UniqueLayers, Workload};
use bitjoule::units::Bytes;
use proptest::prelude::*;

const GOOD: &str = r#"name = "mine"
kernels = ["f16", "i2_s"]
threads = [1, "all"]
[[models]]
synth = "125M"
[[models]]
file = "sub/model.gguf"
kernels = ["i2_s"]
[[workloads]]
n_prompt = 32
n_gen = 32
"#;

fn parse(text: &str) -> Result<Suite, Error> {
    Suite::parse(text, "x.toml", Path::new("/base"))
}

/// The message for `GOOD` with `from` replaced by `to`.
#[track_caller]
fn message(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    refusal(&GOOD.replacen(from, to, 1))
}

#[track_caller]
fn refusal(text: &str) -> String {
    let error = parse(text).expect_err("must be refused");
    assert_eq!(error.exit_code(), 2);
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn a_suite_is_read_with_its_defaults() {
    let suite = parse(GOOD).unwrap();
    assert_eq!(suite.name, "mine");
    assert_eq!((suite.rounds, suite.seed, suite.timeout_s), (3, 1, 600));
    assert_eq!((suite.kv.as_str(), suite.description.as_str()), ("f16", ""));
    assert_eq!((suite.isas.as_slice(), suite.memory_limit), (&["auto".to_owned()][..], None));
    assert_eq!(suite.threads, [Threads::Count(1), Threads::All]);
    assert_eq!(suite.workloads, [Workload { n_prompt: 32, n_gen: 32, models: None, isas: None }]);
    let [synth, file] = suite.models.as_slice() else { panic!("two models") };
    assert_eq!(
        *synth,
        Model {
            source: ModelSource::Synth("125M".into()),
            name: None,
            kernels: None,
            isas: None,
            embedding: None,
            unique_layers: None
        }
    );
    assert_eq!(file.source, ModelSource::File("/base/sub/model.gguf".into()));
    assert_eq!((synth.label(), file.label()), ("125M".to_owned(), "model".to_owned()));
    assert_eq!(suite.kernels_of(synth), ["f16", "i2_s"]);
    assert_eq!(suite.kernels_of(file), ["i2_s"]);
    assert_eq!(suite.thread_counts(8), [1, 8]);
    assert_eq!(suite.thread_counts(1), [1]);
}

#[test]
fn every_published_table_has_its_suites_and_they_name_it() {
    for target in Target::ALL {
        assert_eq!(Target::by_name(target.name()), Some(target));
        for quick in [false, true] {
            let suite = Suite::published(target, quick).unwrap();
            assert_eq!(suite.reproduces.as_deref(), Some(target.name()));
            assert_eq!(suite.against.as_deref(), Some("f16"));
        }
    }
}

#[test]
fn the_shipped_suites_are_valid() {
    let quick = Suite::quick().unwrap();
    assert_eq!((quick.name.as_str(), quick.rounds, quick.models.len()), ("quick", 3, 3));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
    let speed = Suite::load(&folder.join("speed.toml")).unwrap();
    let naive: Vec<String> = speed
        .models
        .iter()
        .filter(|m| speed.kernels_of(m).contains(&"fp32-naive".to_owned()))
        .map(Model::label)
        .collect();
    assert_eq!(naive, ["125M", "350M", "700M"]);
    assert_eq!(speed.models.len(), 7);
    let kernels = Suite::load(&folder.join("kernels.toml")).unwrap();
    // Every kernel: in scalar code on a small model, all but the naive one in the vector sets on 700M.
    let [small, middle, _] = &kernels.models[..] else { panic!("three models") };
    assert_eq!(kernels.kernels_of(small), bitjoule::suite::KERNELS);
    assert_eq!(kernels.isas_of(small), ["scalar"]);
    assert_eq!(kernels.kernels_of(middle), &bitjoule::suite::KERNELS[1..]);
    assert_eq!(kernels.isas_of(middle), ["avx2", "avx512-vnni", "avx512-vbmi"]);
}

#[test]
fn every_suite_key_is_documented() {
    let readme = include_str!("../suites/README.md");
    for refusal in [message("name", "zzz"), message("synth", "zzz"), message("n_gen", "zzz")] {
        let (_, known) = refusal.split_once("Known keys here: ").unwrap();
        for key in known.split(", ") {
            assert!(readme.contains(&format!("`{key}`")), "suites/README.md does not mention `{key}`");
        }
    }
    for size in bitjoule::suite::synth_sizes() {
        assert!(readme.contains(&format!("`\"{size}\"`")), "suites/README.md does not mention {size}");
    }
}

#[test]
fn a_resolved_suite_reads_back_from_anywhere() {
    let text = GOOD.replacen(
        "[[models]]",
        "[[models]]\nbuiltin = \"tiny-bitnet-b1.58\"\nname = \"t\"\n[[models]]",
        1,
    );
    let suite = parse(&text).unwrap();
    let toml = suite.to_toml().unwrap();
    assert_eq!(Suite::parse(&toml, "suite.toml", Path::new("/elsewhere")).unwrap(), suite);
    assert_eq!(toml::from_str::<Suite>(&toml).unwrap(), suite);
    let quick = Suite::quick().unwrap();
    assert_eq!(parse(&quick.to_toml().unwrap()).unwrap(), quick);
}

#[test]
fn misspelt_keys_name_the_line_and_the_nearest() {
    assert_eq!(
        message("kernels", "kernals"),
        "x.toml:2: unknown key 'kernals'; did you mean 'kernels'? Known keys here: name, description, \
         rounds, seed, kv, timeout_s, memory_limit, reproduces, against, kernels, isas, threads, models, workloads"
    );
    assert_eq!(
        message("kernels = [\"i2_s\"]", "kernel = [\"i2_s\"]"),
        "x.toml:8: unknown key 'kernel' in [[models]]; did you mean 'kernels'? Known keys here: builtin, \
         synth, file, name, kernels, isas, embedding, unique_layers"
    );
    assert!(
        message("n_gen", "gen")
            .contains("x.toml:11: unknown key 'gen' in [[workloads]]; did you mean 'n_gen'?")
    );
    assert!(
        message("n_gen = 32", "n_gen = 32\nrounds = 5")
            .contains("x.toml:12: unknown key 'rounds' in [[workloads]]; it belongs at the top of the file")
    );
    assert!(message("name", "qqqq").starts_with("x.toml:1: unknown key 'qqqq'. Known keys here: name"));
    assert!(
        message("[[models]]", "[[model]]").contains("x.toml:4: unknown key 'model'; did you mean 'models'?")
    );
}

#[test]
fn misspelt_values_name_the_line_and_the_nearest() {
    assert_eq!(
        message("\"i2_s\"", "\"i2s\""),
        format!(
            "x.toml:2: unknown kernel 'i2s'; did you mean 'i2_s'? Valid are: {}",
            bitjoule::suite::KERNELS.join(", ")
        )
    );
    assert!(
        message("125M", "125m").contains("x.toml:5: unknown synthetic size '125m'; did you mean '125M'?")
    );
    assert!(
        message("synth = \"125M\"", "builtin = \"tiny\"").contains("x.toml:5: unknown builtin model 'tiny'")
    );
    assert!(
        message("threads", "isas = [\"avx512\"]\nthreads")
            .contains("x.toml:3: unknown instruction set 'avx512'; did you mean 'avx512-vnni'?")
    );
    assert!(
        message("threads", "kv = \"fp16\"\nthreads")
            .contains("x.toml:3: unknown KV cache type 'fp16'; did you mean 'f16'?")
    );
}

#[test]
fn narrowing_names_what_there_is() {
    let with = |line: &str| message("n_gen = 32", &format!("n_gen = 32\n{line}"));
    assert!(
        with("models = [\"125m\"]")
            .contains("x.toml:12: unknown model of this suite '125m'; did you mean '125M'?")
    );
    assert!(with("isas = [\"auto\"]").contains("x.toml:12: unknown instruction set 'auto'"));
    assert!(with("isas = []").contains("x.toml:12: 'isas' is empty"));
    let text = GOOD.replacen("n_gen = 32", "n_gen = 32\nmodels = [\"model\"]\nisas = [\"avx2\"]", 1);
    let suite = parse(&text.replacen("kernels = [\"i2_s\"]", "isas = [\"auto\"]", 1)).unwrap();
    assert_eq!(suite.isas_of(&suite.models[1]), ["auto"]);
    assert!(suite.workloads[0].is_for("model", "avx2") && !suite.workloads[0].is_for("125M", "avx2"));
    assert!(!suite.workloads[0].is_for("model", "scalar"));
    assert_eq!(parse(&suite.to_toml().unwrap()).unwrap(), suite);
}

#[test]
fn an_embedding_is_part_of_the_label() {
    let text = GOOD.replacen(
        "synth = \"125M\"",
        "synth = \"125M\"\n[[models]]\nsynth = \"125M\"\nembedding = \"q6_k\"",
        1,
    );
    let suite = parse(&text).unwrap();
    assert_eq!(suite.models[1].label(), "125M-q6_k");
    assert_eq!(parse(&suite.to_toml().unwrap()).unwrap(), suite);
    assert!(
        message("synth = \"125M\"", "synth = \"125M\"\nembedding = \"q6\"")
            .contains("x.toml:6: unknown embedding type 'q6'; did you mean 'q6_k'?")
    );
}

#[test]
fn tied_layers_are_a_number_that_the_model_has_or_auto() {
    let with = |value: &str| GOOD.replacen("125M\"", &format!("125M\"\nunique_layers = {value}"), 1);
    for (value, want) in
        [("1", UniqueLayers::Count(1)), ("11", UniqueLayers::Count(11)), ("\"auto\"", UniqueLayers::Auto)]
    {
        let suite = parse(&with(value)).unwrap();
        assert_eq!(suite.models[0].unique_layers, Some(want));
        assert_eq!(suite.models[0].label(), "125M");
        let toml = suite.to_toml().unwrap();
        assert_eq!(parse(&toml).unwrap(), suite);
        assert_eq!(toml::from_str::<Suite>(&toml).unwrap(), suite);
    }
    let wanted =
        "x.toml:6: 'unique_layers' must be a whole number from 1 to 11, the layers of 125M, or \"auto\", not";
    for (value, found) in [
        ("0", "the number 0"),
        ("12", "the number 12"),
        ("1.5", "the number 1.5"),
        ("\"all\"", "the string \"all\""),
        ("[1]", "a list"),
    ] {
        assert_eq!(refusal(&with(value)), format!("{wanted} {found}"));
    }
    let of_file = message("kernels = [\"i2_s\"]", "unique_layers = 1");
    assert!(of_file.starts_with("x.toml:8: 'unique_layers' is for synthetic models"), "{of_file}");
    // Tied and full are two models, and need two labels.
    let both = GOOD.replacen("[[models]]", "[[models]]\nsynth = \"125M\"\nunique_layers = 2\n[[models]]", 1);
    assert!(refusal(&both).contains("a second model with the label '125M'"));
}

#[test]
fn the_validation_has_every_tied_case_beside_its_full_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites/published");
    let suite = Suite::load(&folder.join("tied-validation.toml")).unwrap();
    let (tied, full): (Vec<&Model>, Vec<&Model>) =
        suite.models.iter().partition(|m| m.unique_layers.is_some());
    assert_eq!(full.iter().map(|m| m.label()).collect::<Vec<_>>(), ["1B", "3B", "7B"]);
    assert_eq!(tied.len(), 4);
    for model in &tied {
        let full = full.iter().find(|f| f.label() == model.default_label()).unwrap();
        let of_full = suite.kernels_of(full);
        assert!(suite.kernels_of(model).iter().all(|k| of_full.contains(k)), "{}", model.label());
    }
}

#[test]
fn missing_keys_are_named() {
    assert_eq!(message("name = \"mine\"", ""), "x.toml: the key 'name' is missing");
    assert_eq!(message("n_gen = 32\n", ""), "x.toml:9: the key 'n_gen' is missing in [[workloads]]");
    assert!(message("synth = \"125M\"", "").starts_with("x.toml:4: a model needs one of"));
    assert!(
        message("synth = \"125M\"", "synth = \"125M\"\nfile = \"a\"")
            .starts_with("x.toml:4: a model has only one of")
    );
    assert_eq!(refusal(""), "x.toml: the key 'name' is missing");
}

#[test]
fn wrong_types_and_ranges_name_the_line_and_the_limits() {
    let with = |line: &str| message("threads", &format!("{line}\nthreads"));
    assert_eq!(
        with("rounds = 0"),
        "x.toml:3: 'rounds' must be a whole number from 1 to 10000, not the number 0"
    );
    assert!(with("rounds = 1_000_000_000_000").contains("from 1 to 10000, not the number 1000000000000"));
    assert!(with("rounds = 1.5").contains("x.toml:3: 'rounds' must be a whole number"));
    assert!(with("rounds = -1").contains("not the number -1"));
    assert!(with("rounds = \"3\"").contains("not the string \"3\""));
    assert!(with("seed = 9223372036854775808").contains("x.toml:3: 'seed'"));
    assert!(with("timeout_s = true").contains("x.toml:3: 'timeout_s'"));
    assert!(with("kv = 16").contains("'kv' must be a string"));
    assert!(with("isas = \"auto\"").contains("'isas' must be a list"));
    assert!(with("isas = []").contains("x.toml:3: 'isas' is empty"));
    assert!(with("isas = [\"avx2\",\n\"avx2\"]").contains("x.toml:4: 'isas' has this entry twice"));
    assert!(
        message("[1, ", "[100000, ").contains("x.toml:3: 'threads' must be a whole number from 1 to 1024")
    );
    assert!(message("[1, ", "[0, ").contains("x.toml:3"));
    assert!(message("[1, ", "[\"all\", ").contains("x.toml:3: 'threads' has this entry twice"));
    assert!(message("\"all\"", "\"most\"").contains("numbers from 1 to 1024 and \"all\""));
    assert!(
        message("n_prompt = 32", "n_prompt = 4000000000")
            .contains("x.toml:10: 'n_prompt' must be a whole number from 1 to 131072")
    );
    assert!(message("n_gen = 32", "n_gen = 1").contains("x.toml:11: 'n_gen' must be a whole number from 2"));
    assert!(message("\"mine\"", "\"a/b\"").contains("x.toml:1: 'a/b' is no good name: '/' is none of"));
    assert!(message("\"mine\"", "\"..\"").contains("begins with '.'"));
    assert!(message("\"mine\"", "\"\"").contains("it is empty"));
    assert!(message("sub/model.gguf", "a b.gguf").contains("give one with `name"));
    assert!(message("\"sub/model.gguf\"", "\"\"").contains("x.toml:7: 'file' is empty"));
    assert!(
        refusal("name = \"a\"\nkernels = [\"f16\"]\nthreads = [1]\nworkloads = 3\n[models]\nsynth = \"1B\"")
            .contains("tables [[models]]")
    );
    let again = "[[workloads]]\nn_prompt = 32\nn_gen = 32\n";
    assert!(refusal(&format!("{GOOD}{again}")).contains("x.toml:12: 'workloads' has this entry twice"));
}

#[test]
fn a_memory_limit_is_an_amount_with_its_unit() {
    let with = |limit: &str| format!("memory_limit = {limit}\n{GOOD}");
    let suite = parse(&with("\"512 MiB\"")).unwrap();
    assert_eq!(suite.memory_limit, Some(Bytes(512 << 20)));
    assert!(suite.to_toml().unwrap().contains("memory_limit = \"512 MiB\""));
    assert_eq!(parse(&suite.to_toml().unwrap()).unwrap(), suite);
    assert_eq!(parse(&with("\"1500 MB\"")).unwrap().memory_limit, Some(Bytes(1_500_000_000)));
    for wrong in ["\"512\"", "\"1.5 GiB\"", "\"0 MiB\"", "\"5 kB\"", "\"9999 TiB\"", "\"1 Mib\"", "512", "[]"]
    {
        let message = refusal(&with(wrong));
        assert!(
            message.starts_with("x.toml:1: 'memory_limit' must be a string of a whole number"),
            "{message}"
        );
        assert!(message.contains("from 1 MiB to 1024 TiB, such as \"512 MiB\""), "{message}");
    }
}

#[test]
fn equal_labels_ask_for_a_name() {
    let second = "[[models]]\nfile = \"other/model.gguf\"\n[[workloads]]";
    assert_eq!(
        message("[[workloads]]", second),
        "x.toml:9: a second model with the label 'model'; give it another with `name = \"...\"`"
    );
    let named = GOOD.replacen("[[workloads]]", &second.replacen("file", "name = \"b\"\nfile", 1), 1);
    assert_eq!(parse(&named).unwrap().models.len(), 3);
}

#[test]
fn broken_toml_names_the_line() {
    assert!(message("threads = [1", "threads = 1").starts_with("x.toml:3: "));
    assert!(message("threads", "kernels").starts_with("x.toml:3: "));
    assert!(refusal(&("a = ".to_owned() + &"[".repeat(100_000))).starts_with("x.toml:1: "));
    assert!(refusal("\0").starts_with("x.toml:1: "));
    assert!(refusal(&format!("{} = 1", "k".repeat(500_000))).len() < 500);
}

#[test]
fn a_plan_of_absurd_size_is_refused() {
    let threads: Vec<String> = (1..=1024).map(|n| n.to_string()).collect();
    let text = GOOD.replacen("1, \"all\"", &threads.join(","), 1);
    let workloads: String = (1..=10).map(|n| format!("[[workloads]]\nn_prompt = {n}\nn_gen = 2\n")).collect();
    assert!(refusal(&(text + &workloads)).contains("33792 cases"));
}

#[test]
fn unreadable_files_are_one_message() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Suite::load(&folder.path().join("no.toml")).unwrap_err();
    assert_eq!(missing.exit_code(), 2);
    let large = folder.path().join("large.toml");
    std::fs::write(&large, " ".repeat((1 << 20) + 1)).unwrap();
    assert!(Suite::load(&large).unwrap_err().to_string().contains("larger than"));
    std::fs::write(&large, [0xff, 0xfe]).unwrap();
    assert_eq!(Suite::load(&large).unwrap_err().exit_code(), 2);
    assert_eq!(Suite::load(folder.path()).unwrap_err().exit_code(), 2);
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_mutation_of_a_suite_panics(at in 0..GOOD.len(), with in "[\\[\\]\"=0-9a-z\n{}.,é-]{0,3}") {
        let mut text = GOOD.to_owned();
        text.replace_range(at..at + 1, &with);
        if let Ok(suite) = parse(&text) {
            prop_assert_eq!(parse(&suite.to_toml().unwrap()).unwrap(), suite);
        }
    }
}
