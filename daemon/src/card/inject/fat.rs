//! The FAT side: the boot partition edited in memory.

use std::io;

use hadris_fat::sync::FatFs;
use hadris_fs::sync::Volume;
use hadris_fs::{ErrorKind, FileType, MountOptions};
use hadris_io::{Error, ErrorType};
use hadris_storage::sync::BlockDevice;
use hadris_storage::{BlockIndex, BlockSize};

use super::error::InjectError;
use super::overlay::Window;
use super::tree::{Kind, Put, Stat, Tree};

const SECTOR: BlockSize = match BlockSize::new(512) {
    Some(size) => size,
    None => panic!("512 is a block size"),
};

struct Device(Window);

impl ErrorType for Device {
    type Error = io::Error;
}

impl BlockDevice for Device {
    fn block_size(&self) -> BlockSize {
        SECTOR
    }

    fn block_count(&self) -> u64 {
        self.0.len / u64::from(SECTOR.get())
    }

    fn writable(&self) -> bool {
        true
    }

    fn read_blocks(&mut self, first: BlockIndex, buf: &mut [u8]) -> Result<(), Error<io::Error>> {
        self.0.read(buf, first.get().saturating_mul(512)).map_err(|e| Error::device(e, "reading the image failed"))
    }

    fn write_blocks(&mut self, first: BlockIndex, buf: &[u8]) -> Result<(), Error<io::Error>> {
        self.0.write(buf, first.get().saturating_mul(512)).map_err(|e| Error::device(e, "writing to the overlay failed"))
    }
}

/// A FAT file system of an image. Its new entries carry 1980-01-01, so that equal inputs give equal bytes.
pub struct Fat {
    volume: Volume<FatFs<Device>>,
}

impl Fat {
    /// Opens the file system.
    ///
    /// # Errors
    /// [`InjectError::Damaged`] where it contradicts itself or was not unmounted.
    pub fn open(window: Window, partition: u32) -> Result<Self, InjectError> {
        let damaged = |why: String| InjectError::Damaged { fs: "FAT", partition, why };
        let fs = FatFs::mount(Device(window), MountOptions::new()).map_err(|e| damaged(format!("cannot be opened: {}", e.error())))?;
        if fs.is_read_only() {
            return Err(damaged("can only be read".to_owned()));
        }
        Ok(Self { volume: Volume::new(fs) })
    }

    /// Writes what is still held back into the overlay.
    ///
    /// # Errors
    /// Where that fails.
    pub fn finish(self) -> Result<(), InjectError> {
        let fs = self.volume.into_inner().map_err(|_| InjectError::Path {
            fs: "boot",
            doing: "finish",
            path: "/".to_owned(),
            why: "a file is still open".to_owned(),
        })?;
        fs.unmount().map(|_| ()).map_err(|e| error("finish", "/", &e.into_error()))
    }
}

impl Tree for Fat {
    fn stat(&self, path: &str) -> Result<Option<Stat>, InjectError> {
        match self.volume.metadata(path) {
            Ok(meta) if meta.file_type() == FileType::Dir => Ok(Some(stat(Kind::Dir))),
            Ok(_) => Ok(Some(stat(Kind::File))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(error("look at", path, &e)),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, InjectError> {
        let entries = match self.volume.read_dir(path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(error("list", path, &e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| error("list", path, &e))?;
            names.extend(entry.name().to_str().map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, InjectError> {
        match self.volume.read(path) {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(error("read", path, &e)),
        }
    }

    fn put(&self, path: &str, what: Put<'_>, _mode: u32, _owner: (u32, u32)) -> Result<(), InjectError> {
        match what {
            Put::File(data) => {
                if self.read(path)?.is_some_and(|known| known == data) {
                    return Ok(());
                }
                if let Some((parent, _)) = path.rsplit_once('/')
                    && !parent.is_empty()
                {
                    self.volume.create_dir_all(parent).map_err(|e| error("make directory", parent, &e))?;
                }
                self.volume.write(path, data).map_err(|e| error("write", path, &e))
            }
            Put::Dir => self.volume.create_dir_all(path).map_err(|e| error("make directory", path, &e)),
            Put::Symlink(_) => {
                Err(InjectError::Path { fs: "boot", doing: "link", path: path.to_owned(), why: "FAT has no symbolic links".to_owned() })
            }
        }
    }

    fn remove(&self, path: &str) -> Result<(), InjectError> {
        match self.volume.remove_file(path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(error("remove", path, &e)),
        }
    }
}

fn stat(kind: Kind) -> Stat {
    Stat { kind, mode: 0o755, uid: 0, gid: 0 }
}

fn error(doing: &'static str, path: &str, error: &Error<io::Error>) -> InjectError {
    match error.kind() {
        ErrorKind::NoSpace => InjectError::NoSpace { fs: "boot", path: path.to_owned() },
        _ => InjectError::Path { fs: "boot", doing, path: path.to_owned(), why: error.to_string() },
    }
}
