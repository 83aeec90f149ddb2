//! `bitjoule run`

use std::path::PathBuf;

use crate::error::Result;
use crate::report;
use crate::run::{RunOptions, resumable, resume, start};
use crate::stats;
use crate::suite::Suite;

/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    /// Suite to measure (TOML; see suites/README.md); by default the quick suite
    suite: Option<PathBuf>,
    /// Directory for the results; by default results/TIME-SUITE
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Go on with an interrupted run
    #[arg(long, value_name = "DIR", conflicts_with_all = ["suite", "model"])]
    resume: Option<PathBuf>,
    /// Measure this GGUF file too (can be repeated)
    #[arg(long, value_name = "FILE")]
    model: Vec<PathBuf>,
    /// Note where the time of prefill and decode goes, for profile.csv and a plot; on resumption the run
    /// goes on as it began
    #[arg(long, conflicts_with = "resume")]
    profile: bool,
    /// Keep packed weights in folders beside the model files (MODEL.packed), as large as in memory, and read
    /// them in later visits instead of packing anew
    #[arg(long, conflicts_with = "resume")]
    keep_packed: bool,
    /// Read energy from the sources of a simulated machine, whose root this is; its figures are marked as
    /// simulated
    #[arg(long, value_name = "DIR", hide = true)]
    energy_root: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        let outcome = match self.resume {
            Some(dir) => resume(&dir, self.energy_root)?,
            None => {
                let suite = match self.suite {
                    Some(path) => Suite::load(&path)?,
                    None => Suite::quick()?,
                };
                let options = RunOptions {
                    models: self.model,
                    out: self.out,
                    profile: self.profile,
                    keep_packed: self.keep_packed,
                    energy_root: self.energy_root,
                };
                start(suite, &options)?
            }
        };
        let dir = outcome.dir.display();
        report::write_all(&outcome.dir, &outcome.records).map_err(|e| resumable(e, &outcome.dir))?;
        if outcome.interrupted {
            eprintln!("interrupted; what was measured is in {dir}. Go on with: bitjoule run --resume {dir}");
            return Ok(INTERRUPTED);
        }
        let summary = stats::summarize(&outcome.records)?;
        super::print(&format!(
            "{}\n{}{}\nTables and plots: {dir}\n",
            report::terminal_summary(&summary, super::report::terminal_width()),
            report::terminal_profile(&summary, super::report::terminal_width()),
            super::report::verdict(&summary)
        ));
        // A case that cannot run here, or not under the limit, has not failed.
        let failed = summary.rows.iter().any(|row| {
            !matches!(row.status, stats::Status::Ok | stats::Status::Skipped(_) | stats::Status::OverLimit(_))
        });
        Ok(u8::from(failed))
    }
}
