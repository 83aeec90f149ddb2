//! Memory: what this process holds, and how much a new process may still take.

use std::path::Path;

use super::text;
use crate::figure::Figure;
use crate::journal::MemoryReading;
use crate::units::Bytes;

/// Resident memory of this process, from `/proc/self/status`.
pub fn read() -> Figure<MemoryReading> {
    match text("/proc/self/status") {
        Some(status) => parse_status(&status),
        None => Figure::unavailable("/proc/self/status cannot be read (only Linux has it)"),
    }
}

/// Proportional set size of this process: as resident memory, but a page that several processes have counts
/// in each only in part. The kernel walks all page tables for it, milliseconds for each gigabyte, so it is
/// read outside timed windows.
pub fn proportional() -> Figure<Bytes> {
    const FILE: &str = "/proc/self/smaps_rollup";
    match text(FILE).map(|rollup| field_kb(&rollup, "Pss")) {
        Some(Some(pss)) => Figure::measured(pss, FILE),
        Some(None) => Figure::unavailable(format!("{FILE} has no Pss")),
        None => Figure::unavailable(format!("{FILE} cannot be read (only Linux from 4.14 on has it)")),
    }
}

/// Memory that a new process can use without swapping: the kernel's estimate, lowered to what is left
/// under the memory limits of this process's control groups. Page cache that the kernel can drop
/// counts as available in both.
pub fn available() -> Figure<Bytes> {
    available_in(Path::new("/"))
}

/// As [`available`], with `root` in the place of `/`.
pub(super) fn available_in(root: &Path) -> Figure<Bytes> {
    let Some(meminfo) = text(root.join("proc/meminfo")) else {
        return Figure::unavailable("/proc/meminfo cannot be read (only Linux has it)");
    };
    let Some(free) = field_kb(&meminfo, "MemAvailable") else {
        return Figure::unavailable("/proc/meminfo has no MemAvailable (Linux before 3.14)");
    };
    match cgroup_headroom(root) {
        Some(headroom) if headroom < free => Figure::measured(headroom, "limit of the control group"),
        _ => Figure::measured(free, "MemAvailable"),
    }
}

/// The value of a `Key:  123 kB` line, as in `/proc/meminfo` and `/proc/self/status`.
pub(super) fn field_kb(text: &str, key: &str) -> Option<Bytes> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    // The kernel's kB are KiB.
    kib.checked_mul(1024).map(Bytes)
}

fn parse_status(status: &str) -> Figure<MemoryReading> {
    let field = |key: &str| field_kb(status, key).ok_or_else(|| key.to_owned());
    let reading = || {
        Ok::<_, String>(MemoryReading {
            peak_rss: field("VmHWM")?,
            anon: field("RssAnon")?,
            file: field("RssFile")?,
            shmem: field("RssShmem")?,
            // A kernel without swap has no such line.
            swapped: field_kb(status, "VmSwap"),
        })
    };
    match reading() {
        Ok(reading) => Figure::measured(reading, "/proc/self/status"),
        Err(key) => Figure::unavailable(format!("/proc/self/status has no {key} (Linux before 4.5)")),
    }
}

/// The least that a control group from this process's own up to the root leaves below its limit; none
/// if no limit applies.
fn cgroup_headroom(root: &Path) -> Option<Bytes> {
    let groups = text(root.join("proc/self/cgroup"))?;
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        // hierarchy-ID:controller-list:path, where version 2 has no controller list.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mount, limit, usage, cache) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
        } else if controllers.split(',').any(|c| c == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        } else {
            continue;
        };
        // In a container the path may be the host's, of which only the mount point is visible: folders
        // that do not exist are passed over, and the mount point itself is looked at last.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let number =
                |file: &str| -> Option<u64> { text(root.join(mount).join(group).join(file))?.parse().ok() };
            let (Some(limit), Some(usage)) = (number(limit), number(usage)) else { continue };
            let stat = text(root.join(mount).join(group).join("memory.stat")).unwrap_or_default();
            let cached = stat
                .lines()
                .find_map(|line| line.strip_prefix(cache)?.strip_prefix(' ')?.parse::<u64>().ok())
                .unwrap_or(0);
            let headroom = limit.saturating_sub(usage.saturating_sub(cached));
            least = Some(least.map_or(headroom, |least| least.min(headroom)));
        }
    }
    least.map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::super::test_tree as tree;
    use super::*;

    const STATUS: &str = "Name:\tcat\nVmPeak:\t    3060 kB\nVmHWM:\t    1776 kB\nVmRSS:\t    1776 kB\n\
                          RssAnon:\t     112 kB\nRssFile:\t    1664 kB\nRssShmem:\t       0 kB\nThreads:\t1\n";
    const MEMINFO: &str =
        "MemTotal:       24683520 kB\nMemFree:        23876608 kB\nMemAvailable:    1000000 kB\n";

    #[test]
    fn status_is_read_in_kib() {
        let reading = parse_status(STATUS);
        assert_eq!(
            reading.value(),
            Some(&MemoryReading {
                peak_rss: Bytes(1776 * 1024),
                anon: Bytes(112 * 1024),
                file: Bytes(1664 * 1024),
                shmem: Bytes(0),
                swapped: None,
            })
        );
        let swapping = parse_status(&format!("{STATUS}VmSwap:\t     12 kB\n"));
        assert_eq!(swapping.value().unwrap().swapped, Some(Bytes(12 * 1024)));
        let old = parse_status(&STATUS.replace("RssFile", "Rss"));
        assert!(old.provenance().contains("no RssFile"), "{}", old.provenance());
        for garbage in
            ["", "VmHWM:", "VmHWM: x kB", "VmHWM: 99999999999999999999 kB", "VmHWM: 18446744073709551615 kB"]
        {
            assert_eq!(parse_status(garbage).value(), None);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_memory() {
        let reading = *read().value().unwrap();
        assert!(reading.peak_rss.0 >= reading.anon.0 && reading.anon.0 > 0 && reading.file.0 > 0);
        assert!(available().value().unwrap().0 > 0);
        // Two readings, between which other tests of this process allocate: only the order of magnitude.
        match proportional() {
            Figure::Unavailable { why } => println!("not tested: {why}"),
            pss => assert!(pss.value().unwrap().0 > reading.anon.0 / 10),
        }
    }

    #[test]
    fn without_limits_the_kernel_decides() {
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/user.slice/session\n"),
            ("sys/fs/cgroup/user.slice/session/memory.max", "max\n"),
            ("sys/fs/cgroup/user.slice/session/memory.current", "5000\n"),
        ]);
        assert_eq!(available_in(root.path()), Figure::measured(Bytes(1_024_000_000), "MemAvailable"));
        let root = tree(&[("proc/meminfo", MEMINFO)]);
        assert_eq!(available_in(root.path()), Figure::measured(Bytes(1_024_000_000), "MemAvailable"));
        let root = tree(&[]);
        assert_eq!(available_in(root.path()).value(), None);
        let root = tree(&[("proc/meminfo", "MemTotal: 5 kB\n")]);
        assert_eq!(available_in(root.path()).value(), None);
    }

    #[test]
    fn the_tightest_group_of_the_hierarchy_decides() {
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a.slice/b\n"),
            ("sys/fs/cgroup/a.slice/b/memory.max", "900000000\n"),
            ("sys/fs/cgroup/a.slice/b/memory.current", "100000000\n"),
            ("sys/fs/cgroup/a.slice/memory.max", "600000000\n"),
            ("sys/fs/cgroup/a.slice/memory.current", "500000000\n"),
            ("sys/fs/cgroup/a.slice/memory.stat", "anon 1\ninactive_file 50000000\nactive_file 7\n"),
        ]);
        assert_eq!(available_in(root.path()).value(), Some(&Bytes(150_000_000)));
    }

    #[test]
    fn version_1_and_paths_of_the_host_are_understood() {
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "9:name=systemd:/x\n4:cpu,memory:/docker/0123\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "700000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "800000000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 200000000\n"),
        ]);
        assert_eq!(
            available_in(root.path()),
            Figure::measured(Bytes(100_000_000), "limit of the control group")
        );
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "4:memory:/\nnonsense\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "800000000\n"),
        ]);
        assert_eq!(available_in(root.path()).value(), Some(&Bytes(1_024_000_000)));
    }
}
