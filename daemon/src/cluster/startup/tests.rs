use std::collections::{BTreeMap, BTreeSet};

use super::judge;
use super::*;
use crate::cluster::StartupSettings;
use crate::cluster::seen::{AppliedSeen, Expected, NodeSeen, Seen, SourceSeen, TroubledPod, WorkloadSeen};
use crate::cluster::shutdown::tests as shutdown;
use crate::site::{Judged, Mark, ObjectRef, Returns, Service, ServiceKind};

fn settings() -> Settings {
    shutdown::settings(Datastore::EmbeddedEtcd { keep: 5 })
}

fn host(name: &str, k3s: Option<K3sRole>) -> Host {
    shutdown::host(name, k3s, "pyrphoros")
}

fn topology(hosts: Vec<Host>) -> Topology {
    Topology { hosts: hosts.into_iter().map(|host| (host.name.clone(), host)).collect(), ..Topology::default() }
}

fn small_site() -> Topology {
    let mut titan_15 = host("titan-15", Some(K3sRole::Agent));
    titan_15.returns = Returns::ByHand;
    topology(vec![
        host("titan-0a", Some(K3sRole::Server)),
        host("titan-0b", Some(K3sRole::Server)),
        host("titan-13", Some(K3sRole::Agent)),
        titan_15,
        Host { this_host: true, access: Access::Local, ..host("titan-db", None) },
    ])
}

fn names(book: &Runbook<Step>) -> Vec<(&str, Vec<&str>)> {
    book.phases.iter().map(|phase| (phase.name.as_str(), phase.steps.iter().map(|step| step.id.as_str()).collect())).collect()
}

#[test]
fn the_order_is_the_one_that_is_written() {
    let order = StartupOrder { has_ups: true, ..StartupOrder::default() };
    let book = plan(&settings(), &small_site(), &Learned::default(), &order);
    assert_eq!(
        names(&book),
        [
            ("wait for power", vec!["mains", "charge", "clocks"]),
            ("wait for hosts", vec!["host-up.titan-0a", "host-up.titan-0b", "host-up.titan-13", "host-up.titan-15"]),
            ("start servers", vec!["k3s.titan-0a", "k3s.titan-0b"]),
            ("control plane", vec!["control-plane"]),
            ("start agents", vec!["k3s.titan-13", "k3s.titan-15"]),
            ("nodes", vec!["node-ready.titan-0a", "node-ready.titan-0b", "node-ready.titan-13", "node-ready.titan-15"]),
            ("cordons", vec!["cordons"]),
            ("Flux source", vec!["flux-source"]),
            ("resume Flux", vec!["flux.resume", "flux.reconcile"]),
            ("Flux", vec!["flux"]),
            ("workloads", vec!["workloads"]),
            ("ingress", vec!["ingress"]),
            ("soak", vec!["soak"]),
        ]
    );
    assert_eq!(book.refusals, Vec::new());
    let servers = &book.phases[2];
    assert_eq!(servers.concurrency, 2, "servers with embedded etcd wait for each other");
    assert!(book.warnings.iter().any(|text| text.contains("waited for: titan-15")), "{:?}", book.warnings);
}

#[test]
fn who_is_left_out_is_looked_at_once_more_at_the_end() {
    let order = StartupOrder { ignore: BTreeSet::from(["titan-15".into()]), ..StartupOrder::default() };
    let book = plan(&settings(), &small_site(), &Learned::default(), &order);
    let (name, steps) = names(&book).pop().unwrap();
    assert_eq!((name, steps), ("missing hosts", vec!["node-ready.titan-15"]));
    assert_eq!(book.step(&"node-ready.titan-15".into()).unwrap().on_failure, crate::runbook::OnFailure::Continue);
    assert!(book.step(&"k3s.titan-15".into()).is_none());
}

#[test]
fn what_cannot_be_started_is_refused_all_at_once() {
    let servers_gone =
        StartupOrder { ignore: BTreeSet::from(["titan-0a".into(), "titan-0b".into(), "titan-99".into()]), ..StartupOrder::default() };
    let refused = |settings: &Settings, topology: &Topology, order: &StartupOrder| {
        plan(settings, topology, &Learned::default(), order).refusals.into_iter().map(|guard| guard.name).collect::<Vec<_>>()
    };
    let blind = Settings { kubeconfig: None, ..settings() };
    assert_eq!(refused(&blind, &small_site(), &servers_gone), ["startup.empty", "startup.unknown_node", "cluster.kubeconfig"]);
    let by_pod = topology(vec![Host { access: Access::HelperPod, ..host("titan-0a", Some(K3sRole::Server)) }]);
    assert_eq!(refused(&settings(), &by_pod, &StartupOrder::default()), ["startup.server_access"]);
}

#[test]
fn every_guard_and_gate_of_a_plan_has_its_row() {
    let order = StartupOrder { has_ups: true, two_hosts: true, ignore: BTreeSet::from(["titan-99".into()]), ..StartupOrder::default() };
    let mut settings = settings();
    settings.startup = StartupSettings {
        namespaces: BTreeSet::from(["vault".to_owned()]),
        services: vec![service("postgres://db.lan")],
        endpoints: BTreeSet::from(["vault/vault".to_owned()]),
        vault: Some(crate::cluster::vault::tests::settings()),
        ..StartupSettings::default()
    };
    let book = plan(&Settings { kubeconfig: None, ..settings.clone() }, &self::topology(Vec::new()), &Learned::default(), &order);
    for guard in &book.refusals {
        assert!(GUARDS.iter().any(|row| row.name == guard.name), "{}", guard.name);
    }
    let mut topology = small_site();
    topology.storage.insert("titan-13".into());
    let gates: BTreeSet<_> = plan(&settings, &topology, &Learned::default(), &order)
        .steps()
        .filter_map(|step| match &step.action {
            Step::Await { gate, .. } => Some(gate.name()),
            _ => None,
        })
        .collect();
    assert_eq!(gates, GATES.iter().map(|row| row.name).collect(), "each gate is in the table, and each row in a plan");
}

#[test]
fn two_hosts_of_one_name_or_address_are_refused() {
    let one = host("titan-13", Some(K3sRole::Agent));
    let refused = |other: Host| {
        let topology = topology(vec![host("titan-0a", Some(K3sRole::Server)), one.clone(), other]);
        let guards = plan(&settings(), &topology, &Learned::default(), &StartupOrder::default()).refusals;
        guards.into_iter().map(|guard| format!("{}: {}", guard.name, guard.message)).collect::<Vec<_>>()
    };
    let other = host("titan-15", Some(K3sRole::Agent));
    assert_eq!(refused(other.clone()), Vec::<String>::new());
    let named = refused(Host { node_name: one.node_name.clone(), ..other.clone() });
    assert!(named.len() == 1 && named[0].contains("inventory.mapping: titan-13 and titan-15 are both the Kubernetes node"), "{named:?}");
    let placed = refused(Host { address: one.address.clone(), ..other.clone() });
    assert!(placed.len() == 1 && placed[0].contains("both reached at titan-13.lan:2277"), "{placed:?}");
    assert_eq!(refused(Host { address: one.address.clone(), port: 22, ..other }), Vec::<String>::new(), "another port is another host");
}

#[test]
fn what_hosts_need_is_looked_for_where_it_is_needed() {
    let mut settings = settings();
    settings.startup.clocks = crate::cluster::Clocks::Quorum;
    let mut topology = small_site();
    topology.storage = BTreeSet::from(["titan-13".into(), "titan-15".into(), "titan-db".into()]);
    topology.hosts.get_mut(&NodeName::new("titan-15")).unwrap().access = Access::HelperPod;
    let phases = |settings: &Settings, order: &StartupOrder| {
        let book = plan(settings, &topology, &Learned::default(), order);
        let names = names(&book).into_iter().map(|(name, steps)| (name.to_owned(), steps.join(" ")));
        names.filter(|(name, _)| name.contains("clock") || name.contains("packages")).collect::<Vec<_>>()
    };
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, steps)| ((*name).to_owned(), (*steps).to_owned())).collect::<Vec<_>>();
    let all = phases(&settings, &StartupOrder::default());
    assert_eq!(
        all,
        pairs(&[("clocks", "clocks"), ("host packages", "host-packages.titan-13"), ("packages of nodes", "host-packages.titan-15")])
    );
    let skipped = StartupOrder { skip_packages: true, ..StartupOrder::default() };
    assert_eq!(phases(&settings, &skipped), pairs(&[("clocks", "clocks")]));
    settings.startup.packages.clear();
    assert_eq!(phases(&settings, &StartupOrder::default()), pairs(&[("clocks", "clocks")]));
}

fn service(url: &str) -> Service {
    Service {
        name: "db".to_owned(),
        kind: ServiceKind::Postgres,
        target: url.parse().unwrap(),
        resolve_to: BTreeSet::new(),
        ca_file: None,
        issuer: String::new(),
        accepted: BTreeSet::new(),
        json: BTreeMap::new(),
        json_contains: BTreeMap::new(),
        headers: BTreeMap::new(),
        contains: String::new(),
    }
}

#[test]
fn what_is_asked_from_outside_is_planned_where_it_is_configured_and_for_as_long_as_asked() {
    let mut settings = settings();
    let minutes = |count: u64| Some(Duration::from_secs(60 * count));
    let order = StartupOrder { checklist_timeout: minutes(2), stability_timeout: minutes(3), ..StartupOrder::default() };
    let patience = |settings: &Settings| {
        let book = plan(settings, &small_site(), &Learned::default(), &order);
        let gates = book.steps().filter_map(|step| match &step.action {
            Step::Await { gate: Gate::Ingress | Gate::Services | Gate::Endpoints | Gate::Soak { .. }, patience } => {
                Some((step.id.to_string(), patience.as_secs() / 60, step.by_hand.clone()))
            }
            _ => None,
        });
        gates.collect::<Vec<_>>()
    };
    settings.startup.ingress.check = false;
    assert_eq!(patience(&settings).iter().map(|(id, minutes, _)| (id.as_str(), *minutes)).collect::<Vec<_>>(), [("soak", 3)]);
    settings.startup.ingress.check = true;
    settings.startup.services = vec![service("postgres://db.lan:5433"), service("postgres://db.lan")];
    settings.startup.endpoints.insert("vault/vault".to_owned());
    let planned = patience(&settings);
    let ids: Vec<_> = planned.iter().map(|(id, minutes, _)| (id.as_str(), *minutes)).collect();
    assert_eq!(ids, [("ingress", 2), ("services", 2), ("endpoints", 2), ("soak", 3)]);
    assert_eq!(planned[1].2, "pg_isready -h db.lan -p 5433; pg_isready -h db.lan -p 5432");
}

/// A site of which everything is well.
fn green() -> Seen {
    let node = |name: &str| NodeSeen {
        name: name.to_owned(),
        ready: true,
        lease_fresh: true,
        boot_id: format!("boot of {name}"),
        ..NodeSeen::default()
    };
    let source = SourceSeen {
        name: "flux-system/flux-system".to_owned(),
        url: "ssh://git@scm/site.git".to_owned(),
        branch: "main".to_owned(),
        ready: true,
        revision: "main@sha1:2".to_owned(),
        ..SourceSeen::default()
    };
    Seen {
        nodes: Ok(vec![node("titan-13"), node("titan-15")]),
        sources: Ok(vec![source]),
        flux: Ok(vec![applied("Kustomization", "root"), applied("Kustomization", "apps"), applied("HelmRelease", "media")]),
        workloads: Ok(vec![workload("Deployment"), workload("DaemonSet")]),
        troubled: Ok(Vec::new()),
        namespaces: Ok(BTreeSet::from(["vault".to_owned()])),
    }
}

fn applied(kind: &str, name: &str) -> AppliedSeen {
    let git = kind == "Kustomization";
    AppliedSeen {
        object: ObjectRef::new(kind, "flux-system", name),
        suspended: false,
        mark: None,
        ready: true,
        message: "applied".to_owned(),
        observed: true,
        applied: if git { "main@sha1:2" } else { "" }.to_owned(),
        source: if git { "flux-system/flux-system" } else { "" }.to_owned(),
        handled: true,
    }
}

fn workload(kind: &str) -> WorkloadSeen {
    WorkloadSeen { object: ObjectRef::new(kind, "apps", "web"), wanted: 2, ready: 2, updated: 2, observed: true }
}

fn expected() -> Expected {
    Expected {
        url: "ssh://git@scm/site.git".to_owned(),
        branch: "main".to_owned(),
        source: "flux-system/flux-system".to_owned(),
        namespaces: BTreeSet::from(["vault".to_owned()]),
        ..Expected::default()
    }
}

fn mark() -> Mark {
    Mark { holder: "titan-db".into(), run: "shutdown-1".into(), step: "flux.suspend".into(), reason: String::new(), expires: None }
}

/// Name of the case, what makes it look green and not be, the gate that has to see it, and a word of what it says.
type Twin = (&'static str, fn(&mut Seen), fn(&Seen) -> Judged, &'static str);

const TWINS: &[Twin] = &[
    (
        "stale Ready of an earlier boot",
        |s| node(s).boot_id = "before".into(),
        |s| judge::node(s, "titan-13", "boot of titan-13"),
        "earlier boot",
    ),
    ("Ready without a renewed Lease", |s| node(s).lease_fresh = false, |s| judge::node(s, "titan-13", "boot of titan-13"), "Lease"),
    ("not registered", |s| s.nodes.as_mut().unwrap().clear(), |s| judge::node(s, "titan-13", "boot of titan-13"), "not registered"),
    ("another URL", |s| source(s).url = "https://elsewhere".into(), |s| judge::source(s, &expected()), "is expected"),
    ("another branch", |s| source(s).branch = "wip".into(), |s| judge::source(s, &expected()), "follows wip"),
    ("no branch", |s| source(s).branch.clear(), |s| judge::source(s, &expected()), "no branch"),
    ("Ready with an empty artifact", |s| source(s).revision.clear(), |s| judge::source(s, &expected()), "no artifact"),
    ("suspended source", |s| source(s).suspended = true, |s| judge::source(s, &expected()), "suspended"),
    ("suspended but Ready Kustomization", |s| object(s).suspended = true, |s| judge::flux(s, &expected()), "by somebody else"),
    ("suspended by metis", |s| (object(s).suspended, object(s).mark) = (true, Some(mark())), |s| judge::flux(s, &expected()), "by metis"),
    ("generation not observed", |s| object(s).observed = false, |s| judge::flux(s, &expected()), "not seen it yet"),
    ("an older revision applied", |s| object(s).applied = "main@sha1:1".into(), |s| judge::flux(s, &expected()), "main@sha1:1"),
    ("nothing applied", |s| object(s).applied.clear(), |s| judge::flux(s, &expected()), "applied nothing"),
    ("Ready, and its source has no artifact", |s| source(s).revision.clear(), |s| judge::flux(s, &expected()), "no artifact"),
    ("request not handled", |s| object(s).handled = false, |s| judge::flux(s, &expected()), "asked to reconcile"),
    ("namespace gone", |s| s.namespaces.as_mut().unwrap().clear(), |s| judge::namespaces(s, &expected()), "vault is missing"),
    ("old status of a changed workload", |s| web(s).observed = false, |s| judge::workloads(s, &expected()), "not seen it yet"),
    ("pods of the old template", |s| web(s).updated = 1, |s| judge::workloads(s, &expected()), "newest template"),
    ("one pod short", |s| web(s).ready = 1, |s| judge::workloads(s, &expected()), "1 of 2"),
];

fn node(seen: &mut Seen) -> &mut NodeSeen {
    &mut seen.nodes.as_mut().unwrap()[0]
}

fn source(seen: &mut Seen) -> &mut SourceSeen {
    &mut seen.sources.as_mut().unwrap()[0]
}

fn object(seen: &mut Seen) -> &mut AppliedSeen {
    &mut seen.flux.as_mut().unwrap()[1]
}

fn web(seen: &mut Seen) -> &mut WorkloadSeen {
    &mut seen.workloads.as_mut().unwrap()[0]
}

#[test]
fn no_gate_is_green_for_its_twin() {
    for (name, spoil, judge, word) in TWINS {
        assert!(matches!(judge(&green()), Judged::Ready(_)), "{name}: without it all is well");
        let mut seen = green();
        spoil(&mut seen);
        let judged = judge(&seen);
        assert!(matches!(judged, Judged::NotReady { .. }) && judged.text().contains(word), "{name}: {judged:?}");
    }
}

#[test]
fn the_soak_sees_every_twin_too_and_pods_in_trouble() {
    assert_eq!(judge::regressions(&green(), &expected()), Ok(Vec::new()));
    for (name, spoil, ..) in TWINS.iter().filter(|(name, ..)| !["not registered", "stale Ready of an earlier boot"].contains(name)) {
        let mut seen = green();
        spoil(&mut seen);
        assert!(judge::regressions(&seen, &expected()).is_ok_and(|troubles| !troubles.is_empty()), "{name}");
    }
    let mut seen = green();
    seen.troubled = Ok(vec![TroubledPod { name: "apps/web-0".into(), why: "CrashLoopBackOff of container web".into() }]);
    assert_eq!(judge::regressions(&seen, &expected()).unwrap(), ["pod apps/web-0: CrashLoopBackOff of container web"]);
}

#[test]
fn what_cannot_be_seen_is_neither_green_nor_red() {
    let why = || "no API server answers".to_owned();
    let blind = Seen {
        nodes: Err(why()),
        sources: Err(why()),
        flux: Err(why()),
        workloads: Err(why()),
        troubled: Err(why()),
        namespaces: Err(why()),
    };
    let judged = [
        judge::node(&blind, "titan-13", "x"),
        judge::source(&blind, &expected()),
        judge::flux(&blind, &expected()),
        judge::namespaces(&blind, &expected()),
        judge::workloads(&blind, &expected()),
    ];
    assert!(judged.iter().all(|judged| matches!(judged, Judged::CannotTell(_))), "{judged:?}");
    assert!(judge::regressions(&blind, &expected()).is_err());
}

#[test]
fn what_is_nobodys_business_holds_nothing_up() {
    let mut seen = green();
    // A HelmRelease that a person suspended, and an optional Kustomization that fails.
    let flux = seen.flux.as_mut().unwrap();
    flux[2].suspended = true;
    (flux[1].ready, flux[1].message) = (false, "broken".into());
    let optional = Expected { optional: BTreeSet::from(["flux-system/apps".to_owned()]), ..expected() };
    assert!(matches!(judge::flux(&seen, &optional), Judged::Ready(_)));
    assert!(matches!(judge::flux(&seen, &expected()), Judged::NotReady { done: 1, .. }));
    // A DaemonSet has no pod on a node that is left out.
    let mut seen = green();
    seen.workloads.as_mut().unwrap()[1].ready = 1;
    let left_out = Expected { ignored: BTreeSet::from(["titan-15".to_owned()]), ..expected() };
    assert!(matches!(judge::workloads(&seen, &left_out), Judged::Ready(_)));
    assert!(matches!(judge::workloads(&seen, &expected()), Judged::NotReady { .. }));
}

#[test]
fn progress_is_counted() {
    let at = |ready: usize| {
        let mut seen = green();
        seen.flux.as_mut().unwrap().iter_mut().skip(ready).for_each(|object| object.ready = false);
        match judge::flux(&seen, &expected()) {
            Judged::NotReady { done, .. } => done,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((at(0), at(1), at(2)), (0, 1, 2));
    let many: BTreeMap<usize, u64> = (0..3).map(|ready| (ready, at(ready))).collect();
    assert!(many.values().is_sorted());
}
