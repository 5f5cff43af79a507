//! An outage that runs its course, and mains that return at every second of it.

use std::time::Duration;

use super::site::{HOSTS, WORKERS, site};
use super::{Rehearsal, ended};
use crate::runbook::Outcome;
use crate::sim::site::{Model, Site};
use crate::site::OnTrigger;

/// Longer than a shutdown of that site takes from the first reading on battery.
const LONGEST: u64 = 100;

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
    let (record, model) = (rehearsal.record(), rehearsal.site.model());
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    assert!(rehearsal.elapsed() < Duration::from_secs(300), "{:?}", rehearsal.elapsed());
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
    tokio::time::sleep(Duration::from_secs(60)).await;
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

/// How far it came by the time the mains were back, and whether it was undone.
async fn mains_back_after(seconds: u64, mode: OnTrigger) -> (bool, Model) {
    let rehearsal = Rehearsal::start(site()).await;
    rehearsal.arm(mode).await;
    rehearsal
        .outage(300, Some(Duration::from_secs(seconds)), |view| {
            view.runs.first().map_or(view.domains.values().all(|belief| belief.verdict == crate::site::Verdict::Online), |record| {
                record.run.outcome.is_some()
            })
        })
        .await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let model = rehearsal.site.model();
    let view = rehearsal.handle.view();
    let Some(record) = view.runs.first() else { return (true, model) };
    let undone = record.run.outcome == Some(Outcome::Cancelled);
    if undone {
        assert!(view.claims.is_empty(), "after {seconds} s: {:?}", view.claims);
    } else {
        // Finished: who is off is said, with how he comes back.
        let report = rehearsal.report().to_string();
        for (name, _) in model.hosts.iter().filter(|(_, host)| !host.on) {
            assert!(report.contains(name.as_str()), "after {seconds} s: {name} is off and not in the report");
        }
    }
    (undone, model)
}

/// Every second from the first reading on battery until all is off: `half` says which ones, so that they share the machine.
async fn mains_back_at_every_second(half: u64) {
    let mut seen = (0, 0);
    for seconds in (0..LONGEST).filter(|second| second % 2 == half) {
        let (undone, model) = mains_back_after(seconds, OnTrigger::HostPoweroff).await;
        if undone {
            untouched(&model);
            seen.0 += 1;
        } else {
            assert!(model.hosts.values().all(|host| host.units.is_empty()), "after {seconds} s: {:#?}", model.hosts);
            seen.1 += 1;
        }
    }
    assert!(seen.0 > 5 && seen.1 > 5, "both happen: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn mains_that_return_at_any_even_second_leave_nothing_half_done() {
    mains_back_at_every_second(0).await;
}

#[tokio::test(start_paused = true)]
async fn mains_that_return_at_any_odd_second_leave_nothing_half_done() {
    mains_back_at_every_second(1).await;
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
