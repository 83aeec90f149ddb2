//! x86-64: AVX2 (with FMA and F16C), and AVX-512 with VNNI.

pub(crate) mod avx2;
// Set by build.rs where the compiler has the intrinsics.
#[cfg(avx512)]
pub(crate) mod avx512;
pub(crate) mod peak;

/// Asks for the cache lines of `bytes`, without waiting for them.
pub(crate) fn prefetch(bytes: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in bytes.chunks(64) {
        // SAFETY: SSE is part of x86-64, and a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}
