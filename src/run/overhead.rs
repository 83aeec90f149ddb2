//! What the instruments cost, apart from any run.

use std::time::Duration;

use crate::backend::protocol::{EnergySetup, Event, Job};
use crate::error::{Error, Result};
use crate::journal::OverheadPair;

use super::worker::{self, Ended};

/// Longest that a pair of windows may take, far above the second that it does.
const PAIR_TIMEOUT: Duration = Duration::from_secs(60);

/// Measures `pairs` pairs of windows of the same work on `threads` threads, with all instruments and
/// without, in a worker as a run does.
///
/// # Errors
/// If no worker can be started, or it did not come to an end.
pub fn measure_overhead(energy: EnergySetup, threads: u32, pairs: u32) -> Result<Vec<OverheadPair>> {
    let mut measured = Vec::new();
    let job = Job::Overhead { energy, threads, pairs };
    let ended = worker::run(
        &job,
        PAIR_TIMEOUT * (pairs + 1),
        || false,
        |event| match event {
            Event::Overhead { pairs } => {
                measured = pairs;
                Ok(())
            }
            other => {
                Err(Error::environment(format!("a worker reported what its job does not have: {other:?}")))
            }
        },
    )?;
    match ended {
        Ended::Done => Ok(measured),
        Ended::Failed(_, why) => Err(Error::environment(format!("the cost could not be measured: {why}"))),
        Ended::Interrupted => Err(Error::environment("interrupted")),
    }
}
