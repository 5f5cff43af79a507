//! The helm-controller's face: conditions of HelmReleases. It installs nothing.

use anyhow::Result;
use serde_json::{Value, json};

use super::Actor;
use crate::plane::Plane;
use crate::plane::api::Api;

/// The resource in every namespace.
const RELEASES: &str = "/apis/helm.toolkit.fluxcd.io/v2/helmreleases";

/// Makes each HelmRelease Ready that is not suspended, and fails those with the annotation `lab.metis/helm: fail` for good, as the controller
/// does when its retries are used up. A suspended one keeps what it has, even for a new generation or a request to reconcile.
///
/// # Errors
/// Where the plane gives no client.
pub fn releases(plane: &Plane) -> Result<Actor> {
    Ok(Actor::start(plane.api_as("actor")?, |api| api.list(RELEASES)?.iter().try_for_each(|release| reconcile(api, release))))
}

fn reconcile(api: &Api, release: &Value) -> Result<()> {
    if release["spec"]["suspend"] == true {
        return Ok(());
    }
    let text = |pointer: &str| release.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let requested = text("/metadata/annotations/reconcile.fluxcd.io~1requestedAt");
    let generation = &release["metadata"]["generation"];
    let handled = release["status"]["observedGeneration"] == *generation && text("/status/lastHandledReconcileAt") == requested;
    if handled {
        return Ok(());
    }
    let now = jiff_now();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now, "observedGeneration": generation});
    let conditions = if text("/metadata/annotations/lab.metis~1helm") == "fail" {
        let message = "Failed to upgrade after 1 attempt(s)";
        json!([condition("Stalled", "True", "RetriesExceeded", message), condition("Ready", "False", "UpgradeFailed", message)])
    } else {
        json!([condition("Ready", "True", "InstallSucceeded", "Helm install succeeded")])
    };
    let path = format!(
        "/apis/helm.toolkit.fluxcd.io/v2/namespaces/{}/helmreleases/{}/status",
        text("/metadata/namespace"),
        text("/metadata/name")
    );
    let status = json!({"observedGeneration": generation, "lastHandledReconcileAt": requested, "conditions": conditions});
    api.merge(&path, &json!({"status": status}))?;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a controller stamps its conditions with the time of day")]
fn jiff_now() -> String {
    // Whole seconds, as metav1.Time is.
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
