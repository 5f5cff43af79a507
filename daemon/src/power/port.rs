//! What metis asks of a UPS in its end game; the second implementation is `sim`.

use std::time::Duration;

use crate::site::UpsName;

/// UPSes of which this host is the primary (upsmon(8)).
#[tonic::async_trait]
pub trait Primary: Send + Sync {
    /// Sets FSD: secondaries see it at their next poll and shut down.
    async fn set_fsd(&self, ups: &UpsName, within: Duration) -> Result<(), String>;

    /// Secondaries that are logged in (`GET NUMLOGINS`, our own login not counted).
    async fn secondaries(&self, ups: &UpsName, within: Duration) -> Result<u32, String>;

    /// Tests that upsd takes this host for a primary, and changes nothing.
    async fn check(&self, ups: &UpsName, within: Duration) -> Result<(), String>;
}
