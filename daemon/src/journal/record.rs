//! What goes into the journal and what comes out.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::site::{BootId, Now, RunId};

/// A fact to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What kind of fact, e.g. `run.admitted`.
    pub kind: String,
    /// Version of the payload's form, by kind.
    pub version: u16,
    /// The run to which it belongs.
    pub run: Option<RunId>,
    /// JSON. Never a secret, never large: those are [`crate::site::SecretRef`]s and blobs.
    pub payload: String,
}

/// A fact with its place in the sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its place; only grows, gaps are possible.
    pub seq: u64,
    /// Wall-clock time at which it was appended.
    pub at: Timestamp,
    /// Time since boot at which it was appended.
    pub since_boot: Duration,
    /// The boot in which it was appended.
    pub boot_id: BootId,
    /// Whether the wall clock was synchronised.
    pub synced: bool,
    /// See [`Record::kind`].
    pub kind: String,
    /// See [`Record::version`].
    pub version: u16,
    /// See [`Record::run`].
    pub run: Option<RunId>,
    /// See [`Record::payload`].
    pub payload: String,
}

impl Stored {
    /// The moment at which it was appended.
    pub fn now(&self) -> Now {
        Now { wall: self.at, boot: self.since_boot, boot_id: self.boot_id.clone(), synced: self.synced }
    }

    pub(super) fn new(seq: u64, record: Record, now: &Now) -> Self {
        Self {
            seq,
            at: now.wall,
            since_boot: now.boot,
            boot_id: now.boot_id.clone(),
            synced: now.synced,
            kind: record.kind,
            version: record.version,
            run: record.run,
            payload: record.payload,
        }
    }

    /// CRC-32 over every field: SQLite does not notice a bit that flips within a value.
    pub(super) fn checksum(&self) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(&self.seq.to_le_bytes());
        crc.update(&nanos(self.at).to_le_bytes());
        crc.update(&(self.since_boot.as_nanos() as u64).to_le_bytes());
        crc.update(&[u8::from(self.synced)]);
        crc.update(&self.version.to_le_bytes());
        for text in [self.boot_id.as_str(), &self.kind, self.run.as_ref().map_or("", RunId::as_str), &self.payload] {
            crc.update(&(text.len() as u64).to_le_bytes());
            crc.update(text.as_bytes());
        }
        crc.sum()
    }
}

/// Nanoseconds since the epoch; a time that i64 cannot hold (before 1678, after 2261) is clamped.
pub(super) fn nanos(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(if at < Timestamp::UNIX_EPOCH { i64::MIN } else { i64::MAX })
}

/// A fact and the journal instance that numbered it. Both together tell whether a spilled fact is already in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub origin: i64,
    /// The number it had when it was spilled, where another fact holds that number in the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposed: Option<u64>,
    #[serde(flatten)]
    pub fact: Stored,
}

impl Row {
    /// Origin and number at the time it was made: what tells it from every other.
    pub(super) fn id(&self) -> (i64, u64) {
        (self.origin, self.proposed.unwrap_or(self.fact.seq))
    }
}

/// Facts of one origin that must not stand: their caller was told that they were not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Withdrawn {
    pub origin: i64,
    pub first: u64,
    pub last: u64,
}

impl Withdrawn {
    pub(super) fn covers(&self, row: &Row) -> bool {
        self.origin == row.origin && row.proposed.is_none() && (self.first..=self.last).contains(&row.fact.seq)
    }
}
