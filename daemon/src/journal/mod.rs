//! Facts on disk: SQLite (WAL, synchronous=FULL) behind a writer thread that acknowledges within a deadline; readers; spill; blobs;
//! UPS history. What a fact means is not known here: a [`Record`] is a kind, a version and JSON.
//!
//! How a caller lives with a disk that fails:
//! - [`Journal::append`] either makes the records durable (`Ok`) or makes them not have happened (`Err`): a record that reaches the disk
//!   after its deadline is taken out again.
//! - After an `Err` the caller refuses what it was about to do, or goes on and hands the same records to [`Journal::keep`], which never
//!   fails: they get a place in the sequence, wait in memory and in the spill file, and are appended in order, once, when the disk is back
//!   or at the next start.
//! - Sequence numbers only grow. There may be gaps.

mod aside;
mod blobs;
mod claim;
mod database;
mod error;
#[cfg(debug_assertions)]
pub mod failpoint;
mod handle;
mod history;
mod lock;
mod open;
mod reader;
mod record;
mod schema;
mod shared;
mod spill;
mod writer;

#[cfg(test)]
mod tests;

pub use blobs::{BlobError, BlobId, Blobs};
pub use error::{AppendError, OpenError, ReadError};
pub use handle::{Journal, Kept, KeptIn};
pub use history::{History, HistoryError, Sample, Transition, UpsHistory};
pub use open::{Mode, Opened, Options, open};
pub use reader::Reader;
pub use record::{Record, Stored};
pub use shared::Health;
pub use writer::{Hook, Retention, Stage};
