//! Products of one matrix, by kernel, instruction set and shape: `gemv/i2_s/avx512-vnni/1536x4096`.
//!
//! Throughput of a GEMV is in bytes of packed weights, to be held against the machine's read
//! bandwidth (each shape is repeated over a set of matrices larger than the last-level cache);
//! that of a GEMM in multiply-accumulates. One thread.

use bitjoule_kernels::{
    ArenaWriter, Format, Isa, Kernel, Matrix, PANEL_ROWS, PackedMatrix, Scratch, TokenInput,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// More than the last-level caches of the machines this is meant for share among one core.
const WORKING_SET: usize = 256 << 20;

fn trit(row: usize, col: usize) -> i8 {
    (((row * 7919 + col) as u32).wrapping_mul(2_654_435_761) >> 16) as i8 % 3 % 2
}

/// `count` matrices in one arena, as a model stores them.
fn matrices(format: Format, isa: Isa, (rows, cols): (usize, usize), count: usize) -> Vec<Matrix> {
    let shape = (rows, cols);
    let len = ArenaWriter::block_len(format.packed_len(rows, cols)) * count;
    let mut arena = ArenaWriter::new(len).expect("memory for the benchmark");
    let packed: Vec<_> = (0..count)
        .map(|_| {
            let packed: Result<_, std::convert::Infallible> = if format.is_ternary() {
                PackedMatrix::pack_ternary(&mut arena, format, isa, shape, 0.01, |range, out| {
                    for (row, out) in range.zip(out.chunks_exact_mut(cols)) {
                        out.iter_mut().enumerate().for_each(|(c, t)| *t = trit(row, c));
                    }
                    Ok(())
                })
            } else {
                PackedMatrix::pack_floats(&mut arena, format, isa, shape, 0.01, |range, out| {
                    for (row, out) in range.zip(out.chunks_exact_mut(cols)) {
                        out.iter_mut().enumerate().for_each(|(c, w)| *w = f32::from(trit(row, c)));
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
            input.tabulate(isa, format, cols);
            input
        })
        .collect()
}

fn products(c: &mut Criterion, group: &str, n: usize, shapes: &[(usize, usize)]) {
    let mut group = c.benchmark_group(group);
    for kernel in Kernel::ALL {
        let format = kernel.format();
        for &(rows, cols) in shapes {
            let bytes = format.packed_len(rows, cols);
            group.throughput(if n == 1 {
                Throughput::Bytes(bytes as u64)
            } else {
                Throughput::Elements((rows * cols * n) as u64)
            });
            let count = if n == 1 { WORKING_SET.div_ceil(bytes) } else { 1 };
            for isa in kernel.isas() {
                let set = matrices(format, isa, (rows, cols), count);
                let inputs = inputs(format, isa, cols, n);
                let mut scratch = Scratch::new(cols);
                let mut out = vec![0.0; rows.next_multiple_of(PANEL_ROWS) * n];
                let mut turn = 0;
                group.bench_function(
                    BenchmarkId::new(format!("{kernel}/{isa}"), format!("{rows}x{cols}")),
                    |b| {
                        b.iter(|| {
                            let matrix = &set[turn % set.len()];
                            turn += 1;
                            matrix.mul(0..matrix.panels(), &inputs, &mut scratch, &mut out);
                            out[0]
                        })
                    },
                );
            }
        }
    }
    group.finish();
}

fn gemv(c: &mut Criterion) {
    products(c, "gemv", 1, &[(1536, 4096), (4096, 1536)]);
}

fn gemm(c: &mut Criterion) {
    products(c, "gemm-128", 128, &[(1536, 4096)]);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_secs(1))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = gemv, gemm
}
criterion_main!(benches);
