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

use source::{Domain, Raw, Refusal, Source};

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
        Some((_, open, _)) => counting(open(root)?, root),
        None => Err(Refusal::new(format!("there is no energy source '{}'", source::shown(name)))),
    }
}

/// `source`, unless a counter of its total is there but does not count, as virtual machines on some hosts show
/// RAPL's: it shows zero, and goes on doing so. (One that stopped at another value shows it in the first
/// window.)
fn counting(mut source: Box<dyn Source>, root: Option<&Path>) -> Result<Box<dyn Source>, Refusal> {
    let domains = source.domains().iter().enumerate();
    let counters = domains.filter(|(_, domain)| tracker::alignable(domain));
    let counters: Vec<_> = counters.map(|(i, d)| (i, d.name.clone(), d.update_period)).collect();
    let start = Instant::now();
    for (i, name, period) in counters {
        while shows_zero(&mut *source, i, start.elapsed()) {
            if start.elapsed() > tracker::STANDING_STILL {
                let ms = tracker::STANDING_STILL.as_millis();
                let why = format!(
                    "the counter {name} is there but counts nothing: it shows 0, and did for {ms} ms"
                );
                return Err(if source::virtual_machine(root) {
                    Refusal::with(format!("{why} (a virtual machine)"), source::NONE_IN_A_VM)
                } else {
                    Refusal::with(why, "name another source, or give a meter outside, with --energy")
                });
            }
            std::thread::sleep(period);
        }
    }
    Ok(source)
}

/// Whether the counter of one domain shows zero.
fn shows_zero(source: &mut dyn Source, domain: usize, now: Duration) -> bool {
    let mut readings = Vec::new();
    source.read(now, Some(domain), &mut readings);
    readings.iter().any(|reading| reading.raw == Ok(Raw::Counts(0)))
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
