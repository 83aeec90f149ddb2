//! Packed weights kept in a file beside the model, so that a later load reads them instead of packing anew.
//!
//! ```text
//! "bitjoule packed weights\n" | one line of JSON: Head | zeros up to byte 65536 k | the arena, as in memory
//! ```
//! The name says kernel and instruction set, the head also what the model file's bytes were. A file that does
//! not fit, or whose arena has another checksum, is packed again. The arena is read into memory rather than
//! mapped: a mapped file gets no huge pages, and decoding from pages of 4 KiB is slower by more than reading
//! costs.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bitjoule_kernels::{Isa, Kernel};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::{EmbeddingType, Model};

const MAGIC: &str = "bitjoule packed weights\n";

/// Raised when the bytes of any packed format change.
const VERSION: u32 = 2;

/// The arena begins at a multiple of this.
const ALIGN: u64 = 1 << 16;

/// More than any head has: a longer line is no head.
const MAX_HEAD: u64 = 1 << 20;

/// Where the packed weights of one model, kernel and instruction set are kept.
#[derive(Debug, Clone)]
pub struct Kept {
    path: PathBuf,
    key: Key,
}

/// What has to agree for kept weights to be those that packing would give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    version: u32,
    /// BLAKE3 of the model file, hexadecimal.
    model: String,
    kernel: String,
    isa: String,
    embedding: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    #[serde(flatten)]
    key: Key,
    /// Scales of the matrices, in their order in the arena, as bits: they have to be the same exactly.
    scales: Vec<u32>,
    arena_bytes: u64,
    /// BLAKE3 of the arena.
    checksum: String,
}

impl Kept {
    /// The place for the weights of `model`, a file whose BLAKE3 is `model_hash`, read as on x86-64 and
    /// packed with `embedding` for `kernel` and `isa`: in the folder `MODEL.packed`.
    pub fn beside(
        model: &Path,
        model_hash: &str,
        kernel: Kernel,
        isa: Isa,
        embedding: Option<EmbeddingType>,
    ) -> Kept {
        let mut folder = model.as_os_str().to_owned();
        folder.push(".packed");
        let embedding = embedding.map(|e| e.name().to_owned());
        let suffix = embedding.as_ref().map_or_else(String::new, |e| format!("-{e}"));
        Kept {
            path: Path::new(&folder).join(format!("{kernel}-{isa}{suffix}.bin")),
            key: Key {
                version: VERSION,
                model: model_hash.to_owned(),
                kernel: kernel.to_string(),
                isa: isa.to_string(),
                embedding,
            },
        }
    }

    /// Reads an arena of `len` bytes of so many `matrices` into what `arena` gives for it, and returns their
    /// scales; none if nothing fitting is kept. Then the arena's content is undefined.
    pub(super) fn read(&self, matrices: usize, arena: &mut [u8]) -> Option<Vec<f32>> {
        let mut file = BufReader::new(File::open(&self.path).ok()?);
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic).ok().filter(|()| magic == MAGIC.as_bytes())?;
        let mut line = String::new();
        file.by_ref().take(MAX_HEAD).read_line(&mut line).ok()?;
        let head: Head = serde_json::from_str(&line).ok()?;
        if head.key != self.key || head.arena_bytes != arena.len() as u64 || head.scales.len() != matrices {
            return None;
        }
        file.seek(SeekFrom::Start((MAGIC.len() as u64 + line.len() as u64).next_multiple_of(ALIGN))).ok()?;
        read_all(file, arena).ok()?;
        (checksum(arena) == head.checksum).then(|| head.scales.into_iter().map(f32::from_bits).collect())
    }

    /// Keeps the weights of `model`. The file appears whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, model: &Model) -> Result<()> {
        let arena = model.embedding.arena().bytes();
        let folder = self.path.parent().expect("it is in a folder");
        let failed = |e: &std::io::Error| Error::io("write", &self.path, e);
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, &e))?;
        let head = Head {
            key: self.key.clone(),
            scales: model.packed().map(|m| m.scale().to_bits()).collect(),
            arena_bytes: arena.len() as u64,
            checksum: checksum(arena),
        };
        let head = serde_json::to_string(&head).map_err(Error::environment)? + "\n";
        let start = (MAGIC.len() as u64 + head.len() as u64).next_multiple_of(ALIGN);
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| failed(&e))?;
        let written = file
            .write_all(MAGIC.as_bytes())
            .and_then(|()| file.write_all(head.as_bytes()))
            .and_then(|()| file.seek(SeekFrom::Start(start)))
            .and_then(|_| file.write_all(arena));
        written.map_err(|e| failed(&e))?;
        file.persist(&self.path).map_err(|e| failed(&e.error))?;
        Ok(())
    }
}

/// BLAKE3 of a file, hexadecimal, on all cores.
///
/// # Errors
/// If it cannot be read.
pub fn file_hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).map_err(|e| Error::io("read", path, &e))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn checksum(bytes: &[u8]) -> String {
    blake3::Hasher::new().update_rayon(bytes).finalize().to_hex().to_string()
}

/// Fills `out` from where `file` stands, on all cores where the system reads at offsets.
#[cfg(unix)]
fn read_all(mut file: BufReader<File>, out: &mut [u8]) -> std::io::Result<()> {
    use rayon::prelude::*;
    use std::os::unix::fs::FileExt;
    const PIECE: usize = 8 << 20;
    let start = file.stream_position()?;
    let file = file.into_inner();
    out.par_chunks_mut(PIECE)
        .enumerate()
        .try_for_each(|(i, out)| file.read_exact_at(out, start + (i * PIECE) as u64))
}

/// Fills `out` from where `file` stands.
#[cfg(not(unix))]
fn read_all(mut file: BufReader<File>, out: &mut [u8]) -> std::io::Result<()> {
    file.read_exact(out)
}
