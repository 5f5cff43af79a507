//! What the handle, the writer and the readers share: the sequence, and the facts that are not yet in the database.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

use super::record::{Record, Row, Stored, Withdrawn};
use crate::site::Now;

/// More than this many facts are not kept in memory while the disk is away (a shutdown makes some hundreds).
pub(super) const MAX_BACKLOG: usize = 100_000;

/// How the journal is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// What is wrong at present; `None`: every append is durable.
    pub trouble: Option<String>,
    /// Facts that wait for the disk in memory and in the spill file.
    pub backlog: usize,
    /// Facts that found no place at all.
    pub lost: u64,
}

/// What a write taught about the disk.
#[derive(Debug)]
pub(super) enum Trouble {
    Unchanged,
    Gone,
    Is(String),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    /// Names this opening of the journal.
    pub origin: i64,
    inner: Mutex<Inner>,
    stalled: AtomicBool,
    health: watch::Sender<Health>,
}

/// The part under the lock.
#[derive(Debug, Default)]
pub(super) struct Inner {
    pub next_seq: u64,
    /// In order of `seq`.
    pub backlog: VecDeque<Row>,
    /// May have reached the disk and must not stand.
    pub retract: Vec<Withdrawn>,
    pub lost: u64,
}

impl Inner {
    /// Numbers the records.
    pub(super) fn number(&mut self, records: Vec<Record>, now: &Now) -> Vec<Stored> {
        let first = self.next_seq;
        self.next_seq += records.len() as u64;
        records.into_iter().zip(first..).map(|(record, seq)| Stored::new(seq, record, now)).collect()
    }

    pub(super) fn owes(&self) -> bool {
        !self.backlog.is_empty() || !self.retract.is_empty()
    }
}

impl Shared {
    pub(super) fn new(origin: i64, next_seq: u64, backlog: Vec<Row>, retract: Vec<Withdrawn>, trouble: Option<String>) -> Self {
        let health = Health { trouble, backlog: backlog.len(), lost: 0 };
        let inner = Inner { next_seq, backlog: backlog.into(), retract, lost: 0 };
        Self { origin, inner: Mutex::new(inner), stalled: AtomicBool::new(false), health: watch::Sender::new(health) }
    }

    /// A panic under this lock leaves plain data behind, so poisoning is ignored.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer has not come back from a command whose caller gave up.
    pub(super) fn stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    pub(super) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Release);
    }

    pub(super) fn watch(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(super) fn in_trouble(&self) -> bool {
        self.health.borrow().trouble.is_some()
    }

    /// Publishes the counts and what became of the trouble.
    pub(super) fn publish(&self, trouble: Trouble) {
        let (backlog, lost) = {
            let inner = self.lock();
            (inner.backlog.len(), inner.lost)
        };
        self.health.send_if_modified(|health| {
            let trouble = match trouble {
                Trouble::Unchanged => health.trouble.clone(),
                Trouble::Gone => None,
                Trouble::Is(why) => Some(why),
            };
            let next = Health { trouble, backlog, lost };
            let changed = *health != next;
            *health = next;
            changed
        });
    }
}
