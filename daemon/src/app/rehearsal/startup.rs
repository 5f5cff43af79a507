//! Start-ups of the simulated site in virtual time: after an outage, on a healthy cluster, and where something does not come.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::site::{HOSTS, WORKERS, settings, site};
use super::{Rehearsal, ended};
use crate::app::{progress, topology};
use crate::cluster::startup::{StartupOrder, plan};
use crate::control::{Reply, Request, RunRecord};
use crate::runbook::{Outcome, Status};
use crate::sim::site::{Fault, Model, Site};
use crate::site::{Cause, Learned, Mark, OnBoot, OnTrigger};

/// Asks for a start-up; it may be under way for days.
pub(super) async fn begin(rehearsal: &Rehearsal, order: &StartupOrder) {
    let settings = &rehearsal.settings;
    let runbook = plan(&settings.cluster, &topology::of(settings, "titan-db"), &Learned::default(), order);
    assert_eq!(runbook.refusals, Vec::new());
    let request = Request::Admit { requester: "ada".to_owned(), runbook, cause: Cause::Person, within: None };
    let reply = rehearsal.handle.request(request).await.unwrap();
    assert!(matches!(reply, Reply::Admitted { .. }), "{reply:?}");
}

pub(super) async fn ends(rehearsal: &Rehearsal) -> Arc<RunRecord> {
    let waited = tokio::time::Instant::now();
    while !ended(&rehearsal.handle.view()) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(waited.elapsed() < Duration::from_secs(10 * 24 * 3600), "it did not end: {}", rehearsal.handle.view().phase);
    }
    rehearsal.record()
}

pub(super) fn order() -> StartupOrder {
    StartupOrder { has_ups: true, ..StartupOrder::default() }
}

/// The mains are back: every host boots; what its kubelet said stands as it was.
pub(super) fn switch_on(site: &Site, hosts: &[&str]) {
    site.change(|model| {
        for name in hosts {
            let host = model.hosts.get_mut(*name).unwrap();
            (host.on, host.leftovers) = (true, 0);
            host.boots += 1;
        }
        model.log.clear();
    });
}

pub(super) fn at(model: &Model, what: &str) -> usize {
    model.log.iter().position(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what} did not happen: {:#?}", model.log))
}

/// A site that was shut down because its power failed, and has its power back.
pub(super) async fn after_an_outage(on: &[&str]) -> (Rehearsal, Model) {
    (after_an_outage_of(site(), on).await, site().model())
}

pub(super) async fn after_an_outage_of(site: Site, on: &[&str]) -> Rehearsal {
    let rehearsal = Rehearsal::start(site).await;
    rehearsal.arm(OnTrigger::HostPoweroff).await;
    rehearsal.outage(300, None, ended).await;
    assert_eq!(rehearsal.record().run.outcome, Some(Outcome::Done));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(rehearsal.site.model().hosts.values().all(|host| !host.on));
    switch_on(&rehearsal.site, on);
    rehearsal.read("OL CHRG", 80.0, 2500).await;
    rehearsal
}

/// As it was before the outage, but for boots and what detached.
pub(super) fn as_before(before: &Model, after: &Model) {
    assert_eq!(before.flux, after.flux, "{:#?}", after.log);
    for (name, node) in &before.nodes {
        let now = &after.nodes[name];
        assert_eq!((&node.pods, node.unschedulable, &node.mark), (&now.pods, now.unschedulable, &now.mark), "{name}: {:#?}", after.log);
    }
    for (name, host) in &before.hosts {
        assert_eq!((host.on, &host.units), (after.hosts[name].on, &after.hosts[name].units), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_site_comes_back_as_it_was() {
    let (rehearsal, before) = after_an_outage(&HOSTS).await;
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    let model = rehearsal.site.model();
    as_before(&before, &model);
    let first_agent = WORKERS.iter().map(|name| at(&model, &format!("start k3s-agent.service {name}"))).min().unwrap();
    assert!(at(&model, "start k3s.service titan-0a") < first_agent);
    assert!(first_agent < at(&model, "uncordon") && at(&model, "uncordon") < at(&model, "resume"));
    let last = model.log.iter().rposition(|line| line.starts_with("resume")).unwrap();
    assert_eq!(model.log[last], "resume Kustomization/flux-system/root", "the root last");
    assert!(!model.log.iter().any(|line| line.contains("media")), "what somebody else suspended stays so: {:#?}", model.log);
    assert_eq!(rehearsal.handle.view().claims, Vec::new(), "nothing is held any more");
    let report = std::fs::read(rehearsal.folder.path().join("last-startup-report.json")).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&report).unwrap()["outcome"], "done");
}

#[tokio::test(start_paused = true)]
async fn on_a_healthy_cluster_nothing_is_changed() {
    let rehearsal = Rehearsal::start(site()).await;
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    assert_eq!(rehearsal.site.model().log, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_a_person_has_to_switch_on_is_waited_for_and_shown() {
    let present: Vec<_> = HOSTS.into_iter().filter(|name| *name != "titan-15").collect();
    let (rehearsal, before) = after_an_outage(&present).await;
    let stop = CancellationToken::new();
    tokio::spawn(progress::keep(Arc::clone(&rehearsal.world), rehearsal.handle.clone(), stop.clone()));
    begin(&rehearsal, &order()).await;
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    let shown = read_progress(&rehearsal);
    assert_eq!(
        (&shown["state"], &shown["gate"]["name"], &shown["gate"]["host"]),
        (&"running".into(), &"host-up".into(), &"titan-15".into())
    );
    assert!(shown["gate"]["why"].as_str().unwrap().contains("titan-15"), "{shown:#}");
    assert_eq!(shown["under_way"], serde_json::json!(["host-up.titan-15"]));
    let view = rehearsal.handle.view();
    let record = view.runs.first().unwrap();
    let waits = record.run.state(&"host-up.titan-15".into()).unwrap();
    assert!(matches!(waits.status, Status::Running { .. }) && waits.detail.contains("titan-15"), "{waits:?}");
    assert!(!rehearsal.site.model().log.iter().any(|line| line.starts_with("start")), "nothing starts before all are there");
    switch_on(&rehearsal.site, &["titan-15"]);
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    as_before(&before, &rehearsal.site.model());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let shown = read_progress(&rehearsal);
    assert_eq!((&shown["state"], &shown["percent"], &shown["gate"]), (&"done".into(), &100.into(), &serde_json::Value::Null));
    assert_eq!(shown["run"], record.id.as_str());
    stop.cancel();
}

fn read_progress(rehearsal: &Rehearsal) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(rehearsal.folder.path().join(progress::FILE)).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_left_out_keeps_its_cordon_and_the_run_ends_degraded() {
    let present: Vec<_> = HOSTS.into_iter().filter(|name| *name != "titan-15").collect();
    let (rehearsal, _) = after_an_outage(&present).await;
    // Its pods are somewhere else by now.
    rehearsal.site.change(|model| model.nodes.get_mut("titan-15").unwrap().pending.clear());
    begin(&rehearsal, &StartupOrder { ignore: BTreeSet::from(["titan-15".into()]), ..order() }).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Degraded), "{}", record.reason);
    let missing = record.run.state(&"node-ready.titan-15".into()).unwrap();
    assert!(missing.detail.contains("titan-15"), "{missing:?}");
    let model = rehearsal.site.model();
    assert!(model.nodes["titan-15"].unschedulable && !model.nodes["titan-13"].unschedulable);
    let held: Vec<_> = rehearsal.handle.view().claims.iter().map(|record| record.claim.object.to_string()).collect();
    assert_eq!(held, ["Node/titan-15", "K3sUnit/titan-15", "Host/titan-15"], "known, and due at the next start-up");
}

#[tokio::test(start_paused = true)]
async fn a_ready_of_before_the_outage_is_not_believed() {
    let (rehearsal, _) = after_an_outage(&HOSTS).await;
    rehearsal.site.change(|model| {
        model.faults.insert(Fault::KubeletStays("titan-13".to_owned()));
    });
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Failed), "{}", record.reason);
    let stale = record.run.state(&"node-ready.titan-13".into()).unwrap();
    assert!(stale.detail.contains("an earlier boot") && stale.detail.contains("What to do"), "{}", stale.detail);
    assert!(!rehearsal.site.model().log.iter().any(|line| line.starts_with("resume")), "Flux stays as it is");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_come_fails_it_and_the_next_start_up_goes_on_from_there() {
    let (rehearsal, before) = after_an_outage(&HOSTS).await;
    rehearsal.site.change(|model| {
        model.faults.insert(Fault::GitDown);
    });
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Failed));
    let source = record.run.state(&"flux-source".into()).unwrap();
    assert!(source.detail.contains("connection refused"), "{}", source.detail);
    assert!(rehearsal.handle.view().claims.iter().any(|held| held.claim.object.kind == "Kustomization"), "still known");
    rehearsal.site.change(|model| {
        model.faults.remove(&Fault::GitDown);
    });
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    as_before(&before, &rehearsal.site.model());
}

#[tokio::test(start_paused = true)]
async fn on_battery_it_waits_for_the_mains_and_their_charge() {
    let (rehearsal, before) = after_an_outage(&HOSTS).await;
    rehearsal.read("OB DISCHRG", 60.0, 2000).await;
    begin(&rehearsal, &order()).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let state = |step: &str| rehearsal.handle.view().runs.first().unwrap().run.state(&step.into()).unwrap().clone();
    let hold = rehearsal.handle.view().runs.first().unwrap().run.hold.clone();
    assert!(hold.is_some_and(|hold| hold.because.contains("pyrphoros runs on battery")));
    rehearsal.read("OL CHRG", 20.0, 500).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(state("mains").status, Status::Done);
    assert!(state("charge").detail.contains("holds 20 % of the 35 %"), "{:?}", state("charge"));
    rehearsal.read("OL CHRG", 40.0, 1500).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    as_before(&before, &rehearsal.site.model());
}

#[tokio::test(start_paused = true)]
async fn a_second_outage_holds_it_until_the_mains_are_back() {
    let (rehearsal, before) = after_an_outage(&HOSTS).await;
    // Nothing Ready yet: it is in its midst.
    rehearsal.site.change(|model| {
        model.faults.insert(Fault::KubeletStays("titan-13".to_owned()));
    });
    begin(&rehearsal, &order()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    rehearsal.read("OB DISCHRG", 70.0, 2000).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let view = rehearsal.handle.view();
    let hold = view.runs.first().unwrap().run.hold.clone().expect("held");
    assert!(hold.because.contains("pyrphoros runs on battery"), "{hold:?}");
    rehearsal.site.change(|model| {
        model.faults.clear();
        model.nodes.get_mut("titan-13").unwrap().boot = 1;
    });
    for _ in 0..60 {
        rehearsal.read("OB DISCHRG", 60.0, 1800).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(!rehearsal.site.model().log.iter().any(|line| line.starts_with("uncordon")), "nothing more is begun");
    rehearsal.read("OL CHRG", 60.0, 1800).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    as_before(&before, &rehearsal.site.model());
}

#[tokio::test(start_paused = true)]
async fn a_second_outage_with_too_little_charge_stops_the_site_again() {
    let (rehearsal, before) = after_an_outage(&HOSTS).await;
    rehearsal.site.change(|model| {
        model.faults.insert(Fault::KubeletStays("titan-13".to_owned()));
    });
    begin(&rehearsal, &order()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    rehearsal.read("OB DISCHRG", 30.0, 2000).await;
    while !ended(&rehearsal.handle.view()) {
        tokio::time::sleep(Duration::from_secs(2)).await;
        rehearsal.read("OB DISCHRG", 30.0, 1900).await;
    }
    let view = rehearsal.handle.view();
    let kinds: Vec<_> = view.runs.iter().map(|record| (record.run.book.kind.as_str(), record.run.outcome)).collect();
    assert_eq!(kinds[..2], [("shutdown", Some(Outcome::Done)), ("startup", Some(Outcome::Cancelled))], "{kinds:?}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(rehearsal.site.model().hosts.values().all(|host| !host.on));
    // And comes back from that, too.
    switch_on(&rehearsal.site, &HOSTS);
    rehearsal.site.change(|model| model.faults.clear());
    rehearsal.read("OL CHRG", 90.0, 3000).await;
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    as_before(&before, &rehearsal.site.model());
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_a_ups_caused_is_undone_by_itself_once_the_mains_are_back() {
    let before = site().model();
    let mut settings = settings();
    settings.cluster.startup.on_boot = OnBoot::AfterOutage;
    let rehearsal = Rehearsal::with(site(), settings).await;
    rehearsal.arm(OnTrigger::ClusterOnly).await;
    // Back after the servers have begun to stop.
    let back = Duration::from_secs(80);
    let both = |view: &crate::control::View| view.runs.len() == 2 && ended(view);
    rehearsal.outage(200, Some(back), both).await;
    let record = rehearsal.record();
    assert_eq!((record.run.book.kind.as_str(), record.run.outcome, &record.cause), ("startup", Some(Outcome::Done), &Cause::Boot));
    assert!(record.requester.contains("shutdown-1 stopped the cluster because its power failed"), "{}", record.requester);
    as_before(&before, &rehearsal.site.model());
}

#[tokio::test(start_paused = true)]
async fn what_the_other_metis_host_holds_stays_his() {
    let site = site();
    let mark =
        Mark { holder: "tethys".into(), run: "shutdown-4".into(), step: "drain.titan-15".into(), reason: "statera".into(), expires: None };
    site.change(|model| {
        let node = model.nodes.get_mut("titan-15").unwrap();
        (node.unschedulable, node.mark) = (true, Some(mark.clone()));
    });
    let rehearsal = Rehearsal::start(site).await;
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    let node = rehearsal.site.model().nodes["titan-15"].clone();
    assert_eq!((node.unschedulable, node.mark), (true, Some(mark)));
    assert_eq!(rehearsal.site.model().log, Vec::<String>::new());
}
