//! Order in types: a `Verified` image, then a `Prepared` card, then the device writer.

use std::io;
use std::sync::Arc;

use serde::Serialize;

/// Random-access bytes of an image.
pub trait ReadAt: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// Past the end, or where the medium fails.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// A golden image whose SHA-256 was checked. Only `card::image` makes one.
#[derive(Clone)]
pub struct Verified {
    pub(super) data: Arc<dyn ReadAt>,
    pub(super) sha256: String,
}

impl Verified {
    /// The image's bytes, unpacked.
    pub fn data(&self) -> &Arc<dyn ReadAt> {
        &self.data
    }

    /// SHA-256, hex, of the file as published.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verified").field("sha256", &self.sha256).field("size", &self.data.size()).finish()
    }
}

/// A card ready to be written: everything is decided, every byte readable. Only `card::inject` makes one, from a [`Verified`] image.
#[derive(Clone)]
pub struct Prepared {
    pub(super) data: Arc<dyn ReadAt>,
    pub(super) extents: Vec<Extent>,
    pub(super) files: Vec<InjectedFile>,
    pub(super) instance_id: String,
    pub(super) image_sha256: String,
}

impl Prepared {
    /// Size of the whole card in bytes.
    pub fn size(&self) -> u64 {
        self.data.size()
    }

    /// What must be written: ascending, not overlapping, multiples of 4 KiB (but for the end of the image). What they leave out no
    /// file system uses.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Image and injected files as one.
    pub fn data(&self) -> &Arc<dyn ReadAt> {
        &self.data
    }

    /// What was injected.
    pub fn files(&self) -> &[InjectedFile] {
        &self.files
    }

    /// cloud-init's instance-id: digest of the non-secret render and the secrets' versions.
    pub fn instance_id(&self) -> &str {
        &self.instance_id
    }

    /// SHA-256, hex, of the golden image as published.
    pub fn image_sha256(&self) -> &str {
        &self.image_sha256
    }
}

/// An injected file, for people; never its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InjectedFile {
    /// Absolute path within its file system.
    pub path: String,
    /// `root` or `boot`.
    pub filesystem: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Whether its content is secret.
    pub secret: bool,
}
