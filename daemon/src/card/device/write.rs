//! Writes a card: ends cleared, body, read back, table last. Two writers keep the device busy while the other one hashes.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::chunk::{CHUNK, Chunk, Phase, range, total};
use super::fault::{Fault, FaultKind};
use super::link::{Filled, Link};
use super::medium::{Buffer, Guarded};
use super::protocol::{Milestone, Reply, Summary};

/// Requests in flight: more gains nothing and drowns readers with small queues.
const DEPTH: usize = 2;
/// A chunk is written and read back this often before the card is given up.
const TRIES: u32 = 3;
/// More bad chunks than this are a bad card, not a bad moment.
const MAX_BAD: usize = 16;
/// Between two reports of progress.
const TICK: Duration = Duration::from_millis(250);
/// Where the page cache is in the way, this much may wait in it.
const FLUSH_EVERY: u64 = 64 << 20;

/// Sees each milestone before the burn goes on.
pub(super) type Watch<'a> = &'a (dyn Fn(Milestone) + Sync);

/// What is in the first and last MiB of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// What was there before.
    Old,
    /// Zeros: no partition table, no spare GPT.
    Cleared,
    /// More or less of the new card.
    Written,
}

/// A burn under way.
pub(super) struct Burn<'a> {
    target: &'a Guarded,
    chunks: &'a [Chunk],
    link: &'a Link,
    watch: Watch<'a>,
    ends: Ends,
    hashes: Vec<Mutex<[u8; 32]>>,
    progress: Mutex<Done>,
    summary: Summary,
}

/// Bytes that a reader of the medium would find, and those that were read back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Done {
    written: u64,
    flushed: u64,
    verified: u64,
    told: (u64, u64),
}

/// What the workers of one pass share: each claims a piece of work, until none is left or there is a reason to stop.
struct Pass<'a> {
    link: &'a Link,
    work: usize,
    claimed: AtomicUsize,
    failed: OnceLock<Fault>,
}

impl<'a> Pass<'a> {
    fn new(work: usize, link: &'a Link) -> Self {
        Self { link, work, claimed: AtomicUsize::new(0), failed: OnceLock::new() }
    }

    fn claim(&self) -> Option<usize> {
        let number = self.claimed.fetch_add(1, Ordering::SeqCst);
        (number < self.work && !self.stopped()).then_some(number)
    }

    fn stopped(&self) -> bool {
        self.failed.get().is_some() || self.link.stopped().is_some()
    }

    /// The next chunk from the daemon, however long it takes.
    fn next(&self) -> Option<Filled> {
        while !self.stopped() {
            if let Some(filled) = self.link.next(TICK) {
                return Some(filled);
            }
        }
        None
    }

    fn fail(&self, fault: Fault) {
        // The first one is the cause, the rest follow from it.
        let _ = self.failed.set(fault);
    }

    fn result(self) -> Result<(), Fault> {
        self.failed.into_inner().or_else(|| self.link.stopped()).map_or(Ok(()), Err)
    }
}

impl<'a> Burn<'a> {
    /// Nothing is written yet.
    pub fn new(target: &'a Guarded, chunks: &'a [Chunk], link: &'a Link, watch: Watch<'a>) -> Self {
        let summary = Summary {
            device: target.medium.path.clone(),
            serial: target.device.serial.clone(),
            bytes: total(chunks),
            direct: target.medium.direct,
            ..Summary::default()
        };
        let hashes = chunks.iter().map(|_| Mutex::default()).collect();
        Self { target, chunks, link, watch, ends: Ends::Old, hashes, progress: Mutex::default(), summary }
    }

    /// Writes the whole card. After a fault both ends are cleared again as far as the medium lets us.
    pub fn run(mut self) -> Result<Summary, Fault> {
        self.phases().map_err(|mut fault| {
            let cleared = self.target.medium.clear_ends().is_ok();
            fault.message.push_str(match self.ends {
                _ if cleared => " (the card was left without a partition table)",
                Ends::Cleared => " (the card has no partition table)",
                Ends::Old => " (the card may still hold its old content)",
                Ends::Written => " (and its partition table could not be cleared again: do not boot from it)",
            });
            fault
        })?;
        Ok(self.summary)
    }

    fn phases(&mut self) -> Result<(), Fault> {
        let started = Instant::now();
        self.target.medium.clear_ends()?;
        self.ends = Ends::Cleared;
        self.summary.write_ms += millis(started);
        self.phase(Phase::Body)?;
        self.ends = Ends::Written;
        for phase in [Phase::Tail, Phase::Boot, Phase::Table] {
            self.phase(phase)?;
        }
        self.reached(Milestone::TableWritten);
        // A burn that nobody hears the end of is recorded as failed, and a failed card has no table.
        if let Some(fault) = self.link.stopped() {
            return Err(fault);
        }
        self.summary.warnings.extend(self.target.medium.reread_table());
        if !self.summary.direct {
            let path = self.target.medium.path.display();
            self.summary
                .warnings
                .push(format!("{path} allows no direct access; it was flushed and dropped from the cache before reading back"));
        }
        Ok(())
    }

    fn phase(&mut self, phase: Phase) -> Result<(), Fault> {
        let chunks = range(self.chunks, phase);
        let started = Instant::now();
        self.write(chunks.clone())?;
        self.summary.write_ms += millis(started);
        if phase == Phase::Body {
            self.reached(Milestone::BodyWritten);
        }
        let started = Instant::now();
        let result = self.verify(chunks);
        self.summary.verify_ms += millis(started);
        result?;
        if phase == Phase::Body {
            self.reached(Milestone::BodyVerified);
        }
        Ok(())
    }

    fn reached(&self, milestone: Milestone) {
        (self.watch)(milestone);
        self.link.send(&Reply::Milestone(milestone));
    }

    /// Asks for chunks, writes them as they come, returns when they are on the medium.
    fn write(&self, chunks: Range<usize>) -> Result<(), Fault> {
        if chunks.is_empty() {
            return Ok(());
        }
        self.link.send(&Reply::Send { from: chunks.start as u32, to: chunks.end as u32 });
        let came: Vec<_> = chunks.clone().map(|_| AtomicUsize::new(0)).collect();
        let pass = Pass::new(chunks.len(), self.link);
        self.work(&pass, || {
            while pass.claim().is_some() {
                let Some(filled) = pass.next() else { break };
                let first = chunks.contains(&filled.index) && came[filled.index - chunks.start].fetch_add(1, Ordering::SeqCst) == 0;
                let written = if first { self.write_chunk(filled) } else { Err(unasked(filled.index)) };
                written.unwrap_or_else(|fault| pass.fail(fault));
            }
        });
        pass.result()?;
        self.target.medium.flush()?;
        self.update(|done| done.flushed = done.written);
        self.tell();
        Ok(())
    }

    fn write_chunk(&self, mut filled: Filled) -> Result<(), Fault> {
        let Chunk { offset, len, .. } = self.chunks[filled.index];
        *held(&self.hashes[filled.index]) = hash(filled.buffer.bytes_mut(len));
        let written = self.target.medium.write(&mut filled.buffer, len, offset);
        self.link.recycle(filled.buffer);
        self.update(|done| done.written += len as u64);
        written
    }

    /// Reads chunks back and compares; those that differ are written and read again.
    fn verify(&mut self, chunks: Range<usize>) -> Result<(), Fault> {
        let verified = held(&self.progress).verified;
        let mut bad = self.read_back(&chunks.clone().collect::<Vec<_>>())?;
        for tries in 2..=TRIES {
            if bad.is_empty() || bad.len() > MAX_BAD {
                break;
            }
            let again: Vec<_> = bad.iter().map(|(index, _)| *index).collect();
            self.summary.rewritten += again.len() as u32;
            for index in &again {
                self.update(|done| done.written -= self.chunks[*index].len as u64);
                self.write(*index..index + 1)?;
            }
            tracing::warn!(tries, chunks = again.len(), "read back wrong; written again");
            bad = self.read_back(&again)?;
        }
        let Some((index, why)) = bad.iter().min() else {
            let bytes = total(&self.chunks[chunks]);
            self.update(|done| done.verified = verified + bytes);
            self.tell();
            return Ok(());
        };
        let tries = if bad.len() > MAX_BAD { 1 } else { TRIES };
        let path = self.target.medium.path.display().to_string();
        Err(Fault::verify(&path, self.chunks[*index].offset, bad.len(), tries, why))
    }

    /// The chunks that are not on the medium as they were written, and why.
    fn read_back(&self, indices: &[usize]) -> Result<Vec<(usize, String)>, Fault> {
        self.target.medium.drop_cache()?;
        let pass = Pass::new(indices.len(), self.link);
        let bad = Mutex::new(Vec::new());
        self.work(&pass, || {
            let mut buffer = Buffer::new(CHUNK as usize);
            // A card that lies about its size is not read to its end.
            while held(&bad).len() <= MAX_BAD
                && let Some(number) = pass.claim()
            {
                let index = indices[number];
                let Chunk { offset, len, .. } = self.chunks[index];
                match self.target.medium.read(&mut buffer, len, offset).map(hash) {
                    Ok(hash) if hash == *held(&self.hashes[index]) => self.update(|done| done.verified += len as u64),
                    Ok(_) => held(&bad).push((index, "what was read back is not what was written".to_owned())),
                    Err(fault) if fault.kind == FaultKind::Gone => pass.fail(fault),
                    Err(fault) => held(&bad).push((index, fault.message)),
                }
            }
        });
        pass.result()?;
        Ok(bad.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `worker` [`DEPTH`] times at once and reports progress until all have returned.
    fn work(&self, pass: &Pass<'_>, worker: impl Fn() + Sync) {
        let (running, ended) = channel::<()>();
        thread::scope(|scope| {
            for _ in 0..DEPTH {
                let (running, worker) = (running.clone(), &worker);
                scope.spawn(move || {
                    worker();
                    drop(running);
                });
            }
            drop(running);
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if let Err(fault) = self.flush_some() {
                    pass.fail(fault);
                }
                self.tell();
            }
        });
    }

    /// Bytes in the page cache are not on the medium and do not count.
    fn flush_some(&self) -> Result<(), Fault> {
        let done = *held(&self.progress);
        if !self.summary.direct && done.written.saturating_sub(done.flushed) >= FLUSH_EVERY {
            self.target.medium.flush()?;
            self.update(|now| now.flushed = done.written);
        }
        Ok(())
    }

    fn update(&self, change: impl FnOnce(&mut Done)) {
        change(&mut held(&self.progress));
    }

    fn tell(&self) {
        let mut done = held(&self.progress);
        let written = if self.summary.direct { done.written } else { done.flushed };
        if done.told != (written, done.verified) {
            done.told = (written, done.verified);
            let verified = done.verified;
            drop(done);
            self.link.send(&Reply::Progress { written, verified, total: self.summary.bytes });
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn unasked(index: usize) -> Fault {
    Fault::new(FaultKind::Protocol, format!("the daemon sent chunk {index}, which was not asked for"))
}

fn millis(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}
