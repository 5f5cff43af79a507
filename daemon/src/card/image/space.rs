//! Room on the cache's file system: the floor that stays free, and what is given up for it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{ImageError, is_full};

/// Endings of the cache's files; each name begins with the SHA-256 of the published file.
pub(super) const IMAGE: &str = "img";
pub(super) const NEW: &str = "new";
pub(super) const PART: &str = "part";
pub(super) const PART_INFO: &str = "part.json";
pub(super) const LOCK: &str = "lock";

/// The cache's directory and the floor.
#[derive(Debug, Clone)]
pub(super) struct Space {
    pub(super) dir: PathBuf,
    pub(super) floor: u64,
}

impl Space {
    pub(super) fn path(&self, sha256: &str, ending: &str) -> PathBuf {
        self.dir.join(format!("{sha256}.{ending}"))
    }

    /// Sees to it that `needed` bytes can be written above the floor, by giving up what was not used for longest and is not in use.
    /// The files of `keep` are spared.
    pub(super) fn make(&self, needed: u64, keep: &str) -> Result<(), ImageError> {
        let wanted = self.floor.saturating_add(needed);
        if self.available()? >= wanted {
            return Ok(());
        }
        // One at a time, or two who are short of the same bytes give up two images.
        let path = self.dir.join("eviction.lock");
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file)).map_err(|e| self.failed(&path, e))?;
        let mut candidates = self.candidates(keep)?;
        loop {
            let available = self.available()?;
            if available >= wanted {
                drop(lock);
                return Ok(());
            }
            let Some(path) = candidates.pop() else {
                return Err(ImageError::NoSpace { dir: self.dir.clone(), available, needed, floor: self.floor });
            };
            if self.give_up(&path) {
                tracing::info!(path = %path.display(), "gave up a cached image to keep the free space floor");
            }
        }
    }

    /// A failed write to the cache as an error: no space as such.
    pub(super) fn failed(&self, path: &Path, source: io::Error) -> ImageError {
        match self.available() {
            Ok(available) if is_full(&source) => ImageError::NoSpace { dir: self.dir.clone(), available, needed: 1, floor: self.floor },
            _ => ImageError::Cache { path: path.to_owned(), source },
        }
    }

    /// Removes a download that is no longer needed.
    pub(super) fn forget_part(&self, sha256: &str) {
        for ending in [PART, PART_INFO] {
            let _ = std::fs::remove_file(self.path(sha256, ending));
        }
    }

    fn available(&self) -> Result<u64, ImageError> {
        let stat = nix::sys::statvfs::statvfs(&self.dir).map_err(|e| ImageError::cache(&self.dir)(e.into()))?;
        #[allow(clippy::useless_conversion, reason = "32 bits wide on some platforms")]
        Ok(u64::from(stat.blocks_available()) * u64::from(stat.fragment_size()))
    }

    /// Images and abandoned pieces, the longest unused last.
    fn candidates(&self, keep: &str) -> Result<Vec<PathBuf>, ImageError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(ImageError::cache(&self.dir))? {
            let Ok(entry) = entry else { continue };
            let path = entry.path();
            let ours = digest_of(&path).is_some_and(|sha256| sha256 != keep)
                && [IMAGE, NEW, PART].iter().any(|ending| path.extension().is_some_and(|e| e == *ending));
            if let (true, Ok(used)) = (ours, entry.metadata().and_then(|meta| meta.modified())) {
                found.push((used, path));
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Removes a file of the cache unless somebody fetches or reads it.
    fn give_up(&self, path: &Path) -> bool {
        let Some(lock) = digest_of(path).and_then(|sha256| File::create(self.path(sha256, LOCK)).ok()) else { return false };
        let free =
            lock.try_lock().is_ok() && File::open(path).is_ok_and(|file| file.try_lock().is_ok() && std::fs::remove_file(path).is_ok());
        if free && path.extension().is_some_and(|ending| ending == PART) {
            let _ = std::fs::remove_file(path.with_extension(PART_INFO));
        }
        free
    }
}

fn digest_of(path: &Path) -> Option<&str> {
    let sha256 = path.file_name()?.to_str()?.split('.').next()?;
    (sha256.len() == 64).then_some(sha256)
}

/// Opens a file of the cache for reading and writing, made anew.
pub(super) fn create(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(true).open(path)
}

/// Makes a rename in `dir` survive a power cut.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
