//! Single pods of metis' own, for nodes on which nothing but a pod helps.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::kube::{Api, Call, path};
use super::port::ClusterError;

/// Makes, looks at and removes pods of one namespace, through whichever API server answers.
#[derive(Clone)]
pub struct Pods {
    api: Arc<Api>,
    namespace: String,
}

impl Pods {
    pub(super) fn new(api: Arc<Api>, namespace: &str) -> Self {
        Self { api, namespace: namespace.to_owned() }
    }

    /// Makes a pod. One of its name is taken for the same, of which no answer came back: names are not used twice.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn create(&self, pod: &Value, within: Duration) -> Result<(), ClusterError> {
        let made = self.api.ask(&Call::post(&self.path(""), pod), Instant::now() + within).await;
        match made {
            Err(failure) if failure.code() != Some(409) => Err(failure.error("creating a pod")),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// A pod as it is; `None`: it is gone.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn get(&self, name: &str, within: Duration) -> Result<Option<Value>, ClusterError> {
        match self.api.get(&self.path(name), Instant::now() + within).await {
            Ok(pod) => Ok(Some(pod)),
            Err(failure) if failure.code() == Some(404) => Ok(None),
            Err(failure) => Err(failure.error("looking at a pod")),
        }
    }

    /// The pods of a node that have these labels (`key=value,…`).
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn of_node(&self, node: &str, labels: &str, within: Duration) -> Result<Vec<Value>, ClusterError> {
        let fields = format!("spec.nodeName={node}");
        let query = [("labelSelector", labels), ("fieldSelector", fields.as_str())];
        let list = self.api.list(&self.path(""), &query, Instant::now() + within).await;
        list.map(|list| list.items).map_err(|failure| failure.error("listing pods"))
    }

    /// Removes a pod at once, without the grace in which a kubelet that hangs would keep it; one that is gone is done.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn delete(&self, name: &str, within: Duration) -> Result<(), ClusterError> {
        let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background" });
        match self.api.ask(&Call::delete(&self.path(name), &options), Instant::now() + within).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.code() == Some(404) => Ok(()),
            Err(failure) => Err(failure.error("removing a pod")),
        }
    }

    fn path(&self, name: &str) -> String {
        path("v1", &self.namespace, "pods", name)
    }
}
