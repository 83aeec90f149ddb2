//! From a suite to a journal: the plan, the rounds, and the workers that measure.

mod coordinator;
mod estimate;
mod in_turns;
mod overhead;
mod plan;
mod tied;
pub mod worker;

pub use coordinator::{Outcome, RunOptions, new_run_dir, resumable, resume, start};
pub use in_turns::{TiedSteps, tied_in_turns};
pub use overhead::measure_overhead;
