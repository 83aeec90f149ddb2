//! The ledger: doubts about counters, power and time, each in a window of its own among good ones.

use std::time::Duration;

use bitjoule::probe::energy::accumulate::{Ledger, LedgerMark};
use bitjoule::probe::energy::source::{Domain, DomainKind, Quantity, Raw, Reading};
use bitjoule::units::{Joules, Watts};

use super::{Trace, seconds};

fn counter(turn: Option<u64>) -> Domain {
    Domain {
        name: "package-0".to_owned(),
        kind: DomainKind::Package,
        in_total: true,
        quantity: Quantity::Counter { unit: Joules(1.0), turn, step: Joules(1.0) },
        update_period: Duration::from_millis(1),
    }
}

fn power(step_w: f64, update_period: Duration) -> Domain {
    Domain {
        name: "VDD_IN".to_owned(),
        kind: DomainKind::Rail,
        in_total: true,
        quantity: Quantity::Power { step: Watts(step_w) },
        update_period,
    }
}

/// One domain, read at given seconds.
struct Book(Ledger);

impl Book {
    fn new(domain: Domain) -> Book {
        Book(Ledger::new(&[domain], Duration::ZERO))
    }

    fn enter(&mut self, s: f64, raw: Result<Raw, &str>) -> LedgerMark {
        let raw = raw.map_err(str::to_owned);
        self.0.enter(seconds(s), Duration::ZERO, &[Reading { domain: 0, at: None, raw }]);
        self.0.mark(seconds(s), |_| None)
    }

    fn counts(&mut self, s: f64, counts: u64) -> LedgerMark {
        self.enter(s, Ok(Raw::Counts(counts)))
    }

    fn power(&mut self, s: f64, watts: f64) -> LedgerMark {
        self.enter(s, Ok(Raw::Power(Watts(watts))))
    }

    fn joules(&self, from: &LedgerMark, to: &LedgerMark) -> f64 {
        self.0.between(from, to).remove(0).unwrap().energy.0
    }

    fn why(&self, from: &LedgerMark, to: &LedgerMark) -> String {
        self.0.between(from, to).remove(0).unwrap_err()
    }
}

/// Readings (second, counts) of which the third spoils: the window before it and the window after it are
/// good, those over it are not.
fn one_bad_window(turn: Option<u64>, readings: [(f64, u64); 4], needle: &str) {
    let mut book = Book::new(counter(turn));
    let marks = readings.map(|(s, counts)| book.counts(s, counts));
    assert_eq!(book.joules(&marks[0], &marks[1]), (readings[1].1 - readings[0].1) as f64);
    let why = book.why(&marks[1], &marks[2]);
    assert!(why.contains(needle), "{why}");
    assert_eq!(book.why(&marks[0], &marks[3]), why);
    assert_eq!(book.joules(&marks[2], &marks[3]), (readings[3].1 - readings[2].1) as f64);
}

#[test]
fn a_counter_that_goes_back_without_a_turn_is_in_doubt() {
    // A whole turn but 5 J in a second is no power of a CPU.
    let readings = [(1.0, 500), (2.0, 510), (3.0, 405), (4.0, 415)];
    one_bad_window(Some(1_000_000), readings, "went back from 510 to 405");
    one_bad_window(None, readings, "went back from 510 to 405");
}

#[test]
fn a_counter_that_may_have_gone_on_from_before_a_doubt_is_still_in_doubt() {
    // A single wrong reading, far down or far up: what lies between it and the next is no energy.
    for (wrong, first) in [(0, "went back from 510 to 0"), (9_000, "more than 1000 W")] {
        for turn in [None, Some(1_000_000)] {
            let mut book = Book::new(counter(turn));
            let read = [(1.0, 500), (2.0, 510), (3.0, wrong), (3.5, wrong), (4.0, 530), (5.0, 540)];
            let marks = read.map(|(s, counts)| book.counts(s, counts));
            assert_eq!(book.joules(&marks[0], &marks[1]), 10.0);
            assert!(book.why(&marks[1], &marks[2]).contains(first), "{wrong}");
            assert!(!book.why(&marks[2], &marks[4]).is_empty(), "{wrong}");
            assert!(!book.why(&marks[3], &marks[4]).is_empty(), "{wrong}");
            assert_eq!(book.joules(&marks[4], &marks[5]), 10.0, "{wrong}");
        }
    }
}

#[test]
fn a_jump_is_in_doubt() {
    let readings = [(1.0, 500), (2.0, 510), (3.0, 9_000), (4.0, 9_010)];
    one_bad_window(Some(1_000_000), readings, "more than 1000 W");
    one_bad_window(None, readings, "more than 1000 W");
}

#[test]
fn a_gap_in_which_a_turn_may_hide_is_in_doubt() {
    // In 6 s at 1000 W, 10 J and 5010 J are both possible.
    let readings = [(1.0, 500), (2.0, 510), (8.0, 520), (9.0, 530)];
    one_bad_window(Some(5_000), readings, "may have turned over unseen");
}

#[test]
fn a_counter_above_its_range_is_in_doubt_until_it_is_back() {
    let mut book = Book::new(counter(Some(1_000)));
    let marks =
        [(1.0, 500), (1.1, 510), (1.2, 1_001), (1.3, 520), (1.4, 530)].map(|(s, c)| book.counts(s, c));
    assert_eq!(book.joules(&marks[0], &marks[1]), 10.0);
    assert!(book.why(&marks[1], &marks[2]).contains("its range is 1000"));
    assert!(book.why(&marks[2], &marks[3]).contains("its range is 1000"));
    assert!(book.why(&marks[0], &marks[3]).contains("its range is 1000"));
    assert_eq!(book.joules(&marks[3], &marks[4]), 10.0);
}

#[test]
fn a_range_of_zero_is_no_range() {
    let mut book = Book::new(counter(Some(0)));
    let marks = [book.counts(1.0, 0), book.counts(2.0, 0)];
    assert!(book.why(&marks[0], &marks[1]).contains("is zero"));
}

#[test]
fn a_counter_that_freezes_within_a_window_spoils_it() {
    let mut book = Book::new(counter(None));
    let start = book.counts(1.0, 500);
    let moving = book.counts(2.0, 600);
    // It stands still from here, and is read in the background.
    book.counts(3.0, 650);
    book.counts(30.0, 650);
    let end = book.counts(60.0, 650);
    let why = book.why(&start, &end);
    assert!(why.contains("did not change in 27.000 s") && why.contains("frozen"), "{why}");
    assert_eq!(book.joules(&start, &moving), 100.0);
    // A stop that is too short to be told from a pause is within the error of both windows beside it.
    let mut short = Book::new(counter(None));
    let begin = short.counts(1.0, 500);
    short.counts(2.0, 600);
    short.counts(2.1, 600);
    let stopped = short.counts(2.5, 600);
    let energy = short.0.between(&begin, &stopped).remove(0).unwrap();
    assert_eq!(energy.energy.0, 100.0);
    assert!(energy.uncertainty.0 > 100.0 / 1.5 * 0.5, "{energy:?}");
    let thawed = book.counts(61.0, 700);
    let later = book.counts(62.0, 750);
    assert_eq!(book.joules(&end, &thawed), 50.0);
    assert_eq!(book.joules(&thawed, &later), 50.0);
}

#[test]
fn a_failed_reading_between_marks_loses_nothing_and_at_a_mark_spoils() {
    let mut book = Book::new(counter(Some(100_000)));
    let start = book.counts(1.0, 99_990);
    book.enter(2.0, Err("gone"));
    let end = book.counts(3.0, 20);
    assert_eq!(book.joules(&start, &end), 30.0);
    let failed = book.enter(4.0, Err("gone"));
    assert_eq!(book.why(&end, &failed), "gone");
    assert_eq!(book.why(&failed, &end), "gone");
    let back = book.counts(5.0, 40);
    assert_eq!(book.joules(&end, &back), 20.0);
}

#[test]
fn a_sleep_spoils_the_window_it_lies_in() {
    let mut book = Book::new(counter(None));
    let asleep = Duration::from_secs(600);
    let at = |book: &mut Book, s: f64, slept: Duration, counts: u64| {
        let reading = Reading { domain: 0, at: None, raw: Ok(Raw::Counts(counts)) };
        book.0.enter(seconds(s), slept, &[reading]);
        book.0.mark(seconds(s), |_| None)
    };
    let before = at(&mut book, 1.0, Duration::ZERO, 500);
    let awake = at(&mut book, 2.0, Duration::from_millis(1), 510);
    let woken = at(&mut book, 3.0, asleep, 520);
    let after = at(&mut book, 4.0, asleep, 530);
    assert_eq!(book.joules(&before, &awake), 10.0);
    assert!(book.why(&awake, &woken).contains("slept for 600.0 s"));
    assert!(book.why(&before, &after).contains("slept"));
    assert_eq!(book.joules(&woken, &after), 10.0);
}

#[test]
fn doubts_beyond_number_are_still_doubts() {
    let mut book = Book::new(counter(None));
    let start = book.counts(1.0, 500);
    let first = book.counts(2.0, 400);
    for i in 0..100 {
        book.counts(3.0 + f64::from(i), 400 - i as u64);
    }
    let end = book.counts(200.0, 1000);
    assert!(!book.why(&start, &first).is_empty());
    assert!(book.why(&start, &end).contains("went back"));
}

#[test]
fn power_is_integrated_by_trapezoids_with_its_error_stated() {
    let trace = Trace::new(8.0, 5.0, 1.7);
    let mut book = Book::new(power(0.001, Duration::from_millis(1)));
    let marks: Vec<LedgerMark> = (0..=600)
        .map(|i| book.power(f64::from(i) / 10.0, trace.power_w(seconds(f64::from(i) / 10.0))))
        .collect();
    let energy = book.0.between(&marks[0], &marks[600]).remove(0).unwrap();
    let want = trace.energy_j(seconds(60.0));
    assert!((energy.energy.0 - want).abs() < 0.001 * want, "{energy:?} {want}");
    assert!((energy.energy.0 - want).abs() < energy.uncertainty.0);

    // A square wave faster than the sampling: the error is large, and said to be.
    let mut book = Book::new(power(0.001, Duration::from_millis(1)));
    let marks: Vec<LedgerMark> =
        (0..=600).map(|i| book.power(f64::from(i) / 10.0, if i % 4 < 2 { 5.0 } else { 15.0 })).collect();
    let rough = book.0.between(&marks[0], &marks[600]).remove(0).unwrap();
    assert!(rough.uncertainty.0 > 5.0 * energy.uncertainty.0, "{rough:?} {energy:?}");
}

#[test]
fn power_in_doubt() {
    let mut book = Book::new(power(0.001, Duration::from_millis(100)));
    let start = book.power(1.0, 5.0);
    let good = book.power(2.0, 7.0);
    assert_eq!(book.joules(&start, &good), 6.0);
    // Not read for longer than ten periods and two seconds.
    let late = book.power(8.0, 7.0);
    assert!(book.why(&good, &late).contains("was not read for 6.0 s"));
    let after = book.power(9.0, 7.0);
    assert_eq!(book.joules(&late, &after), 7.0);
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        let bad = book.power(10.0, bad);
        assert!(book.why(&after, &bad).contains("the power reads"));
    }
    let a = book.power(11.0, 5.0);
    let b = book.power(12.0, 1e7);
    assert!(book.why(&a, &b).contains("more than 2000 W"));
    // An impossible sample is no beginning of the next window either.
    let c = book.power(13.0, 5.0);
    assert!(book.why(&b, &c).contains("more than 2000 W"));
    let d = book.power(14.0, 5.0);
    assert_eq!(book.joules(&c, &d), 5.0);
    let mut hot = Book::new(power(0.001, Duration::from_millis(100)));
    let marks = [(1.0, 1e9), (2.0, 5.0), (3.0, 5.0)].map(|(s, watts)| hot.power(s, watts));
    assert!(hot.why(&marks[0], &marks[1]).contains("more than 2000 W"));
    assert_eq!(hot.joules(&marks[1], &marks[2]), 5.0);
    let mut zero = Book::new(power(0.001, Duration::from_millis(100)));
    let marks = [zero.power(1.0, 0.0), zero.power(2.0, 0.0)];
    assert!(zero.why(&marks[0], &marks[1]).contains("0 W"));
}

#[test]
fn readings_that_stop_coming_or_go_back_in_time_are_in_doubt() {
    let mut book = Book::new(power(0.001, Duration::from_millis(100)));
    let push = |book: &mut Book, now: f64, at: f64, watts: f64| {
        let reading = Reading { domain: 0, at: Some(seconds(at)), raw: Ok(Raw::Power(Watts(watts))) };
        book.0.enter(seconds(now), Duration::ZERO, &[reading]);
    };
    push(&mut book, 1.0, 1.0, 5.0);
    let start = book.0.mark(seconds(1.0), |_| None);
    push(&mut book, 1.9, 1.9, 5.0);
    let held = book.0.mark(seconds(2.0), |_| None);
    assert!((book.joules(&start, &held) - 5.0).abs() < 1e-9);
    let stalled = book.0.mark(seconds(3.5), |_| None);
    assert!(book.why(&held, &stalled).contains("no reading for 1.6 s"));
    push(&mut book, 3.6, 1.8, 5.0);
    push(&mut book, 3.6, 3.6, 5.0);
    let back = book.0.mark(seconds(3.6), |_| None);
    assert!(book.why(&held, &back).contains("went back by 0.100 s"));
}

#[test]
fn a_window_of_no_length_and_marks_of_another_ledger_have_no_energy() {
    let mut book = Book::new(counter(None));
    let a = book.counts(1.0, 500);
    let b = book.counts(1.0, 510);
    assert!(book.why(&a, &b).contains("no length"));
    let other = Ledger::new(&[], Duration::ZERO).mark(seconds(1.0), |_| None);
    assert!(book.0.between(&other, &b).remove(0).unwrap_err().contains("another energy meter"));
}
