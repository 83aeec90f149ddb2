//! What an energy source is: domains with their units, and readings of them.
//!
//! **The rule of totals.** The total of a source is the sum of its domains with
//! [`Domain::in_total`], and those never overlap: the packages, and the memory (dram) of each socket,
//! which hangs outside the package's supply. Cores and uncore are parts of a package, psys (the platform)
//! contains packages, and a package that shows itself twice (by MSR and by MMIO) counts once. Where a
//! source knows nothing but the whole (psys, a wall meter, a battery), that is its total.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{Joules, Watts};

/// What a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainKind {
    /// A CPU socket, or a die of it, with everything on it.
    Package,
    /// Cores: part of a package.
    Core,
    /// Integrated graphics: part of a package.
    Uncore,
    /// Memory of a socket, beside the package.
    Dram,
    /// The platform: contains packages.
    Psys,
    /// A graphics processor with its memory.
    Gpu,
    /// A supply rail of a board.
    Rail,
    /// A battery that feeds the machine.
    Battery,
    /// A meter outside the machine, or one of its power supplies.
    Meter,
}

impl DomainKind {
    /// More than such a domain draws. It bounds what a window can have cost: more is a broken counter,
    /// and a counter that could have turned over once more within this bound is in doubt. The largest
    /// CPUs are specified for 500 W, GPUs for 1200 W; a meter may hang on a rack.
    pub fn most(self) -> Watts {
        match self {
            DomainKind::Package | DomainKind::Core | DomainKind::Uncore | DomainKind::Dram => Watts(1e3),
            DomainKind::Gpu | DomainKind::Rail | DomainKind::Battery => Watts(2e3),
            DomainKind::Psys => Watts(1e4),
            DomainKind::Meter => Watts(1e5),
        }
    }
}

/// What a reading of a domain means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quantity {
    /// Energy since some moment.
    Counter {
        /// Energy of one count.
        unit: Joules,
        /// Counts after which it returns to zero; none if it never does.
        turn: Option<u64>,
        /// Smallest step it takes.
        step: Joules,
    },
    /// Power now, to be integrated.
    Power {
        /// Smallest step it takes.
        step: Watts,
    },
}

/// A longer update period than an hour is no instrument's, but an error in a file or a meter.
pub(super) const LONGEST_PERIOD: Duration = Duration::from_secs(3600);

/// A part of the machine whose energy a source knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Domain {
    /// Such as `package-0`, `dram-1`, `gpu-0`, `VDD_IN`; unique within its source.
    pub name: String,
    /// What it is.
    pub kind: DomainKind,
    /// Whether it belongs to the total of its source; see [the rule](self).
    pub in_total: bool,
    /// What a reading of it means.
    pub quantity: Quantity,
    /// How often the instrument renews its value: documented, stated by a file, or measured.
    pub update_period: Duration,
}

/// What an instrument shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Raw {
    /// Counts of [`Quantity::Counter`].
    Counts(u64),
    /// [`Quantity::Power`].
    Power(Watts),
}

/// One reading of one domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Index into [`Source::domains`].
    pub domain: usize,
    /// When it was true, since the meter was opened, if the source knows better than "now".
    pub at: Option<Duration>,
    /// The value, or why there is none. A failure of now may be over when the source is read again; one
    /// that came of itself, at a known moment, spoils what is measured around that moment.
    pub raw: Result<Raw, String>,
}

/// An instrument that tells the energy or power of some domains.
pub trait Source: Send {
    /// `powercap`, `exec: ./my-meter`: the provenance of its figures.
    fn name(&self) -> &str;

    /// What it measures; the same for as long as it lives.
    fn domains(&self) -> &[Domain];

    /// Appends what has come to be known to `readings`: of all domains, or of `only` one. `now` is the
    /// time since the meter was opened.
    fn read(&mut self, now: Duration, only: Option<usize>, readings: &mut Vec<Reading>);

    /// Whether readings come of themselves ([`Reading::at`] is set) rather than when asked for.
    fn pushes(&self) -> bool {
        false
    }

    /// What simulates the source, if its figures are no measurement.
    fn simulated(&self) -> Option<&str> {
        None
    }
}

/// Reads, now, each of `instruments`, of which there is one for each domain in the same order; or `only` that
/// of one domain.
pub(super) fn read_each<T>(
    instruments: impl IntoIterator<Item = T>,
    only: Option<usize>,
    readings: &mut Vec<Reading>,
    mut read: impl FnMut(T) -> Result<Raw, String>,
) {
    for (domain, instrument) in instruments.into_iter().enumerate() {
        if only.is_none_or(|only| only == domain) {
            readings.push(Reading { domain, at: None, raw: read(instrument) });
        }
    }
}

/// Why a source cannot be used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is lacking.
    pub why: String,
    /// What a person can do about it; none if nothing helps.
    pub remedy: Option<String>,
    /// The command that does it.
    pub command: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(why: impl Into<String>) -> Refusal {
        Refusal { why: why.into(), remedy: None, command: None }
    }

    pub(super) fn with(why: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal { why: why.into(), remedy: Some(remedy.into()), command: None }
    }

    pub(super) fn command(mut self, command: &'static str) -> Refusal {
        self.command = Some(command);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        if let Some(command) = self.command {
            write!(f, ": {command}")?;
        }
        Ok(())
    }
}

/// Reads a whole small file of sysfs, without the final newline.
pub(super) fn read(path: &Path) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(e) => Err(unreadable(path, &e)),
    }
}

/// Reads a file that holds one non-negative integer, of `unit`.
pub(super) fn read_number(path: &Path, unit: &str) -> Result<u64, String> {
    let text = read(path)?;
    text.parse()
        .map_err(|_| format!("{} holds '{}', which is no number of {unit}", path.display(), shown(&text)))
}

/// The beginning of a text that may be garbage, fit for a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// Why `path` cannot be read.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("{} is not there", path.display()),
        std::io::ErrorKind::PermissionDenied => format!("{} is readable by root only", path.display()),
        _ => format!("cannot read {}: {error}", path.display()),
    }
}

/// `path`, which begins with `/`, below `root`.
pub(super) fn below(root: Option<&Path>, path: &str) -> std::path::PathBuf {
    root.unwrap_or(Path::new("/")).join(path.trim_start_matches('/'))
}

/// Whether this is a virtual machine, to which RAPL is as a rule not passed.
pub(super) fn virtual_machine(root: Option<&Path>) -> bool {
    let cpuinfo = std::fs::read_to_string(below(root, "/proc/cpuinfo")).unwrap_or_default();
    cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags"))
        .any(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// What to do without RAPL in a virtual machine.
pub(super) const NONE_IN_A_VM: &str = "nothing helps inside this virtual machine: measure on the host, or give \
     a meter outside with --energy exec:COMMAND";
