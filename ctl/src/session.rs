//! The connection to metisd: its Unix socket, or the same through ssh.

use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::args::Global;
use crate::errors::CtlError;
use crate::ssh::Tunnel;

/// A connection. The tunnel, if any, ends with it.
pub struct Session {
    /// For the generated clients.
    pub channel: Channel,
    /// Limit of each unary call.
    pub timeout: Duration,
    /// The flags that lead to this daemon, for hints like "metisctl --host tethys run watch …".
    pub flags: String,
    _tunnel: Option<Tunnel>,
}

impl Session {
    /// Connects as the flags say.
    pub async fn open(global: &Global) -> Result<Self, CtlError> {
        let (socket, tunnel) = match &global.host {
            None => (global.socket.clone(), None),
            Some(host) => {
                let tunnel = Tunnel::open(host, &global.socket, global.timeout).await?;
                (tunnel.socket(), Some(tunnel))
            }
        };
        let channel = metis_proto::connect(&socket, global.timeout).await?;
        Ok(Self { channel, timeout: global.timeout, flags: flags(global), _tunnel: tunnel })
    }

    /// One unary call within the time limit.
    pub async fn call<T>(&self, what: &str, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, CtlError> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(CtlError::rpc(what, status)),
            Err(_) => Err(CtlError::TooSlow { what: what.to_owned(), after: self.timeout }),
        }
    }
}

fn flags(global: &Global) -> String {
    let mut flags = String::new();
    if let Some(host) = &global.host {
        let _ = write!(flags, " --host {host}");
    }
    if global.socket != std::path::Path::new(metis_proto::DEFAULT_SOCKET) {
        let _ = write!(flags, " --socket {}", global.socket.display());
    }
    flags
}
