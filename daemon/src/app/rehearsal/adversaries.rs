//! Whatever fails on the way, the run ends inside its deadline, stops what can be reached, and names what cannot.

use std::time::Duration;

use super::site::{HOSTS, site};
use super::{Rehearsal, ended};
use crate::sim::site::Fault;
use crate::site::OnTrigger;

const RUNTIME: u64 = 300;

/// Each of them alone.
fn adversaries() -> Vec<Fault> {
    let on = |node: &str| node.to_owned();
    vec![
        Fault::ApiHangs,
        Fault::ApiFails,
        Fault::Unreachable(on("titan-13")),
        Fault::Hangs(on("titan-15")),
        Fault::NoSudo(on("titan-05")),
        Fault::SnapshotHangs,
        Fault::Immortal(on("titan-13")),
        Fault::VolumesStay,
        Fault::SecondariesStay,
        Fault::StopHangs(on("titan-15")),
        Fault::Unreachable(on("titan-0a")),
    ]
}

/// Hosts that cannot be stopped with that against us.
fn beyond_reach(fault: &Fault) -> Option<&str> {
    match fault {
        Fault::Unreachable(host) | Fault::Hangs(host) | Fault::NoSudo(host) => Some(host),
        _ => None,
    }
}

async fn outage_against(faults: &[Fault]) {
    let rehearsal = Rehearsal::start(site()).await;
    rehearsal.site.change(|model| model.faults = faults.iter().cloned().collect());
    rehearsal.arm(OnTrigger::HostPoweroff).await;
    rehearsal.outage(RUNTIME, None, ended).await;
    assert!(rehearsal.elapsed() < Duration::from_secs(RUNTIME), "{faults:?}: it took {:?}", rehearsal.elapsed());
    while rehearsal.site.model().hosts["titan-db"].on {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(rehearsal.elapsed() < Duration::from_secs(RUNTIME), "{faults:?}: this host is on when the battery is empty");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let report = rehearsal.report();
    let model = rehearsal.site.model();
    let lost: Vec<_> = faults.iter().filter_map(beyond_reach).collect();
    for name in HOSTS {
        if lost.contains(&name) {
            let steps = report["phases"].as_array().unwrap().iter().flat_map(|phase| phase["steps"].as_array().unwrap());
            let bad = steps.filter(|step| step["id"].as_str().unwrap().ends_with(name) && step["status"] != "done").count();
            assert!(bad > 0, "{faults:?}: {name} is not named: {report:#}");
        } else {
            assert!(!model.hosts[name].on, "{faults:?}: {name} is on: {:#?}", model.log);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_adversary_alone() {
    for fault in adversaries() {
        outage_against(std::slice::from_ref(&fault)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_adversaries_together() {
    outage_against(&adversaries()).await;
}
