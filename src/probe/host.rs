//! The host: what a reader must know about the machine, its state and the build to judge a figure.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::memory::{available_in, field_kb};
use super::{cpu_list, text};
use crate::figure::Figure;
use crate::units::Bytes;

/// The machine, its state when it was looked at, and this build of bitjoule: `host.json` of a run.
///
/// In a virtual machine, topology, caches and frequencies are those that the hypervisor shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Operating system: `linux`, `macos`.
    pub os: String,
    /// Name of the distribution: `Debian GNU/Linux 13 (trixie)`.
    pub os_name: Figure<String>,
    /// Version of the kernel.
    pub kernel: Figure<String>,
    /// Machine architecture: `x86_64`, `aarch64`.
    pub arch: String,
    /// Model of the CPU.
    pub cpu_model: Figure<String>,
    /// Vendor of the CPU: `GenuineIntel`.
    pub cpu_vendor: Figure<String>,
    /// Hardware threads online.
    pub logical_cores: Figure<u32>,
    /// Hardware threads that this process may use, after affinity and CPU quotas.
    pub usable_cores: Figure<u32>,
    /// Cores, each with one or more hardware threads.
    pub physical_cores: Figure<u32>,
    /// Sockets.
    pub sockets: Figure<u32>,
    /// Caches, from the smallest level.
    pub caches: Figure<Vec<Cache>>,
    /// Instruction set extensions that matter here and that this process can use.
    pub isa_features: Vec<String>,
    /// Memory of the machine.
    pub memory_total: Figure<Bytes>,
    /// Memory that a new process can use, as [`super::memory::available`].
    pub memory_available: Figure<Bytes>,
    /// Swap space.
    pub swap_total: Figure<Bytes>,
    /// NUMA nodes.
    pub numa_nodes: Figure<u32>,
    /// Frequency governors, the distinct ones of all cores joined by `,`.
    pub governor: Figure<String>,
    /// Frequency of core 0 when it was looked at, MHz.
    pub frequency_mhz: Figure<f64>,
    /// Highest frequency of core 0, MHz.
    pub frequency_max_mhz: Figure<f64>,
    /// Whether cores may exceed their base frequency.
    pub boost: Figure<bool>,
    /// Whether cores run more than one hardware thread each.
    pub smt: Figure<bool>,
    /// Setting of transparent huge pages: `always`, `madvise` or `never`.
    pub transparent_huge_pages: Figure<String>,
    /// The hypervisor under which this runs, or `none`.
    pub virtualisation: Figure<String>,
    /// Share of CPU time since boot that the hypervisor gave to others, 0 to 1.
    pub steal_share: Figure<f64>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load_average: Figure<[f64; 3]>,
    /// The kernel's `perf_event_paranoid` setting, which decides who may use hardware counters.
    pub perf_event_paranoid: Figure<i32>,
    /// This build of bitjoule.
    pub build: Build,
}

/// A kind of cache and how many of it there are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cache {
    /// Level, from 1.
    pub level: u32,
    /// What it holds: `Data`, `Instruction` or `Unified`.
    pub kind: String,
    /// Size of one of them.
    pub size: Bytes,
    /// Hardware threads that share one of them.
    pub shared_by: u32,
    /// How many there are.
    pub instances: u32,
}

/// What bitjoule was built from and with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Version of bitjoule.
    pub version: String,
    /// Commit it was built from, with `-dirty` if the sources differed from it, or `unknown`.
    pub commit: String,
    /// Version of the compiler.
    pub rustc: String,
    /// Profile and its optimisation: `release (opt-level 3)`.
    pub profile: String,
    /// Target: `x86_64-unknown-linux-gnu`.
    pub target: String,
}

impl Build {
    /// This build.
    pub fn current() -> Build {
        Build {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("BITJOULE_COMMIT").to_owned(),
            rustc: env!("BITJOULE_RUSTC").to_owned(),
            profile: env!("BITJOULE_PROFILE").to_owned(),
            target: env!("BITJOULE_TARGET").to_owned(),
        }
    }
}

impl Host {
    /// Looks at this machine.
    pub fn detect() -> Host {
        Host::detect_in(Path::new("/"))
    }

    /// As [`Host::detect`], with the folders `proc`, `sys` and `etc` of `root` in the place of the
    /// machine's own. What no file tells (architecture, instruction sets, usable cores, build) is this
    /// process's all the same.
    pub fn detect_in(root: &Path) -> Host {
        let read = |path: &str| file(root, path);
        let cpuinfo = text(root.join("proc/cpuinfo")).unwrap_or_default();
        let meminfo = text(root.join("proc/meminfo")).unwrap_or_default();
        let memory = |key: &str| match field_kb(&meminfo, key) {
            Some(bytes) => Figure::measured(bytes, "/proc/meminfo"),
            None => Figure::unavailable(format!("/proc/meminfo has no {key}")),
        };
        let online = list(root, "sys/devices/system/cpu/online");
        let cpus = online.value().cloned().unwrap_or_default();
        Host {
            os: std::env::consts::OS.to_owned(),
            os_name: os_name(root),
            kernel: read("proc/sys/kernel/osrelease"),
            arch: std::env::consts::ARCH.to_owned(),
            cpu_model: cpu_model(&cpuinfo),
            cpu_vendor: cpu_vendor(&cpuinfo),
            logical_cores: online.map(|cpus| cpus.len() as u32),
            usable_cores: usable_cores(),
            physical_cores: distinct(
                root,
                &cpus,
                &["topology/core_cpus_list", "topology/thread_siblings_list"],
            ),
            sockets: distinct(root, &cpus, &["topology/physical_package_id"]),
            caches: caches(root, &cpus),
            isa_features: isa_features(),
            memory_total: memory("MemTotal"),
            memory_available: available_in(root),
            swap_total: memory("SwapTotal"),
            numa_nodes: list(root, "sys/devices/system/node/online").map(|nodes| nodes.len() as u32),
            governor: governor(root, &cpus),
            frequency_mhz: frequency(root, &cpuinfo),
            frequency_max_mhz: parsed(root, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", |khz| {
                khz.parse::<u32>().ok().map(|khz| f64::from(khz) / 1e3)
            }),
            boost: boost(root),
            smt: parsed(root, "sys/devices/system/cpu/smt/active", flag),
            transparent_huge_pages: parsed(root, "sys/kernel/mm/transparent_hugepage/enabled", |modes| {
                // All modes are listed, the chosen one in brackets.
                Some(modes.split_once('[')?.1.split_once(']')?.0.to_owned())
            }),
            virtualisation: virtualisation(root, &cpuinfo),
            steal_share: parsed(root, "proc/stat", steal_share),
            load_average: parsed(root, "proc/loadavg", |line| {
                let mut loads = line.split(' ').map(|field| field.parse().ok());
                Some([loads.next()??, loads.next()??, loads.next()??])
            }),
            perf_event_paranoid: parsed(root, "proc/sys/kernel/perf_event_paranoid", |s| s.parse().ok()),
            build: Build::current(),
        }
    }

    /// The size of the machine's last-level cache: the size of one cache of the highest level times
    /// the number of such caches, because threads on all cores fill all of them. A working set must be
    /// several times as large before reading it takes place in memory alone. None if the caches are
    /// not known.
    pub fn llc_bytes(&self) -> Option<Bytes> {
        let caches = self.caches.value()?;
        let last = caches.iter().map(|cache| cache.level).max()?;
        let bytes = caches
            .iter()
            .filter(|cache| cache.level == last && cache.kind != "Instruction")
            .fold(0_u64, |sum, cache| {
                sum.saturating_add(cache.size.0.saturating_mul(u64::from(cache.instances)))
            });
        Some(Bytes(bytes))
    }
}

/// A file's one value.
fn file(root: &Path, path: &str) -> Figure<String> {
    parsed(root, path, |text| Some(text.to_owned()))
}

/// A file's value as read by `parse`.
fn parsed<T>(root: &Path, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Figure<T> {
    match text(root.join(path)) {
        Some(text) if !text.is_empty() => match parse(&text) {
            Some(value) => Figure::measured(value, format!("/{path}")),
            None => Figure::unavailable(format!("/{path} cannot be understood")),
        },
        _ => Figure::unavailable(format!("/{path} is not there")),
    }
}

fn list(root: &Path, path: &str) -> Figure<Vec<u32>> {
    parsed(root, path, |text| cpu_list(text).filter(|list| !list.is_empty()))
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

fn os_name(root: &Path) -> Figure<String> {
    parsed(root, "etc/os-release", |text| {
        let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(value.trim_matches(['"', '\'']).to_owned())
    })
}

/// The first value of `key` in `/proc/cpuinfo`.
fn cpu_field<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim_end() == key).then_some(value.trim())
    })
}

fn cpu_model(cpuinfo: &str) -> Figure<String> {
    if let Some(model) = cpu_field(cpuinfo, "model name") {
        return Figure::measured(model.to_owned(), "/proc/cpuinfo");
    }
    // ARM kernels know numbers instead of names.
    match (cpu_field(cpuinfo, "CPU implementer"), cpu_field(cpuinfo, "CPU part")) {
        (Some(implementer), Some(part)) => {
            Figure::measured(format!("implementer {implementer} part {part}"), "/proc/cpuinfo")
        }
        _ => Figure::unavailable("/proc/cpuinfo names no model"),
    }
}

fn cpu_vendor(cpuinfo: &str) -> Figure<String> {
    match cpu_field(cpuinfo, "vendor_id").or_else(|| cpu_field(cpuinfo, "CPU implementer")) {
        Some(vendor) => Figure::measured(vendor.to_owned(), "/proc/cpuinfo"),
        None => Figure::unavailable("/proc/cpuinfo names no vendor"),
    }
}

fn usable_cores() -> Figure<u32> {
    match std::thread::available_parallelism() {
        Ok(n) => Figure::measured(n.get().try_into().unwrap_or(u32::MAX), "affinity and CPU quota"),
        Err(e) => Figure::unavailable(format!("the system does not tell: {e}")),
    }
}

/// How many distinct contents the first of `files` that exists has over all CPUs.
fn distinct(root: &Path, cpus: &[u32], files: &[&str]) -> Figure<u32> {
    for name in files {
        let contents: BTreeSet<String> = cpus
            .iter()
            .filter_map(|cpu| text(root.join(format!("sys/devices/system/cpu/cpu{cpu}/{name}"))))
            .collect();
        if !contents.is_empty() {
            return Figure::measured(contents.len() as u32, format!("/sys/devices/system/cpu/cpu*/{name}"));
        }
    }
    Figure::unavailable("/sys/devices/system/cpu/cpu*/topology is not there")
}

fn caches(root: &Path, cpus: &[u32]) -> Figure<Vec<Cache>> {
    // One cache is seen from every CPU that shares it: (level, kind, size, shared CPUs) is its identity.
    let mut found: BTreeSet<(u32, String, u64, Vec<u32>)> = BTreeSet::new();
    for cpu in cpus {
        let folder = root.join(format!("sys/devices/system/cpu/cpu{cpu}/cache"));
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for index in entries.flatten().map(|entry| entry.path()) {
            let cache = || {
                let level = text(index.join("level"))?.parse().ok()?;
                let size = text(index.join("size"))?;
                let size = size.strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)?;
                let shared = cpu_list(&text(index.join("shared_cpu_list"))?)?;
                Some((level, text(index.join("type"))?, size, shared))
            };
            found.extend(cache());
        }
    }
    let mut caches: Vec<Cache> = Vec::new();
    for (level, kind, size, shared) in found {
        let cache = Cache { level, kind, size: Bytes(size), shared_by: shared.len() as u32, instances: 1 };
        match caches.iter_mut().find(|c| Cache { instances: 1, ..(*c).clone() } == cache) {
            Some(same) => same.instances += 1,
            None => caches.push(cache),
        }
    }
    if caches.is_empty() {
        return Figure::unavailable("/sys/devices/system/cpu/cpu*/cache is not there");
    }
    Figure::measured(caches, "/sys/devices/system/cpu/cpu*/cache")
}

fn governor(root: &Path, cpus: &[u32]) -> Figure<String> {
    let governors: BTreeSet<String> = cpus
        .iter()
        .filter_map(|cpu| {
            text(root.join(format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")))
        })
        .collect();
    if governors.is_empty() {
        return Figure::unavailable("no core has cpufreq (a virtual machine, or no driver)");
    }
    let governors: Vec<String> = governors.into_iter().collect();
    Figure::measured(governors.join(","), "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
}

fn frequency(root: &Path, cpuinfo: &str) -> Figure<f64> {
    let path = "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq";
    let khz = parsed(root, path, |khz| khz.parse::<u32>().ok().map(|khz| f64::from(khz) / 1e3));
    if khz.value().is_some() {
        return khz;
    }
    match cpu_field(cpuinfo, "cpu MHz").and_then(|mhz| mhz.parse().ok()).filter(|mhz: &f64| mhz.is_finite()) {
        Some(mhz) => Figure::measured(mhz, "/proc/cpuinfo"),
        None => Figure::unavailable("neither cpufreq nor /proc/cpuinfo tells"),
    }
}

fn boost(root: &Path) -> Figure<bool> {
    let no_turbo = parsed(root, "sys/devices/system/cpu/intel_pstate/no_turbo", flag);
    if no_turbo.value().is_some() {
        return no_turbo.map(|no_turbo| !no_turbo);
    }
    let boost = parsed(root, "sys/devices/system/cpu/cpufreq/boost", flag);
    if boost.value().is_some() {
        return boost;
    }
    Figure::unavailable("neither intel_pstate/no_turbo nor cpufreq/boost is there")
}

fn virtualisation(root: &Path, cpuinfo: &str) -> Figure<String> {
    if let Some(kind) = text(root.join("sys/hypervisor/type")).filter(|kind| !kind.is_empty()) {
        return Figure::measured(kind, "/sys/hypervisor/type");
    }
    let dmi = |name: &str| text(root.join("sys/class/dmi/id").join(name)).filter(|s| !s.is_empty());
    let product = match (dmi("sys_vendor"), dmi("product_name")) {
        (Some(vendor), Some(product)) => Some(format!("{vendor} {product}")),
        (vendor, product) => vendor.or(product),
    };
    let flags = cpu_field(cpuinfo, "flags");
    if flags.is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")) {
        let name = product.unwrap_or_else(|| "a hypervisor that gives no name".to_owned());
        return Figure::measured(name, "hypervisor flag of the CPU");
    }
    if flags.is_some() {
        return Figure::measured("none".to_owned(), "no hypervisor flag of the CPU");
    }
    // Other architectures have no such flag; the product says it where somebody knows the name.
    const VIRTUAL: [&str; 8] =
        ["QEMU", "KVM", "VMware", "VirtualBox", "Xen", "Amazon EC2", "Google Compute", "Virtual Machine"];
    match product {
        Some(product) if VIRTUAL.iter().any(|name| product.contains(name)) => {
            Figure::measured(product, "/sys/class/dmi/id")
        }
        Some(product) => Figure::unavailable(format!("the product '{product}' does not tell")),
        None => Figure::unavailable("neither /sys/hypervisor, /sys/class/dmi/id nor a CPU flag tells"),
    }
}

/// Stolen ticks of the first line of `/proc/stat` as a share of all ticks.
fn steal_share(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guest time, which follows, is part of user time.
    let ticks: Vec<u64> = line.split_whitespace().map(|t| t.parse().ok()).take(8).collect::<Option<_>>()?;
    let all: f64 = ticks.iter().map(|&t| t as f64).sum();
    let steal = *ticks.get(7)? as f64;
    (all > 0.0).then(|| steal / all)
}

/// The names of the features in the list that this process can use.
macro_rules! detected {
    ($detect:ident: $($feature:tt)*) => {
        [$(($feature, std::arch::$detect!($feature))),*]
            .into_iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| name.to_owned())
            .collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn isa_features() -> Vec<String> {
    detected!(is_x86_feature_detected:
        "sse2" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "fma" "f16c" "bmi2" "gfni" "avxvnni"
        "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vbmi" "avx512vbmi2" "avx512vnni" "avx512bf16"
        "avx512fp16" "avx512vpopcntdq")
}

#[cfg(target_arch = "aarch64")]
fn isa_features() -> Vec<String> {
    detected!(is_aarch64_feature_detected: "neon" "dotprod" "fp16" "bf16" "i8mm" "sve" "sve2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn isa_features() -> Vec<String> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sockets with two cores of two threads each, as a bare-metal Linux shows them.
    fn bare_metal() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{content}\n")).unwrap();
        };
        put(
            "proc/cpuinfo",
            "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Test @ 2.00GHz\n\
             cpu MHz\t\t: 2596.142\nflags\t\t: fpu sse2 avx2\n",
        );
        put("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 500 kB\nSwapTotal: 0 kB");
        put("proc/stat", "cpu  60 0 10 20 5 0 0 5 7 0\ncpu0 1 2 3");
        put("proc/loadavg", "0.12 0.73 0.50 1/97 7780");
        put("proc/sys/kernel/osrelease", "6.12.0-test");
        put("proc/sys/kernel/perf_event_paranoid", "-1");
        put("etc/os-release", "NAME=\"X\"\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"");
        put("sys/devices/system/cpu/online", "0-7");
        put("sys/devices/system/node/online", "0-1");
        put("sys/devices/system/cpu/smt/active", "1");
        put("sys/devices/system/cpu/intel_pstate/no_turbo", "1");
        put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never");
        put("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3500000");
        put("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1200000");
        for cpu in 0..8 {
            let (core, socket) = (cpu % 4, cpu % 4 / 2);
            let cpu = format!("sys/devices/system/cpu/cpu{cpu}");
            let siblings = format!("{core},{}", core + 4);
            let sockets = if socket == 0 { "0-1,4-5" } else { "2-3,6-7" };
            put(&format!("{cpu}/topology/thread_siblings_list"), &siblings);
            put(&format!("{cpu}/topology/physical_package_id"), &socket.to_string());
            put(&format!("{cpu}/cpufreq/scaling_governor"), "performance");
            for (index, level, kind, size, shared) in [
                (0, "1", "Data", "32K", siblings.as_str()),
                (1, "1", "Instruction", "64K", &siblings),
                (2, "3", "Unified", "16384K", sockets),
            ] {
                let index = format!("{cpu}/cache/index{index}");
                put(&format!("{index}/level"), level);
                put(&format!("{index}/type"), kind);
                put(&format!("{index}/size"), size);
                put(&format!("{index}/shared_cpu_list"), shared);
            }
        }
        root
    }

    #[test]
    fn a_recorded_machine_is_described() {
        let root = bare_metal();
        let host = Host::detect_in(root.path());
        assert_eq!(host.os_name.value().unwrap(), "Debian GNU/Linux 13 (trixie)");
        assert_eq!(host.kernel.value().unwrap(), "6.12.0-test");
        assert_eq!(host.cpu_model.value().unwrap(), "Intel(R) Xeon(R) Test @ 2.00GHz");
        assert_eq!(host.cpu_vendor.value().unwrap(), "GenuineIntel");
        assert_eq!(host.logical_cores.value(), Some(&8));
        assert_eq!(host.physical_cores.value(), Some(&4));
        assert_eq!(host.sockets.value(), Some(&2));
        assert_eq!(host.numa_nodes.value(), Some(&2));
        assert_eq!(host.smt.value(), Some(&true));
        assert_eq!(host.boost.value(), Some(&false));
        assert_eq!(host.governor.value().unwrap(), "performance");
        assert_eq!(host.frequency_mhz.value(), Some(&1200.0));
        assert_eq!(host.frequency_max_mhz.value(), Some(&3500.0));
        assert_eq!(host.transparent_huge_pages.value().unwrap(), "madvise");
        assert_eq!(host.virtualisation.value().unwrap(), "none");
        assert_eq!(host.steal_share.value(), Some(&0.05));
        assert_eq!(host.load_average.value(), Some(&[0.12, 0.73, 0.5]));
        assert_eq!(host.perf_event_paranoid.value(), Some(&-1));
        assert_eq!(host.memory_total.value(), Some(&Bytes(1_024_000)));
        assert_eq!(host.memory_available.value(), Some(&Bytes(512_000)));
        assert_eq!(host.swap_total.value(), Some(&Bytes(0)));
        let cache = |level, kind: &str, kib: u64, shared_by, instances| Cache {
            level,
            kind: kind.to_owned(),
            size: Bytes(kib * 1024),
            shared_by,
            instances,
        };
        assert_eq!(
            host.caches.value().unwrap(),
            &[
                cache(1, "Data", 32, 2, 4),
                cache(1, "Instruction", 64, 2, 4),
                cache(3, "Unified", 16384, 4, 2)
            ]
        );
        assert_eq!(host.llc_bytes(), Some(Bytes(32 << 20)));
        let json = serde_json::to_string(&host).unwrap();
        assert_eq!(serde_json::from_str::<Host>(&json).unwrap(), host);
    }

    #[test]
    fn an_empty_machine_has_reasons_instead() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::detect_in(root.path());
        assert_eq!(host.llc_bytes(), None);
        let json = serde_json::to_value(&host).unwrap();
        for (key, figure) in json.as_object().unwrap() {
            if figure.get("provenance").is_some() && key != "usable_cores" {
                assert_eq!(figure["provenance"], "unavailable", "{key}");
                assert!(!figure["why"].as_str().unwrap().is_empty(), "{key}");
            }
        }
    }

    #[test]
    fn hypervisors_are_recognised() {
        let root = bare_metal();
        let virtualisation = || Host::detect_in(root.path()).virtualisation.value().cloned();
        fs::write(root.path().join("proc/cpuinfo"), "flags\t\t: fpu hypervisor\n").unwrap();
        assert_eq!(virtualisation().unwrap(), "a hypervisor that gives no name");
        let dmi = root.path().join("sys/class/dmi/id");
        fs::create_dir_all(&dmi).unwrap();
        fs::write(dmi.join("sys_vendor"), "QEMU\n").unwrap();
        fs::write(dmi.join("product_name"), "Standard PC\n").unwrap();
        assert_eq!(virtualisation().unwrap(), "QEMU Standard PC");
        fs::write(root.path().join("proc/cpuinfo"), "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n").unwrap();
        assert_eq!(virtualisation().unwrap(), "QEMU Standard PC");
        assert_eq!(Host::detect_in(root.path()).cpu_model.value().unwrap(), "implementer 0x41 part 0xd0c");
        fs::write(dmi.join("sys_vendor"), "Ampere\n").unwrap();
        assert_eq!(virtualisation(), None);
        fs::create_dir_all(root.path().join("sys/hypervisor")).unwrap();
        fs::write(root.path().join("sys/hypervisor/type"), "xen\n").unwrap();
        assert_eq!(virtualisation().unwrap(), "xen");
    }

    #[test]
    fn garbage_is_unavailable() {
        for stat in ["", "cpu ", "cpu  1 2 3", "cpu  a b c d e f g h", "cpu  0 0 0 0 0 0 0 0"] {
            assert_eq!(steal_share(stat), None, "{stat}");
        }
        let root = bare_metal();
        fs::write(root.path().join("sys/devices/system/cpu/online"), "0-99999999\n").unwrap();
        fs::write(root.path().join("proc/loadavg"), "0.1 x\n").unwrap();
        fs::write(root.path().join("sys/kernel/mm/transparent_hugepage/enabled"), "]always[\n").unwrap();
        let host = Host::detect_in(root.path());
        assert_eq!(host.logical_cores.value(), None);
        assert_eq!(host.load_average.value(), None);
        assert_eq!(host.transparent_huge_pages.value(), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_is_described() {
        let host = Host::detect();
        assert!(host.logical_cores.value().unwrap() >= &1);
        assert!(host.memory_total.value().unwrap().0 > 0);
        assert!(host.kernel.value().is_some());
        assert!(!host.build.commit.is_empty() && !host.build.rustc.is_empty());
    }
}
