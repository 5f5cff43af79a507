//! The gates of a start-up as people see them: `metisctl startup --list`.

use std::time::Duration;

use crate::cluster::Settings;
use crate::site::Gate;

/// A gate: what it means, and what a person does where it fails.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// [`Gate::name`].
    pub name: &'static str,
    /// What has to be there for it to be looked at.
    pub needs: &'static str,
    /// What is looked at.
    pub probe: &'static str,
    /// So long without progress is borne; four times that is the hard end.
    pub patience: fn(&Settings) -> Duration,
    /// What a person does where it fails.
    pub on_failure: &'static str,
}

/// What only a person or the mains can bring is waited for this long.
const FOR_EVER: Duration = Duration::from_secs(30 * 24 * 3600);
/// A Lease whose holder is gone is free long before.
const LEASE: Duration = Duration::from_secs(300);
/// Hard end of a gate, as a multiple of its patience.
pub const HARD_END: u32 = 4;

/// All of them, in the order in which a start-up comes to them.
pub const GATES: &[Row] = &[
    Row {
        name: "command",
        needs: "peer.host",
        probe: "no other metis host holds the Lease `metis`, where the API answers; it was asked before",
        patience: |_| LEASE,
        on_failure: "metisctl status on both hosts; kubectl -n kube-system get lease metis -o yaml",
    },
    Row {
        name: "mains",
        needs: "a UPS that is heard from",
        probe: "no UPS of the site is on battery or critical",
        patience: |_| FOR_EVER,
        on_failure: "wait for the mains, or start with --allow-on-battery",
    },
    Row {
        name: "charge",
        needs: "a UPS that says its charge",
        probe: "every UPS holds at least startup.min_battery percent: a second outage must leave time for a shutdown",
        patience: |_| FOR_EVER,
        on_failure: "let it charge, or lower --min-startup-battery",
    },
    Row {
        name: "clocks",
        needs: "timedatectl(1)'s synchronisation of this host",
        probe: "strict: the kernel of this host says that its clock is synchronised (adjtimex(2)); quorum: timedatectl(1) of most hosts says so; \
                leases and certificates count on it",
        patience: |settings| settings.startup.clock_timeout,
        on_failure: "timedatectl status; systemctl restart systemd-timesyncd (or chrony); or startup.clocks: false",
    },
    Row {
        name: "host-up",
        needs: "network, SSH",
        probe: "a real command runs there with the rights that later steps need: an open port proves nothing",
        patience: |_| FOR_EVER,
        on_failure: "power the host on; for one that does not come back: --ignore-node NAME, then `metisctl replace`",
    },
    Row {
        name: "host-packages",
        needs: "host-up; a label that says that Longhorn keeps data there",
        probe: "the packages of startup.packages are installed, or their commands are there: without them volumes do not attach",
        patience: |settings| settings.startup.node_timeout,
        on_failure: "install what is named, or --skip-package-check",
    },
    Row {
        name: "control-plane",
        needs: "a k3s server",
        probe: "/readyz answers 200 to metis' own account at any endpoint; 401 is only TLS that is up; CPU time of k3s on the servers is progress",
        patience: |settings| settings.startup.api_timeout,
        on_failure: "journalctl -u k3s on the servers; a datastore that opens slowly makes progress and is waited for",
    },
    Row {
        name: "lease",
        needs: "peer.host, control-plane",
        probe: "this host holds the Lease `metis`: now that the API answers, one of two hosts commands",
        patience: |_| LEASE,
        on_failure: "metisctl status on both hosts; etc/kubernetes/metis-rbac.yaml; kubectl -n kube-system get lease metis -o yaml",
    },
    Row {
        name: "node-ready",
        needs: "control-plane, the host's boot id",
        probe: "Ready, its Lease is renewed, and its bootID is that of its host: a Ready of before the outage is stale",
        patience: |settings| settings.startup.node_timeout,
        on_failure: "journalctl -u k3s-agent on the host; or --ignore-node NAME",
    },
    Row {
        name: "vault",
        needs: "control-plane, the way to its pods (startup.vault.via), unseal keys",
        probe: "each pod says at its own address that it is initialised and unsealed; one that its start sealed is unsealed once, with the keys of the file, then of the break-glass command",
        patience: |settings| settings.startup.vault.as_ref().map_or(FOR_EVER, |vault| vault.timeout),
        on_failure: "vault operator unseal in each pod that is sealed; one that is not initialised: vault operator init, which metis never does",
    },
    Row {
        name: "flux-source",
        needs: "control-plane, source-controller",
        probe: "the GitRepository reads the expected URL and branch, is Ready for its generation, and has an artifact",
        patience: |settings| settings.startup.source_timeout,
        on_failure: "flux get sources git -A; what the Git server needs must run",
    },
    Row {
        name: "flux",
        needs: "flux-source",
        probe: "every Kustomization but the optional: not suspended, Ready, generation observed, the source's revision applied, requests handled",
        patience: |settings| settings.startup.flux_ready_timeout,
        on_failure: "flux get all -A --status-selector ready=false",
    },
    Row {
        name: "namespaces",
        needs: "flux",
        probe: "the namespaces of startup.namespaces are there",
        patience: |settings| settings.startup.convergence_timeout,
        on_failure: "kubectl get namespaces; which Kustomization makes the missing one?",
    },
    Row {
        name: "workloads",
        needs: "flux",
        probe: "every Deployment, StatefulSet and DaemonSet has as many ready pods, of its newest template, as it wants",
        patience: |settings| settings.startup.convergence_timeout,
        on_failure: "kubectl get pods -A --field-selector=status.phase!=Running",
    },
    Row {
        name: "ingress",
        needs: "workloads; an ingress controller",
        probe: "every host of every Ingress and IngressRoute but startup.ingress.ignore answers an accepted code, with a certificate of its name, \
                otherwise than a host that nobody has a rule for, and each Service behind it has a ready address on a node that lives",
        patience: |settings| settings.startup.checklist_timeout,
        on_failure: "kubectl get ingress,ingressroute,endpointslices -A; kubectl -n kube-system logs deploy/traefik; or startup.ingress.ignore",
    },
    Row {
        name: "services",
        needs: "workloads; startup.services",
        probe: "each service says in its answer's body or headers that it serves: a code, an open port or an installer's `pass` proves nothing",
        patience: |settings| settings.startup.checklist_timeout,
        on_failure: "ask it as the plan shows; kubectl get pods -A; what its answer lacks is named",
    },
    Row {
        name: "endpoints",
        needs: "workloads; startup.critical_endpoints",
        probe: "each Service has a ready address in its EndpointSlices, on a node whose kubelet renews its Lease",
        patience: |settings| settings.startup.checklist_timeout,
        on_failure: "kubectl describe service NAME; kubectl get endpointslices -A",
    },
    Row {
        name: "soak",
        needs: "all gates before",
        probe: "all of this stays so for startup.stability_window, ingress, services and endpoints included, and no pod crashes or misses its image",
        patience: |settings| settings.startup.stability_timeout,
        on_failure: "see what regressed in the report; kubectl get events -A --sort-by=.lastTimestamp",
    },
];

/// The row of a gate.
pub fn row(gate: &Gate) -> &'static Row {
    let name = gate.name();
    // A gate without a row would be shown as the last one; the test over all gates keeps it from happening.
    GATES.iter().find(|row| row.name == name).unwrap_or(&GATES[GATES.len() - 1])
}

/// A guard: what stands in the way of a start-up, all of them at once.
#[derive(Debug, Clone, Copy)]
pub struct GuardRow {
    /// Its name in a refusal.
    pub name: &'static str,
    /// What it refuses.
    pub refuses: &'static str,
    /// The flag that waives it; `None`: it cannot be waived.
    pub waiver: Option<&'static str>,
}

/// All of them.
pub const GUARDS: &[GuardRow] = &[
    GuardRow { name: "daemon.host_role", refuses: "a host that is neither coordinator nor peer", waiver: None },
    GuardRow { name: "peer.role", refuses: "two hosts of which not one is the coordinator and one its peer", waiver: None },
    GuardRow { name: "peer.intent", refuses: "another metis host that shuts the site down, or starts it already", waiver: None },
    GuardRow {
        name: "peer.unreachable",
        refuses: "another metis host that cannot be asked what it does; a peer without its coordinator",
        waiver: Some("--allow-peer-startup"),
    },
    GuardRow { name: "startup.empty", refuses: "an inventory without a host that metis may start k3s on", waiver: None },
    GuardRow { name: "startup.unknown_node", refuses: "--ignore-node of a node that the inventory does not have", waiver: None },
    GuardRow { name: "startup.server_access", refuses: "a k3s server that is reached only through a pod of its own API", waiver: None },
    GuardRow { name: "inventory.mapping", refuses: "two hosts with one Kubernetes name or one address", waiver: None },
    GuardRow { name: "power.on_battery", refuses: "a site of which a UPS runs on battery", waiver: Some("--allow-on-battery") },
    GuardRow {
        name: "power.charge",
        refuses: "a UPS on battery that holds less than startup.min_battery percent",
        waiver: Some("--min-startup-battery"),
    },
    GuardRow {
        name: "power.battery",
        refuses: "no UPS heard from, where --require-ups-battery asks for one",
        waiver: Some("without --require-ups-battery"),
    },
    GuardRow { name: "run.busy", refuses: "a shutdown or another start-up that is under way", waiver: None },
    GuardRow { name: "journal.degraded", refuses: "a journal that does not reach its disk", waiver: None },
    GuardRow { name: "cluster.kubeconfig", refuses: "a site whose API server metis does not know or may not ask", waiver: None },
];
