//! The command line: one file a subcommand, each of which parses, calls the library and prints.

mod doctor;
mod generate;
mod model;
mod overhead;
mod report;
mod reproduce;
mod run;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::gguf::I2sLayout;

/// Benchmarks and energy-profiles 1-bit (ternary) LLM inference, and says how it knows.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 fine, 1 a check or a case failed, 2 wrong usage or input, 3 this \
    machine cannot do it, 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure a suite and write tables and plots (without an argument: the quick suite)
    Run(run::Args),
    /// Derive all tables and plots of a run again, from its journal
    Report(report::Args),
    /// Hold this machine against a published table: measure its models, and say what is reproduced
    Reproduce(reproduce::Args),
    /// Say what this machine can measure, what it cannot, and what to do about it
    Doctor(doctor::Args),
    /// Measure what measuring costs: the same work with all instruments and without, in turns
    Overhead(overhead::Args),
    /// Run a model on a prompt
    Generate(generate::Args),
    /// Make, inspect and convert model files
    #[command(subcommand)]
    Model(model::Command),
    /// Compare every kernel's logits with the exact reference, or with golden logits
    Verify(verify::Args),
    /// A worker of `run`; not for use by hand
    #[command(name = crate::run::worker::SUBCOMMAND, hide = true)]
    Worker,
}

/// Order of the weights in I2_S tensors, which no field of a file tells.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Layout {
    /// Quantized on x86-64, as the published files are.
    #[default]
    X86,
    /// Quantized on ARM.
    Arm,
}

impl From<Layout> for I2sLayout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::X86 => I2sLayout::X86_64,
            Layout::Arm => I2sLayout::Arm,
        }
    }
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    // Plain `cargo run` is `bitjoule run`: the quick suite.
    let command = Cli::parse().command.unwrap_or(Command::Run(run::Args::default()));
    let outcome: Result<u8> = match command {
        Command::Run(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::Reproduce(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Overhead(args) => args.run(),
        Command::Generate(args) => args.run(),
        Command::Model(command) => command.run(),
        Command::Verify(args) => args.run(),
        Command::Worker => crate::run::worker::main().map(|()| 0),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("bitjoule: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Prints to standard output. A reader that has gone away (`| head`) is no error: there is nobody left to
/// tell.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
