//! Which host keys are taken for whose.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use russh::client;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};

use super::known_hosts::Known;

/// What a host may show. RSA is not among them: russh is built without it (RUSTSEC-2023-0071).
pub const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
];

/// Keys that a host may show.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Fingerprints of the inventory.
    Pinned(Vec<String>),
    /// Keys of a known_hosts file.
    Known {
        /// The file.
        file: PathBuf,
        /// What it names for the host.
        keys: Vec<Known>,
    },
}

impl Trust {
    /// Whether the host may show this key; why not, with what was expected and what was seen.
    pub fn judge(&self, key: &PublicKey) -> Result<(), String> {
        let seen = fingerprint(key);
        match self {
            Self::Pinned(pins) if pins.contains(&seen) => Ok(()),
            Self::Pinned(pins) => Err(format!(
                "its host key is {} ({seen}), but the inventory expects {} (host.host_keys)",
                key.algorithm(),
                pins.join(" or ")
            )),
            Self::Known { file, keys } => {
                let same = || keys.iter().filter(|known| known.key.key_data() == key.key_data());
                if let Some(known) = same().find(|known| known.revoked) {
                    return Err(format!("its host key ({seen}) is revoked in line {} of {}", known.line, file.display()));
                }
                if same().next().is_some() {
                    return Ok(());
                }
                let expected: Vec<String> = keys.iter().filter(|known| !known.revoked).map(|known| fingerprint(&known.key)).collect();
                let file = file.display();
                Err(if expected.is_empty() {
                    format!(
                        "its host key is {} ({seen}), but {file} names none for it; compare it on the host (ssh-keygen -l) and add it",
                        key.algorithm()
                    )
                } else {
                    format!("its host key is {} ({seen}), but {file} expects {}", key.algorithm(), expected.join(" or "))
                })
            }
        }
    }

    /// In which order algorithms are asked for: a host shows one key only, so those of keys that are known come first.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let known = |algorithm: &Algorithm| match self {
            Self::Pinned(_) => false,
            Self::Known { keys, .. } => keys.iter().any(|known| !known.revoked && known.key.algorithm() == *algorithm),
        };
        let (first, rest): (Vec<_>, Vec<_>) = ALGORITHMS.into_iter().partition(known);
        first.into_iter().chain(rest).collect()
    }
}

/// `SHA256:…` as `ssh-keygen -l` prints it.
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// What became of the key that a host showed.
#[derive(Debug, Clone, Default)]
pub struct Verdict(Arc<Mutex<Option<(Algorithm, String)>>>);

impl Verdict {
    /// Of the key that was refused: its algorithm, and why.
    pub fn refused(&self) -> Option<(Algorithm, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// russh's side of a connection.
#[derive(Debug)]
pub struct Check {
    trust: Trust,
    verdict: Verdict,
}

impl Check {
    /// Judges by `trust` and leaves its reason in `verdict`.
    pub fn new(trust: Trust, verdict: Verdict) -> Self {
        Self { trust, verdict }
    }
}

impl client::Handler for Check {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let key = shown.public_key();
        let judged = match shown.certificate() {
            // None was asked for, and no authority is trusted.
            Some(_) => Err("it shows a certificate instead of a host key".to_owned()),
            None => self.trust.judge(&key),
        };
        let Err(why) = judged else { return Ok(true) };
        *self.verdict.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((key.algorithm(), why));
        Ok(false)
    }
}
