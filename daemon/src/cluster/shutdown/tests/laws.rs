//! Whatever inventory, topology, facts and remaining runtime: what holds of every plan.

use proptest::prelude::*;

use super::*;
use crate::runbook::{Run, cut, least};
use crate::site::{K3sRole, UpsName};

const DOMAINS: [&str; 3] = ["a", "b", "c"];

fn any_host(index: usize) -> impl Strategy<Value = Host> {
    let access = prop_oneof![6 => Just(Access::Ssh), 1 => Just(Access::HelperPod), 1 => Just(Access::None)];
    let role = prop_oneof![2 => Just(None), 2 => Just(Some(K3sRole::Server)), 4 => Just(Some(K3sRole::Agent))];
    let domains = prop::collection::btree_set(prop::sample::select(DOMAINS.to_vec()), 0..3);
    (access, role, domains).prop_map(move |(access, k3s, domains)| {
        let domains = domains.into_iter().map(DomainName::from).collect();
        Host { access, domains, ..host(&format!("h{index}"), k3s, "a") }
    })
}

pub(super) fn any_topology() -> impl Strategy<Value = Topology> {
    let hosts = (0..12_usize).prop_flat_map(|count| (0..count).map(any_host).collect::<Vec<_>>());
    let local = prop::collection::btree_set(prop::sample::select(DOMAINS.to_vec()), 0..3);
    (hosts, any::<prop::sample::Index>(), any::<bool>(), local).prop_map(|(mut hosts, this, has_this, local)| {
        if has_this && !hosts.is_empty() {
            let this = this.index(hosts.len());
            (hosts[this].this_host, hosts[this].access) = (true, Access::Local);
        }
        let ups = |name: &str| UpsName::new(format!("{name}@localhost"));
        Topology {
            hosts: hosts.into_iter().map(|host| (host.name.clone(), host)).collect(),
            domains: DOMAINS.iter().map(|name| (DomainName::from(*name), BTreeSet::from([ups(name)]))).collect(),
            local_upses: local.into_iter().map(ups).collect(),
            storage: BTreeSet::new(),
        }
    })
}

pub(super) fn any_facts() -> impl Strategy<Value = Facts> {
    let node =
        (0..14_usize, any::<bool>(), 0..3_u32).prop_map(|(i, ready, evictable)| NodeFacts { evictable, ..node(&format!("h{i}"), ready) });
    let volume = (0..14_usize, any::<bool>()).prop_map(|(i, ui)| AttachedVolume {
        name: format!("pvc-{i}"),
        node: format!("h{i}"),
        held_by: if ui { "longhorn-api".into() } else { "csi-attacher".into() },
    });
    let replicas =
        prop::collection::btree_set((0..14_usize).prop_map(|i| format!("h{i}")), 0..3).prop_map(|nodes| ("pvc".to_owned(), nodes));
    (prop::collection::vec(node, 0..14), prop::collection::vec(volume, 0..4), prop::collection::vec(replicas, 0..3))
        .prop_map(|(nodes, volumes, replica_nodes)| Facts { nodes, volumes, replica_nodes, ..Facts::default() })
}

pub(super) fn any_order() -> impl Strategy<Value = ShutdownOrder> {
    let domains = prop::option::of(prop::collection::btree_set(prop::sample::select(DOMAINS.to_vec()).prop_map(DomainName::from), 1..3));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (flags, domains, prop::option::of(0..900_u64)).prop_map(|((off, emergency, skip_drain, skip_snapshot, cut), domains, remaining)| {
        ShutdownOrder {
            cause: if emergency { Cause::Ups { domains: domains.clone().unwrap_or_default() } } else { Cause::Person },
            domains,
            skip_drain,
            skip_etcd_snapshot: skip_snapshot,
            cut_outlets: cut,
            remaining: remaining.map(secs),
            ..order(if off { ShutdownMode::HostPoweroff } else { ShutdownMode::ClusterOnly })
        }
    })
}

pub(super) fn any_settings() -> impl Strategy<Value = Settings> {
    let datastore = prop_oneof![
        Just(Datastore::EmbeddedEtcd { keep: 5 }),
        (0..14_usize, any::<bool>())
            .prop_map(|(i, dump)| Datastore::External { host: format!("h{i}").into(), dump: dump.then(|| "dump".into()) }),
        Just(Datastore::Sqlite),
    ];
    (datastore, any::<bool>(), 0..9_u32).prop_map(|(datastore, api, at_once)| {
        let mut settings = settings(datastore);
        settings.shutdown.hosts_at_once = at_once;
        if !api {
            settings.kubeconfig = None;
        }
        settings
    })
}

/// Index of the phase that holds a step.
fn place(book: &Runbook<Step>, id: &str) -> Option<usize> {
    book.phases.iter().position(|phase| phase.steps.iter().any(|step| step.id.as_str() == id))
}

/// Its node is known not to be ready.
fn gone(facts: &Facts, host: &Host) -> bool {
    facts.nodes.iter().rfind(|node| node.name == host.node_name).is_some_and(|node| !node.ready)
}

fn takes_power(step: &Step) -> bool {
    matches!(step, Step::PowerOff { .. } | Step::PowerOffThisHost { .. })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_plan(settings in any_settings(), topology in any_topology(), facts in any_facts(), order in any_order()) {
        let book = planned(&settings, &topology, &facts, &order);
        let ids: Vec<_> = book.steps().map(|step| step.id.as_str()).collect();
        prop_assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "ids stand twice: {:?}", ids);
        prop_assert!(book.phases.iter().chain(&book.unwind).all(|phase| !phase.steps.is_empty()));
        prop_assert_eq!(book.phases.is_empty(), !book.refusals.is_empty());

        for step in book.steps() {
            prop_assert!(step.predicted <= step.limit.ceiling, "{}", step.id);
            prop_assert!(!step.by_hand.is_empty(), "{}", step.id);
            let Some(host) = step.action.host().and_then(|node| topology.hosts.get(node)) else { continue };
            prop_assert!(host.access != Access::None, "{} is left alone", host.name);
        }

        // No node is stopped before what it hosts is off it.
        for step in book.phases.iter().flat_map(|phase| &phase.steps) {
            let stops = matches!(step.action, Step::StopK3s { .. } | Step::EndLeftovers { .. }) || takes_power(&step.action);
            let Some(name) = step.action.host().filter(|_| stops) else { continue };
            let at = place(&book, step.id.as_str());
            let host = &topology.hosts[name];
            if settings.kubeconfig.is_some() && host.k3s == Some(K3sRole::Agent) {
                let drain = place(&book, &format!("drain.{name}"));
                prop_assert!(drain.is_some() && drain < at, "{} before it is drained", step.id);
                let gate = place(&book, "volumes.detached");
                prop_assert!(order.skip_drain || gone(&facts, host) || (gate > drain && gate < at), "{} before its volumes are off it", step.id);
            }
            // Its k3s is stopped before its power goes.
            if takes_power(&step.action) && host.k3s.is_some() && host.access != Access::HelperPod {
                let stop = place(&book, &format!("stop.{name}"));
                prop_assert!(stop.is_some() && stop < at, "{} before its k3s is stopped", step.id);
            }
        }

        // Agents before servers, servers before the datastore, the control host last of all.
        let last_of = |wanted: &dyn Fn(&Step) -> bool| book.phases.iter().rposition(|phase| phase.steps.iter().any(|step| wanted(&step.action)));
        let agents = last_of(&|step| matches!(step, Step::StopK3s { role: K3sRole::Agent, .. }));
        let servers = last_of(&|step| matches!(step, Step::StopK3s { role: K3sRole::Server, .. }));
        prop_assert!(servers.is_none() || agents.is_none() || agents < servers);
        if let Datastore::External { host, .. } = &settings.datastore {
            let off = place(&book, &format!("poweroff.{host}"));
            prop_assert!(off.is_none() || servers < off, "the datastore before a server");
        }
        for host in topology.hosts.values().filter(|host| host.this_host) {
            let off = place(&book, &format!("poweroff.{}", host.name));
            let last = book.phases.last().and_then(|phase| phase.steps.last());
            let is_last = last.is_some_and(|step| step.id.as_str() == format!("poweroff.{}", host.name));
            prop_assert!(off.is_none() || is_last);
            prop_assert!(off.is_none() || off > agents.max(servers));
        }
        let goes = book.steps().any(|step| matches!(step.action, Step::PowerOffThisHost { .. }));
        prop_assert!(!goes || topology.hosts.values().any(|host| host.this_host));

        // What no failing UPS feeds keeps its power, unless a person says otherwise.
        for host in topology.hosts.values().filter(|host| order.cause.emergency() && host.domains.is_empty()) {
            prop_assert!(place(&book, &format!("poweroff.{}", host.name)).is_none(), "{} is fed by no UPS", host.name);
        }
        let names: Vec<_> = book.phases.iter().map(|phase| phase.name.as_str()).collect();
        prop_assert!(phase_name::FORTH.iter().filter(|name| names.contains(name)).eq(names.iter()), "{:?}", names);
        prop_assert_eq!(book.tail.is_zero(), !book.steps().any(|step| takes_power(&step.action)));

        // FSD latches: never before the point of no return.
        let fsd = book.phases.iter().position(|phase| phase.steps.iter().any(|step| matches!(step.action, Step::SetFsd { .. })));
        prop_assert!(servers.is_none() || fsd.is_none() || servers < fsd);
        prop_assert!(order.mode == ShutdownMode::HostPoweroff || (fsd.is_none() && !book.steps().any(|step| takes_power(&step.action))));

        // Whatever cannot be undone commits, whatever is undone does not, and has its counterpart.
        for step in book.phases.iter().flat_map(|phase| &phase.steps) {
            let final_step = takes_power(&step.action)
                || matches!(step.action, Step::StopK3s { role: K3sRole::Server, .. } | Step::SetFsd { .. } | Step::CutOutlets { .. });
            prop_assert_eq!(step.commits, final_step, "{}", step.id);
        }
        for step in book.unwind.iter().flat_map(|phase| &phase.steps) {
            let id = step.id.as_str();
            let counterpart = match id.split_once('.') {
                Some(("start", node)) => format!("stop.{node}"),
                Some(("uncordon", node)) => format!("drain.{node}"),
                _ => "flux.suspend".to_owned(),
            };
            prop_assert!(place(&book, &counterpart).is_some(), "{id} undoes nothing");
        }
        for step in book.phases.iter().flat_map(|phase| &phase.steps) {
            let undo = match &step.action {
                Step::StopK3s { role: K3sRole::Agent, node } => format!("start.{node}"),
                Step::Drain { node, .. } => format!("uncordon.{node}"),
                Step::SuspendFlux => "flux.resume".to_owned(),
                _ => continue,
            };
            prop_assert!(book.unwind.iter().flat_map(|phase| &phase.steps).any(|step| step.id.as_str() == undo), "{undo} is missing");
        }
    }

    /// No host whose power stays is powered off, and unless the cluster cannot do without what goes, none of them is touched.
    #[test]
    fn a_partial_outage_leaves_others_alone(settings in any_settings(), topology in any_topology(), facts in any_facts(), order in any_order()) {
        let Some(failing) = &order.domains else { return Ok(()) };
        let book = planned(&settings, &topology, &facts, &order);
        let fed_only_by_it = |host: &Host| !host.domains.is_empty() && host.domains.is_subset(failing);
        let all_stop = book.warnings.iter().any(|line| line.starts_with("all k3s services stop"));
        for step in book.steps() {
            let Some(host) = step.action.host().and_then(|node| topology.hosts.get(node)) else { continue };
            prop_assert!(fed_only_by_it(host) || !takes_power(&step.action), "{} keeps its power", step.id);
            prop_assert!(fed_only_by_it(host) || all_stop, "{} is none of this outage's", step.id);
        }
        for step in book.steps() {
            if let Step::SetFsd { ups } = &step.action {
                let fails = topology.domains.iter().any(|(domain, upses)| failing.contains(domain) && upses.contains(ups));
                prop_assert!(fails && topology.local_upses.contains(ups), "{ups} does not fail");
            }
        }
    }

    /// What a cut allows never exceeds the time that is left, and where there is time for the least, every stop and power-off is tried.
    #[test]
    fn the_deadline_is_kept(
        settings in any_settings(), topology in any_topology(), facts in any_facts(), order in any_order(), remaining in 0..900_u64,
    ) {
        let book = planned(&settings, &topology, &facts, &ShutdownOrder { remaining: Some(secs(remaining)), ..order });
        let mut run = Run::new(book);
        let limits = cut(&run, secs(remaining));
        let stopped = run.book.steps().filter(|step| matches!(step.action, Step::StopK3s { .. }));
        for step in stopped.filter(|step| step.action.host().is_some_and(|host| gone(&facts, &topology.hosts[host]))) {
            prop_assert!(step.limit.ceiling <= secs(20) && step.unreached == Some(Duration::ZERO), "{} holds up the others", step.id);
        }
        let grace = run.book.abort_grace;
        let worst = |phase: &Phase<Step>| {
            let mut lanes = vec![Duration::ZERO; phase.width()];
            for limit in phase.steps.iter().map(|step| limits[&step.id]).filter(|limit| !limit.is_zero()) {
                *lanes.iter_mut().min().unwrap() += limit + grace;
            }
            lanes.into_iter().max().unwrap_or_default()
        };
        let worst: Duration = run.book.phases.iter().map(worst).sum();
        prop_assert!(worst <= secs(remaining), "{worst:?} > {remaining} s");
        if secs(remaining) >= least(&run) + Duration::from_millis(1) {
            for step in run.book.phases.iter().flat_map(|phase| &phase.steps) {
                let essential = matches!(step.action, Step::StopK3s { .. }) || takes_power(&step.action);
                prop_assert!(!essential || !limits[&step.id].is_zero(), "{} is passed over", step.id);
            }
        }
        run.limits = limits;
        prop_assert!(run.book.steps().all(|step| run.limit(step) <= step.limit.ceiling));
    }
}
