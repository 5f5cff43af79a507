//! What a node's card carries, as files: pure over the merged node, its secrets and what the image has.

mod accounts;
mod edit;
mod k3s;
mod network;
mod seed;
mod ssh;
mod system;
mod valid;

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::facts::ImageFacts;
use crate::site::{MergedNode, Secret, SecretRef};

pub use edit::{EditKind, FileEdit, Fs};

/// A secret and the version that stands for it where its content must not appear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedSecret {
    /// The bytes.
    pub secret: Secret,
    /// Changes when the bytes change, and tells nothing about them.
    pub version: String,
}

/// The secrets that a node refers to.
pub type Secrets = BTreeMap<SecretRef, ResolvedSecret>;

/// Everything that is put onto a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Render {
    /// In the order in which they are made.
    pub edits: Vec<FileEdit>,
    /// cloud-init's instance-id: digest of the non-secret files and the versions of the secrets.
    pub instance_id: String,
}

/// Why a node cannot be rendered for an image. Never carries a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// A value of the inventory is not one.
    #[error("node {node}: {key}: `{value}` {why}")]
    Value {
        /// Which node.
        node: String,
        /// Key in the inventory.
        key: String,
        /// The value, quoted so that it can be printed.
        value: String,
        /// What is wrong, and what is allowed.
        why: String,
    },
    /// Something is missing that another value needs.
    #[error("node {node}: {key} is not set, but {because}")]
    Missing {
        /// Which node.
        node: String,
        /// Key in the inventory.
        key: String,
        /// What needs it.
        because: String,
    },
    /// A secret was not passed in, or is not what it should be.
    #[error("node {node}: {key}: the secret {reference} {why}")]
    Secret {
        /// Which node.
        node: String,
        /// Key in the inventory.
        key: String,
        /// Where it is kept.
        reference: SecretRef,
        /// What is wrong with it; never its content.
        why: String,
    },
    /// The image lacks what the inventory asks for.
    #[error("node {node}: {key}: the image {why}")]
    Image {
        /// Which node.
        node: String,
        /// Key in the inventory.
        key: String,
        /// What is missing.
        why: String,
    },
}

/// The secrets that this node's card needs.
pub fn secret_refs(node: &MergedNode) -> BTreeSet<SecretRef> {
    let settings = &node.settings;
    let hashes = settings.ssh.users.values().filter_map(|user| user.password_hash.as_ref());
    let token = settings.k3s.role.and(settings.k3s.token.as_ref());
    settings.ssh.host_keys.values().chain(hashes).chain(token).cloned().collect()
}

/// Renders the node for an image.
///
/// # Errors
/// Where a value is not one, a secret is missing or malformed, or the image lacks what is asked for.
pub fn render(node: &MergedNode, secrets: &Secrets, facts: &ImageFacts) -> Result<Render, RenderError> {
    let job = Job { node, secrets, facts };
    let mut edits = system::render(&job)?;
    edits.extend(network::render(&job)?);
    edits.extend(accounts::render(&job)?);
    edits.extend(ssh::render(&job)?);
    edits.extend(k3s::render(&job)?);
    let seed = seed::place(&job)?;
    // The files that carry the instance-id are digested without it.
    let mut digested = edits.clone();
    digested.extend(seed::render(&job, seed, "")?);
    let instance_id = job.instance_id(&digested)?;
    edits.extend(seed::render(&job, seed, &instance_id)?);
    let identity = system::identity(&job, &edits, &instance_id);
    edits.push(identity);
    Ok(Render { edits, instance_id })
}

/// What every part of the rendering looks at.
struct Job<'a> {
    node: &'a MergedNode,
    secrets: &'a Secrets,
    facts: &'a ImageFacts,
}

impl Job<'_> {
    fn secret(&self, key: &str, reference: &SecretRef) -> Result<&ResolvedSecret, RenderError> {
        self.secrets.get(reference).ok_or_else(|| self.bad_secret(key, reference, "was not read"))
    }

    /// The secret as one line of text.
    fn secret_line(&self, key: &str, reference: &SecretRef) -> Result<&str, RenderError> {
        let text = self.secret(key, reference)?.secret.expose_str().map(str::trim);
        match text {
            None => Err(self.bad_secret(key, reference, "is not UTF-8 text")),
            Some("") => Err(self.bad_secret(key, reference, "is empty")),
            Some(text) if text.chars().any(|c| c.is_whitespace() || c.is_control()) => {
                Err(self.bad_secret(key, reference, "must be one word, without spaces or line breaks"))
            }
            Some(text) => Ok(text),
        }
    }

    fn bad_secret(&self, key: &str, reference: &SecretRef, why: &str) -> RenderError {
        RenderError::Secret { node: self.name(), key: key.to_owned(), reference: reference.clone(), why: why.to_owned() }
    }

    fn bad_value(&self, key: &str, value: &str, why: impl Into<String>) -> RenderError {
        RenderError::Value { node: self.name(), key: key.to_owned(), value: value.escape_debug().to_string(), why: why.into() }
    }

    fn missing(&self, key: &str, because: &str) -> RenderError {
        RenderError::Missing { node: self.name(), key: key.to_owned(), because: because.to_owned() }
    }

    fn image_lacks(&self, key: &str, why: &str) -> RenderError {
        RenderError::Image { node: self.name(), key: key.to_owned(), why: why.to_owned() }
    }

    fn name(&self) -> String {
        self.node.name.as_str().escape_debug().to_string()
    }

    /// Digest of everything that is not secret, and of the secrets' versions. Removals and repairs of the image's own files do not
    /// count: they depend on whether the image was prepared before.
    fn instance_id(&self, edits: &[FileEdit]) -> Result<String, RenderError> {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        for edit in edits.iter().filter(|edit| edit.is_own()) {
            field(edit.fs.name().as_bytes());
            field(edit.path.as_bytes());
            field(format!("{:o} {} {}", edit.mode, edit.uid, edit.gid).as_bytes());
            match &edit.kind {
                EditKind::File(_) if edit.secret => field(b"secret"),
                EditKind::File(content) => field(content.expose()),
                EditKind::Symlink(target) => field(target.as_bytes()),
                EditKind::Dir { .. } => field(b"directory"),
                EditKind::Remove => {}
            }
        }
        for reference in secret_refs(self.node) {
            let version = &self.secret("secrets", &reference)?.version;
            field(reference.to_string().as_bytes());
            field(version.as_bytes());
        }
        let digest = hash.finalize();
        Ok(digest[..16].iter().fold("metis-".to_owned(), |id, byte| format!("{id}{byte:02x}")))
    }
}

#[cfg(test)]
mod tests;
