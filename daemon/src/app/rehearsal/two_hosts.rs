//! Two metis hosts of one simulated site in virtual time: their real control loops, rule and Lease, with a wire between them that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use metis_proto::v1;

use super::site::{self, HOSTS, WORKERS, settings_with};
use super::{Rehearsal, ended};
use crate::api::port::{ShutdownQuestion, StartupQuestion};
use crate::app::parts::{MakeParts, Parts, Peers};
use crate::app::peers::{self, Asked};
use crate::app::startup::ask;
use crate::app::world::World;
use crate::app::{simulate, topology};
use crate::cluster::startup;
use crate::config::Settings;
use crate::control::{Handle, Reply, Request};
use crate::peer::port::{Link, NotTaken};
use crate::peer::rule::Command;
use crate::runbook::Outcome;
use crate::sim::site::{Model, SimHost, Site};
use crate::site::{Answer, Asker, Cause, Change, OnBoot, Word};

const NAMES: [&str; 2] = ["titan-db", "tethys"];

/// The way from one host to the other.
#[derive(Default)]
struct Wire {
    cut: Arc<AtomicBool>,
    other: Mutex<Option<(Weak<World>, Handle)>>,
}

impl Wire {
    fn other(&self) -> Option<(Arc<World>, Handle)> {
        let other = self.other.lock().unwrap().clone()?;
        (!self.cut.load(Ordering::SeqCst)).then_some(())?;
        Some((other.0.upgrade()?, other.1))
    }
}

#[tonic::async_trait]
impl Link for Wire {
    async fn ask(&self, own: &Word, _within: Duration) -> Answer {
        match self.other() {
            Some((world, handle)) => Answer::Said(peers::told(&world, &handle, own.clone())),
            None => Answer::Unreachable("no route to host".to_owned()),
        }
    }

    async fn hand_over(&self, request: v1::HandOverRequest, _within: Duration) -> Result<String, NotTaken> {
        let Some((world, handle)) = self.other() else { return Err(NotTaken::Failed("no route to host".to_owned())) };
        let asked = Asked { asker: Asker::OtherHost, allow_peer_startup: false, auto_peer_failover: false, execute: true };
        let decision = peers::decide(&world, &handle, asked).await;
        if let Some(guard) = decision.guard() {
            return Err(NotTaken::Refused(vec![guard]));
        }
        match begin(&world, &handle, &request.requester).await {
            Reply::Admitted { run } => Ok(run.to_string()),
            other => Err(NotTaken::Failed(format!("{other:?}"))),
        }
    }
}

async fn begin(world: &World, handle: &Handle, requester: &str) -> Reply {
    let (parts, settings) = (world.parts().await, world.settings());
    let order = ask::order(&settings, &StartupQuestion::default());
    let runbook = startup::plan(&parts.settings, &parts.topology, &handle.view().learned, &order);
    handle.request(Request::Admit { requester: requester.to_owned(), runbook, cause: Cause::Person, within: None }).await.unwrap()
}

fn parts(site: Site, host: &str, wire: Arc<Wire>) -> Arc<MakeParts> {
    let simulated = simulate::parts(site.clone(), host.to_owned());
    Arc::new(move |settings: Arc<Settings>| {
        let (made, wire, site, peer) = (simulated(Arc::clone(&settings)), Arc::clone(&wire), site.clone(), settings.peer.clone());
        Box::pin(async move {
            let peers = peer.map(|settings| Peers { settings, link: wire, lease: Ok(Arc::new(site)) });
            Parts { peers, ..made.await }
        })
    })
}

/// Both hosts of a site.
struct Pair {
    hosts: [Rehearsal; 2],
    wires: [Arc<Wire>; 2],
    site: Site,
}

impl Pair {
    async fn start(site: Site, on_boot: OnBoot) -> Self {
        let second = "\n  tethys: { class: outside, host: { address: 192.168.22.24 } }";
        let inventory = ("  titan-db: { class: outside, host: { access: local } }", "");
        let wires: [Arc<Wire>; 2] = Default::default();
        let mut hosts = Vec::new();
        for at in [0, 1] {
            let (role, other) = (["coordinator", "peer"][at], NAMES[1 - at]);
            let head = format!(
                "daemon: {{ host_role: {role} }}\npeer: {{ host: {other}, auto_peer_failover: true }}\nhosts: {{ this_host: {} }}\n",
                NAMES[at]
            );
            let both = format!("  titan-db: {{ class: outside, host: {{ address: 192.168.22.9 }} }}{second}");
            let mut settings = settings_with(
                ("\ndaemon: { host_role: coordinator }\nhosts: { this_host: titan-db }\n", &format!("\n{head}")),
                (inventory.0, &both),
            );
            settings.cluster.startup.on_boot = on_boot;
            let parts = parts(site.clone(), NAMES[at], Arc::clone(&wires[at]));
            hosts.push(Rehearsal::on(NAMES[at], site.clone(), settings, parts).await);
        }
        let [first, second]: [Rehearsal; 2] = hosts.try_into().ok().unwrap();
        *wires[0].other.lock().unwrap() = Some((Arc::downgrade(&second.world), second.handle.clone()));
        *wires[1].other.lock().unwrap() = Some((Arc::downgrade(&first.world), first.handle.clone()));
        Self { hosts: [first, second], wires, site }
    }

    fn cut(&self, cut: bool) {
        self.wires.iter().for_each(|wire| wire.cut.store(cut, Ordering::SeqCst));
    }

    /// Its power is gone: nothing of it runs any more, and nothing reaches it.
    fn kill(&self, at: usize) {
        self.hosts[at].tasks.iter().for_each(tokio::task::JoinHandle::abort);
        self.cut(true);
    }

    fn kinds(&self, at: usize) -> Vec<(String, Option<Outcome>)> {
        let view = self.hosts[at].handle.view();
        view.runs.iter().map(|record| (record.run.book.kind.clone(), record.run.outcome)).collect()
    }

    /// Waits until that is so.
    async fn until(&self, what: &str, patience: Duration, so: impl Fn(&Self) -> bool) {
        let since = tokio::time::Instant::now();
        while !so(self) {
            let phases: Vec<_> = self.hosts.iter().map(|host| host.handle.view().phase.clone()).collect();
            assert!(since.elapsed() < patience, "{what}: not within {patience:?}: {phases:#?}\n{:#?}", self.site.model().log);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// How often each thing was done.
    fn acts(&self) -> BTreeMap<String, usize> {
        let mut acts = BTreeMap::new();
        for act in self.site.model().log {
            *acts.entry(act).or_default() += 1;
        }
        acts
    }

    fn held(&self, at: usize, change: Change) -> BTreeSet<String> {
        let view = self.hosts[at].handle.view();
        view.claims.iter().filter(|record| record.claim.change == change).map(|record| record.claim.object.to_string()).collect()
    }
}

fn two_sites() -> Site {
    let site = site::site();
    site.change(|model| {
        model.hosts.insert("tethys".to_owned(), SimHost { on: true, ..SimHost::default() });
    });
    site
}

/// Hosts are on, and nothing of k3s runs.
fn cold() -> Site {
    let site = two_sites();
    site.change(|model| model.hosts.values_mut().for_each(|host| host.units.clear()));
    site
}

fn started_once(pair: &Pair) {
    let acts = pair.acts();
    for name in WORKERS {
        assert_eq!(acts.get(&format!("start k3s-agent.service {name}")), Some(&1), "{acts:#?}");
    }
    assert_eq!(acts.get("start k3s.service titan-0a"), Some(&1), "{acts:#?}");
}

const MINUTES: fn(u64) -> Duration = |count| Duration::from_secs(60 * count);

#[tokio::test(start_paused = true)]
async fn both_shut_down_at_once_and_each_node_is_done_once() {
    let pair = Pair::start(two_sites(), OnBoot::Never).await;
    let before = pair.site.model();
    let question = ShutdownQuestion { reason: "storm".into(), ..ShutdownQuestion::default() };
    for host in &pair.hosts {
        assert!(matches!(host.ask(&question).await, Reply::Admitted { .. }), "nothing about the other host holds a shutdown up");
    }
    for (host, other) in pair.hosts.iter().zip([1, 0]) {
        host.settled().await;
        assert_eq!(host.record().run.outcome, Some(Outcome::Done), "{} {:?}", host.record().reason, pair.kinds(other));
    }
    let acts = pair.acts();
    for name in WORKERS {
        assert_eq!(acts.get(&format!("cordon {name}")), Some(&1), "{acts:#?}");
        assert!((0..4).all(|pod| acts.get(&format!("gone apps/{name}-{pod}")) == Some(&1)), "{acts:#?}");
    }
    assert_eq!(acts.get("suspend Kustomization/flux-system/root"), Some(&1), "{acts:#?}");
    for (change, all) in [(Change::Cordoned, 3), (Change::Suspended, 2)] {
        let (ours, theirs) = (pair.held(0, change), pair.held(1, change));
        assert_eq!((ours.intersection(&theirs).count(), ours.union(&theirs).count()), (0, all), "{ours:?} {theirs:?}");
    }
    // One start-up brings all of it back, whoever did it.
    assert!(matches!(begin(&pair.hosts[0].world, &pair.hosts[0].handle, "ada").await, Reply::Admitted { .. }));
    pair.hosts[0].settled().await;
    assert_eq!(pair.hosts[0].record().run.outcome, Some(Outcome::Done), "{}", pair.hosts[0].record().reason);
    let after = pair.site.model();
    assert_eq!(before.flux, after.flux);
    for (name, node) in &before.nodes {
        assert_eq!(
            (node.unschedulable, &node.mark, &node.pods),
            (after.nodes[name].unschedulable, &after.nodes[name].mark, &after.nodes[name].pods)
        );
    }
    assert_eq!(after.lease.map(|lease| lease.holder), Some(String::new()), "given back");
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_the_other_host_does_not_finish_is_finished_here() {
    let site = two_sites();
    let mark = crate::site::Mark {
        holder: "tethys".into(),
        run: "shutdown-3".into(),
        step: "drain.titan-13".into(),
        reason: "storm".into(),
        expires: None,
    };
    site.change(|model| {
        let node = model.nodes.get_mut("titan-13").unwrap();
        (node.unschedulable, node.mark) = (true, Some(mark.clone()));
    });
    let pair = Pair::start(site, OnBoot::Never).await;
    pair.kill(1);
    let host = &pair.hosts[0];
    host.ask(&ShutdownQuestion::default()).await;
    host.settled().await;
    assert_eq!(host.record().run.outcome, Some(Outcome::Done), "{}", host.record().reason);
    assert_eq!(pair.acts().get("gone apps/titan-13-0"), Some(&1));
    assert_eq!(pair.site.model().nodes["titan-13"].mark, Some(mark), "whose cordon it is does not change");
    assert!(!pair.held(0, Change::Cordoned).contains("Node/titan-13"));
}

#[tokio::test(start_paused = true)]
async fn the_peer_hands_over_and_the_coordinator_starts() {
    let pair = Pair::start(cold(), OnBoot::Never).await;
    let peer = &pair.hosts[1];
    let asked = Asked { asker: Asker::Person, allow_peer_startup: false, auto_peer_failover: true, execute: true };
    let decision = peers::decide(&peer.world, &peer.handle, asked).await;
    assert!(matches!(decision.command, Command::HandOver(_)), "{decision:?}");
    let (to, run) = peers::hand_over(&peer.world, v1::StartupRequest::default(), "ada".to_owned()).await.unwrap();
    assert_eq!((to.as_str(), run.as_str()), ("titan-db", "startup-1"));
    let again = peers::decide(&peer.world, &peer.handle, asked).await;
    assert!(again.guard().is_some_and(|guard| guard.name == "peer.intent" && guard.message.contains("startup-1")), "{again:?}");
    pair.hosts[0].settled().await;
    assert_eq!((pair.hosts[0].record().run.outcome, pair.kinds(1)), (Some(Outcome::Done), Vec::new()));
    started_once(&pair);
}

#[tokio::test(start_paused = true)]
async fn both_boot_and_one_starts() {
    let pair = Pair::start(cold(), OnBoot::Always).await;
    pair.until("the coordinator's start-up", MINUTES(60), |pair| ended(&pair.hosts[0].handle.view())).await;
    assert_eq!(pair.hosts[0].record().run.outcome, Some(Outcome::Done));
    pair.until("the peer's rest", MINUTES(2), |pair| pair.hosts[1].handle.view().startup_wanted.is_none()).await;
    assert_eq!(pair.kinds(1), Vec::new());
    started_once(&pair);
    // After its end it is nobody's any more.
    pair.kill(0);
    tokio::time::sleep(MINUTES(120)).await;
    assert_eq!(pair.kinds(1), Vec::new());
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_is_dead_is_replaced_and_not_at_once() {
    let site = cold();
    let pair = Pair::start(site, OnBoot::Always).await;
    pair.kill(0);
    pair.site.change(|model| model.log.clear());
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert_eq!(pair.kinds(1), Vec::new(), "it may be a reboot");
    pair.until("the peer's start-up", MINUTES(60), |pair| ended(&pair.hosts[1].handle.view())).await;
    assert_eq!(pair.hosts[1].record().run.outcome, Some(Outcome::Done), "{}", pair.hosts[1].record().reason);
    let model = pair.site.model();
    assert!(HOSTS.iter().all(|name| *name == "titan-db" || !model.hosts[*name].units.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_dies_in_mid_start_up_is_replaced() {
    let pair = Pair::start(cold(), OnBoot::Always).await;
    pair.until("the Lease", MINUTES(20), |pair| pair.site.model().lease.is_some_and(|lease| lease.holder == "titan-db")).await;
    pair.kill(0);
    pair.until("the peer's start-up", MINUTES(60), |pair| ended(&pair.hosts[1].handle.view())).await;
    assert_eq!(pair.hosts[1].record().run.outcome, Some(Outcome::Done), "{}", pair.hosts[1].record().reason);
    assert_eq!(pair.acts().get("start k3s.service titan-0a"), Some(&1), "what is up is looked at only");
    assert_eq!(pair.site.model().lease.map(|lease| lease.transitions), Some(2), "and held by one after the other");
}

#[tokio::test(start_paused = true)]
async fn a_wire_that_is_cut_while_both_live_makes_no_second_commander() {
    let pair = Pair::start(cold(), OnBoot::Always).await;
    // From here on only the Lease tells the peer of the coordinator.
    pair.until("the Lease", MINUTES(20), |pair| pair.site.model().lease.is_some_and(|lease| lease.holder == "titan-db")).await;
    pair.cut(true);
    let both = |pair: &Pair| pair.kinds(0).iter().chain(&pair.kinds(1)).filter(|(_, outcome)| outcome.is_none()).count();
    let since = tokio::time::Instant::now();
    while !ended(&pair.hosts[0].handle.view()) {
        assert!(both(&pair) <= 1 && since.elapsed() < MINUTES(60));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(pair.hosts[0].record().run.outcome, Some(Outcome::Done));
    // What the peer does after that, since nobody tells it: it looks.
    pair.until("the peer", MINUTES(60), |pair| ended(&pair.hosts[1].handle.view())).await;
    started_once(&pair);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_of_the_one_ends_a_start_up_of_the_other() {
    for by_lease in [false, true] {
        let pair = Pair::start(cold(), OnBoot::Never).await;
        assert!(matches!(begin(&pair.hosts[0].world, &pair.hosts[0].handle, "ada").await, Reply::Admitted { .. }));
        pair.until("the Lease", MINUTES(20), |pair| pair.site.model().lease.is_some_and(|lease| lease.holder == "titan-db")).await;
        pair.cut(by_lease);
        assert!(matches!(pair.hosts[1].ask(&ShutdownQuestion::default()).await, Reply::Admitted { .. }));
        pair.until("both ends", MINUTES(30), |pair| pair.hosts.iter().all(|host| ended(&host.handle.view()))).await;
        assert_eq!(pair.kinds(0), [("startup".to_owned(), Some(Outcome::Cancelled))], "by the Lease: {by_lease}");
        assert_eq!(pair.kinds(1), [("shutdown".to_owned(), Some(Outcome::Done))]);
        assert!(pair.site.model().hosts.values().all(|host| host.units.is_empty()), "nothing runs");
        let refused = peers::decide(
            &pair.hosts[0].world,
            &pair.hosts[0].handle,
            Asked { asker: Asker::Person, allow_peer_startup: false, auto_peer_failover: false, execute: false },
        );
        let guard = refused.await.guard();
        assert_eq!(guard.map(|guard| guard.name), by_lease.then(|| "peer.unreachable".to_owned()));
    }
}

/// What the tests above start from.
#[test]
fn both_hosts_see_one_inventory() {
    let model: Model = two_sites().model();
    assert!(NAMES.iter().all(|name| model.hosts.contains_key(*name)));
    let settings = site::settings();
    assert!(topology::of(&settings, "titan-db").hosts.keys().all(|name| model.hosts.contains_key(name.as_str())));
}
