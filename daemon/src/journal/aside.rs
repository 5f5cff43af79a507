//! Keeps what cannot be used: renamed, never deleted, never overwritten.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::site::Now;

/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["", "-wal", "-shm"];

/// Renames a database and its companions to `<name>.corrupt-<utc>`, so that `sqlite3` opens them together under the new name.
pub(super) fn set_aside(database: &Path, now: &Now) -> io::Result<PathBuf> {
    let target = free_name(database, "corrupt", now)?;
    for suffix in COMPANIONS {
        match fs::rename(with_suffix(database, suffix), with_suffix(&target, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_parent(database)?;
    Ok(target)
}

/// `<path>.<word>-<utc>[-n]` such that no file of that name exists.
pub(super) fn free_name(path: &Path, word: &str, now: &Now) -> io::Result<PathBuf> {
    let stem = with_suffix(path, &format!(".{word}-{}", now.wall.strftime("%Y%m%dT%H%M%SZ")));
    for n in 1..1000 {
        let name = if n == 1 { stem.clone() } else { with_suffix(&stem, &format!("-{n}")) };
        if COMPANIONS.iter().all(|suffix| fs::symlink_metadata(with_suffix(&name, suffix)).is_err()) {
            return Ok(name);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} and 999 more exist: remove some", stem.display())))
}

/// The path with something appended to its last component.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes creations and renames in the directory of `path` survive a power cut.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
