//! NVML: a library built here that has its names and reads its numbers from a file.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Machine, Trace, joules, play_an_hour, seconds, why};

/// `gpus`, and of each GPU millijoules or -1, and milliwatts, in the file that NVML_NUMBERS was at build
/// time.
const LIBRARY: &str = r#"
use std::ffi::{c_int, c_uint, c_void};
fn numbers() -> Option<Vec<i64>> {
    let text = std::fs::read_to_string(env!("NVML_NUMBERS")).ok()?;
    text.split_whitespace().map(|word| word.parse().ok()).collect()
}
fn number(index: usize) -> Option<i64> { numbers()?.get(index).copied() }
#[unsafe(no_mangle)] pub extern "C" fn nvmlInit_v2() -> c_int { if numbers().is_some() { 0 } else { 9 } }
#[unsafe(no_mangle)] pub extern "C" fn nvmlShutdown() -> c_int { 0 }
#[unsafe(no_mangle)] pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> c_int {
    match number(0) { Some(n) => { unsafe { *count = n as c_uint }; 0 } None => 1 }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(i: c_uint, handle: *mut *mut c_void) -> c_int {
    unsafe { *handle = (i as usize + 1) as *mut c_void };
    0
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(gpu: *mut c_void, mj: *mut u64) -> c_int {
    match number(2 * gpu as usize - 1) { Some(n) if n >= 0 => { unsafe { *mj = n as u64 }; 0 } _ => 3 }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(gpu: *mut c_void, mw: *mut c_uint) -> c_int {
    match number(2 * gpu as usize) { Some(n) if n >= 0 => { unsafe { *mw = n as c_uint }; 0 } _ => 15 }
}
"#;

/// Builds the library into a machine; none, and says why, where there is no compiler.
fn machine() -> Option<Machine> {
    let machine = Machine::new();
    machine.write("nvml.rs", LIBRARY);
    machine.write("usr/lib/numbers", "0");
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let built = Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "cdylib", "-C", "debuginfo=0", "nvml.rs", "-o"])
        .arg("usr/lib/libnvidia-ml.so.1")
        .env("NVML_NUMBERS", numbers(machine.root()))
        .current_dir(machine.root())
        .output();
    match built {
        Ok(output) if output.status.success() => Some(machine),
        Ok(output) => {
            eprintln!("skipped: the library was not built: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(e) => {
            eprintln!("skipped: there is no rustc to build the library with: {e}");
            None
        }
    }
}

fn numbers(root: &Path) -> std::path::PathBuf {
    root.join("usr/lib/numbers")
}

/// One build serves all cases.
#[test]
fn gpus() {
    assert!(Machine::new().refusal("nvml").contains("no NVIDIA driver"));
    let Some(machine) = machine() else { return };
    assert!(machine.refusal("nvml").contains("knows no GPU"));
    machine.write("usr/lib/numbers", "garbage");
    assert!(machine.refusal("nvml").contains("nvmlInit_v2 failed with NVML error 9"));
    machine.write("usr/lib/numbers", "1 -1 -1");
    assert!(machine.refusal("nvml").contains("gpu-0: nvmlDeviceGetPowerUsage failed"));

    // The first GPU counts energy, the second only tells power.
    const COUNTS: Trace = Trace::new(400.0, 250.0, 8.0);
    const POWER: Trace = Trace::new(120.0, 60.0, 25.0);
    let show = |t: Duration| {
        let mj = (COUNTS.energy_j(t) * 1e3) as u64 + 7_000_000;
        machine.write("usr/lib/numbers", format!("2 {mj} 1 -1 {:.0}", POWER.power_w(t) * 1e3));
    };
    show(Duration::ZERO);
    let mut tracker = machine.tracker("nvml");
    assert_eq!(tracker.interval(), Some(Duration::from_millis(100)));
    let trace = |domain: &str| if domain == "gpu-0" { COUNTS } else { POWER };
    play_an_hour(&mut tracker, show, trace);

    // A GPU that falls off the bus, and comes back.
    let mut tracker = machine.tracker("nvml");
    let marks: Vec<_> =
        ["2 0 1 -1 5000", "2 1000 1 -1 5000", "1 1000 1", "2 2000 1 -1 5000", "2 3000 1 -1 5000"]
            .iter()
            .enumerate()
            .map(|(i, numbers)| {
                machine.write("usr/lib/numbers", numbers);
                tracker.mark(seconds(1.0 + i as f64), Duration::ZERO)
            })
            .collect();
    assert_eq!(joules(&tracker.between(&marks[0], &marks[1]), "gpu-0"), 1.0);
    let lost = tracker.between(&marks[1], &marks[2]);
    assert!(why(&lost).contains("gpu-1: nvmlDeviceGetPowerUsage failed"), "{lost:?}");
    assert_eq!(joules(&tracker.between(&marks[3], &marks[4]), "gpu-1"), 5.0);
}
