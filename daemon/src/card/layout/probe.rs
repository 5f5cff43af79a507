//! Which file system a partition holds, by its superblock.

use super::super::ReadAt;
use super::super::bytes::{byte, le16, le32, slice, text, uuid};
use super::super::ext::{MAGIC, SUPERBLOCK, at, compat, incompat};
use super::super::media::read_up_to;
use super::fat::geometry;
use super::{FatBits, FileSystem, FsKind, LayoutError};

/// Enough for every superblock looked at but btrfs' (at 64 KiB) and iso9660's (at 32 KiB).
const HEAD: usize = 8192;

/// Looks at the partition at `offset` with `len` bytes.
pub(super) fn file_system(data: &dyn ReadAt, offset: u64, len: u64) -> Result<FileSystem, LayoutError> {
    let read = |at: u64, want: usize| {
        let want = len.saturating_sub(at).min(want as u64) as usize;
        read_up_to(data, offset + at, want).map_err(|source| LayoutError::Read { offset: offset + at, source })
    };
    let head = read(0, HEAD)?;
    let superblock = slice(&head, SUPERBLOCK as usize, 1024);
    if le16(superblock, at::MAGIC) == MAGIC {
        return Ok(ext(superblock));
    }
    if let Some(fat) = fat(&head) {
        let directory = read(fat.root_dir, 32 * 512)?;
        let label = volume_label(&directory).or(fat.label);
        return Ok(FileSystem { kind: FsKind::Fat(fat.bits), label, uuid: fat.serial });
    }
    if slice(&head, 4086, 10) == b"SWAPSPACE2" {
        return Ok(FileSystem { kind: FsKind::Swap, label: text(slice(&head, 1052, 16)), uuid: uuid(&head, 1036) });
    }
    let far = |at: u64, magic: &[u8]| read(at, magic.len()).map(|found| found == magic);
    let kind = if let Some(name) = by_magic(&head) {
        FsKind::Other(name)
    } else if far(65536 + 64, b"_BHRfS_M")? {
        FsKind::Other("btrfs")
    } else if far(32768 + 1, b"CD001")? {
        FsKind::Other("iso9660")
    } else {
        FsKind::Unknown
    };
    Ok(FileSystem { kind, label: None, uuid: None })
}

fn by_magic(head: &[u8]) -> Option<&'static str> {
    const MAGICS: [(usize, &[u8], &str); 9] = [
        (0, b"XFSB", "xfs"),
        (0, b"hsqs", "squashfs"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (512, b"LABELONE", "LVM"),
        (3, b"NTFS    ", "ntfs"),
        (3, b"EXFAT   ", "exfat"),
        (1024, b"\x10\x20\xf5\xf2", "f2fs"),
        (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
        (4096, b"\xfc\x4e\x2b\xa9", "md raid"),
    ];
    MAGICS.iter().find(|(at, magic, _)| slice(head, *at, magic.len()) == *magic).map(|(_, _, name)| *name)
}

fn ext(superblock: &[u8]) -> FileSystem {
    let (compatible, incompatible) = (le32(superblock, at::COMPAT), le32(superblock, at::INCOMPAT));
    let kind = if incompatible & incompat::JOURNAL_DEV != 0 {
        FsKind::Other("external ext journal")
    } else if incompatible & incompat::EXTENTS != 0 {
        FsKind::Ext4
    } else if compatible & compat::HAS_JOURNAL != 0 {
        FsKind::Other("ext3")
    } else {
        FsKind::Other("ext2")
    };
    FileSystem { kind, label: text(slice(superblock, 120, 16)), uuid: uuid(superblock, 104) }
}

struct Fat {
    bits: FatBits,
    label: Option<String>,
    serial: Option<String>,
    /// Byte offset of the root directory within the partition.
    root_dir: u64,
}

/// Whether a boot sector is that of a FAT file system (as opposed to an MBR, which has the same signature).
pub(super) fn is_fat(sector: &[u8]) -> bool {
    geometry(sector).is_some()
}

fn fat(head: &[u8]) -> Option<Fat> {
    let geometry = geometry(head)?;
    let extended = if geometry.bits == FatBits::Fat32 { 66 } else { 38 };
    let (mut label, mut serial) = (None, None);
    if matches!(byte(head, extended), 0x28 | 0x29) {
        let number = le32(head, extended + 1);
        serial = Some(format!("{:04X}-{:04X}", number >> 16, number & 0xFFFF));
        label = text(slice(head, extended + 5, 11)).filter(|label| label != "NO NAME");
    }
    let first_cluster = u64::from(le32(head, 44)).saturating_sub(2);
    let root_dir = if geometry.bits == FatBits::Fat32 { geometry.clusters + first_cluster * geometry.cluster } else { geometry.root };
    Some(Fat { bits: geometry.bits, label, serial, root_dir })
}

/// The label in the root directory, which wins over the one in the boot sector.
fn volume_label(directory: &[u8]) -> Option<String> {
    const VOLUME_ID: u8 = 0x08;
    const KIND: u8 = 0x3F;
    directory
        .chunks_exact(32)
        .take_while(|entry| entry[0] != 0)
        .find(|entry| entry[0] != 0xE5 && entry[11] & KIND == VOLUME_ID)
        .and_then(|entry| text(&entry[..11]))
}
