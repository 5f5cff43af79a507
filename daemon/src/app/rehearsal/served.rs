//! The last gates of a start-up in virtual time: what the site serves, as it is seen from outside.

use std::sync::Arc;
use std::time::Duration;

use super::site::{settings_with, site};
use super::{Rehearsal, ended};
use crate::app::topology;
use crate::cluster::startup::{StartupOrder, plan};
use crate::config::Settings;
use crate::control::{Reply, Request, RunRecord};
use crate::runbook::{Outcome, Status};
use crate::sim::site::{SimAnswer, Site};
use crate::site::{Cause, Learned};

const HEALTHY: &str = r#"{"status":"pass","description":"Gitea: Git with a cup of tea","checks":{"database:ping":[{"status":"pass","time":"2026-11-21T20:00:00Z"}]}}"#;
const INSTALLER: &str = r#"{"status":"pass","description":"Gitea: Installation stage"}"#;

const STARTUP: &str = "startup:
  checklist_timeout: 2m
  stability_window: 60s
  stability_timeout: 5m
  critical_endpoints: [apps/web]
  ingress: { ignore: [old.lan] }
  services:
    - { name: git, kind: gitea, url: 'https://scm.lan' }
cluster:
";

fn answer(code: u16, body: &str) -> SimAnswer {
    SimAnswer { code, body: body.to_owned(), ..SimAnswer::default() }
}

/// A site that serves its Git and a web page; a host that is ignored leads nowhere.
fn serving() -> (Site, Settings) {
    let site = site();
    site.change(|model| {
        for host in ["web.lan", "old.lan"] {
            model.ingresses.insert(host.to_owned(), "apps/web".to_owned());
        }
        model.answers.insert("web.lan".to_owned(), answer(401, "log in"));
        model.answers.insert("scm.lan".to_owned(), answer(200, HEALTHY));
    });
    (site, settings_with(("cluster:\n", STARTUP), ("", "")))
}

async fn begin(rehearsal: &Rehearsal) {
    let settings = &rehearsal.settings;
    let order = StartupOrder { has_ups: true, ..StartupOrder::default() };
    let runbook = plan(&settings.cluster, &topology::of(settings, "titan-db"), &Learned::default(), &order);
    assert_eq!(runbook.refusals, Vec::new());
    let request = Request::Admit { requester: "ada".to_owned(), runbook, cause: Cause::Person, within: None };
    let reply = rehearsal.handle.request(request).await.unwrap();
    assert!(matches!(reply, Reply::Admitted { .. }), "{reply:?}");
}

async fn ends(rehearsal: &Rehearsal) -> Arc<RunRecord> {
    let waited = tokio::time::Instant::now();
    while !ended(&rehearsal.handle.view()) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(waited.elapsed() < Duration::from_secs(6 * 3600), "it did not end: {}", rehearsal.handle.view().phase);
    }
    rehearsal.record()
}

#[tokio::test(start_paused = true)]
async fn a_site_that_serves_is_green_and_nothing_was_changed() {
    let (site, settings) = serving();
    let rehearsal = Rehearsal::with(site, settings).await;
    begin(&rehearsal).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    let detail = |step: &str| record.run.state(&step.into()).unwrap().detail.clone();
    assert_eq!(detail("ingress"), "all 1 hosts of the ingress are answered for by their backends");
    assert_eq!(detail("services"), "all 1 checks of services");
    assert_eq!(detail("endpoints"), "all 1 critical Services have ready addresses");
    assert_eq!(rehearsal.site.model().log, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_ingress_own_redirect_to_tls_is_no_answer_of_a_backend() {
    for (over_tls, outcome) in [(Some(answer(200, "plain")), Outcome::Done), (None, Outcome::Failed)] {
        let (site, settings) = serving();
        site.change(|model| {
            model.ingresses.insert("plain.lan".to_owned(), "apps/web".to_owned());
            let mut redirect = answer(308, "");
            redirect.headers.insert("location".to_owned(), "https://plain.lan/".to_owned());
            model.answers.insert("http://plain.lan".to_owned(), redirect);
            model.answers.extend(over_tls.map(|page| ("plain.lan".to_owned(), page)));
        });
        let rehearsal = Rehearsal::with(site, settings).await;
        begin(&rehearsal).await;
        let record = ends(&rehearsal).await;
        assert_eq!(record.run.outcome, Some(outcome), "{}", record.reason);
    }
}

/// What is wrong, at which gate the run ends, and a word of why.
type Twin = (&'static str, fn(&Site), &'static str, &'static str);

const TWINS: &[Twin] = &[
    (
        "Gitea in installer mode",
        |site| site.change(|model| drop(model.answers.insert("scm.lan".into(), answer(200, INSTALLER)))),
        "services",
        "database:ping",
    ),
    (
        "the ingress does not know the host",
        |site| site.change(|model| drop(model.answers.remove("web.lan"))),
        "ingress",
        "nobody has a rule",
    ),
    (
        "one page for everybody",
        |site| {
            site.change(|model| {
                for host in ["web.lan", crate::probe::NOBODYS_HOST] {
                    model.answers.insert(host.into(), answer(200, "welcome"));
                }
            });
        },
        "ingress",
        "not its backend",
    ),
    (
        "a code that is not accepted",
        |site| site.change(|model| drop(model.answers.insert("web.lan".into(), answer(503, "")))),
        "ingress",
        "503",
    ),
    (
        "nobody behind a critical Service",
        |site| site.change(|model| drop(model.ingresses.insert("web.lan".into(), "apps/other".into()))),
        "endpoints",
        "",
    ),
];

#[tokio::test(start_paused = true)]
async fn what_only_looks_green_is_not() {
    for (name, spoil, step, word) in TWINS {
        let (site, mut settings) = serving();
        if *step == "endpoints" {
            settings.cluster.startup.endpoints.insert("apps/gone".to_owned());
        }
        spoil(&site);
        let rehearsal = Rehearsal::with(site, settings).await;
        begin(&rehearsal).await;
        let record = ends(&rehearsal).await;
        assert_eq!(record.run.outcome, Some(Outcome::Failed), "{name}: {}", record.reason);
        let detail = record.run.state(&(*step).into()).unwrap().detail.clone();
        assert!(detail.contains(word) && detail.contains("What to do"), "{name}: {detail}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_falters_in_the_soak_is_a_regression() {
    let (site, settings) = serving();
    let rehearsal = Rehearsal::with(site, settings).await;
    begin(&rehearsal).await;
    let soaks = |rehearsal: &Rehearsal| {
        let view = rehearsal.handle.view();
        let state = view.runs.first().and_then(|record| record.run.state(&"soak".into()).cloned());
        state.is_some_and(|state| matches!(state.status, Status::Running { .. }))
    };
    while !soaks(&rehearsal) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!ended(&rehearsal.handle.view()));
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    rehearsal.site.change(|model| drop(model.answers.insert("scm.lan".into(), answer(424, r#"{"status":"fail"}"#))));
    tokio::time::sleep(Duration::from_secs(40)).await;
    rehearsal.site.change(|model| drop(model.answers.insert("scm.lan".into(), answer(200, HEALTHY))));
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    let soak = &record.run.state(&"soak".into()).unwrap().detail;
    assert!(soak.contains("on the way") && soak.contains("git: https://scm.lan/api/healthz answers 424"), "{soak}");
}
