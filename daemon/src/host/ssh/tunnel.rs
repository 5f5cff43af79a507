//! A stream from a host's own network to an address that it reaches (`direct-tcpip` of RFC 4254 §7.2).

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use russh::ChannelStream;
use russh::client::Msg;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::pool::{Live, Session};
use super::{HostError, Ssh};
use crate::site::Host;

/// Bytes both ways. It counts as a command that runs there, and ends when it is dropped.
pub struct Tunnel {
    stream: Pin<Box<ChannelStream<Msg>>>,
    /// Keeps the connection.
    _handle: Arc<Live>,
    _session: Session,
}

impl Ssh {
    /// Opens a stream from the host to `address`. sshd's AllowTcpForwarding has to let it.
    ///
    /// # Errors
    /// As [`Ssh::run`]; Failed where the host gets no connection there, or its sshd forwards nothing.
    pub async fn tunnel(&self, host: &Host, address: IpAddr, port: u16, within: Duration) -> Result<Tunnel, HostError> {
        let until = Instant::now() + within;
        let what = format!("{}: a stream to {address} port {port}", host.name);
        let late = |_| HostError::TimedOut(format!("{what} could not be opened in time"));
        let session = timeout_at(until, self.pool.session(host, self.key.as_ref())).await.map_err(late)?;
        loop {
            let (handle, fresh) = self.handle(&session, host, until).await?;
            let opening = handle.channel_open_direct_tcpip(address.to_string(), u32::from(port), "127.0.0.1", 0);
            match timeout_at(until, opening).await.map_err(late)? {
                Ok(channel) => {
                    let stream = Box::pin(channel.into_stream());
                    return Ok(Tunnel { stream, _handle: handle, _session: session });
                }
                Err(russh::Error::ChannelOpenFailure(russh::ChannelOpenFailure::AdministrativelyProhibited)) => {
                    return Err(HostError::Failed(format!(
                        "{what} is refused by its sshd: AllowTcpForwarding of sshd_config(5) must let it"
                    )));
                }
                Err(russh::Error::ChannelOpenFailure(why)) => {
                    return Err(HostError::Failed(format!("{what} gets no connection: {why:?}")));
                }
                // It had ended unseen.
                Err(_) if !fresh => session.give_up(&handle).await,
                Err(error) => {
                    session.give_up(&handle).await;
                    return Err(HostError::Unreachable(format!("{what}: connected, but it could not be opened: {error}")));
                }
            }
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}
