//! The file that an image is written to, with this process' rights.
//!
//! Bytes below 1 MiB (partition table, boot sector) are held back and written last, after all others were read back from the medium
//! against the daemon's digest: a file that was given up never has a partition table.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise};
use sha2::{Digest as _, Sha256};

use crate::errors::CtlError;
use crate::target;
use crate::view::plan::GuardView;

/// Where the held-back head ends.
pub const HEAD: u64 = 1 << 20;
/// Dirty bytes before they are made durable, so that progress is the medium's.
const SYNC_EVERY: u64 = 32 << 20;
const READ_BYTES: usize = 1 << 20;

/// What the file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A new file that appears complete or not at all.
    Image,
    /// A file that stands in for a card: written in place.
    Card,
}

/// How far it is; bytes that are durable, and read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Written and synced.
    pub written: u64,
    /// Read back.
    pub verified: u64,
}

/// A file being written. Dropped unfinished, it is removed ([`Purpose::Image`]) or loses its partition table ([`Purpose::Card`]).
pub struct ImageFile<'a> {
    file: File,
    path: PathBuf,
    purpose: Purpose,
    size: u64,
    head: Vec<(u64, Vec<u8>)>,
    body: Vec<(u64, u64)>,
    dirty: u64,
    done: Done,
    finished: bool,
    cancel: &'a AtomicBool,
}

impl<'a> ImageFile<'a> {
    /// Opens `path` (for an image: `path`.part) for an image of `size` bytes. `cancel` makes every later call fail.
    ///
    /// # Errors
    /// Guards of an existing card file; anything the file system says.
    pub fn open(path: &Path, purpose: Purpose, size: u64, cancel: &'a AtomicBool) -> Result<Self, CtlError> {
        let (file, created) = match purpose {
            Purpose::Image => (open_part(&part(path))?, true),
            Purpose::Card => open_card(path, size)?,
        };
        if created {
            file.set_len(size).with_context(|| format!("cannot make {} {size} bytes long", path.display()))?;
        }
        let mut opened = Self {
            file,
            path: path.to_owned(),
            purpose,
            size,
            head: Vec::new(),
            body: Vec::new(),
            dirty: 0,
            done: Done::default(),
            finished: false,
            cancel,
        };
        if !created {
            opened.invalidate()?;
        }
        Ok(opened)
    }

    /// Takes a piece of the image.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> anyhow::Result<Done> {
        self.check_cancel()?;
        let len = data.len() as u64;
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        ensure!(end.is_some(), "the daemon sent {len} bytes at {offset}, past the end of the image ({} bytes)", self.size);
        let (head, body) = data.split_at(HEAD.saturating_sub(offset).min(len) as usize);
        if !head.is_empty() {
            self.head.push((offset, head.to_vec()));
        }
        if !body.is_empty() {
            let at = offset + head.len() as u64;
            self.file.write_all_at(body, at).with_context(|| self.failed("write", at))?;
            self.body.push((at, body.len() as u64));
            self.dirty += body.len() as u64;
        }
        if self.dirty >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(self.done)
    }

    /// Makes what was written durable.
    pub fn sync(&mut self) -> anyhow::Result<Done> {
        self.file.sync_data().with_context(|| format!("cannot sync {}", self.path.display()))?;
        self.done.written += self.dirty;
        self.dirty = 0;
        Ok(self.done)
    }

    /// Verifies against the SHA-256 (hex) of all pieces in ascending order, `total` bytes, then writes the head and lets the file
    /// appear. Returns where it is. After an error [`ImageFile::abandon`] it.
    pub fn finish(&mut self, sha256: &str, total: u64, report: &mut dyn FnMut(Done)) -> anyhow::Result<PathBuf> {
        report(self.sync()?);
        self.arrange(total)?;
        let found = self.digest(report)?;
        ensure!(
            found == sha256.to_ascii_lowercase(),
            "{}: what was read back is not what the daemon sent (SHA-256 {found}, expected {sha256}): the medium may be failing; try another",
            self.path.display()
        );
        self.write_head()?;
        self.check_cancel()?;
        if self.purpose == Purpose::Image {
            self.file.sync_all().with_context(|| format!("cannot sync {}", self.path.display()))?;
            std::fs::rename(part(&self.path), &self.path).with_context(|| format!("cannot rename to {}", self.path.display()))?;
            self.finished = true;
            sync_directory(&self.path)?;
        }
        self.finished = true;
        self.done.written = total;
        self.done.verified = total;
        report(self.done);
        Ok(self.path.clone())
    }

    /// Gives the file up; says what became of it.
    pub fn abandon(mut self) -> String {
        let path = self.path.display().to_string();
        let given_up = self.give_up();
        match (self.purpose, given_up) {
            (Purpose::Image, Ok(())) => format!("{path} was not made; the partial file is removed"),
            (Purpose::Image, Err(e)) => format!("{path} was not made; the partial file {path}.part could not be removed ({e}): remove it"),
            (Purpose::Card, Ok(())) => format!("{path} has no partition table: it is not a valid card"),
            (Purpose::Card, Err(e)) => format!("{path} is not a valid card, and its first MiB could not be cleared ({e}): do not use it"),
        }
    }

    fn give_up(&mut self) -> anyhow::Result<()> {
        self.finished = true;
        match self.purpose {
            Purpose::Image => Ok(std::fs::remove_file(part(&self.path))?),
            Purpose::Card => self.invalidate(),
        }
    }

    /// Clears both places where a partition table may be: the first MiB, and the last of image and file (backup GPT).
    fn invalidate(&mut self) -> anyhow::Result<()> {
        let len = self.file.metadata()?.len();
        for end in [HEAD, self.size, len] {
            let start = end.saturating_sub(HEAD);
            clear(&self.file, start, end.min(len).saturating_sub(start)).with_context(|| self.failed("clear", start))?;
        }
        self.file.sync_data().with_context(|| format!("cannot sync {}", self.path.display()))
    }

    /// Sorts the pieces; fails where they overlap or do not add up.
    fn arrange(&mut self, total: u64) -> anyhow::Result<()> {
        self.head.sort_by_key(|(offset, _)| *offset);
        self.body.sort_unstable();
        let pieces = self.head.iter().map(|(offset, data)| (*offset, data.len() as u64)).chain(self.body.iter().copied());
        let (mut end, mut sum) = (0, 0);
        for (offset, len) in pieces {
            ensure!(offset >= end, "the daemon sent the bytes at {offset} twice");
            end = offset + len;
            sum += len;
        }
        ensure!(sum == total, "the daemon sent {sum} bytes of {total}");
        Ok(())
    }

    /// SHA-256 of the head as held and the body as the medium has it.
    fn digest(&mut self, report: &mut dyn FnMut(Done)) -> anyhow::Result<String> {
        drop_cache(&self.file)?;
        let mut hash = Sha256::new();
        for (_, data) in &self.head {
            hash.update(data);
        }
        let mut buffer = vec![0; READ_BYTES];
        for (offset, len) in &self.body {
            let mut at = *offset;
            while at < offset + len {
                self.check_cancel()?;
                let take = (offset + len - at).min(READ_BYTES as u64) as usize;
                self.file.read_exact_at(&mut buffer[..take], at).with_context(|| self.failed("read back", at))?;
                hash.update(&buffer[..take]);
                at += take as u64;
                self.done.verified += take as u64;
                report(self.done);
            }
        }
        Ok(hex(&hash.finalize()))
    }

    fn write_head(&mut self) -> anyhow::Result<()> {
        for (offset, data) in &self.head {
            self.check_cancel()?;
            self.file.write_all_at(data, *offset).with_context(|| self.failed("write", *offset))?;
        }
        self.file.sync_data().with_context(|| format!("cannot sync {}", self.path.display()))?;
        drop_cache(&self.file)?;
        for (offset, data) in &self.head {
            let mut found = vec![0; data.len()];
            self.file.read_exact_at(&mut found, *offset).with_context(|| self.failed("read back", *offset))?;
            ensure!(found == *data, "{}: the bytes at {offset} are not what was written: the medium may be failing", self.path.display());
        }
        Ok(())
    }

    fn check_cancel(&self) -> anyhow::Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            bail!("cancelled");
        }
        Ok(())
    }

    fn failed(&self, verb: &str, offset: u64) -> String {
        format!("cannot {verb} {} at byte {offset}", self.path.display())
    }
}

impl Drop for ImageFile<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.give_up();
        }
    }
}

/// Where an image grows until it is complete.
pub fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Makes or takes over a partial file; one that another metisctl is writing is left alone.
fn open_part(path: &Path) -> Result<File, CtlError> {
    let open = || {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)
    };
    let file = open().with_context(|| format!("cannot make {}", path.display()))?;
    lock(&file, path)?;
    let (ours, found) = (file.metadata().context("cannot stat")?, std::fs::symlink_metadata(path).ok());
    // Whoever held the lock before may have renamed or removed the file that is locked now.
    if found.is_none_or(|m| (m.dev(), m.ino()) != (ours.dev(), ours.ino())) || !ours.is_file() {
        return Err(in_use(path));
    }
    let cleared = file.set_permissions(std::fs::Permissions::from_mode(0o600)).and_then(|()| file.set_len(0));
    cleared.with_context(|| format!("cannot take over {}: remove it", path.display()))?;
    Ok(file)
}

/// Opens an existing file as it is, or makes a new one; tells which.
fn open_card(path: &Path, size: u64) -> Result<(File, bool), CtlError> {
    let guards = target::file_guards(path, size)?;
    if !guards.is_empty() {
        return Err(CtlError::Refused { what: format!("burn to {}", path.display()), guards });
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let (file, created) = match options.open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let new = options.create_new(true).mode(0o600).open(path);
            (new.with_context(|| format!("cannot make {}", path.display()))?, true)
        }
        other => (other.with_context(|| format!("cannot open {} for writing", path.display()))?, false),
    };
    lock(&file, path)?;
    Ok((file, created))
}

fn lock(file: &File, path: &Path) -> Result<(), CtlError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(in_use(path)),
        Err(std::fs::TryLockError::Error(e)) => {
            Err(CtlError::Other(anyhow::Error::new(e).context(format!("cannot lock {}", path.display()))))
        }
    }
}

fn in_use(path: &Path) -> CtlError {
    let message = format!("{} is being written by another process: wait for it, or end it", path.display());
    let guard = GuardView { name: "file.in-use".into(), message, waiver: None };
    CtlError::Refused { what: format!("write {}", path.display()), guards: vec![guard] }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Makes a range read as zero. A hole needs no space; not every file system knows them.
fn clear(file: &File, offset: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, offset as i64, len as i64) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.write_all_at(&vec![0; len as usize], offset),
        Err(e) => Err(e.into()),
    }
}

/// The next reads come from the medium. Only clean pages are dropped: sync first.
fn drop_cache(file: &File) -> anyhow::Result<()> {
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).context("cannot drop cached pages")
}

fn sync_directory(path: &Path) -> anyhow::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|d| d.sync_all()).with_context(|| format!("cannot sync directory {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Writes the pieces and finishes; what the error says.
    fn complaint(pieces: &[(u64, usize)], total: u64) -> String {
        let dir = tempfile::tempdir().unwrap();
        let (path, cancel) = (dir.path().join("x.img"), AtomicBool::new(false));
        let mut file = ImageFile::open(&path, Purpose::Image, 4 * MIB, &cancel).unwrap();
        let written = pieces.iter().try_for_each(|(offset, len)| file.write(*offset, &vec![1; *len]).map(drop));
        let error = written.and_then(|()| file.finish(&"0".repeat(64), total, &mut |_| ()).map(drop)).unwrap_err();
        drop(file);
        assert!(!path.exists() && !part(&path).exists(), "{pieces:?}");
        format!("{error:#}")
    }

    #[test]
    fn a_stream_that_breaks_its_contract_is_refused() {
        type Case = (&'static [(u64, usize)], u64, &'static str);
        let table: &[Case] = &[
            (&[(4 * MIB - 1, 2)], 2, "past the end of the image"),
            (&[(u64::MAX, 2)], 2, "past the end of the image"),
            (&[(2 * MIB, 512), (2 * MIB + 511, 512)], 1024, "sent the bytes at 2097663 twice"),
            (&[(0, 512), (0, 512)], 1024, "sent the bytes at 0 twice"),
            (&[(2 * MIB, 512)], 1024, "sent 512 bytes of 1024"),
            (&[(2 * MIB, 512)], 512, "is not what the daemon sent"),
        ];
        for (pieces, total, expected) in table {
            let said = complaint(pieces, *total);
            assert!(said.contains(expected), "{pieces:?}: {said}");
        }
    }

    #[test]
    fn the_head_is_written_last_and_a_piece_across_its_border_is_split() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cancel) = (dir.path().join("card.img"), AtomicBool::new(false));
        std::fs::write(&path, vec![0xaa; 4 << 20]).unwrap();
        let mut file = ImageFile::open(&path, Purpose::Card, 4 * MIB, &cancel).unwrap();
        file.write(MIB - 512, &[1; 1024]).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(before[..1 << 20].iter().all(|b| *b == 0) && before[1 << 20] == 1);
        let sha256 = hex(&Sha256::digest([1; 1024]));
        assert_eq!(file.finish(&sha256, 1024, &mut |_| ()).unwrap(), path);
        let after = std::fs::read(&path).unwrap();
        assert!(after[(1 << 20) - 512..(1 << 20) + 512].iter().all(|b| *b == 1));
    }

    #[test]
    fn a_part_that_another_process_writes_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cancel) = (dir.path().join("x.img"), AtomicBool::new(false));
        let first = ImageFile::open(&path, Purpose::Image, MIB, &cancel).unwrap();
        assert!(matches!(ImageFile::open(&path, Purpose::Image, MIB, &cancel), Err(CtlError::Refused { .. })));
        assert!(part(&path).exists());
        drop(first);
        assert!(!part(&path).exists());
        std::fs::write(part(&path), "left by a process that was killed").unwrap();
        let again = ImageFile::open(&path, Purpose::Image, MIB, &cancel).unwrap();
        let meta = std::fs::metadata(part(&path)).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777, meta.blocks()), (MIB, 0o600, 0));
        drop(again);
    }

    #[test]
    fn cancelled_means_no_further_byte() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cancel) = (dir.path().join("x.img"), AtomicBool::new(false));
        let mut file = ImageFile::open(&path, Purpose::Image, 4 * MIB, &cancel).unwrap();
        cancel.store(true, Ordering::Relaxed);
        assert_eq!(file.write(2 * MIB, &[1]).unwrap_err().to_string(), "cancelled");
        assert!(file.finish("", 0, &mut |_| ()).is_err());
        assert!(file.abandon().ends_with("the partial file is removed"));
    }
}
