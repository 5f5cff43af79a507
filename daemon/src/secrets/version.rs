//! Version ids of secrets: they change when the secret changes, and tell nothing else. Cloud-init's instance-id is made of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{SecretError, file};
use crate::site::Secret;

const SIZE: usize = 32;

/// A random key of this installation (`<state_dir>/secret-version.key`). Without it, a plain digest of a weak password could be guessed
/// from the instance-id on a card.
#[derive(Clone)]
pub struct VersionKey(Zeroizing<[u8; SIZE]>);

impl std::fmt::Debug for VersionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VersionKey(***)")
    }
}

impl VersionKey {
    /// Reads the key, or makes it: of two that make it at once, one wins and both read it. Blocks.
    ///
    /// # Errors
    /// Where it can be neither read nor made; a key that others can read is refused as any other secret.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, SecretError> {
        let path = state_dir.join("secret-version.key");
        match file::read(&path) {
            Err(SecretError::Missing(_)) => {
                create(&path).map_err(|source| SecretError::Io { path: path.clone(), source })?;
                Self::from_secret(&path, &file::read(&path)?)
            }
            other => Self::from_secret(&path, &other?),
        }
    }

    fn from_secret(path: &Path, secret: &Secret) -> Result<Self, SecretError> {
        let bytes: [u8; SIZE] = secret.expose().try_into().map_err(|_| SecretError::Unusable {
            path: path.to_owned(),
            why: "it is not 32 bytes long; remove it, and a new one is made",
        })?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// First 64 bits of HMAC-SHA256 (RFC 2104) of the bytes as they are, as 16 hex digits.
    pub fn version_id(&self, secret: &Secret) -> String {
        let digest = hmac(&*self.0, secret.expose());
        let first = digest.iter().take(8).fold(0, |first, byte| first << 8 | u64::from(*byte));
        format!("{first:016x}")
    }
}

/// Complete or not there: linked into place only after it was synced.
fn create(path: &Path) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut key = Zeroizing::new([0; SIZE]);
    File::open("/dev/urandom")?.read_exact(&mut *key)?;
    let temporary = dir.join(format!(".secret-version.key.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(&*key).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    fs::remove_file(&temporary)?;
    linked?;
    File::open(dir)?.sync_all()
}

/// HMAC-SHA256 (RFC 2104); the key is not longer than the block.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let block = |pad: u8| {
        let mut block = Zeroizing::new([pad; 64]);
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(block(0x36).as_slice()).chain_update(message).finalize();
    Sha256::new().chain_update(block(0x5c).as_slice()).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: [u8; 32]) -> String {
        bytes.chunks(8).map(|chunk| format!("{:016x}", u64::from_be_bytes(chunk.try_into().unwrap()))).collect::<Vec<_>>().concat()
    }

    /// RFC 4231, test cases 1 and 2.
    #[test]
    fn hmac_is_the_standard_one() {
        assert_eq!(hex(hmac(&[0x0b; 20], b"Hi There")), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        assert_eq!(hex(hmac(b"Jefe", b"what do ya want for nothing?")), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_key_is_made_once_per_installation() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = Secret::new(*b"hunter2");
        let key = VersionKey::load_or_create(here.path()).unwrap();
        let id = key.version_id(&secret);
        assert_eq!(id.len(), 16);
        assert_eq!(VersionKey::load_or_create(here.path()).unwrap().version_id(&secret), id);
        assert_ne!(key.version_id(&Secret::new(*b"hunter3")), id);
        assert_ne!(VersionKey::load_or_create(there.path()).unwrap().version_id(&secret), id);
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 1);
        assert_eq!(format!("{key:?}"), "VersionKey(***)");
    }

    #[test]
    fn a_short_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret-version.key");
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap().write_all(b"short").unwrap();
        let error = VersionKey::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("32 bytes") && !error.contains("short"), "{error}");
    }
}
