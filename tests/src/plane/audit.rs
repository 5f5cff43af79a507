//! The audit log of the API servers: who asked for what, and what came of it.

use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

/// One request that was answered.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When it was received.
    pub at: Timestamp,
    /// Who asked: a user of the plane, or `system:serviceaccount:kube-system:metis`.
    pub user: String,
    /// get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: String,
    /// The resource and, behind a slash, its subresource: `pods/eviction`.
    pub resource: String,
    /// The API group; empty for the core.
    pub group: String,
    /// Empty for what has none.
    pub namespace: String,
    /// Empty for lists.
    pub name: String,
    /// The status code of the answer.
    pub code: u16,
    /// The whole line: `requestURI`, `userAgent`, `requestObject` of writes.
    pub line: Value,
}

impl Entry {
    /// Whether metis' service account asked.
    pub fn by_metis(&self) -> bool {
        self.user == "system:serviceaccount:kube-system:metis"
    }

    /// Whether it was to change something.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

pub(super) fn read(log: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    // The last line may be half written; every other one is whole.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole.lines().map(|line| entry(serde_json::from_str(line).with_context(|| line.to_owned())?)).collect()
}

fn entry(line: Value) -> Result<Entry> {
    let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let at = text("/requestReceivedTimestamp");
    let subresource = text("/objectRef/subresource");
    let resource = text("/objectRef/resource");
    Ok(Entry {
        at: at.parse().with_context(|| format!("requestReceivedTimestamp {at:?}"))?,
        user: text("/user/username"),
        verb: text("/verb"),
        resource: if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") },
        group: text("/objectRef/apiGroup"),
        namespace: text("/objectRef/namespace"),
        name: text("/objectRef/name"),
        code: line.pointer("/responseStatus/code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).unwrap_or(0),
        line,
    })
}
