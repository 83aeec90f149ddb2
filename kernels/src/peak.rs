//! The most multiply-accumulates that an instruction set can do: a loop of nothing else, on registers.
//!
//! No kernel of that instruction set multiplies faster. A kernel that looks sums up in tables does not
//! multiply, and may.

use std::hint::black_box;

use crate::Isa;
use crate::arch::peak as scalar;
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::peak as x86_64;
use crate::isa::Level;

/// Kind of a multiply-accumulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// int8 x int8, summed as integers: what ternary kernels do.
    Int8,
    /// f32 x f32, summed in f32: what float kernels do, and attention.
    F32,
}

/// Does at least `macs` multiply-accumulates on the calling thread and returns how many it did.
pub fn run(isa: Isa, arithmetic: Arithmetic, macs: u64) -> u64 {
    let turns = |of_a_turn: u64| macs.div_ceil(of_a_turn);
    let (turns, of_a_turn) = match (isa.level(), arithmetic) {
        // The compiler's vectors are NEON's; there is no code by hand for its dot products yet.
        #[cfg(target_arch = "aarch64")]
        (Level::Neon | Level::NeonDotprod, Arithmetic::Int8) => {
            let turns = turns(scalar::MACS);
            black_box(scalar::int8(turns));
            (turns, scalar::MACS)
        }
        #[cfg(target_arch = "aarch64")]
        (Level::Neon | Level::NeonDotprod, Arithmetic::F32) => {
            let turns = turns(scalar::MACS);
            black_box(scalar::f32(turns));
            (turns, scalar::MACS)
        }
        (Level::Scalar, Arithmetic::Int8) => {
            let turns = turns(scalar::MACS);
            black_box(scalar::int8(turns));
            (turns, scalar::MACS)
        }
        (Level::Scalar, Arithmetic::F32) => {
            let turns = turns(scalar::MACS);
            black_box(scalar::f32(turns));
            (turns, scalar::MACS)
        }
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Arithmetic::Int8) => {
            let turns = turns(x86_64::AVX2_INT8_MACS);
            // SAFETY: an `Isa` of this level exists only if the CPU has its features.
            black_box(unsafe { x86_64::avx2_int8(turns) });
            (turns, x86_64::AVX2_INT8_MACS)
        }
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Arithmetic::F32) => {
            let turns = turns(x86_64::AVX2_F32_MACS);
            // SAFETY: as above.
            black_box(unsafe { x86_64::avx2_f32(turns) });
            (turns, x86_64::AVX2_F32_MACS)
        }
        #[cfg(avx512)]
        (Level::Avx512Vnni | Level::Avx512Vbmi, Arithmetic::Int8) => {
            let turns = turns(x86_64::AVX512_INT8_MACS);
            // SAFETY: as above.
            black_box(unsafe { x86_64::avx512_int8(turns) });
            (turns, x86_64::AVX512_INT8_MACS)
        }
        #[cfg(avx512)]
        (Level::Avx512Vnni | Level::Avx512Vbmi, Arithmetic::F32) => {
            let turns = turns(x86_64::AVX512_F32_MACS);
            // SAFETY: as above.
            black_box(unsafe { x86_64::avx512_f32(turns) });
            (turns, x86_64::AVX512_F32_MACS)
        }
    };
    turns * of_a_turn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_asked_for_is_done() {
        for isa in Isa::available() {
            for arithmetic in [Arithmetic::Int8, Arithmetic::F32] {
                for macs in [0, 1, 1000, 1_000_001] {
                    let done = run(isa, arithmetic, macs);
                    assert!((macs..macs + 1024).contains(&done), "{isa} {arithmetic:?}: {done} for {macs}");
                }
            }
        }
    }
}
