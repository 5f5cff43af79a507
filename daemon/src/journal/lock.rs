//! One instance per state directory: flock(2), which the kernel releases however the process ends.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::OpenError;

/// Held for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Option<Flock<File>>,
}

/// Takes `<dir>/lock`; where that cannot be opened (read-only or full), `<fallback>/lock`; where neither can, none, and says so.
///
/// # Errors
/// [`OpenError::Held`].
pub(super) fn acquire(dir: &Path, fallback: Option<&Path>) -> Result<(Lock, Option<String>), OpenError> {
    let mut why = String::new();
    for dir in [Some(dir), fallback].into_iter().flatten() {
        let path = dir.join("lock");
        match open(&path).map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
            Ok(Ok(mut file)) => {
                record_pid(&mut file);
                let problem = (!why.is_empty()).then(|| format!("locked {} instead: {why}", path.display()));
                return Ok((Lock { _file: Some(file) }, problem));
            }
            Ok(Err((mut file, nix::errno::Errno::EWOULDBLOCK))) => return Err(OpenError::Held { path, pid: read_pid(&mut file) }),
            Ok(Err((_, error))) => why = format!("{}: {error}", path.display()),
            Err(error) => why = format!("{}: {error}", path.display()),
        }
    }
    Ok((Lock { _file: None }, Some(format!("the state directory cannot be locked, a second metisd would not be noticed: {why}"))))
}

/// flock needs no write access, so a read-only directory with a lock file in it is locked all the same.
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .or_else(|error| File::open(path).map_err(|_| error))
}

/// Best effort: the lock is the flock, the number is for people.
fn record_pid(file: &mut File) {
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
