//! Why a call had no result.

use std::error::Error;
use std::time::Duration;

use serde::Deserialize;

use crate::cluster::port::ClusterError;

/// Why a call had no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No API server answered; why, endpoint by endpoint.
    #[error("no API server answers ({0})")]
    Silent(String),
    /// An API server said no.
    #[error("{at} answers {code} {}", if message.is_empty() { reason } else { message })]
    Status {
        /// Its URL.
        at: String,
        /// HTTP status.
        code: u16,
        /// `reason` of its Status, e.g. `Forbidden`.
        reason: String,
        /// `message` of its Status, bounded.
        message: String,
        /// Reasons in `details.causes`, e.g. `DisruptionBudget`.
        causes: Vec<String>,
        /// Header `Retry-After`.
        retry_after: Option<Duration>,
    },
}

/// metav1.Status, as much of it as is read.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    message: String,
    reason: String,
    details: Option<Details>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cause {
    reason: String,
}

impl Failure {
    /// Of an answer that is no success.
    pub fn of_status(url: &str, head: &http::response::Parts, body: &[u8]) -> Self {
        let status: Status = serde_json::from_slice(body).unwrap_or_default();
        let retry_after = head.headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let reason = if status.reason.is_empty() { head.status.canonical_reason().unwrap_or("").to_owned() } else { status.reason };
        Self::Status {
            at: url.trim_end_matches('/').to_owned(),
            code: head.status.as_u16(),
            reason,
            message: status.message.chars().take(500).collect(),
            causes: status.details.unwrap_or_default().causes.into_iter().map(|cause| cause.reason).collect(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    /// HTTP status, where there was an answer.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Silent(_) => None,
            Self::Status { code, .. } => Some(*code),
        }
    }

    /// Whether `details.causes` names this reason.
    pub fn has_cause(&self, wanted: &str) -> bool {
        matches!(self, Self::Status { causes, .. } if causes.iter().any(|cause| cause == wanted))
    }

    /// How long the API server wants to be left alone; not for ever, whatever it says.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after: Some(after), .. } => Some((*after).clamp(Duration::from_millis(200), Duration::from_secs(10))),
            _ => None,
        }
    }

    /// Whether the same call may succeed a little later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Silent(_) => true,
            Self::Status { code, .. } => *code == 429 || *code >= 500,
        }
    }

    /// What did not pass in time is the same as no answer.
    pub fn lasting(self) -> Self {
        match self {
            Self::Status { .. } if self.is_passing() => Self::Silent(self.to_string()),
            other => other,
        }
    }

    /// For who called; `what` was wanted, e.g. `cordon of titan-13`.
    pub fn error(&self, what: &str) -> ClusterError {
        let text = format!("{what}: {self}");
        match self.code() {
            None | Some(429 | 500..) => ClusterError::Unreachable(text),
            Some(404 | 410) => ClusterError::Gone(text),
            Some(401) => ClusterError::Refused(format!("{text}; the kubeconfig's credentials are not valid any more")),
            Some(403) => ClusterError::Refused(format!("{text}; apply etc/kubernetes/metis-rbac.yaml")),
            Some(_) => ClusterError::Refused(text),
        }
    }
}

/// An error with its causes; those that it repeats are left out.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
