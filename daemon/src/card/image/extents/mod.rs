//! Which bytes of an image are in use. What is left out is free by the file system's own allocation bitmap: never by holes or runs of
//! zeros, because an allocated block of zeros must reach a card that held something else before.

mod ext;
mod fat;

use std::io;
use std::ops::Range;

use super::super::{Extent, FsKind, Layout, Partition, ReadAt};

/// Extents begin and end at multiples of this, but for the end of the image.
pub const ALIGNMENT: u64 = 4096;

/// A file system that is copied whole, and why its allocation bitmaps are not used.
pub(super) enum Refusal {
    Io(io::Error),
    Whole(&'static str),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The ranges of `data` that must be on the card: ascending, merged, multiples of [`ALIGNMENT`]. Gaps outside partitions (boot loaders,
/// partition tables) count as used, and so does the whole of a file system whose bitmaps cannot be relied on.
///
/// # Errors
/// Where the image cannot be read.
pub fn allocated(data: &dyn ReadAt, layout: &Layout) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut at = 0;
    for hole in free(data, layout)? {
        push(&mut extents, at..hole.offset);
        at = hole.offset + hole.len;
    }
    push(&mut extents, at..data.size());
    Ok(extents)
}

/// The complement of [`allocated`]: ranges that no file system uses.
///
/// # Errors
/// Where the image cannot be read.
pub fn free(data: &dyn ReadAt, layout: &Layout) -> io::Result<Vec<Extent>> {
    let mut holes = Vec::new();
    for partition in &layout.partitions {
        let ranges = match free_of(data, partition) {
            Ok(ranges) => ranges,
            Err(Refusal::Io(error)) => return Err(error),
            Err(Refusal::Whole(reason)) => {
                tracing::debug!(partition = partition.number, reason, "the partition is copied whole");
                continue;
            }
        };
        for range in ranges {
            let (start, end) = (partition.offset + range.start, partition.offset + range.end);
            push(&mut holes, start.next_multiple_of(ALIGNMENT)..end / ALIGNMENT * ALIGNMENT);
        }
    }
    Ok(holes)
}

/// Free ranges, ascending, in bytes from the partition's beginning.
fn free_of(data: &dyn ReadAt, partition: &Partition) -> Result<Vec<Range<u64>>, Refusal> {
    let part = Part { data, offset: partition.offset, len: partition.len };
    match partition.fs.kind {
        FsKind::Ext4 | FsKind::Other("ext2" | "ext3") => ext::free(&part),
        FsKind::Fat(_) => fat::free(&part),
        _ => Err(Refusal::Whole("no file system whose allocation metis reads")),
    }
}

/// Appends a range unless it is empty; joins it to the last one where they touch.
fn push(extents: &mut Vec<Extent>, range: Range<u64>) {
    if range.is_empty() {
        return;
    }
    match extents.last_mut() {
        Some(last) if last.offset + last.len == range.start => last.len += range.end - range.start,
        _ => extents.push(Extent { offset: range.start, len: range.end - range.start }),
    }
}

/// One partition of an image; nothing outside of it can be read.
pub(super) struct Part<'a> {
    data: &'a dyn ReadAt,
    offset: u64,
    len: u64,
}

impl Part<'_> {
    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, Refusal> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len);
        if end.is_none() {
            return Err(Refusal::Whole("its metadata lies outside of the partition"));
        }
        let mut buf = vec![0; len as usize];
        self.data.read_exact_at(&mut buf, self.offset + offset)?;
        Ok(buf)
    }
}

/// The runs of clear bits of a bitmap with `bits` bits, least significant first.
pub(super) fn clear_runs(bitmap: &[u8], bits: u64) -> Vec<Range<u64>> {
    let mut runs = Vec::new();
    let mut start = None;
    let mut at = 0;
    while at < bits {
        let byte = bitmap.get((at / 8) as usize).copied().unwrap_or(0xFF);
        let whole = at.is_multiple_of(8) && at + 8 <= bits;
        match (byte, start) {
            (0xFF, None) | (0x00, Some(_)) if whole => at += 8,
            _ => {
                match (byte >> (at % 8) & 1 == 1, start) {
                    (false, None) => start = Some(at),
                    (true, Some(from)) => {
                        runs.push(from..at);
                        start = None;
                    }
                    _ => (),
                }
                at += 1;
            }
        }
    }
    runs.extend(start.map(|from| from..bits));
    runs
}

#[cfg(test)]
mod tests;
