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
use std::time::{Duration, Instant};

use source::{Domain, Quantity, Raw, Refusal, Source};

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
        Some((_, open, _)) => counting(open(root)?, source::virtual_machine(root)),
        None => Err(Refusal::new(format!("there is no energy source '{}'", source::shown(name)))),
    }
}

/// A counter of the total that shows zero for so long counts nothing.
const COUNTS_WITHIN: Duration = Duration::from_millis(200);

/// `source`, unless a counter of its total is there but does not count, as virtual machines on some hosts show
/// RAPL's: it shows zero, and goes on doing so. (One that stopped at another value shows it in the first
/// window.)
fn counting(mut source: Box<dyn Source>, virtual_machine: bool) -> Result<Box<dyn Source>, Refusal> {
    let start = Instant::now();
    let mut readings = Vec::new();
    for i in 0..source.domains().len() {
        let domain = &source.domains()[i];
        let prompt = domain.update_period < COUNTS_WITHIN / 2;
        if !domain.in_total || !prompt || !matches!(domain.quantity, Quantity::Counter { .. }) {
            continue;
        }
        let pause = domain.update_period;
        loop {
            readings.clear();
            source.read(start.elapsed(), Some(i), &mut readings);
            let zero = readings.iter().any(|reading| reading.raw == Ok(Raw::Counts(0)));
            if !zero {
                break;
            }
            if start.elapsed() > COUNTS_WITHIN {
                let ms = COUNTS_WITHIN.as_millis();
                let name = &source.domains()[i].name;
                let why = format!(
                    "the counter {name} is there but counts nothing: it shows 0, and did for {ms} ms"
                );
                return Err(if virtual_machine {
                    Refusal::with(format!("{why} (a virtual machine)"), source::NONE_IN_A_VM)
                } else {
                    Refusal::new(why)
                });
            }
            std::thread::sleep(pause);
        }
    }
    Ok(source)
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
    let report = |&(name, _, unasked): &(&'static str, Open, bool)| SourceReport {
        name,
        unasked,
        found: open(name, root).map(|source| source.domains().to_vec()),
    };
    SOURCES.iter().map(report).collect()
}
