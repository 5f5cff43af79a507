//! An outage that runs its course, and mains that return at every second of it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use super::site::{HOSTS, WORKERS, site};
use super::{Rehearsal, ended};
use crate::control::View;
use crate::runbook::Outcome;
use crate::sim::site::{Model, Site};
use crate::site::{OnTrigger, Verdict};

/// Where in the log something stands.
fn at(model: &Model, what: &str) -> usize {
    model.log.iter().position(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what} did not happen: {:#?}", model.log))
}

fn none(model: &Model, what: &str) {
    assert!(!model.log.iter().any(|line| line.starts_with(what)), "{what} happened: {:#?}", model.log);
}

/// Nothing of ours is left on the cluster, and what others did is as it was.
fn untouched(model: &Model) {
    for node in model.nodes.values() {
        assert!(!node.unschedulable && node.mark.is_none(), "{:#?}", model.nodes);
    }
    for object in &model.flux {
        assert_eq!((object.suspended, &object.mark), (object.object.name == "media", &None), "{:#?}", model.log);
    }
    for (name, host) in &model.hosts {
        assert!(host.on, "{name} is off");
        assert_eq!(host.units.len(), usize::from(name != "titan-db"), "{name}: {:#?}", model.log);
    }
}

#[tokio::test(start_paused = true)]
async fn an_armed_metis_stops_the_site_in_order_before_the_battery_is_empty() {
    let rehearsal = Rehearsal::start(site()).await;
    rehearsal.arm(OnTrigger::HostPoweroff).await;
    rehearsal.outage(300, None, ended).await;
    assert!(rehearsal.elapsed() < Duration::from_secs(300), "{:?}", rehearsal.elapsed());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (record, model) = (rehearsal.record(), rehearsal.site.model());
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    let last_cordon = WORKERS.iter().map(|name| at(&model, &format!("cordon {name}"))).max().unwrap();
    assert!(at(&model, "suspend Kustomization/flux-system/root") < at(&model, "suspend Kustomization/flux-system/apps"));
    assert!(at(&model, "suspend") < at(&model, "snapshot") && at(&model, "snapshot") < last_cordon);
    let detached = WORKERS.iter().map(|name| at(&model, &format!("detached pvc-{name}"))).max().unwrap();
    let first_agent = WORKERS.iter().map(|name| at(&model, &format!("stop k3s-agent.service {name}"))).min().unwrap();
    let last_agent = WORKERS.iter().map(|name| at(&model, &format!("stop k3s-agent.service {name}"))).max().unwrap();
    assert!(detached < first_agent && last_agent < at(&model, "stop k3s.service titan-0a"), "{:#?}", model.log);
    assert!(at(&model, "killall titan-0a") < at(&model, "poweroff ordered titan-0a"));
    assert_eq!(at(&model, "poweroff ordered titan-db"), model.log.iter().rposition(|line| line.starts_with("poweroff ordered")).unwrap());
    none(&model, "suspend HelmRelease");
    let report = rehearsal.report();
    assert_eq!(report["outcome"], "done", "{report:#}");
    for name in HOSTS {
        assert!(!rehearsal.site.model().hosts[name].on, "{name} is on");
    }
}

#[tokio::test(start_paused = true)]
async fn a_disarmed_metis_does_nothing_but_record() {
    let rehearsal = Rehearsal::start(site()).await;
    rehearsal.outage(200, None, |view| view.phase.contains("DISARMED")).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(rehearsal.handle.view().runs.len(), 0);
    let model = rehearsal.site.model();
    assert_eq!(model.log, Vec::<String>::new());
    untouched(&model);
}

/// Seconds from the first reading on battery until a shutdown that nobody disturbs has ended.
async fn undisturbed(mode: OnTrigger) -> u64 {
    let rehearsal = Rehearsal::start(site()).await;
    rehearsal.arm(mode).await;
    rehearsal.outage(300, None, ended).await;
    assert_eq!(rehearsal.record().run.outcome, Some(Outcome::Done));
    rehearsal.elapsed().as_secs()
}

/// What became of a shutdown whose reason was gone after a while.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Became {
    NeverBegun,
    Undone,
    Finished,
    /// It had ended before.
    EndedBefore,
}

/// Whatever it came to: nothing of it is half done, and what is not as it was before stands in the report.
async fn mains_back_after(seconds: u64, mode: OnTrigger) -> Became {
    let rehearsal = Rehearsal::start(site()).await;
    rehearsal.arm(mode).await;
    let back = rehearsal.elapsed() + Duration::from_secs(seconds);
    let early = Cell::new(false);
    let over = |view: &View| {
        let (is_back, has_ended) = (rehearsal.elapsed() > back, ended(view));
        early.set(early.get() || (has_ended && !is_back));
        is_back && (has_ended || (view.runs.is_empty() && view.domains.values().all(|belief| belief.verdict == Verdict::Online)))
    };
    rehearsal.outage(300, Some(Duration::from_secs(seconds)), over).await;
    // Later the UPS is silent, for nobody polls it any more.
    let domains = rehearsal.handle.view().domains.clone();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let (model, view) = (rehearsal.site.model(), rehearsal.handle.view());
    let Some(record) = view.runs.first() else {
        untouched(&model);
        return Became::NeverBegun;
    };
    let report = rehearsal.report();
    if record.run.outcome == Some(Outcome::Cancelled) {
        untouched(&model);
        assert!(view.claims.is_empty(), "after {seconds} s: {:?}", view.claims);
        assert_eq!((&report["powered_off"], &report["left"]), (&json!({}), &json!({})), "after {seconds} s");
        return Became::Undone;
    }
    assert_eq!(report["outcome"], "done", "after {seconds} s: {report:#}");
    named(&model, &report, mode, &format!("after {seconds} s"));
    // Whether the mains were known to be back when the report was made; not asked where both came within one poll.
    let back = domains.values().filter(|belief| belief.verdict == Verdict::Online).map(|belief| belief.since).max();
    let how = match back.map(|back| back.duration_since(record.ended.unwrap()).as_secs()) {
        Some(..0) => "presses its button: its power stayed on",
        Some(0..3) => "presses its button",
        Some(3..) | None => "by itself if its power really goes and returns, else",
    };
    for (host, said) in report["powered_off"].as_object().unwrap() {
        assert!(said.as_str().unwrap().contains(how), "after {seconds} s: {host} comes back {said}");
    }
    if early.get() { Became::EndedBefore } else { Became::Finished }
}

/// Every host that is off, and everything of ours that is left, stands in the report.
fn named(model: &Model, report: &serde_json::Value, mode: OnTrigger, when: &str) {
    let list = |change: &str| -> BTreeSet<String> {
        report["left"][change].as_array().into_iter().flatten().map(|object| object.as_str().unwrap().to_owned()).collect()
    };
    let off: BTreeSet<_> = model.hosts.iter().filter(|(_, host)| !host.on).map(|(name, _)| name.as_str()).collect();
    let told: BTreeSet<_> = report["powered_off"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(off, told, "{when}: {report:#}");
    assert_eq!(off.len(), if mode == OnTrigger::HostPoweroff { HOSTS.len() } else { 0 }, "{when}");
    let suspended: BTreeSet<_> = model.flux.iter().filter(|object| object.mark.is_some()).map(|object| object.object.to_string()).collect();
    assert_eq!((suspended.len(), &suspended), (2, &list("suspended")), "{when}");
    let cordoned: BTreeSet<_> = model.nodes.iter().filter(|(_, node)| node.unschedulable).map(|(name, _)| format!("Node/{name}")).collect();
    assert_eq!((cordoned.len(), &cordoned), (WORKERS.len(), &list("cordoned")), "{when}");
    let stopped: BTreeSet<_> = HOSTS.iter().filter(|name| **name != "titan-db").map(|name| format!("K3sUnit/{name}")).collect();
    assert!(model.hosts.values().all(|host| host.units.is_empty()), "{when}: {:#?}", model.hosts);
    assert_eq!(stopped, list("stopped"), "{when}");
}

/// Every second from the first reading on battery until after its end: each `every`th, from `first` on, so that they share the machine.
async fn mains_back_at_every_second(mode: OnTrigger, first: u64, every: usize) {
    let longest = undisturbed(mode).await + 6;
    let mut seen: BTreeMap<Became, u32> = BTreeMap::new();
    for seconds in (first..=longest).step_by(every) {
        *seen.entry(mains_back_after(seconds, mode).await).or_default() += 1;
    }
    // Some seconds of each: the whole of it was gone through.
    for became in [Became::NeverBegun, Became::Undone, Became::Finished, Became::EndedBefore] {
        assert!(seen.contains_key(&became), "{became:?} is missing in {seen:?} of {longest} s");
    }
}

#[tokio::test(start_paused = true)]
async fn mains_that_return_at_any_even_second_leave_nothing_half_done() {
    mains_back_at_every_second(OnTrigger::HostPoweroff, 0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn mains_that_return_at_any_odd_second_leave_nothing_half_done() {
    mains_back_at_every_second(OnTrigger::HostPoweroff, 1, 2).await;
}

#[tokio::test(start_paused = true)]
async fn mains_that_return_while_only_the_cluster_stops_leave_nothing_half_done() {
    mains_back_at_every_second(OnTrigger::ClusterOnly, 0, 3).await;
}

/// What the first shutdown changed was undone by a person; the second one changes it again, and undoes it.
#[tokio::test(start_paused = true)]
async fn a_second_outage_undoes_what_it_changed_itself() {
    let rehearsal = Rehearsal::start(site()).await;
    rehearsal.arm(OnTrigger::ClusterOnly).await;
    rehearsal.outage(300, None, ended).await;
    for _ in 0..10 {
        rehearsal.read("OL", 100.0, 3000).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    rehearsal.site.change(|model| *model = site().model());
    rehearsal.outage(250, Some(Duration::from_secs(12)), |view| view.runs.len() == 2 && ended(view)).await;
    let record = rehearsal.record();
    assert_eq!(record.run.outcome, Some(Outcome::Cancelled), "{}", record.reason);
    let model = rehearsal.site.model();
    at(&model, "suspend Kustomization/flux-system/root");
    untouched(&model);
    let held: Vec<_> = rehearsal.handle.view().claims.iter().filter(|claim| claim.run == record.id).cloned().collect();
    assert_eq!(held, Vec::new());
}

#[tokio::test(start_paused = true)]
async fn cluster_only_leaves_all_hosts_on() {
    let rehearsal = Rehearsal::start(Site::new(site().model())).await;
    rehearsal.arm(OnTrigger::ClusterOnly).await;
    rehearsal.outage(300, None, ended).await;
    let model = rehearsal.site.model();
    none(&model, "poweroff");
    assert!(model.hosts.values().all(|host| host.on && host.units.is_empty()), "{:#?}", model.hosts);
}
