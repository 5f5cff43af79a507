//! This host's clock, for relative times.

/// Now.
#[allow(clippy::disallowed_methods, reason = "the client's one source of the wall clock; only for display")]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
