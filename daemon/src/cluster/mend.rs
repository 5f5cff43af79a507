//! Repairs as they are done. Each names the very object that was judged: one that was made anew since, or changed, is left alone.

use serde_json::json;
use tokio::time::Instant;

use super::kube::{Api, Call, path};
use super::port::ClusterError;
use crate::site::ObjectRef;

/// What may be deleted: kind, API group and version, resource.
const DELETED: [(&str, &str, &str); 3] =
    [("Job", "batch/v1", "jobs"), ("Pod", "v1", "pods"), ("VolumeAttachment", "storage.k8s.io/v1", "volumeattachments")];

/// What may be scaled: kind, resource with its subresource.
const SCALED: [(&str, &str); 2] = [("Deployment", "deployments"), ("StatefulSet", "statefulsets")];

/// Deletes it where it still has that UID.
///
/// # Errors
/// [`ClusterError::Gone`] also where it was replaced; [`ClusterError::Refused`] for other kinds.
pub async fn delete(api: &Api, object: &ObjectRef, uid: &str, until: Instant) -> Result<(), ClusterError> {
    let what = format!("deletion of {object}");
    let Some((_, version, resource)) = DELETED.into_iter().find(|(kind, ..)| *kind == object.kind) else {
        return Err(ClusterError::Refused(format!("{what}: metis deletes no {}", object.kind)));
    };
    if uid.is_empty() {
        return Err(ClusterError::Refused(format!("{what}: its UID is not known")));
    }
    let options = json!({"propagationPolicy": "Background", "preconditions": {"uid": uid}});
    let call = Call::delete(&path(version, &object.namespace, resource, &object.name), &options);
    match api.ask(&call, until).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.code() == Some(409) => Err(ClusterError::Gone(format!("{what}: it was made anew meanwhile ({failure})"))),
        Err(failure) => Err(failure.error(&what)),
    }
}

/// Scales it where it is still as it was seen.
///
/// # Errors
/// [`ClusterError::Gone`] also where somebody has changed it; [`ClusterError::Refused`] for other kinds.
pub async fn scale(api: &Api, object: &ObjectRef, version: &str, replicas: i32, until: Instant) -> Result<(), ClusterError> {
    let what = format!("replicas of {object}");
    let Some((_, resource)) = SCALED.into_iter().find(|(kind, _)| *kind == object.kind) else {
        return Err(ClusterError::Refused(format!("{what}: metis scales no {}", object.kind)));
    };
    if version.is_empty() {
        return Err(ClusterError::Refused(format!("{what}: its resourceVersion is not known")));
    }
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}});
    let path = format!("{}/scale", path("apps/v1", &object.namespace, resource, &object.name));
    match api.ask(&Call::patch(&path, &patch), until).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.code() == Some(409) => Err(ClusterError::Gone(format!("{what}: it was changed meanwhile ({failure})"))),
        Err(failure) => Err(failure.error(&what)),
    }
}
