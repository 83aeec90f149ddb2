//! Multiply-accumulates and nothing else, on registers: see [`crate::peak`].
//!
//! Enough independent sums that none waits for another on any CPU so far (two instructions a cycle at
//! a latency of five). An empty piece of assembly makes the operands unknown to the compiler without
//! an instruction, because it would take products that never change out of the loop.

#![allow(
    clippy::incompatible_msrv,
    reason = "AVX-512 intrinsics need 1.89; the rest of the crate keeps 1.85"
)]

use std::arch::asm;
use std::arch::x86_64::*;

/// Multiply-accumulates of a turn of [`avx512_int8`]: 16 instructions of 64.
#[cfg(avx512)]
pub(crate) const AVX512_INT8_MACS: u64 = 16 * 64;
/// Of a turn of [`avx512_f32`].
#[cfg(avx512)]
pub(crate) const AVX512_F32_MACS: u64 = 16 * 16;
/// Of a turn of [`avx2_int8`].
pub(crate) const AVX2_INT8_MACS: u64 = 12 * 32;
/// Of a turn of [`avx2_f32`].
pub(crate) const AVX2_F32_MACS: u64 = 12 * 8;

/// `vpdpbusd`.
///
/// # Safety
/// The CPU has AVX-512 F and VNNI.
#[cfg(avx512)]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) unsafe fn avx512_int8(turns: u64) -> i32 {
    let (mut codes, q) = (_mm512_set1_epi8(2), _mm512_set1_epi8(-3));
    let mut sums = [_mm512_setzero_si512(); 16];
    for _ in 0..turns {
        // SAFETY: no instruction at all.
        unsafe { asm!("/* {} */", inout(zmm_reg) codes, options(nomem, nostack, preserves_flags)) };
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, codes, q);
        }
    }
    _mm512_reduce_add_epi32(sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi32(a, b)))
}

/// `vfmadd` of 16 lanes.
///
/// # Safety
/// The CPU has AVX-512 F.
#[cfg(avx512)]
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn avx512_f32(turns: u64) -> f32 {
    // Each sum tends to 2: neither infinite nor denormal, which some CPUs compute more slowly.
    let (mut half, one) = (_mm512_set1_ps(0.5), _mm512_set1_ps(1.0));
    let mut sums = [_mm512_setzero_ps(); 16];
    for _ in 0..turns {
        // SAFETY: no instruction at all.
        unsafe { asm!("/* {} */", inout(zmm_reg) half, options(nomem, nostack, preserves_flags)) };
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, half, one);
        }
    }
    _mm512_reduce_add_ps(sums.into_iter().fold(_mm512_setzero_ps(), |a, b| _mm512_add_ps(a, b)))
}

/// `vpmaddubsw` and the addition of its 16-bit sums, without the widening to 32 bits, which a kernel
/// needs now and then: how seldom is the kernel's art.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn avx2_int8(turns: u64) -> i32 {
    let mut lanes = [0i32; 8];
    // SAFETY: register arithmetic, assembly without an instruction, and a store of 8 lanes. Before Rust
    // 1.87 the arithmetic counts as unsafe too.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        let (mut codes, q) = (_mm256_set1_epi8(2), _mm256_set1_epi8(-3));
        let mut sums = [_mm256_setzero_si256(); 12];
        for _ in 0..turns {
            for sum in &mut sums {
                asm!("/* {} */", inout(ymm_reg) codes, options(nomem, nostack, preserves_flags));
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, q));
            }
        }
        let total = sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_add_epi16(a, b));
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), total);
    }
    lanes.iter().fold(0, |a, b| a ^ b)
}

/// `vfmadd` of 8 lanes.
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn avx2_f32(turns: u64) -> f32 {
    let mut lanes = [0f32; 8];
    // SAFETY: as in `avx2_int8`.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        // Towards 2, as in `avx512_f32`.
        let (mut half, one) = (_mm256_set1_ps(0.5), _mm256_set1_ps(1.0));
        let mut sums = [_mm256_setzero_ps(); 12];
        for _ in 0..turns {
            asm!("/* {} */", inout(ymm_reg) half, options(nomem, nostack, preserves_flags));
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, half, one);
            }
        }
        let total = sums.into_iter().fold(_mm256_setzero_ps(), |a, b| _mm256_add_ps(a, b));
        _mm256_storeu_ps(lanes.as_mut_ptr(), total);
    }
    lanes.iter().sum()
}
