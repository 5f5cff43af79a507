//! Flux: its Kustomizations and HelmReleases, which of them applies which, and their suspension.
//!
//! Suspended with a merge patch as field manager `metis`: kustomize-controller applies with server-side apply and takes back only fields of
//! managers whose names start with `kubectl` or `before-first-apply`, so what Git does not say stays as we set it. A `suspend: false` in Git
//! does win when a parent is applied; that is why parents are suspended first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use tokio::time::Instant;

use super::kube::{Api, Failure, path};
use super::mark::{carry_out, marked};
use super::objects::{Meta, Suspendable};
use super::port::{ClusterError, FluxObject};
use crate::site::{Mark, ObjectRef};

/// What Flux can suspend: kind, API group, resource.
const KINDS: [(&str, &str, &str); 2] =
    [("Kustomization", "kustomize.toolkit.fluxcd.io", "kustomizations"), ("HelmRelease", "helm.toolkit.fluxcd.io", "helmreleases")];

/// Labels that kustomize-controller gives to what it applies: the Kustomization's name and namespace.
const APPLIED_BY: (&str, &str) = ("kustomize.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/namespace");

/// Versions of the API groups, as they were found.
#[derive(Debug, Default)]
pub struct Versions(Mutex<BTreeMap<&'static str, String>>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    preferred_version: GroupVersion,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

impl Versions {
    /// e.g. `helm.toolkit.fluxcd.io/v2`, by the API server's preference; `None`: it has no such group.
    pub(super) async fn of(&self, api: &Api, group: &'static str, until: Instant) -> Result<Option<String>, Failure> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(group).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let found: Group = match api.get(&format!("/apis/{group}"), until).await {
            Ok(found) => found,
            Err(failure) if failure.code() == Some(404) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let version = found.preferred_version.group_version;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(group, version.clone());
        Ok(Some(version))
    }

    /// After an upgrade of Flux the version may not be served any more.
    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Kustomizations, a parent before its children, then HelmReleases. A cluster without Flux has none.
///
/// # Errors
/// Where one of the two could not be listed.
pub async fn list(api: &Api, versions: &Versions, until: Instant) -> Result<Vec<FluxObject>, ClusterError> {
    let mut all = Vec::new();
    for (kind, group, resource) in KINDS {
        let what = format!("{kind}s of Flux");
        let version = versions.of(api, group, until).await.map_err(|failure| failure.error(&what))?;
        let Some(version) = version else { continue };
        let objects = match api.list::<Suspendable>(&path(&version, "", resource, ""), &[], until).await {
            Ok(list) => list.items,
            Err(failure) if failure.code() == Some(404) => {
                versions.forget();
                continue;
            }
            Err(failure) => return Err(failure.error(&what)),
        };
        all.extend(in_order(objects).into_iter().map(|object| FluxObject {
            object: ObjectRef::new(kind, &object.metadata.namespace, &object.metadata.name),
            suspended: object.spec.suspend,
            mark: marked(&object.metadata).mark(),
        }));
    }
    Ok(all)
}

/// Suspends (with a mark) or resumes a Kustomization or HelmRelease.
///
/// # Errors
/// [`ClusterError::Refused`] also for other kinds.
pub async fn set_suspended(
    api: &Api,
    versions: &Versions,
    object: &ObjectRef,
    mark: Option<&Mark>,
    until: Instant,
) -> Result<(), ClusterError> {
    let what = format!("{} of {object}", if mark.is_some() { "suspension" } else { "resumption" });
    let Some((_, group, resource)) = KINDS.into_iter().find(|(kind, ..)| *kind == object.kind) else {
        return Err(ClusterError::Refused(format!("{what}: only a Kustomization or HelmRelease can be")));
    };
    let version = versions.of(api, group, until).await.map_err(|failure| failure.error(&what))?;
    let Some(version) = version else {
        return Err(ClusterError::Gone(format!("{what}: the cluster has no API group {group}")));
    };
    let result = carry_out(api, &path(&version, &object.namespace, resource, &object.name), "suspend", mark, &what, until).await;
    if matches!(result, Err(ClusterError::Gone(_))) {
        versions.forget();
    }
    result.map(drop)
}

/// A parent before its children; then by name. A Kustomization is the child of the one that applies its object; one that applies itself (as
/// `flux bootstrap` makes it) is a root, and so is one in a circle.
pub fn in_order(objects: Vec<Suspendable>) -> Vec<Suspendable> {
    let parents: BTreeMap<(String, String), (String, String)> =
        objects.iter().filter_map(|object| Some((identity(&object.metadata), parent(&object.metadata)?))).collect();
    let depth = |object: &Suspendable| {
        let mut seen = BTreeSet::new();
        let mut at = identity(&object.metadata);
        while let Some(parent) = parents.get(&at) {
            if !seen.insert(at.clone()) {
                return 0;
            }
            at = parent.clone();
        }
        seen.len()
    };
    let mut ordered: Vec<(usize, Suspendable)> = objects.iter().map(|object| (depth(object), object.clone())).collect();
    ordered.sort_by_cached_key(|(depth, object)| (*depth, identity(&object.metadata)));
    ordered.into_iter().map(|(_, object)| object).collect()
}

fn identity(meta: &Meta) -> (String, String) {
    (meta.namespace.clone(), meta.name.clone())
}

fn parent(meta: &Meta) -> Option<(String, String)> {
    let parent = (meta.labels.get(APPLIED_BY.1)?.clone(), meta.labels.get(APPLIED_BY.0)?.clone());
    (parent != identity(meta)).then_some(parent)
}
