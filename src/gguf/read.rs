//! Reading a GGUF file: everything in it is checked here, once, so that users of [`Gguf`] need not.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use super::tensor::{TensorInfo, TensorType, unsupported};
use super::value::{Array, Value};
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, I2sLayout, MAGIC, MAX_ARRAY_DEPTH, MAX_DIMS, MAX_KEY_BYTES, align_up,
    dequantize_rows, quoted,
};
use crate::error::{Error, Result};

/// What to do about a file whose bytes contradict each other.
const GET_AGAIN: &str = "the file is damaged or incomplete, get it again";

/// An open GGUF file: its metadata, its tensors and their bytes.
///
/// Whatever it hands out has been checked: shapes are 1 to 4 dimensions of at least 1, sizes do not
/// overflow, and every tensor lies inside the file, aligned and apart from the others.
#[derive(Debug)]
pub struct Gguf {
    label: String,
    bytes: Bytes,
    header: Header,
}

/// Where the bytes of a file live.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl Gguf {
    /// Opens the file at `path` by mapping it into memory; nothing but the header is read now.
    ///
    /// The file must not be shortened or rewritten while it is open: the system would end the process
    /// with a bus error, as it does to every program that maps its model.
    ///
    /// # Errors
    /// If the file cannot be opened, or is not a GGUF file that can be trusted; the message says where
    /// it is wrong.
    pub fn open(path: &Path) -> Result<Gguf> {
        // Asked before opening, because opening a pipe would wait for its writer.
        let found = std::fs::metadata(path).map_err(|e| Error::io("open", path, &e))?;
        if !found.is_file() {
            return Err(Error::input(format!("{}: not a file; name a .gguf file", path.display())));
        }
        let label = path.display().to_string();
        if found.len() == 0 {
            return Gguf::new(label, Bytes::Static(&[]));
        }
        let file = File::open(path).map_err(|e| Error::io("open", path, &e))?;
        // SAFETY: the map is private and read-only, and it is only ever seen as a slice of bytes, for
        // which every content is valid. What remains is a file that changes under the map, which no
        // program can exclude; the documentation above makes that a condition.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, &e))?;
        Gguf::new(label, Bytes::Mapped(map))
    }

    /// Opens a file that is part of the program; `name` stands for its path in messages.
    ///
    /// # Errors
    /// If the bytes are not a GGUF file that can be trusted.
    pub fn from_static(bytes: &'static [u8], name: &str) -> Result<Gguf> {
        Gguf::new(name.to_string(), Bytes::Static(bytes))
    }

    /// Opens a file that is already in memory; `name` stands for its path in messages.
    ///
    /// # Errors
    /// If the bytes are not a GGUF file that can be trusted.
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Result<Gguf> {
        Gguf::new(name.to_string(), Bytes::Owned(bytes))
    }

    fn new(label: String, bytes: Bytes) -> Result<Gguf> {
        let slice = bytes.as_slice();
        let header = parse_header(slice, slice.len() as u64).map_err(|e| e.at(&label))?;
        Ok(Gguf { label, bytes, header })
    }

    /// The path as it was given, or the name of bytes that came from elsewhere: for messages.
    pub fn path_label(&self) -> &str {
        &self.label
    }

    /// Size of the whole file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.as_slice().len() as u64
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// Alignment of tensor data in bytes, a power of two.
    pub fn alignment(&self) -> u32 {
        self.header.alignment
    }

    /// All metadata, in the file's order; keys are unique.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.header.metadata
    }

    /// The metadata value of `key`, if there is one.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.header.metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// The number of `key`, an integer of any width.
    ///
    /// # Errors
    /// If `key` is missing or not an integer from 0 to `u32::MAX`.
    pub fn req_u32(&self, key: &str) -> Result<u32> {
        self.opt_u32(key)?.ok_or_else(|| self.missing(key))
    }

    /// The number of `key`, floating-point of either width.
    ///
    /// # Errors
    /// If `key` is missing, not floating-point, infinite or not a number.
    pub fn req_f32(&self, key: &str) -> Result<f32> {
        self.opt_f32(key)?.ok_or_else(|| self.missing(key))
    }

    /// The text of `key`.
    ///
    /// # Errors
    /// If `key` is missing or not a string.
    pub fn req_str(&self, key: &str) -> Result<&str> {
        self.typed(key, "a string", Value::as_str)?.ok_or_else(|| self.missing(key))
    }

    /// As [`req_u32`](Self::req_u32), but a missing key is `None`.
    ///
    /// # Errors
    /// If `key` is there but not an integer from 0 to `u32::MAX`.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        let wanted = "a whole number from 0 to 4294967295";
        self.typed(key, wanted, |value| value.as_u64().and_then(|v| u32::try_from(v).ok()))
    }

    /// As [`req_f32`](Self::req_f32), but a missing key is `None`.
    ///
    /// # Errors
    /// If `key` is there but not a finite floating-point number.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a finite floating-point number", |value| value.as_f32().filter(|v| v.is_finite()))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| {
            Error::input(format!(
                "{}: metadata key {} is {} where {wanted} is needed; convert the model again",
                self.label,
                quoted(key),
                value.describe()
            ))
        })
    }

    fn missing(&self, key: &str) -> Error {
        Error::input(format!(
            "{}: metadata key {} is missing; convert the model again, with a converter that knows it",
            self.label,
            quoted(key)
        ))
    }

    /// All tensors, in the file's order; names are unique.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The tensor called `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The bytes of `tensor`, padding after it not included. Empty for a tensor that is not this file's
    /// and lies outside it.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let range = || {
            let start = self.header.data_start.checked_add(tensor.offset)?;
            let end = start.checked_add(tensor.byte_len().ok()?)?;
            Some(start.try_into().ok()?..end.try_into().ok()?)
        };
        range().and_then(|range: Range<usize>| self.bytes.as_slice().get(range)).unwrap_or(&[])
    }

    /// Converts rows of `tensor` to f32, as [`dequantize_rows`] does, with messages that name the file
    /// and the tensor. `out` has `rows.len() × tensor.cols()` elements, row by row.
    ///
    /// # Errors
    /// Those of [`dequantize_rows`].
    pub fn dequantize(
        &self,
        tensor: &TensorInfo,
        rows: Range<usize>,
        layout: I2sLayout,
        out: &mut [f32],
    ) -> Result<()> {
        // A row of more than usize::MAX elements cannot be in memory; the saturated number is refused.
        let cols = usize::try_from(tensor.cols()).unwrap_or(usize::MAX);
        dequantize_rows(tensor.ty, self.data(tensor), cols, rows, layout, out)
            .map_err(|e| e.at(format_args!("{}: tensor {}", self.label, quoted(&tensor.name))))
    }
}

/// Everything before the tensor data.
#[derive(Debug)]
pub(super) struct Header {
    version: u32,
    pub(super) alignment: u32,
    metadata: Vec<(String, Value)>,
    pub(super) tensors: Vec<TensorInfo>,
    /// Offset of the tensor data in the file.
    data_start: u64,
}

/// Reads and checks the header at the start of `bytes`, which belongs to a file of `file_bytes` bytes.
/// Messages do not name the file; the caller puts its name in front.
pub(super) fn parse_header(bytes: &[u8], file_bytes: u64) -> Result<Header> {
    check_magic(bytes)?;
    let mut cursor = Cursor { bytes, pos: MAGIC.len() };
    let version = cursor.u32("the version")?;
    check_version(version)?;
    let n_tensors = cursor.u64("the number of tensors")?;
    let n_metadata = cursor.u64("the number of metadata entries")?;

    // The least that one entry can take: key length, type, a value of one byte. (An empty key is refused
    // further down, with a message of its own.)
    let n = cursor.count(n_metadata, 8 + 4 + 1, "metadata entries")?;
    let mut metadata = Vec::with_capacity(n);
    for _ in 0..n {
        metadata.push(cursor.metadata_entry()?);
    }
    if let Some(key) = first_duplicate(metadata.iter().map(|(key, _)| key.as_str())) {
        return Err(Error::input(format!(
            "metadata key {} is there twice; convert the model again",
            quoted(key)
        )));
    }
    let alignment = alignment_of(&metadata)?;

    // Name length, number of dimensions, type, offset. (No dimensions are refused further down.)
    let n = cursor.count(n_tensors, 8 + 4 + 4 + 8, "tensors")?;
    let mut tensors = Vec::with_capacity(n);
    for _ in 0..n {
        tensors.push(cursor.tensor_info()?);
    }
    if let Some(name) = first_duplicate(tensors.iter().map(|tensor| tensor.name.as_str())) {
        return Err(Error::input(format!("tensor {} is there twice; convert the model again", quoted(name))));
    }
    let data_start = align_up(cursor.pos as u64, alignment)
        .ok_or_else(|| Error::input(format!("the header ends beyond any file; {GET_AGAIN}")))?;
    check_places(&tensors, data_start, alignment, file_bytes)?;
    Ok(Header { version, alignment, metadata, tensors, data_start })
}

/// Refuses what is not GGUF, and says what it looks like instead.
fn check_magic(bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(&MAGIC) {
        return Ok(());
    }
    let is = |magic: &[u8]| bytes.starts_with(magic);
    let what = if bytes.is_empty() {
        "the file is empty; get it again"
    } else if [b"lmgg", b"tjgg", b"fmgg", b"algg"].iter().any(|magic| is(*magic)) {
        "an older GGML file (before GGUF); convert the model again with a current converter"
    } else if is(b"PK\x03\x04") {
        "a zip archive, perhaps a PyTorch checkpoint; convert it to GGUF first"
    } else if is(b"\x80\x02") {
        "a Python pickle, perhaps a PyTorch checkpoint; convert it to GGUF first"
    } else if bytes.get(8) == Some(&b'{') {
        "a safetensors file, it seems; convert it to GGUF first"
    } else if is(b"\x1f\x8b") {
        "compressed with gzip; unpack it first"
    } else if is(b"version https://git-lfs") {
        "a Git LFS pointer instead of the file itself; run `git lfs pull`"
    } else if is(b"<") {
        "a web page, it seems; download the file itself"
    } else if bytes.len() < MAGIC.len() {
        "the file is too short to be GGUF; get it again"
    } else {
        let start = bytes.get(..MAGIC.len()).unwrap_or_default().escape_ascii();
        return Err(Error::input(format!(
            "byte 0: not a GGUF file: it begins with \"{start}\" where \"GGUF\" should be; name a .gguf file"
        )));
    };
    Err(Error::input(format!("byte 0: not a GGUF file: {what}")))
}

fn check_version(version: u32) -> Result<()> {
    let message = match version {
        2 | 3 => return Ok(()),
        1 => "byte 4: GGUF version 1 is no longer read; convert the model again with a current converter"
            .into(),
        // A version that only makes sense with its bytes reversed.
        _ if version != 0 && version & 0xffff == 0 => {
            "byte 4: a big-endian GGUF file; only little-endian is read, convert the model again on or for a \
             little-endian machine"
                .into()
        }
        _ => format!(
            "byte 4: GGUF version {version} is not known (2 and 3 are); use a newer bitjoule or {GET_AGAIN}"
        ),
    };
    Err(Error::input(message))
}

/// The alignment that the metadata asks for.
fn alignment_of(metadata: &[(String, Value)]) -> Result<u32> {
    match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some((_, Value::U32(alignment))) if alignment.is_power_of_two() => Ok(*alignment),
        Some((_, value)) => Err(Error::input(format!(
            "metadata key \"{ALIGNMENT_KEY}\" is {} where a u32 that is a power of two is needed; convert the \
             model again",
            value.describe()
        ))),
    }
}

/// Checks that every tensor is aligned, inside the file and apart from the others.
fn check_places(tensors: &[TensorInfo], data_start: u64, alignment: u32, file_bytes: u64) -> Result<()> {
    let mut places = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let wrong = |what: &dyn Display| Error::input(format!("tensor {}: {what}", quoted(&tensor.name)));
        let offset = tensor.offset;
        if !offset.is_multiple_of(u64::from(alignment)) {
            return Err(wrong(&format_args!(
                "its offset {offset} is not a multiple of the alignment {alignment}; convert the model again"
            )));
        }
        let length = tensor.byte_len().map_err(|e| wrong(&e))?;
        let end = data_start.checked_add(offset).and_then(|start| start.checked_add(length));
        if end.is_none_or(|end| end > file_bytes) {
            return Err(wrong(&format_args!(
                "its {length} bytes at offset {offset} of the data, which starts at byte {data_start}, reach \
                 beyond the end of the file ({file_bytes} bytes); {GET_AGAIN}"
            )));
        }
        // Cannot overflow: it is less than the end just checked.
        places.push((offset, offset + length, tensor));
    }
    places.sort_unstable_by_key(|(start, ..)| *start);
    for pair in places.windows(2) {
        if let [(_, end, before), (start, _, after)] = pair
            && end > start
        {
            return Err(Error::input(format!(
                "tensors {} and {} share bytes from offset {start} of the data; {GET_AGAIN}",
                quoted(&before.name),
                quoted(&after.name)
            )));
        }
    }
    Ok(())
}

fn first_duplicate<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = HashSet::new();
    names.find(|name| !seen.insert(*name))
}

/// A place in the bytes of a header, from which the next thing is read.
struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.pos)
    }

    fn error(&self, message: impl Display) -> Error {
        Error::input(format!("byte {}: {message}", self.pos))
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let bytes =
            self.pos.checked_add(n).and_then(|end| self.bytes.get(self.pos..end)).ok_or_else(|| {
                let left = self.remaining();
                self.error(format_args!("the file ends inside {what} ({n} bytes, {left} left); {GET_AGAIN}"))
            })?;
        self.pos += n;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// `count` as a number of things of at least `min_bytes` each that can still follow: the guard before
    /// every allocation.
    fn count(&self, count: u64, min_bytes: usize, what: &str) -> Result<usize> {
        let left = self.remaining();
        match usize::try_from(count) {
            Ok(n) if n.checked_mul(min_bytes).is_some_and(|bytes| bytes <= left) => Ok(n),
            _ => {
                Err(self
                    .error(format_args!("{count} {what} cannot be in the {left} bytes left; {GET_AGAIN}")))
            }
        }
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let len = self.u64(what)?;
        let len = self.count(len, 1, &format!("bytes of {what}"))?;
        let start = self.pos;
        let text = std::str::from_utf8(self.take(len, what)?).map_err(|e| {
            let at = start + e.valid_up_to();
            Error::input(format!("byte {at}: {what} is not UTF-8; {GET_AGAIN}"))
        })?;
        Ok(text.to_string())
    }

    fn bool(&mut self, what: &str) -> Result<bool> {
        match self.array(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => {
                let at = self.pos - 1;
                Err(Error::input(format!("byte {at}: {what} is {other} where 0 or 1 is needed; {GET_AGAIN}")))
            }
        }
    }

    fn metadata_entry(&mut self) -> Result<(String, Value)> {
        let start = self.pos;
        let key = self.string("a metadata key")?;
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(Error::input(format!(
                "byte {start}: a metadata key of {} bytes, where 1 to {MAX_KEY_BYTES} are allowed; {GET_AGAIN}",
                key.len()
            )));
        }
        let value = self.value().map_err(|e| e.at(format_args!("metadata key {}", quoted(&key))))?;
        Ok((key, value))
    }

    fn value(&mut self) -> Result<Value> {
        let what = "a value";
        let id = self.u32("a value's type")?;
        Ok(match id {
            0 => Value::U8(u8::from_le_bytes(self.array(what)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(what)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(what)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(what)?)),
            4 => Value::U32(u32::from_le_bytes(self.array(what)?)),
            5 => Value::I32(i32::from_le_bytes(self.array(what)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(what)?)),
            7 => Value::Bool(self.bool("a boolean")?),
            8 => Value::String(self.string("a string")?),
            9 => Value::Array(self.value_array(1)?),
            10 => Value::U64(u64::from_le_bytes(self.array(what)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(what)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(what)?)),
            _ => return Err(self.unknown_value_type(id)),
        })
    }

    fn unknown_value_type(&self, id: u32) -> Error {
        let at = self.pos.saturating_sub(4);
        Error::input(format!("byte {at}: value type {id} is not known (0 to 12 are); {GET_AGAIN}"))
    }

    /// An array that is `depth` arrays deep, itself counted.
    fn value_array(&mut self, depth: usize) -> Result<Array> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(self.error(format_args!(
                "arrays nested more than {MAX_ARRAY_DEPTH} deep; no model needs that, convert it again"
            )));
        }
        let id = self.u32("an array's element type")?;
        if id > 12 {
            return Err(self.unknown_value_type(id));
        }
        let count = self.u64("an array's length")?;
        Ok(match id {
            0 => Array::U8(self.numbers(count, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(count, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(count, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(count, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(count, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(count, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(count, f32::from_le_bytes)?),
            7 => Array::Bool(self.elements(count, 1, |cursor| cursor.bool("a boolean"))?),
            8 => Array::String(self.elements(count, 8, |cursor| cursor.string("a string"))?),
            9 => Array::Array(self.elements(count, 4 + 8, |cursor| cursor.value_array(depth + 1))?),
            10 => Array::U64(self.numbers(count, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(count, i64::from_le_bytes)?),
            _ => Array::F64(self.numbers(count, f64::from_le_bytes)?),
        })
    }

    fn numbers<T, const N: usize>(&mut self, count: u64, from: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let n = self.count(count, N, "array elements")?;
        let bytes = self.take(n * N, "an array")?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|chunk| from(*chunk)).collect())
    }

    fn elements<T>(
        &mut self,
        count: u64,
        min_bytes: usize,
        mut next: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let n = self.count(count, min_bytes, "array elements")?;
        let mut elements = Vec::with_capacity(n);
        for _ in 0..n {
            elements.push(next(self)?);
        }
        Ok(elements)
    }

    fn tensor_info(&mut self) -> Result<TensorInfo> {
        let name = self.string("a tensor's name")?;
        let wrong = |what: String| Error::input(format!("tensor {}: {what}", quoted(&name)));
        let n_dims = self.u32("a tensor's number of dimensions")?;
        if n_dims == 0 || n_dims as usize > MAX_DIMS {
            return Err(wrong(format!(
                "it has {n_dims} dimensions where 1 to {MAX_DIMS} are allowed; {GET_AGAIN}"
            )));
        }
        let mut shape = Vec::with_capacity(MAX_DIMS);
        for _ in 0..n_dims {
            shape.push(self.u64("a tensor's dimensions")?);
        }
        if shape.contains(&0) {
            return Err(wrong(format!("its shape {shape:?} has a dimension of 0; convert the model again")));
        }
        let id = self.u32("a tensor's type")?;
        let offset = self.u64("a tensor's offset")?;
        let ty = TensorType::from_id(id).ok_or_else(|| wrong(unsupported(id)))?;
        Ok(TensorInfo { name, shape, ty, offset })
    }
}
