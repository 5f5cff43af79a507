//! An exclusively opened device, and reads and writes that pass the page cache by.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};

use super::chunk::END;
use super::fault::{Fault, FaultKind};
use super::guard::{Want, guards, hard};
use super::ioctl;
use super::list::{Device, Roots, device_number, find};
use crate::site::Guard;

/// Alignment of memory and offsets for O_DIRECT: open(2) asks for the sector size, a page suits every kernel.
const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// Why no medium was opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("refused by {} guard(s)", .0.len())]
    Refused(Vec<Guard>),
    #[error("{0}")]
    Fault(#[from] Fault),
}

/// A device that passed all guards and is open exclusively: the one thing that the writer takes.
#[derive(Debug)]
pub(super) struct Guarded {
    pub device: Device,
    pub medium: Medium,
}

/// Looks at the device anew, as it is now, and opens it where nothing stands against it.
///
/// O_EXCL keeps mounts and other exclusive openers out (and fails where there are any); flock keeps udev out
/// (<https://systemd.io/BLOCK_DEVICE_LOCKING>) and, with it, everybody who keeps to the same rule.
pub(super) fn open(roots: &Roots, path: &Path, want: &Want) -> Result<Guarded, OpenError> {
    let look = |error: &io::Error| Fault::new(FaultKind::Setup, format!("looking at {}: {error}", path.display()));
    let device = find(roots, path).map_err(|error| look(&error))?;
    let found = guards(&device, want);
    if !found.is_empty() {
        return Err(OpenError::Refused(found));
    }
    let file = open_exclusively(&device.path)?;
    let file = lock(file, &device.path)?;
    let medium = Medium::new(file, device.path.clone()).map_err(|error| look(&error))?;
    // Between looking and opening another medium may have taken the name.
    let metadata = medium.file.metadata().map_err(|error| look(&error))?;
    let same_diskseq = ioctl::diskseq(medium.file.as_fd()).is_none_or(|seq| device.diskseq == 0 || seq == device.diskseq);
    if device_number(metadata.rdev()) != device.number || medium.size != device.size || !same_diskseq {
        let message = format!("{} changed while it was opened; plan again", device.path.display());
        return Err(OpenError::Refused(vec![hard("device.changed", message)]));
    }
    Ok(Guarded { device, medium })
}

fn open_exclusively(path: &Path) -> Result<File, OpenError> {
    let shown = path.display();
    let open = |flags: OFlag| OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path);
    let opened = match open(OFlag::O_EXCL | OFlag::O_DIRECT) {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => open(OFlag::O_EXCL),
        opened => opened,
    };
    opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => {
            let message = format!("{shown} is in use: something has it mounted or open exclusively (see `lsblk`, `fuser {shown}`)");
            OpenError::Refused(vec![hard("device.busy", message)])
        }
        Some(Errno::EROFS) => OpenError::Refused(vec![hard("device.read_only", format!("{shown} is read-only"))]),
        Some(Errno::ENOMEDIUM | Errno::ENXIO | Errno::ENODEV) => {
            OpenError::Refused(vec![hard("device.no_medium", format!("{shown} has no medium; insert a card"))])
        }
        _ => OpenError::Fault(Fault::new(FaultKind::Setup, format!("opening {shown} exclusively: {error}"))),
    })
}

/// udev holds a shared lock for a moment while it looks at a fresh card.
fn lock(mut file: File, path: &Path) -> Result<Flock<File>, OpenError> {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(Fault::new(FaultKind::Setup, format!("locking {}: {errno}", path.display())).into()),
        }
        thread::sleep(Duration::from_millis(100));
    }
    let message = format!("{0} is locked (flock) by another program; see `lslocks`, `fuser {0}`", path.display());
    Err(OpenError::Refused(vec![hard("device.locked", message)]))
}

/// What is written to.
#[derive(Debug)]
pub(super) struct Medium {
    file: Flock<File>,
    pub path: PathBuf,
    pub size: u64,
    /// O_DIRECT is on.
    pub direct: bool,
    block: bool,
}

impl Medium {
    fn new(file: Flock<File>, path: PathBuf) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let block = metadata.file_type().is_block_device();
        let size = if block { ioctl::size(file.as_fd())? } else { metadata.len() };
        let mut medium = Self { file, path, size, direct: false, block };
        medium.direct = medium.probe_direct()?;
        Ok(medium)
    }

    /// Whether a direct read succeeds; where the file system only pretends at open, O_DIRECT is turned off again.
    fn probe_direct(&self) -> io::Result<bool> {
        let flags = OFlag::from_bits_retain(fcntl(&*self.file, FcntlArg::F_GETFL)?);
        if !flags.contains(OFlag::O_DIRECT) {
            return Ok(false);
        }
        match self.file.read_at(Buffer::new(PAGE).bytes_mut(PAGE), 0) {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                fcntl(&*self.file, FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
                Ok(false)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(true),
        }
    }

    /// Writes all of `buffer`'s first `len` bytes, filled up with zeros to whole sectors.
    pub fn write(&self, buffer: &mut Buffer, len: usize, offset: u64) -> Result<(), Fault> {
        let bytes = buffer.padded(len);
        self.file.write_all_at(bytes, offset).map_err(|error| self.fault("writing", Some(offset), &error))
    }

    /// Reads back what [`Self::write`] wrote.
    pub fn read<'a>(&self, buffer: &'a mut Buffer, len: usize, offset: u64) -> Result<&'a [u8], Fault> {
        let bytes = buffer.bytes_mut(len.next_multiple_of(SECTOR));
        self.file.read_exact_at(bytes, offset).map_err(|error| self.fault("reading back", Some(offset), &error))?;
        Ok(&bytes[..len])
    }

    /// Returns once everything written is on the medium.
    pub fn flush(&self) -> Result<(), Fault> {
        self.file.sync_data().map_err(|error| self.fault("flushing", None, &error))
    }

    /// After this, reads come from the medium. Dirty pages survive `fadvise`, so the flush comes first.
    pub fn drop_cache(&self) -> Result<(), Fault> {
        self.flush()?;
        if self.direct {
            return Ok(());
        }
        let dropped = posix_fadvise(&*self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        let flushed = if self.block { ioctl::flush_buffers(self.file.as_fd()) } else { dropped };
        flushed.map_err(|errno| {
            let path = self.path.display();
            Fault::new(
                FaultKind::Cached,
                format!("{path} can be read neither with O_DIRECT nor after BLKFLSBUF ({errno}): what was written cannot be proved"),
            )
        })
    }

    /// Zeroes the first and the last MiB: no partition table, no spare GPT.
    pub fn clear_ends(&self) -> Result<(), Fault> {
        let tail = self.size.saturating_sub(END) / PAGE as u64 * PAGE as u64;
        for (offset, end) in [(0, self.size.min(END)), (tail, self.size)] {
            let len = (end - offset) as usize;
            self.write(&mut Buffer::new(len), len, offset)?;
        }
        self.flush()
    }

    /// Makes the kernel read the partition table; a warning where it cannot. Somebody may hold a partition for a moment.
    pub fn reread_table(&self) -> Option<String> {
        const TRIES: u32 = 20;
        if !self.block {
            return None;
        }
        let mut result = ioctl::reread_table(self.file.as_fd());
        for _ in 1..TRIES {
            if result != Err(Errno::EBUSY) {
                break;
            }
            thread::sleep(Duration::from_millis(100));
            result = ioctl::reread_table(self.file.as_fd());
        }
        let path = self.path.display();
        result.err().map(|errno| format!("the kernel did not read the new partition table of {path} ({errno}); the card itself is good"))
    }

    fn fault(&self, what: &str, offset: Option<u64>, error: &io::Error) -> Fault {
        // A device that was pulled out answers EIO to some kernels' writes.
        let gone = self.block && ioctl::size(self.file.as_fd()).map_or(true, |size| size == 0);
        Fault::io(what, &self.path.display().to_string(), offset, error, gone)
    }

    /// A file in a card's place.
    #[cfg(test)]
    pub fn file(path: &Path, direct: bool) -> io::Result<Self> {
        let flags = if direct { OFlag::O_DIRECT } else { OFlag::empty() };
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
        Self::new(lock(file, path).map_err(io::Error::other)?, path.to_owned())
    }
}

/// Memory aligned for O_DIRECT.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl Buffer {
    /// Zeros; room for `len` bytes and the rest of the last sector.
    pub fn new(len: usize) -> Self {
        let capacity = len.next_multiple_of(SECTOR);
        let memory = vec![0; capacity + PAGE];
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Self { memory, start, capacity }
    }

    /// The first `len` bytes, at most the capacity.
    pub fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        let end = self.start + len.min(self.capacity);
        &mut self.memory[self.start..end]
    }

    fn padded(&mut self, len: usize) -> &[u8] {
        let bytes = self.bytes_mut(len.next_multiple_of(SECTOR));
        if let Some(padding) = bytes.get_mut(len..) {
            padding.fill(0);
        }
        bytes
    }
}
