//! `metis.v1`: the generated types of the daemon's API, and a helper that connects to its Unix socket.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Uri};

pub mod details;

/// The generated types and services of package `metis.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("metis.v1");
}

/// Serialised `google.protobuf.FileDescriptorSet` of the package, for reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/metis.v1.binpb"));

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/metis/metisd.sock";

/// Why the daemon's socket could not be used. The three cases ask for different remedies.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket exists but this user may not open it.
    #[error(
        "no permission on {path}: you are neither root nor in the socket's group; ask an admin to add you to group metis, then log in again"
    )]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// Nothing is there or nobody listens.
    #[error(
        "metisd does not answer on {path} ({reason}): start it with `systemctl start metisd.socket metisd`, or name another socket with --socket"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
    /// Something else went wrong on the way.
    #[error("cannot connect to {path}: {source}")]
    Other {
        /// The socket.
        path: PathBuf,
        /// The transport's error.
        #[source]
        source: tonic::transport::Error,
    },
}

/// A peer that hangs in the middle of a stream is noticed after this long without, and then within, an answer to a ping.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(40));

/// Connects to the daemon on a Unix socket, within `timeout`. Streams break when the daemon hangs for about a minute.
///
/// # Errors
/// [`ConnectError`] tells "no permission" from "not running".
pub async fn connect(socket: &Path, timeout: Duration) -> Result<Channel, ConnectError> {
    probe(socket, timeout).await?;
    let path = socket.to_path_buf();
    let endpoint = Endpoint::from_static("http://metisd.local")
        .connect_timeout(timeout)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1);
    endpoint
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        }))
        .await
        .map_err(|source| ConnectError::Other { path: socket.to_path_buf(), source })
}

/// A channel over a connection to a daemon that stands already; no call on it takes longer than `timeout`.
///
/// # Errors
/// Nobody there speaks HTTP/2.
pub async fn over<S>(stream: S, timeout: Duration) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let once = Arc::new(Mutex::new(Some(hyper_util::rt::TokioIo::new(stream))));
    let endpoint = Endpoint::from_static("http://metisd.local").connect_timeout(timeout).timeout(timeout);
    endpoint
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move { stream.ok_or_else(|| std::io::Error::other("the connection is used up")) }
        }))
        .await
}

/// A bare connect first: the transport's own error hides which errno it was.
async fn probe(socket: &Path, timeout: Duration) -> Result<(), ConnectError> {
    let not_running = |reason: String| ConnectError::NotRunning { path: socket.to_path_buf(), reason };
    match tokio::time::timeout(timeout, tokio::net::UnixStream::connect(socket)).await {
        Err(_) => Err(not_running(format!("no answer within {} s", timeout.as_secs()))),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(ConnectError::Permission { path: socket.to_path_buf() }),
        Ok(Err(e)) => Err(not_running(e.to_string())),
    }
}
