//! `bitjoule reproduce`

use std::path::{Path, PathBuf};

use super::run::EnergyArgs;
use crate::engine::allowed_cpus;
use crate::error::Result;
use crate::journal::StatedEnergy;
use crate::probe::energy::EnergyChoice;
use crate::published::Target;
use crate::report;
use crate::run::{RunOptions, new_run_dir, resumable, start};
use crate::stats::reproduce::published_threads;
use crate::suite::{AGAINST, Suite, Threads};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Published table: speed-2410.16144, energy-2410.16144, efficiency-2504.12285, kernels-2026-01, or all
    #[arg(default_value = "all", value_parser = targets)]
    target: Targets,
    /// Fewer sizes, shorter, fewer rounds
    #[arg(long)]
    quick: bool,
    /// Directory for the results, with a run in it for each table; by default results/TIME-reproduce
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What ratios divide by: f16 (as llama.cpp's, at the memory wall), fp32-naive or naive (a textbook's loop,
    /// measured of the smaller sizes only), or llama.cpp-f16 (which bitjoule does not run: every row then says so)
    #[arg(long, value_name = "BASELINE", value_parser = baseline)]
    against: Option<String>,
    #[command(flatten)]
    energy: EnergyArgs,
}

/// One table, or every one.
#[derive(Debug, Clone)]
struct Targets(Vec<Target>);

fn targets(name: &str) -> std::result::Result<Targets, String> {
    if name == "all" {
        return Ok(Targets(Target::ALL.to_vec()));
    }
    Target::by_name(name).map(|target| Targets(vec![target])).ok_or_else(|| {
        format!("there is no such table; there are {} and all", Target::ALL.map(Target::name).join(", "))
    })
}

/// The published thread counts that this machine has cores for, and all.
fn threads() -> Vec<Threads> {
    let cores = allowed_cpus().len() as u32;
    let mut counts: Vec<u32> = published_threads().into_iter().filter(|n| (1..=cores).contains(n)).collect();
    counts.sort_unstable();
    counts.dedup();
    counts.into_iter().map(Threads::Count).chain([Threads::All]).collect()
}

/// One of [`AGAINST`]; `naive` is short for `fp32-naive`.
fn baseline(name: &str) -> std::result::Result<String, String> {
    match name {
        "naive" => Ok("fp32-naive".to_owned()),
        name if AGAINST.contains(&name) => Ok(name.to_owned()),
        _ => Err(format!("there is no such baseline; there are {}", AGAINST.join(", "))),
    }
}

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        let (energy, stated) = self.energy.parts()?;
        let out = new_run_dir(self.out.as_deref(), "reproduce")?;
        let mut failed = false;
        let several = self.target.0.len() > 1;
        let mut refused = None;
        for target in &self.target.0 {
            match self.reproduce(*target, &out.join(target.name()), &energy, &stated) {
                Ok(Some(cases_failed)) => failed |= cases_failed,
                Ok(None) => return Ok(super::run::INTERRUPTED),
                // What one table lacks, the next may not need.
                Err(e) if several => {
                    eprintln!("{}: {e}", target.name());
                    refused.get_or_insert(e);
                }
                Err(e) => return Err(e),
            }
        }
        if let Some(e) = refused {
            return Err(e);
        }
        Ok(u8::from(failed))
    }

    /// Whether any case failed; `None` if the run was interrupted.
    fn reproduce(
        &self,
        target: Target,
        out: &Path,
        energy: &EnergyChoice,
        stated: &StatedEnergy,
    ) -> Result<Option<bool>> {
        let mut suite = Suite::published(target, self.quick)?;
        if target == Target::Kernels {
            suite.threads = threads();
        }
        suite.against = self.against.clone().or(suite.against);
        eprintln!("{}: {}", target.name(), suite.description);
        if self.against.is_some() && !target.has_baseline() {
            eprintln!(
                "{}: its ratios have no baseline kernel; --against does not change them",
                target.name()
            );
        }
        let options = RunOptions {
            out: Some(out.to_owned()),
            energy: energy.clone(),
            energy_root: self.energy.root(),
            stated: stated.clone(),
            ..RunOptions::default()
        };
        let outcome = start(suite, &options)?;
        let dir = outcome.dir.display();
        let (summary, _) =
            report::write_all(&outcome.dir, &outcome.records).map_err(|e| resumable(e, &outcome.dir))?;
        if outcome.interrupted {
            eprintln!("interrupted; what was measured is in {dir}. Go on with: bitjoule run --resume {dir}");
            return Ok(None);
        }
        let mut text = format!("\n{}\n", super::report::verdict(&summary));
        text.extend(summary.reproduction.as_ref().map(report::reproduction_markdown));
        super::print(&format!("{text}\nTables and plots: {dir}\n"));
        Ok(Some(super::run::any_failed(&summary)))
    }
}
