//! A simulated site behind the ports of `host`, `cluster` and `power`: it takes its time, it fails as it is told, and it remembers the
//! order in which things happened.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ills::Ills;
use crate::cluster::port::{AttachedVolume, FluxObject};
use crate::site::{LeaseRecord, Mark};

/// What a simulated site is made of, and what has become of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Model {
    /// Hosts by their name in the inventory.
    pub hosts: BTreeMap<String, SimHost>,
    /// Nodes by their Kubernetes name.
    pub nodes: BTreeMap<String, SimNode>,
    /// Kustomizations (a parent before its children) and HelmReleases.
    pub flux: Vec<FluxObject>,
    /// Attached volumes: each detaches a while after its pod has gone.
    pub volumes: Vec<SimVolume>,
    /// Secondaries that are logged in, by UPS; they go a while after FSD.
    pub secondaries: BTreeMap<String, u32>,
    /// UPSes whose FSD is set.
    pub fsd: BTreeSet<String>,
    /// Hosts of the ingress, each with the Service behind it, `namespace/name`.
    #[serde(default)]
    pub ingresses: BTreeMap<String, String>,
    /// What services answer over TLS, by host; without TLS by `http://host`.
    #[serde(default)]
    pub answers: BTreeMap<String, SimAnswer>,
    /// The Lease by which one of two metis hosts commands.
    #[serde(default)]
    pub lease: Option<LeaseRecord>,
    /// How long things take.
    pub tempo: Tempo,
    /// The pod of Vault on each of these nodes.
    #[serde(default)]
    pub vault: BTreeMap<String, SimVault>,
    /// What fails.
    pub faults: BTreeSet<Fault>,
    /// What repairs look at.
    #[serde(default)]
    pub ills: Ills,
    /// What happened, oldest first.
    pub log: Vec<String>,
}

/// What a simulated service answers to everything while its pods run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SimAnswer {
    /// HTTP status.
    pub code: u16,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

/// A simulated host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SimHost {
    /// It is on.
    pub on: bool,
    /// The units of k3s that run.
    pub units: BTreeSet<String>,
    /// Processes that k3s left running.
    pub leftovers: u32,
    /// On-demand snapshots of etcd.
    pub snapshots: Vec<String>,
    /// CPU time of k3s in seconds.
    #[serde(default)]
    pub cpu_seconds: u64,
    /// Times it was switched on again; its boot id.
    #[serde(default)]
    pub boots: u32,
}

/// A simulated node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SimNode {
    /// Cordoned.
    pub unschedulable: bool,
    /// Our mark.
    pub mark: Option<Mark>,
    /// What a person has to look at.
    #[serde(default)]
    pub manual_action: Option<String>,
    /// Pods that a drain evicts; true: it goes only by force.
    pub pods: BTreeMap<String, bool>,
    /// Pods that went, and are Pending until the node takes pods again.
    #[serde(default)]
    pub pending: BTreeMap<String, bool>,
    /// The boot of its host at which its kubelet came up; what the API server shows.
    #[serde(default)]
    pub boot: u32,
}

/// A simulated volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimVolume {
    /// Name, node and holder.
    pub volume: AttachedVolume,
    /// The pod that uses it.
    pub pod: String,
}

/// A simulated pod of Vault.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SimVault {
    /// The boot of its host in which it was unsealed last; in every other it is sealed.
    pub unsealed_in: Option<u32>,
}

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tempo {
    /// A call to the API server.
    pub call: Duration,
    /// A pod's end.
    pub pod: Duration,
    /// A volume's detaching after its pod has gone.
    pub detach: Duration,
    /// A command on a host.
    pub command: Duration,
    /// Stopping k3s.
    pub stop: Duration,
    /// An etcd snapshot.
    pub snapshot: Duration,
    /// From the order to power off until a host is off.
    pub power_off: Duration,
    /// From FSD until a secondary has logged out.
    pub secondary: Duration,
    /// Everything is this many times faster.
    pub speed: u32,
}

impl Default for Tempo {
    fn default() -> Self {
        Self {
            call: Duration::from_millis(20),
            pod: Duration::from_secs(4),
            detach: Duration::from_secs(6),
            command: Duration::from_millis(300),
            stop: Duration::from_secs(3),
            snapshot: Duration::from_secs(5),
            power_off: Duration::from_secs(8),
            secondary: Duration::from_secs(10),
            speed: 1,
        }
    }
}

/// What fails.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// No call to the API server ends.
    ApiHangs,
    /// The API server answers nothing but 500.
    ApiFails,
    /// The same, while the datastore is being opened: k3s is at work on that.
    DatastoreOpens,
    /// Nothing listens there.
    Unreachable(String),
    /// Commands on this host do not end.
    Hangs(String),
    /// sudo asks for a password there.
    NoSudo(String),
    /// `k3s etcd-snapshot` does not end.
    SnapshotHangs,
    /// Pods of this node never end, not even by force.
    Immortal(String),
    /// Volumes never detach.
    VolumesStay,
    /// Secondaries never log out.
    SecondariesStay,
    /// k3s does not stop on this host.
    StopHangs(String),
    /// The Git server does not answer: Flux has no artifact after a restart.
    GitDown,
    /// This host's clock is not synchronised.
    ClockAstray(String),
    /// This host lacks a package that storage needs.
    NoPackages(String),
    /// Magic packets do not wake this host.
    SleepsOn(String),
    /// The keys at hand do not unseal Vault.
    WrongKeys,
    /// k3s' unit starts on this host, but its kubelet does not come up.
    KubeletStays(String),
}

/// A site in memory, or in a file so that it outlives the process that changes it.
#[derive(Clone)]
pub struct Site {
    model: Arc<Mutex<Model>>,
    file: Option<PathBuf>,
}

impl Site {
    /// In memory.
    pub fn new(model: Model) -> Self {
        Self { model: Arc::new(Mutex::new(model)), file: None }
    }

    /// In a file, where it stands as the last process left it.
    ///
    /// # Errors
    /// The file cannot be read, or is no model.
    pub fn open(file: &Path) -> std::io::Result<Self> {
        let model = serde_json::from_slice(&std::fs::read(file)?)?;
        Ok(Self { model: Arc::new(Mutex::new(model)), file: Some(file.to_owned()) })
    }

    /// As it is now.
    pub fn model(&self) -> Model {
        self.locked().clone()
    }

    /// Changes it by hand.
    pub fn change(&self, how: impl FnOnce(&mut Model)) {
        let mut model = self.locked();
        how(&mut model);
        if let Some(file) = &self.file {
            // A simulated site is lost with its disk; the test that reads it says so.
            let part = file.with_extension("part");
            let written = serde_json::to_vec(&*model).map_err(std::io::Error::from).and_then(|text| std::fs::write(&part, text));
            let _ = written.and_then(|()| std::fs::rename(&part, file));
        }
    }

    /// Changes it and notes what happened.
    pub(super) fn happens(&self, what: String, how: impl FnOnce(&mut Model)) {
        self.change(|model| {
            model.log.push(what);
            how(model);
        });
    }

    pub(super) fn has(&self, fault: &Fault) -> bool {
        self.locked().faults.contains(fault)
    }

    /// Lets time pass.
    pub(super) async fn pass(&self, tempo: impl FnOnce(&Tempo) -> Duration) {
        let span = {
            let model = self.locked();
            tempo(&model.tempo) / model.tempo.speed.max(1)
        };
        tokio::time::sleep(span).await;
    }

    /// Something that comes by itself after a while; at once where the site has to outlive this process.
    pub(super) fn later(&self, tempo: impl FnOnce(&Tempo) -> Duration + Send + 'static, what: impl FnOnce() + Send + 'static) {
        if self.file.is_some() {
            return what();
        }
        let site = self.clone();
        tokio::spawn(async move {
            site.pass(tempo).await;
            what();
        });
    }

    pub(super) fn locked(&self) -> MutexGuard<'_, Model> {
        // No holder panics with the model half changed.
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
