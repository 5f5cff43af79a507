//! The geometry in a FAT boot sector (Microsoft FAT specification 1.03).

use super::super::bytes::{byte, le16, le32};
use super::FatBits;

/// Where the parts of a FAT file system are, in bytes from its beginning.
#[derive(Debug)]
pub(in super::super) struct Geometry {
    pub(in super::super) bits: FatBits,
    /// Bytes per cluster.
    pub(in super::super) cluster: u64,
    /// The first FAT.
    pub(in super::super) fat: u64,
    /// Bytes of one FAT.
    pub(in super::super) fat_len: u64,
    /// The root directory (FAT12/16); FAT32 has its own in the cluster area.
    pub(in super::super) root: u64,
    /// The cluster area, where cluster 2 begins.
    pub(in super::super) clusters: u64,
    /// Number of clusters.
    pub(in super::super) count: u64,
}

/// The geometry, if all of it is possible.
pub(in super::super) fn geometry(sector: &[u8]) -> Option<Geometry> {
    let per_sector = u64::from(le16(sector, 11));
    let per_cluster = u64::from(byte(sector, 13));
    let (reserved, fats) = (u64::from(le16(sector, 14)), u64::from(byte(sector, 16)));
    let total = if le16(sector, 19) == 0 { le32(sector, 32) } else { u32::from(le16(sector, 19)) };
    let short = le16(sector, 22);
    let fat_sectors = if short == 0 { u64::from(le32(sector, 36)) } else { u64::from(short) };
    let possible = le16(sector, 510) == 0xAA55
        && matches!(byte(sector, 0), 0xEB | 0xE9)
        && [512, 1024, 2048, 4096].contains(&per_sector)
        && per_cluster.is_power_of_two()
        && reserved > 0
        && (1..=2).contains(&fats)
        && byte(sector, 21) >= 0xF0
        && fat_sectors > 0;
    if !possible {
        return None;
    }
    let root_sectors = (u64::from(le16(sector, 17)) * 32).div_ceil(per_sector);
    let root = reserved + fats * fat_sectors;
    let count = u64::from(total).checked_sub(root + root_sectors)? / per_cluster;
    // As Linux decides (fs/fat/inode.c): no 16-bit FAT length means FAT32, however few clusters there are.
    let bits = match count {
        _ if short == 0 => FatBits::Fat32,
        0..4085 => FatBits::Fat12,
        _ => FatBits::Fat16,
    };
    // FAT32 may keep only one FAT up to date and says which (BPB_ExtFlags).
    let flags = u64::from(le16(sector, 40));
    let active = if bits == FatBits::Fat32 && flags & 0x80 != 0 { flags & 0xF } else { 0 };
    (active < fats).then_some(Geometry {
        bits,
        cluster: per_cluster * per_sector,
        fat: (reserved + active * fat_sectors) * per_sector,
        fat_len: fat_sectors * per_sector,
        root: root * per_sector,
        clusters: (root + root_sectors) * per_sector,
        count,
    })
}
