//! Plans of a small site in tables; laws of any plan in `laws`.

mod joined;
mod laws;
mod played;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::cluster::port::{AttachedVolume, FluxObject, NodeFacts};
use crate::cluster::{ShutdownMode, ShutdownSettings};
use crate::runbook::{PlannedStep, Replay};
use crate::site::{Cause, DomainName, NodeName, ObjectRef, Returns, SecretRef, StepId};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(in crate::cluster) fn settings(datastore: Datastore) -> Settings {
    Settings {
        kubeconfig: Some(SecretRef::File(PathBuf::from("/etc/metis/kubeconfig"))),
        endpoints: Vec::new(),
        ca_file: None,
        call_timeout: secs(5),
        datastore,
        cordon_lease: secs(3600),
        startup: crate::cluster::StartupSettings::default(),
        shutdown: ShutdownSettings {
            mode: ShutdownMode::ClusterOnly,
            drain_timeout: secs(180),
            emergency_drain_timeout: secs(45),
            detach_timeout: secs(60),
            snapshot_timeout: secs(60),
            stop_timeout: secs(60),
            poweroff_timeout: secs(30),
            halt_time: secs(25),
            unreachable_timeout: secs(10),
            secondaries_timeout: secs(20),
            protect: Vec::new(),
            storage_plane: Vec::new(),
            hosts_at_once: 8,
            require_ups_battery: false,
        },
    }
}

fn etcd() -> Settings {
    settings(Datastore::EmbeddedEtcd { keep: 5 })
}

pub(in crate::cluster) fn host(name: &str, k3s: Option<K3sRole>, domain: &str) -> Host {
    Host {
        name: name.into(),
        node_name: name.to_owned(),
        access: Access::Ssh,
        address: format!("{name}.lan"),
        port: 2277,
        user: "atlas".into(),
        key: None,
        host_keys: Vec::new(),
        sudo: true,
        returns: Returns::AcCycle,
        mac: None,
        wake: None,
        k3s,
        this_host: false,
        domains: BTreeSet::from([domain.into()]),
    }
}

/// titan-db, which runs this metisd, three servers and two workers on pyrphoros; tethys, a worker, on statera.
fn site() -> Topology {
    let this = Host { access: Access::Local, this_host: true, ..host("titan-db", None, "pyrphoros") };
    let server = |name| host(name, Some(K3sRole::Server), "pyrphoros");
    let agent = |name| host(name, Some(K3sRole::Agent), "pyrphoros");
    let hosts = [
        this,
        server("titan-0a"),
        server("titan-0b"),
        server("titan-0c"),
        agent("titan-13"),
        agent("titan-15"),
        host("titan-24", Some(K3sRole::Agent), "statera"),
    ];
    let domain = |name: &str, ups: &str| (DomainName::from(name), BTreeSet::from([ups.into()]));
    Topology {
        hosts: hosts.into_iter().map(|host| (host.name.clone(), host)).collect(),
        domains: [domain("pyrphoros", "pyrphoros@localhost"), domain("statera", "statera@titan-24")].into(),
        local_upses: BTreeSet::from(["pyrphoros@localhost".into()]),
        storage: BTreeSet::new(),
    }
}

fn facts() -> Facts {
    let nodes = site().hosts.values().filter(|host| host.k3s.is_some()).map(|host| node(&host.node_name, true)).collect();
    Facts { nodes, ..Facts::default() }
}

fn node(name: &str, ready: bool) -> NodeFacts {
    NodeFacts { name: name.to_owned(), ready, ..NodeFacts::default() }
}

fn order(mode: ShutdownMode) -> ShutdownOrder {
    ShutdownOrder {
        mode,
        reason: "drill".into(),
        cause: Cause::Person,
        domains: None,
        skip_drain: false,
        skip_etcd_snapshot: false,
        drain_timeout: None,
        emergency_drain_timeout: None,
        cut_outlets: false,
        remaining: None,
    }
}

/// As a UPS causes it.
fn outage(mode: ShutdownMode, domain: &str) -> ShutdownOrder {
    let domains = BTreeSet::from([DomainName::from(domain)]);
    ShutdownOrder { cause: Cause::Ups { domains: domains.clone() }, domains: Some(domains), ..order(mode) }
}

fn planned(settings: &Settings, topology: &Topology, facts: &Facts, order: &ShutdownOrder) -> Runbook<Step> {
    plan(settings, topology, facts, &Learned::default(), order)
}

/// Phases as `name: ids`.
fn shape(phases: &[Phase<Step>]) -> Vec<String> {
    let ids = |phase: &Phase<Step>| phase.steps.iter().map(|step| step.id.to_string()).collect::<Vec<_>>().join(" ");
    phases.iter().map(|phase| format!("{}: {}", phase.name, ids(phase))).collect()
}

fn step<'a>(book: &'a Runbook<Step>, id: &str) -> &'a PlannedStep<Step> {
    book.step(&StepId::new(id)).unwrap_or_else(|| panic!("no step {id}: {:?}", shape(&book.phases)))
}

#[test]
fn the_whole_site_in_its_order() {
    let book = planned(&etcd(), &site(), &facts(), &order(ShutdownMode::ClusterOnly));
    let prelude = [
        "look: cluster.collect",
        "suspend Flux: flux.suspend",
        "save the datastore: etcd.snapshot",
        "drain: drain.titan-13 drain.titan-15 drain.titan-24",
        "wait for volumes: volumes.detached",
        "stop agents: stop.titan-13 stop.titan-15 stop.titan-24",
        "stop servers: stop.titan-0a stop.titan-0b stop.titan-0c",
    ];
    let leftovers = "end what k3s left: leftovers.titan-13 leftovers.titan-15 leftovers.titan-24 leftovers.titan-0a leftovers.titan-0b leftovers.titan-0c";
    let mut expected: Vec<_> = prelude.to_vec();
    expected.push(leftovers);
    assert_eq!(shape(&book.phases), expected);
    let unwound = [
        "start agents: start.titan-13 start.titan-15 start.titan-24",
        "uncordon: uncordon.titan-13 uncordon.titan-15 uncordon.titan-24",
        "resume Flux: flux.resume",
    ];
    assert_eq!(shape(&book.unwind), unwound);
    assert_eq!(book.title, "stop the cluster");

    let mut emergency = ShutdownOrder { cause: Cause::PowerFailedAgain, cut_outlets: true, ..order(ShutdownMode::HostPoweroff) };
    let book = planned(&etcd(), &site(), &facts(), &emergency);
    expected.insert(7, "tell other machines: fsd.pyrphoros@localhost");
    expected.extend([
        "power off: poweroff.titan-0a poweroff.titan-0b poweroff.titan-0c poweroff.titan-13 poweroff.titan-15 poweroff.titan-24",
        "wait for other machines: secondaries.pyrphoros@localhost",
        "power off this host: outlets.cut poweroff.titan-db",
    ]);
    assert_eq!(shape(&book.phases), expected);
    assert_eq!(book.title, "stop the cluster and power off 7 hosts");
    let committing = book.steps().filter(|step| step.commits).map(|step| step.id.as_str()).next();
    assert_eq!(committing, Some("stop.titan-0a"), "the point of no return is the first server");

    emergency.cause = Cause::Person;
    emergency.cut_outlets = false;
    let book = planned(&etcd(), &site(), &facts(), &emergency);
    assert!(!shape(&book.phases).iter().any(|phase| phase.contains("fsd")), "a person's drill does not take down machines of others");
}

#[test]
fn an_external_datastore_goes_after_the_servers_and_is_dumped() {
    let datastore = Datastore::External { host: "titan-db2".into(), dump: Some("pg_dump k3s > '/srv/k3s dump'".into()) };
    let mut topology = site();
    topology.hosts.insert("titan-db2".into(), host("titan-db2", None, "pyrphoros"));
    let book = planned(&settings(datastore), &topology, &facts(), &order(ShutdownMode::HostPoweroff));
    let shape = shape(&book.phases);
    assert_eq!(shape[2], "save the datastore: datastore.dump");
    let last: Vec<_> = shape.iter().rev().take(2).rev().map(String::as_str).collect();
    assert_eq!(last, ["power off the datastore: poweroff.titan-db2", "power off this host: poweroff.titan-db"]);
    let dump = step(&book, "datastore.dump");
    assert_eq!(dump.replay, Replay::NeverRepeat);
    assert_eq!(dump.by_hand, r"ssh -p 2277 atlas@titan-db2.lan 'sudo sh -c '\''pg_dump k3s > '\''\'\'''\''/srv/k3s dump'\''\'\'''\'''\'''");
}

#[test]
fn a_partial_outage_concerns_its_own_hosts_only() {
    let book = planned(&etcd(), &site(), &facts(), &outage(ShutdownMode::HostPoweroff, "statera"));
    let expected = [
        "look: cluster.collect",
        "drain: drain.titan-24",
        "wait for volumes: volumes.detached",
        "stop agents: stop.titan-24",
        "end what k3s left: leftovers.titan-24",
        "power off: poweroff.titan-24",
    ];
    assert_eq!(shape(&book.phases), expected, "neither Flux nor other nodes, and no FSD: its upsd is elsewhere");
    assert_eq!(shape(&book.unwind), ["start agents: start.titan-24", "uncordon: uncordon.titan-24"]);
    assert_eq!(book.title, "shed what statera feeds and power off 1 host");
    let first = book.steps().find(|step| step.commits).map(|step| step.id.as_str());
    assert_eq!(first, Some("poweroff.titan-24"));
}

#[test]
fn what_the_cluster_cannot_do_without_stops_all_of_it() {
    let server_on_statera = |count: usize| {
        let mut topology = site();
        for host in topology.hosts.values_mut().filter(|host| host.k3s == Some(K3sRole::Server)).take(count) {
            host.domains = BTreeSet::from(["statera".into()]);
        }
        topology
    };
    let replicas = |nodes: &[&str]| {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        Facts { replica_nodes: vec![("pvc-1".into(), nodes)], ..facts() }
    };
    let mut one_down = facts();
    one_down.nodes.iter_mut().find(|node| node.name == "titan-0c").unwrap().ready = false;
    let external = |host: &str| settings(Datastore::External { host: host.into(), dump: None });
    let table = [
        ("one server of three", etcd(), server_on_statera(1), facts(), None),
        ("two servers of three", etcd(), server_on_statera(2), facts(), Some("1 of 3 servers would stay, 2 are needed")),
        ("one server, another is down", etcd(), server_on_statera(1), one_down, Some("1 of 3 servers would stay, 2 are needed")),
        ("two servers, but the state is elsewhere", external("titan-db"), server_on_statera(2), facts(), None),
        ("all servers", external("titan-db"), server_on_statera(3), facts(), Some("0 of 3 servers would stay, 1 are needed")),
        ("the datastore", external("titan-24"), site(), facts(), Some("titan-24 holds the datastore")),
        ("last replicas", etcd(), site(), replicas(&["titan-24"]), Some("the last replicas of pvc-1 are there")),
        ("a replica elsewhere", etcd(), site(), replicas(&["titan-24", "titan-13"]), None),
        ("no replica anywhere", etcd(), site(), replicas(&[]), None),
    ];
    for (name, settings, topology, facts, because) in table {
        let book = planned(&settings, &topology, &facts, &outage(ShutdownMode::HostPoweroff, "statera"));
        let ids: BTreeSet<_> = book.steps().map(|step| step.id.as_str()).collect();
        let warned = book.warnings.iter().find(|line| line.starts_with("all k3s services stop"));
        assert_eq!(ids.contains("stop.titan-13"), because.is_some(), "{name}: {ids:?}");
        assert_eq!(ids.contains("flux.suspend"), because.is_some(), "{name}");
        assert!(ids.contains("poweroff.titan-24") && !ids.contains("poweroff.titan-13"), "{name}: only its own hosts' power: {ids:?}");
        match (because, warned) {
            (None, None) => {}
            (Some(because), Some(line)) => assert!(line.ends_with(because), "{name}: {line}"),
            _ => panic!("{name}: {warned:?}"),
        }
    }
}

#[test]
fn where_every_domain_fails_all_of_the_cluster_stops_and_only_what_they_feed_powers_off() {
    let all = BTreeSet::from(["statera".into(), "pyrphoros".into()]);
    let order = ShutdownOrder { cause: Cause::Ups { domains: all.clone() }, domains: Some(all), ..order(ShutdownMode::HostPoweroff) };
    let book = planned(&etcd(), &site(), &facts(), &order);
    assert_eq!(book.title, "stop the cluster and power off 7 hosts");
    assert!(!book.warnings.iter().any(|line| line.contains("only a part") || line.contains("not powered off")), "{:?}", book.warnings);

    let mut topology = site();
    for name in ["titan-13", "titan-db"] {
        topology.hosts.get_mut(&NodeName::new(name)).unwrap().domains.clear();
    }
    let book = planned(&etcd(), &topology, &facts(), &order);
    let ids: BTreeSet<_> = book.steps().map(|step| step.id.as_str()).collect();
    assert!(ids.contains("stop.titan-13") && ids.contains("leftovers.titan-13"), "{ids:?}");
    assert!(!ids.contains("poweroff.titan-13") && !ids.contains("poweroff.titan-db") && ids.contains("poweroff.titan-15"), "{ids:?}");
    assert_eq!(book.title, "stop the cluster and power off 5 hosts");
    assert!(ids.contains("flux.suspend") && ids.contains("etcd.snapshot"), "{ids:?}");
    let says = |start: &str, end: &str| book.warnings.iter().any(|line| line.starts_with(start) && line.ends_with(end));
    assert!(says("not powered off, no UPS is known to feed them", ": titan-13, titan-db"), "{:?}", book.warnings);
    assert!(says("all k3s services stop, though only a part", "every power domain of the site fails"), "{:?}", book.warnings);
    assert_eq!(book.tail, secs(25), "this host stays on");

    let unnamed = ShutdownOrder { domains: None, ..order.clone() };
    assert!(planned(&etcd(), &topology, &facts(), &unnamed).step(&"poweroff.titan-13".into()).is_none());
    let person = ShutdownOrder { domains: None, cause: Cause::Person, ..order };
    assert!(planned(&etcd(), &topology, &facts(), &person).step(&"poweroff.titan-13".into()).is_some(), "a person means all of it");
}

#[test]
fn time_is_left_for_hosts_to_halt() {
    for (mode, domain, tail) in [
        (ShutdownMode::ClusterOnly, "pyrphoros", 0),
        (ShutdownMode::HostPoweroff, "statera", 25),
        (ShutdownMode::HostPoweroff, "pyrphoros", 25 + 5),
    ] {
        let book = planned(&etcd(), &site(), &facts(), &outage(mode, domain));
        assert_eq!((book.tail, book.needed()), (secs(tail), book.predicted() + secs(tail)), "{mode:?} {domain}");
    }
    let left = planned(&etcd(), &site(), &facts(), &outage(ShutdownMode::HostPoweroff, "pyrphoros")).predicted();
    let order = ShutdownOrder { remaining: Some(left + secs(29)), ..outage(ShutdownMode::HostPoweroff, "pyrphoros") };
    let book = planned(&etcd(), &site(), &facts(), &order);
    let expected =
        format!("expected to take {} s and 30 s until the hosts are off, and {} s are left", left.as_secs(), left.as_secs() + 29);
    assert!(book.warnings.contains(&expected), "{:?}", book.warnings);
}

#[test]
fn a_host_that_is_gone_does_not_hold_up_the_others() {
    let mut seen = facts();
    seen.nodes.iter_mut().find(|node| node.name == "titan-13").unwrap().ready = false;
    let book = planned(&etcd(), &site(), &seen, &order(ShutdownMode::HostPoweroff));
    for (id, ceiling, unreached) in
        [("stop.titan-13", 20, 0), ("leftovers.titan-13", 20, 0), ("poweroff.titan-13", 20, 0), ("stop.titan-15", 60, 10)]
    {
        let step = step(&book, id);
        assert_eq!((step.limit.ceiling, step.unreached), (secs(ceiling), Some(secs(unreached))), "{id}");
    }
    let Step::AwaitDetach { nodes } = &step(&book, "volumes.detached").action else { panic!() };
    assert!(!nodes.contains(&NodeName::new("titan-13")) && nodes.contains(&NodeName::new("titan-15")), "its volumes stay: {nodes:?}");
}

#[test]
fn a_host_without_a_mac_address_does_not_wake_by_itself() {
    let mut topology = site();
    for (name, mac) in [("titan-13", None), ("titan-15", Some("00:1b:21:3a:4f:5e".to_owned()))] {
        let host = topology.hosts.get_mut(&NodeName::new(name)).unwrap();
        (host.returns, host.mac) = (Returns::WakeOnLan, mac);
    }
    let book = planned(&etcd(), &topology, &facts(), &order(ShutdownMode::HostPoweroff));
    let lines: Vec<_> = book.warnings.iter().filter(|line| line.contains("titan-13") || line.contains("magic packet")).collect();
    let expected = [
        "will not wake by themselves, their MAC address is not known (inventory: `host.mac`): titan-13",
        "come back by a magic packet (wake-on-lan): titan-15",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_host_with_another_feed_stays() {
    let mut topology = site();
    topology.hosts.get_mut(&NodeName::new("titan-13")).unwrap().domains.insert("statera".into());
    let book = planned(&etcd(), &topology, &facts(), &outage(ShutdownMode::HostPoweroff, "statera"));
    assert!(book.step(&"drain.titan-13".into()).is_none());
    assert!(book.warnings.contains(&"titan-13 stays, it is fed by pyrphoros as well".to_owned()), "{:?}", book.warnings);
    let both = BTreeSet::from(["statera".into(), "pyrphoros".into()]);
    let order = ShutdownOrder { domains: Some(both), ..outage(ShutdownMode::HostPoweroff, "statera") };
    let book = planned(&etcd(), &topology, &facts(), &order);
    assert!(book.step(&"poweroff.titan-13".into()).is_some(), "both its feeds fail");
}

#[test]
fn what_is_not_to_be_touched_is_named() {
    let mut topology = site();
    topology.hosts.get_mut(&NodeName::new("titan-15")).unwrap().access = Access::None;
    let book = planned(&etcd(), &topology, &facts(), &order(ShutdownMode::HostPoweroff));
    assert!(!book.steps().any(|step| step.id.as_str().ends_with("titan-15")));
    let warned = book.warnings.iter().any(|line| line.starts_with("left alone") && line.ends_with(": titan-15"));
    assert!(warned, "{:?}", book.warnings);

    let nothing = planned(&etcd(), &Topology::default(), &Facts::default(), &order(ShutdownMode::HostPoweroff));
    assert_eq!(nothing.refusals.iter().map(|guard| guard.name.as_str()).collect::<Vec<_>>(), ["shutdown.empty"]);
}

#[test]
fn helper_pods_die_with_the_kubelet() {
    let mut topology = site();
    topology.hosts.get_mut(&NodeName::new("titan-13")).unwrap().access = Access::HelperPod;
    let book = planned(&etcd(), &topology, &facts(), &order(ShutdownMode::HostPoweroff));
    assert_eq!(shape(&book.phases)[5], "stop agents: poweroff.titan-13 stop.titan-15 stop.titan-24");
    assert!(book.step(&"leftovers.titan-13".into()).is_none() && book.step(&"start.titan-13".into()).is_none());
    assert!(step(&book, "poweroff.titan-13").commits);
    let book = planned(&etcd(), &topology, &facts(), &order(ShutdownMode::ClusterOnly));
    assert!(book.warnings.iter().any(|line| line.contains("helper pod") && line.ends_with("titan-13")), "{:?}", book.warnings);
    assert_eq!(
        step(&book, "stop.titan-13").by_hand,
        "kubectl debug node/titan-13 -it --profile=sysadmin --image=busybox -- chroot /host systemctl stop k3s-agent"
    );
}

#[test]
fn ceilings_and_flags() {
    let drain = |order: &ShutdownOrder| {
        let book = planned(&etcd(), &site(), &facts(), order);
        let step = step(&book, "drain.titan-13").clone();
        (step.limit.ceiling.as_secs(), step.by_hand)
    };
    let person = order(ShutdownMode::ClusterOnly);
    let flags = "--ignore-daemonsets --delete-emptydir-data --force";
    let table = [
        (person.clone(), 180, format!("kubectl drain titan-13 {flags} --timeout=180s")),
        (ShutdownOrder { drain_timeout: Some(secs(9)), ..person.clone() }, 9, format!("kubectl drain titan-13 {flags} --timeout=9s")),
        (ShutdownOrder { cause: Cause::PowerFailedAgain, ..person.clone() }, 45, format!("kubectl drain titan-13 {flags} --timeout=45s")),
        (
            ShutdownOrder {
                cause: Cause::PowerFailedAgain,
                drain_timeout: Some(secs(9)),
                emergency_drain_timeout: Some(secs(7)),
                ..person.clone()
            },
            7,
            format!("kubectl drain titan-13 {flags} --timeout=7s"),
        ),
        (ShutdownOrder { skip_drain: true, ..person.clone() }, 20, "kubectl cordon titan-13".to_owned()),
    ];
    for (order, ceiling, by_hand) in table {
        assert_eq!(drain(&order), (ceiling, by_hand));
    }
    let skipping = ShutdownOrder { skip_drain: true, skip_etcd_snapshot: true, ..person };
    let book = planned(&etcd(), &site(), &facts(), &skipping);
    assert!(book.step(&"volumes.detached".into()).is_none(), "pods stay, so volumes do");
    assert!(book.step(&"etcd.snapshot".into()).is_none());
    assert!(book.warnings.contains(&"the datastore is not saved: as asked for".to_owned()), "{:?}", book.warnings);
}

#[test]
fn this_host_as_a_worker_is_stopped_through_its_own_systemd() {
    let mut topology = site();
    topology.hosts.get_mut(&NodeName::new("titan-db")).unwrap().this_host = false;
    let tethys = topology.hosts.get_mut(&NodeName::new("titan-24")).unwrap();
    (tethys.this_host, tethys.access) = (true, Access::Local);
    let book = planned(&etcd(), &topology, &facts(), &order(ShutdownMode::HostPoweroff));
    assert_eq!(step(&book, "stop.titan-24").by_hand, "sudo systemctl stop k3s-agent");
    assert_eq!(step(&book, "leftovers.titan-24").by_hand, "sudo sh -c '/usr/local/bin/k3s-killall.sh; sync'");
    assert_eq!(shape(&book.phases).last().unwrap(), "power off this host: poweroff.titan-24");
    assert!(matches!(step(&book, "poweroff.titan-24").action, Step::PowerOffThisHost { .. }));
}

#[test]
fn what_is_seen_of_the_cluster_counts() {
    let mut facts = facts();
    facts.nodes.iter_mut().find(|node| node.name == "titan-13").unwrap().ready = false;
    facts.nodes.iter_mut().find(|node| node.name == "titan-0a").unwrap().evictable = 3;
    facts.nodes.push(node("stranger", true));
    let object =
        |kind: &str, name: &str, suspended| FluxObject { object: ObjectRef::new(kind, "flux-system", name), suspended, mark: None };
    facts.flux = vec![object("Kustomization", "root", false), object("Kustomization", "apps", true), object("HelmRelease", "gitea", false)];
    let volume = |name: &str, node: &str, by: &str| AttachedVolume { name: name.into(), node: node.into(), held_by: by.into() };
    facts.volumes = vec![
        volume("pvc-1", "titan-13", "csi-attacher"),
        volume("pvc-2", "titan-15", "csi-attacher"),
        volume("pvc-3", "titan-15", "longhorn-api"),
    ];
    facts.unseen = vec!["helmreleases: 403".into()];
    let book = planned(&etcd(), &site(), &facts, &order(ShutdownMode::HostPoweroff));
    assert!(matches!(step(&book, "drain.titan-13").action, Step::Drain { cordon_only: true, .. }), "nobody ends its pods");
    assert!(matches!(step(&book, "drain.titan-0a").action, Step::Drain { cordon_only: false, .. }), "a server with pods");
    let suspend = "flux suspend kustomization root -n flux-system; flux suspend helmrelease gitea -n flux-system";
    assert_eq!(step(&book, "flux.suspend").by_hand, suspend);
    let resume = "flux resume helmrelease gitea -n flux-system; flux resume kustomization root -n flux-system";
    assert_eq!(step(&book, "flux.resume").by_hand, resume);
    insta::assert_yaml_snapshot!(book.warnings);
}

#[test]
fn what_the_time_does_not_allow_is_said() {
    let table: [(u64, &[&str]); 3] = [
        (1000, &[]),
        (120, &["expected to take", "cut short: titan-13: cordon and drain"]),
        (55, &["no time for: record what is about to change", "no time for: titan-13: cordon and drain"]),
    ];
    for (remaining, expected) in table {
        let order = ShutdownOrder { remaining: Some(secs(remaining)), ..outage(ShutdownMode::HostPoweroff, "pyrphoros") };
        let book = planned(&etcd(), &site(), &facts(), &order);
        let time = |line: &&String| ["expected", "cut short", "no time"].iter().any(|start| line.starts_with(start));
        let lines: Vec<_> = book.warnings.iter().filter(time).collect();
        assert_eq!(lines.is_empty(), expected.is_empty(), "{remaining}: {lines:?}");
        for start in expected {
            assert!(lines.iter().any(|line| line.starts_with(start)), "{remaining}: {start}: {lines:?}");
        }
    }
}

#[test]
fn commands_are_what_a_person_would_type() {
    let book = planned(&etcd(), &site(), &facts(), &ShutdownOrder { cut_outlets: true, ..order(ShutdownMode::HostPoweroff) });
    let commands: BTreeMap<_, _> = book.steps().map(|step| (step.id.to_string(), step.by_hand.clone())).collect();
    insta::assert_yaml_snapshot!(commands);
}

#[test]
fn a_plan_makes_a_budget_once_all_of_it_was_measured() {
    let book = planned(&etcd(), &site(), &facts(), &order(ShutdownMode::HostPoweroff));
    let kinds: BTreeSet<_> = book.steps().map(|step| step.action.kind()).collect();
    let mut learned = Learned { steps: kinds.iter().map(|kind| ((*kind).to_owned(), secs(7))).collect() };
    assert!(measured(&book, &learned));
    learned.steps.remove("host.poweroff-self");
    assert!(measured(&book, &learned), "nobody is left to measure that");
    assert_eq!(plan(&etcd(), &site(), &facts(), &learned, &order(ShutdownMode::HostPoweroff)).predicted(), secs(7 * 9 + 3));
    learned.steps.remove("k3s.stop");
    assert!(!measured(&book, &learned));
}
