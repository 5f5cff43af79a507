//! A connection to a host: TCP, host key, user key.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use russh::client::{self, AuthResult, Handle};
use russh::keys::{Algorithm, PrivateKeyWithHashAlg, decode_secret_key};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::super::Secrets;
use super::super::port::HostError;
use super::known_hosts;
use super::trust::{Check, Trust, Verdict, fingerprint};
use crate::site::{Host, SecretRef};

/// So often a silent host is asked whether it is there; a connection is given up when it said nothing [`KEEPALIVES`] times.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVES: usize = 3;

/// What was sent and is not acknowledged for so long, in ms, ends a connection (tcp(7), TCP_USER_TIMEOUT).
const GIVEN_UP: u32 = 20_000;

/// A known_hosts file is not larger, in bytes.
const MAX_KNOWN_HOSTS: u64 = 4 << 20;

/// What is needed to get in.
pub struct Entry<'a> {
    /// Where.
    pub host: &'a Host,
    /// The user's key: the host's own, else that of `hosts.key`.
    pub key: Option<&'a SecretRef>,
    /// `hosts.known_hosts`.
    pub known_hosts: &'a Path,
    /// Resolves the key.
    pub secrets: &'a Secrets,
}

/// Connects and authenticates until `until`.
///
/// # Errors
/// Unreachable, Refused or TimedOut.
pub async fn connect(entry: &Entry<'_>, until: Instant) -> Result<Handle<Check>, HostError> {
    let host = entry.host;
    let late = |what: &str| format!("{}: {what} within hosts.connect_timeout ({}:{})", host.name, host.address, host.port);
    let key = timeout_at(until, private_key(entry)).await.map_err(|_| HostError::TimedOut(late("the user key could not be read")))??;
    let trust = timeout_at(until, trust(entry)).await.map_err(|_| HostError::TimedOut(late("known_hosts could not be read")))??;
    let mut algorithms = trust.algorithms();
    let mut refused: Vec<String> = Vec::new();
    loop {
        let tcp = timeout_at(until, tcp(host)).await.map_err(|_| HostError::Unreachable(late("no connection")))??;
        let verdict = Verdict::default();
        let mut config =
            client::Config { keepalive_interval: Some(KEEPALIVE), keepalive_max: KEEPALIVES, nodelay: true, ..Default::default() };
        config.preferred.key = Cow::Owned(algorithms.clone());
        let greeting = client::connect_stream(Arc::new(config), tcp, Check::new(trust.clone(), verdict.clone()));
        let greeted = timeout_at(until, greeting).await.map_err(|_| HostError::TimedOut(late("connected, but its sshd did not answer")))?;
        match (greeted, verdict.refused()) {
            (Ok(mut handle), _) => {
                let auth = timeout_at(until, authenticate(&mut handle, host, key)).await;
                auth.map_err(|_| HostError::TimedOut(late("connected, but its sshd did not let the user in")))??;
                return Ok(handle);
            }
            // It may have another key that is expected: it shows one only, of the algorithm that was asked for first.
            (Err(_), Some((algorithm, why))) if algorithms.contains(&algorithm) => {
                refused.push(why);
                algorithms.retain(|a| *a != algorithm);
            }
            (Err(_), Some((_, why))) => refused.push(why),
            (Err(russh::Error::NoCommonAlgo { .. }), None) if !refused.is_empty() => algorithms.clear(),
            (Err(error), None) => return Err(handshake_failed(host, &error)),
        }
        if algorithms.is_empty() {
            let what = refused.first().cloned().unwrap_or_default();
            return Err(HostError::Refused(format!("{} ({}:{}) is not trusted: {what}", host.name, host.address, host.port)));
        }
    }
}

async fn tcp(host: &Host) -> Result<TcpStream, HostError> {
    let tcp = TcpStream::connect((host.address.as_str(), host.port)).await;
    let tcp =
        tcp.map_err(|error| HostError::Unreachable(format!("{}: no connection to {}:{}: {error}", host.name, host.address, host.port)))?;
    // Small packets follow each other; without it each waits for the acknowledgement of the one before.
    let _ = tcp.set_nodelay(true);
    // A host that takes nothing more would hold a write, and with it the keepalive, for ever.
    let _ = setsockopt(&tcp, sockopt::TcpUserTimeout, &GIVEN_UP);
    Ok(tcp)
}

fn handshake_failed(host: &Host, error: &russh::Error) -> HostError {
    let at = format!("{} ({}:{})", host.name, host.address, host.port);
    match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => {
            HostError::Refused(format!("{at} has nothing in common with us in {kind:?}; it offers {}", theirs.join(", ")))
        }
        russh::Error::WrongServerSig | russh::Error::Kex | russh::Error::PacketAuth | russh::Error::StrictKeyExchangeViolation { .. } => {
            HostError::Refused(format!("{at}: the key exchange is not to be trusted: {error}"))
        }
        _ => HostError::Unreachable(format!(
            "{at} ended the connection before it let us in: {error}; is that sshd, and is it taking logins?"
        )),
    }
}

async fn authenticate(handle: &mut Handle<Check>, host: &Host, key: russh::keys::PrivateKey) -> Result<(), HostError> {
    let ours = fingerprint(key.public_key());
    let at = format!("{} ({}@{}:{})", host.name, host.user, host.address, host.port);
    let result = handle.authenticate_publickey(&host.user, PrivateKeyWithHashAlg::new(Arc::new(key), None)).await;
    match result {
        Ok(AuthResult::Success) => Ok(()),
        Ok(AuthResult::Failure { partial_success: true, remaining_methods }) => {
            Err(HostError::Refused(format!("{at} takes the user key {ours}, but wants more: {remaining_methods:?}")))
        }
        Ok(AuthResult::Failure { remaining_methods, .. }) if remaining_methods.is_empty() && handle.is_closed() => {
            Err(HostError::Unreachable(format!("{at} ended the connection while the user key was checked")))
        }
        Ok(AuthResult::Failure { .. }) => {
            Err(HostError::Refused(format!("{at} refuses the user key {ours}; its public half belongs into that user's authorized_keys")))
        }
        Err(error) => Err(HostError::Unreachable(format!("{at} ended the connection while the user key was checked: {error}"))),
    }
}

async fn private_key(entry: &Entry<'_>) -> Result<russh::keys::PrivateKey, HostError> {
    let name = &entry.host.name;
    let Some(reference) = entry.key.cloned() else {
        return Err(HostError::Refused(format!(
            "{name}: there is no key to log in with; give `hosts.key` in metis.yaml, or `host.key` of the node"
        )));
    };
    let secrets = Arc::clone(entry.secrets);
    let read = move || {
        let secret = secrets(&reference)?;
        let text = secret.expose_str().ok_or_else(|| format!("{reference} is no private key: it is not text"))?;
        // Its error is not shown: it may quote the file.
        let key = decode_secret_key(text, None).ok();
        let usable = |key: &russh::keys::PrivateKey| matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { .. });
        key.filter(usable).ok_or_else(|| {
            format!(
                "{reference} is no private key that can be used: it must be ed25519 or ecdsa, in OpenSSH or PKCS#8 format, without passphrase"
            )
        })
    };
    blocking(read).await.map_err(|why| HostError::Refused(format!("{name}: the user key: {why}")))
}

async fn trust(entry: &Entry<'_>) -> Result<Trust, HostError> {
    let host = entry.host;
    if !host.host_keys.is_empty() {
        return Ok(Trust::Pinned(host.host_keys.clone()));
    }
    let file = entry.known_hosts.to_path_buf();
    let (address, port, path) = (host.address.clone(), host.port, file.clone());
    let keys = blocking(move || match read_bounded(&path) {
        Ok(text) => Ok(known_hosts::look_up(&text, &address, port)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    });
    let keys = keys.await.map_err(|why| HostError::Refused(format!("{}: its host key cannot be checked: {why}", host.name)))?;
    Ok(Trust::Known { file, keys })
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_KNOWN_HOSTS + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_KNOWN_HOSTS {
        return Err(io::Error::other(format!("is larger than {MAX_KNOWN_HOSTS} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?
}
