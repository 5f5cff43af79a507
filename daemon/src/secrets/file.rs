//! Files that hold secrets: checked, then read into one buffer that is wiped.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{getegid, geteuid, getgroups};
use zeroize::Zeroizing;

use super::{MAX_SIZE, SecretError};
use crate::site::Secret;

/// As path_resolution(7).
const MAX_LINKS: u32 = 40;

/// Reads a file that a person made.
pub(super) fn read(path: &Path) -> Result<Secret, SecretError> {
    if !path.is_absolute() {
        return Err(SecretError::Unusable { path: path.to_owned(), why: "the path must be absolute" });
    }
    check_way(path, &mut 0)?;
    let (file, meta) = open(path)?;
    check_rights(path, &meta)?;
    content(path, file, &meta)
}

/// Reads a file that systemd made: where it grants access by an ACL, the group bits are the ACL's mask and say nothing of a group.
pub(super) fn read_credential(path: &Path, name: &str) -> Result<Secret, SecretError> {
    let (file, meta) = match open(path) {
        Err(SecretError::Missing(_)) => return Err(SecretError::NoCredentials(name.to_owned())),
        other => other?,
    };
    if meta.mode() & 0o027 != 0 || !is_trusted(meta.uid()) {
        return Err(refused(
            path,
            format!("its mode is {:04o}, its owner uid {}", meta.mode() & 0o7777, meta.uid()),
            "let systemd make it",
        ));
    }
    content(path, file, &meta)
}

/// Not blocked by a FIFO, and the checks are about what was opened, not about what has the name by then.
fn open(path: &Path) -> Result<(File, Metadata), SecretError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY)
        .open(path)
        .map_err(|source| failed(path, source))?;
    let meta = file.metadata().map_err(|source| failed(path, source))?;
    if !meta.is_file() {
        return Err(SecretError::Unusable { path: path.to_owned(), why: "it is not a regular file" });
    }
    Ok((file, meta))
}

fn check_rights(path: &Path, meta: &Metadata) -> Result<(), SecretError> {
    let mode = meta.mode() & 0o7777;
    if !is_trusted(meta.uid()) {
        let fix = format!("chown root {}", path.display());
        return Err(refused(path, format!("its owner is uid {}, neither root nor this user", meta.uid()), fix));
    }
    let group_reads = mode & 0o040 != 0;
    if mode & 0o037 != 0 || (group_reads && !is_member(meta.gid())) {
        let who = if mode & 0o007 != 0 { "everybody".to_owned() } else { format!("the group {}", meta.gid()) };
        return Err(refused(path, format!("its mode is {mode:04o}, {who} has access"), format!("chmod 0600 {}", path.display())));
    }
    Ok(())
}

/// Walks the path and every link in it: nobody else may be able to put another file in its place.
fn check_way(path: &Path, links: &mut u32) -> Result<(), SecretError> {
    let mut way = PathBuf::new();
    for component in path.components() {
        way.push(component);
        if component == Component::ParentDir {
            // Behind a link, `a/..` is not where the text says.
            way = fs::canonicalize(&way).map_err(|source| failed(&way, source))?;
        }
        let meta = fs::symlink_metadata(&way).map_err(|source| failed(&way, source))?;
        if !is_trusted(meta.uid()) {
            return Err(refused(
                &way,
                format!("its owner is uid {}, neither root nor this user", meta.uid()),
                format!("chown -h root {}", way.display()),
            ));
        }
        if meta.is_symlink() {
            *links += 1;
            if *links > MAX_LINKS {
                return Err(failed(&way, io::Error::from_raw_os_error(nix::libc::ELOOP)));
            }
            let target = fs::read_link(&way).map_err(|source| failed(&way, source))?;
            check_way(&way.parent().unwrap_or(Path::new("/")).join(target), links)?;
        } else if meta.is_dir() && meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0 {
            return Err(refused(
                &way,
                format!("others can write to this directory (mode {:04o})", meta.mode() & 0o7777),
                format!("chmod go-w {}", way.display()),
            ));
        }
    }
    Ok(())
}

/// One buffer of the right size: a buffer that grows leaves copies behind.
fn content(path: &Path, mut file: File, meta: &Metadata) -> Result<Secret, SecretError> {
    let unusable = |why| Err(SecretError::Unusable { path: path.to_owned(), why });
    if meta.len() > MAX_SIZE {
        return unusable("it is larger than 1 MiB");
    }
    let length = meta.len() as usize;
    let mut buffer = Zeroizing::new(vec![0; length + 1]);
    let mut filled = 0;
    while filled <= length {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(failed(path, source)),
        }
    }
    match filled {
        0 => unusable("it is empty"),
        filled if filled != length => unusable("it changed while it was read; try again"),
        _ => {
            buffer.truncate(length);
            Ok(Secret::new(std::mem::take(&mut *buffer)))
        }
    }
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

fn is_member(gid: u32) -> bool {
    getegid().as_raw() == gid || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
}

fn refused(path: &Path, why: String, fix: impl Into<String>) -> SecretError {
    SecretError::Unsafe { path: path.to_owned(), why, fix: fix.into() }
}

fn failed(path: &Path, source: io::Error) -> SecretError {
    match source.kind() {
        io::ErrorKind::NotFound => SecretError::Missing(path.to_owned()),
        _ => SecretError::Io { path: path.to_owned(), source },
    }
}
