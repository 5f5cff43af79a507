//! The plain enum of everything that metis can do. `app::perform` is its one interpreter.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Gate, ImageRef, NodeName, UpsName};

/// One effect on the world. A step names what to do; secrets and bulk data are looked up when it is performed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Step {
    /// Brings a golden image into the cache: fetched, verified, ingested.
    FetchImage {
        /// What and from where.
        image: ImageRef,
    },
    /// Resolves secrets, renders the node's files and lays them over the image.
    PrepareCard {
        /// For whom.
        node: NodeName,
        /// The image, as in [`Step::FetchImage`].
        image: ImageRef,
        /// The golden image as it is.
        no_inject: bool,
    },
    /// Writes the prepared card to a device of this host and reads it back.
    WriteCard {
        /// As the caller named it.
        device: PathBuf,
        /// `diskseq` of the device when it was planned (`/sys/block/*/diskseq`); 0 where the kernel has none.
        diskseq: u64,
        /// Waives the guard against devices that are not removable.
        allow_fixed: bool,
    },
    /// Streams the prepared card to the caller, who writes it and reports back.
    StreamImage {
        /// Where the caller writes it to, for the record.
        target: String,
    },
    /// Looks at the cluster and records what is about to change: suspended objects, cordons, replica counts, volumes.
    Collect,
    /// Suspends Kustomizations (root first), then HelmReleases, those only that are not suspended already.
    SuspendFlux,
    /// Unwinds [`Step::SuspendFlux`]: resumes what this run suspended (root last).
    ResumeFlux,
    /// `k3s etcd-snapshot save` on a server, then prunes older on-demand snapshots (k3s docs).
    SnapshotEtcd {
        /// The server.
        node: NodeName,
        /// Name of the snapshot.
        name: String,
        /// So many on-demand snapshots are kept.
        keep: u32,
    },
    /// Runs the configured dump command of an external datastore.
    DumpDatastore {
        /// The host on which it runs.
        node: NodeName,
        /// The command, for `sh -c`.
        command: String,
    },
    /// Cordons a worker on lease and evicts its pods by the ladder; see `cluster::drain`.
    Drain {
        /// The worker.
        node: NodeName,
        /// Cordons only; pods stay.
        cordon_only: bool,
    },
    /// Unwinds [`Step::Drain`]: clears the cordon where this run placed it.
    Uncordon {
        /// The worker.
        node: NodeName,
    },
    /// Gate: no volume is attached to any of these nodes.
    AwaitDetach {
        /// The nodes.
        nodes: BTreeSet<NodeName>,
    },
    /// Stops k3s' unit on a host.
    StopK3s {
        /// The host.
        node: NodeName,
        /// Server or agent.
        role: super::K3sRole,
    },
    /// Unwinds [`Step::StopK3s`] of an agent: starts its unit where this run stopped it.
    StartK3s {
        /// The host.
        node: NodeName,
        /// Server or agent.
        role: super::K3sRole,
    },
    /// Ends what k3s left running (`k3s-killall.sh`) and writes caches to disk (sync(1)).
    EndLeftovers {
        /// The host.
        node: NodeName,
    },
    /// Sets FSD on a UPS, so that upsmon's secondaries shut down (upsmon(8)).
    SetFsd {
        /// The UPS.
        ups: UpsName,
    },
    /// Gate: no secondary is logged in to the UPS any more (`GET NUMLOGINS`).
    AwaitSecondaries {
        /// The UPS.
        ups: UpsName,
    },
    /// Powers a host off.
    PowerOff {
        /// The host.
        node: NodeName,
    },
    /// Leaves word for the shutdown hook that the UPSes shall cut and restore their outlets once this host has halted.
    CutOutlets {
        /// UPSes plugged into this host.
        upses: BTreeSet<UpsName>,
    },
    /// Records the run as complete, then powers this host off.
    PowerOffThisHost {
        /// This host.
        node: NodeName,
        /// logind is given so long until it acts (`ScheduleShutdown`).
        delay: Duration,
    },
    /// Waits for a condition of a start-up.
    Await {
        /// Which.
        gate: Gate,
        /// So long without progress is borne.
        patience: Duration,
    },
    /// Sends magic packets to a host until it is on; see [`Gate::HostUp`] for whether it is.
    Wake {
        /// The host.
        node: NodeName,
    },
    /// Starts k3s' unit on a host where it does not run, without waiting for it (`--no-block`: servers with embedded etcd wait for each
    /// other).
    BringUpK3s {
        /// The host.
        node: NodeName,
        /// Server or agent.
        role: super::K3sRole,
    },
    /// Clears every cordon that metis placed and still holds, but for nodes that are left out.
    ReleaseCordons {
        /// Hosts that are not back.
        except: BTreeSet<NodeName>,
    },
    /// Resumes everything of Flux that metis suspended and still holds, children first, the root last.
    ReleaseFlux,
    /// Asks Flux to reconcile its source and everything that is not applied yet (`reconcile.fluxcd.io/requestedAt`).
    Reconcile,
}

impl Step {
    /// The host of the inventory on which it works.
    pub fn host(&self) -> Option<&NodeName> {
        match self {
            Self::SnapshotEtcd { node, .. }
            | Self::DumpDatastore { node, .. }
            | Self::Drain { node, .. }
            | Self::Uncordon { node }
            | Self::StopK3s { node, .. }
            | Self::StartK3s { node, .. }
            | Self::EndLeftovers { node }
            | Self::PowerOff { node }
            | Self::PowerOffThisHost { node, .. }
            | Self::BringUpK3s { node, .. }
            | Self::Wake { node }
            | Self::Await { gate: Gate::HostUp { node } | Gate::Packages { node } | Gate::NodeReady { node }, .. } => Some(node),
            Self::FetchImage { .. }
            | Self::PrepareCard { .. }
            | Self::WriteCard { .. }
            | Self::StreamImage { .. }
            | Self::Collect
            | Self::SuspendFlux
            | Self::ResumeFlux
            | Self::AwaitDetach { .. }
            | Self::SetFsd { .. }
            | Self::AwaitSecondaries { .. }
            | Self::CutOutlets { .. }
            | Self::Await { .. }
            | Self::ReleaseCordons { .. }
            | Self::ReleaseFlux
            | Self::Reconcile => None,
        }
    }

    /// The step's kind as users see it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::FetchImage { .. } => "image.fetch",
            Self::PrepareCard { .. } => "card.prepare",
            Self::WriteCard { .. } => "card.write",
            Self::StreamImage { .. } => "image.stream",
            Self::Collect => "cluster.collect",
            Self::SuspendFlux => "flux.suspend",
            Self::ResumeFlux => "flux.resume",
            Self::SnapshotEtcd { .. } => "etcd.snapshot",
            Self::DumpDatastore { .. } => "datastore.dump",
            Self::Drain { .. } => "node.drain",
            Self::Uncordon { .. } => "node.uncordon",
            Self::AwaitDetach { .. } => "volumes.detached",
            Self::StopK3s { .. } => "k3s.stop",
            Self::StartK3s { .. } => "k3s.start",
            Self::EndLeftovers { .. } => "k3s.killall",
            Self::SetFsd { .. } => "ups.fsd",
            Self::AwaitSecondaries { .. } => "ups.secondaries",
            Self::PowerOff { .. } => "host.poweroff",
            Self::CutOutlets { .. } => "ups.cut-outlets",
            Self::PowerOffThisHost { .. } => "host.poweroff-self",
            Self::Await { gate, .. } => gate.name(),
            Self::Wake { .. } => "host.wake",
            Self::BringUpK3s { .. } => "k3s.bring-up",
            Self::ReleaseCordons { .. } => "cordons.release",
            Self::ReleaseFlux => "flux.release",
            Self::Reconcile => "flux.reconcile",
        }
    }
}
