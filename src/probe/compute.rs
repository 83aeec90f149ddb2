//! The peak of multiply-accumulates of the machine: the other wall, which prefill runs against.
//!
//! Each thread multiplies and adds on registers ([`bitjoule_kernels::peak`]), with int8 and with f32,
//! in the instruction set of the kernels that are measured beside it.

use std::time::{Duration, Instant};

use bitjoule_kernels::Isa;
use bitjoule_kernels::peak::{self, Arithmetic};

use super::team;
use crate::Result;
use crate::units::MacPerS;

/// How long a pass takes about: long against the start of the threads, short against what a neighbour
/// on the host does.
const PASS: Duration = Duration::from_millis(20);

/// What [`measure`] found: rates of all threads together.
#[derive(Debug, Clone, PartialEq)]
pub struct Peak {
    /// int8 multiply-accumulates of each pass, in the order measured.
    pub int8: Vec<MacPerS>,
    /// The same of f32.
    pub f32: Vec<MacPerS>,
}

/// Multiplies with `threads` threads in the instruction set `isa`, `passes` times 20 ms with int8 and
/// as often with f32.
///
/// # Errors
/// [`crate::Error::Input`] if `threads` or `passes` is 0 or absurd; [`crate::Error::Environment`] if
/// threads are refused.
pub fn measure(isa: Isa, threads: u32, passes: u32) -> Result<Peak> {
    team::check("compute peak", threads, passes)?;
    let of = |arithmetic| {
        let macs = macs_of_a_pass(isa, arithmetic);
        let parts = vec![0u64; threads as usize];
        // A short one first: some CPUs take a while to power wide vectors up.
        let windows = team::passes(
            "compute peak",
            parts,
            passes,
            |_, _| {
                peak::run(isa, arithmetic, macs / 8);
            },
            |done| *done = peak::run(isa, arithmetic, macs),
        )?;
        // What is done beyond `macs` is less than a thousandth.
        let all = macs as f64 * f64::from(threads);
        Ok::<_, crate::Error>(windows.iter().map(|w| MacPerS(all / w.as_secs_f64())).collect())
    };
    Ok(Peak { int8: of(Arithmetic::Int8)?, f32: of(Arithmetic::F32)? })
}

/// As many as one thread does in [`PASS`], found by doubling.
pub(super) fn macs_of_a_pass(isa: Isa, arithmetic: Arithmetic) -> u64 {
    let mut macs = 1u64 << 22;
    loop {
        let start = Instant::now();
        let done = peak::run(isa, arithmetic, macs);
        let took = start.elapsed();
        if took >= PASS / 4 {
            return (done as f64 * PASS.as_secs_f64() / took.as_secs_f64()) as u64;
        }
        macs *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_for_each_pass_and_kind() {
        for isa in Isa::available() {
            for threads in [1, 3] {
                let found = measure(isa, threads, 2).unwrap();
                for rates in [found.int8, found.f32] {
                    assert_eq!(rates.len(), 2);
                    assert!(rates.iter().all(|r| r.0.is_finite() && r.0 > 0.0), "{isa}: {rates:?}");
                }
            }
        }
    }

    #[test]
    fn absurd_wishes_are_refused() {
        for (threads, passes) in [(0, 1), (1, 0), (5000, 1)] {
            assert_eq!(measure(Isa::SCALAR, threads, passes).unwrap_err().exit_code(), 2);
        }
    }
}
