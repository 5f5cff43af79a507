//! Which pods a drain takes: the filters of kubectl (k8s.io/kubectl pkg/drain/filters.go) as with `--ignore-daemonsets
//! --delete-emptydir-data --force`, then what is protected. An emptyDir is no reason to keep a pod, so that filter is not here.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Protect;
use crate::cluster::objects::Pod;

/// What becomes of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// It stays.
    Keep(Keep),
    /// It goes; its controller makes it anew.
    Go,
    /// It goes for good: nothing makes it anew (kubectl: `--force`).
    GoForGood,
}

/// Why a pod stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Keep {
    /// Its DaemonSet would bring it back at once, cordon or not.
    DaemonSet,
    /// A static pod: the kubelet's, the API server only mirrors it.
    Mirror,
    /// `shutdown.storage_plane`.
    StoragePlane,
    /// `shutdown.protect`.
    Protected,
}

impl Keep {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::DaemonSet => "of a DaemonSet",
            Self::Mirror => "static",
            Self::StoragePlane => "of the storage plane",
            Self::Protected => "protected",
        }
    }
}

/// What is never evicted.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// `shutdown.storage_plane`.
    pub storage_plane: Vec<Protect>,
    /// `shutdown.protect`.
    pub protect: Vec<Protect>,
}

/// `spec` annotation of a mirror pod (corev1.MirrorPodAnnotationKey).
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Name and namespace of the DaemonSet that a pod of a drain would have to be looked up for.
pub fn daemon_set(pod: &Pod) -> Option<(String, String)> {
    let owner = pod.metadata.controller()?;
    (owner.kind == "DaemonSet").then(|| (pod.metadata.namespace.clone(), owner.name.clone()))
}

/// What becomes of `pod`; `gone` names DaemonSets (namespace, name) that do not exist any more. One that could not be looked up counts as
/// being there: its pod stays.
pub fn fate(pod: &Pod, rules: &Rules, gone: &BTreeSet<(String, String)>) -> Fate {
    let finished = pod.finished();
    let of_set = daemon_set(pod);
    let orphan = of_set.as_ref().is_some_and(|set| gone.contains(set));
    if of_set.is_some() && !finished && !orphan {
        return Fate::Keep(Keep::DaemonSet);
    }
    if pod.metadata.annotations.contains_key(MIRROR) {
        return Fate::Keep(Keep::Mirror);
    }
    if rules.storage_plane.iter().any(|rule| rule.covers(pod)) {
        return Fate::Keep(Keep::StoragePlane);
    }
    if rules.protect.iter().any(|rule| rule.covers(pod)) {
        return Fate::Keep(Keep::Protected);
    }
    if !finished && (orphan || pod.metadata.controller().is_none()) { Fate::GoForGood } else { Fate::Go }
}

impl Protect {
    fn covers(&self, pod: &Pod) -> bool {
        self.fits(&pod.metadata.namespace, &pod.metadata.labels)
    }

    /// Whether a pod of that namespace with these labels is meant.
    pub(in crate::cluster) fn fits(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let term = |term: &str| {
            let (key, value) = term.split_once('=').unwrap_or((term, ""));
            labels.get(key).is_some_and(|has| has == value)
        };
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
            && self.selector.split(',').filter(|term| !term.is_empty()).all(term)
    }
}
