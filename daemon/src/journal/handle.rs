//! What the mailbox loop holds.

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::claim::Claim;
use super::lock::Lock;
use super::record::{Record, Row, Withdrawn};
use super::shared::{Health, MAX_BACKLOG, Shared, Trouble};
use super::spill::{Line, Spill};
use super::writer::{Batch, Command, range};
use super::{AppendError, Reader};
use crate::site::Now;

/// How long the spill file may take before memory alone must do.
const SPILL_DEADLINE: Duration = Duration::from_millis(500);

/// Appends facts. Clones share one writer.
#[derive(Debug, Clone)]
pub struct Journal {
    pub(super) parts: Arc<Parts>,
}

#[derive(Debug)]
pub(super) struct Parts {
    pub shared: Arc<Shared>,
    pub spill: Spill,
    pub deadline: Duration,
    pub reader: Reader,
    pub sink: Sink,
    pub _lock: Arc<Lock>,
}

/// Where facts go.
#[derive(Debug)]
pub(super) enum Sink {
    Writer {
        commands: SyncSender<Command>,
        thread: Mutex<Option<JoinHandle<()>>>,
    },
    /// Not opened for writing, and why.
    None(String),
}

/// Where [`Journal::keep`] put facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptIn {
    /// In memory and in the spill file: a restart of the daemon does not lose them.
    Spill,
    /// In memory alone, and why.
    Memory(String),
    /// Nowhere: more waits already than is reasonable. They are in the log.
    Nowhere,
}

/// Answer of [`Journal::keep`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Sequence number of the last record.
    pub last: u64,
    /// How safe they are.
    pub place: KeptIn,
}

impl Journal {
    /// Makes the records durable, in one transaction, and answers the sequence number of the last one.
    ///
    /// Cancel-safe in one direction only: when the future is dropped, the records may or may not stand.
    ///
    /// # Errors
    /// Where they could not be made durable before the deadline. They then do not stand: what reaches the disk late is taken out again
    /// (a daemon that is killed before that may find them at its next start). Refuse what was to be done, or go on with [`Journal::keep`].
    pub async fn append(&self, records: Vec<Record>, now: &Now) -> Result<u64, AppendError> {
        let Sink::Writer { commands, .. } = &self.parts.sink else {
            return Err(AppendError::ReadOnly(self.parts.why()));
        };
        let shared = &self.parts.shared;
        if shared.stalled() {
            return Err(AppendError::Timeout(self.parts.deadline));
        }
        let claim = Arc::new(Claim::default());
        let (reply, answer) = oneshot::channel();
        let (last, withdrawn) = {
            // Numbering and queueing under one lock: the queue is in the order of the sequence.
            let mut inner = shared.lock();
            let rows: Vec<_> =
                inner.number(records, now).into_iter().map(|fact| Row { origin: shared.origin, proposed: None, fact }).collect();
            let last = inner.next_seq - 1;
            let withdrawn = range(&rows);
            let batch = Batch { rows, claim: claim.clone(), reply };
            match commands.try_send(Command::Append(batch)) {
                Ok(()) => (last, withdrawn),
                Err(TrySendError::Full(_)) => return Err(AppendError::Busy),
                Err(TrySendError::Disconnected(_)) => return Err(AppendError::Closed),
            }
        };
        match timeout(self.parts.deadline, answer).await {
            Ok(Ok(outcome)) => {
                if outcome.is_err() {
                    self.parts.note_withdrawn(withdrawn);
                }
                outcome.map(|()| last)
            }
            Ok(Err(_)) => Err(AppendError::Closed),
            Err(_) => {
                // Before the withdrawal: the writer clears it after its next look at the claim, never before.
                shared.set_stalled(true);
                if !claim.withdraw() {
                    shared.set_stalled(false);
                    return Ok(last);
                }
                self.parts.note_withdrawn(withdrawn);
                let error = AppendError::Timeout(self.parts.deadline);
                shared.publish(Trouble::Is(error.to_string()));
                Err(error)
            }
        }
    }

    /// Takes records that [`Journal::append`] refused, so that the caller can go on without the disk. Never fails.
    pub async fn keep(&self, records: Vec<Record>, now: &Now) -> Kept {
        let shared = &self.parts.shared;
        let (last, answer) = {
            let mut inner = shared.lock();
            let facts = inner.number(records, now);
            let last = inner.next_seq - 1;
            for fact in &facts {
                let (run, kind, payload) = (fact.run.as_ref().map(tracing::field::display), &fact.kind, &fact.payload);
                tracing::error!(seq = fact.seq, run, %kind, %payload, "fact not in the journal, kept in memory");
            }
            if inner.backlog.len() + facts.len() > MAX_BACKLOG {
                inner.lost += facts.len() as u64;
                (last, None)
            } else {
                let rows: Vec<_> = facts.into_iter().map(|fact| Row { origin: shared.origin, proposed: None, fact }).collect();
                inner.backlog.extend(rows.iter().cloned());
                (last, Some(self.parts.spill.write(rows.into_iter().map(Line::Fact).collect())))
            }
        };
        shared.publish(Trouble::Unchanged);
        if let Sink::Writer { commands, .. } = &self.parts.sink {
            let _ = commands.try_send(Command::Nudge);
        }
        let place = match answer {
            None => KeptIn::Nowhere,
            Some(answer) => match timeout(SPILL_DEADLINE, answer).await {
                Ok(Ok(Ok(()))) => KeptIn::Spill,
                Ok(Ok(Err(why))) => KeptIn::Memory(why),
                Ok(Err(_)) => KeptIn::Memory("the spill queue is full".into()),
                Err(_) => KeptIn::Memory(format!("the spill file was not written within {SPILL_DEADLINE:?}")),
            },
        };
        Kept { last, place }
    }

    /// Stores the state as of `seq`: the next start replays only what comes after it. Old facts are pruned behind it ([`super::Retention`]).
    ///
    /// # Errors
    /// Where it could not be stored before the deadline. Nothing depends on it: the tail just stays longer.
    pub async fn checkpoint(&self, seq: u64, payload: String, now: &Now) -> Result<(), AppendError> {
        let Sink::Writer { commands, .. } = &self.parts.sink else {
            return Err(AppendError::ReadOnly(self.parts.why()));
        };
        let (reply, answer) = oneshot::channel();
        commands.try_send(Command::Checkpoint { seq, payload, now: now.clone(), reply }).map_err(|error| match error {
            TrySendError::Full(_) => AppendError::Busy,
            TrySendError::Disconnected(_) => AppendError::Closed,
        })?;
        match timeout(self.parts.deadline, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(AppendError::Closed),
            Err(_) => Err(AppendError::Timeout(self.parts.deadline)),
        }
    }

    /// The number of the newest fact; 0: none yet.
    pub fn last_seq(&self) -> u64 {
        self.parts.shared.lock().next_seq - 1
    }

    /// How the journal is, and every change of it.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.parts.shared.watch()
    }

    /// For history queries; sees facts that wait for the disk, too.
    pub fn reader(&self) -> Reader {
        self.parts.reader.clone()
    }

    /// Writes what is queued, tries once to write what waits, and ends the writer. Blocks: a hung disk holds it.
    pub fn close(self) {
        if let Sink::Writer { commands, thread } = &self.parts.sink {
            let _ = commands.send(Command::Stop);
            let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread
                && thread.join().is_err()
            {
                tracing::error!("the journal's thread panicked");
            }
        }
    }
}

impl Parts {
    /// For a daemon that is killed before the writer could take them out.
    fn note_withdrawn(&self, range: Option<Withdrawn>) {
        if let Some(range) = range {
            self.spill.note(Line::Withdrawn(range));
        }
    }

    fn why(&self) -> String {
        match &self.sink {
            Sink::Writer { .. } => String::new(),
            Sink::None(why) => why.clone(),
        }
    }
}

/// `<dir>/journal.db`.
pub(super) fn database(dir: &std::path::Path) -> PathBuf {
    dir.join("journal.db")
}
