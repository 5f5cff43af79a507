//! The Lease by which one of two metis hosts commands (coordination.k8s.io/v1), as it is read and written. Who may take it is not decided here.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::kube::{Api, Call, Failure, path};
use super::objects::Loose;
use super::port::ClusterError;
use crate::site::LeaseRecord;

/// Its name.
const NAME: &str = "metis";
/// Annotation: the run that it is held for.
const RUN: &str = "metis.v1/run";

fn at(namespace: &str, name: &str) -> String {
    path("coordination.k8s.io/v1", namespace, "leases", name)
}

fn what(namespace: &str) -> String {
    format!("Lease {namespace}/{NAME}")
}

/// As it stands; `None`: it was never made. Asked once: who wants to know asks again.
///
/// # Errors
/// Nobody answers, or refuses.
pub async fn read(api: &Api, namespace: &str, until: Instant) -> Result<Option<LeaseRecord>, ClusterError> {
    match api.once(&Call::get(&at(namespace, NAME), &[]), until).await {
        Ok(answer) => {
            let lease: Loose = serde_json::from_slice(&answer.body)
                .map_err(|error| ClusterError::Unreachable(format!("{}: the answer is not understood: {error}", what(namespace))))?;
            Ok(Some(record(&lease)))
        }
        Err(failure) if failure.code() == Some(404) => Ok(None),
        Err(failure) => Err(failure.error(&what(namespace))),
    }
}

/// Writes it where it still stands as `record.version` says; whether it did.
///
/// # Errors
/// Nobody answers, or refuses.
pub async fn write(api: &Api, namespace: &str, record: &LeaseRecord, until: Instant) -> Result<bool, ClusterError> {
    let call = if record.version.is_empty() {
        Call::post(&at(namespace, ""), &object(namespace, record))
    } else {
        Call::patch(&at(namespace, NAME), &patch(record))
    };
    match api.once(&call, until).await {
        Ok(_) => Ok(true),
        // Somebody else was quicker, or removed it.
        Err(failure) if is_overtaken(&failure, record) => Ok(false),
        Err(failure) => Err(failure.error(&what(namespace))),
    }
}

fn is_overtaken(failure: &Failure, record: &LeaseRecord) -> bool {
    match failure.code() {
        Some(409) => true,
        Some(404) => !record.version.is_empty(),
        _ => false,
    }
}

fn record(lease: &Loose) -> LeaseRecord {
    let number = |key: &str| lease.spec.get(key).and_then(Value::as_u64).unwrap_or_default();
    let time = |pointer: &str| lease.spec_str(pointer).parse().ok();
    LeaseRecord {
        holder: lease.spec_str("/holderIdentity").to_owned(),
        run: lease.metadata.annotations.get(RUN).cloned().unwrap_or_default(),
        duration: Duration::from_secs(number("leaseDurationSeconds")),
        acquired: time("/acquireTime"),
        renewed: time("/renewTime"),
        transitions: number("leaseTransitions"),
        version: lease.metadata.resource_version.clone(),
    }
}

/// `null` where it is empty: a merge patch removes it then.
fn spec(record: &LeaseRecord) -> Value {
    let holder = (!record.holder.is_empty()).then_some(&record.holder);
    json!({
        "holderIdentity": holder,
        "leaseDurationSeconds": record.duration.as_secs().max(1),
        "acquireTime": record.acquired.map(micro),
        "renewTime": record.renewed.map(micro),
        "leaseTransitions": record.transitions,
    })
}

fn annotations(record: &LeaseRecord) -> Value {
    json!({RUN: (!record.run.is_empty()).then_some(&record.run)})
}

fn patch(record: &LeaseRecord) -> Value {
    json!({"metadata": {"resourceVersion": record.version, "annotations": annotations(record)}, "spec": spec(record)})
}

fn object(namespace: &str, record: &LeaseRecord) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NAME, "namespace": namespace, "annotations": {RUN: record.run}},
        "spec": spec(record),
    })
}

/// metav1.MicroTime wants six digits.
fn micro(at: Timestamp) -> String {
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let at: Timestamp = "2026-11-21T17:00:00.25Z".parse().unwrap();
        let record = LeaseRecord {
            holder: "titan-db".into(),
            run: "startup-4".into(),
            duration: Duration::from_secs(15),
            acquired: Some(at),
            renewed: Some(at),
            transitions: 3,
            version: "17".into(),
        };
        let patch = patch(&record);
        assert_eq!(patch["spec"]["renewTime"], "2026-11-21T17:00:00.250000Z");
        let lease: Loose = serde_json::from_value(patch).unwrap();
        let read = super::record(&lease);
        assert_eq!(LeaseRecord { version: "17".into(), ..read }, record);
        let free = super::patch(&LeaseRecord { holder: String::new(), run: String::new(), ..record });
        assert_eq!((&free["spec"]["holderIdentity"], &free["metadata"]["annotations"][RUN]), (&Value::Null, &Value::Null));
    }
}
