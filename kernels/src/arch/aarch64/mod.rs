//! 64-bit Arm: NEON, and NEON with the dot product instructions. What has no integer products is the
//! same for both and in `neon`.

pub(crate) mod dotprod;
pub(crate) mod neon;
