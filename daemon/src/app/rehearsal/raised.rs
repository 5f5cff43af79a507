//! A person's stop of the cluster, under way when the power fails, and mains that return at every second of it.

use std::time::Duration;

use super::site::{HOSTS, site};
use super::{Rehearsal, ended};
use crate::api::port::ShutdownQuestion;
use crate::cluster::ShutdownMode;
use crate::control::Reply;
use crate::runbook::Outcome;
use crate::site::{Cause, OnTrigger, RunId};

const RUNTIME: u64 = 200;

/// The battery takes over, and so many seconds later somebody stops the cluster; metis is armed to power everything off.
async fn stopped_after(seconds: u64) -> Rehearsal {
    let rehearsal = Rehearsal::start(site()).await;
    rehearsal.arm(OnTrigger::HostPoweroff).await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let question = ShutdownQuestion { mode: Some(ShutdownMode::ClusterOnly), ..ShutdownQuestion::default() };
    assert_eq!(rehearsal.ask(&question).await, Reply::Admitted { run: RunId::new("shutdown-1") });
    rehearsal
}

#[tokio::test(start_paused = true)]
async fn at_whatever_moment_the_power_fails_the_site_is_off_before_the_battery_is_empty() {
    let mut raised = 0;
    for seconds in (0..40).step_by(2) {
        let rehearsal = stopped_after(0).await;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let failed = rehearsal.elapsed();
        rehearsal.outage(RUNTIME, None, |view| ended(view) && !view.triggers.is_empty()).await;
        let first = rehearsal.handle.view().run("shutdown-1").cloned().unwrap();
        assert_eq!(first.cause, Cause::Person);
        // It had ended already: then another one answers the trigger.
        let runs = rehearsal.handle.view().runs.len();
        assert_eq!(runs, 2 - first.raised.len(), "after {seconds} s: {first:#?}");
        raised += first.raised.len();
        while rehearsal.site.model().hosts.values().any(|host| host.on) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let gone = rehearsal.elapsed().saturating_sub(failed);
            assert!(gone < Duration::from_secs(RUNTIME), "after {seconds} s: {:#?}", rehearsal.site.model().log);
        }
        if !first.raised.is_empty() {
            let report = rehearsal.report();
            assert_eq!(report["raised"][0]["domains"], serde_json::json!(["pyrphoros"]), "{report:#}");
            assert!(report["trigger"]["because"].as_str().unwrap().contains("runtime left"), "{report:#}");
            assert_eq!(report["cause"], serde_json::json!({"cause": "person"}));
        }
        let model = rehearsal.site.model();
        for name in HOSTS {
            let ordered = model.log.iter().filter(|line| **line == format!("poweroff ordered {name}")).count();
            assert_eq!(ordered, 1, "after {seconds} s: {name}: {:#?}", model.log);
        }
    }
    assert!(raised > 5, "{raised}");
}

#[tokio::test(start_paused = true)]
async fn mains_that_return_at_any_second_leave_what_the_person_wanted_or_all_of_it() {
    let (mut lowered, mut finished) = (0, 0);
    for seconds in (0..60).step_by(3) {
        let rehearsal = stopped_after(0).await;
        rehearsal.outage(RUNTIME, Some(Duration::from_secs(seconds)), ended).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        let (record, model) = (rehearsal.record(), rehearsal.site.model());
        assert_eq!((record.id.as_str(), record.run.outcome), ("shutdown-1", Some(Outcome::Done)), "after {seconds} s: {}", record.reason);
        assert!(model.hosts.values().all(|host| host.units.is_empty()), "the person's stop is not undone by mains");
        let raised = record.raised.iter().filter(|raised| raised.lowered.is_none()).count();
        let off = model.hosts.values().filter(|host| !host.on).count();
        assert_eq!(off, raised * HOSTS.len(), "after {seconds} s: {:#?}", model.log);
        lowered += record.raised.len() - raised;
        finished += raised;
    }
    assert!(lowered > 2 && finished > 2, "both happen: {lowered} {finished}");
}
