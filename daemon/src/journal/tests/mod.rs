//! On real databases in temporary directories.

mod append;

use std::time::Duration;

use tempfile::TempDir;

use super::{Opened, Options, Record, open};
use crate::site::{Now, RunId};

pub(super) fn now() -> Now {
    Now { wall: "2026-03-01T12:00:00Z".parse().unwrap(), boot: Duration::from_mins(1), boot_id: "b0".into(), synced: true }
}

pub(super) fn record(kind: &str, run: Option<&str>, n: u64) -> Record {
    Record { kind: kind.into(), version: 1, run: run.map(RunId::from), payload: format!("{{\"n\":{n}}}") }
}

/// A state directory and a runtime directory.
pub(super) struct Place(TempDir);

impl Place {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        Self(dir)
    }

    pub(super) fn dir(&self) -> std::path::PathBuf {
        self.0.path().join("state")
    }

    pub(super) fn spill(&self) -> std::path::PathBuf {
        self.0.path().join("run/spill.jsonl")
    }

    pub(super) fn options(&self) -> Options {
        Options::new(self.dir(), self.spill())
    }

    pub(super) fn open(&self) -> Opened {
        open(self.options(), &now()).unwrap()
    }
}

/// Numbers in the payloads.
pub(super) fn numbers(facts: &[super::Stored]) -> Vec<u64> {
    facts.iter().map(|fact| fact.payload.trim_start_matches("{\"n\":").trim_end_matches('}').parse().unwrap()).collect()
}
