//! `bitjoule overhead`

use std::path::PathBuf;

use crate::backend::protocol::EnergySetup;
use crate::engine::allowed_cpus;
use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::probe::energy::EnergyChoice;
use crate::report;
use crate::run::measure_overhead;
use crate::stats::Overhead;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Pairs of windows, with the instruments and without; about a second each
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pairs: u32,
    /// Threads that work; by default as many as there are CPUs, where the instruments disturb most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Energy sources that are read meanwhile, as in `bitjoule run`
    #[arg(long, value_name = "SOURCES", default_value = "auto")]
    energy: EnergyChoice,
    /// Root of a simulated machine, whose sources are read in the place of this one's
    #[arg(long, value_name = "DIR", hide = true)]
    energy_root: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        let threads = self.threads.unwrap_or_else(|| allowed_cpus().len().max(1) as u32);
        let setup = EnergySetup { choice: self.energy, root: self.energy_root };
        let pairs = measure_overhead(setup, threads, self.pairs)?;
        let overhead = Overhead::of(threads, &pairs)
            .ok_or_else(|| Error::environment("no window had a length: the clock stands still"))?;
        super::print(&format!("{}\n", report::overhead(&Figure::measured(overhead, "monotonic clock"))));
        Ok(0)
    }
}
