//! k3s started, and what metis suspended and cordoned taken back.

use std::collections::BTreeSet;

use tokio::time::{Instant, sleep};

use super::{BY_ITSELF, LOOK_EVERY};
use crate::app::claims::held_by_any;
use crate::app::perform::{failed, permanent};
use crate::app::shutdown::{Attempt, Done, all_well, of_cluster, of_host, root, unit};
use crate::cluster::port::ClusterError;
use crate::cluster::startup::judge;
use crate::host::port::Command;
use crate::runbook::StepResult;
use crate::site::{Change, Judged, K3sRole, NodeName, ObjectRef};

impl Attempt<'_> {
    /// It was powered off by an earlier run, and is on.
    pub(super) async fn release_power(&self, node: &NodeName) -> Result<(), StepResult> {
        let object = ObjectRef::new("Host", "", node.as_str());
        let held = held_by_any(self.handle, Change::PoweredOff).contains(&object);
        if held { self.release(vec![object], "on again").await } else { Ok(()) }
    }

    pub(super) async fn is_up(&self, node: &NodeName, role: K3sRole) -> StepResult {
        let (host, unit) = match self.host(node) {
            Ok(host) => (host, unit(role)),
            Err(result) => return result,
        };
        let show = Command { root: false, ..root(&["systemctl", "show", "-p", "ActiveState", "--value", unit]) };
        match self.parts.hosts.run(host, &show, self.left()).await {
            Ok(output) if matches!(output.stdout.trim(), "active" | "activating" | "reloading") => match self.release_unit(node).await {
                Ok(()) => StepResult::Done { detail: format!("{unit} is {} already", output.stdout.trim()) },
                Err(result) => result,
            },
            Ok(output) => StepResult::NotReady { detail: format!("{unit} is {}", output.stdout.trim()) },
            Err(error) => StepResult::CannotTell { detail: error.to_string() },
        }
    }

    pub(super) async fn bring_up(&self, node: &NodeName, role: K3sRole) -> Done {
        let unit = unit(role);
        self.parts.hosts.start_unit(self.host(node)?, unit, self.left()).await.map_err(of_host)?;
        self.release_unit(node).await?;
        Ok(format!("{unit} starts"))
    }

    /// It runs again: that a shutdown stopped it counts no more.
    pub(super) async fn release_unit(&self, node: &NodeName) -> Result<(), StepResult> {
        let object = ObjectRef::new("K3sUnit", "", node.as_str());
        let held = held_by_any(self.handle, Change::Stopped).contains(&object);
        if held { self.release(vec![object], "started again").await } else { Ok(()) }
    }

    /// What the journal says, and what carries our mark although the journal does not say so.
    pub(super) async fn release_cordons(&self, except: &BTreeSet<NodeName>) -> Done {
        let cluster = self.cluster()?;
        let seen = self.look().await.map_err(failed)?;
        let mut held: BTreeSet<String> = held_by_any(self.handle, Change::Cordoned).into_iter().map(|object| object.name).collect();
        let (ours, others) = judge::marked_by(&seen, &self.holders());
        held.extend(ours.nodes);
        let left_out = self.kubernetes_names(except);
        let (mut cleared, mut troubles) = (Vec::new(), Vec::new());
        for node in held.difference(&left_out) {
            let object = ObjectRef::new("Node", "", node);
            if others.nodes.contains(node) {
                self.release(vec![object], "another metis host holds it now").await?;
                continue;
            }
            match cluster.set_cordoned(node, None, self.left()).await {
                Ok(()) => {
                    self.release(vec![object], "uncordoned").await?;
                    cleared.push(node.clone());
                }
                Err(ClusterError::Gone(_)) => self.release(vec![object], "it is gone").await?,
                Err(error) => troubles.push(format!("{node}: {error}")),
            }
        }
        let detail = if cleared.is_empty() { "no cordon of ours stands".to_owned() } else { format!("uncordoned: {}", cleared.join(", ")) };
        all_well(troubles, detail)
    }

    /// Children first, the root last: a parent that reconciles would resume its children in its own order.
    pub(super) async fn release_flux(&self) -> Done {
        let cluster = self.cluster()?;
        let seen = self.look().await.map_err(failed)?;
        let held = held_by_any(self.handle, Change::Suspended);
        let (ours, others) = judge::marked_by(&seen, &self.holders());
        let parents_first: Vec<ObjectRef> = match &seen.flux {
            Ok(all) => {
                let known = all.iter().map(|object| object.object.clone());
                let known: Vec<_> = known.filter(|object| held.contains(object) || ours.flux.contains(object)).collect();
                held.iter().filter(|object| !known.contains(object)).cloned().chain(known.iter().cloned()).collect()
            }
            Err(_) => held,
        };
        let mut troubles = Vec::new();
        for object in parents_first.iter().rev() {
            if others.flux.contains(object) {
                self.release(vec![object.clone()], "another metis host holds it now").await?;
                continue;
            }
            match cluster.set_suspended(object, None, self.left()).await {
                Ok(()) => self.release(vec![object.clone()], "resumed").await?,
                Err(ClusterError::Gone(_)) => self.release(vec![object.clone()], "it is gone").await?,
                Err(error) => troubles.push(format!("{object}: {error}")),
            }
        }
        all_well(troubles, format!("{} resumed", parents_first.len()))
    }

    /// What was resumed a moment ago is looked at by its controller anyhow: only what does not come by itself is asked for.
    pub(super) async fn is_applied(&self) -> StepResult {
        let begun = Instant::now();
        loop {
            let judged = self.seen(judge::flux).await;
            let late = begun.elapsed() >= BY_ITSELF;
            match judged {
                Judged::Ready(detail) => return StepResult::Done { detail },
                Judged::NotReady { why, .. } if late => return StepResult::NotReady { detail: why },
                Judged::CannotTell(detail) if late => return StepResult::CannotTell { detail },
                Judged::NotReady { .. } | Judged::CannotTell(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// The source first; then what is not applied, a parent before its children.
    pub(super) async fn reconcile(&self) -> Done {
        let platform = self.platform().map_err(permanent)?;
        let seen = self.look().await.map_err(failed)?;
        let sources = seen.sources.as_ref().map_err(|why| failed(why.clone()))?;
        let flux = seen.flux.as_ref().map_err(|why| failed(why.clone()))?;
        let name = &self.parts.settings.startup.source;
        let source = name.split_once('/').filter(|_| sources.iter().any(|seen| seen.name == *name));
        let source = source.map(|(namespace, name)| ObjectRef::new("GitRepository", namespace, name));
        let late = flux.iter().filter(|object| !object.suspended && judge::trouble(object, sources).is_some());
        let objects: Vec<_> = source.into_iter().chain(late.map(|object| object.object.clone())).collect();
        let token = format!("metis {} {}", self.job.run, self.world.now().wall);
        let mut troubles = Vec::new();
        for object in &objects {
            match platform.reconcile(object, &token, self.left()).await {
                Ok(()) | Err(ClusterError::Gone(_)) => {}
                Err(error @ ClusterError::Refused(_)) => return Err(of_cluster(error)),
                Err(error) => troubles.push(format!("{object}: {error}")),
            }
        }
        all_well(troubles, format!("{} objects were asked to reconcile", objects.len()))
    }
}
