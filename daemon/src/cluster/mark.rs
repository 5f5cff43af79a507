//! Changes that metis makes to objects of others, and takes back: each carries our mark.
//!
//! Format, for whoever finds it (`kubectl get … -o yaml`): annotation `metis.v1/holder`, JSON of [`Mark`]:
//! `{"holder":"titan-db","run":"shutdown-7","step":"flux.suspend","reason":"UPS pyrphoros: …","expires":"2026-11-21T17:00:00Z"}`
//! (`expires` may be null). Set together with the field that it is for (`spec.suspend` or `spec.unschedulable`) by one merge patch with field
//! manager `metis` and the resourceVersion that the decision was made on, so that nobody's change in between is overwritten. Removing the
//! annotation by hand makes the change one's own: metis leaves it alone from then on.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::kube::{Api, Call};
use super::objects::{Loose, Meta};
use super::port::ClusterError;
use crate::site::Mark;

/// Annotation with the [`Mark`].
pub const ANNOTATION: &str = "metis.v1/holder";

/// Conflicts in a row that are taken for a busy object.
const CONFLICTS: u32 = 20;

/// Whose change it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    /// Not ours.
    No,
    /// Ours.
    Ours(Mark),
    /// The annotation is there, but not what metis writes.
    Unreadable,
}

/// Our mark on an object.
pub fn marked(meta: &Meta) -> Marked {
    match meta.annotations.get(ANNOTATION).map(|text| serde_json::from_str(text)) {
        None => Marked::No,
        Some(Ok(mark)) => Marked::Ours(mark),
        Some(Err(_)) => Marked::Unreadable,
    }
}

impl Marked {
    /// The mark, where it is one.
    pub fn mark(self) -> Option<Mark> {
        match self {
            Self::Ours(mark) => Some(mark),
            Self::No | Self::Unreadable => None,
        }
    }
}

/// What a wish means for an object as it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It stays as it is.
    Leave,
    /// This merge patch, without the resourceVersion.
    Patch(Value),
    /// It cannot be told whose it is.
    Refuse,
}

/// What setting (with a mark) or clearing (without) the boolean `spec.FIELD` means for an object on which it `is` set or not.
///
/// What somebody else set, and what another metis host set, is left and not marked; only what carries a mark is cleared.
pub fn decide(is: bool, whose: &Marked, wanted: Option<&Mark>, field: &str) -> Decision {
    let patch = |set: Value, annotation: Value| {
        let annotations = json!({ANNOTATION: annotation});
        Decision::Patch(json!({"metadata": {"annotations": annotations}, "spec": {field: set}}))
    };
    match (wanted, whose) {
        (Some(new), Marked::Ours(old)) if is && (old == new || old.holder != new.holder) => Decision::Leave,
        (Some(_), Marked::No | Marked::Unreadable) if is => Decision::Leave,
        // Serialising a Mark cannot fail.
        (Some(new), _) => patch(Value::Bool(true), Value::String(serde_json::to_string(new).unwrap_or_default())),
        (None, Marked::No) => Decision::Leave,
        (None, Marked::Unreadable) if is => Decision::Refuse,
        (None, Marked::Unreadable | Marked::Ours(_)) => patch(Value::Null, Value::Null),
    }
}

/// What was changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The object's metadata, as they were read beside it.
    pub meta: Meta,
    /// When, by the API server's clock.
    pub at: Option<Timestamp>,
}

/// Carries it out; reads anew where somebody else wrote in between. `None`: it stays as it was.
///
/// # Errors
/// [`ClusterError`]; `what` names the object in it.
pub async fn carry_out(
    api: &Api,
    path: &str,
    field: &str,
    wanted: Option<&Mark>,
    what: &str,
    until: Instant,
) -> Result<Option<Changed>, ClusterError> {
    let mut conflicts = 0;
    loop {
        let object: Loose = api.get(path, until).await.map_err(|failure| failure.error(what))?;
        let is = object.spec.get(field).and_then(Value::as_bool).unwrap_or(false);
        let mut patch = match decide(is, &marked(&object.metadata), wanted, field) {
            Decision::Leave => return Ok(None),
            Decision::Patch(patch) => patch,
            Decision::Refuse => {
                let text = format!(
                    "{what}: the annotation {ANNOTATION} is not what metis writes, so it may be somebody else's; set spec.{field} to false by hand and remove the annotation"
                );
                return Err(ClusterError::Refused(text));
            }
        };
        patch["metadata"]["resourceVersion"] = object.metadata.resource_version.clone().into();
        match api.ask(&Call::patch(path, &patch), until).await {
            Ok(answer) => return Ok(Some(Changed { meta: object.metadata, at: answer.date })),
            Err(failure) if failure.code() == Some(409) && conflicts < CONFLICTS && Instant::now() < until => conflicts += 1,
            Err(failure) => return Err(failure.error(what)),
        }
    }
}
