//! What is wrong with a simulated cluster, as a start-up mends it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::platform::nodes;
use super::site::{Model, Site};
use crate::cluster::port::{ClusterError, Repairs};
use crate::cluster::repairs::seen::{AttachmentSeen, FluxSeen, GitSeen, Identity, JobSeen, PodSeen, ScaleSeen, Symptoms};
use crate::site::ObjectRef;

/// Objects that repairs look at, and what mends what.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ills {
    /// Kustomizations and HelmReleases.
    pub flux: Vec<FluxSeen>,
    /// GitRepositories.
    pub sources: Vec<GitSeen>,
    /// Jobs.
    pub jobs: Vec<JobSeen>,
    /// Pods.
    pub pods: Vec<PodSeen>,
    /// Deployments and StatefulSets.
    pub workloads: Vec<ScaleSeen>,
    /// VolumeAttachments.
    pub attachments: Vec<AttachmentSeen>,
    /// By UID of what is repaired: objects that are well from then on.
    pub cures: BTreeMap<String, BTreeSet<ObjectRef>>,
    /// Nothing of all this can be seen.
    pub hidden: bool,
}

impl Ills {
    /// Whatever is named is well again; a revision for sources that have one again.
    fn cured(&mut self, uid: &str, revision: &str) {
        let Some(well) = self.cures.remove(uid) else { return };
        for seen in self.flux.iter_mut().filter(|seen| well.contains(&seen.is.object)) {
            (seen.failed, seen.busy) = (false, false);
            seen.message.clear();
            seen.stalled.clear();
        }
        for seen in self.sources.iter_mut().filter(|seen| well.contains(&seen.is.object)) {
            (seen.ready, seen.revision) = (true, revision.to_owned());
        }
        for seen in self.pods.iter_mut().filter(|seen| well.contains(&seen.is.object)) {
            seen.ready = true;
            seen.waiting.clear();
        }
    }

    fn remove(&mut self, object: &ObjectRef, uid: &str) -> bool {
        let is = |is: &Identity| is.object == *object && is.uid == uid;
        let before = self.jobs.len() + self.pods.len() + self.attachments.len();
        self.jobs.retain(|seen| !is(&seen.is));
        self.pods.retain(|seen| !is(&seen.is));
        self.attachments.retain(|seen| !is(&seen.is));
        self.jobs.len() + self.pods.len() + self.attachments.len() < before
    }

    fn uid_of(&self, object: &ObjectRef) -> Option<String> {
        let mut identities = self.flux.iter().map(|seen| &seen.is).chain(self.sources.iter().map(|seen| &seen.is));
        identities.find(|is| is.object == *object).map(|is| is.uid.clone())
    }
}

#[tonic::async_trait]
impl Repairs for Site {
    async fn examine(&self, within: Duration) -> Symptoms {
        let seen = self.call(within, |model| {
            let ills = &model.ills;
            if ills.hidden {
                return Err(ClusterError::Refused("forbidden".to_owned()));
            }
            Ok((ills.clone(), nodes(model)))
        });
        match seen.await {
            Ok((ills, nodes)) => Symptoms {
                flux: Ok(ills.flux),
                sources: Ok(ills.sources),
                jobs: Ok(ills.jobs),
                pods: Ok(ills.pods),
                workloads: Ok(ills.workloads),
                attachments: Ok(ills.attachments),
                nodes: Ok(nodes),
            },
            Err(error) => {
                let why = error.to_string();
                Symptoms {
                    flux: Err(why.clone()),
                    sources: Err(why.clone()),
                    jobs: Err(why.clone()),
                    pods: Err(why.clone()),
                    workloads: Err(why.clone()),
                    attachments: Err(why.clone()),
                    nodes: Err(why),
                }
            }
        }
    }

    async fn delete(&self, object: &ObjectRef, uid: &str, within: Duration) -> Result<(), ClusterError> {
        self.call(within, |model| {
            if !model.ills.remove(object, uid) {
                return Err(ClusterError::Gone(format!("{object} of that UID is not there")));
            }
            mended(model, uid, format!("repair: delete {object}"));
            Ok(())
        })
        .await
    }

    async fn scale(&self, object: &ObjectRef, version: &str, replicas: i32, within: Duration) -> Result<(), ClusterError> {
        self.call(within, |model| {
            let found = model.ills.workloads.iter_mut().find(|seen| seen.is.object == *object && seen.version == version);
            let Some(found) = found else { return Err(ClusterError::Gone(format!("{object} was changed meanwhile"))) };
            (found.replicas, found.ready) = (replicas, replicas);
            found.version.push('\'');
            let uid = found.is.uid.clone();
            mended(model, &uid, format!("repair: scale {object} to {replicas}"));
            Ok(())
        })
        .await
    }

    async fn retry(&self, object: &ObjectRef, _token: &str, reset: bool, within: Duration) -> Result<(), ClusterError> {
        self.call(within, |model| {
            let Some(uid) = model.ills.uid_of(object) else { return Err(ClusterError::Gone(format!("{object} is not there"))) };
            mended(model, &uid, format!("repair: {} {object}", if reset { "reset" } else { "reconcile" }));
            Ok(())
        })
        .await
    }
}

fn mended(model: &mut Model, uid: &str, what: String) {
    model.ills.cured(uid, super::platform::REVISION);
    model.log.push(what);
}
