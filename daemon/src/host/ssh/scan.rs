//! Which host keys a host shows to whoever asks, as ssh-keyscan(1) reads them. They prove nothing until somebody has compared them.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client;
use russh::keys::{Algorithm, EcdsaCurve, PublicKeyOrCertificate};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::super::port::HostError;
use super::trust::fingerprint;

/// A host shows one key for each algorithm that it is asked for.
const ASKED: [Algorithm; 2] = [Algorithm::Ed25519, Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }];

/// A key that a host showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// e.g. `ssh-ed25519`.
    pub algorithm: String,
    /// `SHA256:…`.
    pub fingerprint: String,
}

/// Notes the key, and goes no further.
struct Note(Arc<Mutex<Option<HostKey>>>);

impl client::Handler for Note {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let key = shown.public_key();
        let found = HostKey { algorithm: key.algorithm().to_string(), fingerprint: fingerprint(&key) };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(false)
    }
}

/// The keys that the host at that address shows.
///
/// # Errors
/// Unreachable, or TimedOut: nothing listens there, or nothing that speaks SSH.
pub async fn scan(address: &str, port: u16, within: Duration) -> Result<Vec<HostKey>, HostError> {
    let until = Instant::now() + within;
    let late = |_| HostError::TimedOut(format!("{address}:{port} did not show a host key within {} s", within.as_secs()));
    let mut found = Vec::new();
    for algorithm in ASKED {
        found.extend(timeout_at(until, ask(address, port, algorithm)).await.map_err(late)??);
    }
    Ok(found)
}

async fn ask(address: &str, port: u16, algorithm: Algorithm) -> Result<Option<HostKey>, HostError> {
    let unreachable = |what: &str, why: String| HostError::Unreachable(format!("{address}:{port}: {what}: {why}"));
    let tcp = TcpStream::connect((address, port)).await.map_err(|error| unreachable("no connection", error.to_string()))?;
    let mut config = client::Config { nodelay: true, ..Default::default() };
    config.preferred.key = Cow::Owned(vec![algorithm]);
    let noted = Arc::new(Mutex::new(None));
    let ended = client::connect_stream(Arc::new(config), tcp, Note(Arc::clone(&noted))).await;
    let shown = noted.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (shown, ended) {
        (Some(key), _) => Ok(Some(key)),
        (None, Err(error)) if !matches!(error, russh::Error::NoCommonAlgo { .. }) => {
            Err(unreachable("it ended the connection before it showed a key; is that sshd?", error.to_string()))
        }
        // It has no key of that kind.
        (None, _) => Ok(None),
    }
}
