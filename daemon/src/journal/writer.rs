//! The one thread that writes `journal.db`.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::AppendError;
use super::claim::Claim;
use super::lock::Lock;
use super::record::{Row, Withdrawn, nanos};
use super::schema;
use super::shared::{Shared, Trouble};
use super::spill::Spill;
use crate::site::Now;

/// How often what is owed to the disk is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Backlog rows per transaction.
const SLICE: usize = 512;
/// Facts pruned per transaction, so that an append never waits for long behind it.
const PRUNE: i64 = 500;

/// Where in a write the [`Hook`] is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The transaction is open, nothing is in it.
    Begun,
    /// Everything is in it, nothing is durable.
    Filled,
    /// It is durable, nobody knows.
    Committed,
}

/// Called by the writer thread within every write: stalls it or ends the process in tests of what a disk and a power cut do.
#[derive(Clone)]
pub struct Hook(pub Arc<dyn Fn(Stage) + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// What is kept once two checkpoints cover it. Pruning never touches what recovery reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Facts of this many newest runs.
    pub runs: u32,
    /// Facts of no run (verdicts, audit) that are younger.
    pub loose: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { runs: 200, loose: Duration::from_hours(400 * 24) }
    }
}

/// Facts on their way to the disk.
pub(super) struct Batch {
    pub rows: Vec<Row>,
    pub claim: Arc<Claim>,
    pub reply: oneshot::Sender<Result<(), AppendError>>,
}

pub(super) enum Command {
    Append(Batch),
    Checkpoint {
        seq: u64,
        payload: String,
        now: Now,
        reply: oneshot::Sender<Result<(), AppendError>>,
    },
    /// Something is owed.
    Nudge,
    Stop,
}

pub(super) struct Writer {
    pub conn: Connection,
    pub path: PathBuf,
    /// Device and inode of the file that `conn` has open.
    pub identity: Option<(u64, u64)>,
    pub shared: Arc<Shared>,
    pub spill: Spill,
    pub retention: Retention,
    pub hook: Option<Hook>,
    /// Set by a checkpoint, until nothing is left to prune.
    pub prune: Option<Now>,
    /// Held until the last write is done.
    pub _lock: Arc<Lock>,
}

impl Writer {
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let command = self.next(commands);
            match command {
                Ok(Command::Append(batch)) => self.append(batch),
                Ok(Command::Checkpoint { seq, payload, now, reply }) => {
                    let outcome = self.settle().and_then(|()| self.checkpoint(seq, &payload, &now));
                    let _ = reply.send(outcome);
                }
                Ok(Command::Nudge) | Err(RecvTimeoutError::Timeout) => {
                    if self.settle().is_ok() && self.shared.in_trouble() {
                        self.probe();
                    }
                    self.prune_some();
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            self.shared.set_stalled(false);
        }
        let _ = self.settle();
        if self.in_place().is_err() {
            // Closing removes the write-ahead log by its name, which is another journal's by now.
            std::mem::forget(self.conn);
        }
    }

    /// SQLite goes on writing to a file that was renamed or removed, and nobody would ever read it.
    fn in_place(&self) -> Result<(), AppendError> {
        match self.identity {
            Some(identity) if identity_of(&self.path) != Some(identity) => Err(AppendError::Gone(self.path.clone())),
            _ => Ok(()),
        }
    }

    /// Waits without a timer unless there is something left to do.
    fn next(&self, commands: &Receiver<Command>) -> Result<Command, RecvTimeoutError> {
        if self.shared.in_trouble() || self.shared.lock().owes() {
            commands.recv_timeout(RETRY)
        } else if self.prune.is_some() {
            commands.recv_timeout(Duration::ZERO)
        } else {
            commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
    }

    fn append(&mut self, batch: Batch) {
        if !batch.claim.begin() {
            return;
        }
        let outcome = self.settle().and_then(|()| self.commit(&[], &batch.rows));
        if let Some(range) = range(&batch.rows)
            && (!batch.claim.finish() || outcome.is_err())
        {
            // After an error the outcome is not certain either: a failed fsync may have left the commit in the file.
            self.shared.lock().retract.push(range);
            let _ = self.settle();
        }
        let _ = batch.reply.send(outcome);
    }

    /// Pays what is owed: facts that waited for the disk, and facts that must not stand.
    fn settle(&mut self) -> Result<(), AppendError> {
        loop {
            let (retract, rows) = {
                let inner = self.shared.lock();
                if !inner.owes() {
                    return Ok(());
                }
                (inner.retract.clone(), inner.backlog.iter().take(SLICE).cloned().collect::<Vec<_>>())
            };
            self.commit(&retract, &rows)?;
            {
                let mut inner = self.shared.lock();
                inner.backlog.drain(..rows.len());
                inner.retract.drain(..retract.len());
                if !inner.owes() {
                    // Under the lock: a fact that is spilled later must be queued behind this.
                    self.spill.clear();
                }
            }
            self.shared.publish(Trouble::Unchanged);
        }
    }

    /// One transaction.
    fn commit(&mut self, retract: &[Withdrawn], rows: &[Row]) -> Result<(), AppendError> {
        let outcome =
            self.in_place().and_then(|()| self.try_commit(retract, rows).map_err(|error| AppendError::from_sqlite(&self.path, &error)));
        match &outcome {
            Err(error) => self.shared.publish(Trouble::Is(error.to_string())),
            // Taking out what is not there writes nothing and proves nothing.
            Ok(()) if !rows.is_empty() => {
                // Before it is said that all is well: the next append must not be refused for what is over.
                self.shared.set_stalled(false);
                self.shared.publish(Trouble::Gone);
            }
            Ok(()) => {}
        }
        outcome
    }

    /// Writes something harmless, to learn whether the disk is back.
    fn probe(&mut self) {
        let statement = "UPDATE opening SET probes = probes + 1 WHERE origin = ?1";
        let written = self.in_place().and_then(|()| {
            self.conn.execute(statement, [self.shared.origin]).map_err(|error| AppendError::from_sqlite(&self.path, &error))
        });
        self.shared.publish(match written {
            Ok(_) => Trouble::Gone,
            Err(error) => Trouble::Is(error.to_string()),
        });
    }

    fn try_commit(&mut self, retract: &[Withdrawn], rows: &[Row]) -> rusqlite::Result<()> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        call(self.hook.as_ref(), Stage::Begun);
        for range in retract {
            take_out(&tx, range)?;
        }
        for row in rows {
            schema::insert(&tx, row)?;
        }
        call(self.hook.as_ref(), Stage::Filled);
        tx.commit()?;
        call(self.hook.as_ref(), Stage::Committed);
        Ok(())
    }

    fn checkpoint(&mut self, seq: u64, payload: &str, now: &Now) -> Result<(), AppendError> {
        self.in_place()?;
        self.try_checkpoint(seq, payload, now).map_err(|error| AppendError::from_sqlite(&self.path, &error))?;
        self.prune = Some(now.clone());
        Ok(())
    }

    fn try_checkpoint(&mut self, seq: u64, payload: &str, now: &Now) -> rusqlite::Result<()> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        call(self.hook.as_ref(), Stage::Begun);
        tx.execute(
            "INSERT OR REPLACE INTO checkpoint (seq, at, payload, crc) VALUES (?1, ?2, ?3, ?4)",
            params![seq as i64, nanos(now.wall), payload, checkpoint_crc(seq, payload)],
        )?;
        call(self.hook.as_ref(), Stage::Filled);
        // Two are kept: the older one is what recovery falls back to.
        tx.execute("DELETE FROM checkpoint WHERE seq NOT IN (SELECT seq FROM checkpoint ORDER BY seq DESC LIMIT 2)", [])?;
        tx.commit()?;
        call(self.hook.as_ref(), Stage::Committed);
        Ok(())
    }

    /// One slice; a failure waits for the next checkpoint.
    fn prune_some(&mut self) {
        let Some(now) = self.prune.take() else { return };
        match self.try_prune(&now) {
            Ok(pruned) if pruned == PRUNE as usize => self.prune = Some(now),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, path = %self.path.display(), "old facts were not pruned"),
        }
    }

    fn try_prune(&mut self, now: &Now) -> rusqlite::Result<usize> {
        let Some(covered) = self
            .conn
            .query_row("SELECT seq FROM checkpoint ORDER BY seq DESC LIMIT 1 OFFSET 1", [], |row| row.get::<_, i64>(0))
            .optional()?
        else {
            return Ok(0);
        };
        // A clock that is not synchronised cannot say what is old.
        let horizon = if now.synced { nanos(now.wall).saturating_sub(self.retention.loose.as_nanos() as i64) } else { i64::MIN };
        self.conn.execute(
            "DELETE FROM fact WHERE seq IN (
                SELECT seq FROM fact WHERE seq <= ?1 AND CASE WHEN run IS NULL THEN at < ?2 ELSE run NOT IN (
                    SELECT run FROM fact WHERE run IS NOT NULL GROUP BY run ORDER BY max(seq) DESC LIMIT ?3) END
                ORDER BY seq LIMIT ?4)",
            params![covered, horizon, self.retention.runs, PRUNE],
        )
    }
}

/// Device and inode of the file of that name.
pub(super) fn identity_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Removes facts that must not stand.
pub(super) fn take_out(conn: &Connection, range: &Withdrawn) -> rusqlite::Result<usize> {
    conn.prepare_cached("DELETE FROM fact WHERE seq BETWEEN ?1 AND ?2 AND origin = ?3 AND proposed IS NULL")?.execute(params![
        range.first as i64,
        range.last as i64,
        range.origin
    ])
}

/// CRC-32 of a checkpoint.
pub(super) fn checkpoint_crc(seq: u64, payload: &str) -> i64 {
    let mut crc = flate2::Crc::new();
    crc.update(&seq.to_le_bytes());
    crc.update(payload.as_bytes());
    i64::from(crc.sum())
}

/// What a batch covers; `None` for an empty one.
pub(super) fn range(rows: &[Row]) -> Option<Withdrawn> {
    Some(Withdrawn { origin: rows.first()?.origin, first: rows.first()?.fact.seq, last: rows.last()?.fact.seq })
}

fn call(hook: Option<&Hook>, stage: Stage) {
    if let Some(Hook(hook)) = hook {
        hook(stage);
    }
}
