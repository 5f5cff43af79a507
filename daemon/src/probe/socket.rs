//! Connections without HTTP: what is said first on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::port::Silence;
use super::postgres as protocol;
use crate::site::Target;

/// So many of its first words are read.
const WORDS: usize = 4 << 10;
/// A load balancer without anybody behind it accepts and closes at once.
const CLOSES_AT_ONCE: Duration = Duration::from_millis(300);
/// Words that come in several pieces.
const PAUSE: Duration = Duration::from_millis(300);

fn gone(target: &Target, why: &std::io::Error) -> Silence {
    Silence::NotThere(format!("{target}: {why}"))
}

async fn connect(target: &Target, addresses: &[SocketAddr]) -> Result<TcpStream, Silence> {
    TcpStream::connect(addresses).await.map_err(|error| gone(target, &error))
}

/// A handshake, with SNI where the host is a name.
pub async fn shake_hands(target: &Target, addresses: &[SocketAddr], config: ClientConfig) -> Result<(), Silence> {
    let name = ServerName::try_from(target.host.clone());
    let name = name.map_err(|_| Silence::CannotTell(format!("{target}: {} is no name of a server", target.host)))?;
    let stream = connect(target, addresses).await?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop).map_err(|error| gone(target, &error))
}

/// Connects; the first words where they are wanted, else only whether the connection is not closed at once.
pub async fn listen(target: &Target, addresses: &[SocketAddr], wanted: bool) -> Result<Vec<u8>, Silence> {
    let mut stream = connect(target, addresses).await?;
    let mut words = Vec::new();
    let mut buffer = vec![0; WORDS];
    loop {
        let read = stream.read(&mut buffer);
        // Of words that are wanted the first are waited for until the caller's time is up.
        let read = match (wanted, words.is_empty()) {
            (true, true) => read.await,
            (true, false) => match timeout(PAUSE, read).await {
                Ok(read) => read,
                Err(_) => return Ok(words),
            },
            (false, _) => match timeout(CLOSES_AT_ONCE, read).await {
                Ok(read) => read,
                Err(_) => return Ok(words),
            },
        };
        match read {
            Ok(0) if words.is_empty() => return Err(Silence::NotThere(format!("{target}: the connection was closed without a word"))),
            Ok(0) => return Ok(words),
            Ok(count) => words.extend_from_slice(&buffer[..count]),
            Err(error) => return Err(gone(target, &error)),
        }
        if !wanted || words.len() >= WORDS {
            return Ok(words);
        }
    }
}

/// Sends a start-up message; the first message that comes back, or its beginning.
pub async fn postgres(target: &Target, addresses: &[SocketAddr]) -> Result<Vec<u8>, Silence> {
    let mut stream = connect(target, addresses).await?;
    stream.write_all(&protocol::start_up()).await.map_err(|error| gone(target, &error))?;
    let mut words = Vec::new();
    let mut buffer = vec![0; WORDS];
    while !protocol::is_whole(&words) && words.len() < WORDS {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => words.extend_from_slice(&buffer[..count]),
            Err(error) => return Err(gone(target, &error)),
        }
    }
    Ok(words)
}
