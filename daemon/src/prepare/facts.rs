//! What was found out. Each part on its own: what could not be seen of one does not hide the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;

use super::Finding;
use crate::site::{Access, NodeName, Now, UpsName};

/// A part of it, or why it could not be found out.
pub type Part<T> = Result<T, String>;

/// All of it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// When it was looked at.
    pub now: Now,
    /// The site has a cluster (`cluster.kubeconfig`).
    pub has_cluster: bool,
    /// A start-up waits until this host's clock is synchronised (`startup.clocks: strict`).
    pub clocks: bool,
    /// Folder of the bundles, for messages.
    pub bundle_dir: PathBuf,
    /// Bundles for Harbor.
    pub bundles: Part<Vec<Bundle>>,
    /// Snapshot of the repository that Flux applies; `None`: there is none.
    pub snapshot: Part<Option<Tree>>,
    /// Captured objects of the platform.
    pub cache: Part<Option<Tree>>,
    /// Captured Secrets of the platform.
    pub captured_secrets: Part<Option<Tree>>,
    /// Every secret that the configuration refers to.
    pub secrets: Part<Vec<SecretSeen>>,
    /// Golden images of classes that have nodes.
    pub images: Part<Vec<ImageSeen>>,
    /// Hosts that metis may act on.
    pub hosts: Vec<HostSeen>,
    /// Kubernetes nodes with disks of Longhorn; `None`: not known.
    pub longhorn: Option<BTreeSet<String>>,
    /// What metis may do in the cluster.
    pub rights: Part<Vec<Right>>,
    /// UPSes.
    pub upses: Vec<UpsSeen>,
    /// What other rooms found: NUT's files, other masters of the same UPSes, the datastore's dump.
    pub told: Vec<Finding>,
    /// Files that have to be there.
    pub installed: Part<Vec<Installed>>,
    /// The file system of the state directory.
    pub disk: Part<Disk>,
}

/// A bundle of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// File name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was made.
    pub modified: Timestamp,
    /// SHA-256, hex, of what is there.
    pub sha256: Part<String>,
    /// The same as it was when it was made (`NAME.sha256`); `None`: nobody wrote it down.
    pub expected: Option<String>,
}

/// Files by component.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// Component → files.
    pub components: BTreeMap<String, usize>,
    /// When all of it was captured, or where that is not written down, when its oldest file was.
    pub at: Option<Timestamp>,
    /// Revision of the repository; empty: not known.
    pub revision: String,
    /// Files that others than their owner may read, where that must not be.
    pub exposed: Vec<PathBuf>,
}

/// A secret, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSeen {
    /// The keys that refer to it, e.g. `hosts.key`.
    pub used_by: Vec<String>,
    /// Where it is.
    pub reference: String,
    /// Why it cannot be used, with what to do.
    pub trouble: Option<String>,
}

/// A golden image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSeen {
    /// Classes whose cards it makes.
    pub classes: Vec<String>,
    /// Where it comes from.
    pub url: String,
    /// SHA-256 of it as published.
    pub sha256: String,
    /// It is in the cache, at that digest.
    pub cached: bool,
}

/// A host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSeen {
    /// Its name in the inventory.
    pub name: NodeName,
    /// Its name as a Kubernetes node.
    pub node_name: String,
    /// How it is reached.
    pub access: Access,
    /// k3s runs there.
    pub k3s: bool,
    /// What it said.
    pub answer: Result<HostAnswer, HostTrouble>,
}

/// What a host said, with the rights that later steps need.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostAnswer {
    /// Its clock minus ours, in seconds, and by how much that may be wrong; `None`: it did not say.
    pub skew: Option<(f64, f64)>,
    /// Whether its clock is synchronised; `None`: it did not say.
    pub synced: Option<bool>,
    /// Commands of the packages that storage needs; `None`: it did not say.
    pub commands: Option<BTreeSet<String>>,
}

/// Why a host did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostTrouble {
    /// It is off, or out of reach.
    Unreachable(String),
    /// It would not let us in, or not act: the next outage would not find it otherwise.
    Refused(String),
}

/// A verb that metis needs in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// e.g. `patch nodes`.
    pub what: String,
    /// The API server lets it.
    pub allowed: bool,
}

/// A UPS.
#[derive(Debug, Clone, PartialEq)]
pub struct UpsSeen {
    /// Its name.
    pub name: UpsName,
    /// When it was last heard from.
    pub heard: Option<Timestamp>,
    /// Its variables.
    pub vars: BTreeMap<String, String>,
    /// Whether upsd takes us for its primary; `None`: no user is configured.
    pub login: Option<Part<()>>,
    /// A power domain names it.
    pub in_domain: bool,
}

/// A file of metis that has to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Where.
    pub path: PathBuf,
    /// What does not work without it.
    pub purpose: &'static str,
    /// It is there.
    pub present: bool,
}

/// A file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Free to us.
    pub free: u64,
    /// In all.
    pub total: u64,
    /// So much of it must stay free for the cache of images (`card.free_space_floor`).
    pub floor: u64,
}
