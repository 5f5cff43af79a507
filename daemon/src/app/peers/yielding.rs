//! Two hosts that shut the site down at once: each node is done once. Who finds what the other one marked first leaves it to that one, also
//! to undo; but nothing waits for it for longer than the battery allows.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::app::shutdown::{Attempt, of_cluster};
use crate::runbook::StepResult;
use crate::site::{Host, Mark, ObjectRef};

/// A drain of the other host that makes no progress for so long is taken up here.
const NO_PROGRESS: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Of the time that is left, so much is the other host's at most.
const ITS_SHARE: u32 = 3;

impl Attempt<'_> {
    /// Of what was suspended just now: what the other host did first is his.
    pub(in crate::app) async fn leave_suspended(&self, open: &[ObjectRef]) -> Result<usize, StepResult> {
        if self.parts.peers.is_none() || open.is_empty() {
            return Ok(0);
        }
        let seen = self.cluster()?.collect(self.left()).await.map_err(of_cluster)?;
        let others = seen.flux.iter().filter(|object| self.is_anothers(object.mark.as_ref()));
        let others: Vec<_> = others.map(|object| object.object.clone()).filter(|object| open.contains(object)).collect();
        let count = others.len();
        self.release(others, "the other metis host suspended it").await?;
        Ok(count)
    }

    fn is_anothers(&self, mark: Option<&Mark>) -> bool {
        mark.is_some_and(|mark| mark.holder != self.world.host_name)
    }

    /// The node carries the other host's mark: its cordon is his, and its pods are waited for as long as he makes them go. `Some`: they are
    /// gone. A node of which that cannot be seen is drained.
    pub(in crate::app) async fn leave_node(&self, host: &Host, cordon_only: bool) -> Result<Option<String>, StepResult> {
        let (Some(_), Ok(platform)) = (&self.parts.peers, &self.parts.platform) else { return Ok(None) };
        let nodes = platform.nodes(self.left()).await.unwrap_or_default();
        let found = nodes.into_iter().find(|node| node.name == host.node_name);
        let Some(mark) = found.and_then(|node| node.mark).filter(|mark| self.is_anothers(Some(mark))) else { return Ok(None) };
        self.release(vec![ObjectRef::new("Node", "", &host.node_name)], "the other metis host cordoned it").await?;
        if cordon_only {
            return Ok(None);
        }
        self.tell(format!("{} was cordoned by {} in {}: it drains it", host.name, mark.holder, mark.run)).await;
        let gone = self.drained_by_another(host).await?;
        Ok(gone.then(|| format!("drained by {} in {}", mark.holder, mark.run)))
    }

    /// Whether its pods go without us, looked at as long as they become fewer.
    async fn drained_by_another(&self, host: &Host) -> Result<bool, StepResult> {
        let end = Instant::now() + self.deadline().saturating_duration_since(Instant::now()) / ITS_SHARE;
        let (mut least, mut since) = (u32::MAX, Instant::now());
        loop {
            let seen = self.cluster()?.collect(self.left()).await.map_err(of_cluster)?;
            let left = seen.nodes.iter().find(|node| node.name == host.node_name).map_or(0, |node| node.evictable);
            if left == 0 {
                return Ok(true);
            }
            if left < least {
                (least, since) = (left, Instant::now());
            }
            if since.elapsed() >= NO_PROGRESS || Instant::now() >= end {
                self.tell(format!("{left} pods of {} do not go: drained from here", host.name)).await;
                return Ok(false);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whose marks this host takes back in a start-up: its own, and the other host's, which was asked before and stops nothing.
    pub(in crate::app) fn holders(&self) -> BTreeSet<String> {
        let mut holders = BTreeSet::from([self.world.host_name.clone()]);
        if let Some(peers) = &self.parts.peers {
            holders.extend(self.world.desk().names().iter().cloned());
            let host = self.parts.topology.hosts.get(&peers.settings.host);
            holders.extend(host.into_iter().flat_map(|host| [host.name.to_string(), host.node_name.clone()]));
        }
        holders
    }
}
