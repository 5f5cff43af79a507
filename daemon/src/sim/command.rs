//! The Lease by which one of two metis hosts commands, in a simulated cluster.

use std::time::Duration;

use super::site::Site;
use crate::cluster::port::{ClusterError, Commander};
use crate::site::LeaseRecord;

#[tonic::async_trait]
impl Commander for Site {
    async fn command_lease(&self, _namespace: &str, within: Duration) -> Result<Option<LeaseRecord>, ClusterError> {
        self.call(within, |model| Ok(model.lease.clone())).await
    }

    async fn write_command_lease(&self, _namespace: &str, record: &LeaseRecord, within: Duration) -> Result<bool, ClusterError> {
        self.call(within, |model| {
            let stands = model.lease.as_ref().map(|lease| lease.version.clone()).unwrap_or_default();
            if stands != record.version {
                return Ok(false);
            }
            let next = stands.parse::<u64>().unwrap_or_default() + 1;
            model.lease = Some(LeaseRecord { version: next.to_string(), ..record.clone() });
            Ok(true)
        })
        .await
    }
}
