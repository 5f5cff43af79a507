//! What an ext4 file system must be like for metis to write to it. Looked at before it is opened: some of these would fail only at the
//! first write, others would be written wrongly.

use super::super::bytes::{le16, le32};
use super::super::ext::{SUPERBLOCK, at, compat, incompat, ro_compat, state};
use super::error::InjectError;
use super::overlay::Window;

/// A time for images that do not know when they were last written: 2023-11-14.
const SOME_TIME: u32 = 1_700_000_000;

const INCOMPAT_OK: u32 = incompat::FILETYPE
    | incompat::RECOVER
    | incompat::EXTENTS
    | incompat::BIT64
    | incompat::FLEX_BG
    | incompat::CSUM_SEED
    | incompat::INLINE_DATA;
const RO_COMPAT_OK: u32 = ro_compat::SPARSE_SUPER
    | ro_compat::LARGE_FILE
    | ro_compat::HUGE_FILE
    | ro_compat::GDT_CSUM
    | ro_compat::DIR_NLINK
    | ro_compat::EXTRA_ISIZE
    | ro_compat::METADATA_CSUM;

const INCOMPAT_NAMES: [(u32, &str); 9] = [
    (incompat::COMPRESSION, "compression"),
    (incompat::JOURNAL_DEV, "journal_dev"),
    (incompat::META_BG, "meta_bg"),
    (incompat::MMP, "mmp"),
    (incompat::EA_INODE, "ea_inode"),
    (incompat::DIRDATA, "dirdata"),
    (incompat::LARGEDIR, "large_dir"),
    (incompat::ENCRYPT, "encrypt"),
    (incompat::CASEFOLD, "casefold"),
];
const RO_COMPAT_NAMES: [(u32, &str); 8] = [
    (ro_compat::BTREE_DIR, "btree_dir"),
    (ro_compat::SNAPSHOT, "snapshot"),
    (ro_compat::QUOTA, "quota"),
    (ro_compat::BIGALLOC, "bigalloc"),
    (ro_compat::REPLICA, "replica"),
    (ro_compat::READONLY, "read-only"),
    (ro_compat::PROJECT, "project"),
    (ro_compat::VERITY, "verity"),
];

/// Refuses what metis does not write to; returns the time at which the file system was last written (seconds since 1970), the same
/// for the same image.
///
/// # Errors
/// [`InjectError::Feature`], [`InjectError::Damaged`], or where the superblock cannot be read.
pub(super) fn check(window: &Window, partition: u32) -> Result<u32, InjectError> {
    let mut sb = [0; 1024];
    window.read(&mut sb, SUPERBLOCK)?;
    let damaged = |why: &str| Err(InjectError::Damaged { fs: "ext4", partition, why: why.to_owned() });
    let (incompatible, read_only) = (le32(&sb, at::INCOMPAT), le32(&sb, at::RO_COMPAT));

    if let Some(feature) = unknown(incompatible, INCOMPAT_OK, &INCOMPAT_NAMES, "incompat") {
        return Err(InjectError::Feature { partition, feature });
    }
    if read_only & ro_compat::ORPHAN_PRESENT != 0 {
        return damaged("was not unmounted cleanly (its orphan file is in use)");
    }
    if let Some(feature) = unknown(read_only, RO_COMPAT_OK, &RO_COMPAT_NAMES, "ro_compat") {
        return Err(InjectError::Feature { partition, feature });
    }
    if le32(&sb, at::COMPAT) & compat::FAST_COMMIT != 0 && incompatible & incompat::RECOVER != 0 {
        return damaged("was not unmounted cleanly, and its journal has fast commits");
    }
    if le16(&sb, at::STATE) & state::ERRORS != 0 {
        return damaged("is marked as having errors");
    }
    let written = le32(&sb, at::WTIME);
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
