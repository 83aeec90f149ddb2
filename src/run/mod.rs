//! From a suite to a journal: the plan, the rounds, and the workers that measure.

mod coordinator;
mod estimate;
mod overhead;
mod plan;
mod tied;
pub mod worker;

pub use coordinator::{Outcome, RunOptions, new_run_dir, resumable, resume, start};
pub use overhead::measure_overhead;
