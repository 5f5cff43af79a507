//! Who writes a card: the daemon (a block device) or this client (a file), and the guards of a file.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::errors::CtlError;
use crate::human;
use crate::view::plan::GuardView;

/// Where a card goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A block device of the daemon's host.
    Device(String),
    /// A regular file of the caller's, or one to be made.
    File(PathBuf),
}

/// Tells a device from a file by `stat`. A missing path below /dev is a device: a regular file made there would look like one.
pub fn classify(path: &Path) -> Result<Target, CtlError> {
    let device = || path.to_str().map(|p| Target::Device(p.to_owned())).ok_or_else(|| usage(path, "has a name that is not UTF-8"));
    match std::fs::metadata(path) {
        Ok(m) if m.is_file() => Ok(Target::File(path.to_owned())),
        Ok(m) if m.file_type().is_block_device() => device(),
        Ok(m) => Err(usage(path, kind(&m))),
        Err(e) if e.kind() == ErrorKind::NotFound && below_dev(path) => device(),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Target::File(path.to_owned())),
        Err(e) => Err(CtlError::Other(anyhow::Error::new(e).context(format!("cannot look at {}", path.display())))),
    }
}

/// What `image --output` would replace.
pub fn check_output(path: &Path) -> Result<(), CtlError> {
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.is_file() => Ok(()),
        Ok(m) if m.file_type().is_block_device() => Err(usage(path, "is a block device: use metisctl burn")),
        Ok(m) if m.is_symlink() => Err(usage(path, "is a symbolic link, which would be replaced: name the file itself")),
        Ok(m) => Err(usage(path, kind(&m))),
        Err(e) if e.kind() == ErrorKind::NotFound => match path.file_name() {
            Some(_) => Ok(()),
            None => Err(usage(path, "is not the name of a file")),
        },
        Err(e) => Err(CtlError::Other(anyhow::Error::new(e).context(format!("cannot look at {}", path.display())))),
    }
}

fn usage(path: &Path, what: &str) -> CtlError {
    CtlError::Usage(format!("{} {what}", path.display()))
}

fn kind(m: &Metadata) -> &'static str {
    if m.is_dir() { "is a directory: name a file in it, or a block device" } else { "is neither a block device nor a regular file" }
}

fn below_dev(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

/// Guards of an existing file that is to be overwritten in place by an image of `size` bytes; all that fail.
pub fn file_guards(path: &Path, size: u64) -> Result<Vec<GuardView>, CtlError> {
    let len = match std::fs::metadata(path) {
        Ok(m) => m.len(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(CtlError::Other(anyhow::Error::new(e).context(format!("cannot look at {}", path.display())))),
    };
    let mut guards = Vec::new();
    if len < size {
        let message = format!(
            "{} has {}, the image needs {}: enlarge it (`truncate -s {size}`) or remove it to have it made",
            path.display(),
            human::bytes(len),
            human::bytes(size)
        );
        guards.push(GuardView { name: "file.too-small".into(), message, waiver: None });
    }
    if let Some(device) = loop_device(path)? {
        let message = format!("{} is attached to {device}: detach it with `losetup -d {device}`", path.display());
        guards.push(GuardView { name: "file.loop-attached".into(), message, waiver: None });
    }
    Ok(guards)
}

fn loop_device(path: &Path) -> Result<Option<String>, CtlError> {
    let path = path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))?;
    let Ok(blocks) = std::fs::read_dir("/sys/block") else { return Ok(None) };
    for block in blocks.flatten() {
        let backing = std::fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim_end_matches('\n')) == path {
            return Ok(Some(format!("/dev/{}", block.file_name().to_string_lossy())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("card.img");
        assert_eq!(classify(&file).unwrap(), Target::File(file.clone()), "to be made");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(classify(&file).unwrap(), Target::File(file.clone()), "exists");
        assert_eq!(classify(Path::new("/dev/metis-no-such-disk")).unwrap(), Target::Device("/dev/metis-no-such-disk".into()));
        assert_eq!(classify(Path::new("/dev/shm/metis-no-such-file")).unwrap(), Target::File("/dev/shm/metis-no-such-file".into()));
        assert!(matches!(classify(Path::new("/dev/null")), Err(CtlError::Usage(m)) if m.contains("neither")));
        assert!(matches!(classify(dir.path()), Err(CtlError::Usage(m)) if m.contains("directory")));
    }

    #[test]
    fn an_output_never_replaces_what_is_not_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(check_output(&dir.path().join("new.img")).is_ok());
        for bad in [dir.path(), &link, Path::new("/dev/null"), Path::new("..")] {
            assert!(matches!(check_output(bad), Err(CtlError::Usage(_))), "{}", bad.display());
        }
    }

    #[test]
    fn a_small_file_is_refused_with_both_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("card.img");
        std::fs::write(&file, [0; 512]).unwrap();
        assert_eq!(file_guards(&file, 512).unwrap(), []);
        assert_eq!(file_guards(&dir.path().join("none"), 512).unwrap(), []);
        let guards = file_guards(&file, 4096).unwrap();
        assert_eq!(guards.len(), 1);
        assert_eq!(guards[0].name, "file.too-small");
        assert!(guards[0].message.contains("has 512 B, the image needs 4.10 kB"));
    }
}
