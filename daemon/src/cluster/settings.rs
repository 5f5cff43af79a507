//! Sections `cluster`, `shutdown` and `startup` of the configuration, validated.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::repairs::RepairSettings;
use super::vault::VaultSettings;
use crate::site::{NodeName, OnBoot, SecretRef, Service};

/// Section `cluster`; a site without a cluster is valid (`kubeconfig` absent): there only hosts are stopped.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// `cluster.kubeconfig`: how the API server is reached and who we are.
    pub kubeconfig: Option<SecretRef>,
    /// `cluster.endpoints`: URLs of API servers, tried in turn; empty: the one of the kubeconfig.
    pub endpoints: Vec<String>,
    /// `cluster.ca_file`: PEM of the API servers' CA, where the kubeconfig does not carry it.
    pub ca_file: Option<PathBuf>,
    /// `cluster.call_timeout`: deadline of every call.
    pub call_timeout: Duration,
    /// `cluster.datastore`.
    pub datastore: Datastore,
    /// `cluster.cordon_lease`: how long a cordon of ours lasts.
    pub cordon_lease: Duration,
    /// Section `shutdown`.
    pub shutdown: ShutdownSettings,
    /// Section `startup`.
    pub startup: StartupSettings,
}

/// Where k3s keeps the cluster's state (k3s docs: datastore).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Datastore {
    /// Embedded etcd on the servers; a snapshot is taken before they stop.
    EmbeddedEtcd {
        /// So many on-demand snapshots are kept.
        keep: u32,
    },
    /// `datastore-endpoint`: a database on a host of the inventory, which goes off last and comes first.
    External {
        /// The host.
        host: NodeName,
        /// Dumps it, for `sh -c` on that host; absent: no dump.
        dump: Option<String>,
    },
    /// SQLite on the only server.
    Sqlite,
}

/// What a shutdown does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownMode {
    /// Stops k3s on all hosts; hosts stay on.
    #[default]
    ClusterOnly,
    /// Stops k3s, then powers the hosts off, this one last.
    HostPoweroff,
}

impl ShutdownMode {
    /// `cluster-only` or `host-poweroff`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterOnly => "cluster-only",
            Self::HostPoweroff => "host-poweroff",
        }
    }
}

/// Section `shutdown`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShutdownSettings {
    /// `shutdown.mode`: of a person's request that names none.
    pub mode: ShutdownMode,
    /// `shutdown.drain_timeout`: a worker's drain takes no longer.
    pub drain_timeout: Duration,
    /// `shutdown.emergency_drain_timeout`: nor, in an emergency, than this.
    pub emergency_drain_timeout: Duration,
    /// `shutdown.detach_timeout`: volumes are waited for no longer.
    pub detach_timeout: Duration,
    /// `shutdown.snapshot_timeout`: etcd snapshot or dump.
    pub snapshot_timeout: Duration,
    /// `shutdown.stop_timeout`: stopping k3s on a host, and ending what it left.
    pub stop_timeout: Duration,
    /// `shutdown.poweroff_timeout`: a host takes the order to power off.
    pub poweroff_timeout: Duration,
    /// `shutdown.halt_time`: a host that took it is taken to be off after this; deadlines and budgets leave room for it.
    pub halt_time: Duration,
    /// `shutdown.unreachable_timeout`: a host that was not reached for so long is given up, for that step.
    pub unreachable_timeout: Duration,
    /// `shutdown.secondaries_timeout`: upsmon's secondaries are waited for (HOSTSYNC of upsmon.conf(5) is 15 s).
    pub secondaries_timeout: Duration,
    /// `shutdown.protect`: pods that are never evicted, beside the storage plane.
    pub protect: Vec<Protect>,
    /// `shutdown.storage_plane`: pods that volumes need to detach; never evicted.
    pub storage_plane: Vec<Protect>,
    /// `shutdown.hosts_at_once`: hosts that are worked on side by side.
    pub hosts_at_once: u32,
    /// `shutdown.require_ups_battery`: a person's request needs a UPS that was heard from.
    pub require_ups_battery: bool,
}

/// Pods by namespace and labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protect {
    /// Namespace; absent: all.
    pub namespace: Option<String>,
    /// Equality selector `key=value,…`; empty: all pods.
    pub selector: String,
}

/// Whose clock a start-up waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clocks {
    /// This host's.
    #[default]
    Strict,
    /// Those of a majority of the hosts.
    Quorum,
    /// Nobody's.
    Off,
}

/// Section `startup`. Every time is one *without progress*; four times that is the hard end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StartupSettings {
    /// `startup.on_boot`.
    pub on_boot: OnBoot,
    /// `startup.min_battery`: every UPS holds at least so much, in percent; 0: not asked for.
    pub min_battery: u8,
    /// `startup.require_ups_battery`: a UPS must have been heard from.
    pub require_ups_battery: bool,
    /// `startup.clocks`: whose clock must be synchronised.
    pub clocks: Clocks,
    /// `startup.clock_timeout`.
    pub clock_timeout: Duration,
    /// `startup.packages`: what hosts on which Longhorn keeps data must have.
    pub packages: BTreeSet<String>,
    /// `startup.api_timeout`: until the API is ready; a datastore may need many minutes to open.
    pub api_timeout: Duration,
    /// `startup.node_timeout`: until a node is Ready.
    pub node_timeout: Duration,
    /// `startup.flux_source`: the GitRepository, `namespace/name`.
    pub source: String,
    /// `startup.expected_flux_url`; empty: any.
    pub expected_url: String,
    /// `startup.expected_flux_branch`; empty: any.
    pub expected_branch: String,
    /// `startup.source_timeout`: until the source has an artifact.
    pub source_timeout: Duration,
    /// `startup.flux_ready_timeout`: until all of Flux is applied.
    pub flux_ready_timeout: Duration,
    /// `startup.optional_kustomizations`: these need not be, `namespace/name`.
    pub optional: BTreeSet<String>,
    /// `startup.namespaces`: these must be there.
    pub namespaces: BTreeSet<String>,
    /// `startup.convergence_timeout`: until workloads are as wanted.
    pub convergence_timeout: Duration,
    /// `startup.ingress`.
    pub ingress: IngressSettings,
    /// `startup.services`: these must serve.
    pub services: Vec<Service>,
    /// `startup.critical_endpoints`: these Services must have ready addresses, `namespace/name`.
    pub endpoints: BTreeSet<String>,
    /// `startup.checklist_timeout`: until ingress, services and endpoints are as wanted.
    pub checklist_timeout: Duration,
    /// `startup.stability_window`: so long nothing may regress.
    pub stability_window: Duration,
    /// `startup.stability_timeout`: the window is waited for so long.
    pub stability_timeout: Duration,
    /// `startup.vault`; absent: the site has none, or somebody else unseals it.
    pub vault: Option<VaultSettings>,
    /// `startup.repairs`.
    pub repairs: RepairSettings,
}

impl Default for StartupSettings {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        Self {
            on_boot: OnBoot::Never,
            min_battery: 35,
            require_ups_battery: false,
            clocks: Clocks::Strict,
            clock_timeout: minutes(10),
            packages: ["cryptsetup", "dmsetup", "nfs-common", "open-iscsi"].into_iter().map(ToOwned::to_owned).collect(),
            api_timeout: minutes(20),
            node_timeout: minutes(10),
            source: "flux-system/flux-system".to_owned(),
            expected_url: String::new(),
            expected_branch: String::new(),
            source_timeout: minutes(5),
            flux_ready_timeout: minutes(20),
            optional: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            convergence_timeout: minutes(15),
            ingress: IngressSettings::default(),
            services: Vec::new(),
            endpoints: BTreeSet::new(),
            checklist_timeout: minutes(15),
            stability_window: minutes(3),
            stability_timeout: minutes(15),
            vault: None,
            repairs: RepairSettings::default(),
        }
    }
}

/// Section `startup.ingress`: every host of every Ingress and IngressRoute is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IngressSettings {
    /// `check`: whether at all.
    pub check: bool,
    /// `ignore`: hosts that are not asked, as their rules name them.
    pub ignore: BTreeSet<String>,
    /// `accepted`: codes that a backend may answer.
    pub accepted: BTreeSet<u16>,
    /// `address`: where the ingress controller is asked; absent: where the objects' status says, else DNS.
    pub address: Option<IpAddr>,
    /// `http_port`.
    pub http_port: u16,
    /// `https_port`.
    pub https_port: u16,
    /// `ca_file`: PEM of the CAs of its certificates; absent: this host's.
    pub ca_file: Option<PathBuf>,
    /// `verify`: who signed its certificates is looked at, not only whose name they carry.
    pub verify: bool,
}

impl Default for IngressSettings {
    fn default() -> Self {
        Self {
            check: true,
            ignore: BTreeSet::new(),
            accepted: BTreeSet::from([200, 301, 302, 307, 308, 401, 403, 404]),
            address: None,
            http_port: 80,
            https_port: 443,
            ca_file: None,
            verify: true,
        }
    }
}
