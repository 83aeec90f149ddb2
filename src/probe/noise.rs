//! How much the machine's speed varies by itself: the same work again and again, slice by slice.
//!
//! Slices of arithmetic (the compiler's int8 loop, operands in the first-level cache) and of reading
//! memory take turns, so that a slow change of the machine meets both.

use std::hint::black_box;
use std::time::Duration;

use bitjoule_kernels::Isa;
use bitjoule_kernels::peak::{self, Arithmetic};

use super::{bandwidth, compute, team};
use crate::Result;
use crate::units::Bytes;

/// Pairs of slices that warm the machine up, from which the number of the others follows.
const WARM_UP: u32 = 2;

/// Fewest pairs that say anything about a spread, and most for which the clocks and the memory are meant.
const PAIRS: std::ops::RangeInclusive<u32> = 5..=4_000;

/// How long the slices of [`measure`] took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slices {
    /// Threads that worked.
    pub threads: u32,
    /// Of arithmetic: about 20 ms each where nothing disturbs.
    pub compute: Vec<Duration>,
    /// Of reading the whole buffer once.
    pub memory: Vec<Duration>,
}

/// Works for about `duration` with `threads` threads, pinned to a core each where there are enough: a
/// slice of arithmetic, a slice of reading a buffer of `buffer` bytes, and again. A slice lasts from the
/// moment all threads are ready until the last one is done.
///
/// # Errors
/// As [`bandwidth::measure`].
pub fn measure(threads: u32, buffer: Bytes, duration: Duration) -> Result<Slices> {
    const PROBE: &str = "self-test";
    team::check(PROBE, threads, 2 * WARM_UP)?;
    let macs = compute::macs_of_a_pass(Isa::SCALAR, Arithmetic::Int8);
    // What a thread works on: its memory, and whether it is the turn of memory.
    let mut parts: Vec<_> =
        bandwidth::parts(PROBE, threads, buffer)?.into_iter().map(|map| (map, false)).collect();
    let mut pairs = |pairs: u32, fill: bool| {
        team::passes(
            PROBE,
            parts.iter_mut().collect(),
            2 * pairs,
            |index, (map, _)| {
                if fill {
                    bandwidth::fill(map, index as u64);
                }
            },
            |(map, memory)| {
                if *memory {
                    black_box(bandwidth::read(black_box(map)));
                } else {
                    peak::run(Isa::SCALAR, Arithmetic::Int8, macs);
                }
                *memory = !*memory;
            },
        )
    };
    let pair = pairs(WARM_UP, true)?.iter().sum::<Duration>() / WARM_UP;
    let wanted = duration.as_secs_f64() / pair.as_secs_f64().max(1e-6);
    // A saturating conversion, within the bounds on both sides.
    let wanted = (wanted.round() as u32).clamp(*PAIRS.start(), *PAIRS.end());
    let (mut compute, mut memory) = (Vec::new(), Vec::new());
    for pair in pairs(wanted, false)?.chunks_exact(2) {
        compute.push(pair[0]);
        memory.push(pair[1]);
    }
    Ok(Slices { threads, compute, memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_come_in_pairs() {
        let slices = measure(2, Bytes(2_000_000), Duration::from_millis(1)).unwrap();
        assert_eq!((slices.compute.len(), slices.memory.len()), (5, 5));
        assert!(slices.compute.iter().chain(&slices.memory).all(|slice| !slice.is_zero()));
        // Twenty milliseconds of arithmetic against two megabytes: they are not mixed up.
        assert!(slices.compute.iter().min() > slices.memory.iter().min());
        assert_eq!(measure(0, Bytes(1 << 20), Duration::ZERO).unwrap_err().exit_code(), 2);
        assert_eq!(measure(2, Bytes(100), Duration::ZERO).unwrap_err().exit_code(), 2);
    }
}
