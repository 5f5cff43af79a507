//! A host's power-off.

use std::time::Duration;

use super::super::claims::{claim, held};
use super::super::perform::failed;
use super::{Attempt, Done, of_host};
use crate::host::port::HostError;
use crate::site::{Access, Change, Claim, NodeName, ObjectRef};

impl Attempt<'_> {
    /// A host may be off before it is recorded that it took the order: only the claim tells the next attempt why it does not answer.
    pub(super) async fn power_off(&self, node: &NodeName) -> Done {
        let (host, hosts) = (self.host(node)?, &self.parts.hosts);
        // Not knowing who blocks must not hold it, nor take the time for it.
        let locks = hosts.blockers(host, self.left() / 4).await;
        let object = ObjectRef::new("Host", "", node.as_str());
        // A helper pod that does not start says nothing of its host.
        let silent = host.access != Access::HelperPod;
        let told = held(self.handle, &self.job.run, Change::PoweredOff).contains(&object);
        if !told {
            if silent && !matches!(locks, Ok(_) | Err(HostError::Denied(_) | HostError::Failed(_))) {
                // One that was never reached must not look like one that is off.
                self.first(host, hosts.probe(host, self.patience()).await)?;
            }
            let claims = vec![Claim { object, change: Change::PoweredOff, expires: None }];
            claim(self.handle, &self.job.run, &self.job.step, claims).await.map_err(failed)?;
        }
        match hosts.power_off(host, Duration::ZERO, self.left()).await {
            Err(HostError::Unreachable(why)) if told && silent => {
                return Ok(format!("was told to power off before, and does not answer any more: {why}"));
            }
            ordered => ordered.map_err(of_host)?,
        }
        for lock in locks.unwrap_or_default() {
            self.tell(format!("powered off past the lock of {lock}")).await;
        }
        Ok("took the order to power off".to_owned())
    }
}
