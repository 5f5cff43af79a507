//! Why an image cannot be had.

use std::io;
use std::path::{Path, PathBuf};

use super::super::LayoutError;

/// Why an image cannot be had. Nothing was written to any card, and nothing unverified stays in the cache.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference itself is wrong.
    #[error("image {image}: {why}")]
    Reference {
        /// The reference's URL.
        image: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file behind a `file:` reference cannot be read.
    #[error("image {image}: reading it failed: {source}; check that the file exists and that metis may read it")]
    Source {
        /// The reference's URL.
        image: String,
        /// Why.
        source: io::Error,
    },
    /// Downloading failed for good. What was received stays for the next attempt.
    #[error("image {image}: downloading it failed: {why}")]
    Download {
        /// The reference's URL.
        image: String,
        /// Why, and after how many attempts.
        why: String,
    },
    /// The published file is not what the inventory says.
    #[error("image {image}: its SHA-256 is {actual}, expected {expected}; nothing of it was used. Correct the sha256 or the source")]
    Digest {
        /// The reference's URL.
        image: String,
        /// From the reference.
        expected: String,
        /// Of the file.
        actual: String,
    },
    /// The unpacked image is not what the inventory says.
    #[error("image {image}: the SHA-256 of the unpacked image is {actual}, content_sha256 is {expected}; nothing of it was used")]
    ContentDigest {
        /// The reference's URL.
        image: String,
        /// From the reference.
        expected: String,
        /// Of the unpacked image.
        actual: String,
    },
    /// The published file cannot be unpacked.
    #[error("image {image}: unpacking it failed: {why}; the published file is damaged or of a kind that metis does not read")]
    Unpack {
        /// The reference's URL.
        image: String,
        /// Why.
        why: String,
    },
    /// Larger than the configured limit.
    #[error("image {image}: it is larger than {limit} bytes; raise card.max_image_size if that is right")]
    TooLarge {
        /// The reference's URL.
        image: String,
        /// `card.max_image_size`.
        limit: u64,
    },
    /// Its partition table cannot be relied on.
    #[error("image {image}: {source}")]
    Layout {
        /// The reference's URL.
        image: String,
        /// Why.
        source: LayoutError,
    },
    /// The cache's file system is full, and nothing in the cache can be given up.
    #[error(
        "the cache {} has {available} bytes free; {needed} more are needed above card.free_space_floor ({floor}). \
         Free some space or lower the floor",
        dir.display()
    )]
    NoSpace {
        /// `card.cache_dir`.
        dir: PathBuf,
        /// Bytes free now.
        available: u64,
        /// Bytes wanted beyond the floor.
        needed: u64,
        /// `card.free_space_floor`.
        floor: u64,
    },
    /// The cache cannot be written or read.
    #[error("the image cache {}: {source}", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The caller gave up.
    #[error("fetching the image was cancelled")]
    Cancelled,
}

impl ImageError {
    /// Whether another attempt must fail in the same way: the reference or the published file is wrong, or this host has no room for it.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Source { .. } | Self::Download { .. } | Self::Cache { .. } => false,
            Self::Reference { .. }
            | Self::Digest { .. }
            | Self::ContentDigest { .. }
            | Self::Unpack { .. }
            | Self::TooLarge { .. }
            | Self::Layout { .. }
            | Self::NoSpace { .. }
            | Self::Cancelled => true,
        }
    }

    pub(super) fn cache(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Cache { path, source }
    }
}

/// ENOSPC or EDQUOT, however deep.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
