//! The kernels, one implementation for each instruction set. Each file has the same functions: the
//! product of one panel with one or more inputs for each storage format.
//!
//! `scalar` is the specification; the others are property-tested against it (tests/properties.rs).

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
pub(crate) mod peak;
pub(crate) mod scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::{dotprod, neon};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::avx2;
#[cfg(avx512)]
pub(crate) use x86_64::avx512;

/// Columns of a float panel that are converted to f32 at a time for products with several inputs:
/// 32 rows x 1024 columns are 128 KiB, which stays in a second-level cache while every input is
/// multiplied with them.
pub(crate) const FLOAT_BLOCK_COLS: usize = 1024;
