//! Which CPU belongs to which package, die and core: whom to ask for a package's counter.

use std::path::Path;

use super::source::{below, read_number};

/// Place of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) package: u64,
    pub(super) die: u64,
    pub(super) core: u64,
    pub(super) cpu: u32,
}

/// Every CPU that is online and says where it is, by package, die and core.
pub(super) fn places(root: Option<&Path>) -> Vec<Place> {
    let folder = below(root, "/sys/devices/system/cpu");
    let online = std::fs::read_to_string(folder.join("online")).unwrap_or_default();
    let mut places: Vec<Place> = crate::probe::cpu_list(&online)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|cpu| place(root, cpu))
        .collect();
    places.sort_unstable();
    places
}

/// The place of one CPU, if it says it.
pub(super) fn place(root: Option<&Path>, cpu: u32) -> Option<Place> {
    let folder = below(root, &format!("/sys/devices/system/cpu/cpu{cpu}/topology"));
    let number = |file: &str| read_number(&folder.join(file), "its place").ok();
    let package = number("physical_package_id")?;
    // Older kernels know no dies.
    Some(Place { package, die: number("die_id").unwrap_or(0), core: number("core_id").unwrap_or(0), cpu })
}

/// The name of the package or die that a CPU speaks for, as powercap writes it without `package-`.
pub(super) fn socket(place: Place, places: &[Place]) -> String {
    if places.iter().any(|other| other.package == place.package && other.die != place.die) {
        format!("{}-die-{}", place.package, place.die)
    } else {
        place.package.to_string()
    }
}
