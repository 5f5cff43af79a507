//! One change of an image.

use crate::site::Secret;

/// Which file system of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fs {
    /// The ext4 root.
    Root,
    /// The FAT boot partition.
    Boot,
}

impl Fs {
    /// `root` or `boot`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Boot => "boot",
        }
    }
}

/// One change of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEdit {
    /// Where.
    pub fs: Fs,
    /// Absolute path within it.
    pub path: String,
    /// What.
    pub kind: EditKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whether the content is secret.
    pub secret: bool,
    /// Whether this sets right a file of the image, which a second preparation finds right already.
    pub repair: bool,
}

/// What is changed. The content of files is kept as [`Secret`], so that none of it can be printed by accident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditKind {
    /// A regular file with that content.
    File(Secret),
    /// A link to that target.
    Symlink(String),
    /// A directory; `keep` leaves mode and owner of one that exists.
    Dir {
        /// See above.
        keep: bool,
    },
    /// Nothing may be there.
    Remove,
}

impl FileEdit {
    /// A file of the root, `root`'s.
    pub fn file(path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self {
            fs: Fs::Root,
            path: path.into(),
            kind: EditKind::File(Secret::new(content)),
            mode,
            uid: 0,
            gid: 0,
            secret: false,
            repair: false,
        }
    }

    /// A link of the root.
    pub fn symlink(path: impl Into<String>, target: impl Into<String>) -> Self {
        Self { kind: EditKind::Symlink(target.into()), ..Self::file(path, 0o777, []) }
    }

    /// A directory of the root.
    pub fn dir(path: impl Into<String>, mode: u32, keep: bool) -> Self {
        Self { kind: EditKind::Dir { keep }, ..Self::file(path, mode, []) }
    }

    /// Nothing at that path of the root.
    pub fn remove(path: impl Into<String>) -> Self {
        Self { kind: EditKind::Remove, repair: true, ..Self::file(path, 0, []) }
    }

    /// The same, owned by somebody else.
    pub fn owned(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// The same, its content secret.
    pub fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// The same, as a repair of the image's own file.
    pub fn repair(self) -> Self {
        Self { repair: true, ..self }
    }

    /// The same, on the boot partition.
    pub fn on_boot(self) -> Self {
        Self { fs: Fs::Boot, mode: 0o755, ..self }
    }

    /// Whether it is the same however often the image was prepared.
    pub fn is_own(&self) -> bool {
        !self.repair
    }
}
