//! What an ext4 file system must be like for metis to write to it. Looked at before it is opened: some of these would fail only at the
//! first write, others would be written wrongly.

use super::error::InjectError;
use super::overlay::Window;

/// Offsets within the superblock (Documentation/filesystems/ext4/super.rst), which is at byte 1024.
const SUPERBLOCK: u64 = 1024;
const WTIME: usize = 0x30;
const STATE: usize = 0x3A;
const COMPAT: usize = 0x5C;
const INCOMPAT: usize = 0x60;
const RO_COMPAT: usize = 0x64;

const STATE_ERRORS: u16 = 0x2;
const COMPAT_FAST_COMMIT: u32 = 0x400;
const INCOMPAT_RECOVER: u32 = 0x4;
const RO_COMPAT_ORPHAN_PRESENT: u32 = 0x1_0000;

/// A time for images that do not know when they were last written: 2023-11-14.
const SOME_TIME: u32 = 1_700_000_000;

/// filetype, needs_recovery, extent, 64bit, flex_bg, metadata_csum_seed, inline_data.
const INCOMPAT_OK: u32 = 0x2 | 0x4 | 0x40 | 0x80 | 0x200 | 0x2000 | 0x8000;
/// sparse_super, large_file, huge_file, uninit_bg, dir_nlink, extra_isize, metadata_csum.
const RO_COMPAT_OK: u32 = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x400;

const INCOMPAT_NAMES: [(u32, &str); 9] = [
    (0x1, "compression"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x100, "mmp"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x4000, "large_dir"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];
const RO_COMPAT_NAMES: [(u32, &str); 8] = [
    (0x4, "btree_dir"),
    (0x80, "snapshot"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x8000, "verity"),
];

/// Refuses what metis does not write to; returns the time at which the file system was last written (seconds since 1970), the same
/// for the same image.
///
/// # Errors
/// [`InjectError::Feature`], [`InjectError::Damaged`], or where the superblock cannot be read.
pub(super) fn check(window: &Window, partition: u32) -> Result<u32, InjectError> {
    let mut sb = [0; 1024];
    window.read(&mut sb, SUPERBLOCK)?;
    let u32_at = |at: usize| u32::from_le_bytes([sb[at], sb[at + 1], sb[at + 2], sb[at + 3]]);
    let damaged = |why: &str| Err(InjectError::Damaged { fs: "ext4", partition, why: why.to_owned() });
    let (incompat, ro_compat) = (u32_at(INCOMPAT), u32_at(RO_COMPAT));

    if let Some(feature) = unknown(incompat, INCOMPAT_OK, &INCOMPAT_NAMES, "incompat") {
        return Err(InjectError::Feature { partition, feature });
    }
    if ro_compat & RO_COMPAT_ORPHAN_PRESENT != 0 {
        return damaged("was not unmounted cleanly (its orphan file is in use)");
    }
    if let Some(feature) = unknown(ro_compat, RO_COMPAT_OK, &RO_COMPAT_NAMES, "ro_compat") {
        return Err(InjectError::Feature { partition, feature });
    }
    if u32_at(COMPAT) & COMPAT_FAST_COMMIT != 0 && incompat & INCOMPAT_RECOVER != 0 {
        return damaged("was not unmounted cleanly, and its journal has fast commits");
    }
    if u16::from_le_bytes([sb[STATE], sb[STATE + 1]]) & STATE_ERRORS != 0 {
        return damaged("is marked as having errors");
    }
    let written = u32_at(WTIME);
    Ok(if written == 0 { SOME_TIME } else { written })
}

fn unknown(bits: u32, ok: u32, names: &[(u32, &str)], set: &str) -> Option<String> {
    let bad = bits & !ok;
    if bad == 0 {
        return None;
    }
    let name = names.iter().find(|(bit, _)| bad & bit != 0).map(|(_, name)| (*name).to_owned());
    Some(name.unwrap_or_else(|| format!("{set} {bad:#x}")))
}
