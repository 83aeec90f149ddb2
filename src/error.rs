//! The one error type: what was wrong, where, what to do, and which exit code follows.

use std::fmt::Display;
use std::path::Path;

/// An error that ends a command. The variant decides the exit code; the text is for a person.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A gate, a verification, a check or a case failed: exit code 1.
    #[error("{0}")]
    Check(String),
    /// The command line, a suite or a file is wrong: exit code 2.
    #[error("{0}")]
    Input(String),
    /// The system refused memory: exit code 3.
    #[error("{0}")]
    Memory(String),
    /// This machine cannot do what was asked (memory, disk, permission): exit code 3.
    #[error("{0}")]
    Environment(String),
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The process exit code that stands for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Check(_) => 1,
            Error::Input(_) => 2,
            Error::Environment(_) | Error::Memory(_) => 3,
        }
    }

    /// Wrong input, described by `message`.
    pub fn input(message: impl Display) -> Self {
        Error::Input(message.to_string())
    }

    /// Something the machine lacks, described by `message`.
    pub fn environment(message: impl Display) -> Self {
        Error::Environment(message.to_string())
    }

    /// An I/O failure on `path` while doing `what` ("read", "create", ...). A missing or malformed
    /// file is the caller's input; everything else (full disk, permission) is the environment.
    pub fn io(what: &str, path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let text = format!("cannot {what} {}: {error}", path.display());
        match error.kind() {
            NotFound | InvalidData | InvalidInput | AlreadyExists | NotADirectory | IsADirectory
            | UnexpectedEof => Error::Input(text),
            OutOfMemory => Error::Memory(text),
            _ => Error::Environment(text),
        }
    }

    /// The same error with `place` in front of its message.
    pub fn at(self, place: impl Display) -> Self {
        match self {
            Error::Check(m) => Error::Check(format!("{place}: {m}")),
            Error::Input(m) => Error::Input(format!("{place}: {m}")),
            Error::Environment(m) => Error::Environment(format!("{place}: {m}")),
            Error::Memory(m) => Error::Memory(format!("{place}: {m}")),
        }
    }
}
