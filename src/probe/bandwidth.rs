//! The read bandwidth of the machine: the wall that decode runs against, measured beside it.
//!
//! Each thread reads its own part of a buffer much larger than the caches, once, as decode reads weights: by
//! [`bitjoule_kernels::vector::read`], which requests lines ahead as the kernels do. Where the kernels know a
//! faster way than one stream a thread, the probe does too: a plain loop finds distinctly less on an Emerald
//! Rapids virtual machine, and the same on a Zen 4 one. The dev profile is fast enough for tests; figures
//! worth reporting need an optimised build.

use std::hint::black_box;

use bitjoule_kernels::{Isa, vector};
use memmap2::MmapMut;

use super::team;
use crate::units::{Bytes, BytesPerS};
use crate::{Error, Result};

const PAGE: u64 = 4096;

/// What [`measure`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Bandwidth {
    /// Size of the buffer that was read, all threads together: what was asked for, rounded down to
    /// whole pages for each thread.
    pub buffer: Bytes,
    /// Rate of each pass over the buffer, in the order measured.
    pub passes: Vec<BytesPerS>,
}

/// Reads a buffer of `buffer` bytes with `threads` threads, `passes` times. A pass lasts from the
/// moment all threads are ready until the last one has read its part.
///
/// Threads are pinned to one core each if there are enough cores that this process may use.
///
/// # Errors
/// [`Error::Input`] if `threads` or `passes` is 0 or absurd or the buffer has less than a page for
/// each thread; [`Error::Environment`] if memory or threads are refused.
pub fn measure(threads: u32, buffer: Bytes, passes: u32) -> Result<Bandwidth> {
    team::check("bandwidth", threads, passes)?;
    let parts = parts("bandwidth", threads, buffer)?;
    let part = parts.first().map_or(0, |part| part.len() as u64);

    let windows = team::passes(
        "bandwidth",
        parts,
        passes,
        |index, part| fill(part, index as u64),
        |part| {
            black_box(read(black_box(part)));
        },
    )?;
    let bytes = part * u64::from(threads);
    let passes = windows.iter().map(|window| BytesPerS(bytes as f64 / window.as_secs_f64())).collect();
    Ok(Bandwidth { buffer: Bytes(bytes), passes })
}

/// A mapping for each thread, together `buffer` rounded down to whole pages; `probe` names the
/// measurement in messages.
///
/// # Errors
/// As [`measure`].
pub(super) fn parts(probe: &str, threads: u32, buffer: Bytes) -> Result<Vec<MmapMut>> {
    let part = buffer.0 / u64::from(threads) / PAGE * PAGE;
    if part == 0 {
        return Err(Error::input(format!(
            "{probe}: a buffer of {buffer} is too small for {threads} threads"
        )));
    }
    let refused = |e: std::io::Error| {
        Error::environment(format!("{probe}: no {buffer} of memory and {threads} threads to be had: {e}"))
    };
    // Mapped here, so that a refusal is an error before any thread waits for another; each thread
    // touches its own part first, so that the pages lie near its core.
    (0..threads)
        .map(|_| {
            let part = usize::try_from(part).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
            let map = MmapMut::map_anon(part)?;
            // Without huge pages part of the time is address translation. A kernel that has none
            // refuses, and the measurement is then of what it can do.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            Ok(map)
        })
        .collect::<std::io::Result<_>>()
        .map_err(refused)
}

/// The buffer to measure with: 512 MB or 8 times the last-level cache, whichever is larger, so that
/// what the cache still holds from the pass before does not count; but no more than a quarter of the
/// memory `available`.
pub fn default_buffer(llc: Option<Bytes>, available: Option<Bytes>) -> Bytes {
    let cache = llc.map_or(0, |llc| llc.0.saturating_mul(8));
    let most = available.map_or(u64::MAX, |available| available.0 / 4);
    Bytes(cache.max(512_000_000).min(most))
}

/// Writes every page with numbers that are nowhere equal: a page that was never written is the
/// kernel's one zero page, and equal pages may be merged, both of which are read from cache.
pub(super) fn fill(part: &mut [u8], seed: u64) {
    // Xorshift; odd, so never the 0 at which it stands still.
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in part.as_chunks_mut::<8>().0 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *word = x.to_ne_bytes();
    }
}

/// Reads a part, which is whole pages, and returns the sum of its words.
pub(super) fn read(part: &[u8]) -> u64 {
    vector::read(Isa::best(), bytemuck::cast_slice(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read() {
        let mut part = MmapMut::map_anon(4096).unwrap();
        fill(&mut part, 3);
        let word = |w: &[u8]| u64::from_ne_bytes(w.try_into().unwrap());
        let all = part.chunks(8).fold(0, |x: u64, w| x.wrapping_add(word(w)));
        assert_eq!(read(&part), all);
        part[4095] ^= 1;
        assert_ne!(read(&part), all);
    }

    #[test]
    fn pages_differ_and_none_is_empty() {
        let mut parts = [vec![0; 8192], vec![0; 8192]];
        for (seed, part) in parts.iter_mut().enumerate() {
            fill(part, seed as u64);
        }
        let pages: std::collections::HashSet<&[u8]> = parts.iter().flat_map(|p| p.chunks(4096)).collect();
        assert_eq!(pages.len(), 4);
        assert!(!pages.contains([0; 4096].as_slice()));
    }

    #[test]
    fn a_rate_for_each_pass() {
        for threads in [1, 2, 5] {
            let found = measure(threads, Bytes(5_000_000), 3).unwrap();
            assert_eq!(found.passes.len(), 3);
            assert!(found.passes.iter().all(|rate| rate.0.is_finite() && rate.0 > 0.0));
            assert!(found.buffer.0 <= 5_000_000 && found.buffer.0 > 4_900_000);
        }
    }

    #[test]
    fn absurd_wishes_are_refused() {
        for (threads, buffer, passes) in [(0, 1 << 20, 1), (1, 1 << 20, 0), (5000, 1 << 20, 1), (2, 5000, 1)]
        {
            assert_eq!(measure(threads, Bytes(buffer), passes).unwrap_err().exit_code(), 2);
        }
        assert_eq!(measure(1, Bytes(u64::MAX), 1).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn the_default_buffer_exceeds_the_cache_and_spares_the_memory() {
        const GB: u64 = 1_000_000_000;
        assert_eq!(default_buffer(None, None), Bytes(512_000_000));
        assert_eq!(default_buffer(Some(Bytes(32 << 20)), Some(Bytes(24 * GB))), Bytes(512_000_000));
        assert_eq!(default_buffer(Some(Bytes(GB)), Some(Bytes(64 * GB))), Bytes(8 * GB));
        assert_eq!(default_buffer(Some(Bytes(GB)), Some(Bytes(4 * GB))), Bytes(GB));
        assert_eq!(default_buffer(Some(Bytes(u64::MAX)), None), Bytes(u64::MAX));
    }
}
