//! What is asked of a service from outside; the second implementation is `sim`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::site::Target;

/// Asks services.
#[tonic::async_trait]
pub trait Prober: Send + Sync {
    /// Asks once: a GET, a handshake or a connection. It follows no redirect, reads a bounded part of the body, and ends in time.
    async fn ask(&self, ask: &Ask, within: Duration) -> Result<Answer, Silence>;
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// What; its host is the name in TLS and in the header `Host`.
    pub target: Target,
    /// Where it is asked, whatever its name.
    pub place: Place,
    /// Which certificate is believed.
    pub trust: Trust,
    /// Of a plain connection: its first words are waited for.
    pub listen: bool,
}

/// Where a question goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Place {
    /// Where DNS says that the target's host is.
    #[default]
    OfTarget,
    /// Where DNS says that another host is.
    OfHost(String),
    /// To the first of these that lets us connect.
    At(Vec<SocketAddr>),
}

/// Which certificate of a server is believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Trust {
    /// PEM of the CAs that may have signed it; absent: this host's.
    pub ca_file: Option<PathBuf>,
    /// How much of it is looked at.
    pub verify: Verify,
}

/// How much of a certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verify {
    /// All of it.
    #[default]
    Full,
    /// Whose name it carries, not who signed it.
    Name,
    /// Nothing: only for a question whose answer is compared with another.
    Nothing,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a GET.
    Page(Page),
    /// The connection stands; the first words that were said there.
    Open(Vec<u8>),
}

/// An answer to a GET.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// HTTP status.
    pub code: u16,
    /// By name in lower case; repeated ones are joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The body, or its first part.
    pub body: Vec<u8>,
    /// The body is here as a whole.
    pub whole: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// Nothing there answers us, or what answers is not to be believed.
    #[error("{0}")]
    NotThere(String),
    /// The question could not be asked: a name that cannot be looked up, a CA file that cannot be read.
    #[error("{0}")]
    CannotTell(String),
}
