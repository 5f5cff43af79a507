//! A cached image: chunks of 4 MiB, each a zstd frame of its own with its SHA-256, so that any byte can be read alone and a bit that
//! rots in the cache is noticed before it reaches a card.
//!
//! ```text
//! 0     header (4096 bytes): magic, version, sizes, digests; its own SHA-256 last
//! 4096  frames, in any order
//!       index: per chunk offset (u64), length (u32; 0: all zeros), reserved (u32), SHA-256 of the unpacked chunk
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::super::ReadAt;
use super::super::bytes::{hex, le32, le64, slice};
use super::super::media::range_of;

/// Bytes of the image per chunk.
pub(super) const CHUNK: u64 = 4 << 20;
/// Bytes of the header.
pub(super) const HEADER: u64 = 4096;
const MAGIC: &[u8; 8] = b"metisimg";
const VERSION: u32 = 1;
/// Bytes of the header that its digest covers.
const HEADER_FIELDS: usize = 112;
const RECORD: usize = 48;
/// Unpacked chunks kept: an ext4 edit goes back and forth between descriptor, bitmap, table and data.
const KEPT: usize = 6;

/// Where a chunk is and what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) offset: u64,
    /// 0: the chunk is zeros.
    pub(super) len: u32,
    pub(super) sha256: [u8; 32],
}

impl Chunk {
    pub(super) const ZEROS: Self = Self { offset: 0, len: 0, sha256: [0; 32] };

    fn encode(&self) -> [u8; RECORD] {
        let mut raw = [0; RECORD];
        raw[..8].copy_from_slice(&self.offset.to_le_bytes());
        raw[8..12].copy_from_slice(&self.len.to_le_bytes());
        raw[16..].copy_from_slice(&self.sha256);
        raw
    }

    fn decode(raw: &[u8]) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(slice(raw, 16, 32));
        Self { offset: le64(raw, 0), len: le32(raw, 8), sha256 }
    }
}

/// The header's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) image_size: u64,
    /// Of the published file.
    pub(super) sha256: [u8; 32],
    pub(super) index_offset: u64,
    pub(super) index_sha256: [u8; 32],
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(HEADER as usize);
        raw.extend_from_slice(MAGIC);
        raw.extend_from_slice(&VERSION.to_le_bytes());
        raw.extend_from_slice(&(CHUNK as u32).to_le_bytes());
        raw.extend_from_slice(&self.image_size.to_le_bytes());
        raw.extend_from_slice(&self.index_offset.to_le_bytes());
        raw.extend_from_slice(&self.sha256);
        raw.extend_from_slice(&self.index_sha256);
        raw.resize(HEADER_FIELDS, 0);
        raw.extend_from_slice(&Sha256::digest(&raw));
        raw.resize(HEADER as usize, 0);
        raw
    }

    fn decode(raw: &[u8]) -> Option<Self> {
        let fields = slice(raw, 0, HEADER_FIELDS);
        let right = fields.starts_with(MAGIC)
            && le32(fields, 8) == VERSION
            && u64::from(le32(fields, 12)) == CHUNK
            && Sha256::digest(fields).as_slice() == slice(raw, HEADER_FIELDS, 32);
        let digest = |at| slice(fields, at, 32).try_into().ok();
        right
            .then(|| {
                Some(Self { image_size: le64(fields, 16), index_offset: le64(fields, 24), sha256: digest(32)?, index_sha256: digest(64)? })
            })
            .flatten()
    }
}

/// Writes index and header behind the frames; the entry is whole when this and an fsync are done.
pub(super) fn seal(file: &File, chunks: &[Chunk], image_size: u64, sha256: [u8; 32], index_offset: u64) -> io::Result<()> {
    let index: Vec<u8> = chunks.iter().flat_map(Chunk::encode).collect();
    file.write_all_at(&index, index_offset)?;
    let header = Header { image_size, sha256, index_offset, index_sha256: Sha256::digest(&index).into() };
    file.write_all_at(&header.encode(), 0)
}

/// An open cache entry. While it is open, eviction leaves it alone.
pub(super) struct Entry {
    file: File,
    path: PathBuf,
    size: u64,
    chunks: Vec<Chunk>,
    kept: Mutex<VecDeque<(usize, Arc<Vec<u8>>)>>,
}

impl Entry {
    /// Opens the entry at `path`, if it is there, whole and of that published file.
    ///
    /// # Errors
    /// `NotFound`; `InvalidData` where header or index are damaged or of another version.
    pub(super) fn open(path: &Path, sha256: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        // Shared while in use; an evictor takes it exclusively, for a moment. Then unlinked means gone.
        file.lock_shared()?;
        if file.metadata()?.nlink() == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the cached image is damaged or of another version");
        let mut raw = vec![0; HEADER as usize];
        file.read_exact_at(&mut raw, 0).map_err(|_| damaged())?;
        let header = Header::decode(&raw).filter(|header| hex(&header.sha256) == sha256).ok_or_else(damaged)?;
        let mut index = vec![0; header.image_size.div_ceil(CHUNK) as usize * RECORD];
        file.read_exact_at(&mut index, header.index_offset).map_err(|_| damaged())?;
        if Sha256::digest(&index).as_slice() != header.index_sha256 {
            return Err(damaged());
        }
        let chunks = index.chunks_exact(RECORD).map(Chunk::decode).collect();
        Ok(Self { file, path: path.to_owned(), size: header.image_size, chunks, kept: Mutex::default() })
    }

    /// Marks the entry as used now, for the order of eviction.
    pub(super) fn touch(&self) -> io::Result<()> {
        use nix::sys::time::TimeSpec;
        nix::sys::stat::futimens(&self.file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW).map_err(io::Error::from)
    }

    fn chunk_len(&self, number: usize) -> usize {
        (self.size - number as u64 * CHUNK).min(CHUNK) as usize
    }

    /// Unpacks chunk `number` into `buf`, which has its length, and checks it.
    fn unpack(&self, number: usize, buf: &mut [u8]) -> io::Result<()> {
        let chunk = self.chunks[number];
        let mut frame = vec![0; chunk.len as usize];
        self.file.read_exact_at(&mut frame, chunk.offset)?;
        let right = zstd::bulk::decompress_to_buffer(&frame, buf).is_ok_and(|len| len == buf.len())
            && Sha256::digest(&*buf).as_slice() == chunk.sha256;
        if right { Ok(()) } else { Err(self.rotten(number)) }
    }

    /// Gives the entry up, so that the next fetch gets the image anew.
    fn rotten(&self, number: usize) -> io::Error {
        let same = |meta: std::fs::Metadata| self.file.metadata().is_ok_and(|own| own.ino() == meta.ino());
        if std::fs::metadata(&self.path).is_ok_and(same) {
            let _ = std::fs::remove_file(&self.path);
        }
        let message = format!(
            "the cached image {} is damaged at byte {} (the cache's disk may be failing); it was removed from the cache: try again",
            self.path.display(),
            number as u64 * CHUNK
        );
        io::Error::new(io::ErrorKind::InvalidData, message)
    }

    fn kept(&self, number: usize) -> io::Result<Arc<Vec<u8>>> {
        let find = |kept: &mut VecDeque<(usize, Arc<Vec<u8>>)>| {
            let at = kept.iter().position(|(other, _)| *other == number)?;
            let found = kept.remove(at)?;
            kept.push_front(found.clone());
            Some(found.1)
        };
        if let Some(data) = find(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(data);
        }
        let mut data = vec![0; self.chunk_len(number)];
        self.unpack(number, &mut data)?;
        let data = Arc::new(data);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front((number, data.clone()));
        kept.truncate(KEPT);
        Ok(data)
    }
}

impl ReadAt for Entry {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        range_of(buf.len(), offset, self.size)?;
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let (number, within) = ((at / CHUNK) as usize, (at % CHUNK) as usize);
            let whole = self.chunk_len(number);
            let (part, tail) = rest.split_at_mut(rest.len().min(whole - within));
            if self.chunks[number].len == 0 {
                part.fill(0);
            } else if part.len() == whole {
                self.unpack(number, part)?;
            } else {
                part.copy_from_slice(&self.kept(number)?[within..within + part.len()]);
            }
            at += part.len() as u64;
            rest = tail;
        }
        Ok(())
    }
}
