//! gRPC with the other host's daemon through a connector that is given: it leads to that daemon's Unix socket, where the kernel names the
//! SSH user to it, as it names every caller.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use metis_proto::details::{self, Detail};
use metis_proto::v1;
use metis_proto::v1::peer_client::PeerClient;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::port::{Link, NotTaken};
use super::words;
use crate::site::{Answer, Guard, Word};

/// Both ways of a connection.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// Why there is no connection to its daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Its host is not reached.
    #[error("{0}")]
    Unreachable(String),
    /// Its host is, and nobody listens on the socket.
    #[error("{0}")]
    Silent(String),
    /// It does not let us in, or is not trusted.
    #[error("{0}")]
    Denied(String),
}

/// Makes a connection to the socket within that time.
pub type Connect = Arc<dyn Fn(Duration) -> BoxFuture<'static, Result<Box<dyn Bytes>, Broken>> + Send + Sync>;

/// The real link. Each exchange has a connection of its own: none is left over that may be dead when it is needed.
pub struct SshLink {
    connect: Connect,
}

impl SshLink {
    /// Connects to nothing yet.
    pub fn new(connect: Connect) -> Self {
        Self { connect }
    }

    async fn client(&self, until: Instant) -> Result<PeerClient<Channel>, Broken> {
        let left = || until.saturating_duration_since(Instant::now());
        let late = |what: &str| format!("{what} in time");
        let stream = timeout_at(until, (self.connect)(left())).await;
        let stream = stream.map_err(|_| Broken::Unreachable(late("no connection")))??;
        let channel = timeout_at(until, metis_proto::over(stream, left())).await;
        let channel = channel.map_err(|_| Broken::Silent(late("its metisd did not answer")))?;
        channel.map(PeerClient::new).map_err(|error| Broken::Silent(format!("its metisd did not answer: {error}")))
    }
}

#[tonic::async_trait]
impl Link for SshLink {
    async fn ask(&self, own: &Word, within: Duration) -> Answer {
        let until = Instant::now() + within;
        let mut client = match self.client(until).await {
            Ok(client) => client,
            Err(Broken::Unreachable(why)) => return Answer::Unreachable(why),
            Err(Broken::Silent(why)) => return Answer::Silent(why),
            Err(Broken::Denied(why)) => return Answer::Denied(why),
        };
        match timeout_at(until, client.ask(words::write(own))).await {
            Ok(Ok(answer)) => Answer::Said(words::read(answer.into_inner())),
            Ok(Err(status)) => refused(&status),
            Err(_) => Answer::Silent("its metisd took the question and did not answer in time".to_owned()),
        }
    }

    async fn hand_over(&self, request: v1::HandOverRequest, within: Duration) -> Result<String, NotTaken> {
        let until = Instant::now() + within;
        let mut client = self.client(until).await.map_err(|broken| NotTaken::Failed(broken.to_string()))?;
        match timeout_at(until, client.hand_over(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().run),
            Ok(Err(status)) => Err(not_taken(&status)),
            Err(_) => Err(NotTaken::Failed("it was asked to take the start-up over, and did not answer in time; it may have".to_owned())),
        }
    }
}

fn refused(status: &Status) -> Answer {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => Answer::Denied(status.message().to_owned()),
        Code::Unimplemented => Answer::Denied("its metisd is too old to be asked".to_owned()),
        _ => Answer::Silent(format!("its metisd: {}", status.message())),
    }
}

fn not_taken(status: &Status) -> NotTaken {
    let guard =
        |guard: v1::Guard| Guard { name: guard.name, message: guard.message, waiver: (!guard.waiver.is_empty()).then_some(guard.waiver) };
    let refusal = details::of(status).into_iter().find_map(|detail| match detail {
        Detail::Refusal(refusal) => Some(refusal.guards),
        Detail::RoleNeeded(_) => None,
    });
    match refusal {
        Some(guards) => NotTaken::Refused(guards.into_iter().map(guard).collect()),
        None => NotTaken::Failed(status.message().to_owned()),
    }
}
