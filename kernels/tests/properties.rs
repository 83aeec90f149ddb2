//! Every instruction set against the scalar specification, over odd shapes and extreme values.

use bitjoule_kernels::vector::{self, Attend, KvElement, LANES};
use bitjoule_kernels::{ArenaWriter, Format, Isa, Matrix, PANEL_ROWS, PackedMatrix, Scratch, TokenInput};
use half::f16;
use proptest::prelude::*;

fn ternary(format: Format, isa: Isa, rows: usize, cols: usize, scale: f32, trits: &[i8]) -> Matrix {
    let mut arena = ArenaWriter::new(format.packed_len(rows, cols)).unwrap();
    let packed = PackedMatrix::pack_ternary(&mut arena, format, isa, (rows, cols), scale, |range, out| {
        out.copy_from_slice(&trits[range.start * cols..range.end * cols]);
        Ok::<_, ()>(())
    });
    packed.unwrap().finish(arena.finish())
}

fn floats(format: Format, isa: Isa, rows: usize, cols: usize, scale: f32, weights: &[f32]) -> Matrix {
    let mut arena = ArenaWriter::new(format.packed_len(rows, cols)).unwrap();
    let packed = PackedMatrix::pack_floats(&mut arena, format, isa, (rows, cols), scale, |range, out| {
        out.copy_from_slice(&weights[range.start * cols..range.end * cols]);
        Ok::<_, ()>(())
    });
    packed.unwrap().finish(arena.finish())
}

fn token(x: &[f32]) -> TokenInput {
    let mut input = TokenInput::new(x.len());
    input.values_mut(x.len()).copy_from_slice(x);
    input.quantize(Isa::SCALAR);
    input
}

/// The product, computed in two parts as two threads would, from inputs that are tabulated first.
fn product(matrix: &Matrix, inputs: &[TokenInput]) -> Vec<f32> {
    let mut inputs = inputs.to_vec();
    inputs.iter_mut().for_each(|i| i.tabulate(matrix.isa(), matrix.format(), matrix.cols()));
    let unit = inputs.len() * PANEL_ROWS;
    let mut out = vec![f32::NAN; matrix.panels() * unit];
    let (panels, cut) = (matrix.panels(), matrix.panels() / 3);
    let (first, second) = out.split_at_mut(cut * unit);
    let mut scratch = Scratch::new(matrix.cols());
    matrix.mul(0..cut, &inputs, &mut scratch, first);
    matrix.mul(cut..panels, &inputs, &mut scratch, second);
    out
}

/// The weights of a block of ggml's Q6_K or Q8_0, by its definition.
fn block_weights(q6: bool, block: &[u8]) -> Vec<f64> {
    let scale = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f64();
    if !q6 {
        return block[2..].iter().map(|q| scale(0) * f64::from(*q as i8)).collect();
    }
    let weight = |j: usize| {
        let (half, k, l) = (j / 128, j % 128 / 32, j % 32);
        let low = block[64 * half + 32 * (k % 2) + l] >> (4 * (k / 2)) & 0xf;
        let high = block[128 + 32 * half + l] >> (2 * k) & 3;
        scale(208) * f64::from(block[192 + j / 16] as i8) * (f64::from(high << 4 | low) - 32.0)
    };
    (0..256).map(weight).collect()
}

/// Output of row `r` for input `t` in the panel-major result.
fn at(out: &[f32], n: usize, r: usize, t: usize) -> f32 {
    out[(r / PANEL_ROWS * n + t) * PANEL_ROWS + r % PANEL_ROWS]
}

/// Activations of every kind: ordinary, all at one extreme, mostly zero, huge, tiny.
fn activations(cols: usize) -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        prop::collection::vec(-3.0f32..3.0, cols),
        Just(vec![127.0; cols]),
        Just(vec![-127.0; cols]),
        prop::collection::vec(prop_oneof![Just(0.0f32), Just(1e-20), Just(1e30), Just(-1e30)], cols),
    ]
}

fn shape() -> impl Strategy<Value = (usize, usize, usize)> {
    (1usize..100, prop_oneof![1usize..70, 1000usize..1100, Just(4096usize)], 1usize..30)
}

/// 96 cases of each property, or as many as PROPTEST_CASES says: an emulated CPU is slow.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: 96, ..config } }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn ternary_products_are_exact_on_every_isa(
        (trits, inputs, rows, cols) in shape().prop_flat_map(|(rows, cols, n)| (
            prop_oneof![
                prop::collection::vec(-1i8..=1, rows * cols),
                Just(vec![1i8; rows * cols]),
                Just(vec![-1i8; rows * cols]),
            ],
            prop::collection::vec(activations(cols), n),
            Just(rows),
            Just(cols),
        ))
    ) {
        let inputs: Vec<_> = inputs.iter().map(|x| token(x)).collect();
        let n = inputs.len();
        let sum = |r: usize, t: usize| -> i64 {
            let q = inputs[t].quantized().0;
            (0..cols).map(|c| i64::from(q[c]) * i64::from(trits[r * cols + c])).sum()
        };
        let want: Vec<Vec<i64>> = (0..rows).map(|r| (0..n).map(|t| sum(r, t)).collect()).collect();
        for format in Format::TERNARY.into_iter().filter(|f| f.is_exact()) {
            for isa in Isa::available() {
                let matrix = ternary(format, isa, rows, cols, 0.75, &trits);
                for (how, inputs) in [("GEMM", &inputs[..]), ("GEMV", &inputs[..1])] {
                    let out = product(&matrix, inputs);
                    for (t, input) in inputs.iter().enumerate() {
                        let factor = input.quantized().1 * 0.75;
                        for (r, want) in want.iter().enumerate() {
                            let want = want[t] as f32 * factor;
                            let got = at(&out, inputs.len(), r, t);
                            prop_assert_eq!(
                                got.to_bits(), want.to_bits(),
                                "{:?} {} {}: row {}, input {}: {} for {}", format, isa, how, r, t, got, want
                            );
                        }
                    }
                }
            }
        }
        // The lossy kernel: the same bits everywhere, and each table's sum within a unit and a half.
        let lossy = |isa| ternary(Format::Tl2Lossy, isa, rows, cols, 0.75, &trits);
        let scalar = product(&lossy(Isa::SCALAR), &inputs);
        for isa in Isa::available() {
            prop_assert_eq!(&product(&lossy(isa), &inputs), &scalar, "{}", isa);
            let single = product(&lossy(isa), &inputs[..1]);
            for r in 0..rows {
                prop_assert_eq!(at(&single, 1, r, 0).to_bits(), at(&scalar, n, r, 0).to_bits());
            }
        }
        for (t, input) in inputs.iter().enumerate() {
            let unit = f64::from(input.quantized().1 * 0.75);
            for (r, want) in want.iter().enumerate() {
                let off = (f64::from(at(&scalar, n, r, t)) / unit - want[t] as f64).abs();
                let most = (cols / 2 + 2) as f64 * 1.01 + want[t].abs() as f64 * 1e-6;
                prop_assert!(off <= most || unit == 0.0, "row {}, input {}: off by {}", r, t, off);
            }
        }
    }

    #[test]
    fn float_products_agree_with_f64(
        (weights, inputs, rows, cols) in shape().prop_flat_map(|(rows, cols, n)| (
            prop::collection::vec((-2048i32..2048).prop_map(|w| w as f32 / 64.0), rows * cols),
            prop::collection::vec(prop::collection::vec(-3.0f32..3.0, cols), n),
            Just(rows),
            Just(cols),
        ))
    ) {
        let inputs: Vec<_> = inputs.iter().map(|x| token(x)).collect();
        for format in [Format::Fp32Rows, Format::F16Panels, Format::F32Panels] {
            for isa in Isa::available() {
                let matrix = floats(format, isa, rows, cols, 0.5, &weights);
                for inputs in [&inputs[..], &inputs[..1]] {
                    let out = product(&matrix, inputs);
                    for (t, input) in inputs.iter().enumerate() {
                        for r in 0..rows {
                            let terms = (0..cols)
                                .map(|c| f64::from(weights[r * cols + c]) * f64::from(input.values()[c]) * 0.5);
                            let (sum, size) = terms.fold((0.0, 0.0), |(s, a), v| (s + v, a + v.abs()));
                            let got = f64::from(at(&out, inputs.len(), r, t));
                            prop_assert!(
                                (got - sum).abs() <= size * 1e-5 + 1e-30,
                                "{:?} {}: row {}, input {}: {} for {}", format, isa, r, t, got, sum
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn block_products_agree_with_f64(
        (q6, bytes, inputs, rows, blocks) in (any::<bool>(), 1usize..70, 1usize..6, 1usize..15).prop_flat_map(
            |(q6, rows, blocks, n)| {
                // Five blocks of 256 columns are more than are converted at a time.
                let (cols, bytes) = if q6 { (256, 210) } else { (32, 34) };
                (
                    Just(q6),
                    prop::collection::vec(any::<u8>(), rows * blocks * bytes),
                    prop::collection::vec(prop::collection::vec(-3.0f32..3.0, blocks * cols), n),
                    Just(rows),
                    Just(blocks),
                )
            }
        )
    ) {
        let (format, block_cols, block_bytes, scale_at) =
            if q6 { (Format::Q6K, 256, 210, 208) } else { (Format::Q8_0, 32, 34, 0) };
        let mut bytes = bytes;
        for block in bytes.chunks_exact_mut(block_bytes) {
            // Any scale of either sign that is neither infinite nor a NaN.
            block[scale_at + 1] &= 0xbb;
        }
        let (cols, row_bytes) = (blocks * block_cols, blocks * block_bytes);
        let weights: Vec<f64> = bytes.chunks_exact(block_bytes).flat_map(|b| block_weights(q6, b)).collect();
        let inputs: Vec<_> = inputs.iter().map(|x| token(x)).collect();
        for isa in Isa::available() {
            let mut arena = ArenaWriter::new(format.packed_len(rows, cols)).unwrap();
            let packed = PackedMatrix::pack_blocks(&mut arena, format, isa, (rows, cols), |range, out| {
                out.copy_from_slice(&bytes[range.start * row_bytes..range.end * row_bytes]);
                Ok::<_, ()>(())
            });
            let matrix = packed.unwrap().finish(arena.finish());
            prop_assert_eq!(matrix.payload_bytes(), (rows * row_bytes) as u64);
            let mut row = vec![0.0; cols];
            for r in 0..rows {
                matrix.row(r, &mut row);
                for (got, want) in row.iter().zip(&weights[r * cols..]) {
                    prop_assert_eq!(f64::from(*got), *want, "row {}", r);
                }
            }
            for inputs in [&inputs[..], &inputs[..1]] {
                let out = product(&matrix, inputs);
                for (t, input) in inputs.iter().enumerate() {
                    for r in 0..rows {
                        let terms = (0..cols).map(|c| weights[r * cols + c] * f64::from(input.values()[c]));
                        let (sum, size) = terms.fold((0.0, 0.0), |(s, a), v| (s + v, a + v.abs()));
                        let got = f64::from(at(&out, inputs.len(), r, t));
                        prop_assert!(
                            (got - sum).abs() <= size * 1e-5 + 1e-30,
                            "{:?} {}: row {}, input {}: {} for {}", format, isa, r, t, got, sum
                        );
                    }
                }
                for r in rows..matrix.panels() * PANEL_ROWS {
                    prop_assert_eq!(at(&out, inputs.len(), r, 0), 0.0, "padding row {}", r);
                }
            }
        }
    }

    #[test]
    fn rows_come_back((rows, cols, _) in shape(), seed in any::<u32>()) {
        let trits: Vec<i8> =
            (0..rows * cols).map(|i| ((i as u32 ^ seed).wrapping_mul(2_654_435_761) >> 20) as i8 % 3 % 2).collect();
        let weights: Vec<f32> = trits.iter().map(|&t| f32::from(t)).collect();
        let mut row = vec![0.0; cols];
        let isas = Isa::available();
        let ternary = isas.iter().flat_map(|&isa| {
            Format::TERNARY.map(|format| ternary(format, isa, rows, cols, 0.5, &trits))
        });
        let floats = [Format::Fp32Rows, Format::F16Panels, Format::F32Panels]
            .map(|format| floats(format, Isa::best(), rows, cols, 0.5, &weights));
        for matrix in ternary.chain(floats) {
            for r in [0, rows / 2, rows - 1] {
                matrix.row(r, &mut row);
                for c in 0..cols {
                    prop_assert_eq!(row[c], weights[r * cols + c] * 0.5, "{:?} {},{}", matrix.format(), r, c);
                }
            }
        }
    }

    #[test]
    fn vector_operations_agree_bit_for_bit(
        x in (1usize..300).prop_flat_map(activations),
        w in prop::collection::vec(-2.0f32..2.0, 300),
    ) {
        let n = x.len();
        let run = |isa: Isa| {
            let mut normed = vec![0.0; n];
            vector::rms_norm(isa, &x, &w[..n], 1e-5, &mut normed);
            let mut q = vec![0; n];
            let (step, sum) = vector::quantize(isa, &x, &mut q);
            let mut silu = w[..n].to_vec();
            vector::silu_mul(isa, &x, &mut silu);
            let mut relu = w[..n].to_vec();
            vector::relu2_mul(isa, &x, &mut relu);
            let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            (bits(normed), q, step.to_bits(), sum, bits(silu), bits(relu))
        };
        let scalar = run(Isa::SCALAR);
        for isa in Isa::available() {
            prop_assert_eq!(&run(isa), &scalar, "{}", isa);
        }
        // And the scalar ones against the definitions.
        let max = x.iter().fold(1e-5f32, |m, v| m.max(v.abs()));
        for (q, x) in scalar.1.iter().zip(&x) {
            prop_assert_eq!(f32::from(*q), (x * (127.0 / max)).round_ties_even());
        }
        for ((got, x), w) in scalar.4.iter().zip(&x).zip(&w) {
            let want = f64::from(*w) * f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
            let got = f64::from(f32::from_bits(*got));
            prop_assert!((got - want).abs() <= want.abs() * 1e-6 + 1e-30, "silu of {}: {} for {}", x, got, want);
        }
    }

    #[test]
    fn attention_agrees(
        (query, context, dim) in (1usize..9, 1usize..40).prop_flat_map(|(vectors, n)| {
            let dim = vectors * LANES;
            (
                prop::collection::vec(-2.0f32..2.0, dim),
                prop::collection::vec(-2.0f32..2.0, 2 * n * dim),
                Just(dim),
            )
        })
    ) {
        attention::<f32>(&query, &context, dim, |x| x)?;
        attention::<f16>(&query, &context, dim, f16::to_f32)?;
    }
}

fn attention<T: KvElement>(
    query: &[f32],
    context: &[f32],
    dim: usize,
    to_f32: impl Fn(T) -> f32,
) -> Result<(), TestCaseError> {
    // Keys then values; the last of each is the token's own, which is not rounded.
    let (keys, values) = context.split_at(context.len() / 2);
    let n = keys.len() / dim - 1;
    let (own_key, own_value) = (&keys[n * dim..], &values[n * dim..]);
    let rounded = |x: &[f32]| x[..n * dim].iter().map(|&x| T::from_f32(x)).collect::<Vec<T>>();
    let (cached_keys, cached_values) = (rounded(keys), rounded(values));
    let run = |isa: Isa| {
        let (mut scores, mut out) = (vec![0.0; n + 1], vec![f32::NAN; dim]);
        let args = Attend {
            query,
            keys: &cached_keys,
            values: &cached_values,
            own_key,
            own_value,
            scale: 0.125,
            scores: &mut scores,
            out: &mut out,
        };
        vector::attend(isa, args);
        out
    };
    let scalar = run(Isa::SCALAR);
    for isa in Isa::available() {
        prop_assert_eq!(&run(isa), &scalar, "{}", isa);
    }
    let all = |cached: &[T], own: &[f32]| {
        let cached = cached.iter().map(|x| f64::from(to_f32(*x)));
        cached.chain(own.iter().map(|x| f64::from(*x))).collect::<Vec<f64>>()
    };
    let (keys, values) = (all(&cached_keys, own_key), all(&cached_values, own_value));
    let scores: Vec<f64> =
        keys.chunks(dim).map(|k| k.iter().zip(query).map(|(k, q)| k * f64::from(*q) * 0.125).sum()).collect();
    let weights: Vec<f64> = scores.iter().map(|s| s.exp()).collect();
    let total: f64 = weights.iter().sum();
    for d in 0..dim {
        let want: f64 = weights.iter().enumerate().map(|(i, w)| w / total * values[i * dim + d]).sum();
        prop_assert!((f64::from(scalar[d]) - want).abs() < 2e-5, "{} for {}", scalar[d], want);
    }
    Ok(())
}

/// Several tokens at once against one by one, bit for bit.
fn attention_of_several<T: KvElement>(data: &[f32], dim: usize, n: usize, tokens: usize) {
    // Queries, keys and values; the keys and values of the tokens are computed and cached, but the last's.
    let (query, context) = data.split_at(tokens * dim);
    let (keys, values) = context.split_at(context.len() / 2);
    let (own_key, own_value) = (&keys[n * dim..], &values[n * dim..]);
    for isa in Isa::available() {
        let cached = |x: &[f32]| {
            let mut cached = vec![T::from_f32(f32::NAN); (n + tokens - 1) * dim];
            vector::to_cache(isa, &x[..(n + tokens - 1) * dim], &mut cached);
            assert!(cached.iter().zip(x).all(|(c, x)| c.to_f32() == T::from_f32(*x).to_f32()), "{isa}");
            cached
        };
        let (cached_keys, cached_values) = (cached(keys), cached(values));
        let run = |first: usize, tokens: usize| {
            let (before, own) = (n + first, first * dim..(first + tokens) * dim);
            let mut scores = vec![f32::NAN; tokens * (before + tokens)];
            let mut out = vec![f32::NAN; tokens * dim];
            let args = Attend {
                query: &query[own.clone()],
                keys: &cached_keys[..(before + tokens - 1) * dim],
                values: &cached_values[..(before + tokens - 1) * dim],
                own_key: &own_key[own.clone()],
                own_value: &own_value[own],
                scale: 0.125,
                scores: &mut scores,
                out: &mut out,
            };
            vector::attend_tokens(isa, tokens, args);
            out
        };
        let single: Vec<f32> = (0..tokens).flat_map(|t| run(t, 1)).collect();
        assert_eq!(run(0, tokens), single, "{isa}, {tokens} tokens after {n}, dimension {dim}");
    }
}

#[test]
fn attention_of_several_tokens_is_that_of_each() {
    let mut state = 1u32;
    for dim in (1..=9).map(|vectors| vectors * LANES) {
        for n in [0, 1, 3, 4, 7, 33] {
            for tokens in 1..=vector::ATTEND_TOKENS {
                let data: Vec<f32> = (0..(tokens + 2 * (n + tokens)) * dim)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
                    })
                    .collect();
                attention_of_several::<f32>(&data, dim, n, tokens);
                attention_of_several::<f16>(&data, dim, n, tokens);
            }
        }
    }
}

#[test]
fn rotation_is_that_of_complex_numbers() {
    let x: Vec<f32> = (0..70).map(|i| (i as f32 * 0.7).sin()).collect();
    let angles: Vec<f32> = (0..35).map(|i| i as f32 * 0.3).collect();
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    let run = |isa: Isa| {
        let mut x = x.clone();
        let (a, b) = x.split_at_mut(35);
        vector::rotate(isa, a, b, &cos, &sin);
        x
    };
    let scalar = run(Isa::SCALAR);
    for i in 0..35 {
        assert_eq!(scalar[i], x[i] * cos[i] - x[i + 35] * sin[i]);
        assert_eq!(scalar[i + 35], x[i] * sin[i] + x[i + 35] * cos[i]);
    }
    for isa in Isa::available() {
        assert_eq!(run(isa), scalar, "{isa}");
    }
}

#[test]
fn a_nan_is_never_hidden() {
    let mut x = vec![1.0; 64];
    x[63] = f32::NAN;
    for isa in Isa::available() {
        let mut input = TokenInput::new(64);
        input.values_mut(64).copy_from_slice(&x);
        input.quantize(isa);
        for format in Format::TERNARY {
            let matrix = ternary(format, isa, 40, 64, 1.0, &vec![1; 40 * 64]);
            let out = product(&matrix, std::slice::from_ref(&input));
            assert!(out[..40].iter().all(|y| y.is_nan()), "{format:?} {isa}: {out:?}");
        }
        let mut up = vec![1.0; 64];
        vector::silu_mul(isa, &x, &mut up);
        assert!(up[63].is_nan(), "{isa}: silu");
        let mut up = vec![1.0; 64];
        vector::relu2_mul(isa, &x, &mut up);
        assert!(up[63].is_nan(), "{isa}: relu2");
    }
}

#[test]
fn isa_names_are_checked() {
    let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
    // Read by ci/aarch64.sh, which runs these tests on CPUs with and without some instructions.
    println!("instruction sets: {}", names.join(" "));
    assert_eq!(Isa::by_name("auto"), Ok(Isa::best()));
    assert_eq!(Isa::by_name("scalar"), Ok(Isa::SCALAR));
    let unknown = Isa::by_name("avx3").unwrap_err().to_string();
    assert!(unknown.contains("avx3") && unknown.contains("scalar"), "{unknown}");
}

#[test]
fn reading_sums_every_word() {
    for n in [0, 1, 31, 32, 33, 297] {
        let words: Vec<u64> = (0..n).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let want = words.iter().fold(0u64, |a, b| a.wrapping_add(*b));
        for isa in Isa::available() {
            assert_eq!(vector::read(isa, &words), want, "{isa}, {n} words");
        }
    }
}

#[test]
#[should_panic(expected = "no whole number of 256")]
fn blocks_are_whole() {
    let mut arena = ArenaWriter::new(1 << 20).unwrap();
    let _ =
        PackedMatrix::pack_blocks(&mut arena, Format::Q6K, Isa::SCALAR, (32, 300), |_, _| Ok::<_, ()>(()));
}
