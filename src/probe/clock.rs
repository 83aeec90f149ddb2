//! The clocks: a window's length comes from the monotonic one, its CPU time from the process's own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on the monotonic clock, which counts from an arbitrary moment and never steps back;
/// processes of one machine share it.
pub fn monotonic_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// CPU time of all threads of this process since it started, in nanoseconds.
pub fn cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

/// CPU time of the calling thread since it started, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    read(ClockId::ThreadCPUTime)
}

/// Wall-clock time in milliseconds since the Unix epoch; 0 if the clock stands before it.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// How long this machine has slept since it was started: the monotonic clock stands still meanwhile.
/// Zero on systems that do not tell.
pub fn slept() -> Duration {
    #[cfg(target_os = "linux")]
    let slept_ns = read(ClockId::Boottime).saturating_sub(monotonic_ns());
    #[cfg(not(target_os = "linux"))]
    let slept_ns = 0;
    Duration::from_nanos(slept_ns)
}

fn read(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    // No clock of these is ever negative, and 584 years fit.
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance() {
        let (wall, cpu, own) = (monotonic_ns(), cpu_ns(), thread_cpu_ns());
        let mut x = 1_u64;
        while monotonic_ns() - wall < 2_000_000 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(cpu_ns() > cpu && thread_cpu_ns() > own);
        assert!(unix_ms() > 1_700_000_000_000);
    }
}
