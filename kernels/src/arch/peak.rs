//! Multiply-accumulates and nothing else, in plain Rust: see [`crate::peak`].

use std::hint::black_box;

/// Products side by side: four vectors of every common width, in no more registers than there are.
const LANES: usize = 32;

/// Multiply-accumulates of one turn of [`int8`] and of [`f32`].
pub(crate) const MACS: u64 = LANES as u64;

/// The plain loop of a ternary kernel on operands in the first-level cache; the compiler makes of it
/// what it makes of the kernels.
pub(crate) fn int8(turns: u64) -> i32 {
    let (codes, q) = ([2u8; LANES], std::array::from_fn::<i8, LANES, _>(|i| i as i8 - 16));
    let mut sum = 0i32;
    for _ in 0..turns {
        let (codes, q) = (black_box(&codes), black_box(&q));
        let products = codes.iter().zip(q).map(|(code, q)| i32::from(*code) * i32::from(*q));
        sum = sum.wrapping_add(products.sum());
    }
    sum
}

/// The plain loop of a float kernel, likewise.
pub(crate) fn f32(turns: u64) -> f32 {
    let weights: [f32; LANES] = std::array::from_fn(|i| i as f32 - 16.0);
    let mut sums = [0f32; LANES];
    for _ in 0..turns {
        // The sums alternate in sign and stay small.
        let (weights, x) = (black_box(&weights), black_box(-0.5));
        for (sum, w) in sums.iter_mut().zip(weights) {
            *sum += w * x;
        }
    }
    sums.iter().sum()
}
