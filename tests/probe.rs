//! The instruments on simulated trees: every way in which energy can be missing, and a real joule.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use bitjoule::figure::Figure;
use bitjoule::journal::DomainEnergy;
use bitjoule::probe::energy::EnergyMeter;

const RANGE: &str = "262143328850";

fn zone(root: &Path, folder: &str, name: &str, energy_uj: &str, range_uj: &str) {
    let zone = root.join(folder);
    fs::create_dir_all(&zone).unwrap();
    fs::write(zone.join("name"), format!("{name}\n")).unwrap();
    fs::write(zone.join("energy_uj"), format!("{energy_uj}\n")).unwrap();
    fs::write(zone.join("max_energy_range_uj"), format!("{range_uj}\n")).unwrap();
}

/// A tree of two sockets with everything that a real one has beside the packages.
fn two_sockets() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir(root.join("intel-rapl")).unwrap();
    zone(root, "intel-rapl:1", "package-1", "5000000", RANGE);
    zone(root, "intel-rapl:0", "package-0", "1000000", RANGE);
    zone(root, "intel-rapl:0:0", "core", "10", RANGE);
    zone(root, "intel-rapl:0:1", "package-9", "10", RANGE);
    zone(root, "intel-rapl:2", "psys", "10", RANGE);
    zone(root, "intel-rapl-mmio:0", "package-0", "10", RANGE);
    dir
}

fn set(root: &Path, zone: &str, energy_uj: impl ToString) {
    fs::write(root.join(zone).join("energy_uj"), energy_uj.to_string()).unwrap();
}

/// Why a window over a tree has no energy, `change` being made within the window.
fn why(root: &Path, change: impl FnOnce(&Path)) -> String {
    let meter = EnergyMeter::open(Some(root));
    let start = meter.start();
    change(root);
    match meter.since(&start) {
        Figure::Unavailable { why } => why,
        figure => panic!("{figure:?}"),
    }
}

#[test]
fn two_sockets_are_read_apart_and_simulation_is_labelled() {
    let tree = two_sockets();
    let meter = EnergyMeter::open(Some(tree.path()));
    let start = meter.start();
    sleep(Duration::from_millis(20));
    set(tree.path(), "intel-rapl:0", 3_500_000);
    set(tree.path(), "intel-rapl:1", 6_000_000);
    let figure = meter.since(&start);
    assert!(matches!(figure, Figure::Simulated { .. }), "{figure:?}");
    let joules: Vec<(&str, f64)> = figure
        .value()
        .unwrap()
        .iter()
        .map(|DomainEnergy { domain, energy_j }| (domain.as_str(), energy_j.0))
        .collect();
    assert_eq!(joules, [("package-0", 2.5), ("package-1", 1.0)]);
}

#[test]
fn a_counter_that_turned_over_is_corrected() {
    let tree = two_sockets();
    set(tree.path(), "intel-rapl:0", 262_143_328_850_u64 - 1_000_000);
    let meter = EnergyMeter::open(Some(tree.path()));
    let start = meter.start();
    set(tree.path(), "intel-rapl:0", 2_000_000);
    set(tree.path(), "intel-rapl:1", 6_000_000);
    let figure = meter.since(&start);
    assert_eq!(figure.value().unwrap()[0].energy_j.0, 3.0);
}

#[test]
fn every_missing_joule_has_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    assert!(why(&dir.path().join("none"), |_| ()).contains("no powercap tree"));
    assert!(why(dir.path(), |_| ()).contains("no package zone"));
    zone(dir.path(), "intel-rapl:0", "psys", "1", RANGE);
    assert!(why(dir.path(), |_| ()).contains("no package zone"));

    for garbage in ["", "-5", "12 uJ", "0x10", "99999999999999999999999", "\u{1b}[2J"] {
        let tree = two_sockets();
        zone(tree.path(), "intel-rapl:1", "package-1", garbage, RANGE);
        let why = why(tree.path(), |_| ());
        assert!(why.contains("no number of microjoules") && !why.contains('\u{1b}'), "{why}");
    }
    let tree = two_sockets();
    zone(tree.path(), "intel-rapl:1", "package-1", "5", "0");
    assert!(why(tree.path(), |_| ()).contains("max_energy_range_uj is 0"));

    let tree = two_sockets();
    fs::remove_file(tree.path().join("intel-rapl:0/max_energy_range_uj")).unwrap();
    assert!(why(tree.path(), |_| ()).contains("is not there"));

    let tree = two_sockets();
    zone(tree.path(), "intel-rapl:3", "package-0", "5", RANGE);
    assert!(why(tree.path(), |_| ()).contains("two zones"));
}

#[test]
fn one_bad_package_leaves_no_figure() {
    let both = |root: &Path| {
        set(root, "intel-rapl:0", 2_000_000);
        set(root, "intel-rapl:1", 6_000_000);
    };
    let tree = two_sockets();
    assert!(
        why(tree.path(), |root| {
            both(root);
            fs::remove_dir_all(root.join("intel-rapl:1")).unwrap();
        })
        .contains("intel-rapl:1/energy_uj is not there")
    );
    let tree = two_sockets();
    assert!(
        why(tree.path(), |root| {
            both(root);
            set(root, "intel-rapl:1", "garbage");
        })
        .contains("'garbage'")
    );
    // Only one of the counters moved within the window.
    let tree = two_sockets();
    assert!(
        why(tree.path(), |root| set(root, "intel-rapl:0", 2_000_000))
            .contains("package-1: the counter did not change")
    );
    let tree = two_sockets();
    assert!(
        why(tree.path(), |root| {
            both(root);
            set(root, "intel-rapl:0", 999_999)
        })
        .contains("reset or is broken")
    );
    let tree = two_sockets();
    assert!(
        why(tree.path(), |root| {
            both(root);
            set(root, "intel-rapl:0", u64::MAX)
        })
        .contains("its range is")
    );
}

#[test]
#[cfg(unix)]
fn root_only_counters_name_the_remedy() {
    use std::os::unix::fs::PermissionsExt;
    let tree = two_sockets();
    let counter = tree.path().join("intel-rapl:0/energy_uj");
    fs::set_permissions(&counter, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&counter).is_ok() {
        return; // Root reads everything; the message itself has a unit test.
    }
    assert!(why(tree.path(), |_| ()).contains("sudo chmod a+r"));
}
