//! What can go wrong, for those who branch on it.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::ErrorCode;

/// The records were not made durable and, for the journal, did not happen. See [`super::Journal::keep`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The disk did not answer in time.
    #[error("the journal was not written within {0:?}: the disk below the state directory hangs; look at `journalctl -k`")]
    Timeout(Duration),
    /// More is waiting than the queue holds.
    #[error("the journal's queue is full: the disk below the state directory is too slow; look at `journalctl -k`")]
    Busy,
    /// The journal was not opened for writing.
    #[error("the journal is not written to: {0}")]
    ReadOnly(String),
    /// No space left.
    #[error("the journal {path} cannot grow: no space left on its file system; free some", path = .0.display())]
    DiskFull(PathBuf),
    /// The file that is written to is not the one of that name any more.
    #[error("the journal {path} is gone: the state directory was renamed, removed or replaced while metisd runs; put it back, or restart \
        metisd to begin with what is there", path = .0.display())]
    Gone(PathBuf),
    /// Anything else that SQLite says.
    #[error("the journal {path} cannot be written: {why}; look at `journalctl -k`", path = .path.display())]
    Io {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// The journal was closed or its thread ended.
    #[error("the journal is closed")]
    Closed,
}

impl AppendError {
    pub(super) fn from_sqlite(path: &std::path::Path, error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), why: error.to_string() },
        }
    }
}

/// Why the journal could not even be opened degraded.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another instance holds the state directory.
    #[error("{path} is locked by {holder}: one metisd per state directory; stop the other one first", path = .path.display(),
        holder = .pid.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, where it could be read.
        pid: Option<u32>,
    },
    /// No thread for the writer.
    #[error("the journal's thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// Why the history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What SQLite says.
    #[error("the journal {path} cannot be read: {source}", path = .path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Its answer.
        source: rusqlite::Error,
    },
    /// A fact that is not what was written.
    #[error("fact {seq} of the journal {path} is damaged (its checksum is wrong)", path = .path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// Its place in the sequence.
        seq: u64,
    },
}
