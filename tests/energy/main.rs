//! The energy sources on simulated machines: known traces of power integrated over a simulated hour, and
//! every way in which energy can be missing.

mod accounts;
mod exec;
mod meter;
mod msr;
mod nvml;
mod perf;
mod powercap;
mod sensors;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use bitjoule::figure::Figure;
use bitjoule::probe::energy::{SourceEnergy, Tracker, open};

/// A simulated machine: the root of its file system.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Machine {
        Machine(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, content: impl ToString) {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // In place: emptying a file first makes some file systems write it out, each time.
        let content = content.to_string();
        let mut file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.set_len(content.len() as u64).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.root().join(path.trim_start_matches('/'));
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    fn tracker(&self, source: &str) -> Tracker {
        match open(source, Some(self.root())) {
            Ok(source) => Tracker::new(source, Duration::ZERO),
            Err(refusal) => panic!("{source}: {refusal}"),
        }
    }

    /// Why the source cannot be opened.
    fn refusal(&self, source: &str) -> String {
        match open(source, Some(self.root())) {
            Ok(source) => panic!("{} was opened", source.name()),
            Err(refusal) => refusal.to_string(),
        }
    }
}

/// The power of a domain: a swing around a mean, and its integral in closed form.
#[derive(Debug, Clone, Copy)]
struct Trace {
    mean_w: f64,
    swing_w: f64,
    cycle_s: f64,
}

impl Trace {
    const fn new(mean_w: f64, swing_w: f64, cycle_s: f64) -> Trace {
        Trace { mean_w, swing_w, cycle_s }
    }

    fn power_w(&self, t: Duration) -> f64 {
        self.mean_w + self.swing_w * (t.as_secs_f64() * std::f64::consts::TAU / self.cycle_s).sin()
    }

    fn energy_j(&self, t: Duration) -> f64 {
        let t = t.as_secs_f64();
        let cycle = self.cycle_s / std::f64::consts::TAU;
        self.mean_w * t + self.swing_w * cycle * (1.0 - (t / cycle).cos())
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

/// Plays an hour: `set` shows the instruments of a moment, and the tracker is read as often as it says and
/// at the boundaries of windows of changing length. Every domain of every window, and of the hour, must be
/// within half a percent of the truth, and within its own uncertainty.
fn play_an_hour(tracker: &mut Tracker, mut set: impl FnMut(Duration), truth: impl Fn(&str) -> Trace) {
    set(Duration::ZERO);
    let mut marks = vec![tracker.mark(Duration::ZERO, Duration::ZERO)];
    let mut lengths = [11.3, 47.9, 100.0, 23.457, 64.2].iter().cycle();
    let mut boundary = Duration::ZERO;
    let mut due = tracker.interval();
    while boundary < HOUR {
        boundary = (boundary + seconds(*lengths.next().unwrap())).min(HOUR);
        while let Some(next) = due.filter(|due| *due < boundary) {
            set(next);
            tracker.read(next, Duration::ZERO);
            due = tracker.interval().map(|interval| next + interval);
        }
        set(boundary);
        marks.push(tracker.mark(boundary, Duration::ZERO));
    }
    let check = |from: usize, to: usize| {
        let (from, to) = (&marks[from], &marks[to]);
        let energy = tracker.between(from, to);
        assert_eq!(energy.marks, Vec::<String>::new());
        let domains = energy.energy.value().unwrap();
        assert_eq!(domains.len(), tracker.source().domains().len());
        for domain in domains {
            let trace = truth(&domain.domain);
            let want = trace.energy_j(to.at()) - trace.energy_j(from.at());
            let off = (domain.energy_j.0 - want).abs();
            assert!(off <= 0.005 * want, "{}: {} J, not {want} J", domain.domain, domain.energy_j.0);
            let uncertainty = domain.uncertainty_j.0;
            assert!(off <= uncertainty, "{}: off by {off} J, said {uncertainty} J", domain.domain);
        }
        let total = energy.total();
        let of_total = domains.iter().filter(|d| d.in_total).map(|d| d.energy_j.0);
        assert_eq!(total.value().unwrap().energy.0, of_total.sum::<f64>());
    };
    (1..marks.len()).for_each(|i| check(i - 1, i));
    check(0, marks.len() - 1);
}

/// Why the total of this window is unavailable.
fn why(energy: &SourceEnergy) -> &str {
    match &energy.energy {
        Figure::Unavailable { why } => why,
        figure => panic!("{figure:?}"),
    }
}

/// The joules of a domain.
fn joules(energy: &SourceEnergy, domain: &str) -> f64 {
    let domains = energy.energy.value().unwrap_or_else(|| panic!("{energy:?}"));
    domains.iter().find(|d| d.domain == domain).unwrap_or_else(|| panic!("{energy:?}")).energy_j.0
}
