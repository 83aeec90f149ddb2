//! Ternary and floating-point matrix kernels for 1-bit LLM inference, by storage format and
//! instruction set.
//!
//! The crate knows nothing of models, files or suites. A [`Matrix`] is packed once into the layout
//! its kernel streams best and then multiplied, panel by panel, with one token's [`TokenInput`]
//! (GEMV) or several (GEMM). It is packed for an instruction set, [`Isa`], so that a benchmark can
//! compare them; a value of that type is the proof that the CPU has it.
//!
//! Layout of the crate: `format` says what the bytes of each storage format mean, `arch` holds one
//! implementation for each instruction set with [`Isa::SCALAR`]'s as the specification, and
//! [`Matrix`] and [`vector`] are the safe façades over them.

mod arena;
mod input;
mod isa;
mod kernel;
mod matrix;
// Before the modules that use its macro.
pub mod vector;

mod arch;
pub mod format;
pub mod peak;

pub use arena::{Arena, ArenaWriter};
pub use format::Format;
pub use input::TokenInput;
pub use isa::{Isa, UnsupportedIsa};
pub use kernel::Kernel;
pub use matrix::{Matrix, PackedMatrix, Scratch};

/// Rows of a panel: the unit in which matrices are stored and work is split between threads.
pub const PANEL_ROWS: usize = 32;
