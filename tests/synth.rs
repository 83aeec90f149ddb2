//! Synthetic models: the seed decides every byte, and the type that they are written in no weight.

mod common;

use bitjoule::gguf::{Gguf, I2sLayout};
use bitjoule::model::{Geometry, Plan, WeightType, synth};
use bitjoule_kernels::{Isa, Kernel};
use common::{bitjoule, stderr};

/// Small, with an embedding that several tasks make.
fn tiny() -> Geometry {
    Geometry {
        model: "tiny".to_owned(),
        architecture: "bitnet-b1.58".to_owned(),
        hidden: 256,
        ffn: 384,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        vocab: 600,
    }
}

#[test]
fn the_seed_decides_every_byte_and_the_type_no_weight() {
    let dir = tempfile::tempdir().unwrap();
    let write = |ty, seed, threads| {
        let path = dir.path().join("model.gguf");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| synth(&tiny(), None, ty, None, seed, &path, true)).unwrap();
        std::fs::read(&path).unwrap()
    };
    let weights = |bytes: Vec<u8>| -> Vec<(String, Vec<f32>)> {
        let file = Gguf::from_bytes(bytes, "model.gguf").unwrap();
        let of = |t: &bitjoule::gguf::TensorInfo| {
            let mut out = vec![0.0; t.elements() as usize];
            file.dequantize(t, 0..t.rows() as usize, I2sLayout::X86_64, &mut out).unwrap();
            (t.name.clone(), out)
        };
        file.tensors().iter().map(of).collect()
    };
    for ty in [WeightType::I2S, WeightType::F16, WeightType::F32] {
        let one = write(ty, 1, 1);
        assert!(one == write(ty, 1, 3), "{ty:?}");
        let two = write(ty, 2, 1);
        assert!(one.len() == two.len() && one != two, "{ty:?}");
        for ((name, one), (_, two)) in weights(one).into_iter().zip(weights(two)) {
            assert!(one != two, "{ty:?}: {name}");
        }
    }
    let [i2_s, f16] = [WeightType::I2S, WeightType::F16].map(|ty| weights(write(ty, 1, 2)));
    assert!(i2_s == f16);
}

#[test]
fn rows_that_are_no_whole_blocks_are_refused_in_i2_s_and_kept_in_f16() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let odd = Geometry { ffn: 320, ..tiny() };
    let refused = synth(&odd, None, WeightType::I2S, None, 1, &path, false).unwrap_err();
    assert!(refused.to_string().contains("rows of 320 weights (blk.0.ffn_down.weight)"), "{refused}");
    assert!(!path.exists());

    assert_eq!(tiny().smallest_type().unwrap(), WeightType::I2S);
    assert_eq!(odd.smallest_type().unwrap(), WeightType::F16);
    assert_eq!(Geometry::by_name("3B").unwrap().smallest_type().unwrap(), WeightType::F16);
    synth(&odd, None, WeightType::F16, None, 1, &path, false).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    for kernel in Kernel::ALL {
        Plan::new(&gguf, kernel, I2sLayout::X86_64).unwrap().load(Isa::SCALAR).unwrap();
    }
}

#[test]
fn the_command_writes_the_same_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, seed: &str| {
        let path = dir.path().join(name);
        let output =
            bitjoule().args(["model", "synth", "125M", "--seed", seed, "-o"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        std::fs::read(path).unwrap()
    };
    let first = write("a.gguf", "1");
    assert!(first == write("b.gguf", "1"));
    assert!(first != write("c.gguf", "2"));
}
