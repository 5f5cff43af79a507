//! What injection needs of a file system within an image. Both file systems that cards carry have it: ext4 and FAT.

use super::error::InjectError;

/// What a path is. Permission bits and owners are those of a mount with default options where the file system has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Kind of entry.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Kind of a directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link and where it points to.
    Symlink(String),
    /// Device, socket, pipe.
    Other,
}

/// What is put at a path.
#[derive(Debug, Clone, Copy)]
pub enum Put<'a> {
    /// A regular file with that content.
    File(&'a [u8]),
    /// A symbolic link with that target.
    Symlink(&'a str),
    /// A directory; one that exists gets mode and owner.
    Dir,
}

/// A tree of files. Paths are absolute within it; symbolic links on the way are followed and never lead out of it.
pub trait Tree {
    /// What the path is, the last link not followed; `None` where there is nothing.
    fn stat(&self, path: &str) -> Result<Option<Stat>, InjectError>;

    /// Names in a directory, sorted; none where there is no such directory.
    fn list(&self, path: &str) -> Result<Vec<String>, InjectError>;

    /// Content of a regular file, the last link followed; `None` where there is none.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, InjectError>;

    /// Puts something there in place of what is there; missing parents become `root`'s with mode 0755. A last link that leads to a
    /// regular file is followed (the image's own way of keeping that file), any other is replaced. What is right already is not touched.
    fn put(&self, path: &str, what: Put<'_>, mode: u32, owner: (u32, u32)) -> Result<(), InjectError>;

    /// Removes a file or link; nothing there is fine.
    fn remove(&self, path: &str) -> Result<(), InjectError>;
}
