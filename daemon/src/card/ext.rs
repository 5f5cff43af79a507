//! Fields and feature bits of the superblocks of ext2, ext3 and ext4 (kernel documentation, filesystems/ext4/super.rst).

/// Where the superblock is within its file system, in bytes.
pub(super) const SUPERBLOCK: u64 = 1024;
/// `s_magic`.
pub(super) const MAGIC: u16 = 0xEF53;

/// Where fields are within the superblock.
pub(super) mod at {
    pub(in crate::card) const WTIME: usize = 0x30;
    pub(in crate::card) const MAGIC: usize = 0x38;
    pub(in crate::card) const STATE: usize = 0x3A;
    pub(in crate::card) const COMPAT: usize = 0x5C;
    pub(in crate::card) const INCOMPAT: usize = 0x60;
    pub(in crate::card) const RO_COMPAT: usize = 0x64;
}

/// Bits of `s_state`.
pub(super) mod state {
    pub(in crate::card) const VALID: u16 = 0x1;
    pub(in crate::card) const ERRORS: u16 = 0x2;
}

/// Bits of `s_feature_compat`.
pub(super) mod compat {
    pub(in crate::card) const HAS_JOURNAL: u32 = 0x4;
    pub(in crate::card) const RESIZE_INODE: u32 = 0x10;
    pub(in crate::card) const SPARSE_SUPER2: u32 = 0x200;
    pub(in crate::card) const FAST_COMMIT: u32 = 0x400;
}

/// Bits of `s_feature_incompat`.
pub(super) mod incompat {
    pub(in crate::card) const COMPRESSION: u32 = 0x1;
    pub(in crate::card) const FILETYPE: u32 = 0x2;
    pub(in crate::card) const RECOVER: u32 = 0x4;
    pub(in crate::card) const JOURNAL_DEV: u32 = 0x8;
    pub(in crate::card) const META_BG: u32 = 0x10;
    pub(in crate::card) const EXTENTS: u32 = 0x40;
    pub(in crate::card) const BIT64: u32 = 0x80;
    pub(in crate::card) const MMP: u32 = 0x100;
    pub(in crate::card) const FLEX_BG: u32 = 0x200;
    pub(in crate::card) const EA_INODE: u32 = 0x400;
    pub(in crate::card) const DIRDATA: u32 = 0x1000;
    pub(in crate::card) const CSUM_SEED: u32 = 0x2000;
    pub(in crate::card) const LARGEDIR: u32 = 0x4000;
    pub(in crate::card) const INLINE_DATA: u32 = 0x8000;
    pub(in crate::card) const ENCRYPT: u32 = 0x1_0000;
    pub(in crate::card) const CASEFOLD: u32 = 0x2_0000;
}

/// Bits of `s_feature_ro_compat`.
pub(super) mod ro_compat {
    pub(in crate::card) const SPARSE_SUPER: u32 = 0x1;
    pub(in crate::card) const LARGE_FILE: u32 = 0x2;
    pub(in crate::card) const BTREE_DIR: u32 = 0x4;
    pub(in crate::card) const HUGE_FILE: u32 = 0x8;
    pub(in crate::card) const GDT_CSUM: u32 = 0x10;
    pub(in crate::card) const DIR_NLINK: u32 = 0x20;
    pub(in crate::card) const EXTRA_ISIZE: u32 = 0x40;
    pub(in crate::card) const SNAPSHOT: u32 = 0x80;
    pub(in crate::card) const QUOTA: u32 = 0x100;
    pub(in crate::card) const BIGALLOC: u32 = 0x200;
    pub(in crate::card) const METADATA_CSUM: u32 = 0x400;
    pub(in crate::card) const REPLICA: u32 = 0x800;
    pub(in crate::card) const READONLY: u32 = 0x1000;
    pub(in crate::card) const PROJECT: u32 = 0x2000;
    pub(in crate::card) const VERITY: u32 = 0x8000;
    pub(in crate::card) const ORPHAN_PRESENT: u32 = 0x1_0000;
}
