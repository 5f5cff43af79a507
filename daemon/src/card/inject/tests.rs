//! Real file systems, edited here and judged by others: e2fsck, fsck.vfat, ext4-view, debugfs, and the kernel where it may mount.

mod fixture;
mod images;
mod kernel;
