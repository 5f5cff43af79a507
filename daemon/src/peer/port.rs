//! What metis asks of its other host; the second implementation is in the rehearsals.

use std::time::Duration;

use metis_proto::v1;

use crate::site::{Answer, Guard, Word};

/// The other host's daemon. Every call ends within the time it is given.
#[tonic::async_trait]
pub trait Link: Send + Sync {
    /// Tells it what this host does, and asks what it does.
    async fn ask(&self, own: &Word, within: Duration) -> Answer;

    /// Hands a start-up over; the run that it became there.
    async fn hand_over(&self, request: v1::HandOverRequest, within: Duration) -> Result<String, NotTaken>;
}

/// Why a start-up was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// All guards that refuse it there.
    #[error("{}", .0.iter().map(|guard| guard.message.as_str()).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Guard>),
    /// It could not be asked, or did not understand.
    #[error("{0}")]
    Failed(String),
}
