//! The power fails again in every step of a start-up; and a datastore that takes its time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::site::{HOSTS, settings, site};
use super::startup::{after_an_outage, as_before, begin, ends, order, switch_on};
use super::{Rehearsal, ended};
use crate::cluster::startup::plan;
use crate::runbook::{Outcome, Status};
use crate::sim::site::{Fault, Model};
use crate::site::{Learned, StepId};

/// What metis does to the site, and nobody else.
fn acts(model: &Model) -> Vec<&String> {
    let begun = ["start ", "uncordon", "resume", "reconcile", "poweroff ordered"];
    model.log.iter().filter(|line| begun.iter().any(|word| line.starts_with(word))).collect()
}

fn steps() -> Vec<StepId> {
    let settings = settings();
    let topology = crate::app::topology::of(&settings, "titan-db");
    let book = plan(&settings.cluster, &topology, &Learned::default(), &order());
    book.steps().map(|step| step.id.clone()).collect()
}

/// Until that step is at work, or over.
async fn reaches(rehearsal: &Rehearsal, step: &StepId) {
    let mut views = rehearsal.handle.views();
    let begun = views.wait_for(|view| {
        let state = view.runs.first().and_then(|record| record.run.state(step));
        state.is_some_and(|state| !matches!(state.status, Status::Pending))
    });
    tokio::time::timeout(Duration::from_secs(7200), begun).await.expect("it is not come to").unwrap();
}

/// A start-up after an outage, that has come to this step when the power fails again.
async fn fails_again_in(step: &StepId, charge: f64) -> (Rehearsal, Model) {
    let (rehearsal, before) = after_an_outage(&HOSTS).await;
    begin(&rehearsal, &order()).await;
    reaches(&rehearsal, step).await;
    rehearsal.read("OB DISCHRG", charge, 2000).await;
    (rehearsal, before)
}

#[tokio::test(start_paused = true)]
async fn an_outage_in_any_step_holds_it_and_it_goes_on_when_the_mains_are_back() {
    for step in steps() {
        let (rehearsal, before) = fails_again_in(&step, 70.0).await;
        // What was under way comes to its end, or is given up.
        for _ in 0..5 {
            sleep(Duration::from_secs(2)).await;
            rehearsal.read("OB DISCHRG", 69.0, 1900).await;
        }
        let view = rehearsal.handle.view();
        let record = view.runs.first().unwrap();
        assert!(record.run.hold.is_some() || record.run.outcome.is_some(), "{step}: {}", view.phase);
        let held = rehearsal.site.model();
        for _ in 0..30 {
            sleep(Duration::from_secs(2)).await;
            rehearsal.read("OB DISCHRG", 68.0, 1800).await;
        }
        assert_eq!(acts(&rehearsal.site.model()), acts(&held), "{step}: nothing is begun on battery");
        rehearsal.read("OL CHRG", 68.0, 1800).await;
        let record = ends(&rehearsal).await;
        assert_eq!(record.run.outcome, Some(Outcome::Done), "{step}: {}", record.reason);
        assert_eq!(record.run.book.kind, "startup", "{step}");
        as_before(&before, &rehearsal.site.model());
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_with_too_little_charge_in_any_step_stops_the_site_and_it_comes_back() {
    for step in steps() {
        let (rehearsal, before) = fails_again_in(&step, 30.0).await;
        let begun = Instant::now();
        while !ended(&rehearsal.handle.view()) {
            sleep(Duration::from_secs(2)).await;
            rehearsal.read("OB DISCHRG", 30.0, 1900).await;
            assert!(begun.elapsed() < Duration::from_secs(3600), "{step}: {}", rehearsal.handle.view().phase);
        }
        let record = rehearsal.record();
        // While no server is up there is nobody who could drain or suspend: hosts are stopped all the same.
        let outcomes = [Some(Outcome::Done), Some(Outcome::Degraded)];
        assert!(record.run.book.kind == "shutdown" && outcomes.contains(&record.run.outcome), "{step}: {}", record.reason);
        sleep(Duration::from_secs(60)).await;
        let model = rehearsal.site.model();
        assert!(model.hosts.values().all(|host| !host.on), "{step}: {:#?}", model.log);
        switch_on(&rehearsal.site, &HOSTS);
        rehearsal.read("OL CHRG", 90.0, 3000).await;
        begin(&rehearsal, &order()).await;
        let record = ends(&rehearsal).await;
        assert_eq!(record.run.outcome, Some(Outcome::Done), "{step}: {}", record.reason);
        as_before(&before, &rehearsal.site.model());
    }
}

/// A site whose API is not ready for that reason, and whose patience is five minutes.
async fn waits_for_the_api(fault: Fault) -> (Rehearsal, Model) {
    let mut settings = settings();
    settings.cluster.startup.api_timeout = Duration::from_secs(300);
    let before = site().model();
    let rehearsal = Rehearsal::with(site(), settings).await;
    rehearsal.site.change(|model| {
        model.faults.insert(fault);
    });
    begin(&rehearsal, &order()).await;
    (rehearsal, before)
}

#[tokio::test(start_paused = true)]
async fn a_datastore_that_opens_for_17_minutes_is_waited_for_and_never_started_again() {
    let (rehearsal, before) = waits_for_the_api(Fault::DatastoreOpens).await;
    sleep(Duration::from_secs(17 * 60)).await;
    let state = rehearsal.handle.view().runs.first().unwrap().run.state(&"control-plane".into()).unwrap().clone();
    assert!(matches!(state.status, Status::Running { .. }) && state.detail.contains("waiting"), "{state:?}");
    rehearsal.site.change(|model| model.faults.clear());
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    assert_eq!(acts(&rehearsal.site.model()), Vec::<&String>::new());
    as_before(&before, &rehearsal.site.model());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_nothing_is_not_waited_for_as_long() {
    let (rehearsal, _) = waits_for_the_api(Fault::ApiFails).await;
    let begun = Instant::now();
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Failed), "{}", record.reason);
    let waited = begun.elapsed().as_secs();
    assert!((300..400).contains(&waited), "{waited} s");
    let state = record.run.state(&"control-plane".into()).unwrap();
    assert!(state.detail.contains("What to do: journalctl -u k3s"), "{}", state.detail);
}
