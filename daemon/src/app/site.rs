//! Answers of the real rooms to what the API asks.

use std::sync::Arc;
use std::time::Duration;

use metis_proto::v1;

use super::source::Source;
use super::world::World;
use super::{arming, asked, inventory, leases, outage, peers, prepare, startup};
use crate::api::port::{
    Arming, CardQuestion, Destination, Draft, HistoryQuestion, ImagePipe, InventoryQuestion, Looked, PeerFacts, Peers, PlanError, Planned,
    Power, Preparing, ShutdownPlan, ShutdownQuestion, Site, StartupQuestion, Who,
};
use crate::card::device::{self, Device, Roots, Want};
use crate::card::merge;
use crate::card::plan::{self, CardOrder, Target};
use crate::cluster::port::Facts;
use crate::cluster::{repairs, shutdown, startup as cluster_startup};
use crate::config::Settings;
use crate::control::Handle;
use crate::journal;
use crate::peer::port::NotTaken;
use crate::peer::rule::Command;
use crate::runbook::Runbook;
use crate::site::{Asker, Guard, Judged, RunId, Step, Word};

/// The real site.
pub struct RealSite {
    /// What the steps use too.
    pub world: Arc<World>,
    /// UPS history.
    pub history: journal::UpsHistory,
    /// The control loop.
    pub handle: Handle,
    /// What was last seen of Flux' source.
    pub source: Source,
}

/// What cannot be seen of the cluster within this time is planned without.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

#[tonic::async_trait]
impl Site for RealSite {
    async fn plan_card(&self, question: CardQuestion, destination: Destination) -> Result<Planned, PlanError> {
        let settings = self.world.settings();
        blocking(move || planned(&settings, &question, destination)).await
    }

    async fn card_config(&self, question: CardQuestion) -> Result<serde_json::Value, PlanError> {
        let settings = self.world.settings();
        let node = merge::merge(&settings.inventory, &question.node).map_err(|e| PlanError::NoSuchNode(e.to_string()))?;
        Ok(merge::masked(&node))
    }

    async fn devices(&self) -> Result<Vec<(Device, Vec<Guard>)>, PlanError> {
        blocking(|| {
            let devices = device::list(&Roots::host()).map_err(|e| PlanError::Failed(format!("listing the disks of this host: {e}")))?;
            Ok(devices.into_iter().map(|d| (device::guards(&d, &Want::default()), d)).map(|(g, d)| (d, g)).collect())
        })
        .await
    }

    fn attach(&self, run: &RunId, pipe: ImagePipe) {
        self.world.attach(run, pipe);
    }
}

#[tonic::async_trait]
impl Power for RealSite {
    async fn plan_shutdown(&self, question: ShutdownQuestion) -> Result<ShutdownPlan, PlanError> {
        let parts = self.world.parts().await;
        let power = self.handle.view().power.clone();
        let remaining = asked::remaining(&self.world.settings(), power.as_ref(), question.domains.as_ref());
        let mut order = asked::order(&self.world.settings(), &question);
        order.remaining = remaining;
        // A dry run waits for nothing.
        let facts = if question.execute { outage::collected(&parts, LOOK_WITHIN).await } else { Facts::default() };
        let mut runbook = shutdown::plan(&parts.settings, &parts.topology, &facts, &self.handle.view().learned, &order);
        runbook.refusals.extend(asked::guards(&self.world.settings(), power.as_ref(), &question));
        Ok(ShutdownPlan { runbook, topology: parts.topology.clone(), remaining })
    }

    async fn plan_startup(&self, question: StartupQuestion) -> Result<Runbook<Step>, PlanError> {
        let (parts, settings) = (self.world.parts().await, self.world.settings());
        let power = self.handle.view().power.clone();
        let order = startup::ask::order(&settings, &question);
        let mut runbook = cluster_startup::plan(&parts.settings, &parts.topology, &self.handle.view().learned, &order);
        runbook.refusals.extend(startup::ask::guards(&settings, power.as_ref(), &question));
        Ok(runbook)
    }

    fn gates(&self) -> Vec<(&'static cluster_startup::Row, Duration)> {
        let settings = self.world.settings();
        cluster_startup::GATES.iter().map(|row| (row, (row.patience)(&settings.cluster))).collect()
    }

    fn repairs(&self) -> Vec<(&'static repairs::RepairRow, bool)> {
        let settings = self.world.settings();
        repairs::REPAIRS.iter().map(|row| (row, settings.cluster.startup.repairs.allows(row.repair))).collect()
    }

    async fn renew_lease(&self, requester: String, node: String, expires: jiff::Timestamp) -> Result<String, PlanError> {
        leases::renew(&self.world, &self.handle, requester, &node, expires).await
    }

    async fn release_lease(&self, requester: String, node: String) -> Result<String, PlanError> {
        leases::release(&self.world, &self.handle, &requester, &node).await
    }

    fn lease_span(&self) -> Duration {
        self.world.settings().cluster.cordon_lease
    }

    async fn arming(&self) -> Result<Arming, PlanError> {
        Ok(arming::arming(&self.world, &self.handle.view()).await)
    }

    async fn ups_history(&self, question: HistoryQuestion) -> Result<journal::History, PlanError> {
        let HistoryQuestion { ups, from, to, limit } = question;
        let (from, to) = (from.unwrap_or(jiff::Timestamp::MIN), to.unwrap_or(jiff::Timestamp::MAX));
        self.history.query(ups.as_str(), from, to, limit).await.map_err(|e| PlanError::Failed(e.to_string()))
    }
}

#[tonic::async_trait]
impl Preparing for RealSite {
    async fn look(&self, requester: String) -> Result<Looked, PlanError> {
        let findings = prepare::look(&self.world, &self.handle.view()).await;
        let record = prepare::record(&self.world, requester, &findings);
        Ok(Looked { findings, record })
    }

    async fn flux_source(&self) -> Option<Judged> {
        self.source.judged(&self.world).await
    }

    async fn inventory(&self, question: InventoryQuestion) -> Result<Draft, PlanError> {
        inventory::import(&self.world, &question).await
    }
}

#[tonic::async_trait]
impl Peers for RealSite {
    async fn who(&self, question: &StartupQuestion, asker: Asker, execute: bool) -> Who {
        let StartupQuestion { allow_peer_startup, auto_peer_failover, .. } = *question;
        let decision =
            peers::decide(&self.world, &self.handle, peers::Asked { asker, allow_peer_startup, auto_peer_failover, execute }).await;
        Who { hand_over: matches!(decision.command, Command::HandOver(_)), guard: decision.guard(), said: decision.said }
    }

    async fn hand_over(&self, startup: v1::StartupRequest, requester: String) -> Result<(String, String), PlanError> {
        peers::hand_over(&self.world, startup, requester).await.map_err(|error| match error {
            NotTaken::Refused(guards) => PlanError::Refused(guards),
            NotTaken::Failed(why) => PlanError::Failed(format!("the start-up was not handed over: {why}")),
        })
    }

    async fn told(&self, word: Word) -> Word {
        peers::told(&self.world, &self.handle, word)
    }

    fn status(&self) -> Option<PeerFacts> {
        peers::status(&self.world)
    }
}

async fn blocking<T: Send + 'static>(question: impl FnOnce() -> Result<T, PlanError> + Send + 'static) -> Result<T, PlanError> {
    tokio::task::spawn_blocking(question).await.map_err(|e| PlanError::Failed(e.to_string()))?
}

fn planned(settings: &Settings, question: &CardQuestion, destination: Destination) -> Result<Planned, PlanError> {
    let node = merge::merge(&settings.inventory, &question.node).map_err(|e| PlanError::NoSuchNode(e.to_string()))?;
    let (image, warnings) = question.overrides.apply(&node.class, node.image.clone()).map_err(|g| PlanError::Refused(vec![g]))?;
    let cached_size = image.as_ref().and_then(|image| World::store(settings).cached_size(image));
    let (target, device) = match destination {
        Destination::Caller { purpose, target } => (Target::Caller { purpose, target }, None),
        Destination::Device { path, allow_fixed } => {
            let device = device::find(&Roots::host(), &path)
                .map_err(|e| PlanError::Failed(format!("looking at {}: {e}; `metisctl device` lists the disks", path.display())))?;
            (Target::Device { device: Box::new(device.clone()), allow_fixed }, Some(device))
        }
    };
    let order = CardOrder { node, image, cached_size, no_inject: question.no_inject, warnings };
    let runbook = plan::plan(&order, &target);
    Ok(Planned { runbook, node: order.node, device })
}
