//! Free blocks of ext2, ext3 and ext4 (kernel documentation, filesystems/ext4: super block, group descriptors, block bitmaps).

use std::ops::Range;

use super::super::super::bytes::{le16, le32};
use super::super::super::ext::{self, at, compat, incompat, ro_compat, state};
use super::{Part, Refusal, clear_runs};

/// Features under which metadata and bitmaps are where this file looks for them.
const INCOMPAT_KNOWN: u32 = incompat::FILETYPE
    | incompat::EXTENTS
    | incompat::BIT64
    | incompat::MMP
    | incompat::FLEX_BG
    | incompat::EA_INODE
    | incompat::CSUM_SEED
    | incompat::LARGEDIR
    | incompat::INLINE_DATA
    | incompat::ENCRYPT
    | incompat::CASEFOLD;
const BG_BLOCK_UNINIT: u16 = 0x2;

/// Free ranges in bytes from the partition's beginning.
pub(super) fn free(part: &Part<'_>) -> Result<Vec<Range<u64>>, Refusal> {
    let superblock = part.read(ext::SUPERBLOCK, 1024)?;
    let geometry = Geometry::read(&superblock, part.len)?;
    let table = part.read((geometry.first + 1) * geometry.block, geometry.groups * geometry.desc_size)?;
    let descriptors: Vec<Descriptor> =
        table.chunks_exact(geometry.desc_size as usize).map(|raw| Descriptor::read(raw, geometry.wide)).collect();
    let metadata = geometry.metadata(&descriptors)?;
    let mut free = Vec::new();
    for (group, descriptor) in (0..).zip(&descriptors) {
        let blocks = geometry.blocks_of(group);
        if geometry.lazy && descriptor.flags & BG_BLOCK_UNINIT != 0 {
            subtract(&mut free, blocks, &metadata);
        } else {
            let bitmap = part.read(descriptor.block_bitmap * geometry.block, geometry.per_group.div_ceil(8))?;
            for run in clear_runs(&bitmap, blocks.end - blocks.start) {
                subtract(&mut free, blocks.start + run.start..blocks.start + run.end, &metadata);
            }
        }
    }
    Ok(free.into_iter().map(|run| run.start * geometry.block..run.end * geometry.block).collect())
}

/// Block numbers and sizes of the whole file system.
struct Geometry {
    block: u64,
    blocks: u64,
    /// `s_first_data_block`: 1 with blocks of 1 KiB, else 0.
    first: u64,
    per_group: u64,
    groups: u64,
    desc_size: u64,
    /// Descriptors carry the upper halves of block numbers.
    wide: bool,
    /// A bitmap may be uninitialised and is then meaningless.
    lazy: bool,
    inode_table: u64,
    /// Blocks of a superblock with its descriptor table and the space reserved for that table's growth.
    backup: u64,
    backups: Backups,
}

/// Which groups begin with a copy of the superblock.
enum Backups {
    All,
    Powers,
    Two(u64, u64),
}

impl Geometry {
    fn read(raw: &[u8], len: u64) -> Result<Self, Refusal> {
        let (compatible, incompatible, read_only) = (le32(raw, at::COMPAT), le32(raw, at::INCOMPAT), le32(raw, at::RO_COMPAT));
        usable(raw, incompatible, read_only)?;
        let log = le32(raw, 24);
        let (first, per_group, inodes) = (u64::from(le32(raw, 20)), u64::from(le32(raw, 32)), u64::from(le32(raw, 40)));
        if log > 6 || first > 1 || per_group < 256 || !per_group.is_multiple_of(8) || per_group > 8 << (10 + log) {
            return Err(Refusal::Whole("its superblock is not plausible"));
        }
        let block = 1024 << log;
        let wide = incompatible & incompat::BIT64 != 0;
        let blocks = u64::from(le32(raw, 4)) | if wide { u64::from(le32(raw, 0x150)) << 32 } else { 0 };
        if blocks <= first || blocks.checked_mul(block).is_none_or(|bytes| bytes > len) {
            return Err(Refusal::Whole("it is larger than its partition"));
        }
        let desc_size = if wide { u64::from(le16(raw, 0xFE)) } else { 32 };
        if !(32..=1024).contains(&desc_size) || !desc_size.is_power_of_two() {
            return Err(Refusal::Whole("its group descriptors have an impossible size"));
        }
        let groups = (blocks - first).div_ceil(per_group);
        let inode_size = if le32(raw, 76) == 0 { 128 } else { u64::from(le16(raw, 88)) };
        let growth = if compatible & compat::RESIZE_INODE == 0 { 0 } else { u64::from(le16(raw, 0xCE)) };
        let backups = if compatible & compat::SPARSE_SUPER2 != 0 {
            Backups::Two(u64::from(le32(raw, 0x24C)), u64::from(le32(raw, 0x250)))
        } else if read_only & ro_compat::SPARSE_SUPER != 0 {
            Backups::Powers
        } else {
            Backups::All
        };
        Ok(Self {
            block,
            blocks,
            first,
            per_group,
            groups,
            desc_size,
            wide: wide && desc_size >= 64,
            lazy: read_only & (ro_compat::GDT_CSUM | ro_compat::METADATA_CSUM) != 0,
            inode_table: (inodes * inode_size).div_ceil(block),
            backup: 1 + (groups * desc_size).div_ceil(block) + growth,
            backups,
        })
    }

    fn blocks_of(&self, group: u64) -> Range<u64> {
        let start = self.first + group * self.per_group;
        start..(start + self.per_group).min(self.blocks)
    }

    /// Every block of metadata that a group's own bitmap need not show while it is uninitialised: ascending.
    fn metadata(&self, descriptors: &[Descriptor]) -> Result<Vec<Range<u64>>, Refusal> {
        let from = |start: u64, len: u64| start..start.saturating_add(len);
        let mut ranges = Vec::with_capacity(4 * descriptors.len());
        for (group, descriptor) in (0..).zip(descriptors) {
            if self.backups.holds(group) {
                ranges.push(from(self.blocks_of(group).start, self.backup));
            }
            ranges.push(from(descriptor.block_bitmap, 1));
            ranges.push(from(descriptor.inode_bitmap, 1));
            ranges.push(from(descriptor.inode_table, self.inode_table));
        }
        if ranges.iter().any(|range| range.end > self.blocks) {
            return Err(Refusal::Whole("its group descriptors point outside of it"));
        }
        ranges.sort_by_key(|range| range.start);
        Ok(ranges)
    }
}

fn usable(raw: &[u8], incompatible: u32, read_only: u32) -> Result<(), Refusal> {
    let found = le16(raw, at::STATE);
    let reason = if le16(raw, at::MAGIC) != ext::MAGIC {
        "it has no superblock"
    } else if incompatible & incompat::RECOVER != 0 {
        "its journal is not replayed"
    } else if incompatible & incompat::META_BG != 0 {
        "it has meta block groups"
    } else if read_only & ro_compat::BIGALLOC != 0 {
        "it allocates clusters of blocks"
    } else if incompatible & !INCOMPAT_KNOWN != 0 {
        "it has a feature that metis does not know"
    } else if found & state::VALID == 0 || found & state::ERRORS != 0 {
        "it was not unmounted cleanly"
    } else {
        return Ok(());
    };
    Err(Refusal::Whole(reason))
}

impl Backups {
    fn holds(&self, group: u64) -> bool {
        let power_of =
            |base: u64| std::iter::successors(Some(base), |p| p.checked_mul(base)).take_while(|&p| p <= group).any(|p| p == group);
        match self {
            Self::All => true,
            Self::Powers => group <= 1 || power_of(3) || power_of(5) || power_of(7),
            Self::Two(one, two) => group == 0 || group == *one || group == *two,
        }
    }
}

/// What a group descriptor says about blocks.
struct Descriptor {
    block_bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    flags: u16,
}

impl Descriptor {
    fn read(raw: &[u8], wide: bool) -> Self {
        let high = |at| if wide { u64::from(le32(raw, at)) << 32 } else { 0 };
        let block = |low, up| u64::from(le32(raw, low)) | high(up);
        Self { block_bitmap: block(0, 32), inode_bitmap: block(4, 36), inode_table: block(8, 40), flags: le16(raw, 18) }
    }
}

/// Appends `range` without what `metadata` (ascending) holds of it.
fn subtract(free: &mut Vec<Range<u64>>, range: Range<u64>, metadata: &[Range<u64>]) {
    let mut at = range.start;
    let first = metadata.partition_point(|held| held.end <= range.start);
    for held in metadata[first..].iter().take_while(|held| held.start < range.end) {
        if held.start > at {
            free.push(at..held.start);
        }
        at = at.max(held.end);
    }
    if at < range.end {
        free.push(at..range.end);
    }
}
