//! bitjoule benchmarks and energy-profiles 1-bit (ternary) LLM inference.
//!
//! The path of the data: a suite (TOML) becomes a plan, the plan a run, the run a journal
//! (JSON Lines), and from the journal alone come statistics, tables and plots. See METHODOLOGY.md.

pub mod backend;
pub mod cli;
pub mod doctor;
pub mod engine;
pub mod error;
pub mod figure;
pub mod gguf;
pub mod journal;
pub mod model;
pub mod probe;
pub mod published;
pub mod report;
pub mod run;
pub mod stats;
pub mod suite;
pub mod units;
pub mod verify;

pub use error::{Error, Result};
