//! A simulated cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::site::{Fault, Model, Site};
use crate::cluster::port::{AttachedVolume, Cluster, ClusterError, DrainOrder, Drained, Facts, NodeFacts};
use crate::site::{Mark, ObjectRef};

#[tonic::async_trait]
impl Cluster for Site {
    async fn collect(&self, within: Duration) -> Result<Facts, ClusterError> {
        self.call(within, |model| {
            let nodes = model.nodes.iter().map(|(name, node)| NodeFacts {
                name: name.clone(),
                ready: true,
                unschedulable: node.unschedulable,
                mark: node.mark.clone(),
                boot_id: "simulated".to_owned(),
                evictable: u32::try_from(node.pods.len()).unwrap_or(u32::MAX),
            });
            let volumes = model.volumes.iter().map(|volume| volume.volume.clone());
            let replicas = model.ills.workloads.iter().map(|seen| (seen.is.object.clone(), seen.replicas)).collect();
            Ok(Facts { nodes: nodes.collect(), flux: model.flux.clone(), volumes: volumes.collect(), replicas, ..Facts::default() })
        })
        .await
    }

    async fn set_suspended(&self, object: &ObjectRef, mark: Option<&Mark>, within: Duration) -> Result<(), ClusterError> {
        self.call(within, |model| {
            let Some(known) = model.flux.iter_mut().find(|known| known.object == *object) else {
                return Err(ClusterError::Gone(format!("{object} is not there")));
            };
            if held_by_another(known.mark.as_ref(), mark) {
                return Ok(());
            }
            known.suspended = mark.is_some();
            known.mark = mark.cloned();
            model.log.push(format!("{} {object}", if mark.is_some() { "suspend" } else { "resume" }));
            Ok(())
        })
        .await
    }

    async fn set_cordoned(&self, node: &str, mark: Option<&Mark>, within: Duration) -> Result<(), ClusterError> {
        self.call(within, |model| {
            let Some(known) = model.nodes.get_mut(node) else { return Err(ClusterError::Gone(format!("node {node} is not there"))) };
            match mark {
                Some(_) if known.unschedulable && known.mark.is_none() => {}
                Some(_) if held_by_another(known.mark.as_ref(), mark) => {}
                None if known.mark.is_none() => {}
                mark => {
                    known.unschedulable = mark.is_some();
                    known.mark = mark.cloned();
                    if mark.is_none() {
                        let back = std::mem::take(&mut known.pending);
                        known.pods.extend(back);
                    }
                    model.log.push(format!("{} {node}", if mark.is_some() { "cordon" } else { "uncordon" }));
                }
            }
            Ok(())
        })
        .await
    }

    async fn drain(
        &self,
        order: &DrainOrder,
        mut deadline: watch::Receiver<Instant>,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Drained, ClusterError> {
        let all: Vec<_> = self.locked().nodes.get(&order.node).map(|node| node.pods.clone()).unwrap_or_default().into_iter().collect();
        let begun = Instant::now();
        let evict = async {
            self.call(Duration::from_secs(30), |_| Ok(())).await?;
            self.pass(|tempo| tempo.pod).await;
            if self.has(&Fault::Immortal(order.node.clone())) {
                std::future::pending::<()>().await;
            }
            self.pods_go(&order.node, false);
            Ok(())
        };
        tokio::select! {
            evicted = evict => evicted?,
            () = until(&mut deadline, begun, 0.7) => {}
        }
        let mut drained = Drained { gone: 0, rungs: Vec::new(), left: Vec::new() };
        if !self.pods_of(&order.node).is_empty() {
            let rung = format!("disable-eviction for {}", self.pods_of(&order.node).join(", "));
            tell(rung.clone());
            drained.rungs.push(rung);
            let force = async {
                self.pass(|tempo| tempo.pod).await;
                if self.has(&Fault::Immortal(order.node.clone())) || self.has(&Fault::ApiHangs) {
                    std::future::pending::<()>().await;
                }
                self.pods_go(&order.node, true);
            };
            tokio::select! {
                () = force => {}
                () = until(&mut deadline, begun, 1.0) => {}
            }
        }
        drained.left = self.pods_of(&order.node);
        drained.gone = u32::try_from(all.len() - drained.left.len().min(all.len())).unwrap_or(u32::MAX);
        Ok(drained)
    }

    async fn attached(&self, nodes: &BTreeSet<String>, within: Duration) -> Result<Vec<AttachedVolume>, ClusterError> {
        self.call(within, |model| {
            Ok(model.volumes.iter().map(|volume| &volume.volume).filter(|volume| nodes.contains(&volume.node)).cloned().collect())
        })
        .await
    }
}

/// Whether another metis host set it: then it stays as that one left it.
fn held_by_another(stands: Option<&Mark>, wanted: Option<&Mark>) -> bool {
    stands.zip(wanted).is_some_and(|(stands, wanted)| stands.holder != wanted.holder)
}

/// That share of the time until the deadline, which may come nearer meanwhile.
async fn until(deadline: &mut watch::Receiver<Instant>, begun: Instant, share: f64) {
    loop {
        let end = *deadline.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(begun + end.saturating_duration_since(begun).mul_f64(share)) => return,
            changed = deadline.changed() => if changed.is_err() { return },
        }
    }
}

impl Site {
    /// One call to the API server.
    pub(super) async fn call<T>(
        &self,
        within: Duration,
        answer: impl FnOnce(&mut Model) -> Result<T, ClusterError>,
    ) -> Result<T, ClusterError> {
        let exchange = async {
            if self.has(&Fault::ApiHangs) {
                std::future::pending::<()>().await;
            }
            self.pass(|tempo| tempo.call).await;
        };
        if tokio::time::timeout(within, exchange).await.is_err() {
            return Err(ClusterError::Unreachable(format!("the API server did not answer within {} s", within.as_secs())));
        }
        let servers = self.locked().hosts.values().any(|host| host.on && host.units.contains("k3s.service"));
        if self.has(&Fault::ApiFails) || self.has(&Fault::DatastoreOpens) || !servers {
            return Err(ClusterError::Unreachable("the API server answers 500".to_owned()));
        }
        let mut answered = None;
        self.change(|model| answered = Some(answer(model)));
        answered.unwrap_or_else(|| Err(ClusterError::Unreachable("no answer".to_owned())))
    }

    fn pods_of(&self, node: &str) -> Vec<String> {
        self.locked().nodes.get(node).map(|node| node.pods.keys().cloned().collect()).unwrap_or_default()
    }

    /// Pods end, and a while after them their volumes detach.
    fn pods_go(&self, node: &str, by_force: bool) {
        self.change(|model| {
            let Some(known) = model.nodes.get_mut(node) else { return };
            let gone: Vec<_> = known.pods.iter().filter(|(_, stubborn)| by_force || !**stubborn).map(|(name, _)| name.clone()).collect();
            for pod in gone {
                known.pending.extend(known.pods.remove_entry(&pod));
                model.log.push(format!("gone {pod}"));
            }
        });
        let (site, node) = (self.clone(), node.to_owned());
        self.later(
            |tempo| tempo.detach,
            move || {
                if !site.has(&Fault::VolumesStay) {
                    site.change(|model| {
                        let pods = model.nodes.get(&node).map(|node| node.pods.clone()).unwrap_or_default();
                        let stays = |pod: &str| pods.contains_key(pod);
                        for volume in model.volumes.iter().filter(|volume| volume.volume.node == node && !stays(&volume.pod)) {
                            model.log.push(format!("detached {}", volume.volume.name));
                        }
                        model.volumes.retain(|volume| volume.volume.node != node || stays(&volume.pod));
                    });
                }
            },
        );
    }
}
