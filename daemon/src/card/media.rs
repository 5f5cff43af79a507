//! Plain images: a file, a piece of memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::ReadAt;

/// An image that is a raw file. Its size is that of the moment it was opened.
#[derive(Debug)]
pub struct FileImage {
    file: File,
    size: u64,
}

impl FileImage {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// Where it cannot be opened or is no regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open_regular(path)?;
        let size = file.metadata()?.len();
        Ok(Self::new(file, size))
    }

    /// The first `size` bytes of an open file.
    pub(super) fn new(file: File, size: u64) -> Self {
        Self { file, size }
    }
}

impl ReadAt for FileImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// Opens a regular file for reading; a pipe in its place does not block.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// An image in memory.
#[derive(Debug, Clone)]
pub struct MemImage(pub Vec<u8>);

impl ReadAt for MemImage {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let range = range_of(buf.len(), offset, self.size())?;
        buf.copy_from_slice(&self.0[range]);
        Ok(())
    }
}

/// The indices of `len` bytes from `offset` of something with `size` bytes.
///
/// # Errors
/// `UnexpectedEof` where they reach past its end.
pub(super) fn range_of(len: usize, offset: u64, size: u64) -> io::Result<std::ops::Range<usize>> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= size => Ok(offset as usize..end as usize),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{len} bytes at {offset} reach past the image's end at {size}"))),
    }
}

/// `len` bytes from `offset`, fewer where the image ends.
pub(super) fn read_up_to(data: &dyn ReadAt, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let len = data.size().saturating_sub(offset).min(len as u64);
    let mut buf = vec![0; len as usize];
    if !buf.is_empty() {
        data.read_exact_at(&mut buf, offset)?;
    }
    Ok(buf)
}

/// Zeros to compare with: `memcmp` is fast in every build profile.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Whether `data` is zeros.
pub(super) fn is_zero(data: &[u8]) -> bool {
    data.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}

/// Writes `data` at `offset` of a fresh sparse file, leaving runs of zeros out. Returns the bytes written.
pub(super) fn write_sparse(file: &File, data: &[u8], offset: u64) -> io::Result<u64> {
    let mut written = 0;
    for (part, at) in data.chunks(ZEROS.len()).zip((offset..).step_by(ZEROS.len())) {
        if !is_zero(part) {
            file.write_all_at(part, at)?;
            written += part.len() as u64;
        }
    }
    Ok(written)
}
