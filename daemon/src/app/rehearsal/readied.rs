//! What is asked of the hosts themselves before k3s starts, in virtual time.

use std::time::Duration;

use super::site::{settings_with, site};
use super::{Rehearsal, ended};
use crate::app::topology;
use crate::cluster::startup::{StartupOrder, plan};
use crate::control::{Reply, Request};
use crate::runbook::Outcome;
use crate::sim::site::Fault;
use crate::site::{Cause, Learned};

const QUORUM: (&str, &str) = ("cluster:\n", "startup: { clocks: quorum, clock_timeout: 60s, node_timeout: 60s }\ncluster:\n");
const STORAGE: (&str, &str) = ("titan-15: { class: agent,", "titan-15: { class: agent, k3s: { labels: { longhorn: 'true' } },");

async fn ends(rehearsal: &Rehearsal, order: &StartupOrder) -> Outcome {
    let settings = &rehearsal.settings;
    let runbook = plan(&settings.cluster, &topology::of(settings, "titan-db"), &Learned::default(), order);
    assert_eq!(runbook.refusals, Vec::new());
    let request = Request::Admit { requester: "ada".to_owned(), runbook, cause: Cause::Person, within: None };
    let reply = rehearsal.handle.request(request).await.unwrap();
    assert!(matches!(reply, Reply::Admitted { .. }), "{reply:?}");
    let waited = tokio::time::Instant::now();
    while !ended(&rehearsal.handle.view()) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(waited.elapsed() < Duration::from_secs(24 * 3600), "it did not end: {}", rehearsal.handle.view().phase);
    }
    rehearsal.record().run.outcome.unwrap()
}

async fn with(faults: &[Fault]) -> Rehearsal {
    let site = site();
    site.change(|model| model.faults.extend(faults.iter().cloned()));
    Rehearsal::with(site, settings_with(QUORUM, STORAGE)).await
}

fn detail(rehearsal: &Rehearsal, step: &str) -> String {
    rehearsal.record().run.state(&step.into()).unwrap().detail.clone()
}

#[tokio::test(start_paused = true)]
async fn most_clocks_suffice_and_fewer_do_not() {
    let order = StartupOrder { has_ups: true, ..StartupOrder::default() };
    let astray = |name: &str| Fault::ClockAstray(name.to_owned());
    let most = with(&[astray("titan-13")]).await;
    assert_eq!(ends(&most, &order).await, Outcome::Done, "{}", most.record().reason);
    assert_eq!(detail(&most, "clocks"), "the clocks of 4 of 5 hosts are synchronised");
    let few = with(&[astray("titan-13"), astray("titan-05"), astray("titan-0a")]).await;
    assert_eq!(ends(&few, &order).await, Outcome::Failed);
    let why = detail(&few, "clocks");
    assert!(why.contains("2 of 5") && why.contains("titan-0a is not synchronised") && why.contains("What to do"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_host_without_what_its_storage_needs_is_named_and_may_be_passed_over() {
    let lacks = [Fault::NoPackages("titan-15".to_owned()), Fault::NoPackages("titan-13".to_owned())];
    let order = StartupOrder { has_ups: true, ..StartupOrder::default() };
    let rehearsal = with(&lacks).await;
    assert_eq!(ends(&rehearsal, &order).await, Outcome::Failed);
    let why = detail(&rehearsal, "host-packages.titan-15");
    assert!(why.contains("titan-15 lacks open-iscsi") && why.contains("--skip-package-check"), "{why}");
    assert!(rehearsal.record().run.state(&"host-packages.titan-13".into()).is_none(), "it keeps no data");
    let passed_over = StartupOrder { skip_packages: true, ..order };
    assert_eq!(ends(&rehearsal, &passed_over).await, Outcome::Done, "{}", rehearsal.record().reason);
}
