//! Embeddings and output projections in blocks: quantizers, files, engine and runs.

mod common;

use bitjoule::engine::{Engine, EngineOptions, KvType};
use bitjoule::gguf::{Gguf, I2sLayout, TensorType, dequantize_rows, quantize};
use bitjoule::journal::{Record, Work as Done, file};
use bitjoule::model::{EmbeddingType, Plan};
use bitjoule_kernels::{Isa, Kernel};
use common::{Golden, Work, bitjoule, fixture, fixture_path, stderr, stdout};
use proptest::prelude::*;

fn there_and_back(ty: TensorType, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let (mut blocks, mut back) = (Vec::new(), vec![0.0; values.len()]);
    quantize(ty, values, &mut blocks).unwrap();
    dequantize_rows(ty, &blocks, values.len(), 0..1, I2sLayout::X86_64, &mut back).unwrap();
    (blocks, back)
}

proptest! {
    #[test]
    fn quantized_weights_are_within_half_a_step(
        values in prop::collection::vec(prop_oneof![3 => -1.0f32..1.0, 1 => Just(0.0f32), 1 => -0.01f32..0.01], 512),
    ) {
        let (_, back) = there_and_back(TensorType::Q8_0, &values);
        for (own, back) in values.chunks(32).zip(back.chunks(32)) {
            let largest = own.iter().fold(0f32, |m, x| m.max(x.abs()));
            // Half a step, and what rounding the scale to f16 moves the largest code by.
            let most = largest * (0.5 / 127.0 + 1.0 / 2048.0) + 1e-6;
            for (x, y) in own.iter().zip(back) {
                prop_assert!((x - y).abs() <= most, "{} for {}", y, x);
            }
        }
        let (_, back) = there_and_back(TensorType::Q6K, &values);
        for (own, back) in values.chunks(256).zip(back.chunks(256)) {
            let block = own.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (own, back) in own.chunks(16).zip(back.chunks(16)) {
                let largest = own.iter().fold(0f32, |m, x| m.max(x.abs()));
                // A whole step at the end that has 31 codes only; half a step of the sub-scale for each of
                // up to 32 codes; the rounding of the scale.
                let most = largest / 32.0 + block / 127.0 / 2.0 + block / 1024.0 + 1e-6;
                for (x, y) in own.iter().zip(back) {
                    prop_assert!((x - y).abs() <= most, "{} for {}", y, x);
                }
            }
        }
    }
}

#[test]
fn q8_0_is_that_of_gguf_py() {
    // Its blocks, back to floats and quantized again, are the same blocks.
    let blocks = std::fs::read(fixture_path("q8_0.blocks.bin")).unwrap();
    let floats = std::fs::read(fixture_path("q8_0.f32.bin")).unwrap();
    let floats: Vec<f32> =
        floats.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(there_and_back(TensorType::Q8_0, &floats).0, blocks);
}

#[test]
fn what_blocks_cannot_hold_is_refused() {
    let mut out = Vec::new();
    let refused = |ty, values: &[f32], out: &mut Vec<u8>| quantize(ty, values, out).unwrap_err().to_string();
    assert!(refused(TensorType::Q6K, &[0.0; 300], &mut out).contains("blocks, which hold 256; use F16"));
    assert!(refused(TensorType::Q8_0, &[1e30; 32], &mut out).contains("beyond what Q8_0 holds"));
    assert!(refused(TensorType::Q8_0, &[f32::NAN; 32], &mut out).contains("beyond"));
    assert!(refused(TensorType::Q6K, &[f32::INFINITY; 256], &mut out).contains("beyond"));
    assert!(refused(TensorType::F16, &[0.0; 32], &mut out).contains("not to F16"));
    // Zeros have no scale, and no NaN comes of that.
    for ty in [TensorType::Q8_0, TensorType::Q6K] {
        assert_eq!(there_and_back(ty, &[0.0; 256]).1, [0.0; 256]);
    }
    // 3B is 3200 wide, which is no whole number of 256.
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("3B.gguf");
    let synth =
        bitjoule().args(["model", "synth", "3B", "--embedding", "q6_k", "-o"]).arg(&out).output().unwrap();
    assert_eq!(synth.status.code(), Some(2));
    assert!(stderr(&synth).contains("rows of 3200 weights") && stderr(&synth).contains("use q8_0"));
    assert!(!out.exists());
}

fn logits(
    gguf: &Gguf,
    kernel: Kernel,
    isa: Isa,
    embedding: Option<EmbeddingType>,
    tokens: &[u32],
) -> (Vec<f32>, u64) {
    let plan = Plan::with_embedding(gguf, kernel, I2sLayout::X86_64, embedding).unwrap();
    let options = EngineOptions { threads: 2, kv: KvType::F32, context: 32, batch: 16, profile: false };
    let mut engine = Engine::new(plan.load(isa).unwrap(), options).unwrap();
    let mut all = engine.logits_of_each(tokens).unwrap().concat();
    engine.clear();
    // And one by one, by the products of one token.
    for token in tokens {
        all.extend_from_slice(engine.decode(*token).unwrap());
    }
    (all, engine.decode_bytes(0).0)
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

#[test]
fn every_kernel_sees_the_same_embedding() {
    let gguf = fixture("tiny-bitnet-b1.58.i2_s");
    let tokens = Golden::load("tiny-bitnet-b1.58").tokens;
    let tokens = &tokens[..tokens.len().min(12)];
    let (f16, f16_bytes) = logits(&gguf, Kernel::I2S, Isa::SCALAR, None, tokens);
    let weights = 320 * 512;
    for (embedding, bytes) in [
        (EmbeddingType::F16, weights * 2),
        (EmbeddingType::Q8_0, weights / 32 * 34),
        (EmbeddingType::Q6K, weights / 256 * 210),
    ] {
        let run = |kernel, isa| logits(&gguf, kernel, isa, Some(embedding), tokens);
        let (exact, exact_bytes) = run(Kernel::I2S, Isa::SCALAR);
        assert_eq!(exact_bytes, f16_bytes - weights * 2 + bytes, "{embedding:?}");
        // Another embedding is another model, but a similar one.
        let apart = difference(&exact, &f16);
        assert!((apart == 0.0) == (embedding == EmbeddingType::F16) && apart < 0.2, "{embedding:?}: {apart}");
        let (naive, _) = run(Kernel::Fp32Naive, Isa::SCALAR);
        for isa in Isa::available() {
            let ternary = difference(&run(Kernel::I2S, isa).0, &exact);
            assert!(ternary < 1e-5, "{embedding:?} {isa}: {ternary}");
            let float = difference(&run(Kernel::F16, isa).0, &naive);
            assert!(float < 1e-5, "{embedding:?} {isa}: {float}");
        }
    }
}

#[test]
fn a_file_is_run_in_the_types_that_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture_path("tiny-bitnet-b1.58.i2_s.gguf");
    let ok = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
        stdout(&output)
    };
    for (name, ty) in [("q8_0", TensorType::Q8_0), ("q6_k", TensorType::Q6K)] {
        let (out, again) = (dir.path().join(name), dir.path().join(format!("{name}-again")));
        let convert = |from: &std::path::Path| {
            let mut command = bitjoule();
            command.args(["model", "convert", "--type", "i2_s"]).arg(from).arg("-o");
            command
        };
        ok(convert(&model).arg(&out).args(["--embedding", name]));
        ok(convert(&out).arg(&again));
        let (first, second) = (Gguf::open(&out).unwrap(), Gguf::open(&again).unwrap());
        let tensor = |gguf: &Gguf| {
            let info = gguf.tensor("token_embd.weight").unwrap();
            (info.ty, gguf.data(info).to_vec())
        };
        assert_eq!(tensor(&first).0, ty);
        assert!(tensor(&first) == tensor(&second), "{name}: another conversion keeps every block");
        // Quantized on the way into memory or in the file, the values are the same.
        let gguf = Gguf::open(&model).unwrap();
        let embedding = EmbeddingType::by_name(name).unwrap();
        let loaded = logits(&gguf, Kernel::I2S, Isa::best(), Some(embedding), &[1, 2, 3]);
        assert!(loaded == logits(&first, Kernel::I2S, Isa::best(), None, &[1, 2, 3]), "{name}");

        let inspected = ok(bitjoule().args(["model", "inspect"]).arg(&out));
        assert!(inspected.contains(&format!("output projection in {name}")), "{inspected}");
        ok(bitjoule().arg("verify").arg(&out));
    }
}

#[test]
fn a_suite_names_the_embedding() {
    let work = Work::new();
    let suite = work.0.path().join("suite.toml");
    let text = std::fs::read_to_string(&suite).unwrap();
    let text = text.replacen(
        "[[workloads]]",
        "[[models]]\nbuiltin = \"tiny-bitnet-b1.58\"\nembedding = \"q6_k\"\n[[workloads]]",
        1,
    );
    std::fs::write(&suite, text.replacen("rounds = 2", "rounds = 1", 1)).unwrap();
    let run = work.run(&[]);
    assert!(run.status.success(), "{}", stderr(&run));
    let records = file::read(&work.out()).unwrap().records;
    let Some(Record::Run(header)) = records.first() else { panic!("no plan") };
    let mut cases = 0;
    for case in &header.cases {
        let named = case.model == "tiny-bitnet-b1.58-q6_k";
        assert_eq!(case.embedding.as_deref(), named.then_some("q6_k"));
        assert_eq!(case.id.contains("-q6_k/"), named);
        let check = records.iter().find_map(|r| match r {
            Record::Check(c) if c.case == case.id => Some(c.passed),
            _ => None,
        });
        assert_eq!(check, Some(true), "{}", case.id);
        cases += usize::from(named);
    }
    assert_eq!(cases * 2, header.cases.len());
    let bytes = |model: &str, kernel: &str| {
        let of = format!("native/{model}/{kernel}/");
        records.iter().find_map(|r| match r {
            Record::Sample(s) if s.case.starts_with(&of) => match s.work {
                Done::Decode { bytes_per_token, .. } => Some(bytes_per_token.0),
                _ => None,
            },
            _ => None,
        })
    };
    let (f16, q6_k) = (bytes("tiny-bitnet-b1.58", "i2_s"), bytes("tiny-bitnet-b1.58-q6_k", "i2_s"));
    assert_eq!(f16.unwrap() - q6_k.unwrap(), 320 * 512 * 2 - 320 * 2 * 210);
}
