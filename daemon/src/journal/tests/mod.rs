//! On real databases in temporary directories.

mod append;
mod corrupt;
mod crash;
mod degraded;
mod disk;
mod keeping;
mod versions;

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

    /// In memory where there is such a place, so that a busy disk does not disturb what is about time.
    pub(super) fn fast() -> Self {
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return Self::new() };
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

/// A mount that ends with the test.
pub(super) struct Mount(std::path::PathBuf);

impl Mount {
    /// A tmpfs of this size. `None`, said in one line, where this process may not mount.
    pub(super) fn tmpfs(at: &std::path::Path, size: &str) -> Option<Self> {
        use nix::mount::{MsFlags, mount};
        std::fs::create_dir_all(at).unwrap();
        match mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(format!("size={size}").as_str())) {
            Ok(()) => Some(Self(at.to_owned())),
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "CI may mount: {error}");
                eprintln!("not checked, this process may not mount a tmpfs: {error}");
                None
            }
        }
    }

    /// From now on read-only, or not.
    pub(super) fn remount(&self, read_only: bool) {
        use nix::mount::{MsFlags, mount};
        let flags = if read_only { MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY } else { MsFlags::MS_REMOUNT };
        mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Waits until the journal says that all is well.
pub(super) async fn well(journal: &super::Journal) {
    let mut health = journal.health();
    let well = health.wait_for(|health| health.trouble.is_none() && health.backlog == 0);
    tokio::time::timeout(Duration::from_secs(20), well).await.unwrap().unwrap();
}
