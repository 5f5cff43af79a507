//! What `-o json` and `-o yaml` print: a stable interface. Fields are added, never renamed or removed.
//!
//! Enums are lower-case words; times RFC 3339 in UTC; `…_seconds` and `…_bytes` numbers in that unit; what is not known is null.

pub mod arm;
pub mod card;
pub mod lease;
pub mod plan;
pub mod prepare;
pub mod run;
pub mod shutdown;
pub mod startup;
pub mod status;
mod timeline;
pub mod ups;

use jiff::Timestamp;
use metis_proto::v1;

/// Words that are compared with, not only shown.
pub mod word {
    /// An enum value that this client does not know, or none.
    pub const UNSPECIFIED: &str = "unspecified";
}

/// Time of a message; `None` where it is absent or outside what can be shown.
pub fn time(value: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    value.and_then(|t| Timestamp::new(t.seconds, t.nanos).ok())
}

/// Seconds of a message.
pub fn secs(value: Option<prost_types::Duration>) -> Option<f64> {
    value.map(|d| d.seconds as f64 + f64::from(d.nanos) / 1e9)
}

/// `None` for the empty string.
pub fn text(value: String) -> Option<String> {
    (!value.is_empty()).then_some(value)
}

/// What a device says of itself, without what would move a terminal's cursor.
pub fn harmless(value: &str) -> Option<String> {
    text(value.replace(char::is_control, "?"))
}

/// A role as a word.
pub fn role(value: i32) -> &'static str {
    match v1::Role::try_from(value).unwrap_or_default() {
        v1::Role::Unspecified => word::UNSPECIFIED,
        v1::Role::Viewer => "viewer",
        v1::Role::Maintenance => "maintenance",
        v1::Role::Admin => "admin",
    }
}
