//! Helper pods are made through the cluster's own way to its API servers: several endpoints, deadlines, retries.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::port::ClusterError;
use crate::host::port::{HostError, Pods};

#[tonic::async_trait]
impl Pods for crate::cluster::Pods {
    async fn create(&self, pod: &Value, within: Duration) -> Result<(), HostError> {
        self.create(pod, within).await.map_err(of_cluster)
    }

    async fn get(&self, name: &str, within: Duration) -> Result<Option<Value>, HostError> {
        self.get(name, within).await.map_err(of_cluster)
    }

    async fn of_node(&self, node: &str, labels: &str, within: Duration) -> Result<Vec<Value>, HostError> {
        self.of_node(node, labels, within).await.map_err(of_cluster)
    }

    async fn delete(&self, name: &str, within: Duration) -> Result<(), HostError> {
        self.delete(name, within).await.map_err(of_cluster)
    }
}

fn of_cluster(error: ClusterError) -> HostError {
    match error {
        ClusterError::Unreachable(why) => HostError::Unreachable(why),
        ClusterError::Refused(why) => HostError::Refused(why),
        ClusterError::Gone(why) => HostError::Failed(why),
    }
}
