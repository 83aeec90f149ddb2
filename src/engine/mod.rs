//! The inference engine: forward pass, KV cache, sampling, and the thread team that runs them.

mod cache;
mod forward;
mod memory;
mod profile;
mod sampler;
mod team;

pub use cache::KvType;
pub use forward::{Engine, EngineOptions};
pub use memory::MemoryParts;
pub use profile::{Operation, Span};
pub use sampler::{Sampler, Sampling, argmax};
pub use team::{Team, allowed_cpus};
