//! Where and when the weights of a GEMV are requested before they are needed.
//!
//! A GEMV reads its weights once, front to back, and waits for memory. What fetches ahead of it by itself are
//! the hardware's prefetchers, which stop at the end of a page of 4 KiB and begin anew in the next.
//!
//! **On Intel's CPUs** one stream gets a core only a part of what memory gives it: the L2 streamer follows each
//! page for itself and runs at most 20 lines ahead (Intel 64 and IA-32 Architectures Optimization Reference
//! Manual, section on data prefetching to the L2). So weights are requested into the second-level cache a
//! region of 32 KiB ahead, and in another order than they are used in: the first line of each of its eight
//! pages, the second of each, and so on. Eight pages are then under way at a time. Behind the last region of a
//! matrix comes, in order, what the thread reads next. Emerald Rapids reads a model's matrices faster so than as
//! one stream; multiplying two to four panels side by side instead gained less, and nothing with two threads.
//!
//! **On other CPUs** weights are requested into the first-level cache one page ahead, in order. On Zen 4, where
//! that was measured, one stream has all that a core can get, and two had half of it.

use std::arch::x86_64::{__cpuid, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::sync::LazyLock;

/// What is requested a page ahead carries the stream into the next page.
const PAGE: usize = 4096;

/// A cache line.
const LINE: usize = 64;

/// Pages of a region.
const STREAMS: usize = 8;

/// What is requested in another order than it is used in.
const REGION: usize = STREAMS * PAGE;

/// Whether requests go to several pages in turn on this CPU.
pub(crate) fn interleaves() -> bool {
    static INTEL: LazyLock<bool> = LazyLock::new(|| {
        // SAFETY: every x86-64 CPU has this instruction. Newer compilers know that.
        #[allow(unused_unsafe, reason = "safe in newer versions of Rust")]
        let vendor = unsafe { __cpuid(0) };
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    });
    *INTEL
}

/// The requests of one pass over some bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    start: *const u8,
    len: usize,
    /// Where the whole regions end.
    regions: usize,
    /// What is read behind the bytes.
    next: *const u8,
    interleaves: bool,
}

impl Ahead {
    /// For a pass over `bytes`, behind which follows what `next` points to, or, if that is null, what is behind
    /// them in memory.
    pub(crate) fn new(bytes: &[u8], next: *const u8) -> Self {
        let (start, len) = (bytes.as_ptr(), bytes.len());
        let next = if next.is_null() { start.wrapping_add(len) } else { next };
        Ahead { start, len, regions: len & !(REGION - 1), next, interleaves: interleaves() }
    }

    /// Requests a line for each of the `bytes` at `at`, which are used now.
    #[inline(always)]
    pub(crate) fn request(&self, at: *const u8, bytes: usize) {
        for line in (0..bytes).step_by(LINE) {
            let at = at.wrapping_add(line);
            // SAFETY: SSE is part of x86-64, and a prefetch never faults.
            unsafe {
                if self.interleaves {
                    _mm_prefetch::<_MM_HINT_T1>(self.of(at).cast());
                } else {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PAGE).cast());
                }
            }
        }
    }

    /// The line to request for the one at `at`.
    #[inline(always)]
    fn of(&self, at: *const u8) -> *const u8 {
        let at = (at as usize).wrapping_sub(self.start as usize) + REGION;
        if at < self.regions {
            self.start.wrapping_add(interleave(at))
        } else if at < self.len {
            self.start.wrapping_add(at)
        } else {
            self.next.wrapping_add(at - self.len)
        }
    }
}

/// The requests of one panel of a chunk of a table format. Its thread reads its panels' part of a chunk, then
/// its part of the next chunk, and so on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkAhead {
    /// What is requested: a piece, as streams of so many lines each, from so many lines into it.
    piece: *const u8,
    stream_lines: usize,
    before: usize,
}

impl ChunkAhead {
    /// How many panels of a chunk are requested ahead in order: some 15 KiB. The stream begins anew with each
    /// chunk, where the hardware's prefetchers have to learn it again.
    const PANELS: usize = 12;

    /// For panel `i` of `bytes`, which are panels of `panel_bytes`. `next` are the next chunk's panels and the
    /// bytes of each, or, behind the last chunk, none, and `behind` points to what is read then, if it is not
    /// null.
    pub(crate) fn new(
        i: usize,
        bytes: &[u8],
        panel_bytes: usize,
        next: Option<(&[u8], usize)>,
        behind: *const u8,
    ) -> Self {
        if interleaves() {
            Self::interleaved(i * panel_bytes / LINE, bytes, next.map(|(next, _)| next), behind)
        } else {
            Self::in_order(i, bytes, panel_bytes, next)
        }
    }

    /// The next chunk, of which as many lines have been requested as there are `before` the panel.
    fn interleaved(before: usize, bytes: &[u8], next: Option<&[u8]>, behind: *const u8) -> Self {
        let (piece, stream_lines) = match next {
            Some(next) => (next.as_ptr(), next.len() / LINE / STREAMS),
            None if behind.is_null() => (bytes.as_ptr_range().end, 0),
            None => (behind, 0),
        };
        ChunkAhead { piece, stream_lines, before }
    }

    /// The panel so many further, of this chunk or of the next.
    fn in_order(i: usize, bytes: &[u8], panel_bytes: usize, next: Option<(&[u8], usize)>) -> Self {
        let (panels, wanted) = (bytes.len() / panel_bytes, i + Self::PANELS);
        let piece = match next {
            Some((next, panel_bytes)) if wanted >= panels => {
                next.as_ptr().wrapping_add((wanted - panels) * panel_bytes)
            }
            _ => bytes.as_ptr().wrapping_add(wanted * panel_bytes),
        };
        ChunkAhead { piece, stream_lines: 0, before: 0 }
    }

    /// Requests a line for the one `offset` bytes into the panel, into the second-level cache: the first is the
    /// tables'.
    #[inline(always)]
    pub(crate) fn request(&self, offset: usize) {
        // SAFETY: SSE is part of x86-64, and a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(self.of(offset).cast()) };
    }

    /// The line to request for the one `offset` bytes into the panel.
    #[inline(always)]
    fn of(&self, offset: usize) -> *const u8 {
        self.piece.wrapping_add(spread(self.before + offset / LINE, self.stream_lines) * LINE)
    }
}

/// Asks for the `len` bytes from byte `at` of `next` on, which will be read when the present pass is over, into
/// the second-level cache.
///
/// Keys and values of a head are some ten KiB each, too short for the hardware's prefetchers to reach full
/// speed, and a first-level cache has too few requests under way to hide the latency of memory. So a pass
/// over the keys brings the values into the second-level cache, and one over the values the next head's
/// keys. On Intel's CPUs that is done in eight streams, as with weights.
#[inline(always)]
pub(crate) fn request_next<T>(next: &[T], at: usize, len: usize) {
    let size = size_of_val(next);
    if at >= size {
        return;
    }
    let stream_lines = if interleaves() { size / LINE / STREAMS } else { 0 };
    for line in at / LINE..(at + len).div_ceil(LINE) {
        let line = next.as_ptr().cast::<u8>().wrapping_add(spread(line, stream_lines) * LINE);
        // SAFETY: SSE is part of x86-64, and a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }
}

/// Which line to request for `line` of a piece that is read as streams of `stream_lines` lines each. What they
/// leave of the piece is requested in order.
#[inline(always)]
const fn spread(line: usize, stream_lines: usize) -> usize {
    if line < STREAMS * stream_lines { line % STREAMS * stream_lines + line / STREAMS } else { line }
}

/// The line to request for the one `at` bytes into some regions, each of which is streams of a page.
#[inline(always)]
const fn interleave(at: usize) -> usize {
    at - at % REGION + spread(at % REGION / LINE, PAGE / LINE) * LINE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_chunk_is_requested_in_whole_streams_and_what_follows_in_order() {
        const PANEL: usize = 20 * LINE;
        let (bytes, next) = (vec![0; 24 * PANEL], vec![0; 24 * PANEL]);
        let requested = |ahead: &dyn Fn(usize) -> ChunkAhead| {
            let lines = (0..24).flat_map(|i| (0..20).map(move |line| (i, line * LINE)));
            lines.map(|(i, offset)| ahead(i).of(offset) as usize).collect::<Vec<_>>()
        };
        let interleaved =
            |next, behind| requested(&|i| ChunkAhead::interleaved(i * PANEL / LINE, &bytes, next, behind));
        let all: Vec<usize> = (0..480).map(|line| next.as_ptr() as usize + line * LINE).collect();
        assert_eq!(interleaved(None, next.as_ptr()), all);
        let unknown = interleaved(None, std::ptr::null());
        assert_eq!(unknown[1], bytes.as_ptr_range().end as usize + LINE);
        let mut of_next = interleaved(Some(&next), std::ptr::null());
        assert_eq!(of_next[1], all[60]);
        of_next.sort_unstable();
        assert_eq!(of_next, all);
        // In order: twelve panels of this chunk, then as many of the next.
        let in_order = requested(&|i| ChunkAhead::in_order(i, &bytes, PANEL, Some((&next, PANEL))));
        assert_eq!(
            in_order[..240],
            (240..480).map(|line| &raw const bytes[line * LINE] as usize).collect::<Vec<_>>()
        );
        assert_eq!(in_order[240..], all[..240]);
    }

    #[test]
    fn every_line_is_requested_once_and_what_follows_is_in_order() {
        assert_eq!(interleave(REGION + LINE), REGION + PAGE);
        assert_eq!(interleave(8 * LINE), LINE);
        assert_eq!(interleave(REGION - LINE), REGION - LINE);
        for len in [LINE, REGION, REGION + 5 * LINE, 3 * REGION - LINE, 4 * REGION] {
            let (bytes, next) = (vec![0; len], vec![0; REGION]);
            let ahead = Ahead::new(&bytes, next.as_ptr());
            let mut requested: Vec<usize> = (0..len)
                .step_by(LINE)
                .map(|at| {
                    let line = ahead.of(&bytes[at]) as usize;
                    let (start, next) = (bytes.as_ptr() as usize, next.as_ptr() as usize);
                    if (start..start + len).contains(&line) { line - start } else { len + line - next }
                })
                .collect();
            requested.sort_unstable();
            let want: Vec<usize> = (REGION..REGION + len).step_by(LINE).collect();
            assert_eq!(requested, want, "{len} bytes");
        }
    }
}
