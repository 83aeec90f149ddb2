//! The engine against logits that another implementation computed in float64 (tests/fixtures).

mod common;

use bitjoule::engine::{Engine, EngineOptions, KvType};
use bitjoule::gguf::I2sLayout;
use bitjoule::model::Plan;
use bitjoule_kernels::{Isa, Kernel};
use common::{Golden, fixture, fixture_gz};

fn engine(gguf: &bitjoule::gguf::Gguf, kernel: Kernel, isa: Isa, threads: usize, kv: KvType) -> Engine {
    let model = Plan::new(gguf, kernel, I2sLayout::X86_64).unwrap().load(isa).unwrap();
    Engine::new(model, EngineOptions { threads, kv, context: 32, batch: 16, profile: false }).unwrap()
}

/// Largest difference over the largest golden logit, and positions whose argmax agrees.
fn compare(got: &[Vec<f32>], golden: &Golden) -> (f64, usize) {
    assert_eq!(got.len(), golden.logits.len());
    let max = golden.logits.iter().flatten().fold(0f64, |m, x| m.max(x.abs()));
    let mut worst = 0f64;
    let mut agree = 0;
    for (got, want) in got.iter().zip(&golden.logits) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            worst = worst.max((f64::from(*g) - w).abs());
        }
        let want: Vec<f32> = want.iter().map(|x| *x as f32).collect();
        agree += usize::from(bitjoule::engine::argmax(got) == bitjoule::engine::argmax(&want));
    }
    (worst / max, agree)
}

fn in_one_batch(engine: &mut Engine, tokens: &[u32]) -> Vec<Vec<f32>> {
    engine.clear();
    engine.logits_of_each(tokens).unwrap()
}

fn token_by_token(engine: &mut Engine, tokens: &[u32]) -> Vec<Vec<f32>> {
    engine.clear();
    tokens.iter().map(|&t| engine.decode(t).unwrap().to_vec()).collect()
}

#[test]
fn every_exact_kernel_agrees_with_float64_on_every_isa_thread_count_and_batch() {
    for (name, golden) in [
        ("tiny-bitnet-b1.58.i2_s", "tiny-bitnet-b1.58"),
        ("tiny-bitnet-b1.58.f16", "tiny-bitnet-b1.58"),
        ("tiny-bitnet.i2_s", "tiny-bitnet"),
    ] {
        let gguf = if name.ends_with("f16") { fixture_gz(name) } else { fixture(name) };
        let golden = Golden::load(golden);
        let mut first: Option<Vec<Vec<f32>>> = None;
        for kernel in Kernel::ALL.into_iter().filter(|k| k.is_exact()) {
            for isa in kernel.isas() {
                for threads in [1, 2] {
                    let mut engine = engine(&gguf, kernel, isa, threads, KvType::F32);
                    for (how, logits) in [
                        ("batch", in_one_batch(&mut engine, &golden.tokens)),
                        ("tokens", token_by_token(&mut engine, &golden.tokens)),
                    ] {
                        let what = format!("{name} {kernel} {isa} {threads} {how}");
                        let (difference, _) = compare(&logits, &golden);
                        assert!(difference < 1e-5, "{what}: {difference}");
                        let first = first.get_or_insert_with(|| logits.clone());
                        for (got, want) in logits.iter().flatten().zip(first.iter().flatten()) {
                            assert!((got - want).abs() < 1e-5, "{what}: {got} for {want}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn an_f16_cache_keeps_the_argmax() {
    for name in ["tiny-bitnet-b1.58", "tiny-bitnet"] {
        let gguf = fixture(&format!("{name}.i2_s"));
        let golden = Golden::load(name);
        for isa in Isa::available() {
            let mut engine = engine(&gguf, Kernel::I2S, isa, 2, KvType::F16);
            let (_, agree) = compare(&token_by_token(&mut engine, &golden.tokens), &golden);
            assert!(
                agree * 10 >= golden.tokens.len() * 9,
                "{name} {isa}: {agree} of {}",
                golden.tokens.len()
            );
        }
    }
}

#[test]
fn the_float_kernels_agree_with_each_other() {
    let gguf = fixture("tiny-bitnet-b1.58.i2_s");
    let tokens = Golden::load("tiny-bitnet-b1.58").tokens;
    let naive = in_one_batch(&mut engine(&gguf, Kernel::Fp32Naive, Isa::SCALAR, 1, KvType::F32), &tokens);
    let golden =
        Golden { tokens, logits: naive.iter().map(|l| l.iter().map(|x| f64::from(*x)).collect()).collect() };
    for isa in Isa::available() {
        let mut engine = engine(&gguf, Kernel::F16, isa, 2, KvType::F32);
        let (difference, _) = compare(&in_one_batch(&mut engine, &golden.tokens), &golden);
        assert!(difference < 1e-5, "{isa}: {difference}");
    }
}

#[test]
fn wrong_tokens_and_full_caches_are_errors() {
    let gguf = fixture("tiny-bitnet.i2_s");
    let mut engine = engine(&gguf, Kernel::I2S, Isa::best(), 1, KvType::F16);
    let message = engine.decode(320).unwrap_err().to_string();
    assert!(message.contains("token 320") && message.contains("vocabulary of 320"), "{message}");
    assert!(engine.prefill(&[]).is_err());
    engine.prefill(&[1; 32]).unwrap();
    let message = engine.decode(1).unwrap_err().to_string();
    assert!(message.contains("context of 32"), "{message}");
}
