//! Hosts that only a magic packet brings back, in virtual time.

use std::time::Duration;

use super::site::{HOSTS, settings_with, site};
use super::{Rehearsal, ended};
use crate::app::topology;
use crate::cluster::startup::{StartupOrder, plan};
use crate::control::{Reply, Request};
use crate::runbook::Outcome;
use crate::sim::site::{Fault, Site};
use crate::site::{Cause, Learned, OnTrigger};

const WAKES: (&str, &str) = (
    "titan-15: { class: agent, network: { address: 192.168.22.45 } }",
    "titan-15: { class: agent, network: { address: 192.168.22.45 }, host: { returns: wake-on-lan, mac: '00:1b:21:3a:4f:5e' } }",
);

/// The mains are back, and titan-15 stays off.
async fn after_an_outage() -> Rehearsal {
    let rehearsal = Rehearsal::with(site(), settings_with(("", ""), WAKES)).await;
    rehearsal.arm(OnTrigger::HostPoweroff).await;
    rehearsal.outage(300, None, ended).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    rehearsal.site.change(|model| {
        for name in HOSTS.iter().filter(|name| **name != "titan-15") {
            let host = model.hosts.get_mut(*name).unwrap();
            (host.on, host.leftovers) = (true, 0);
            host.boots += 1;
        }
        model.log.clear();
    });
    rehearsal.read("OL CHRG", 80.0, 2500).await;
    rehearsal
}

async fn begin(rehearsal: &Rehearsal) {
    let settings = &rehearsal.settings;
    let order = StartupOrder { has_ups: true, ..StartupOrder::default() };
    let runbook = plan(&settings.cluster, &topology::of(settings, "titan-db"), &Learned::default(), &order);
    let step = runbook.step(&"wake.titan-15".into()).unwrap();
    assert_eq!(step.by_hand, "wakeonlan -i 192.168.22.255 00:1b:21:3a:4f:5e");
    assert!(runbook.step(&"wake.titan-13".into()).is_none(), "it comes back by itself");
    let request = Request::Admit { requester: "ada".to_owned(), runbook, cause: Cause::Person, within: None };
    let reply = rehearsal.handle.request(request).await.unwrap();
    assert!(matches!(reply, Reply::Admitted { .. }), "{reply:?}");
}

async fn ends(rehearsal: &Rehearsal) {
    let waited = tokio::time::Instant::now();
    while !ended(&rehearsal.handle.view()) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(waited.elapsed() < Duration::from_secs(24 * 3600), "it did not end: {}", rehearsal.handle.view().phase);
    }
    let record = rehearsal.record();
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
}

fn packets(site: &Site) -> usize {
    site.model().log.iter().filter(|line| *line == "packet titan-15").count()
}

#[tokio::test(start_paused = true)]
async fn a_host_that_sleeps_is_woken() {
    let rehearsal = after_an_outage().await;
    begin(&rehearsal).await;
    ends(&rehearsal).await;
    let log = rehearsal.site.model().log;
    assert_eq!((packets(&rehearsal.site), log[0].as_str(), log[1].as_str()), (1, "packet titan-15", "on titan-15"), "{log:#?}");
    let record = rehearsal.record();
    assert_eq!(record.run.state(&"wake.titan-15".into()).unwrap().detail, "titan-15 is on, after 1 magic packets");
}

#[tokio::test(start_paused = true)]
async fn one_that_sleeps_on_is_sent_more_and_more_seldom_and_its_gate_waits() {
    let rehearsal = after_an_outage().await;
    let asleep = Fault::SleepsOn("titan-15".to_owned());
    rehearsal.site.change(|model| {
        model.faults.insert(asleep.clone());
    });
    begin(&rehearsal).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let sent = packets(&rehearsal.site);
    // 10, 20, 40, 80 s, then every 2 min.
    assert!((25..40).contains(&sent), "{sent}");
    assert!(!rehearsal.site.model().log.iter().any(|line| line.starts_with("start")), "no packet is taken for a host");
    rehearsal.site.change(|model| {
        model.faults.remove(&asleep);
    });
    ends(&rehearsal).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_outage_wakes_nobody() {
    let rehearsal = after_an_outage().await;
    rehearsal.site.change(|model| {
        model.faults.insert(Fault::SleepsOn("titan-15".to_owned()));
    });
    begin(&rehearsal).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(packets(&rehearsal.site) > 0);
    rehearsal.read("OB DISCHRG", 70.0, 2000).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = packets(&rehearsal.site);
    for _ in 0..300 {
        rehearsal.read("OB DISCHRG", 60.0, 1800).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(packets(&rehearsal.site), before);
    rehearsal.site.change(|model| model.faults.clear());
    rehearsal.read("OL CHRG", 60.0, 1800).await;
    ends(&rehearsal).await;
    assert!(packets(&rehearsal.site) > before);
}
