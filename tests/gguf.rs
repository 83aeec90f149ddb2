//! GGUF against files that other implementations wrote, against itself, and against hostile files.

use std::io::Read;
use std::path::{Path, PathBuf};

use bitjoule::gguf::{
    Array, Gguf, I2sLayout, TensorInfo, TensorType, Value, Writer, dequantize_rows, i2s_scale, i2s_trits,
    type_name,
};
use half::{bf16, f16};
use proptest::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn fixture_bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

fn fixture_f32(name: &str) -> Vec<f32> {
    fixture_bytes(name).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// All of a tensor as f32.
fn weights(file: &Gguf, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    let mut out = vec![0.0; tensor.elements() as usize];
    file.dequantize(tensor, 0..tensor.rows() as usize, I2sLayout::X86_64, &mut out).unwrap();
    out
}

/// All trits of an I2_S tensor, and its scale.
fn trits(file: &Gguf, name: &str) -> (Vec<i8>, f32) {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.ty, TensorType::I2S);
    let n = tensor.elements() as usize;
    let mut out = vec![0; n];
    let (data, cols, rows) = (file.data(tensor), tensor.cols() as usize, tensor.rows() as usize);
    i2s_trits(data, cols, 0..rows, I2sLayout::X86_64, &mut out).unwrap();
    (out, i2s_scale(data, n).unwrap())
}

// --- Files that other implementations wrote ---

#[test]
fn i2s_fixtures_are_read() {
    for (name, architecture) in
        [("tiny-bitnet.i2_s.gguf", "bitnet"), ("tiny-bitnet-b1.58.i2_s.gguf", "bitnet-b1.58")]
    {
        let file = Gguf::open(&fixture(name)).unwrap();
        assert_eq!((file.version(), file.alignment()), (3, 32));
        assert_eq!(file.file_bytes(), std::fs::metadata(fixture(name)).unwrap().len());
        assert!(file.path_label().ends_with(name));
        assert_eq!(file.req_str("general.architecture").unwrap(), architecture);
        assert_eq!(file.req_u32(&format!("{architecture}.block_count")).unwrap(), 2);
        assert_eq!(file.req_f32(&format!("{architecture}.rope.freq_base")).unwrap().fract(), 0.0);
        assert_eq!(file.opt_u32("no.such.key").unwrap(), None);
        let up = file.tensor("blk.1.ffn_up.weight").unwrap();
        assert_eq!((up.ty, up.cols(), up.rows()), (TensorType::I2S, 512, 1280));
        assert_eq!(file.data(up).len() as u64, up.elements() / 4 + 32);
        assert!(file.tensor("no.such.tensor").is_none());
    }
}

#[test]
fn i2s_weights_are_those_of_the_f16_file() {
    let i2s = Gguf::open(&fixture("tiny-bitnet-b1.58.i2_s.gguf")).unwrap();
    let packed = std::fs::File::open(fixture("tiny-bitnet-b1.58.f16.gguf.gz")).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    let original = Gguf::from_bytes(bytes, "tiny-bitnet-b1.58.f16.gguf").unwrap();

    let mut n_ternary = 0;
    assert_eq!(i2s.tensors().len(), original.tensors().len());
    for tensor in i2s.tensors() {
        let expected = weights(&original, &tensor.name);
        assert_eq!(tensor.shape, original.tensor(&tensor.name).unwrap().shape);
        assert_eq!(weights(&i2s, &tensor.name), expected, "{}", tensor.name);
        if tensor.ty == TensorType::I2S {
            n_ternary += 1;
            let (trits, scale) = trits(&i2s, &tensor.name);
            assert!(trits.iter().map(|t| f32::from(*t) * scale).eq(expected), "{}", tensor.name);
        }
    }
    assert_eq!(n_ternary, 2 * 7);
}

#[test]
fn some_rows_are_those_rows_of_all() {
    let file = Gguf::open(&fixture("tiny-bitnet.i2_s.gguf")).unwrap();
    for name in ["blk.0.attn_k.weight", "token_embd.weight"] {
        let tensor = file.tensor(name).unwrap();
        let cols = tensor.cols() as usize;
        let mut out = vec![0.0; 3 * cols];
        file.dequantize(tensor, 5..8, I2sLayout::X86_64, &mut out).unwrap();
        assert_eq!(out, weights(&file, name)[5 * cols..8 * cols], "{name}");
    }
}

#[test]
fn tq_blocks_hold_the_trits_of_the_i2s_file() {
    let file = Gguf::open(&fixture("tiny-bitnet.i2_s.gguf")).unwrap();
    let (trits, scale) = trits(&file, "blk.0.attn_k.weight");
    let scale = f16::from_f32(scale).to_f32();
    for (ty, name) in [(TensorType::Tq1_0, "tq1_0"), (TensorType::Tq2_0, "tq2_0")] {
        let data = fixture_bytes(&format!("tiny-bitnet.attn_k.{name}.bin"));
        assert_eq!(data.len() as u64, ty.byte_len(512, 128).unwrap());
        let mut out = vec![f32::NAN; trits.len()];
        dequantize_rows(ty, &data, 512, 0..128, I2sLayout::default(), &mut out).unwrap();
        assert!(trits.iter().map(|t| f32::from(*t) * scale).eq(out), "{name}");
    }
}

#[test]
fn q8_0_and_q6_k_are_what_gguf_py_makes_of_them() {
    for (ty, name, cols, rows) in [(TensorType::Q8_0, "q8_0", 128, 2), (TensorType::Q6K, "q6_k", 256, 3)] {
        let expected = fixture_f32(&format!("{name}.f32.bin"));
        let data = fixture_bytes(&format!("{name}.blocks.bin"));
        let mut out = vec![f32::NAN; cols * rows];
        dequantize_rows(ty, &data, cols, 0..rows, I2sLayout::default(), &mut out).unwrap();
        assert_eq!(out, expected, "{name}");
        dequantize_rows(ty, &data, cols, 1..2, I2sLayout::default(), &mut out[..cols]).unwrap();
        assert_eq!(out[..cols], expected[cols..2 * cols], "{name}");
    }
}

// --- Layouts, by hand ---

#[test]
fn the_two_i2s_layouts_differ_in_their_stride() {
    // Byte 1 holds codes 2, 1, 0, 2; every other code is 1 (a zero trit).
    let mut data = vec![0b01_01_01_01; 32];
    data[1] = 0b10_01_00_10;
    data.extend(0.5f32.to_le_bytes());
    data.extend([0; 28]);
    for (layout, stride) in [(I2sLayout::X86_64, 32), (I2sLayout::Arm, 16)] {
        let mut out = vec![9; 128];
        i2s_trits(&data, 128, 0..1, layout, &mut out).unwrap();
        let mut expected = vec![0; 128];
        expected[1] = 1;
        expected[1 + 2 * stride] = -1;
        expected[1 + 3 * stride] = 1;
        assert_eq!(out, expected);
        let mut out = vec![9.0; 128];
        dequantize_rows(TensorType::I2S, &data, 128, 0..1, layout, &mut out).unwrap();
        assert!(out.iter().zip(expected).all(|(w, t)| *w == 0.5 * f32::from(t)));
    }
}

#[test]
fn bad_ternary_data_is_refused() {
    let mut data = vec![0b01_01_01_01; 64];
    data.extend(1.0f32.to_le_bytes());
    data.extend([0; 28]);
    let message = |data: &[u8], cols, rows, n, layout| {
        i2s_trits(data, cols, rows, layout, &mut vec![0; n]).unwrap_err().to_string()
    };
    let x86 = I2sLayout::X86_64;
    assert!(
        message(&data, 64, 0..1, 64, x86).contains("rows of 64 elements do not fit I2_S (x86-64 layout)")
    );
    assert!(message(&data, 32, 0..1, 32, I2sLayout::Arm).contains("I2_S (ARM layout), whose blocks have 64"));
    assert!(
        message(&data, 128, 1..3, 256, x86).contains("rows 1 to 3 of 128 elements are not in the 64 bytes")
    );
    assert!(message(&data, 128, 0..usize::MAX, 0, x86).contains("are not in the 64 bytes"));
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = 2..1;
    assert!(message(&data, 128, reversed, 0, x86).contains("are not in the 64 bytes"));
    assert!(message(&data, 128, 0..1, 127, x86).contains("room for 127 weights where 128"));
    assert!(message(&data[..31], 128, 0..1, 128, x86).contains("31 bytes are too few for an I2_S tensor"));
    assert!(i2s_scale(&data, 128).unwrap_err().to_string().contains("not an I2_S tensor of 128 elements"));
    assert_eq!(i2s_scale(&data, 256).unwrap(), 1.0);

    data[40] = 0b01_11_01_01;
    assert!(message(&data, 128, 1..2, 128, x86).contains("byte 40 of the tensor: 0x75 holds the code 3"));
    data[40] = 0;
    for (scale, legal) in [(0.0f32, true), (-2.0, true), (f32::NAN, false), (f32::INFINITY, false)] {
        data[64..68].copy_from_slice(&scale.to_le_bytes());
        let mut out = vec![0.0; 256];
        let result = dequantize_rows(TensorType::I2S, &data, 128, 0..2, x86, &mut out);
        assert_eq!(result.is_ok(), legal);
        if let Err(e) = result {
            assert!(e.to_string().contains("byte 64 of the tensor: a scale of"), "{e}");
        }
    }

    let nan = f16::NAN.to_le_bytes();
    for (ty, at) in [
        (TensorType::Q8_0, 34),
        (TensorType::Q6K, 210 + 208),
        (TensorType::Tq1_0, 54 + 52),
        (TensorType::Tq2_0, 66 + 64),
    ] {
        let cols = if ty == TensorType::Q8_0 { 32 } else { 256 };
        let mut data = vec![0; ty.byte_len(cols, 2).unwrap() as usize];
        data[at..at + 2].copy_from_slice(&nan);
        let mut out = vec![0.0; 2 * cols as usize];
        let error = dequantize_rows(ty, &data, cols as usize, 0..2, x86, &mut out).unwrap_err().to_string();
        assert!(error.contains(&format!("byte {at} of the tensor: a scale of NaN")), "{error}");
    }
    let mut data = vec![0; 66];
    data[7] = 0b1100;
    let error = dequantize_rows(TensorType::Tq2_0, &data, 256, 0..1, x86, &mut [0.0; 256]).unwrap_err();
    assert!(error.to_string().contains("byte 7 of the tensor: 0x0c holds the code 3"), "{error}");
}

#[test]
fn type_names_and_ids_agree() {
    for ty in TensorType::ALL {
        assert_eq!(TensorType::from_id(ty.id()), Some(ty));
        assert_eq!(type_name(ty.id()), Some(ty.name()));
    }
    assert_eq!(TensorType::from_id(12), None);
    assert_eq!(type_name(999), None);
    assert_eq!(TensorType::I2S.byte_len(128, 3).unwrap(), 3 * 32 + 32);
    assert!(TensorType::Q6K.byte_len(u64::MAX - 255, u64::MAX).is_err());
    assert!(TensorType::Q6K.byte_len(100, 1).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn floats_are_widened_exactly(bits in prop::collection::vec(any::<u32>(), 1..600)) {
        let n = bits.len();
        let mut out = vec![0.0f32; n];
        let same = |out: &[f32], expected: &dyn Fn(u32) -> f32| {
            out.iter().zip(&bits).all(|(out, bits)| {
                let expected = expected(*bits);
                out.to_bits() == expected.to_bits() || out.is_nan() && expected.is_nan()
            })
        };
        let layout = I2sLayout::default();
        let data: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
        dequantize_rows(TensorType::F32, &data, n, 0..1, layout, &mut out).unwrap();
        prop_assert!(same(&out, &f32::from_bits));
        let data: Vec<u8> = bits.iter().flat_map(|b| (*b as u16).to_le_bytes()).collect();
        dequantize_rows(TensorType::F16, &data, n, 0..1, layout, &mut out).unwrap();
        prop_assert!(same(&out, &|b| f16::from_bits(b as u16).to_f32()));
        dequantize_rows(TensorType::Bf16, &data, n, 0..1, layout, &mut out).unwrap();
        prop_assert!(same(&out, &|b| bf16::from_bits(b as u16).to_f32()));
    }
}

// --- Writing and reading back ---

fn any_array() -> impl Strategy<Value = Array> {
    use prop::collection::vec;
    let flat = prop_oneof![
        vec(any::<u8>(), 0..5).prop_map(Array::U8),
        vec(any::<i8>(), 0..5).prop_map(Array::I8),
        vec(any::<u16>(), 0..5).prop_map(Array::U16),
        vec(any::<i16>(), 0..5).prop_map(Array::I16),
        vec(any::<u32>(), 0..5).prop_map(Array::U32),
        vec(any::<i32>(), 0..5).prop_map(Array::I32),
        vec(any::<f32>(), 0..5).prop_map(Array::F32),
        vec(any::<bool>(), 0..5).prop_map(Array::Bool),
        vec(any::<String>(), 0..5).prop_map(Array::String),
        vec(any::<u64>(), 0..5).prop_map(Array::U64),
        vec(any::<i64>(), 0..5).prop_map(Array::I64),
        vec(any::<f64>(), 0..5).prop_map(Array::F64),
    ];
    flat.prop_recursive(3, 12, 3, |inner| vec(inner, 0..3).prop_map(Array::Array))
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::String),
        any_array().prop_map(Value::Array),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
    ]
}

fn any_tensor() -> impl Strategy<Value = (TensorType, Vec<u64>)> {
    (prop::sample::select(&TensorType::ALL[..]), prop::collection::vec(1u64..4, 1..=4)).prop_map(
        |(ty, mut shape)| {
            shape[0] *= if ty == TensorType::I2S { 128 } else { 256 };
            (ty, shape)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        values in prop::collection::btree_map("[a-z.]{1,8}", any_value(), 0..6),
        alignment in prop::option::of(0u32..9),
        tensors in prop::collection::vec(any_tensor(), 0..5),
        chunk in 1usize..5000,
        seed in any::<u64>(),
    ) {
        let mut metadata: Vec<(String, Value)> = values.into_iter().collect();
        if let Some(power) = alignment {
            metadata.push(("general.alignment".into(), Value::U32(1 << power)));
        }
        let tensors: Vec<TensorInfo> = tensors
            .into_iter()
            .enumerate()
            .map(|(i, (ty, shape))| TensorInfo::new(format!("tensor {i}"), shape, ty))
            .collect();
        let data: Vec<Vec<u8>> = tensors
            .iter()
            .map(|t| (0..t.byte_len().unwrap()).map(|i| (i.wrapping_mul(seed | 1) >> 7) as u8).collect())
            .collect();
        let mut writer = Writer::new(Vec::new(), "memory", &metadata, tensors).unwrap();
        for data in &data {
            for chunk in data.chunks(chunk) {
                writer.write_tensor_bytes(chunk).unwrap();
            }
        }
        let declared = writer.tensors().to_vec();
        let bytes = writer.finish().unwrap();
        let mut v2 = bytes.clone();
        v2[4] = 2;
        for (version, bytes) in [(3, bytes), (2, v2)] {
            let file = Gguf::from_bytes(bytes, "memory").unwrap();
            prop_assert_eq!(file.version(), version);
            prop_assert_eq!(file.alignment(), 1 << alignment.unwrap_or(5));
            prop_assert_eq!(file.metadata(), &metadata[..]);
            prop_assert_eq!(file.tensors(), &declared[..]);
            for (tensor, data) in file.tensors().iter().zip(&data) {
                prop_assert_eq!(file.data(tensor), &data[..]);
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), flips in any::<[(u16, u8); 4]>()) {
        walk(&bytes);
        let mut with_magic = b"GGUF\x03\0\0\0".to_vec();
        with_magic.extend(&bytes);
        walk(&with_magic);
        let (_, mut seed) = seeds().remove(0);
        for (at, flip) in flips {
            let at = usize::from(at) % seed.len();
            seed[at] ^= flip;
        }
        walk(&seed);
    }
}

/// Opens bytes and looks at all that is in them, whatever it may be.
fn walk(bytes: &[u8]) {
    let Ok(file) = Gguf::from_bytes(bytes.to_vec(), "walked") else { return };
    for tensor in file.tensors() {
        let mut out = vec![0.0; tensor.cols() as usize];
        let _ = file.dequantize(tensor, 0..1, I2sLayout::X86_64, &mut out);
        let _ = file.dequantize(tensor, 0..1, I2sLayout::Arm, &mut out);
    }
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let f32s = |name: &str, shape: Vec<u64>| TensorInfo::new(name, shape, TensorType::F32);
    let message = |metadata: &[(String, Value)], tensors: Vec<TensorInfo>| {
        Writer::new(Vec::new(), "out.gguf", metadata, tensors).unwrap_err().to_string()
    };
    let u32s = |key: &str, value| (key.to_string(), Value::U32(value));
    assert!(
        message(&[u32s("a", 1), u32s("a", 2)], vec![])
            .contains("out.gguf: metadata key \"a\" is there twice")
    );
    assert!(message(&[u32s("general.alignment", 24)], vec![]).contains("a power of two"));
    assert!(message(&[u32s("", 1)], vec![]).contains("a metadata key of 0 bytes"));
    assert!(
        message(&[], vec![f32s("t", vec![1]), f32s("t", vec![1])]).contains("tensor \"t\" is there twice")
    );
    assert!(message(&[], vec![f32s("t", vec![])]).contains("it has 0 dimensions"));
    assert!(message(&[], vec![f32s("t", vec![1; 5])]).contains("it has 5 dimensions"));
    assert!(message(&[], vec![f32s("t", vec![0])]).contains("a dimension of 0"));
    assert!(message(&[], vec![f32s("t", vec![1 << 62, 2])]).contains("more than a file can hold"));
    assert!(
        message(&[], vec![f32s("t", vec![1 << 61]), f32s("u", vec![1 << 61])]).contains("larger than any")
    );
    let q6k = TensorInfo::new("t", vec![100, 2], TensorType::Q6K);
    assert!(message(&[], vec![q6k]).contains("tensor \"t\": rows of 100 elements do not fit Q6_K"));

    let mut writer = Writer::new(Vec::new(), "out.gguf", &[], vec![f32s("t", vec![2])]).unwrap();
    writer.write_tensor_bytes(&[0; 3]).unwrap();
    let error = writer.write_tensor_bytes(&[0; 7]).unwrap_err().to_string();
    assert!(error.contains("out.gguf: tensor \"t\": 2 bytes too many for its 8"), "{error}");
    writer.write_tensor_bytes(&[0; 5]).unwrap();
    assert!(
        writer.write_tensor_bytes(&[0]).unwrap_err().to_string().contains("1 bytes of tensor data after")
    );
    let mut writer = Writer::new(Vec::new(), "out.gguf", &[], vec![f32s("t", vec![2])]).unwrap();
    writer.write_tensor_bytes(&[0; 3]).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("out.gguf: tensor \"t\": got 3 of its 8 bytes"), "{error}");
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let names = || -> Vec<_> {
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let start = |overwrite| {
        Writer::create(&path, &[], vec![TensorInfo::new("t", vec![2], TensorType::F32)], overwrite)
    };

    let mut writer = start(false).unwrap();
    writer.write_tensor_bytes(&[1; 4]).unwrap();
    assert!(names().iter().all(|name| name != "model.gguf") && names().len() == 1);
    drop(writer);
    assert!(names().is_empty());

    let mut writer = start(false).unwrap();
    writer.write_tensor_bytes(&[1; 4]).unwrap();
    writer.finish().unwrap_err();
    assert!(names().is_empty());

    // Two at once: the first to finish wins.
    let (mut first, mut second) = (start(false).unwrap(), start(false).unwrap());
    first.write_tensor_bytes(&[1; 8]).unwrap();
    second.write_tensor_bytes(&[2; 8]).unwrap();
    first.finish().unwrap();
    assert!(second.finish().unwrap_err().to_string().contains("exists already"));
    assert_eq!(names(), ["model.gguf"]);
    assert!(start(false).unwrap_err().to_string().contains("exists already"));

    let mut writer = start(true).unwrap();
    writer.write_tensor_bytes(&[3; 8]).unwrap();
    let content = |path| {
        let file = Gguf::open(path).unwrap();
        file.data(file.tensor("t").unwrap()).to_vec()
    };
    assert_eq!(content(&path), [1; 8]);
    writer.finish().unwrap();
    assert_eq!(content(&path), [3; 8]);
    assert_eq!(names(), ["model.gguf"]);

    let error = Writer::create(directory.path(), &[], vec![], true).unwrap_err().to_string();
    assert!(error.contains("a directory; name a file"), "{error}");
    let error = Gguf::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("not a file"), "{error}");
    let error = Gguf::open(&directory.path().join("none.gguf")).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("cannot open"), "{error}");
    std::fs::write(directory.path().join("empty.gguf"), []).unwrap();
    let error = Gguf::open(&directory.path().join("empty.gguf")).unwrap_err().to_string();
    assert!(error.contains("empty.gguf: byte 0: not a GGUF file: the file is empty"), "{error}");
}

// --- Hostile files ---

/// A file made by hand, field by field.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(n_tensors: u64, n_metadata: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(3).u64(n_tensors).u64(n_metadata)
    }
    fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }
    fn u32(self, value: u32) -> Raw {
        self.bytes(&value.to_le_bytes())
    }
    fn u64(self, value: u64) -> Raw {
        self.bytes(&value.to_le_bytes())
    }
    fn text(self, text: &str) -> Raw {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }
    /// A metadata entry without its value.
    fn key(self, key: &str, value_type: u32) -> Raw {
        self.text(key).u32(value_type)
    }
    fn tensor(self, name: &str, shape: &[u64], ty: u32, offset: u64) -> Raw {
        let start = self.text(name).u32(shape.len() as u32);
        shape.iter().fold(start, |raw, dim| raw.u64(*dim)).u32(ty).u64(offset)
    }
    /// Padding to the default alignment, then `n` bytes of data.
    fn data(mut self, n: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self
    }
}

/// Asserts that `bytes` are refused with a message that names the file and contains all of `parts`.
#[track_caller]
fn refused(bytes: impl Into<Vec<u8>>, parts: &[&str]) {
    let error = Gguf::from_bytes(bytes.into(), "bad.gguf").unwrap_err();
    let message = error.to_string();
    assert_eq!(error.exit_code(), 2);
    assert!(message.starts_with("bad.gguf: ") && !message.contains('\n'), "{message}");
    assert!(message.len() < 400, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn what_is_not_gguf_is_recognised() {
    for (bytes, looks_like) in [
        (&b""[..], "the file is empty"),
        (b"GG", "too short"),
        (b"lmgg\x01\0\0\0", "older GGML"),
        (b"tjgg\x03\0\0\0", "older GGML"),
        (b"PK\x03\x04abcdef", "a zip archive, perhaps a PyTorch checkpoint"),
        (b"\x80\x02\x8a\x0al", "a Python pickle"),
        (b"\x10\0\0\0\0\0\0\0{\"a\":1}", "a safetensors file"),
        (b"\x1f\x8b\x08\0", "compressed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"RIFF\x1b[2Jabc", "it begins with \"RIFF\""),
    ] {
        refused(bytes, &["byte 0: not a GGUF file", looks_like]);
    }
}

#[test]
fn other_versions_are_refused() {
    refused(Raw(b"GGUF".to_vec()).u32(1).u64(0).0, &["byte 4: GGUF version 1 is no longer read"]);
    refused(Raw(b"GGUF".to_vec()).u32(4).u64(0).u64(0).0, &["byte 4: GGUF version 4 is not known"]);
    refused(Raw(b"GGUF".to_vec()).u32(0).u64(0).u64(0).0, &["GGUF version 0 is not known"]);
    refused(b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0".to_vec(), &["byte 4: a big-endian GGUF file"]);
    refused(b"GGUF\x03\0".to_vec(), &["byte 4: the file ends inside the version (4 bytes, 2 left)"]);
}

#[test]
fn counts_and_lengths_are_not_believed() {
    for n in [1, 5_000_000_000, u64::MAX] {
        let n_text = n.to_string();
        refused(Raw::new(0, n).0, &["byte 24", &n_text, "metadata entries cannot be in the 0 bytes left"]);
        refused(Raw::new(n, 0).0, &["byte 24", &n_text, "tensors cannot be in the 0 bytes left"]);
    }
    for n in [8, 1 << 40, u64::MAX] {
        let raw = Raw::new(0, 1).u64(n).bytes(b"general.name").u32(8).u64(1);
        let parts: &[&str] =
            if n == 8 { &["value type"] } else { &["byte 32", "bytes of a metadata key cannot be"] };
        refused(raw.0, parts);
        let raw = Raw::new(0, 1).key("name", 8).u64(n).bytes(b"abc");
        refused(raw.0, &["metadata key \"name\"", "bytes of a string cannot be in the 3 bytes left"]);
        for element in [0, 6, 8, 9, 12] {
            let raw = Raw::new(0, 1).key("list", 9).u32(element).u64(n).bytes(&[0; 7]);
            refused(raw.0, &["metadata key \"list\"", "array elements cannot be in the 7 bytes left"]);
        }
    }
    refused(
        Raw::new(0, 1).key("number", 10).u32(1).0,
        &["metadata key \"number\"", "the file ends inside a value"],
    );
    let cut = Raw::new(1, 0).tensor("t", &[1, 1, 1, 1], 0, 0);
    refused(&cut.0[..cut.0.len() - 1], &["the file ends inside a tensor's offset"]);
}

#[test]
fn bad_metadata_is_refused() {
    refused(Raw::new(0, 1).key("key", 13).u64(0).0, &["metadata key \"key\"", "value type 13 is not known"]);
    let raw = Raw::new(0, 1).key("key", 9).u32(13).u64(0);
    refused(raw.0, &["metadata key \"key\"", "byte 39", "value type 13 is not known"]);
    refused(Raw::new(0, 1).key("on", 7).bytes(&[2]).0, &["\"on\"", "byte 38", "a boolean is 2 where 0 or 1"]);
    let raw = Raw::new(0, 1).key("name", 8).u64(4).bytes(b"ab\xffd");
    refused(raw.0, &["metadata key \"name\"", "byte 50", "a string is not UTF-8"]);
    let raw = Raw::new(0, 1).u64(2).bytes(b"\xc3\x28").u32(8).text("abc");
    refused(raw.0, &["byte 32", "a metadata key is not UTF-8"]);
    refused(Raw::new(0, 1).key("", 4).u32(1).u32(0).0, &["byte 24", "a metadata key of 0 bytes"]);
    refused(Raw::new(0, 1).key(&"k".repeat(65_536), 4).u32(1).0, &["a metadata key of 65536 bytes"]);
    let raw = Raw::new(0, 2).key("key", 4).u32(1).key("key", 4).u32(1);
    refused(raw.0, &["metadata key \"key\" is there twice"]);
    let nested = (0..10_000).fold(Raw::new(0, 1).key("deep", 9), |raw, _| raw.u32(9).u64(1));
    refused(nested.0, &["metadata key \"deep\"", "arrays nested more than 4 deep"]);
    // A name that is long or would move the cursor is shown short and escaped.
    refused(Raw::new(0, 1).key(&"\x1b[2J".repeat(1000), 13).u64(0).0, &["\\u{1b}[2J", "... (4000 bytes)"]);

    for alignment in [0, 3, 48, u32::MAX] {
        let raw = Raw::new(0, 1).key("general.alignment", 4).u32(alignment);
        refused(raw.0, &["\"general.alignment\"", &alignment.to_string(), "a power of two"]);
    }
    let raw = Raw::new(0, 1).key("general.alignment", 10).u64(32);
    refused(raw.0, &["\"general.alignment\" is the u64 32 where a u32 that is a power of two"]);
}

#[test]
fn bad_tensors_are_refused() {
    let one = |shape: &[u64], ty, offset, data| Raw::new(1, 0).tensor("w", shape, ty, offset).data(data).0;
    Gguf::from_bytes(one(&[8, 1, 1, 1], 0, 32, 64), "good.gguf").unwrap();

    refused(one(&[], 0, 0, 64), &["tensor \"w\"", "it has 0 dimensions"]);
    refused(one(&[1; 5], 0, 0, 64), &["tensor \"w\"", "it has 5 dimensions"]);
    let raw = Raw::new(1, 0).text("w").u32(u32::MAX).data(64);
    refused(raw.0, &["tensor \"w\"", "it has 4294967295 dimensions"]);
    refused(one(&[8, 0], 0, 0, 64), &["tensor \"w\"", "[8, 0] has a dimension of 0"]);
    refused(one(&[8], 0, 16, 64), &["tensor \"w\"", "offset 16 is not a multiple of the alignment 32"]);
    refused(
        one(&[8], 0, 64, 64),
        &["tensor \"w\"", "32 bytes at offset 64", "beyond the end of the file (128"],
    );
    refused(one(&[17], 0, 0, 64), &["68 bytes at offset 0", "beyond the end of the file"]);
    refused(one(&[8], 0, u64::MAX - 31, 64), &["tensor \"w\"", "beyond the end of the file"]);
    refused(one(&[1 << 40], 0, 0, 64), &["tensor \"w\"", "beyond the end of the file"]);
    refused(one(&[1 << 62], 0, 0, 64), &["tensor \"w\"", "more than a file can hold"]);
    refused(one(&[256, u64::MAX, u64::MAX, 2], 35, 0, 64), &["tensor \"w\"", "more than a file can hold"]);
    refused(one(&[128, 1 << 63, 2], 36, 0, 64), &["tensor \"w\"", "more than a file can hold"]);
    refused(one(&[100, 2], 14, 0, 64), &["tensor \"w\"", "rows of 100 elements do not fit Q6_K"]);
    refused(one(&[96, 2], 36, 0, 128), &["tensor \"w\"", "rows of 96 elements do not fit I2_S"]);
    // The 32 bytes of scale and padding count.
    refused(one(&[128], 36, 0, 63), &["64 bytes at offset 0", "beyond the end of the file"]);
    Gguf::from_bytes(one(&[128], 36, 0, 64), "good.gguf").unwrap();

    for (id, name) in [(2, "Q4_0"), (12, "Q4_K"), (38, "TL1"), (39, "TL2"), (39, "MXFP4"), (135, "IQ2_BN")] {
        refused(
            one(&[256], id, 0, 64),
            &["tensor \"w\"", &format!("type {id}"), name, "cannot be read", "I2_S"],
        );
    }
    refused(one(&[256], 12345, 0, 64), &["tensor \"w\"", "type 12345 is not known"]);

    let two = |a: (&str, u64), b: (&str, u64)| {
        Raw::new(2, 0).tensor(a.0, &[16], 0, a.1).tensor(b.0, &[16], 0, b.1).data(128).0
    };
    Gguf::from_bytes(two(("a", 64), ("b", 0)), "good.gguf").unwrap();
    refused(two(("a", 0), ("a", 64)), &["tensor \"a\" is there twice"]);
    refused(two(("a", 32), ("b", 0)), &["tensors \"b\" and \"a\" share bytes from offset 32"]);
    refused(two(("a", 0), ("b", 0)), &["share bytes from offset 0"]);
}

/// The built-in model with one metadata value or one tensor's data changed.
fn changed(key: &str, value: Option<Value>, tensor: &str, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let file = Gguf::open(&fixture("tiny-bitnet-b1.58.i2_s.gguf")).unwrap();
    let mut metadata = file.metadata().to_vec();
    if let Some(value) = value {
        metadata.iter_mut().find(|(k, _)| k == key).unwrap().1 = value;
    }
    let mut writer = Writer::new(Vec::new(), "changed", &metadata, file.tensors().to_vec()).unwrap();
    for t in file.tensors() {
        let mut data = file.data(t).to_vec();
        if t.name == tensor {
            change(&mut data);
        }
        writer.write_tensor_bytes(&data).unwrap();
    }
    writer.finish().unwrap()
}

/// What the command says of a hostile file, which has to be one line; and its exit code.
#[track_caller]
fn told(arguments: &[&str], path: &Path) -> (i32, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bitjoule"))
        .args(arguments)
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && said.lines().count() == 1, "{arguments:?}: {said}");
    assert!(said.starts_with("bitjoule: ") && said.contains("bad.gguf: "), "{arguments:?}: {said}");
    (output.status.code().unwrap(), said)
}

#[test]
fn a_hostile_file_ends_a_command_with_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.gguf");
    let one = |shape: &[u64], ty, offset| Raw::new(1, 0).tensor("w", shape, ty, offset).data(64).0;
    let whole = fixture_bytes("tiny-bitnet-b1.58.i2_s.gguf");
    let nested = (0..10_000).fold(Raw::new(0, 1).key("deep", 9), |raw, _| raw.u32(9).u64(1));
    let duplicate = Raw::new(2, 0).tensor("w", &[8], 0, 0).tensor("w", &[8], 0, 32).data(64);
    let alignment = Raw::new(0, 1).key("general.alignment", 4).u32(0);
    // Refused by everything that opens them.
    let files = [
        (b"GGML\x03\0\0\0".to_vec(), "not a GGUF file"),
        (Raw(b"GGUF".to_vec()).u32(9).u64(0).u64(0).0, "version 9"),
        (Raw::new(5_000_000_000, 0).0, "5000000000 tensors"),
        (Raw::new(0, u64::MAX).0, "metadata entries cannot be"),
        (Raw::new(0, 1).key("name", 8).u64(u64::MAX).bytes(b"abc").0, "bytes of a string"),
        (Raw::new(0, 1).key("list", 9).u32(10).u64(u64::MAX / 4).0, "array elements"),
        (one(&[8], 0, 1 << 40), "beyond the end"),
        (one(&[256, u64::MAX, u64::MAX, 2], 35, 0), "more than a file can hold"),
        (one(&[8], 77, 0), "type 77"),
        (one(&[8, 0], 0, 0), "dimension of 0"),
        (duplicate.0, "there twice"),
        (alignment.0, "power of two"),
        (nested.0, "nested"),
        (whole[..whole.len() - 1].to_vec(), "beyond the end"),
        (whole[..1000].to_vec(), "in the"),
    ];
    for (bytes, part) in files {
        std::fs::write(&path, bytes).unwrap();
        for arguments in [&["model", "inspect"][..], &["verify"], &["generate", "--tokens", "1"]] {
            let (code, said) = told(arguments, &path);
            assert!(code == 2 && said.contains(part), "{arguments:?}: {code}, {part:?} is not in {said}");
        }
    }

    // Whole files whose metadata or weights make no model.
    let key = |key: &str, value| changed(&format!("bitnet-b1.58.{key}"), Some(Value::U32(value)), "", |_| ());
    let scale = |scale: f32| {
        changed("", None, "blk.1.ffn_up.weight", move |data| {
            let at = data.len() - 32;
            data[at..at + 4].copy_from_slice(&scale.to_le_bytes());
        })
    };
    let norm =
        changed("", None, "output_norm.weight", |data| data[4..8].copy_from_slice(&f32::NAN.to_le_bytes()));
    let code = changed("", None, "blk.0.attn_q.weight", |data| data[0] = 0xff);
    for (bytes, part) in [
        (key("block_count", u32::MAX), "block_count': 4294967295 is not within"),
        (key("block_count", 16_384), "no tensor 'blk.2.attn_norm.weight'"),
        (key("attention.head_count", 0), "attention.head_count': 0 is not within"),
        (key("embedding_length", 1 << 20), "the metadata make it 1048576 x 320"),
        (key("feed_forward_length", 127), "the metadata make it 512 x 127"),
        (key("context_length", 0), "context_length': 0 is not within"),
        (scale(f32::NAN), "'blk.1.ffn_up.weight': byte 163840 of the tensor: a scale of NaN"),
        (scale(f32::NEG_INFINITY), "a scale of -inf"),
        (norm, "'output_norm.weight': the weight in row 0, column 1 is NaN"),
        (code, "'blk.0.attn_q.weight': byte 0 of the tensor: 0xff holds the code 3"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let (code, said) = told(&["verify"], &path);
        assert!(code == 2 && said.contains(part), "{code}, {part:?} is not in {said}");
    }
}

#[cfg(unix)]
#[test]
fn only_a_regular_file_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = Writer::create(&path, &[], vec![], true).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn wrong_metadata_is_named_when_it_is_asked_for() {
    let metadata = [
        ("list".to_string(), Value::Array(Array::I32(vec![1, 2]))),
        ("minus".to_string(), Value::I32(-1)),
        ("large".to_string(), Value::U64(1 << 32)),
        ("byte".to_string(), Value::U8(7)),
        ("nan".to_string(), Value::F32(f32::NAN)),
        ("double".to_string(), Value::F64(0.5)),
        ("flag".to_string(), Value::Bool(true)),
    ];
    let bytes = Writer::new(Vec::new(), "m", &metadata, vec![]).unwrap().finish().unwrap();
    let file = Gguf::from_bytes(bytes, "model.gguf").unwrap();
    assert_eq!(file.req_u32("byte").unwrap(), 7);
    assert_eq!(file.req_f32("double").unwrap(), 0.5);
    assert_eq!(file.opt_f32("none").unwrap(), None);
    assert_eq!(file.get("flag").and_then(Value::as_bool), Some(true));
    assert_eq!(file.get("large").and_then(Value::as_u64), Some(1 << 32));
    for (error, part) in [
        (file.req_u32("none").unwrap_err(), "\"none\" is missing"),
        (file.req_u32("list").unwrap_err(), "\"list\" is an array of 2 elements where a whole number"),
        (file.opt_u32("minus").unwrap_err(), "\"minus\" is the i32 -1 where a whole number"),
        (file.req_u32("large").unwrap_err(), "\"large\" is the u64 4294967296 where a whole number"),
        (file.req_f32("nan").unwrap_err(), "\"nan\" is the f32 NaN where a finite"),
        (file.opt_f32("byte").unwrap_err(), "\"byte\" is the u8 7 where a finite"),
        (file.req_str("flag").unwrap_err(), "\"flag\" is the bool true where a string"),
    ] {
        let message = error.to_string();
        assert!(message.starts_with("model.gguf: metadata key ") && message.contains(part), "{message}");
    }
}

#[test]
fn a_tensor_of_another_file_has_no_data() {
    let file = Gguf::open(&fixture("tiny-bitnet.i2_s.gguf")).unwrap();
    let mut other = TensorInfo::new("other", vec![1 << 40], TensorType::F32);
    assert!(file.data(&other).is_empty());
    other.offset = u64::MAX;
    assert!(file.data(&other).is_empty());
    let error = file.dequantize(&other, 0..1, I2sLayout::X86_64, &mut []).unwrap_err().to_string();
    assert!(error.contains("tiny-bitnet.i2_s.gguf: tensor \"other\": rows 0 to 1"), "{error}");
}

// --- Seeds of the fuzzer ---

/// Small valid files with every metadata type and every tensor type, for fuzz/seeds/gguf_read.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let metadata = [
        ("general.architecture", Value::String("bitnet".into())),
        ("general.alignment", Value::U32(8)),
        ("u8", Value::U8(1)),
        ("i8", Value::I8(-1)),
        ("u16", Value::U16(2)),
        ("i16", Value::I16(-2)),
        ("i32", Value::I32(-3)),
        ("f32", Value::F32(0.5)),
        ("bool", Value::Bool(true)),
        ("u64", Value::U64(4)),
        ("i64", Value::I64(-4)),
        ("f64", Value::F64(0.25)),
        ("numbers", Value::Array(Array::U16(vec![1, 2, 3]))),
        ("words", Value::Array(Array::String(vec!["a".into(), "é".into()]))),
        ("nested", Value::Array(Array::Array(vec![Array::Bool(vec![true]), Array::F64(vec![])]))),
    ]
    .map(|(key, value)| (key.to_string(), value));
    let write = |metadata: &[(String, Value)], types: &[TensorType]| {
        let tensors: Vec<_> = types.iter().map(|ty| TensorInfo::new(ty.name(), vec![256, 2], *ty)).collect();
        let mut writer = Writer::new(Vec::new(), "seed", metadata, tensors).unwrap();
        for tensor in writer.tensors().to_vec() {
            // Codes that are valid trits everywhere, and finite scales.
            let data = vec![0b01_10_00_01; tensor.byte_len().unwrap() as usize];
            writer.write_tensor_bytes(&data).unwrap();
        }
        writer.finish().unwrap()
    };
    let mut version_2 = write(&metadata, &[TensorType::I2S]);
    version_2[4] = 2;
    let mut seeds =
        vec![("metadata.gguf", write(&metadata, &[TensorType::F32])), ("version_2.gguf", version_2)];
    for (ty, name) in TensorType::ALL.iter().zip([
        "f32.gguf",
        "f16.gguf",
        "bf16.gguf",
        "q8_0.gguf",
        "q6_k.gguf",
        "tq1_0.gguf",
        "tq2_0.gguf",
        "i2_s.gguf",
    ]) {
        seeds.push((name, write(&[], &[*ty])));
    }
    seeds.push(("all_types.gguf", write(&[], &TensorType::ALL)));
    seeds
}

#[test]
fn the_fuzzer_starts_from_these_seeds() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/gguf_read");
    let update = std::env::var_os("UPDATE_SEEDS").is_some();
    for (name, bytes) in seeds() {
        let file = Gguf::from_bytes(bytes.clone(), name).unwrap();
        for tensor in file.tensors() {
            let mut out = vec![0.0; 512];
            file.dequantize(tensor, 0..2, I2sLayout::X86_64, &mut out).unwrap();
        }
        let path = directory.join(name);
        if update {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(kept == bytes, "{name} is out of date: run this test with UPDATE_SEEDS=1");
    }
}
