//! What the system charged to this process (getrusage): page faults and context switches of all its
//! threads, past ones included.

use nix::sys::resource::{UsageWho, getrusage};

use crate::figure::Figure;

/// Totals since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Page faults that needed no reading: first touches, pages that were in the page cache.
    pub minor_faults: u64,
    /// Page faults that waited for a disk: file pages not in the page cache, swapped-out memory.
    pub major_faults: u64,
    /// Switches away from a thread, because it waited or because another was let run.
    pub context_switches: u64,
}

/// Reads the totals: one system call.
pub fn read() -> Figure<Usage> {
    // Counts, which the interface has as signed numbers.
    let count = |n: i64| n.max(0) as u64;
    match getrusage(UsageWho::RUSAGE_SELF) {
        Ok(usage) => Figure::measured(
            Usage {
                minor_faults: count(usage.minor_page_faults()),
                major_faults: count(usage.major_page_faults()),
                context_switches: count(usage.voluntary_context_switches())
                    .saturating_add(count(usage.involuntary_context_switches())),
            },
            "getrusage",
        ),
        Err(e) => Figure::unavailable(format!("getrusage: {e}")),
    }
}

/// What was added from one reading to a later one.
pub fn between(a: &Figure<Usage>, b: &Figure<Usage>) -> Figure<Usage> {
    let Some(a) = a.value() else { return a.clone() };
    b.clone().map(|b| Usage {
        minor_faults: b.minor_faults.saturating_sub(a.minor_faults),
        major_faults: b.major_faults.saturating_sub(a.major_faults),
        context_switches: b.context_switches.saturating_sub(a.context_switches),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_pages_are_faults() {
        let before = read();
        let mut memory = vec![0_u8; 8 << 20];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        std::hint::black_box(&memory);
        let added = *between(&before, &read()).value().unwrap();
        // Huge pages make few faults of many pages.
        assert!(added.minor_faults >= 4, "{added:?}");
    }
}
