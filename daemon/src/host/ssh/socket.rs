//! A Unix socket of a host, through its sshd (PROTOCOL of OpenSSH, 2.4: direct-streamlocal). Whoever listens there is told by the kernel that
//! the SSH user calls.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::pool::{Live, Session};
use super::{HostError, Ssh};
use crate::site::Host;

/// A connection to it; it takes a turn of its host until it is dropped.
pub struct SocketStream {
    stream: ChannelStream<Msg>,
    _live: Arc<Live>,
    _session: Session,
}

impl Ssh {
    /// Connects to the socket at `path` there.
    ///
    /// # Errors
    /// Unreachable, Refused or TimedOut as of a command; Failed where sshd did not connect to the socket.
    pub async fn socket(&self, host: &Host, path: &str, within: Duration) -> Result<SocketStream, HostError> {
        let until = Instant::now() + within;
        let busy = |_| HostError::TimedOut(format!("{}: {path} did not get its turn in time (hosts.at_once)", host.name));
        let session = timeout_at(until, self.pool.session(host, self.key.as_ref())).await.map_err(busy)?;
        loop {
            let (live, fresh) = self.handle(&session, host, until).await?;
            match timeout_at(until, live.channel_open_direct_streamlocal(path)).await {
                Ok(Ok(channel)) => return Ok(stream(channel, live, session)),
                Ok(Err(russh::Error::ChannelOpenFailure(reason))) => return Err(not_opened(host, path, &format!("{reason:?}"))),
                // It had ended unseen; once more on a new one.
                Ok(Err(_)) if !fresh => session.give_up(&live).await,
                Ok(Err(error)) => {
                    session.give_up(&live).await;
                    return Err(HostError::Unreachable(format!(
                        "{}: the connection was lost before {path} was opened: {error}",
                        host.name
                    )));
                }
                Err(_) => {
                    session.give_up(&live).await;
                    return Err(HostError::TimedOut(format!("{}: its sshd did not open {path} in time", host.name)));
                }
            }
        }
    }
}

fn stream(channel: Channel<Msg>, live: Arc<Live>, session: Session) -> SocketStream {
    SocketStream { stream: channel.into_stream(), _live: live, _session: session }
}

fn not_opened(host: &Host, path: &str, reason: &str) -> HostError {
    HostError::Failed(format!(
        "{}: sshd lets {} in, and does not connect to {path} ({reason}): nobody listens there, that user may not open it, or sshd_config(5) \
         forbids it (AllowStreamLocalForwarding and AllowTcpForwarding must allow local, and PermitOpen be absent)",
        host.name, host.user
    ))
}

impl AsyncRead for SocketStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for SocketStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
