//! The KV cache: keys and values of every token so far, in f32 or f16.

use memmap2::MmapMut;

use crate::error::{Error, Result};
use crate::units::Bytes;

/// Element type of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KvType {
    /// Two bytes an element, as every engine does by default.
    F16,
    /// Four bytes: for exact comparison with a reference.
    F32,
}

impl KvType {
    /// The name used in suites and tables.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
        }
    }

    /// The type called `name`, if there is one.
    pub fn by_name(name: &str) -> Option<KvType> {
        [KvType::F16, KvType::F32].into_iter().find(|t| t.name() == name)
    }

    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }
}

/// Elements of a cache, `[layer][key-value head][keys, values][position][padded head]`.
#[derive(Debug)]
pub(super) enum Elements {
    F16(Pages),
    F32(Pages),
}

/// Zeroed memory on huge pages where the system grants them: every decode step streams the whole cache, and
/// in pages of 4 KiB it takes a third longer.
#[derive(Debug)]
pub(super) struct Pages(MmapMut);

impl Pages {
    /// The memory as elements of its cache's type.
    pub(super) fn elements<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        // A mapping begins at a page and is made for whole elements.
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Shape of a cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) context: usize,
    /// Elements of a head, padded to the vector length.
    pub(super) dim: usize,
}

impl Shape {
    /// Elements of one head of one layer: its keys, then its values.
    pub(super) fn head_len(self) -> usize {
        2 * self.context * self.dim
    }

    /// Elements of one layer.
    pub(super) fn layer_len(self) -> usize {
        self.heads * self.head_len()
    }

    fn len(self) -> usize {
        self.layers * self.layer_len()
    }
}

impl Elements {
    /// A cache of zeros.
    ///
    /// # Errors
    /// If the system refuses the memory.
    pub(super) fn new(ty: KvType, shape: Shape) -> Result<Self> {
        let bytes = shape.len() as u64 * ty.bytes();
        let refused = |e| Error::Memory(format!("cannot allocate {} for the KV cache: {e}", Bytes(bytes)));
        let len = usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        let map = MmapMut::map_anon(len.next_multiple_of(4)).map_err(refused)?;
        // Advice: a system without transparent huge pages refuses it, and all still works.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(match ty {
            KvType::F16 => Elements::F16(Pages(map)),
            KvType::F32 => Elements::F32(Pages(map)),
        })
    }
}
