//! Simulated machines: folders with the files of procfs, sysfs and devfs that probes read.

#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::path::Path;

/// A machine under construction; its folder is gone when it is dropped.
pub(crate) struct Machine(tempfile::TempDir);

impl Machine {
    pub(crate) fn new() -> Machine {
        Machine(tempfile::tempdir().unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn put(&self, path: &str, content: &str) -> &Self {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{content}\n")).unwrap();
        self
    }

    /// As [`Machine::put`] with a new file: who opens it in the meantime reads the old or the new content,
    /// never a part.
    pub(crate) fn replace(&self, path: &str, content: &str) -> &Self {
        self.put("new", content);
        fs::rename(self.root().join("new"), self.root().join(path)).unwrap();
        self
    }

    pub(crate) fn remove(&self, path: &str) -> &Self {
        fs::remove_file(self.root().join(path)).unwrap();
        self
    }

    /// Ticks of all CPUs and of each of two: user, steal.
    pub(crate) fn stat(&self, user: u64, steal: u64) -> &Self {
        self.replace(
            "proc/stat",
            &format!(
                "cpu  {} 0 0 9000 0 0 0 {} 0 0\ncpu0 {user} 0 0 4500 0 0 0 {steal} 0 0\n\
                 cpu1 {user} 0 0 4500 0 0 0 {steal} 0 0\nintr 0",
                2 * user,
                2 * steal
            ),
        )
    }

    /// What every Linux has: two CPUs, memory to spare, nobody else at work.
    pub(crate) fn linux() -> Machine {
        let machine = Machine::new();
        machine
            .put("proc/loadavg", "0.00 0.00 0.00 1/97 7780")
            .put("proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\nSwapTotal: 0 kB")
            .put("proc/vmstat", "pswpin 0\npswpout 0")
            .put("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0")
            .put("proc/self/status", "Name:\tbitjoule\nCapEff:\t0000000000000000")
            .put("proc/sys/kernel/osrelease", "6.12.0-test")
            .put("sys/devices/system/cpu/online", "0-1")
            .put("sys/devices/system/node/online", "0")
            .put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
            .put("sys/devices/system/cpu/smt/active", "0")
            .stat(0, 0);
        machine
    }

    fn zone(&self, folder: &str, name: &str) -> &Self {
        let zone = format!("sys/class/powercap/{folder}");
        self.put(&format!("{zone}/name"), name)
            .put(&format!("{zone}/energy_uj"), "1000000")
            .put(&format!("{zone}/max_energy_range_uj"), "262143328850")
    }

    /// A server as one wants it: everything can be read, everything is fixed.
    pub(crate) fn amd_server() -> Machine {
        let machine = Machine::linux();
        machine
            .put(
                "proc/cpuinfo",
                "processor : 0\nvendor_id : AuthenticAMD\nmodel name : AMD EPYC 9654\nflags : fpu avx2",
            )
            .put("proc/sys/kernel/perf_event_paranoid", "1")
            .put("sys/bus/event_source/devices/cpu/type", "4")
            .put("sys/devices/system/cpu/cpufreq/boost", "0")
            .put("sys/class/hwmon/hwmon0/name", "nvme")
            .put("sys/class/hwmon/hwmon0/temp1_input", "99000")
            .put("sys/class/hwmon/hwmon1/name", "k10temp")
            .put("sys/class/hwmon/hwmon1/temp1_label", "Tctl")
            .put("sys/class/hwmon/hwmon1/temp1_input", "71500")
            .put("sys/class/hwmon/hwmon1/temp3_label", "Tccd1")
            .put("sys/class/hwmon/hwmon1/temp3_input", "80000")
            .zone("intel-rapl:0", "package-0");
        for cpu in 0..2 {
            let cpu = format!("sys/devices/system/cpu/cpu{cpu}");
            machine
                .put(&format!("{cpu}/cpufreq/scaling_governor"), "performance")
                .put(&format!("{cpu}/cpufreq/scaling_cur_freq"), "3700000")
                .put(&format!("{cpu}/topology/physical_package_id"), "0");
        }
        machine
    }

    /// A laptop as it comes: energy for root only, turbo, hyper-threads, a governor that follows the load.
    pub(crate) fn intel_laptop() -> Machine {
        let machine = Machine::linux();
        machine
            .put(
                "proc/cpuinfo",
                "processor : 0\nvendor_id : GenuineIntel\nmodel name : Intel(R) Core(TM) i7\nflags : fpu avx2",
            )
            .put("proc/sys/kernel/perf_event_paranoid", "4")
            .put("sys/bus/event_source/devices/cpu_core/type", "4")
            .put("sys/bus/event_source/devices/cpu_atom/type", "10")
            .put("sys/devices/system/cpu/intel_pstate/no_turbo", "0")
            .put("sys/devices/system/cpu/smt/active", "1")
            .put("sys/class/thermal/thermal_zone0/type", "acpitz")
            .put("sys/class/thermal/thermal_zone0/temp", "27800")
            .put("sys/class/thermal/thermal_zone1/type", "x86_pkg_temp")
            .put("sys/class/thermal/thermal_zone1/temp", "64000")
            .zone("intel-rapl:0", "package-0");
        for cpu in 0..2 {
            let cpu = format!("sys/devices/system/cpu/cpu{cpu}");
            machine
                .put(&format!("{cpu}/cpufreq/scaling_governor"), "powersave")
                .put(&format!("{cpu}/cpufreq/scaling_cur_freq"), "2400000")
                .put(&format!("{cpu}/topology/thread_siblings_list"), "0-1")
                .put(&format!("{cpu}/thermal_throttle/core_throttle_count"), "7")
                .put(&format!("{cpu}/thermal_throttle/package_throttle_count"), "9");
        }
        machine
    }

    /// A virtual machine with nothing.
    pub(crate) fn virtual_machine() -> Machine {
        let machine = Machine::linux();
        machine
            .put(
                "proc/cpuinfo",
                "processor : 0\nvendor_id : GenuineIntel\nmodel name : Intel(R) Xeon(R)\n\
                 cpu MHz : 2600.000\nflags : fpu hypervisor avx2",
            )
            .put("proc/sys/kernel/perf_event_paranoid", "2")
            .put("sys/bus/event_source/devices/software/type", "1");
        machine
    }

    /// The server in a container of one and a half CPUs.
    pub(crate) fn container() -> Machine {
        let machine = Machine::amd_server();
        machine.put(".dockerenv", "").put("sys/fs/cgroup/cpu.max", "150000 100000");
        machine
    }
}
