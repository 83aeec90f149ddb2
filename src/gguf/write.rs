//! Writing a GGUF file: declared first, then streamed, and never left half-written under its name.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::read::{Header, parse_header};
use super::value::{Array, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, TensorInfo, align_up, quoted};
use crate::error::{Error, Result};

/// Version of the format that is written.
const VERSION: u32 = 3;

/// Writes one file: metadata and tensors are declared at creation, which fixes every offset; then the
/// data of the tensors follows in the declared order, in chunks of any size; then [`finish`](Self::finish).
#[derive(Debug)]
pub struct Writer<S: Sink> {
    sink: S,
    label: String,
    tensors: Vec<TensorInfo>,
    alignment: u32,
    /// Tensors whose data is complete.
    done: usize,
    /// Bytes written of the data of tensor number `done`.
    written: u64,
}

impl Writer<FileSink> {
    /// Starts a file at `path`. It is written under a temporary name in the same directory and appears
    /// at `path` when finished; a writer dropped before that leaves nothing behind.
    ///
    /// `metadata` is written in its order, with `general.alignment` respected if it is there. The offsets
    /// of `tensors` are computed here; those given are ignored.
    ///
    /// # Errors
    /// If `path` exists and `overwrite` is false, if the file cannot be created, or if metadata or tensors
    /// are such that [`Gguf`](super::Gguf) would refuse the file.
    pub fn create(
        path: &Path,
        metadata: &[(String, Value)],
        tensors: Vec<TensorInfo>,
        overwrite: bool,
    ) -> Result<Self> {
        let label = path.display().to_string();
        let (header, bytes) = header(metadata, tensors).map_err(|e| e.at(&label))?;
        Writer::start(FileSink::create(path, overwrite)?, label, header, &bytes)
    }
}

impl<S: Sink> Writer<S> {
    /// Starts a file in `sink`; `name` stands for its path in messages. See [`create`](Writer::create).
    ///
    /// # Errors
    /// If `sink` fails, or metadata or tensors are such that [`Gguf`](super::Gguf) would refuse the file.
    pub fn new(
        sink: S,
        name: &str,
        metadata: &[(String, Value)],
        tensors: Vec<TensorInfo>,
    ) -> Result<Writer<S>> {
        let (header, bytes) = header(metadata, tensors).map_err(|e| e.at(name))?;
        Writer::start(sink, name.to_string(), header, &bytes)
    }

    fn start(sink: S, label: String, header: Header, bytes: &[u8]) -> Result<Writer<S>> {
        let Header { alignment, tensors, .. } = header;
        let mut writer = Writer { sink, label, tensors, alignment, done: 0, written: 0 };
        writer.write(bytes)?;
        writer.pad(bytes.len() as u64)?;
        Ok(writer)
    }

    /// The tensors in the order in which their data is expected, with their offsets.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Appends `bytes` to the data of the current tensor: the first whose data is not complete.
    ///
    /// # Errors
    /// If they are more than that tensor still needs, or the sink fails.
    pub fn write_tensor_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(tensor) = self.tensors.get(self.done) else {
            return Err(Error::input(format!(
                "{}: {} bytes of tensor data after the last tensor; declare every tensor before its data",
                self.label,
                bytes.len()
            )));
        };
        let needed = tensor.byte_len()?;
        let left = needed - self.written;
        if bytes.len() as u64 > left {
            return Err(Error::input(format!(
                "{}: tensor {}: {} bytes too many for its {needed}; write the data of one tensor at a time",
                self.label,
                quoted(&tensor.name),
                bytes.len() as u64 - left
            )));
        }
        self.write(bytes)?;
        self.written += bytes.len() as u64;
        if self.written == needed {
            self.done += 1;
            self.written = 0;
            self.pad(needed)?;
        }
        Ok(())
    }

    /// Completes the file and hands back what the sink makes of it.
    ///
    /// # Errors
    /// If a tensor did not get all of its bytes, or the sink fails.
    pub fn finish(self) -> Result<S::Output> {
        if let Some(tensor) = self.tensors.get(self.done) {
            return Err(Error::input(format!(
                "{}: tensor {}: got {} of its {} bytes; write all of its data before finishing",
                self.label,
                quoted(&tensor.name),
                self.written,
                tensor.byte_len()?
            )));
        }
        self.sink.commit()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_all(bytes).map_err(|e| Error::io("write", Path::new(&self.label), &e))
    }

    /// Writes zeros after `length` bytes until the next aligned place.
    fn pad(&mut self, length: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut left = align_up(length, self.alignment).unwrap_or(length) - length;
        while left > 0 {
            let n = left.min(ZEROS.len() as u64) as usize;
            self.write(&ZEROS[..n])?;
            left -= n as u64;
        }
        Ok(())
    }
}

/// The header as the reader will see it, and its bytes, without the padding up to the tensor data.
fn header(metadata: &[(String, Value)], mut tensors: Vec<TensorInfo>) -> Result<(Header, Vec<u8>)> {
    // An alignment that is not a power of two is refused below, when the header is read back.
    let alignment = match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        Some((_, Value::U32(alignment))) if alignment.is_power_of_two() => *alignment,
        _ => DEFAULT_ALIGNMENT,
    };
    let mut end: u64 = 0;
    for tensor in &mut tensors {
        let place = |e: Error| e.at(format_args!("tensor {}", quoted(&tensor.name)));
        tensor.offset = end;
        end = end
            .checked_add(tensor.byte_len().map_err(place)?)
            .and_then(|end| align_up(end, alignment))
            .ok_or_else(|| place(Error::input("the file would be larger than any can be; write less")))?;
    }

    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_string(&mut bytes, key);
        put_value(&mut bytes, value);
    }
    for tensor in &tensors {
        put_string(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        bytes.extend(tensor.shape.iter().flat_map(|dim| dim.to_le_bytes()));
        bytes.extend(tensor.ty.id().to_le_bytes());
        bytes.extend(tensor.offset.to_le_bytes());
    }

    // Read back by the reader's own rules, so that nothing can be written that it would refuse.
    Ok((parse_header(&bytes, u64::MAX)?, bytes))
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_value(bytes: &mut Vec<u8>, value: &Value) {
    bytes.extend(value.type_id().to_le_bytes());
    match value {
        Value::U8(v) => bytes.extend(v.to_le_bytes()),
        Value::I8(v) => bytes.extend(v.to_le_bytes()),
        Value::U16(v) => bytes.extend(v.to_le_bytes()),
        Value::I16(v) => bytes.extend(v.to_le_bytes()),
        Value::U32(v) => bytes.extend(v.to_le_bytes()),
        Value::I32(v) => bytes.extend(v.to_le_bytes()),
        Value::F32(v) => bytes.extend(v.to_le_bytes()),
        Value::Bool(v) => bytes.push(u8::from(*v)),
        Value::String(v) => put_string(bytes, v),
        Value::Array(v) => put_array(bytes, v),
        Value::U64(v) => bytes.extend(v.to_le_bytes()),
        Value::I64(v) => bytes.extend(v.to_le_bytes()),
        Value::F64(v) => bytes.extend(v.to_le_bytes()),
    }
}

fn put_array(bytes: &mut Vec<u8>, array: &Array) {
    bytes.extend(array.element_type_id().to_le_bytes());
    bytes.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => bytes.extend(v),
        Array::I8(v) => bytes.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(v) => bytes.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(v) => bytes.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(v) => bytes.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(v) => bytes.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(v) => bytes.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(v) => bytes.extend(v.iter().map(|v| u8::from(*v))),
        Array::String(v) => v.iter().for_each(|v| put_string(bytes, v)),
        Array::Array(v) => v.iter().for_each(|v| put_array(bytes, v)),
        Array::U64(v) => bytes.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(v) => bytes.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(v) => bytes.extend(v.iter().flat_map(|v| v.to_le_bytes())),
    }
}

/// Where a [`Writer`] writes to.
pub trait Sink: Write {
    /// What a finished file becomes.
    type Output;

    /// Makes what was written final.
    ///
    /// # Errors
    /// If that fails; then nothing is final.
    fn commit(self) -> Result<Self::Output>;
}

/// A file in memory.
impl Sink for Vec<u8> {
    type Output = Vec<u8>;

    fn commit(self) -> Result<Vec<u8>> {
        Ok(self)
    }
}

/// A file that has a temporary name until it is complete.
#[derive(Debug)]
pub struct FileSink {
    file: BufWriter<File>,
    temporary: PathBuf,
    target: PathBuf,
    overwrite: bool,
    committed: bool,
}

impl FileSink {
    fn create(target: &Path, overwrite: bool) -> Result<FileSink> {
        refuse_existing(target, overwrite)?;
        let name = target
            .file_name()
            .ok_or_else(|| Error::input(format!("{}: not the name of a file; name one", target.display())))?;
        // The number distinguishes files that several threads, or a killed process of the same id, write.
        let mut number = 0u32;
        loop {
            let mut temporary_name = std::ffi::OsString::from(".");
            temporary_name.push(name);
            temporary_name.push(format!(".{}-{number}.partial", std::process::id()));
            let temporary = target.with_file_name(temporary_name);
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    let file = BufWriter::with_capacity(1 << 20, file);
                    return Ok(FileSink {
                        file,
                        temporary,
                        target: target.to_path_buf(),
                        overwrite,
                        committed: false,
                    });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
                Err(e) => return Err(Error::io("create", target, &e)),
            }
        }
    }
}

fn refuse_existing(target: &Path, overwrite: bool) -> Result<()> {
    // A dangling link counts as existing: the rename would replace it.
    match std::fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => {
            Err(Error::input(format!("{}: a directory; name a file", target.display())))
        }
        // The rename would replace a device, such as /dev/null, by the file.
        Ok(found) if !found.is_file() && !found.is_symlink() => {
            Err(Error::input(format!("{}: not a regular file; name another", target.display())))
        }
        Ok(_) if !overwrite => Err(Error::input(format!(
            "{}: exists already; choose another name, or ask for it to be overwritten",
            target.display()
        ))),
        _ => Ok(()),
    }
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for FileSink {
    type Output = ();

    fn commit(mut self) -> Result<()> {
        self.file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(|e| Error::io("write", &self.target, &e))?;
        // Asked again: the writing may have taken minutes.
        refuse_existing(&self.target, self.overwrite)?;
        std::fs::rename(&self.temporary, &self.target).map_err(|e| Error::io("create", &self.target, &e))?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        // Once committed, the temporary name may be another writer's.
        if !self.committed {
            // Nobody is left to hear of a failure; the name says that the file is partial.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
