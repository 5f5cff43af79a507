//! What the API asks of the site besides the control loop's View. `app` answers with the real rooms.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use metis_proto::v1;
use tokio::sync::mpsc;

use crate::card::device::Device;
use crate::card::{Extent, InjectedFile};
use crate::cluster::ShutdownMode;
use crate::control::Prepared;
use crate::journal;
use crate::prepare::Finding;
use crate::runbook::Runbook;
use crate::site::{Answer, Asker, DomainName, Guard, Judged, MergedNode, NodeName, OnTrigger, RunId, Step, Topology, Word};

/// What a caller wants to have built.
#[derive(Debug, Clone, PartialEq)]
pub struct CardQuestion {
    /// For whom.
    pub node: NodeName,
    /// Image overrides of this request.
    pub overrides: crate::card::plan::Overrides,
    /// The golden image as it is.
    pub no_inject: bool,
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Destination {
    /// A device of this host, as the caller named it.
    Device {
        /// Path.
        path: PathBuf,
        /// Waives the guards against devices that are no cards.
        allow_fixed: bool,
    },
    /// The caller writes it.
    Caller {
        /// `image` or `burn`.
        purpose: String,
        /// For the record.
        target: String,
    },
}

/// A plan and what it was made from.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The plan.
    pub runbook: Runbook<Step>,
    /// The merged node.
    pub node: MergedNode,
    /// The device, where the card goes to one.
    pub device: Option<Device>,
}

/// A shutdown as a caller wants it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShutdownQuestion {
    /// What becomes of the hosts; `shutdown.mode` where absent.
    pub mode: Option<ShutdownMode>,
    /// For people.
    pub reason: String,
    /// Only what these domains feed; `None`: the whole site.
    pub domains: Option<BTreeSet<DomainName>>,
    /// Pods are not evicted; nodes are cordoned.
    pub skip_drain: bool,
    /// Neither snapshot nor dump.
    pub skip_etcd_snapshot: bool,
    /// `--drain-timeout`, else the setting.
    pub drain_timeout: Option<Duration>,
    /// `--emergency-drain-timeout`, else the setting.
    pub emergency_drain_timeout: Option<Duration>,
    /// A UPS must have been heard from; also where `shutdown.require_ups_battery` says so.
    pub require_ups_battery: bool,
    /// Which: a UPS as NUT names it, or the host of its upsd; `None`: any.
    pub ups_host: Option<String>,
    /// It will be executed: the cluster may be asked, for a short time. A dry run waits for nothing.
    pub execute: bool,
}

/// A shutdown as it would be done.
#[derive(Debug, Clone)]
pub struct ShutdownPlan {
    /// The plan, and every guard that refuses it.
    pub runbook: Runbook<Step>,
    /// The hosts and how each comes back.
    pub topology: Topology,
    /// Runtime that is left, where the site runs on battery: the plan is cut to it.
    pub remaining: Option<Duration>,
}

/// A start-up as a caller wants it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartupQuestion {
    /// For people.
    pub reason: String,
    /// Hosts that are not waited for.
    pub ignore: BTreeSet<NodeName>,
    /// Goes on while a UPS runs on battery.
    pub allow_on_battery: bool,
    /// Least charge of every UPS, in percent; `startup.min_battery` where absent.
    pub min_battery: Option<u8>,
    /// A UPS must have been heard from; also where `startup.require_ups_battery` says so.
    pub require_ups_battery: bool,
    /// So long nothing may regress at the end; `startup.stability_window` where absent.
    pub stability_window: Option<Duration>,
    /// Ingress, services and endpoints are waited for so long without progress; `startup.checklist_timeout` where absent.
    pub checklist_timeout: Option<Duration>,
    /// The stable window is waited for so long; `startup.stability_timeout` where absent.
    pub stability_timeout: Option<Duration>,
    /// What storage needs is not looked for on hosts.
    pub skip_packages: bool,
    /// Goes on where the other metis host cannot be asked; also by `peer.allow_peer_startup`.
    pub allow_peer_startup: bool,
    /// The peer takes it over where the coordinator is not reached; also by `peer.auto_peer_failover`.
    pub auto_peer_failover: bool,
}

/// What the other metis host says to a start-up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Who {
    /// It is the coordinator, and runs it.
    pub hand_over: bool,
    /// Why it does not run here.
    pub guard: Option<Guard>,
    /// What it said, for people.
    pub said: Vec<String>,
}

/// The other metis host as this one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// Its name in the inventory.
    pub name: String,
    /// What came of asking it, and how long ago.
    pub answer: Option<(Answer, Duration)>,
    /// How long ago it reached this host.
    pub heard: Option<Duration>,
    /// Who holds the Lease, for people.
    pub lease: Option<String>,
}

/// What stands against arming, and what it would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arming {
    /// Every guard that refuses it.
    pub guards: Vec<Guard>,
    /// What a person should know first; none of it blocks.
    pub warnings: Vec<String>,
    /// The mode where the caller names none.
    pub mode: OnTrigger,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The inventory has no such node.
    #[error("{0}")]
    NoSuchNode(String),
    /// Guards refuse before a plan can be made.
    #[error("refused")]
    Refused(Vec<Guard>),
    /// This host cannot be asked.
    #[error("{0}")]
    Failed(String),
}

/// A finished card, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardFacts {
    /// cloud-init's instance-id.
    pub instance_id: String,
    /// SHA-256 of the golden image as published.
    pub image_sha256: String,
    /// What was injected.
    pub files: Vec<InjectedFile>,
}

/// From the run to the caller that writes the image.
#[derive(Debug)]
pub enum ImageOut {
    /// First.
    Header {
        /// Bytes of the whole image.
        size: u64,
        /// What will be sent.
        extents: Vec<Extent>,
        /// The card.
        card: CardFacts,
    },
    /// A piece.
    Chunk {
        /// Where it belongs.
        offset: u64,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// Last.
    Trailer {
        /// SHA-256, hex, of all extents in ascending order.
        sha256: String,
    },
}

/// From the caller that writes the image to the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageIn {
    /// Bytes that he has made durable, and read back.
    Progress {
        /// Durable.
        written: u64,
        /// Read back.
        verified: u64,
    },
    /// What became of his copy.
    Result(Result<(), String>),
    /// He went away.
    Gone,
}

/// The caller's end of an image run.
#[derive(Debug)]
pub struct ImagePipe {
    /// To the caller.
    pub out: mpsc::Sender<ImageOut>,
    /// From the caller.
    pub back: mpsc::Receiver<ImageIn>,
}

/// What the API asks about cards.
#[tonic::async_trait]
pub trait Site: Send + Sync + 'static {
    /// Plans a burn or an image run; changes nothing.
    async fn plan_card(&self, question: CardQuestion, destination: Destination) -> Result<Planned, PlanError>;

    /// The merged node, secrets masked.
    async fn card_config(&self, question: CardQuestion) -> Result<serde_json::Value, PlanError>;

    /// Disks of this host, each with what stands against writing it.
    async fn devices(&self) -> Result<Vec<(Device, Vec<Guard>)>, PlanError>;

    /// Hands the caller's end of an image run over to the run.
    fn attach(&self, run: &RunId, pipe: ImagePipe);
}

/// What the API asks about power.
#[tonic::async_trait]
pub trait Power: Send + Sync + 'static {
    /// Plans a shutdown; changes nothing.
    async fn plan_shutdown(&self, question: ShutdownQuestion) -> Result<ShutdownPlan, PlanError>;

    /// Plans a start-up; changes nothing, and asks nobody.
    async fn plan_startup(&self, question: StartupQuestion) -> Result<Runbook<Step>, PlanError>;

    /// The table of gates with the patience of the settings.
    fn gates(&self) -> Vec<(&'static crate::cluster::startup::Row, Duration)>;

    /// The table of repairs, each with whether the settings let it be used.
    fn repairs(&self) -> Vec<(&'static crate::cluster::repairs::RepairRow, bool)>;

    /// Gives the lease on a node until then; what was done.
    async fn renew_lease(&self, requester: String, node: String, expires: jiff::Timestamp) -> Result<String, PlanError>;

    /// Clears the cordon that metis holds on a node; what was done.
    async fn release_lease(&self, requester: String, node: String) -> Result<String, PlanError>;

    /// `cluster.cordon_lease`.
    fn lease_span(&self) -> Duration;

    /// What stands against acting upon a trigger.
    async fn arming(&self) -> Result<Arming, PlanError>;

    /// Samples and transitions of a UPS.
    async fn ups_history(&self, question: HistoryQuestion) -> Result<journal::History, PlanError>;
}

/// What was found of the preparations for a bad day, and what is recorded of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Problems first.
    pub findings: Vec<Finding>,
    /// For the journal.
    pub record: Prepared,
}

/// What the caller knows of the site that its cluster does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InventoryQuestion {
    /// Where its hosts' sshd listen; as the inventory's defaults say where absent, else 22.
    pub ssh_port: Option<u16>,
    /// Prefix length of its network.
    pub prefix: Option<u8>,
}

/// A draft of an inventory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draft {
    /// The file.
    pub yaml: String,
    /// What a person should know before he uses it.
    pub notes: Vec<String>,
}

/// What the API asks about preparations for a bad day.
#[tonic::async_trait]
pub trait Preparing: Send + Sync + 'static {
    /// Looks at everything; changes nothing.
    async fn look(&self, requester: String) -> Result<Looked, PlanError>;

    /// Whether Flux reads what it should, by a look that is not older than a moment; `None`: the site has no cluster.
    async fn flux_source(&self) -> Option<Judged>;

    /// Drafts an inventory from the live cluster; changes nothing.
    async fn inventory(&self, question: InventoryQuestion) -> Result<Draft, PlanError>;
}

/// What the API asks about the other metis host.
#[tonic::async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Who runs a start-up; it begins at once where this host does and `execute` says so.
    async fn who(&self, question: &StartupQuestion, asker: Asker, execute: bool) -> Who;

    /// Hands it over; the host that took it, and the run that it became there.
    async fn hand_over(&self, startup: v1::StartupRequest, requester: String) -> Result<(String, String), PlanError>;

    /// The other host says what it does, and is told what this one does.
    async fn told(&self, word: Word) -> Word;

    /// As it was known last; `None`: there is none.
    fn status(&self) -> Option<PeerFacts>;
}

/// Which part of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuestion {
    /// Which UPS.
    pub ups: crate::site::UpsName,
    /// From.
    pub from: Option<jiff::Timestamp>,
    /// To.
    pub to: Option<jiff::Timestamp>,
    /// At most this many samples.
    pub limit: usize,
}
