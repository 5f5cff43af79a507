//! From a published file to a cache entry: check it, unpack it, zero what its file systems do not use, store it in chunks.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::bytes::hex;
use super::super::media::{FileImage, is_zero, write_sparse};
use super::super::{Extent, Layout};
use super::entry::{CHUNK, Chunk, HEADER, seal};
use super::error::ImageError;
use super::extents;
use super::space::{IMAGE, NEW, Space, create, sync_dir};
use super::unpack::{Packing, fill};
use crate::site::{ImageRef, Progress};

const BUFFER: usize = 1 << 20;
/// The floor is looked at again after so many bytes written.
const CHECK_EVERY: u64 = 1 << 20;
/// A little below the speed of a card, and half the size of level 1.
const LEVEL: i32 = 3;

/// What one fetch has at hand.
pub(super) struct Job {
    pub(super) image: ImageRef,
    /// The reference's URL as it may be shown.
    pub(super) shown: String,
    pub(super) space: Space,
    pub(super) limit: u64,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) cancel: CancellationToken,
    unchecked: AtomicU64,
}

impl Job {
    pub(super) fn new(
        image: ImageRef,
        shown: String,
        space: Space,
        limit: u64,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Self {
        Self { image, shown, space, limit, progress, cancel, unchecked: AtomicU64::new(0) }
    }

    pub(super) fn check_cancel(&self) -> Result<(), ImageError> {
        if self.cancel.is_cancelled() { Err(ImageError::Cancelled) } else { Ok(()) }
    }

    /// Counts bytes written to the cache, and looks at the floor now and then.
    pub(super) fn wrote(&self, bytes: u64) -> Result<(), ImageError> {
        if self.unchecked.fetch_add(bytes, Ordering::Relaxed) + bytes < CHECK_EVERY {
            return Ok(());
        }
        self.unchecked.store(0, Ordering::Relaxed);
        self.space.make(0, &self.image.sha256)
    }

    pub(super) fn source_error(&self, source: io::Error) -> ImageError {
        ImageError::Source { image: self.shown.clone(), source }
    }

    pub(super) fn digest_error(&self, actual: String) -> ImageError {
        ImageError::Digest { image: self.shown.clone(), expected: self.image.sha256.clone(), actual }
    }

    fn unpack_error(&self, why: impl ToString) -> ImageError {
        ImageError::Unpack { image: self.shown.clone(), why: why.to_string() }
    }

    /// Turns the published file into a cache entry. `verified`: its SHA-256 was computed while it was downloaded into the cache.
    pub(super) fn ingest(&self, published: &File, verified: bool) -> Result<(), ImageError> {
        let mut first = [0; 8];
        let len = fill(&mut At(published, 0), &mut first).map_err(|e| self.source_error(e))?;
        let name = self.shown.split('?').next().unwrap_or_default();
        let packing = Packing::detect(&first[..len], name).map_err(|why| self.unpack_error(why))?;
        // A raw file meets no decoder, so copying and checking it is one pass.
        if !verified && packing != Packing::Raw {
            self.verify(published)?;
        }
        let (raw, size) = self.unpack(published, packing)?;
        let image = FileImage::new(raw.try_clone().map_err(ImageError::cache(&self.space.dir))?, size);
        let layout = Layout::read(&image).map_err(|source| ImageError::Layout { image: self.shown.clone(), source })?;
        let free = extents::free(&image, &layout).map_err(ImageError::cache(&self.space.dir))?;
        self.store(&raw, size, &free)
    }

    /// Reads the published file once for its SHA-256 alone.
    fn verify(&self, published: &File) -> Result<(), ImageError> {
        let mut input = Published::new(self, published, "check");
        let mut buf = vec![0; BUFFER];
        while fill(&mut input, &mut buf).map_err(|e| self.read_error(e))? > 0 {}
        input.finish()
    }

    /// Unpacks into a nameless sparse file of the cache's file system: gone with the process whatever happens.
    fn unpack(&self, published: &File, packing: Packing) -> Result<(File, u64), ImageError> {
        let least = published.metadata().map_or(0, |meta| meta.len());
        self.space.make(least, &self.image.sha256)?;
        let raw = tempfile::tempfile_in(&self.space.dir).map_err(|e| self.space.failed(&self.space.dir, e))?;
        let mut input = Published::new(self, published, "unpack");
        let mut content = self.image.content_sha256.as_ref().map(|_| Sha256::new());
        let mut size = 0;
        {
            let mut reader = packing.reader(&mut input).map_err(|e| self.unpack_error(e))?;
            let mut buf = vec![0; BUFFER];
            loop {
                let len = fill(&mut reader, &mut buf).map_err(|e| self.read_error(e))?;
                if len == 0 {
                    break;
                }
                if size + len as u64 > self.limit {
                    return Err(ImageError::TooLarge { image: self.shown.clone(), limit: self.limit });
                }
                if let Some(hasher) = &mut content {
                    hasher.update(&buf[..len]);
                }
                let written = write_sparse(&raw, &buf[..len], size).map_err(|e| self.space.failed(&self.space.dir, e))?;
                self.wrote(written)?;
                size += len as u64;
            }
        }
        // Once more over what was really unpacked: a file: source may have been changed since it was checked.
        input.finish()?;
        if size == 0 {
            return Err(self.unpack_error("it is empty"));
        }
        if let (Some(hasher), Some(expected)) = (content, &self.image.content_sha256) {
            let actual = hex(&hasher.finalize());
            if !actual.eq_ignore_ascii_case(expected) {
                return Err(ImageError::ContentDigest { image: self.shown.clone(), expected: expected.clone(), actual });
            }
        }
        raw.set_len(size).map_err(|e| self.space.failed(&self.space.dir, e))?;
        Ok((raw, size))
    }

    fn read_error(&self, error: io::Error) -> ImageError {
        match error.raw_os_error() {
            _ if self.cancel.is_cancelled() => ImageError::Cancelled,
            Some(_) => self.source_error(error),
            None => self.unpack_error(error),
        }
    }

    /// Writes the entry under a temporary name, syncs it and puts it in its place.
    fn store(&self, raw: &File, size: u64, free: &[Extent]) -> Result<(), ImageError> {
        let (new, path) = (self.space.path(&self.image.sha256, NEW), self.space.path(&self.image.sha256, IMAGE));
        let guard = Remove(&new);
        let file = create(&new).map_err(|e| self.space.failed(&new, e))?;
        let (chunks, end) = self.compress(raw, size, free, &file)?;
        let sha256 = digest_bytes(&self.image.sha256);
        seal(&file, &chunks, size, sha256, end).and_then(|()| file.sync_all()).map_err(|e| self.space.failed(&new, e))?;
        std::fs::rename(&new, &path).and_then(|()| sync_dir(&self.space.dir)).map_err(|e| self.space.failed(&path, e))?;
        std::mem::forget(guard);
        Ok(())
    }

    /// Compresses the chunks on all processors, each writing its frames where the last one ended. Returns the index and the end.
    fn compress(&self, raw: &File, size: u64, free: &[Extent], out: &File) -> Result<(Vec<Chunk>, u64), ImageError> {
        let count = size.div_ceil(CHUNK);
        let (next, end, stop) = (AtomicU64::new(0), AtomicU64::new(HEADER), AtomicBool::new(false));
        let chunks = Mutex::new(vec![Chunk::ZEROS; count as usize]);
        let worker = || -> Result<(), ImageError> {
            let failed = |e| self.space.failed(&self.space.dir, e);
            let mut compressor = zstd::bulk::Compressor::new(LEVEL).map_err(failed)?;
            let mut buf = vec![0; CHUNK as usize];
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count || stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.check_cancel()?;
                let at = number * CHUNK;
                let data = &mut buf[..(size - at).min(CHUNK) as usize];
                raw.read_exact_at(data, at).map_err(failed)?;
                zero(data, at, free);
                if !is_zero(data) {
                    let frame = compressor.compress(data).map_err(failed)?;
                    let offset = end.fetch_add(frame.len() as u64, Ordering::Relaxed);
                    out.write_all_at(&frame, offset).map_err(failed)?;
                    self.wrote(frame.len() as u64)?;
                    let chunk = Chunk { offset, len: frame.len() as u32, sha256: Sha256::digest(&*data).into() };
                    chunks.lock().unwrap_or_else(PoisonError::into_inner)[number as usize] = chunk;
                }
                self.progress.send_replace(Progress { stage: "ingest", done: (at + CHUNK).min(size), total: size });
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count as usize);
        std::thread::scope(|scope| {
            let stopping = || worker().inspect_err(|_| stop.store(true, Ordering::Relaxed));
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(stopping)).collect();
            let panicked = || ImageError::Cache { path: self.space.dir.clone(), source: io::Error::other("a compressing thread panicked") };
            handles.into_iter().try_for_each(|handle| handle.join().map_err(|_| panicked())?)
        })?;
        Ok((chunks.into_inner().unwrap_or_else(PoisonError::into_inner), end.into_inner()))
    }
}

/// Zeroes what `free` (ascending) holds of the chunk `data` at `at`.
fn zero(data: &mut [u8], at: u64, free: &[Extent]) {
    let end = at + data.len() as u64;
    let first = free.partition_point(|extent| extent.offset + extent.len <= at);
    for extent in free[first..].iter().take_while(|extent| extent.offset < end) {
        let (from, to) = (extent.offset.max(at) - at, (extent.offset + extent.len).min(end) - at);
        data[from as usize..to as usize].fill(0);
    }
}

/// The bytes of 64 hexadecimal digits.
fn digest_bytes(hex: &str) -> [u8; 32] {
    let digit = |at: usize| hex.as_bytes().get(at).and_then(|&c| char::from(c).to_digit(16)).unwrap_or(0) as u8;
    std::array::from_fn(|i| digit(2 * i) << 4 | digit(2 * i + 1))
}

/// Removes a file when dropped.
struct Remove<'a>(&'a Path);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// A file read from its beginning, whatever else reads it.
struct At<'a>(&'a File, u64);

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.0.read_at(buf, self.1)?;
        self.1 += len as u64;
        Ok(len)
    }
}

/// The published file on its way to a decoder: hashed, counted, and cut off when the caller gives up.
struct Published<'a> {
    job: &'a Job,
    input: At<'a>,
    hasher: Sha256,
    total: u64,
    stage: &'static str,
}

impl<'a> Published<'a> {
    fn new(job: &'a Job, file: &'a File, stage: &'static str) -> Self {
        let total = file.metadata().map_or(0, |meta| meta.len());
        Self { job, input: At(file, 0), hasher: Sha256::new(), total, stage }
    }

    /// The digest of all of it, which must be the reference's.
    fn finish(mut self) -> Result<(), ImageError> {
        let mut buf = vec![0; BUFFER];
        while fill(&mut self, &mut buf).map_err(|e| self.job.read_error(e))? > 0 {}
        let actual = hex(&self.hasher.finalize());
        if actual == self.job.image.sha256 { Ok(()) } else { Err(self.job.digest_error(actual)) }
    }
}

impl Read for Published<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.job.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let len = self.input.read(buf)?;
        self.hasher.update(&buf[..len]);
        self.job.progress.send_replace(Progress { stage: self.stage, done: self.input.1, total: self.total });
        Ok(len)
    }
}
