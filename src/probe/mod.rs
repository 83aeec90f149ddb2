//! The instruments: time, memory, energy, bandwidth, arithmetic, and the state of the host.
//!
//! An instrument that is missing or in doubt yields [`Figure::Unavailable`](crate::figure::Figure)
//! with the reason, never a guess.

pub mod bandwidth;
pub mod clock;
pub mod compute;
pub mod counters;
pub mod energy;
pub mod host;
pub mod memory;
pub mod noise;
mod perf;
pub mod state;
mod team;
pub mod usage;

use std::path::Path;

/// The text of a file of procfs or sysfs without the final newline; none if it cannot be read.
pub(crate) fn text(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim_end().to_owned())
}

/// The CPUs of a kernel list such as `0-3,8,10-11`, ascending as written; none if it is malformed.
fn cpu_list(list: &str) -> Option<Vec<u32>> {
    /// More CPUs than any kernel supports: a longer list is garbage, not worth its memory.
    const MAX_CPUS: usize = 1 << 16;
    let mut cpus = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || cpus.len() + (last - first) as usize >= MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// A root folder with these files, for the tests on simulated trees.
#[cfg(test)]
fn test_tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    root
}

#[cfg(test)]
mod tests {
    #[test]
    fn cpu_lists_are_expanded() {
        assert_eq!(super::cpu_list("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(super::cpu_list("0"), Some(vec![0]));
        assert_eq!(super::cpu_list(""), Some(vec![]));
        assert_eq!(super::cpu_list("3-1"), None);
        assert_eq!(super::cpu_list("0-4294967295"), None);
        assert_eq!(super::cpu_list("a"), None);
    }
}
