//! The journal as a file: appended to durably, read back whatever happened to its writer.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Record, SCHEMA};
use crate::error::{Error, Result};

/// Name of the journal in a run directory.
pub const FILE_NAME: &str = "journal.jsonl";

/// A journal being written. Only one process at a time can hold it.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes of whole, synced lines.
    len: u64,
}

/// What a journal file holds.
#[derive(Debug)]
pub struct Contents {
    /// The records of its whole lines.
    pub records: Vec<Record>,
    /// Bytes of a last line that its writer did not finish: a kill in mid-write.
    pub torn_bytes: u64,
}

/// Reads the journal of run directory `dir`.
///
/// # Errors
/// If it cannot be read, a line in it is damaged (named by its number), or a newer bitjoule wrote it.
pub fn read(dir: &Path) -> Result<Contents> {
    let path = dir.join(FILE_NAME);
    let mut bytes = Vec::new();
    File::open(&path).and_then(|mut f| f.read_to_end(&mut bytes)).map_err(|e| {
        let hint = if e.kind() == std::io::ErrorKind::NotFound { "; is this a run directory?" } else { "" };
        match Error::io("read", &path, &e) {
            Error::Input(m) => Error::Input(format!("{m}{hint}")),
            e => e,
        }
    })?;
    parse(&bytes).map_err(|e| e.at(path.display()))
}

fn parse(bytes: &[u8]) -> Result<Contents> {
    // A line without its end is one that its writer did not finish, and nothing was built upon it.
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    let lines: Vec<(usize, &[u8])> =
        bytes[..whole].split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()).collect();
    let damaged = |i: usize, e: &serde_json::Error| {
        Error::input(format!(
            "line {}: not a journal record ({e}); the file was damaged or edited, remove that line to use the \
             others",
            i + 1
        ))
    };
    // The schema comes first: records of a newer one need not parse at all.
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(default)]
        schema: u32,
    }
    if let Some((i, line)) = lines.first() {
        let head: Head = serde_json::from_slice(line).map_err(|e| damaged(*i, &e))?;
        if head.schema > SCHEMA {
            return Err(Error::input(format!(
                "written in schema {}, but this bitjoule reads up to {SCHEMA}; use a newer one",
                head.schema
            )));
        }
    }
    let parsed: Vec<Result<Record>> =
        lines.par_iter().map(|(i, line)| serde_json::from_slice(line).map_err(|e| damaged(*i, &e))).collect();
    // Of several damaged lines the first is named.
    let records = parsed.into_iter().collect::<Result<_>>()?;
    Ok(Contents { records, torn_bytes: (bytes.len() - whole) as u64 })
}

impl Journal {
    /// Starts the journal of the new run directory `dir`.
    ///
    /// # Errors
    /// If there is one already, or it cannot be created.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE_NAME);
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .map_err(|e| Error::io("create", &path, &e))?;
        Self::locked(file, path, 0)
    }

    /// Opens the journal of `dir` to go on with it, and returns what it holds. A torn last line is cut
    /// off.
    ///
    /// # Errors
    /// As [`read`], or if another process is writing it.
    pub fn resume(dir: &Path) -> Result<(Self, Contents)> {
        let path = dir.join(FILE_NAME);
        let file = OpenOptions::new()
            .append(true)
            .read(true)
            .open(&path)
            .map_err(|e| Error::io("open", &path, &e))?;
        // Lock first: what is read must not be in another coordinator's hands.
        let mut journal = Self::locked(file, path, 0)?;
        let contents = read(dir)?;
        let io = |e| Error::io("resume", &journal.path, &e);
        let end = journal.file.seek(SeekFrom::End(0)).map_err(io)?;
        journal.len = end - contents.torn_bytes;
        journal.file.set_len(journal.len).map_err(io)?;
        journal.file.sync_all().map_err(io)?;
        Ok((journal, contents))
    }

    fn locked(file: File, path: PathBuf, len: u64) -> Result<Self> {
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::input(format!(
                    "{}: another bitjoule is measuring into this run; wait for it or stop it",
                    path.display()
                )));
            }
            // Some network file systems have no locks; a single writer is safe without.
            Err(std::fs::TryLockError::Error(_)) => {}
        }
        Ok(Journal { file, path, len })
    }

    /// Appends a record and makes it durable. After an error the file ends where it ended before.
    ///
    /// # Errors
    /// If it cannot be written, as on a full disk.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)
            .map_err(|e| Error::input(format!("{}: cannot write a record: {e}", self.path.display())))?;
        line.push(b'\n');
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        written.map_err(|e| {
            let _ = self.file.set_len(self.len);
            Error::io("append to", &self.path, &e)
        })?;
        self.len += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Session;

    fn session(started_unix_ms: u64) -> Record {
        Record::Session(Session { started_unix_ms, resumed: false, load_average_1m: None })
    }

    #[test]
    fn a_torn_line_is_cut_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path()).unwrap();
        (0..3).for_each(|i| journal.append(&session(i)).unwrap());
        drop(journal);
        let path = dir.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        let line = whole.len() / 3;
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, contents) = Journal::resume(dir.path()).unwrap();
            assert_eq!(contents.records.len(), cut / line, "cut at {cut}");
            assert_eq!(contents.torn_bytes as usize, cut % line);
            journal.append(&session(9)).unwrap();
            drop(journal);
            let records = read(dir.path()).unwrap().records;
            assert_eq!(records.len(), cut / line + 1);
            assert_eq!(records.last(), Some(&session(9)));
        }
    }

    #[test]
    fn two_writers_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _journal = Journal::create(dir.path()).unwrap();
        let error = Journal::resume(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another bitjoule"), "{error}");
        assert!(Journal::create(dir.path()).is_err());
    }

    #[test]
    fn damage_and_newer_schemas_are_named() {
        let good = serde_json::to_string(&session(1)).unwrap();
        let error = parse(format!("{good}\n{{\"record\": 3}}\n").as_bytes()).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        // Of many the first, whichever core reads it.
        let many = format!("{good}\n").repeat(300) + &"{}\n".repeat(300);
        let error = parse(many.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("line 301"), "{error}");
        let error =
            parse(b"{\"record\": \"run\", \"schema\": 99, \"unheard\": 1}\n").unwrap_err().to_string();
        assert!(error.contains("schema 99"), "{error}");
    }
}
