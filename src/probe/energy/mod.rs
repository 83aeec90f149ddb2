//! Energy: joules by domain within a window, or the reason why there are none.
//!
//! A [`source`] reads one kind of instrument; [`accumulate`] turns its readings into joules and marks every
//! doubt; [`Meter`] opens what was [chosen](choice), reads in the background what has to be, and gives the
//! energy between two marks.

pub mod accumulate;
mod battery;
pub mod choice;
pub mod exec;
mod hwmon;
mod iio;
pub mod meter;
mod msr;
mod nvml;
mod perf;
mod powercap;
pub mod source;
mod topology;
pub mod tracker;

pub use choice::EnergyChoice;
pub use meter::{Mark, Meter};
pub use tracker::{DomainEnergy, SourceEnergy, Tracker};

use std::path::Path;

use source::{Domain, Refusal, Source};

/// Opens a kind of instrument below a root folder, or the machine's own.
type Open = fn(Option<&Path>) -> Result<Box<dyn Source>, Refusal>;

/// The kinds of instrument that have a name, and whether they are looked for unasked, in this order.
const SOURCES: [(&str, Open, bool); 7] = [
    ("powercap", powercap::open, true),
    ("perf", perf::open, true),
    ("msr", msr::open, true),
    ("hwmon", hwmon::open, true),
    ("iio", iio::open, true),
    ("battery", battery::open, true),
    ("nvml", nvml::open, false),
];

/// The names of the kinds of instrument, in the order in which they are looked for.
pub fn names() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(name, ..)| *name)
}

/// Opens the source of that name, with `root` in the place of `/`.
///
/// # Errors
/// If this machine does not have it, or does not let this process read it.
pub fn open(name: &str, root: Option<&Path>) -> Result<Box<dyn Source>, Refusal> {
    match SOURCES.iter().find(|(known, ..)| *known == name) {
        Some((_, open, _)) => open(root),
        None => Err(Refusal::new(format!("there is no energy source '{}'", source::shown(name)))),
    }
}

/// What one kind of instrument is worth on this machine.
#[derive(Debug, Clone)]
pub struct SourceReport {
    /// Its name, as `--energy` takes it.
    pub name: &'static str,
    /// Whether `auto` takes it.
    pub unasked: bool,
    /// What it measures, or why it cannot.
    pub found: Result<Vec<Domain>, Refusal>,
}

/// Tries every kind of instrument, with `root` in the place of `/`.
pub fn survey(root: Option<&Path>) -> Vec<SourceReport> {
    let report = |&(name, open, unasked): &(&'static str, Open, bool)| SourceReport {
        name,
        unasked,
        found: open(root).map(|source| source.domains().to_vec()),
    };
    SOURCES.iter().map(report).collect()
}
