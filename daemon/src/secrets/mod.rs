//! `SecretRef` to zeroised bytes. Calls block: use `spawn_blocking`. No error holds any content.

mod file;
#[cfg(test)]
mod tests;
mod version;

use std::path::PathBuf;

use crate::site::{Secret, SecretRef};

pub use version::VersionKey;

/// A secret is not longer than this, in bytes.
pub const MAX_SIZE: u64 = 1 << 20;

/// Where secrets are looked up.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// `$CREDENTIALS_DIRECTORY` (systemd.exec(5), `LoadCredential=`).
    pub credentials_dir: Option<PathBuf>,
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No such file.
    #[error("secret {path}: there is no such file; create it with mode 0600, owned by the user that runs metisd", path = .0.display())]
    Missing(PathBuf),
    /// Somebody else could read or replace it.
    #[error("secret {path} is refused: {why}; {fix}", path = .path.display())]
    Unsafe {
        /// The file, or the directory or link on the way to it.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// The command that helps.
        fix: String,
    },
    /// Not something that can be read as a secret.
    #[error("secret {path}: {why}", path = .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The file system.
    #[error("secret {path} cannot be read: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// Not a name that systemd takes.
    #[error("{0:?} is no name of a credential: 1 to 255 printable ASCII characters without '/', not '.' or '..' (systemd.exec(5))")]
    BadName(String),
    /// Not started by systemd, or without credentials.
    #[error("credential {0}: this metisd was given none; add `LoadCredential={0}:/path` to its unit (`systemctl edit metisd`)")]
    NoCredentials(String),
}

/// Reads a secret.
///
/// A file must be regular, at most 1 MiB, not empty, owned by root or by this user, and readable by nobody else; a group may read it
/// (0640) where this process is a member of that group (`root:metis`). Nobody but root and this user may be able to replace the file, a
/// directory or a symbolic link on the way to it.
///
/// # Errors
/// [`SecretError`], which names the file and what to do.
pub fn resolve(secret: &SecretRef, context: &Context) -> Result<Secret, SecretError> {
    match secret {
        SecretRef::File(path) => file::read(path),
        SecretRef::Credential(name) => {
            if !is_credential_name(name) {
                return Err(SecretError::BadName(name.clone()));
            }
            let dir = context.credentials_dir.as_ref().ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
            file::read_credential(&dir.join(name), name)
        }
    }
}

fn is_credential_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') && name != "." && name != ".."
}
