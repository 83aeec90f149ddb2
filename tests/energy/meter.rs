//! The meter: real time, the background reader, alignment, choice.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bitjoule::figure::Figure;
use bitjoule::probe::energy::{EnergyChoice, Meter, survey};

use super::{Machine, joules, why};

fn zone(machine: &Machine, number: u32, energy_uj: u64, range_uj: u64) {
    let folder = format!("sys/class/powercap/intel-rapl:{number}");
    machine.write(&format!("{folder}/name"), format!("package-{number}"));
    machine.write(&format!("{folder}/energy_uj"), energy_uj);
    machine.write(&format!("{folder}/max_energy_range_uj"), range_uj);
}

/// A player of constant power on the counters of some packages.
#[derive(Default)]
struct Player {
    stop: AtomicBool,
    /// Microjoules that a counter may show already, and those that every counter has shown.
    begun_uj: AtomicU64,
    done_uj: AtomicU64,
}

impl Player {
    fn play(&self, root: &Path, watts: f64, ranges_uj: &[u64]) {
        let start = Instant::now();
        while !self.stop.load(Ordering::SeqCst) {
            let uj = (start.elapsed().as_secs_f64() * watts * 1e6) as u64;
            self.begun_uj.store(uj, Ordering::SeqCst);
            for (number, range) in ranges_uj.iter().enumerate() {
                let counter = root.join(format!("sys/class/powercap/intel-rapl:{number}/energy_uj"));
                let next = counter.with_extension("next");
                fs::write(&next, (uj % range).to_string()).unwrap();
                fs::rename(&next, &counter).unwrap();
            }
            self.done_uj.store(uj, Ordering::SeqCst);
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

#[test]
fn the_background_reader_sees_every_turn_of_every_range() {
    // 400 J and 600 J turn over every 0.5 s and 0.75 s at 800 W.
    let ranges = [400_000_000, 600_000_000];
    let machine = Machine::new();
    ranges.iter().enumerate().for_each(|(i, range)| zone(&machine, i as u32, 0, *range));
    let player = Player::default();
    let joules_of = |uj: &AtomicU64| uj.load(Ordering::SeqCst) as f64 / 1e6;
    // A machine that stops this process for long makes a window doubtful, but never wrong.
    let one_good_window = || {
        let meter = Meter::open(&EnergyChoice::Auto, Some(machine.root()));
        assert!(meter.reads_in_background());
        (0..20).any(|_| {
            let least_before = joules_of(&player.done_uj);
            let start = meter.mark_aligned();
            let most_before = joules_of(&player.begun_uj);
            std::thread::sleep(Duration::from_millis(1300));
            let least_after = joules_of(&player.done_uj);
            let end = meter.mark_aligned();
            let most_after = joules_of(&player.begun_uj);
            let energy = meter.between(&start, &end).remove(0);
            let Figure::Simulated { .. } = &energy.energy else {
                assert!(energy.energy.value().is_none(), "{energy:?}");
                return false;
            };
            for domain in ["package-0", "package-1"] {
                let joules = joules(&energy, domain);
                let possible = least_after - most_before - 1e-3..=most_after - least_before + 1e-3;
                assert!(possible.contains(&joules), "{joules} J is not in {possible:?} J");
                assert!(joules > 900.0, "the player hardly played");
            }
            true
        })
    };
    std::thread::scope(|scope| {
        scope.spawn(|| player.play(machine.root(), 800.0, &ranges));
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(one_good_window));
        player.stop.store(true, Ordering::SeqCst);
        match good {
            Ok(good) => assert!(good, "every window was in doubt"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
}

#[test]
fn a_meter_that_is_dropped_at_once_does_not_wait_for_its_reader() {
    let machine = Machine::new();
    // The next reading is due in two minutes.
    zone(&machine, 0, 1_000_000, 262_143_328_850);
    let (done, dropped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..50 {
            drop(Meter::open(&EnergyChoice::Auto, Some(machine.root())));
        }
        done.send(()).unwrap();
    });
    dropped.recv_timeout(Duration::from_secs(60)).expect("a meter waits for a reading that is not due");
}

#[test]
fn nothing_is_read_in_the_background_without_need() {
    let meter = Meter::open(&EnergyChoice::Auto, Some(Machine::new().root()));
    assert!(!meter.reads_in_background());
}

#[test]
fn a_counter_that_stands_still_at_an_aligned_edge_spoils_the_window() {
    let machine = Machine::new();
    zone(&machine, 0, 1_000_000, 262_143_328_850);
    let meter = Meter::open(&EnergyChoice::Auto, Some(machine.root()));
    let start = meter.mark();
    zone(&machine, 0, 1_500_000, 262_143_328_850);
    let end = meter.mark_aligned();
    let energy = meter.between(&start, &end).remove(0);
    assert!(why(&energy).contains("at the edge of the window"), "{energy:?}");
}

#[test]
fn every_counter_of_the_total_has_to_move_at_an_aligned_edge() {
    let machine = Machine::new();
    zone(&machine, 0, 1, 262_143_328_850);
    zone(&machine, 1, 1_000_000, 262_143_328_850);
    let player = Player::default();
    let meter = Meter::open(&EnergyChoice::Auto, Some(machine.root()));
    let start = meter.mark();
    zone(&machine, 1, 1_500_000, 262_143_328_850);
    let energy = std::thread::scope(|scope| {
        scope.spawn(|| player.play(machine.root(), 20.0, &[262_143_328_850]));
        std::thread::sleep(Duration::from_millis(20));
        let energy = meter.between(&start, &meter.mark_aligned()).remove(0);
        player.stop.store(true, Ordering::SeqCst);
        energy
    });
    let why = why(&energy);
    assert!(why.contains("package-1: the counter did not change in 200 ms at the edge"), "{energy:?}");
}

#[test]
fn several_sources_are_read_at_once_and_one_that_is_missing_says_why() {
    let machine = Machine::new();
    zone(&machine, 0, 1_000_000, 262_143_328_850);
    let meter = Meter::open(&"powercap".parse().unwrap(), Some(machine.root()));
    assert_eq!(meter.min_window(), Duration::from_millis(50));
    let start = meter.mark();
    std::thread::sleep(Duration::from_millis(2));
    zone(&machine, 0, 1_500_000, 262_143_328_850);
    let energy = meter.between(&start, &meter.mark());
    assert_eq!(joules(&energy[0], "package-0"), 0.5);
    assert!(energy[0].window >= Duration::from_millis(2));
    assert!(energy[0].energy.provenance().contains("powercap tree at"), "{energy:?}");

    let other = Meter::open(&"powercap".parse().unwrap(), Some(machine.root()));
    let foreign = other.between(&start, &other.mark()).remove(0);
    assert!(why(&foreign).contains("another energy meter"));
}

#[test]
fn a_machine_without_sources_says_so() {
    let machine = Machine::new();
    let meter = Meter::open(&EnergyChoice::Auto, Some(machine.root()));
    let energy = meter.between(&meter.mark(), &meter.mark_aligned()).remove(0);
    assert!(why(&energy).contains("powercap: no powercap tree"), "{energy:?}");
    assert_eq!(meter.min_window(), Duration::ZERO);
    let none = Meter::open(&EnergyChoice::None, None);
    assert!(why(&none.between(&none.mark(), &none.mark())[0]).contains("no energy source was asked for"));
}

#[test]
fn a_survey_names_every_source_once() {
    let machine = Machine::new();
    zone(&machine, 0, 1_000_000, 262_143_328_850);
    let reports = survey(Some(machine.root()));
    let found = |name: &str| &reports.iter().find(|report| report.name == name).unwrap().found;
    assert_eq!(found("powercap").as_ref().unwrap()[0].name, "package-0");
    for report in survey(Some(Machine::new().root())) {
        assert!(!report.found.unwrap_err().why.is_empty());
    }
}
