//! `bitjoule reproduce`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::run::EnergyArgs;
use crate::error::{Error, Result};
use crate::report;
use crate::run::{RunOptions, resumable, start};
use crate::stats;
use crate::stats::reproduce::Target;
use crate::suite::{AGAINST, Suite};

/// Every target's suite, whole and quick.
const SUITES: [(Target, &str, &str); 4] = [
    (
        Target::Speed,
        include_str!("../../suites/published/speed-2410.16144.toml"),
        include_str!("../../suites/published/speed-2410.16144-quick.toml"),
    ),
    (
        Target::Energy,
        include_str!("../../suites/published/energy-2410.16144.toml"),
        include_str!("../../suites/published/energy-2410.16144-quick.toml"),
    ),
    (
        Target::Efficiency,
        include_str!("../../suites/published/efficiency-2504.12285.toml"),
        include_str!("../../suites/published/efficiency-2504.12285-quick.toml"),
    ),
    (
        Target::Kernels,
        include_str!("../../suites/published/kernels-2026-01.toml"),
        include_str!("../../suites/published/kernels-2026-01-quick.toml"),
    ),
];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Published table: speed-2410.16144, energy-2410.16144, efficiency-2504.12285, kernels-2026-01, or all
    #[arg(default_value = "all", value_parser = targets)]
    target: Targets,
    /// Fewer sizes, shorter, fewer rounds
    #[arg(long)]
    quick: bool,
    /// Directory for the results, with a run in it for each table; by default results/reproduce
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What ratios divide by: f16 (as llama.cpp's, at the memory wall), fp32-naive (a textbook's loop), or
    /// llama.cpp-f16 (which bitjoule does not run: every row then says so)
    #[arg(long, value_name = "BASELINE", value_parser = AGAINST.to_vec())]
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

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        let (energy, stated) = self.energy.parts()?;
        let suites: Vec<(Target, Suite)> = self
            .target
            .0
            .iter()
            .map(|target| Ok((*target, suite(*target, self.quick, self.against.as_deref())?)))
            .collect::<Result<_>>()?;
        let out = self.out.unwrap_or_else(|| Path::new("results").join("reproduce"));
        std::fs::create_dir_all(&out).map_err(|e| Error::io("create", &out, &e))?;
        let (mut markdown, mut failed) = (String::new(), false);
        for (target, suite) in suites {
            eprintln!("{}: {}", target.name(), suite.description);
            let options = RunOptions {
                out: Some(out.join(target.name())),
                energy: energy.clone(),
                energy_root: self.energy.root(),
                stated: stated.clone(),
                ..RunOptions::default()
            };
            let outcome = start(suite, &options)?;
            let dir = &outcome.dir;
            report::write_all(dir, &outcome.records).map_err(|e| resumable(e, dir))?;
            if outcome.interrupted {
                let dir = dir.display();
                eprintln!(
                    "interrupted; what was measured is in {dir}. Go on with: bitjoule run --resume {dir}"
                );
                return Ok(super::run::INTERRUPTED);
            }
            let summary = stats::summarize(&outcome.records)?;
            failed |= super::run::any_failed(&summary);
            let reproduction = summary.reproduction.as_ref().ok_or_else(|| {
                Error::environment(format!("{}: the suite names no published table", target.name()))
            })?;
            let mut text = format!("\n{}\n{}", target.name(), super::report::verdict(&summary));
            for sentence in report::sentences(reproduction) {
                let _ = writeln!(text, "- {sentence}");
            }
            super::print(&text);
            let _ = writeln!(markdown, "{}", report::reproduction_markdown(reproduction));
        }
        let path = out.join("reproduction.md");
        std::fs::write(&path, markdown).map_err(|e| Error::io("write", &path, &e))?;
        super::print(&format!("\nTables and plots: {}\n", out.display()));
        Ok(u8::from(failed))
    }
}

/// The suite of a target.
fn suite(target: Target, quick: bool, against: Option<&str>) -> Result<Suite> {
    let (_, whole, short) = SUITES.iter().find(|(t, ..)| *t == target).expect("every target has suites");
    let text = if quick { short } else { whole };
    let mut suite = Suite::parse(text, target.name(), Path::new(""))?;
    if let Some(against) = against {
        suite.against = Some(against.to_owned());
    }
    Ok(suite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_suites_and_they_name_it() {
        for target in Target::ALL {
            for quick in [false, true] {
                let suite = suite(target, quick, None).unwrap();
                assert_eq!(suite.reproduces.as_deref(), Some(target.name()));
                assert_eq!(suite.against.as_deref(), Some("f16"));
            }
            assert_eq!(
                suite(target, true, Some("fp32-naive")).unwrap().against.as_deref(),
                Some("fp32-naive")
            );
        }
    }
}
