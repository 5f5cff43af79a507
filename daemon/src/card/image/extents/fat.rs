//! Free clusters of FAT12, FAT16 and FAT32.

use std::ops::Range;

use super::super::super::FatBits;
use super::super::super::bytes::{le16, le32};
use super::super::super::layout::fat::geometry;
use super::{Part, Refusal};

/// Free ranges in bytes from the partition's beginning.
pub(super) fn free(part: &Part<'_>) -> Result<Vec<Range<u64>>, Refusal> {
    let geometry = geometry(&part.read(0, 512)?).ok_or(Refusal::Whole("its boot sector is not plausible"))?;
    let entries = geometry.count + 2;
    let needed = match geometry.bits {
        FatBits::Fat12 => (entries * 3).div_ceil(2),
        FatBits::Fat16 => entries * 2,
        FatBits::Fat32 => entries * 4,
    };
    if needed > geometry.fat_len || geometry.clusters + geometry.count * geometry.cluster > part.len {
        return Err(Refusal::Whole("it is larger than its partition or than its allocation table"));
    }
    let table = part.read(geometry.fat, needed)?;
    let mut free: Vec<Range<u64>> = Vec::new();
    for cluster in (2..entries).filter(|&cluster| entry(&table, geometry.bits, cluster as usize) == 0) {
        let start = geometry.clusters + (cluster - 2) * geometry.cluster;
        let end = start + geometry.cluster;
        match free.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => free.push(start..end),
        }
    }
    Ok(free)
}

fn entry(table: &[u8], bits: FatBits, cluster: usize) -> u32 {
    match bits {
        FatBits::Fat12 => u32::from(le16(table, cluster * 3 / 2) >> (4 * (cluster % 2)) & 0xFFF),
        FatBits::Fat16 => u32::from(le16(table, cluster * 2)),
        FatBits::Fat32 => le32(table, cluster * 4) & 0x0FFF_FFFF,
    }
}
