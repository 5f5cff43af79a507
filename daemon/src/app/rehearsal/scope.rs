//! Whose power goes, who waits for whom, and what this host leaves behind.

use std::time::Duration;

use super::site::{HOSTS, settings, settings_with, site};
use super::{Rehearsal, ended};
use crate::api::port::ShutdownQuestion;
use crate::cluster::ShutdownMode;
use crate::control::Reply;
use crate::sim::site::{Fault, SimHost, SimNode, Site};
use crate::site::OnTrigger;

const WORKER: (&str, &str) = ("  titan-db: {", "  titan-99: { class: agent, network: { address: 192.168.22.99 } }\n  titan-db: {");

/// With a worker that no UPS feeds.
fn with_unfed_worker() -> Site {
    let site = site();
    site.change(|model| {
        let units = ["k3s-agent.service".to_owned()].into();
        model.hosts.insert("titan-99".to_owned(), SimHost { on: true, units, leftovers: 5, ..SimHost::default() });
        model.nodes.insert("titan-99".to_owned(), SimNode::default());
    });
    site
}

#[tokio::test(start_paused = true)]
async fn a_host_that_no_ups_feeds_stops_with_the_cluster_and_stays_on() {
    let rehearsal = Rehearsal::with(with_unfed_worker(), settings_with(("", ""), WORKER)).await;
    rehearsal.arm(OnTrigger::HostPoweroff).await;
    rehearsal.outage(300, None, ended).await;
    let report = rehearsal.report();
    assert_eq!(report["outcome"], "done", "{report:#}");
    let said = report["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .any(|line| line.as_str().unwrap().contains("not powered off") && line.as_str().unwrap().ends_with(": titan-99"));
    assert!(said, "{report:#}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let model = rehearsal.site.model();
    assert!(model.hosts["titan-99"].on && model.hosts["titan-99"].units.is_empty(), "{:#?}", model.log);
    assert!(HOSTS.iter().all(|name| !model.hosts[*name].on), "{:#?}", model.log);
}

/// How long a person's stop of the cluster takes with that against it, and whether the host is named as left behind.
async fn against(fault: Option<Fault>, host: &str) -> (Duration, bool) {
    let rehearsal = Rehearsal::start(site()).await;
    rehearsal.site.change(|model| model.faults.extend(fault));
    let question = ShutdownQuestion { mode: Some(ShutdownMode::ClusterOnly), ..ShutdownQuestion::default() };
    assert!(matches!(rehearsal.ask(&question).await, Reply::Admitted { .. }));
    rehearsal.settled().await;
    (rehearsal.elapsed(), rehearsal.report()["abandoned"][host].is_string())
}

#[tokio::test(start_paused = true)]
async fn a_dead_host_costs_the_others_seconds_and_is_named() {
    let (healthy, named) = against(None, "titan-13").await;
    assert!(!named);
    let patience = settings().cluster.shutdown.unreachable_timeout;
    let on = || "titan-13".to_owned();
    for fault in [Fault::Unreachable(on()), Fault::Hangs(on())] {
        let (took, named) = against(Some(fault.clone()), "titan-13").await;
        // Once in full when it is stopped, once more for each thing that comes after.
        assert!(took < healthy + 3 * patience, "{fault:?}: {took:?} instead of {healthy:?}");
        assert!(named, "{fault:?}");
    }
}

async fn with_outlets(fault: Option<Fault>) -> Rehearsal {
    let cut = ("  shutdown_budget", "  cut_outlets: true\n  shutdown_budget");
    let rehearsal = Rehearsal::with(site(), settings_with(cut, ("", ""))).await;
    rehearsal.site.change(|model| model.faults.extend(fault));
    rehearsal.arm(OnTrigger::HostPoweroff).await;
    rehearsal.outage(300, None, ended).await;
    rehearsal
}

#[tokio::test(start_paused = true)]
async fn the_shutdown_hook_has_no_word_where_this_host_does_not_power_off() {
    let rehearsal = with_outlets(None).await;
    let word = rehearsal.folder.path().join("cut-outlets");
    assert!(std::fs::read_to_string(&word).unwrap().contains("ups=pyrphoros"));
    // Nothing ends this process: to it the power-off was cancelled.
    tokio::time::sleep(Duration::from_secs(180)).await;
    settle(&word).await;
    assert!(!word.exists());

    let rehearsal = with_outlets(Some(Fault::NoSudo("titan-db".to_owned()))).await;
    let word = rehearsal.folder.path().join("cut-outlets");
    tokio::time::sleep(Duration::from_secs(60)).await;
    settle(&word).await;
    assert!(!word.exists() && rehearsal.site.model().hosts["titan-db"].on);
}

/// The file is removed by a thread, whose time is not virtual.
async fn settle(word: &std::path::Path) {
    for _ in 0..1000 {
        if !word.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        std::thread::yield_now();
    }
}
