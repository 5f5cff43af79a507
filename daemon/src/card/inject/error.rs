//! Why a card cannot be prepared.

use std::io;

use super::super::LayoutError;
use super::render::RenderError;

/// Why a card cannot be prepared. Nothing of it was written anywhere: the overlay is dropped as a whole.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The image's partition table or the superblocks cannot be relied on.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The inventory says something that cannot be put onto this image.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// Nothing to inject into.
    #[error(
        "the image has no ext4 partition that could be the root; it holds: {found}. Take another image, or write this one as it is (no_inject)"
    )]
    NoRoot {
        /// What there is instead.
        found: String,
    },
    /// A feature of the root file system that metis does not keep consistent when it writes.
    #[error(
        "the ext4 file system in partition {partition} has the feature `{feature}`, which metis does not write to; \
         make the image without it (mkfs.ext4 -O ^{feature})"
    )]
    Feature {
        /// Number of the partition.
        partition: u32,
        /// As mkfs.ext4(8) calls it.
        feature: String,
    },
    /// The file system is marked as damaged.
    #[error("the {fs} file system in partition {partition} {why}; check it (fsck) where the image is built")]
    Damaged {
        /// `ext4` or `FAT`.
        fs: &'static str,
        /// Number of the partition.
        partition: u32,
        /// What is wrong with it.
        why: String,
    },
    /// No room.
    #[error("no space left in the {fs} file system of the image while writing {path}; build the image with more free space")]
    NoSpace {
        /// `root` or `boot`.
        fs: &'static str,
        /// What did not fit.
        path: String,
    },
    /// One operation on one path failed.
    #[error("cannot {doing} {path} in the {fs} file system of the image: {why}")]
    Path {
        /// `root` or `boot`.
        fs: &'static str,
        /// e.g. `write`.
        doing: &'static str,
        /// Where.
        path: String,
        /// Why.
        why: String,
    },
    /// What was read back is not what was written.
    #[error(
        "{path} in the {fs} file system reads back with a different {what} than was written; do not use this image with metis and report it"
    )]
    Verify {
        /// `root` or `boot`.
        fs: &'static str,
        /// Which file.
        path: String,
        /// `content`, `mode`, `owner`, `kind`.
        what: &'static str,
    },
    /// The image cannot be read.
    #[error("reading the image failed")]
    Read(#[from] io::Error),
}
