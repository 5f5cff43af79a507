//! The ext4 side: a root file system edited in memory, neither mounted nor checked by a kernel.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fs_ext4::block_io::BlockDevice;
use fs_ext4::error::Error;
use fs_ext4::fs::Filesystem;
use fs_ext4::inode::Inode;
use fs_ext4::runtime::Runtime;

use super::error::InjectError;
use super::features;
use super::overlay::Window;
use super::tree::{Kind, Put, Stat, Tree};

const ROOT: u32 = 2;
/// As Linux: more links than this on one path is a loop (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// One write is one journal transaction; more than this may not fit into a small journal.
const PIECE: usize = 4 << 20;
/// What injection reads or edits is small; this much is not a configuration file.
const MAX_READ: u64 = 256 << 20;

impl BlockDevice for Window {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_ext4::error::Result<()> {
        Ok(self.read(buf, offset)?)
    }

    fn size_bytes(&self) -> u64 {
        self.len
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> fs_ext4::error::Result<()> {
        Ok(self.write(buf, offset)?)
    }

    fn is_writable(&self) -> bool {
        true
    }
}

/// The same time and the same inode generations whenever the same image is edited: equal inputs give equal bytes.
struct Fixed {
    time: i64,
    generation: AtomicU32,
}

impl Runtime for Fixed {
    fn now_unix_seconds(&self) -> i64 {
        self.time
    }

    fn next_inode_generation(&self) -> u32 {
        self.generation.fetch_add(1, Ordering::Relaxed)
    }
}

/// An ext4 file system of an image. Dropping it finishes its writes into the overlay.
pub struct Ext4 {
    fs: Filesystem,
}

/// Where a path ends.
struct Found {
    /// The directory that has the last name.
    parent: u32,
    /// The last name; empty for the root itself.
    name: String,
    /// What it names.
    ino: Option<u32>,
    /// The path's first name after all links.
    top: String,
}

/// Other file systems are mounted over these at boot, and would hide what is put there.
const HIDDEN: [&str; 4] = ["dev", "proc", "run", "sys"];

impl Ext4 {
    /// Opens the file system; a journal that was not replayed is replayed into the overlay.
    ///
    /// # Errors
    /// [`InjectError::Feature`] where it has a feature that writing would break, [`InjectError::Damaged`] where it is marked so or
    /// contradicts itself.
    pub fn open(window: Window, partition: u32) -> Result<Self, InjectError> {
        let written = features::check(&window, partition)?;
        let runtime = Fixed { time: i64::from(written), generation: AtomicU32::new(written) };
        let fs = Filesystem::mount_with_runtime(Arc::new(window), Arc::new(runtime)).map_err(|e| InjectError::Damaged {
            fs: "ext4",
            partition,
            why: format!("cannot be opened: {e}"),
        })?;
        Ok(Self { fs })
    }

    /// Walks a path within this file system: `..` never leaves its root, an absolute link begins at it.
    fn find(&self, path: &str, follow_last: bool) -> Result<Found, Error> {
        let mut names: VecDeque<String> = parts(path).map(str::to_owned).collect();
        let mut dirs = vec![(ROOT, String::new())];
        let top = |dirs: &[(u32, String)], name: &str| dirs.get(1).map_or_else(|| name.to_owned(), |(_, name)| name.clone());
        let mut links = 0;
        let mut missing = false;
        while let Some(name) = names.pop_front() {
            let parent = dirs.last().map_or(ROOT, |(ino, _)| *ino);
            if name == ".." {
                dirs.truncate(dirs.len().saturating_sub(1).max(1));
                continue;
            }
            let ino = match self.fs.lookup_at(parent, name.as_bytes()) {
                Ok(ino) => ino,
                Err(Error::NotFound) if names.is_empty() => return Ok(Found { parent, top: top(&dirs, &name), name, ino: None }),
                Err(Error::NotFound) => {
                    missing = true;
                    names.push_front(name);
                    break;
                }
                Err(e) => return Err(e),
            };
            let inode = self.fs.stat_ino(ino)?;
            if inode.is_symlink() && (follow_last || !names.is_empty()) {
                links += 1;
                self.enter_link(ino, links, &mut dirs, &mut names)?;
                continue;
            }
            if names.is_empty() {
                return Ok(Found { parent, top: top(&dirs, &name), name, ino: Some(ino) });
            }
            if !inode.is_dir() {
                return Err(Error::NotADirectory);
            }
            dirs.push((ino, name));
        }
        let here = dirs.last().map_or(ROOT, |(ino, _)| *ino);
        if missing {
            // The rest of the path is yet to be made below `here`.
            let rest: Vec<_> = names.into_iter().collect();
            let top = top(&dirs, rest.first().map_or("", String::as_str));
            return Ok(Found { parent: here, name: rest.join("/"), ino: None, top });
        }
        Ok(Found { parent: here, name: String::new(), ino: Some(here), top: top(&dirs, "") })
    }

    /// Puts the link's target before the names that are left; `links`: how many there were on this way.
    fn enter_link(&self, ino: u32, links: usize, dirs: &mut Vec<(u32, String)>, names: &mut VecDeque<String>) -> Result<(), Error> {
        if links > MAX_LINKS {
            return Err(Error::InvalidArgument("too many levels of symbolic links"));
        }
        let target = self.link_target(ino)?;
        if target.starts_with('/') {
            dirs.truncate(1);
        }
        parts(&target).rev().for_each(|part| names.push_front(part.to_owned()));
        Ok(())
    }

    fn link_target(&self, ino: u32) -> Result<String, Error> {
        String::from_utf8(self.fs.read_link_ino(ino)?).map_err(|_| Error::InvalidArgument("a link on the way is not UTF-8"))
    }

    /// Makes the missing directories of the found path; then only its last name is missing.
    fn make_parents(&self, found: Found) -> Result<Found, Error> {
        if HIDDEN.contains(&found.top.as_str()) {
            return Err(Error::InvalidArgument("a link of the image leads it below /dev, /proc, /run or /sys, where nothing is kept"));
        }
        let mut parent = found.parent;
        let mut names: Vec<&str> = found.name.split('/').collect();
        let last = names.pop().unwrap_or_default();
        if last == ".." || names.contains(&"..") {
            return Err(Error::InvalidArgument("the path leads through a directory that does not exist"));
        }
        for name in names {
            parent = self.fs.apply_mkdir_at(parent, name.as_bytes(), 0o755)?;
        }
        Ok(Found { parent, name: last.to_owned(), ino: None, ..found })
    }

    fn inode_of(&self, found: &Found) -> Result<Option<(u32, Inode)>, Error> {
        found.ino.map(|ino| Ok((ino, self.fs.stat_ino(ino)?))).transpose()
    }

    fn describe(&self, ino: u32, inode: &Inode) -> Result<Stat, Error> {
        let kind = if inode.is_file() {
            Kind::File
        } else if inode.is_dir() {
            Kind::Dir
        } else if inode.is_symlink() {
            Kind::Symlink(String::from_utf8_lossy(&self.fs.read_link_ino(ino)?).into_owned())
        } else {
            Kind::Other
        };
        Ok(Stat { kind, mode: u32::from(inode.mode) & 0o7777, uid: inode.uid, gid: inode.gid })
    }

    fn content(&self, ino: u32, size: u64) -> Result<Vec<u8>, Error> {
        if size > MAX_READ {
            return Err(Error::InvalidArgument("it is larger than 256 MiB"));
        }
        let mut content = vec![0; size as usize];
        let read = self.fs.read_ino(ino, 0, &mut content)?;
        content.truncate(read);
        Ok(content)
    }

    /// Where a file is to be written: through a last link only if that ends at a regular file.
    fn place(&self, path: &str) -> Result<Found, Error> {
        let found = self.find(path, false)?;
        let Some((_, inode)) = self.inode_of(&found)? else { return Ok(found) };
        if inode.is_symlink()
            && let Ok(target) = self.find(path, true)
            && let Some((_, inode)) = self.inode_of(&target)?
            && inode.is_file()
        {
            return Ok(target);
        }
        Ok(found)
    }

    fn put_file(&self, path: &str, data: &[u8], mode: u32, owner: (u32, u32)) -> Result<(), Error> {
        let mut found = self.place(path)?;
        if let Some((ino, inode)) = self.inode_of(&found)? {
            if inode.is_dir() {
                return Err(Error::IsADirectory);
            }
            // A file with several names is not edited in place (that would change the others), nor is one of ext2's block lists
            // or one kept within its inode. The others keep their inode, and so their extended attributes.
            if inode.is_file() && inode.links_count == 1 && inode.has_extents() && !inode.has_inline_data() {
                if inode.size != data.len() as u64 || self.content(ino, inode.size)? != data {
                    self.fs.apply_truncate_ino(ino, 0)?;
                    self.write(ino, data)?;
                }
                return self.attributes(ino, mode, owner);
            }
            if inode.is_file() && inode.links_count == 1 && self.content(ino, inode.size)? == data {
                return self.attributes(ino, mode, owner);
            }
            self.fs.apply_unlink_at(found.parent, found.name.as_bytes())?;
            found.ino = None;
        }
        let found = self.make_parents(found)?;
        // Made with no rights for others, so that a secret is at no time within a readable file.
        let ino = self.fs.apply_create_at(found.parent, found.name.as_bytes(), 0o600)?;
        self.write(ino, data)?;
        self.attributes(ino, mode, owner)
    }

    fn write(&self, ino: u32, data: &[u8]) -> Result<(), Error> {
        let mut offset = 0;
        for piece in data.chunks(PIECE) {
            self.fs.apply_pwrite_ino(ino, offset, piece)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Sets mode and owner where they differ.
    fn attributes(&self, ino: u32, mode: u32, (uid, gid): (u32, u32)) -> Result<(), Error> {
        let inode = self.fs.stat_ino(ino)?;
        if (inode.uid, inode.gid) != (uid, gid) {
            self.fs.apply_chown_ino(ino, uid, gid)?;
        }
        if u32::from(inode.mode) & 0o7777 != mode {
            self.fs.apply_chmod_ino(ino, mode as u16)?;
        }
        Ok(())
    }

    fn put_symlink(&self, path: &str, target: &str, owner: (u32, u32)) -> Result<(), Error> {
        let mut found = self.find(path, false)?;
        if let Some((ino, inode)) = self.inode_of(&found)? {
            if inode.is_symlink() && self.fs.read_link_ino(ino)? == target.as_bytes() {
                return Ok(());
            }
            self.fs.apply_unlink_at(found.parent, found.name.as_bytes())?;
            found.ino = None;
        }
        let found = self.make_parents(found)?;
        let ino = self.fs.apply_symlink_at(found.parent, found.name.as_bytes(), target.as_bytes())?;
        let inode = self.fs.stat_ino(ino)?;
        if (inode.uid, inode.gid) == owner { Ok(()) } else { self.fs.apply_chown_ino(ino, owner.0, owner.1) }
    }

    fn put_dir(&self, path: &str, mode: u32, owner: (u32, u32)) -> Result<(), Error> {
        let found = self.find(path, true)?;
        match self.inode_of(&found)? {
            Some((ino, inode)) if inode.is_dir() => self.attributes(ino, mode, owner),
            Some(_) => Err(Error::NotADirectory),
            None => {
                let found = self.make_parents(found)?;
                let ino = self.fs.apply_mkdir_at(found.parent, found.name.as_bytes(), mode as u16)?;
                self.attributes(ino, mode, owner)
            }
        }
    }
}

impl Tree for Ext4 {
    fn stat(&self, path: &str) -> Result<Option<Stat>, InjectError> {
        let stat = || -> Result<_, Error> {
            let found = self.find(path, false)?;
            self.inode_of(&found)?.map(|(ino, inode)| self.describe(ino, &inode)).transpose()
        };
        absent_is_none(stat()).map_err(|e| error("look at", path, e))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, InjectError> {
        let list = || -> Result<_, Error> {
            let Some(ino) = self.find(path, true)?.ino else { return Ok(None) };
            let entries = self.fs.read_dir_ino(ino)?;
            // A name that is not UTF-8 is none that metis looks for.
            let mut names: Vec<_> = entries.into_iter().filter_map(|entry| String::from_utf8(entry.name).ok()).collect();
            names.retain(|name| name != "." && name != "..");
            names.sort_unstable();
            Ok(Some(names))
        };
        absent_is_none(list()).map(Option::unwrap_or_default).map_err(|e| error("list", path, e))
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, InjectError> {
        let read = || -> Result<_, Error> {
            match self.inode_of(&self.find(path, true)?)? {
                Some((ino, inode)) if inode.is_file() => self.content(ino, inode.size).map(Some),
                _ => Ok(None),
            }
        };
        absent_is_none(read()).map_err(|e| error("read", path, e))
    }

    fn put(&self, path: &str, what: Put<'_>, mode: u32, owner: (u32, u32)) -> Result<(), InjectError> {
        match what {
            Put::File(data) => self.put_file(path, data, mode, owner).map_err(|e| error("write", path, e)),
            Put::Symlink(target) => self.put_symlink(path, target, owner).map_err(|e| error("link", path, e)),
            Put::Dir => self.put_dir(path, mode, owner).map_err(|e| error("make directory", path, e)),
        }
    }

    fn remove(&self, path: &str) -> Result<(), InjectError> {
        let remove = || -> Result<_, Error> {
            let found = self.find(path, false)?;
            if found.ino.is_some() { self.fs.apply_unlink_at(found.parent, found.name.as_bytes()).map(Some) } else { Ok(None) }
        };
        absent_is_none(remove()).map(|_| ()).map_err(|e| error("remove", path, e))
    }
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// Something on the way that is no directory means: the path does not exist.
fn absent_is_none<T>(result: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(Error::NotFound | Error::NotADirectory) => Ok(None),
        other => other,
    }
}

fn error(doing: &'static str, path: &str, error: Error) -> InjectError {
    match error {
        Error::NoSpaceLeftOnDevice => InjectError::NoSpace { fs: "root", path: path.to_owned() },
        Error::Io(e) if e.kind() != io::ErrorKind::UnexpectedEof => InjectError::Read(e),
        other => InjectError::Path { fs: "root", doing, path: path.to_owned(), why: other.to_string() },
    }
}
