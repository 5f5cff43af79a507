//! The order in which a card is written: pure. Both ends of the protocol work it out from the same extents.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::super::Extent;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What one chunk may hold: a multiple of every erase block in use, small enough for eight of them in memory.
pub(super) const CHUNK: u64 = 4 * MIB;
/// Both ends of a device are cleared first: a partition table, or the spare copy of a GPT, is within them.
pub(super) const END: u64 = MIB;
/// The MBR and the GPT header are within the first page; no table is valid without them.
const TABLE: u64 = 4 * KIB;
/// Unit of partition tables and of every aligned access.
const SECTOR: u64 = 512;
/// Gaps shorter than this cost more to leave out than to write.
const SMALL_GAP: u64 = 64 * KIB;
/// A card has some dozens; more than this is not believed.
pub(super) const MAX_EXTENTS: usize = 65_536;

/// Written in this order, each flushed and read back before the next: what makes a card valid comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Everything between the ends.
    Body,
    /// The image's last MiB, where the spare GPT is.
    Tail,
    /// The first MiB but for its first page: boot loaders, GPT entries.
    Boot,
    /// The first page: MBR and GPT header.
    Table,
}

/// What is written, hashed, read back and, if need be, repeated as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub phase: Phase,
    pub offset: u64,
    pub len: usize,
}

/// Extents that no card has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadExtents {
    #[error("there is nothing to write")]
    Nothing,
    #[error("{0} extents are more than the {MAX_EXTENTS} that a card may have")]
    TooMany(usize),
    #[error("the extent at {0} is empty, overlaps the one before, is not aligned to {SECTOR} bytes or ends past the image")]
    Bad(u64),
}

/// Chunks in the order of writing. They cover the extents exactly, cross no multiple of [`CHUNK`] and belong to one phase each.
pub(super) fn chunks(extents: &[Extent], size: u64) -> Result<Vec<Chunk>, BadExtents> {
    check(extents, size)?;
    let tail = size.saturating_sub(END) / TABLE * TABLE;
    let mut chunks = Vec::new();
    for extent in extents {
        let end = extent.offset + extent.len;
        let mut offset = extent.offset;
        while offset < end {
            let (phase, limit) = match offset {
                0..TABLE => (Phase::Table, TABLE),
                TABLE..END => (Phase::Boot, END),
                _ if offset >= tail => (Phase::Tail, u64::MAX),
                _ => (Phase::Body, tail),
            };
            let next = end.min(limit).min((offset / CHUNK + 1).saturating_mul(CHUNK));
            chunks.push(Chunk { phase, offset, len: (next - offset) as usize });
            offset = next;
        }
    }
    chunks.sort_by_key(|chunk| (chunk.phase, chunk.offset));
    Ok(chunks)
}

fn check(extents: &[Extent], size: u64) -> Result<(), BadExtents> {
    if extents.is_empty() {
        return Err(BadExtents::Nothing);
    }
    if extents.len() > MAX_EXTENTS {
        return Err(BadExtents::TooMany(extents.len()));
    }
    let mut from = 0;
    for extent in extents {
        let end = extent.offset.checked_add(extent.len).filter(|end| *end <= size).ok_or(BadExtents::Bad(extent.offset))?;
        let aligned = extent.offset % SECTOR == 0 && (end % SECTOR == 0 || end == size);
        if extent.len == 0 || extent.offset < from || !aligned {
            return Err(BadExtents::Bad(extent.offset));
        }
        from = end;
    }
    Ok(())
}

/// The indices of one phase.
pub(super) fn range(chunks: &[Chunk], phase: Phase) -> Range<usize> {
    chunks.partition_point(|chunk| chunk.phase < phase)..chunks.partition_point(|chunk| chunk.phase <= phase)
}

/// Bytes of all chunks.
pub(super) fn total(chunks: &[Chunk]) -> u64 {
    chunks.iter().map(|chunk| chunk.len as u64).sum()
}

/// The extents with short gaps closed, and longer ones until there are few enough for the protocol. Closing a gap writes bytes that
/// no file system uses; leaving an extent out would lose some.
pub(super) fn coalesce(extents: &[Extent]) -> Vec<Extent> {
    let mut gap = SMALL_GAP;
    loop {
        let mut merged: Vec<Extent> = Vec::new();
        for extent in extents {
            match merged.last_mut() {
                Some(last) if extent.offset <= (last.offset + last.len).saturating_add(gap) => {
                    last.len = (extent.offset + extent.len - last.offset).max(last.len);
                }
                _ => merged.push(*extent),
            }
        }
        if merged.len() <= MAX_EXTENTS {
            return merged;
        }
        gap = gap.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    fn shown(chunks: &[Chunk]) -> Vec<(Phase, u64, usize)> {
        chunks.iter().map(|chunk| (chunk.phase, chunk.offset, chunk.len)).collect()
    }

    #[test]
    fn a_full_copy_ends_with_its_first_page() {
        let chunks = chunks(&[extent(0, 10 * MIB)], 10 * MIB).unwrap();
        assert_eq!(
            shown(&chunks),
            [
                (Phase::Body, MIB, 3 << 20),
                (Phase::Body, 4 * MIB, 4 << 20),
                (Phase::Body, 8 * MIB, 1 << 20),
                (Phase::Tail, 9 * MIB, 1 << 20),
                (Phase::Boot, 4096, (1 << 20) - 4096),
                (Phase::Table, 0, 4096),
            ]
        );
        assert_eq!(range(&chunks, Phase::Body), 0..3);
        assert_eq!(range(&chunks, Phase::Table), 5..6);
    }

    #[test]
    fn a_tiny_image_is_all_head() {
        let chunks = chunks(&[extent(0, 5000)], 5000).unwrap();
        assert_eq!(shown(&chunks), [(Phase::Boot, 4096, 904), (Phase::Table, 0, 4096)]);
        assert_eq!(range(&chunks, Phase::Body), 0..0);
    }

    #[test]
    fn bad_extents_are_refused() {
        let size = 8192;
        for (extents, error) in [
            (vec![], BadExtents::Nothing),
            (vec![extent(0, 0)], BadExtents::Bad(0)),
            (vec![extent(100, 412)], BadExtents::Bad(100)),
            (vec![extent(0, 100)], BadExtents::Bad(0)),
            (vec![extent(0, 1024), extent(512, 1024)], BadExtents::Bad(512)),
            (vec![extent(4096, 8192)], BadExtents::Bad(4096)),
            (vec![extent(512, u64::MAX)], BadExtents::Bad(512)),
            (vec![extent(0, 512); MAX_EXTENTS + 1], BadExtents::TooMany(MAX_EXTENTS + 1)),
        ] {
            assert_eq!(chunks(&extents, size), Err(error));
        }
    }

    #[test]
    fn too_many_extents_are_joined_and_none_is_lost() {
        let many: Vec<_> = (0..200_000).map(|index| extent(index * 2 * MIB, 4096)).collect();
        let merged = coalesce(&many);
        assert!(merged.len() <= MAX_EXTENTS);
        let covered = |offset| merged.iter().any(|one| one.offset <= offset && offset + 4096 <= one.offset + one.len);
        assert!(many.iter().step_by(997).all(|one| covered(one.offset)));
        assert_eq!(coalesce(&[extent(0, 4096), extent(8 * MIB, 4096)]).len(), 2);
        assert_eq!(coalesce(&[extent(0, 4096), extent(8192, 4096)]), [extent(0, 12288)]);
    }

    prop_compose! {
        fn extents()(steps in prop::collection::vec((1..40u64, 1..3000u64), 1..40), odd in 0..512u64) -> (Vec<Extent>, u64) {
            let mut offset = 0;
            let mut extents = Vec::new();
            for (index, (gap, len)) in steps.iter().enumerate() {
                offset += if index == 0 && gap % 2 == 0 { 0 } else { gap * 4096 };
                extents.push(extent(offset, len * 4096));
                offset += len * 4096;
            }
            if let Some(last) = extents.last_mut() {
                last.len -= odd;
                offset -= odd;
            }
            (extents, offset)
        }
    }

    proptest! {
        #[test]
        fn chunks_cover_the_extents_exactly((extents, size) in extents()) {
            let chunks = chunks(&extents, size).unwrap();
            prop_assert!(chunks.windows(2).all(|pair| (pair[0].phase, pair[0].offset) < (pair[1].phase, pair[1].offset)));
            let mut sorted = chunks.clone();
            sorted.sort_by_key(|chunk| chunk.offset);
            let mut joined: Vec<Extent> = Vec::new();
            for chunk in &sorted {
                prop_assert!(chunk.len as u64 <= CHUNK);
                prop_assert_eq!(chunk.offset / CHUNK, (chunk.offset + chunk.len as u64 - 1) / CHUNK);
                prop_assert_eq!(chunk.phase == Phase::Table, chunk.offset < TABLE);
                match joined.last_mut() {
                    Some(last) if last.offset + last.len == chunk.offset => last.len += chunk.len as u64,
                    _ => joined.push(extent(chunk.offset, chunk.len as u64)),
                }
            }
            prop_assert_eq!(total(&chunks), extents.iter().map(|one| one.len).sum::<u64>());
            prop_assert_eq!(joined, extents);
        }
    }
}
