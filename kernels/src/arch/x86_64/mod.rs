//! x86-64: AVX2 (with FMA and F16C), and AVX-512 with VNNI.

use std::arch::x86_64::*;

use half::f16;

use crate::vector::{Attend, LANES, attend_body};

pub(crate) mod avx2;
pub(crate) mod avx512;

/// Attention over an f16 cache.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn attend_f16_avx2(args: Attend<'_, f16>) {
    // SAFETY: the CPU has F16C.
    attend_body(args, |x| unsafe { to_f32(x) });
}

/// Attention over an f16 cache.
///
/// # Safety
/// The CPU has AVX-512 F, BW, VL and VNNI, AVX2, FMA and F16C.
#[allow(clippy::incompatible_msrv, reason = "AVX-512 needs Rust 1.89; see Cargo.toml")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
pub(crate) unsafe fn attend_f16_avx512(args: Attend<'_, f16>) {
    // SAFETY: the CPU has F16C.
    attend_body(args, |x| unsafe { to_f32(x) });
}

/// Sixteen halves as f32.
///
/// # Safety
/// The CPU has F16C.
#[target_feature(enable = "avx,f16c")]
#[inline]
unsafe fn to_f32(x: &[f16; LANES]) -> [f32; LANES] {
    let mut out = [0f32; LANES];
    // SAFETY: reads two halves of the 32 bytes, writes two halves of the 64.
    unsafe {
        let p = x.as_ptr().cast::<__m128i>();
        _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(p)));
        _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1))));
    }
    out
}
