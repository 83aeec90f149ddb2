//! `bitjoule run`

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::journal::{MemoryEnergy, StatedEnergy};
use crate::probe::energy::EnergyChoice;
use crate::report;
use crate::run::{RunOptions, resumable, resume, start};
use crate::stats;
use crate::suite::Suite;
use crate::units::Watts;

/// Exit code after Ctrl-C, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;

#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    /// Suite to measure (TOML; see suites/README.md); by default the quick suite
    suite: Option<PathBuf>,
    /// Directory for the results; by default results/TIME-SUITE
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Go on with an interrupted run
    #[arg(long, value_name = "DIR", conflicts_with_all = ["suite", "model", "energy", "assume_tdp", "memory_energy"])]
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
    #[command(flatten)]
    energy: EnergyArgs,
}

/// Where energy comes from.
#[derive(Debug, Default, clap::Args)]
pub(super) struct EnergyArgs {
    /// Read energy from the sources of a simulated machine, whose root this is; its figures are marked as
    /// simulated
    #[arg(long, value_name = "DIR", hide = true)]
    energy_root: Option<PathBuf>,
    /// Energy sources: auto, none, some of powercap,perf,msr,hwmon,iio,battery,nvml, or exec:COMMAND, a
    /// program that prints joules or watts (docs/ENERGY_METERS.md); of several, figures come from the first
    #[arg(long, value_name = "SOURCES", default_value = "auto")]
    energy: EnergyChoice,
    /// Power of the processor with all CPUs busy, for columns assumed:tdp (watts x share of CPU time)
    #[arg(long, value_name = "WATTS")]
    assume_tdp: Option<f64>,
    /// Energy of a byte read from memory and where that figure is from, for columns modelled:memory
    #[arg(long, value_name = "PJ_PER_BYTE=SOURCE")]
    memory_energy: Option<String>,
}

impl EnergyArgs {
    /// The sources, and what the user states.
    pub(super) fn parts(&self) -> Result<(EnergyChoice, StatedEnergy)> {
        let stated = StatedEnergy {
            tdp_w: self.assume_tdp.map(tdp).transpose()?,
            cpus: None,
            memory: self.memory_energy.as_deref().map(memory_energy).transpose()?,
        };
        Ok((self.energy.clone(), stated))
    }

    /// Root of a simulated machine.
    pub(super) fn root(&self) -> Option<PathBuf> {
        self.energy_root.clone()
    }
}

/// Whether a case has failed: one that cannot run here, or not under the limit, has not.
pub(super) fn any_failed(summary: &stats::Summary) -> bool {
    summary.rows.iter().any(|row| {
        !matches!(row.status, stats::Status::Ok | stats::Status::Skipped(_) | stats::Status::OverLimit(_))
    })
}

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        let (energy, stated) = self.energy.parts()?;
        let outcome = match self.resume {
            Some(dir) => resume(&dir, self.energy.root())?,
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
                    energy,
                    energy_root: self.energy.root(),
                    stated,
                };
                start(suite, &options)?
            }
        };
        let dir = outcome.dir.display();
        let (summary, _) =
            report::write_all(&outcome.dir, &outcome.records).map_err(|e| resumable(e, &outcome.dir))?;
        if outcome.interrupted {
            eprintln!("interrupted; what was measured is in {dir}. Go on with: bitjoule run --resume {dir}");
            return Ok(INTERRUPTED);
        }
        super::print(&format!(
            "{}\n{}{}\nTables and plots: {dir}\n",
            report::terminal_summary(&summary, super::report::terminal_width()),
            report::terminal_profile(&summary, super::report::terminal_width()),
            super::report::verdict(&summary)
        ));
        Ok(u8::from(any_failed(&summary)))
    }
}

fn tdp(watts: f64) -> Result<Watts> {
    match watts.is_finite() && watts > 0.0 {
        true => Ok(Watts(watts)),
        false => Err(Error::input(format!("--assume-tdp {watts}: it is a power in watts above 0"))),
    }
}

fn memory_energy(text: &str) -> Result<MemoryEnergy> {
    let stated = text.split_once('=').and_then(|(pj, source)| {
        let pj_per_byte: f64 = pj.trim().parse().ok()?;
        let source = source.trim();
        let right = pj_per_byte.is_finite() && pj_per_byte > 0.0 && !source.is_empty();
        right.then(|| MemoryEnergy { pj_per_byte, source: source.to_owned() })
    });
    stated.ok_or_else(|| {
        Error::input(format!(
            "--memory-energy '{text}': it is an energy in picojoules a byte above 0, =, and where that figure is \
             from, such as 50=DDR5-datasheet"
        ))
    })
}
