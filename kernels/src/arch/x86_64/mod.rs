//! x86-64: AVX2 (with FMA and F16C), and AVX-512 with VNNI.

pub(crate) mod ahead;
pub(crate) mod avx2;
// Set by build.rs where the compiler has the intrinsics.
#[cfg(avx512)]
pub(crate) mod avx512;
pub(crate) mod peak;
