//! The repairs of a start-up as people see them: `metisctl startup --list`.

use super::OPT_OUT;
use crate::cluster::StartupSettings;
use crate::site::{Gate, Repair};

/// A repair: when it is used, on what, and how it is undone.
#[derive(Debug, Clone, Copy)]
pub struct RepairRow {
    /// Which.
    pub repair: Repair,
    /// Its switch below `startup.repairs`; `None`: it cannot be switched off.
    pub setting: Option<&'static str>,
    /// What is seen, exactly.
    pub symptom: &'static str,
    /// What must be so beside it.
    pub preconditions: &'static str,
    /// What is done, and all that it can touch.
    pub blast_radius: &'static str,
    /// How a person takes it back.
    pub undo: &'static str,
    /// What a person does where it was used up or is switched off.
    pub by_hand: &'static str,
    /// Gates that it is a remedy of, by [`Gate::name`]; empty: a step of its own sees to it.
    pub gates: &'static [&'static str],
}

/// All of them.
pub const REPAIRS: &[RepairRow] = &[
    RepairRow {
        repair: Repair::ImmutableJob,
        setting: Some("immutable_job"),
        symptom: "a Kustomization is not Ready, and its message says `Job/NAMESPACE/NAME dry-run failed …: field is immutable` of that Job",
        preconditions: "the Job has ended, its labels name that Kustomization, it has no ownerReferences and no opt-out (metis.v1/repair, kustomize.toolkit.fluxcd.io/prune or reconcile: disabled)",
        blast_radius: "that one Job is deleted (by its UID, its pods after it); Flux makes it anew, so it runs once more",
        undo: "none is needed: Git has the Job",
        by_hand: "kubectl -n NAMESPACE delete job NAME",
        gates: &["flux"],
    },
    RepairRow {
        repair: Repair::StuckPod,
        setting: Some("stuck_pod"),
        symptom: "a pod of Flux' controllers or of startup.repairs.controllers is in CrashLoopBackOff for 3 minutes, or not Ready for 10",
        preconditions: "its node is Ready and renews its Lease, something makes the pod anew, and what it misses is no image and no configuration",
        blast_radius: "that one pod is deleted (by its UID)",
        undo: "none is needed: its controller makes another",
        by_hand: "kubectl -n NAMESPACE logs --previous POD; kubectl -n NAMESPACE delete pod POD",
        gates: &["flux-source", "flux", "workloads"],
    },
    RepairRow {
        repair: Repair::LeftAtZero,
        setting: Some("left_at_zero"),
        symptom: "a Deployment or StatefulSet that the last shutdown recorded with replicas wants none",
        preconditions: "its namespace is one that a start-up needs, and the API server has on record (managedFields) that nobody has scaled it since that shutdown ended; a zero by `kubectl scale` leaves no record",
        blast_radius: "that one workload is scaled to the recorded count, where it is still as it was seen (resourceVersion)",
        undo: "kubectl -n NAMESPACE scale KIND/NAME --replicas=0",
        by_hand: "kubectl -n NAMESPACE scale KIND/NAME --replicas=N",
        gates: &["flux-source", "flux", "workloads"],
    },
    RepairRow {
        repair: Repair::PendingRelease,
        setting: Some("pending_release"),
        symptom: "a HelmRelease is not Ready for 2 minutes with `another operation (install/upgrade/rollback) is in progress`, or unlocked and out of retries",
        preconditions: "its controller is not at work on it (Reconciling)",
        blast_radius: "that one HelmRelease is asked to reconcile and to forget its failures; no release record is deleted",
        undo: "none is needed: helm-controller does what Git says",
        by_hand: "helm -n NAMESPACE history NAME, then helm rollback to the newest good one; flux reconcile helmrelease NAME --reset",
        gates: &["flux"],
    },
    RepairRow {
        repair: Repair::OrphanedAttachment,
        setting: Some("orphaned_attachment"),
        symptom: "a pod waits for a volume that a VolumeAttachment holds on another node, which is gone or was started anew since",
        preconditions: "no pod on that node names the volume, its kubelet does not say that it is in use, and the boot before is on record",
        blast_radius: "that one VolumeAttachment is deleted (by its UID): its driver detaches the volume from that node",
        undo: "none is needed: the attach-detach controller makes it anew for whoever uses the volume",
        by_hand: "kubectl get volumeattachments; make sure that nothing on the node uses the volume, then delete the one that holds it",
        gates: &["flux-source", "flux", "workloads"],
    },
    RepairRow {
        repair: Repair::MissingArtifact,
        setting: Some("missing_artifact"),
        symptom: "a GitRepository that is read says Ready, and has no artifact",
        preconditions: "it is not suspended",
        blast_radius: "that one source is asked to reconcile",
        undo: "none is needed",
        by_hand: "flux reconcile source git NAME; kubectl -n flux-system rollout restart deployment/source-controller",
        gates: &["flux-source", "flux"],
    },
    RepairRow {
        repair: Repair::Coupling,
        setting: Some("coupling"),
        symptom: "startup.flux_source was not reached, while all of the Git server (git_namespace) is up; or the Git server waits for an image of registry_host, while all of the registry (registry_namespace) is up",
        preconditions: "the message is that of a connection, not of a key or a branch; the pod is in ImagePullBackOff and something makes it anew",
        blast_radius: "that one source is asked to reconcile; that one pod is deleted (by its UID), so that its image is pulled at once",
        undo: "none is needed",
        by_hand: "flux reconcile source git NAME; kubectl -n NAMESPACE delete pod POD",
        gates: &["flux-source"],
    },
    RepairRow {
        repair: Repair::StaleCordon,
        setting: None,
        symptom: "a node carries a cordon of this metis host whose run is over",
        preconditions: "its lease has expired and the node is Ready with a renewed Lease, or the start-up has come to its step `cordons`",
        blast_radius: "that one node is uncordoned; where its reason is not known to be gone it is marked for a person instead (metis.v1/manual-action)",
        undo: "kubectl cordon NODE",
        by_hand: "metisctl lease list; metisctl lease release NODE",
        gates: &[],
    },
];

/// The row of a repair.
pub fn row(repair: Repair) -> &'static RepairRow {
    // A repair without a row would be shown as the last one; the test over all repairs keeps it from happening.
    REPAIRS.iter().find(|row| row.repair == repair).unwrap_or(&REPAIRS[REPAIRS.len() - 1])
}

/// Whether any repair is a remedy of that gate.
pub fn mends(gate: &Gate) -> bool {
    REPAIRS.iter().any(|row| row.gates.contains(&gate.name()))
}

/// What a person does where a gate fails after its repairs: those that were used, those that were refused, and those that are switched off.
pub fn after(gate: &Gate, tried: &[(Repair, String)], settings: &StartupSettings) -> String {
    if !mends(gate) {
        return String::new();
    }
    let mut parts = Vec::new();
    if tried.is_empty() {
        parts.push("no repair of metis fits what is seen".to_owned());
    } else {
        let told = tried.iter().map(|(repair, outcome)| format!("{} ({outcome}; by hand: {})", repair.name(), row(*repair).by_hand));
        parts.push(format!("repairs are used up: {}", told.collect::<Vec<_>>().join("; ")));
    }
    let off =
        REPAIRS.iter().filter(|row| row.gates.contains(&gate.name()) && !settings.repairs.allows(row.repair)).map(|row| row.repair.name());
    let off = off.collect::<Vec<_>>().join(", ");
    if !off.is_empty() {
        parts.push(format!("switched off: {off}"));
    }
    parts.join("; ")
}

/// One line for a dry run: what may be repaired.
pub fn allowed(settings: &StartupSettings) -> String {
    let names = |on: bool| {
        let rows = REPAIRS.iter().filter(|row| settings.repairs.allows(row.repair) == on);
        rows.map(|row| row.repair.name()).collect::<Vec<_>>().join(", ")
    };
    let off = names(false);
    let off = if off.is_empty() { String::new() } else { format!("; switched off: {off}") };
    format!("repairs that may be used, once per cause (opt-out: annotation {OPT_OUT}: disabled): {}{off}", names(true))
}
