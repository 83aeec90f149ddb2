//! One large allocation for all packed weights of a model.
//!
//! A single mapping, rather than one allocation for each matrix, lets the kernel back it with huge
//! pages: streaming gigabytes through 4 KiB pages costs a TLB miss every 64 cache lines.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use memmap2::MmapMut;

/// Alignment of each matrix in the arena: one cache line.
const ALIGN: usize = 64;

/// Immutable bytes shared by the matrices of a model.
#[derive(Debug)]
pub struct Arena {
    map: MmapMut,
}

impl Arena {
    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// An arena being filled.
#[derive(Debug)]
pub struct ArenaWriter {
    map: MmapMut,
    used: usize,
}

impl ArenaWriter {
    /// Space that a block of `len` bytes takes, alignment included.
    pub fn block_len(len: usize) -> usize {
        len.next_multiple_of(ALIGN)
    }

    /// An arena of `len` zero bytes (at least one), on huge pages where the system grants them.
    ///
    /// # Errors
    /// If the system refuses the mapping.
    pub fn new(len: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(len.max(1))?;
        // Advice: a system without transparent huge pages refuses it, and all still works.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(ArenaWriter { map, used: 0 })
    }

    /// All bytes, to be filled with what an earlier arena of the same matrices held.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// The next `len` bytes, with the range to find them again in the finished arena; `None` if the
    /// arena was made too small.
    pub fn block(&mut self, len: usize) -> Option<(Range<usize>, &mut [u8])> {
        let range = self.used..self.used.checked_add(len)?;
        let bytes = self.map.get_mut(range.clone())?;
        self.used += Self::block_len(len);
        Some((range, bytes))
    }

    /// The finished arena.
    pub fn finish(self) -> Arc<Arena> {
        Arc::new(Arena { map: self.map })
    }
}
