//! What an image holds: its partition table, its partitions and their file systems. Reads only; nothing in an image can make it panic.

pub(super) mod fat;
mod probe;
mod table;

use std::io;

use serde::Serialize;

use super::ReadAt;

/// An image's partition table and file systems.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Size of the image in bytes.
    pub size: u64,
    /// Kind of partition table.
    pub table: Table,
    /// Ascending by offset, not overlapping, all within the image.
    pub partitions: Vec<Partition>,
}

/// Kind of partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// No table: the image is one bare file system, or unknown.
    None,
    /// DOS partition table, logical partitions included.
    Mbr,
    /// GUID partition table (UEFI 2.10 §5.3), header and entries with the right checksums.
    Gpt,
}

/// A partition, or the whole image where it has no table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// As Linux numbers it; 0 where the image has no table.
    pub number: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What the table says it is.
    pub kind: PartitionType,
    /// Name in the table; GPT only.
    pub name: Option<String>,
    /// What it holds.
    pub fs: FileSystem,
}

/// A partition's type as the table has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionType {
    /// The image has no table.
    Whole,
    /// MBR type byte.
    Mbr(u8),
    /// GPT type GUID, lower case.
    Gpt(String),
}

/// A file system as its superblock describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSystem {
    /// Which one.
    pub kind: FsKind,
    /// Its label.
    pub label: Option<String>,
    /// Its UUID (ext), or serial number as blkid(8) prints it (FAT).
    pub uuid: Option<String>,
}

/// Kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FsKind {
    /// ext4: extents are in use.
    Ext4,
    /// FAT with that many bits per entry.
    Fat(FatBits),
    /// Linux swap space.
    Swap,
    /// Known, but metis does not look into it.
    Other(&'static str),
    /// Nothing that metis knows.
    Unknown,
}

/// Width of a FAT entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FatBits {
    /// FAT12.
    Fat12,
    /// FAT16.
    Fat16,
    /// FAT32.
    Fat32,
}

/// Why an image's layout cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Reading the image failed.
    #[error("reading the image at byte {offset} failed")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The table contradicts itself.
    #[error("the image's {table} is damaged: {why}; get the image anew or rebuild it")]
    Damaged {
        /// Which table.
        table: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A partition reaches past the end of the image.
    #[error(
        "partition {number} (bytes {offset} to {end}) reaches past the end of the image ({size} bytes); \
         the image is truncated or its table is wrong"
    )]
    OutOfRange {
        /// Its number.
        number: u32,
        /// Its first byte.
        offset: u64,
        /// The byte after its last.
        end: u64,
        /// Size of the image.
        size: u64,
    },
    /// Two partitions share bytes.
    #[error("partitions {first} and {second} of the image overlap at byte {at}; its partition table is wrong")]
    Overlap {
        /// The one that begins first.
        first: u32,
        /// The one that begins within it.
        second: u32,
        /// First shared byte.
        at: u64,
    },
}

impl Layout {
    /// Reads the table and looks at every partition's superblock.
    ///
    /// # Errors
    /// Where the image cannot be read, or its table is damaged, or partitions overlap or lie outside. An image without anything known
    /// is no error: it is one partition of [`FsKind::Unknown`].
    pub fn read(data: &dyn ReadAt) -> Result<Self, LayoutError> {
        let (table, entries) = table::read(data)?;
        let mut partitions = Vec::with_capacity(entries.len());
        for entry in entries {
            let fs = probe::file_system(data, entry.offset, entry.len)?;
            let table::Entry { number, offset, len, kind, name } = entry;
            partitions.push(Partition { number, offset, len, kind, name, fs });
        }
        Ok(Self { size: data.size(), table, partitions })
    }

    /// The partition that becomes `/`, if there is one: an ext4 file system, chosen by (1) a root type of the Discoverable Partitions
    /// Specification, (2) a label that distributions give to it, (3) size, among those that are not marked as something else.
    pub fn root(&self) -> Option<&Partition> {
        let candidates = || self.partitions.iter().filter(|p| p.fs.kind == FsKind::Ext4);
        candidates()
            .find(|p| p.has_gpt_type(&ROOT_TYPES))
            .or_else(|| candidates().find(|p| p.has_label(&ROOT_LABELS)))
            .or_else(|| candidates().filter(|p| !p.is_other_than_root()).max_by_key(|p| p.len))
            .or_else(|| candidates().max_by_key(|p| p.len))
    }

    /// The FAT partition that the firmware boots from, if there is one: by label (Raspberry Pi), then EFI system partition, then the
    /// first.
    pub fn boot(&self) -> Option<&Partition> {
        let candidates = || self.partitions.iter().filter(|p| matches!(p.fs.kind, FsKind::Fat(_)));
        candidates()
            .find(|p| p.has_label(&BOOT_LABELS))
            .or_else(|| candidates().find(|p| p.has_gpt_type(&[ESP_TYPE]) || p.kind == PartitionType::Mbr(0xEF)))
            .or_else(|| candidates().find(|p| !p.has_label(&["cidata"])))
    }
}

const ESP_TYPE: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// Discoverable Partitions Specification: root of x86-64, arm64, arm, x86, riscv64.
const ROOT_TYPES: [&str; 5] = [
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "b921b045-1df0-41c3-af44-4c6f280d3fae",
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3",
    "44479540-f297-41b2-9af7-d131d5f0458a",
    "72ec70a6-cf74-40e6-bd49-4bda08e8f224",
];
/// Discoverable Partitions Specification: extended boot loader, home, srv, var, var/tmp, /usr of x86-64 and arm64.
const NOT_ROOT_TYPES: [&str; 7] = [
    "bc13c2ff-59e6-4262-a352-b275fd6f7172",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8",
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d",
    "7ec6f557-3bc5-4aca-b293-16ef5df639d1",
    "8484680c-9521-48c6-9c11-b0720656f69e",
    "b0e01050-ee5f-4390-949a-9101b17104e9",
];
/// Raspberry Pi OS, Ubuntu for the Pi, Ubuntu cloud images, Armbian, custom.
const ROOT_LABELS: [&str; 5] = ["rootfs", "writable", "cloudimg-rootfs", "armbi_root", "root"];
const NOT_ROOT_LABELS: [&str; 8] = ["boot", "bootfs", "system-boot", "armbi_boot", "home", "data", "var", "opi_boot"];
/// Ubuntu for the Pi, Raspberry Pi OS, Armbian, custom.
const BOOT_LABELS: [&str; 4] = ["system-boot", "bootfs", "armbi_boot", "boot"];

impl Partition {
    /// The byte after its last.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    fn has_gpt_type(&self, types: &[&str]) -> bool {
        matches!(&self.kind, PartitionType::Gpt(guid) if types.contains(&guid.as_str()))
    }

    /// Compares the file system's label, then the table's name, without regard to case.
    fn has_label(&self, labels: &[&str]) -> bool {
        let is = |text: &Option<String>| text.as_ref().is_some_and(|text| labels.iter().any(|label| text.eq_ignore_ascii_case(label)));
        is(&self.fs.label) || is(&self.name)
    }

    fn is_other_than_root(&self) -> bool {
        self.has_gpt_type(&NOT_ROOT_TYPES) || self.has_label(&NOT_ROOT_LABELS)
    }
}

#[cfg(test)]
mod tests;
