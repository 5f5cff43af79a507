//! What the mailbox needs of the journal; the second implementation is the fake of its tests.

use std::future::Future;

use tokio::sync::watch;

use crate::journal::{AppendError, Health, Journal, Kept, Record};
use crate::site::Now;

/// Where facts are made durable. See [`Journal`] for the promises.
pub trait FactLog: Send + Sync + 'static {
    /// Makes the records durable and answers the sequence number of the last one; on an error they do not stand.
    fn append(&self, records: Vec<Record>, now: &Now) -> impl Future<Output = Result<u64, AppendError>> + Send;
    /// Takes records although they cannot be made durable now. Never fails.
    fn keep(&self, records: Vec<Record>, now: &Now) -> impl Future<Output = Kept> + Send;
    /// Stores the state as of `seq`.
    fn checkpoint(&self, seq: u64, payload: String, now: &Now) -> impl Future<Output = Result<(), AppendError>> + Send;
    /// How it is, and every change of it.
    fn health(&self) -> watch::Receiver<Health>;
}

impl FactLog for Journal {
    async fn append(&self, records: Vec<Record>, now: &Now) -> Result<u64, AppendError> {
        Journal::append(self, records, now).await
    }

    async fn keep(&self, records: Vec<Record>, now: &Now) -> Kept {
        Journal::keep(self, records, now).await
    }

    async fn checkpoint(&self, seq: u64, payload: String, now: &Now) -> Result<(), AppendError> {
        Journal::checkpoint(self, seq, payload, now).await
    }

    fn health(&self) -> watch::Receiver<Health> {
        Journal::health(self)
    }
}
