//! exec: the protocol by the clock of a test, and programs for real.

use std::path::PathBuf;
use std::time::Duration;

use bitjoule::figure::Figure;
use bitjoule::probe::energy::accumulate::{Ledger, LedgerMark};
use bitjoule::probe::energy::exec::Protocol;
use bitjoule::probe::energy::source::Quantity;
use bitjoule::probe::energy::{EnergyChoice, Meter, SourceEnergy};

use super::{Trace, seconds, why};

/// A meter whose lines arrive when a test says.
struct Printed {
    protocol: Protocol,
    ledger: Ledger,
}

impl Printed {
    /// After these lines of (arrival, line), which make its domains known.
    fn new(opening: &[(f64, &str)]) -> Printed {
        let (mut protocol, mut readings) = (Protocol::new(), Vec::new());
        for (s, line) in opening {
            protocol.take(seconds(*s), line, &mut readings).unwrap();
        }
        assert!(!protocol.domains().is_empty());
        let mut ledger = Ledger::new(protocol.domains(), Duration::ZERO);
        ledger.enter(seconds(opening.last().unwrap().0), Duration::ZERO, &readings);
        Printed { protocol, ledger }
    }

    fn line(&mut self, s: f64, line: &str) -> LedgerMark {
        let mut readings = Vec::new();
        self.protocol.take(seconds(s), line, &mut readings).unwrap();
        self.ledger.enter(seconds(s), Duration::ZERO, &readings);
        self.mark(s)
    }

    fn mark(&self, s: f64) -> LedgerMark {
        self.ledger.mark(seconds(s), |_| None)
    }

    fn joules(&self, from: &LedgerMark, to: &LedgerMark) -> f64 {
        self.ledger.between(from, to).remove(0).unwrap().energy.0
    }

    fn why(&self, from: &LedgerMark, to: &LedgerMark) -> String {
        self.ledger.between(from, to).remove(0).unwrap_err()
    }
}

#[test]
fn an_hour_of_joules_and_watts() {
    let trace = Trace::new(60.0, 40.0, 21.0);
    // The meter's clock began at 1000 s, and runs fast by 200 ppm; lines are up to 50 ms late.
    let own = |s: f64| 1000.0 + s * 1.0002;
    let late = |i: u32| f64::from(i * 37 % 50) / 1e3;
    let lines = |i: u32| {
        let s = f64::from(i) / 2.0;
        let t = seconds(s);
        let joules = format!("{:.4} joules wall {:.2}", own(s), trace.energy_j(t));
        let watts = format!("{:.4} watts cpu {:.3}", own(s), trace.power_w(t) / 2.0);
        (s + late(i), [joules, watts])
    };
    let opening: Vec<(f64, String)> = (0..2)
        .flat_map(|i| {
            let (s, lines) = lines(i);
            lines.map(|line| (s, line))
        })
        .collect();
    let opening: Vec<(f64, &str)> = [(0.0, "# a meter"), (0.0, ""), (0.0, "part cpu")]
        .into_iter()
        .chain(opening[..3].iter().map(|(s, l)| (*s, l.as_str())))
        .collect();
    let mut meter = Printed::new(&opening);
    let domains = meter.protocol.domains();
    assert_eq!(
        domains.iter().map(|d| (d.name.as_str(), d.in_total)).collect::<Vec<_>>(),
        [("wall", true), ("cpu", false)]
    );
    assert!(domains[0].update_period.abs_diff(Duration::from_millis(500)) < Duration::from_millis(1));
    assert!(matches!(domains[0].quantity, Quantity::Counter { step, .. } if (step.0 - 0.01).abs() < 1e-9));
    let mut marks = Vec::new();
    for i in 1..7200 {
        let (s, lines) = lines(i);
        for line in &lines[usize::from(i == 1)..] {
            meter.line(s, line);
        }
        if i % 120 == 0 {
            marks.push(meter.mark(s + 0.1));
        }
    }
    let check = |from: &LedgerMark, to: &LedgerMark, share: f64| {
        for (energy, times) in meter.ledger.between(from, to).into_iter().zip([1.0, 0.5]) {
            let energy = energy.unwrap();
            let want = (trace.energy_j(to.at()) - trace.energy_j(from.at())) * times;
            let off = (energy.energy.0 - want).abs();
            assert!(off <= share * want && off <= energy.uncertainty.0, "{energy:?}, not {want}");
        }
    };
    check(&marks[0], marks.last().unwrap(), 0.005);
    // A minute has an edge of half a second at both ends, and says so.
    marks.windows(2).for_each(|pair| check(&pair[0], &pair[1], 0.02));
}

/// A meter of 10 W at 10 Hz, read until second 1.
fn ten_watts() -> (Printed, LedgerMark) {
    let mut meter = Printed::new(&[(0.0, "0 watts m 10.0"), (0.1, "0.1 watts m 10.0")]);
    for i in 2..=10 {
        meter.line(f64::from(i) / 10.0, &format!("{}.{} watts m 10.0", i / 10, i % 10));
    }
    let mark = meter.mark(1.0);
    (meter, mark)
}

#[test]
fn nonsense_spoils_its_window_only() {
    for nonsense in [
        "hello",
        "1.1",
        "1.1 watts",
        "1.1 watts m",
        "1.1 watts m ten",
        "1.1 watts m 10 20",
        "1.1 volts m 10",
        "x watts m 10",
        "nan watts m 10",
        "1.1 watts m inf",
        "1.1 joules m -5",
        "1.1 joules m 1e300",
        "1.1 watts other 10",
        "period 5",
        "period x",
        "\u{1b}[2J \0",
        "1.1 joules m 5",
        "1.1 watts m -1",
    ] {
        let (mut meter, before) = ten_watts();
        let spoiled = meter.line(1.1, nonsense);
        meter.line(1.15, "1.15 watts m 10.0");
        let resumed = meter.line(1.2, "1.2 watts m 10.0");
        let after = meter.line(1.3, "1.3 watts m 10.0");
        let why = meter.why(&before, &resumed);
        assert!(!why.is_empty() && !why.contains('\u{1b}'), "{nonsense}: {why}");
        assert!((meter.joules(&resumed, &after) - 1.0).abs() < 1e-9, "{nonsense}");
        drop(spoiled);
    }
}

#[test]
fn a_meter_that_stalls_bursts_or_goes_back_in_time_spoils_the_window() {
    let (mut meter, before) = ten_watts();
    let stalled = meter.mark(2.5);
    assert!(meter.why(&before, &stalled).contains("no reading for 1.5 s"));
    // What it had held back comes at once: 1.1 to 2.5 s, at 2.6 s.
    for i in 11..=25 {
        meter.line(2.6, &format!("{}.{} watts m 10.0", i / 10, i % 10));
    }
    let burst = meter.mark(2.6);
    assert!(meter.why(&before, &burst).contains("its lines came late"), "{}", meter.why(&before, &burst));
    let later = meter.line(2.7, "2.6 watts m 10.0");
    let good = meter.line(2.8, "2.7 watts m 10.0");
    assert!((meter.joules(&later, &good) - 1.0).abs() < 0.01);

    let (mut meter, before) = ten_watts();
    let back = meter.line(1.1, "0.9 watts m 10.0");
    assert!(meter.why(&before, &back).contains("went back"), "{}", meter.why(&before, &back));
    let (mut meter, before) = ten_watts();
    let stepped = meter.line(1.1, "5000.0 watts m 10.0");
    assert!(meter.why(&before, &stepped).contains("its clock stepped"));
}

#[test]
fn joules_that_go_back_or_stand_still_spoil_the_window() {
    let mut meter = Printed::new(&[(0.0, "0 joules m 5.00"), (0.1, "0.1 joules m 6.00")]);
    let start = meter.mark(0.1);
    let reset = meter.line(0.2, "0.2 joules m 0.00");
    assert!(meter.why(&start, &reset).contains("went back"));
    let good = meter.line(0.3, "0.3 joules m 1.00");
    assert!((meter.joules(&reset, &good) - 1.0).abs() < 1e-9);
    for i in 4..200 {
        meter.line(f64::from(i) / 10.0, &format!("{}.{} joules m 1.00", i / 10, i % 10));
    }
    let frozen = meter.mark(19.9);
    assert!(meter.why(&reset, &frozen).contains("frozen"));
}

#[test]
fn statements_of_the_meter() {
    let meter = Printed::new(&[
        (0.0, "simulated nothing real"),
        (0.0, "period 2.5"),
        (0.0, "0 joules m 5"),
        (1.0, "1 joules m 6"),
    ]);
    assert_eq!(meter.protocol.simulated(), Some("nothing real"));
    assert_eq!(meter.protocol.domains()[0].update_period, Duration::from_millis(2500));
    let mut protocol = Protocol::new();
    assert!(protocol.take(Duration::ZERO, "Password:", &mut Vec::new()).unwrap_err().contains("'Password:'"));
    protocol.take(Duration::ZERO, "5 watts m 1", &mut Vec::new()).unwrap();
    let back = protocol.take(Duration::ZERO, "4 watts m 1", &mut Vec::new());
    assert!(back.unwrap_err().contains("went back from 5 to 4"));
    for absurd in ["period 1e18", "period 3601"] {
        assert!(Protocol::new().take(Duration::ZERO, absurd, &mut Vec::new()).is_err(), "{absurd}");
    }
    let mut protocol = Protocol::new();
    protocol.take(Duration::ZERO, "0 watts m 1", &mut Vec::new()).unwrap();
    let apart = protocol.take(Duration::ZERO, "1e15 watts m 1", &mut Vec::new());
    assert!(apart.unwrap_err().contains("1000000000000000 s apart"));
}

/// The domains that the adapter makes of a file's powermetrics output, whether each counts towards the
/// total, and the joules that it ends at.
fn translated(fixture: &str) -> Vec<(String, bool, f64)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let output = std::process::Command::new("sh")
        .arg(root.join("meters/powermetrics"))
        .arg("--from")
        .arg(root.join("tests/fixtures").join(fixture))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<(f64, &str)> = text.lines().map(|line| (0.0, line)).collect();
    let meter = Printed::new(&lines);
    let last = |domain: &str| {
        let line = lines.iter().rfind(|(_, line)| line.contains(&format!(" {domain} "))).unwrap();
        line.1.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let domains = meter.protocol.domains();
    domains.iter().map(|d| (d.name.clone(), d.in_total, last(&d.name))).collect()
}

#[track_caller]
fn assert_joules(got: &[(String, bool, f64)], cpu: f64, package: f64) {
    let named: Vec<_> = got.iter().map(|d| (d.0.as_str(), d.1)).collect();
    assert_eq!(named, [("cpu", false), ("package", true)]);
    for (got, want) in got.iter().zip([cpu, package]) {
        assert!((got.2 - want).abs() < 1e-5, "{got:?} {want}");
    }
}

#[test]
fn recorded_output_of_powermetrics_becomes_joules() {
    // Interval of each sample, and "Clusters Total Power" and "Package Power" of it, as recorded.
    let samples = [
        (1014.21, 194.0, 208.0),
        (1008.68, 5037.0, 5548.0),
        (1011.33, 8263.0, 8821.0),
        (1008.03, 7412.0, 7975.0),
    ];
    let joules = |power: fn(&(f64, f64, f64)) -> f64| samples.iter().map(|s| s.0 * power(s) / 1e6).sum();
    assert_joules(&translated("powermetrics-m1.txt"), joules(|s| s.1), joules(|s| s.2));
}

#[test]
fn newer_output_of_powermetrics_becomes_joules() {
    let package = 0.10231 * 4.241 + 0.10402 * 15.059 + 0.10177 * 0.03;
    assert_joules(&translated("powermetrics.txt"), 0.10231 * 4.21 + 0.10402 * 15.03, package);
}

/// The energy of `window` of a command, which `then` may have changed by then.
fn run(command: &str, window: Duration) -> SourceEnergy {
    let choice: EnergyChoice = format!("exec:{command}").parse().unwrap();
    let meter = Meter::open(&choice, None);
    let start = meter.mark();
    std::thread::sleep(window);
    let end = meter.mark();
    meter.between(&start, &end).remove(0)
}

/// A shell command that prints what `line` makes of the seconds `$t`, ten times a second, `n` times.
fn printing(n: u32, line: &str) -> String {
    format!("i=0; while [ $i -lt {n} ]; do t=$((i/10)).$((i%10)); i=$((i+1)); {line}; sleep 0.1; done")
}

#[test]
fn the_demonstration_is_read_and_is_no_measurement() {
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("meters/demo");
    // Another process may have kept this one waiting, in which case the window is in doubt, not wrong.
    for _ in 0..10 {
        let energy = run(&format!("{} 35", demo.display()), Duration::from_millis(600));
        let Figure::Simulated { by, .. } = &energy.energy else {
            assert!(matches!(energy.energy, Figure::Unavailable { .. }), "{energy:?}");
            continue;
        };
        assert!(by.contains("no measurement"), "{by}");
        let total = energy.total().value().unwrap().energy.0;
        assert!((total / energy.window.as_secs_f64() - 35.0).abs() < 0.35, "{energy:?}");
        return;
    }
    panic!("every window was in doubt");
}

#[test]
fn a_meter_that_dies_spoils_the_window_and_says_how() {
    let command = format!("{}; echo 'battery empty' >&2; exit 7", printing(3, "echo $t watts m 5.0"));
    let energy = run(&command, Duration::from_millis(800));
    assert!(why(&energy).contains("exit code 7: battery empty"), "{energy:?}");
}

#[test]
fn a_meter_that_cannot_begin_says_why() {
    let refused = |command: &str| {
        let energy = run(command, Duration::ZERO);
        why(&energy).to_owned()
    };
    assert!(refused("echo 'no such device' >&2; exit 3").contains("exit code 3: no such device"));
    assert!(refused("echo Password:").contains("'Password:'"));
    assert!(refused("kill -9 $$").contains("signal 9"));
    assert!(refused("/no/such/meter").contains("exit code 127"));
    assert!(refused("yes '1 watts m 1'").contains("1000 readings"));
}

#[test]
fn a_meter_that_floods_is_given_up() {
    let flood = "echo '0 watts m 5'; echo '0.1 watts m 5'; yes '0.2 watts m 5'";
    let choice: EnergyChoice = format!("exec:{flood}").parse().unwrap();
    let meter = Meter::open(&choice, None);
    let start = meter.mark();
    let energy = || meter.between(&start, &meter.mark()).remove(0);
    let given_up = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        matches!(&energy().energy, Figure::Unavailable { why } if why.contains("faster than it can be read"))
    });
    assert!(given_up, "{:?}", energy());
}

#[test]
#[cfg(target_os = "linux")]
fn an_aligned_edge_loses_nothing_that_a_meter_said() {
    // It says that a line comes each millisecond, and every 20th line is nonsense.
    let line = "read -r now _ </proc/uptime; echo $now joules m $now; [ $((i%20)) = 0 ] && echo oops";
    let command =
        format!("echo period 0.001; i=0; while [ $i -lt 1000 ]; do i=$((i+1)); {line}; sleep 0.01; done");
    let choice: EnergyChoice = format!("exec:{command}").parse().unwrap();
    let meter = Meter::open(&choice, None);
    let start = meter.mark_aligned();
    std::thread::sleep(Duration::from_millis(900));
    let end = meter.mark_aligned();
    let energy = meter.between(&start, &end).remove(0);
    assert!(why(&energy).contains("'oops'"), "{energy:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn no_process_outlives_its_meter() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    // The shell's child ignores the polite request, is in a pipeline, and then prints no more, so that a
    // closed pipe does not end it either.
    let said = printing(3, "echo $t watts m 5.0");
    let script = dir.path().join("meter");
    std::fs::write(&script, format!("trap '' TERM; echo $$ > {}; {said}; exec sleep 60", pid.display()))
        .unwrap();
    let command = format!("sh {} | cat", script.display());
    let choice: EnergyChoice = format!("exec:{command}").parse().unwrap();
    let meter = Meter::open(&choice, None);
    let energy = meter.between(&meter.mark(), &meter.mark()).remove(0);
    assert!(!energy.energy.provenance().contains("ended"), "{energy:?}");
    let pid = std::fs::read_to_string(&pid).unwrap();
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        // A killed process nobody has waited for yet is a zombie.
        !stat.is_empty() && !stat.contains(") Z ")
    };
    let silent = || std::fs::read(format!("/proc/{}/comm", pid.trim())).is_ok_and(|name| name == b"sleep\n");
    while alive() && !silent() {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(alive());
    drop(meter);
    for _ in 0..500 {
        if !alive() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("process {pid} is still there");
}
