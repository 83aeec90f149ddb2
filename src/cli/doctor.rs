//! `bitjoule doctor`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use crate::doctor::{Answer, Purpose, examine, render};
use crate::error::{Error, Result};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Fail (exit code 3) if this machine cannot serve this purpose
    #[arg(long = "for", value_name = "PURPOSE")]
    purpose: Option<Purpose>,
    /// Examine a simulated tree (folders proc, sys and dev below it) in the place of the machine
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
    /// Length of the self-test; 0 for none
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, hide = true)]
    self_test: f64,
}

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        let self_test = Duration::try_from_secs_f64(self.self_test)
            .ok()
            .filter(|length| *length <= Duration::from_secs(3600))
            .ok_or_else(|| Error::input("--self-test is 0 to 3600 seconds"))?;
        if let Some(root) = self.root.as_deref().filter(|root| !root.is_dir()) {
            return Err(Error::input(format!("--root {}: there is no such folder", root.display())));
        }
        if self.root.is_none() && !self_test.is_zero() && std::io::stderr().is_terminal() {
            eprintln!("Measuring the machine's noise for {:.0} s ...", self_test.as_secs_f64());
        }
        let report = examine(self.root.as_deref(), self_test);
        if self.json {
            super::print(&(serde_json::to_string_pretty(&report).map_err(Error::environment)? + "\n"));
        } else {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            super::print(&render(&report, colour));
        }
        let refusal = self.purpose.and_then(|p| report.verdict(p)).filter(|v| v.answer == Answer::No);
        match refusal {
            Some(verdict) => Err(Error::environment(format!(
                "this machine cannot serve {}: {}",
                verdict.purpose,
                report.reasons(verdict).join("; ")
            ))),
            None => Ok(0),
        }
    }
}
