//! Products of one matrix on one thread, by model, kernel, instruction set and shape (rows x columns):
//!
//! ```text
//! gemv-700M/i2_s/avx512-vnni/4096x1536         one token, bytes of packed weights a second
//! gemm-700M/i2_s/avx512-vnni/4096x1536/128     128 tokens, multiply-accumulates ("elements") a second
//! ```
//!
//! The shapes are those of the linear layers of 700M, 2B4T and 7B. A GEMV is to be held against the
//! machine's read bandwidth: each is repeated over matrices that together exceed the last-level cache. A
//! GEMM reads the weights once for all its tokens and is bound by arithmetic, so one matrix will do.
//!
//! Every kernel is there in every instruction set of the CPU, with one exception: plain Rust (`scalar`, and
//! with it the whole of `fp32-naive`) multiplies single tokens with the shapes of 700M only. It needs
//! milliseconds for those and up to a minute for a product of the largest kind.
//!
//! All of it takes some ten minutes on two cores, a part of it: `cargo bench -p bitjoule-kernels gemv-7B/tl`.
//! What is filtered out is not packed either.

use std::convert::Infallible;
use std::time::Duration;

use bitjoule_kernels::{
    ArenaWriter, Format, Isa, Kernel, Matrix, PANEL_ROWS, PackedMatrix, Scratch, TokenInput,
};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

/// More than the last-level cache that one core fills on the machines this is meant for.
const WORKING_SET: usize = 128 << 20;

/// Rows and columns of a matrix.
type Shape = (usize, usize);

/// A model's attention (queries and outputs), gate and up, and down.
const MODELS: [(&str, [Shape; 3]); 3] = [
    ("700M", [(1536, 1536), (4096, 1536), (1536, 4096)]),
    ("2B4T", [(2560, 2560), (6912, 2560), (2560, 6912)]),
    ("7B", [(4096, 4096), (12032, 4096), (4096, 12032)]),
];

/// Where the shape that a GEMM is measured with, gate and up, is among a model's.
const GEMM_SHAPE: usize = 1;

/// Tokens of a GEMM.
const TOKENS: [usize; 4] = [8, 32, 128, 512];

/// The only model whose shapes plain Rust is measured with.
const SCALAR_MODEL: &str = "700M";

/// Trits that rows are cut from, each at another place.
fn trits(cols: usize) -> Vec<i8> {
    let hash = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 16;
    (0..cols + 4093).map(|i| (hash(i) % 3) as i8 - 1).collect()
}

/// `count` matrices in one arena, as a model stores them.
fn matrices(format: Format, isa: Isa, shape: Shape, count: usize) -> Vec<Matrix> {
    let (rows, cols) = shape;
    let trits = trits(cols);
    let row_of = |row: usize| &trits[row * 7919 % 4093..][..cols];
    let len = ArenaWriter::block_len(format.packed_len(rows, cols)) * count;
    let mut arena = ArenaWriter::new(len).expect("memory for the benchmark");
    let packed: Vec<_> = (0..count)
        .map(|_| {
            let packed: Result<_, Infallible> = if format.is_ternary() {
                PackedMatrix::pack_ternary(&mut arena, format, isa, shape, 0.01, |range, out| {
                    for (row, out) in range.zip(out.chunks_exact_mut(cols)) {
                        out.copy_from_slice(row_of(row));
                    }
                    Ok(())
                })
            } else {
                PackedMatrix::pack_floats(&mut arena, format, isa, shape, 0.01, |range, out| {
                    for (row, out) in range.zip(out.chunks_exact_mut(cols)) {
                        out.iter_mut().zip(row_of(row)).for_each(|(w, t)| *w = f32::from(*t));
                    }
                    Ok(())
                })
            };
            packed.unwrap_or_else(|e| match e {})
        })
        .collect();
    let arena = arena.finish();
    packed.into_iter().map(|m| m.finish(arena.clone())).collect()
}

fn inputs(format: Format, isa: Isa, cols: usize, n: usize) -> Vec<TokenInput> {
    (0..n)
        .map(|t| {
            let mut input = TokenInput::new(cols);
            for (c, x) in input.values_mut(cols).iter_mut().enumerate() {
                *x = ((c * 31 + t * 17) % 257) as f32 / 100.0 - 1.28;
            }
            input.quantize(isa);
            // Products of several tokens look nothing up, unless the tables are what the kernel computes.
            if n == 1 || !format.is_exact() {
                input.tabulate(isa, format, cols);
            }
            input
        })
        .collect()
}

/// What a benchmark multiplies.
struct Product {
    matrices: Vec<Matrix>,
    inputs: Vec<TokenInput>,
    scratch: Scratch,
    out: Vec<f32>,
    turn: usize,
}

impl Product {
    fn new(kernel: Kernel, isa: Isa, shape: Shape, tokens: usize) -> Self {
        let (format, (rows, cols)) = (kernel.format(), shape);
        // Plain Rust is too slow to notice where the weights come from.
        let from_memory = tokens == 1 && isa != Isa::SCALAR;
        let count = if from_memory { WORKING_SET.div_ceil(format.packed_len(rows, cols)) } else { 1 };
        Product {
            matrices: matrices(format, isa, shape, count),
            inputs: inputs(format, isa, cols, tokens),
            scratch: Scratch::new(cols),
            out: vec![0.0; rows.next_multiple_of(PANEL_ROWS) * tokens],
            turn: 0,
        }
    }

    /// Multiplies the next matrix.
    fn run(&mut self) -> f32 {
        let [matrix, next] = [0, 1].map(|i| &self.matrices[(self.turn + i) % self.matrices.len()]);
        self.turn += 1;
        self.scratch.expect(next, 0..next.panels());
        matrix.mul(0..matrix.panels(), &self.inputs, &mut self.scratch, &mut self.out);
        self.out[0]
    }
}

fn gemv(c: &mut Criterion) {
    for (model, shapes) in MODELS {
        let mut group = c.benchmark_group(format!("gemv-{model}"));
        group.sampling_mode(SamplingMode::Flat);
        for kernel in Kernel::ALL {
            for isa in kernel.isas().into_iter().filter(|i| *i != Isa::SCALAR || model == SCALAR_MODEL) {
                for shape in shapes {
                    let (rows, cols) = shape;
                    group.throughput(Throughput::Bytes(kernel.format().packed_len(rows, cols) as u64));
                    let id = BenchmarkId::new(format!("{kernel}/{isa}"), format!("{rows}x{cols}"));
                    let mut product = None;
                    group.bench_function(id, |b| {
                        let product = product.get_or_insert_with(|| Product::new(kernel, isa, shape, 1));
                        b.iter(|| product.run());
                    });
                }
            }
        }
        group.finish();
    }
}

fn gemm(c: &mut Criterion) {
    for (model, shapes) in MODELS {
        let shape = shapes[GEMM_SHAPE];
        let (rows, cols) = shape;
        let mut group = c.benchmark_group(format!("gemm-{model}"));
        group.sampling_mode(SamplingMode::Flat);
        for kernel in Kernel::ALL {
            for isa in kernel.isas().into_iter().filter(|i| *i != Isa::SCALAR) {
                for tokens in TOKENS {
                    group.throughput(Throughput::Elements((rows * cols * tokens) as u64));
                    let id = BenchmarkId::new(format!("{kernel}/{isa}/{rows}x{cols}"), tokens);
                    let mut product = None;
                    group.bench_function(id, |b| {
                        let product = product.get_or_insert_with(|| Product::new(kernel, isa, shape, tokens));
                        b.iter(|| product.run());
                    });
                }
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .nresamples(2000);
    targets = gemv, gemm
}
criterion_main!(benches);
