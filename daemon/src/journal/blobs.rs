//! What is too large for a fact: files named by their own SHA-256.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::aside::sync_parent;

/// Name of a blob: SHA-256 of its content, 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobId(String);

impl BlobId {
    /// The name of this content.
    pub fn of(content: &[u8]) -> Self {
        let mut hex = String::with_capacity(64);
        for byte in Sha256::digest(content) {
            let _ = write!(hex, "{byte:02x}");
        }
        Self(hex)
    }

    /// 64 lower-case hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BlobId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if hex { Ok(Self(text)) } else { Err(format!("{text:?} is not a SHA-256: 64 lower-case hex digits")) }
    }
}

impl From<BlobId> for String {
    fn from(id: BlobId) -> Self {
        id.0
    }
}

/// Why there is no blob.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The file system.
    #[error("blob {path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The content is not what was stored.
    #[error("blob {path} is damaged (its SHA-256 is wrong); it is left as it is: move it away, and what needs it will store it anew", path = .0.display())]
    Damaged(PathBuf),
}

/// Blobs below `<state_dir>/blobs`. Every call blocks: use `spawn_blocking`.
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    /// Those of a state directory; nothing is created before the first [`Blobs::put`].
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("blobs") }
    }

    /// Stores content; durable when it returns. Twice is once.
    pub fn put(&self, content: &[u8]) -> Result<BlobId, BlobError> {
        let id = BlobId::of(content);
        let path = self.path(&id);
        if fs::read(&path).is_ok_and(|stored| stored == content) {
            return Ok(id);
        }
        store(&path, content).map_err(|source| BlobError::Io { path, source })?;
        Ok(id)
    }

    /// The content, checked; `None`: there is none of this name.
    pub fn get(&self, id: &BlobId) -> Result<Option<Vec<u8>>, BlobError> {
        let path = self.path(id);
        match fs::read(&path) {
            Ok(content) if BlobId::of(&content) == *id => Ok(Some(content)),
            Ok(_) => Err(BlobError::Damaged(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BlobError::Io { path, source }),
        }
    }

    /// Removes a blob; none is no error.
    pub fn remove(&self, id: &BlobId) -> Result<(), BlobError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BlobError::Io { path, source: error }),
            _ => Ok(()),
        }
    }

    fn path(&self, id: &BlobId) -> PathBuf {
        self.dir.join(&id.0[..2]).join(&id.0[2..])
    }
}

/// Written beside, synced, renamed, and the entry synced: after a power cut there is all of it or nothing.
fn store(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    make_dirs(dir)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_parent(path)
}

/// Creates directories and makes their entries durable.
fn make_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dirs(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(dir)?.sync_all()?;
    sync_parent(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_stored_once_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path());
        let id = blobs.put(b"abc").unwrap();
        // FIPS 180-2, appendix B.1.
        assert_eq!(id.as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(blobs.put(b"abc").unwrap(), id);
        assert_eq!(blobs.get(&id).unwrap().unwrap(), b"abc");
        let files: Vec<_> = fs::read_dir(dir.path().join("blobs/ba")).unwrap().collect();
        assert_eq!(files.len(), 1);
        blobs.remove(&id).unwrap();
        blobs.remove(&id).unwrap();
        assert_eq!(blobs.get(&id).unwrap(), None);
    }

    #[test]
    fn a_damaged_blob_is_refused_and_can_be_stored_anew() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path());
        let id = blobs.put(b"abc").unwrap();
        fs::write(blobs.path(&id), b"abd").unwrap();
        assert!(matches!(blobs.get(&id), Err(BlobError::Damaged(_))));
        blobs.put(b"abc").unwrap();
        assert_eq!(blobs.get(&id).unwrap().unwrap(), b"abc");
    }

    #[test]
    fn a_name_is_no_path() {
        for text in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63), &"é".repeat(32)] {
            assert!(serde_json::from_value::<BlobId>(serde_json::json!(text)).is_err(), "{text}");
        }
    }
}
