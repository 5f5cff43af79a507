//! UPS history in a database of its own (`ups-history.db`, synchronous=NORMAL): a power cut may cost its last half minute, never the
//! journal a moment. Its own thread writes in batches, downsamples and answers queries; callers never wait for the disk to record.

mod fold;
mod store;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::site::{Now, Reading, UpsName, Verdict};
use store::{Row, Store};

/// A batch is written when its first entry is this old.
const FLUSH: Duration = Duration::from_secs(30);
/// A batch is written when it has this many entries.
const BATCH: usize = 256;
/// Entries that wait while the disk fails; older ones are dropped.
const PENDING: usize = 20_000;
/// How long a query may take.
const QUERY: Duration = Duration::from_secs(5);

/// One reading, or the worst of several (lowest charge and runtime, highest load).
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When it was read; of several: the first.
    pub at: Timestamp,
    /// The UPS.
    pub name: String,
    /// `ups.status`; of several: one on battery before one that is not, else the last.
    pub status: String,
    /// Percent.
    pub charge: Option<f64>,
    /// `battery.runtime`.
    pub runtime: Option<Duration>,
    /// Percent.
    pub load: Option<f64>,
}

/// A change of what is believed of a UPS or a power domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// When it was decided.
    pub at: Timestamp,
    /// The UPS or the domain.
    pub name: String,
    /// Before.
    pub from: Verdict,
    /// After.
    pub to: Verdict,
    /// Why.
    pub reason: String,
}

/// Answer of a query.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Oldest first.
    pub samples: Vec<Sample>,
    /// Oldest first; the newest ones where there are more than the limit.
    pub transitions: Vec<Transition>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// What SQLite says.
    #[error("the UPS history cannot be read: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The disk did not answer in time.
    #[error("the UPS history did not answer within {QUERY:?}: the disk below the state directory hangs; look at `journalctl -k`")]
    Timeout,
    /// More is waiting than the queue holds.
    #[error("the UPS history is busy: try again")]
    Busy,
    /// It was closed.
    #[error("the UPS history is closed")]
    Closed,
}

enum Command {
    /// The inbox has its first entry, or [`BATCH`] of them.
    Samples,
    Transition(Transition),
    Query {
        name: String,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
        reply: oneshot::Sender<Result<History, rusqlite::Error>>,
    },
    Stop,
}

/// Readings on their way to the thread, which is woken for a batch of them, not for each.
#[derive(Debug, Default)]
struct Inbox {
    samples: Vec<Sample>,
    /// The newest reading's time, where the clock was synchronised: only such a clock may say what is old.
    synced_at: Option<Timestamp>,
}

/// Records and answers. Clones share one thread.
#[derive(Debug, Clone)]
pub struct UpsHistory {
    inbox: Arc<Mutex<Inbox>>,
    commands: SyncSender<Command>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl UpsHistory {
    /// Opens `<dir>/ups-history.db`. A corrupt one is set aside; where none can be written, history is kept in memory. Both are answered
    /// as a problem for a person. Blocks.
    ///
    /// # Errors
    /// Where no thread can be started or SQLite cannot even work in memory.
    pub fn open(dir: &Path, now: &Now) -> anyhow::Result<(Self, Option<String>)> {
        let (store, problem) = Store::open(&dir.join("ups-history.db"), now)?;
        let (commands, receiver) = sync_channel(1024);
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let worker = Worker::new(store, Arc::clone(&inbox));
        let thread = std::thread::Builder::new().name("ups-history".into()).spawn(move || worker.run(&receiver))?;
        Ok((Self { inbox, commands, thread: Arc::new(Mutex::new(Some(thread))) }, problem))
    }

    /// Records a reading. Never waits for the disk: where it hangs and too many wait already, the reading is dropped.
    pub fn record(&self, now: &Now, name: &UpsName, reading: &Reading) {
        let status = reading.status.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let Reading { charge, runtime, load, .. } = *reading;
        let sample = Sample { at: now.wall, name: name.to_string(), status, charge, runtime, load };
        let waiting = {
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            if inbox.samples.len() >= PENDING {
                return;
            }
            inbox.synced_at = now.synced.then_some(sample.at);
            inbox.samples.push(sample);
            inbox.samples.len()
        };
        if waiting == 1 || waiting.is_multiple_of(BATCH) {
            let _ = self.commands.try_send(Command::Samples);
        }
    }

    /// Records a change of verdict; written at once. Never waits.
    pub fn transition(&self, transition: Transition) {
        let _ = self.commands.try_send(Command::Transition(transition));
    }

    /// What is known of `name` in `from <= at < to`, thinned to at most `limit` samples.
    pub async fn query(&self, name: &str, from: Timestamp, to: Timestamp, limit: usize) -> Result<History, HistoryError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(Command::Query { name: name.to_owned(), from, to, limit, reply }).map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(_) => HistoryError::Busy,
            std::sync::mpsc::TrySendError::Disconnected(_) => HistoryError::Closed,
        })?;
        match timeout(QUERY, answer).await {
            Ok(Ok(answer)) => Ok(answer?),
            Ok(Err(_)) => Err(HistoryError::Closed),
            Err(_) => Err(HistoryError::Timeout),
        }
    }

    /// Writes what is pending and ends the thread. Blocks: a hung disk holds it.
    pub fn close(self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the UPS history panicked");
        }
    }
}

/// The thread.
struct Worker {
    store: Store,
    inbox: Arc<Mutex<Inbox>>,
    pending: Vec<Row>,
    flush_at: Option<Instant>,
    synced_at: Option<Timestamp>,
    failing: bool,
}

impl Worker {
    fn new(store: Store, inbox: Arc<Mutex<Inbox>>) -> Self {
        Self { store, inbox, pending: Vec::new(), flush_at: None, synced_at: None, failing: false }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            match self.next(commands) {
                Ok(Command::Samples) => {
                    self.flush_at.get_or_insert_with(|| Instant::now() + FLUSH);
                    if self.inbox().samples.len() >= BATCH {
                        self.flush();
                    }
                }
                Ok(Command::Transition(transition)) => {
                    self.take_samples();
                    self.pending.push(Row::Transition(transition));
                    self.flush();
                }
                Ok(Command::Query { name, from, to, limit, reply }) => {
                    self.flush();
                    let _ = reply.send(self.store.query(&name, from, to, limit));
                    self.compact();
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.flush();
                    self.compact();
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.flush();
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compact(&mut self) {
        if let Some(now) = self.synced_at
            && let Err(error) = self.store.compact(now)
        {
            tracing::warn!(%error, "UPS history was not downsampled");
        }
    }

    /// Sleeps without a timer while there is nothing to write or to downsample.
    fn next(&self, commands: &Receiver<Command>) -> Result<Command, RecvTimeoutError> {
        if self.store.compacting() {
            return commands.recv_timeout(Duration::ZERO);
        }
        match self.flush_at {
            Some(at) => commands.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn take_samples(&mut self) {
        let Inbox { samples, synced_at } = {
            let mut inbox = self.inbox();
            let synced_at = inbox.synced_at;
            std::mem::replace(&mut *inbox, Inbox { samples: Vec::new(), synced_at })
        };
        self.synced_at = synced_at;
        self.pending.extend(samples.into_iter().map(Row::Sample));
        let excess = self.pending.len().saturating_sub(PENDING);
        self.pending.drain(..excess);
    }

    fn flush(&mut self) {
        self.flush_at = None;
        self.take_samples();
        if self.pending.is_empty() {
            return;
        }
        match self.store.write(&self.pending) {
            Ok(()) => {
                self.pending.clear();
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(%error, "UPS history cannot be written; the newest readings wait in memory");
                }
                self.failing = true;
                self.flush_at = Some(Instant::now() + FLUSH);
            }
        }
    }
}
