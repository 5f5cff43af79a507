//! Changed blocks over an image that is only read.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use super::super::{Extent, ReadAt};

/// Granularity of changes, in bytes.
pub(crate) const BLOCK: u64 = 4096;

type Block = Box<[u8]>;

/// An image and the blocks that were changed in memory. Writing to it never touches the image.
pub struct Overlay {
    base: Arc<dyn ReadAt>,
    changed: RwLock<BTreeMap<u64, Block>>,
}

impl Overlay {
    /// Nothing changed yet.
    pub fn new(base: Arc<dyn ReadAt>) -> Self {
        Self { base, changed: RwLock::default() }
    }

    /// Changes bytes.
    ///
    /// # Errors
    /// Past the end of the image, or where the image cannot be read.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check(data.len(), offset)?;
        let mut changed = self.changed.write().unwrap_or_else(PoisonError::into_inner);
        for piece in pieces(data.len(), offset) {
            let block = match changed.entry(piece.block) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(self.base_block(piece.block)?),
            };
            block[piece.within].copy_from_slice(&data[piece.of_data]);
        }
        Ok(())
    }

    /// The changed blocks, in order, neighbours joined; those that are again as the image has them are left out.
    ///
    /// # Errors
    /// Where the image cannot be read.
    pub fn changes(&self) -> io::Result<Vec<Extent>> {
        let changed = self.changed.read().unwrap_or_else(PoisonError::into_inner);
        let mut extents: Vec<Extent> = Vec::new();
        for (&index, block) in changed.iter() {
            if self.base_block(index)? == *block {
                continue;
            }
            let offset = index * BLOCK;
            let len = BLOCK.min(self.base.size() - offset);
            match extents.last_mut() {
                Some(last) if last.offset + last.len == offset => last.len += len,
                _ => extents.push(Extent { offset, len }),
            }
        }
        Ok(extents)
    }

    /// A block of the image, filled up with zeros where the image ends within it.
    fn base_block(&self, index: u64) -> io::Result<Block> {
        let offset = index * BLOCK;
        let mut block = vec![0; BLOCK as usize].into_boxed_slice();
        let len = BLOCK.min(self.base.size() - offset) as usize;
        self.base.read_exact_at(&mut block[..len], offset)?;
        Ok(block)
    }

    fn check(&self, len: usize, offset: u64) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.base.size() => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{len} bytes at {offset} reach past the image's end at {}", self.base.size()),
            )),
        }
    }
}

impl ReadAt for Overlay {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(buf.len(), offset)?;
        let changed = self.changed.read().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (offset / BLOCK, (offset + buf.len() as u64).div_ceil(BLOCK));
        if changed.range(first..last).next().is_none() {
            return self.base.read_exact_at(buf, offset);
        }
        self.base.read_exact_at(buf, offset)?;
        for piece in pieces(buf.len(), offset) {
            if let Some(block) = changed.get(&piece.block) {
                buf[piece.of_data].copy_from_slice(&block[piece.within]);
            }
        }
        Ok(())
    }
}

struct Piece {
    block: u64,
    within: std::ops::Range<usize>,
    of_data: std::ops::Range<usize>,
}

/// How a range of bytes falls onto blocks.
fn pieces(len: usize, offset: u64) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % BLOCK) as usize;
        let count = (BLOCK as usize - start).min(len - done);
        let piece = Piece { block: at / BLOCK, within: start..start + count, of_data: done..done + count };
        done += count;
        Some(piece)
    })
}

/// A partition of an overlay.
#[derive(Clone)]
pub struct Window {
    pub(super) overlay: Arc<Overlay>,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Window {
    /// Reads within the partition.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.overlay.read_exact_at(buf, self.place(buf.len(), offset)?)
    }

    /// Writes within the partition.
    pub(super) fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.overlay.write_at(data, self.place(data.len(), offset)?)
    }

    fn place(&self, len: usize, offset: u64) -> io::Result<u64> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len => Ok(self.offset + offset),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{len} bytes at {offset} reach past the partition's end at {}", self.len),
            )),
        }
    }
}

/// Both lists of extents as one: ascending, not overlapping.
pub(super) fn union(mut extents: Vec<Extent>, more: Vec<Extent>) -> Vec<Extent> {
    extents.extend(more);
    extents.sort_unstable();
    let mut joined: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        match joined.last_mut() {
            Some(last) if extent.offset <= last.offset + last.len => {
                last.len = last.len.max(extent.offset + extent.len - last.offset);
            }
            _ => joined.push(extent),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::MemImage;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn an_overlay_is_the_same_as_writing_to_a_copy(
            size in 1_usize..20_000,
            writes in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..9000, any::<u8>()), 0..12),
            reads in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..9000), 1..12),
        ) {
            let mut copy: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let base = copy.clone();
            let overlay = Overlay::new(Arc::new(MemImage(base.clone())));
            for (at, len, byte) in writes {
                let at = at.index(size);
                let data = vec![byte; len];
                if at + len > size {
                    prop_assert!(overlay.write_at(&data, at as u64).is_err());
                } else {
                    overlay.write_at(&data, at as u64).unwrap();
                    copy[at..at + len].copy_from_slice(&data);
                }
            }
            for (at, len) in reads {
                let at = at.index(size);
                let len = len.min(size - at);
                let mut buf = vec![0; len];
                overlay.read_exact_at(&mut buf, at as u64).unwrap();
                prop_assert_eq!(&buf, &copy[at..at + len]);
            }
            let changes = overlay.changes().unwrap();
            for (index, (old, new)) in base.iter().zip(&copy).enumerate() {
                let at = index as u64;
                prop_assert!(old == new || changes.iter().any(|e| e.offset <= at && at < e.offset + e.len));
            }
            prop_assert!(changes.iter().all(|e| e.offset % BLOCK == 0 && e.offset + e.len <= size as u64));
        }
    }

    #[test]
    fn a_block_that_is_written_back_as_it_was_is_no_change() {
        let overlay = Overlay::new(Arc::new(MemImage(vec![7; 9000])));
        overlay.write_at(&[1], 4096).unwrap();
        overlay.write_at(&[1], 8999).unwrap();
        assert_eq!(overlay.changes().unwrap(), [Extent { offset: 4096, len: 9000 - 4096 }]);
        overlay.write_at(&[7], 4096).unwrap();
        assert_eq!(overlay.changes().unwrap(), [Extent { offset: 8192, len: 808 }]);
    }

    #[test]
    fn extents_join_where_they_touch_or_overlap() {
        let extent = |offset, len| Extent { offset, len };
        let joined = union(vec![extent(0, 8192), extent(20_480, 4096)], vec![extent(4096, 8192), extent(24_576, 4096)]);
        assert_eq!(joined, [extent(0, 12_288), extent(20_480, 8192)]);
    }
}
