//! Start-ups that a known ill holds up: mended once, left alone where it only looks so, and ended loudly where nothing helps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::site::{HOSTS, settings, site};
use super::startup::{after_an_outage_of, begin, ends, order};
use super::{Rehearsal, ended};
use crate::cluster::repairs::seen::{FluxSeen, Identity, JobSeen, ScaleSeen};
use crate::control::{RepairEnd, Reply, Request, RunRecord};
use crate::runbook::Outcome;
use crate::sim::ills::Ills;
use crate::sim::site::Site;
use crate::site::{ObjectRef, Repair, RepairCase, StepId};

const IMMUTABLE: &str =
    "Job/apps/migrate dry-run failed (Invalid): Job.batch \"migrate\" is invalid: spec.template: Invalid value: {}: field is immutable";
const LOCKED: &str = "Helm upgrade failed: another operation (install/upgrade/rollback) is in progress";

fn identity(kind: &str, namespace: &str, name: &str, applied_by: Option<&str>) -> Identity {
    let object = ObjectRef::new(kind, namespace, name);
    let applied_by = applied_by.map(|name| ObjectRef::new("Kustomization", "flux-system", name));
    Identity { uid: format!("uid-{name}"), object, applied_by, opted_out: false, deleting: false }
}

fn flux(kind: &str, name: &str, message: &str) -> FluxSeen {
    FluxSeen {
        is: identity(kind, "flux-system", name, Some("root")),
        suspended: false,
        failed: !message.is_empty(),
        reason: String::new(),
        message: message.to_owned(),
        busy: false,
        stalled: String::new(),
        source: "flux-system/flux-system".into(),
    }
}

fn cure(of: &str, kind: &str, name: &str) -> BTreeMap<String, BTreeSet<ObjectRef>> {
    [(of.to_owned(), BTreeSet::from([ObjectRef::new(kind, "flux-system", name)]))].into()
}

/// A Job that Git has changed holds up `apps`.
fn immutable() -> Ills {
    Ills {
        flux: vec![flux("Kustomization", "root", ""), flux("Kustomization", "apps", IMMUTABLE)],
        jobs: vec![JobSeen { is: identity("Job", "apps", "migrate", Some("apps")), owned: false, finished: true }],
        cures: cure("uid-migrate", "Kustomization", "apps"),
        ..Ills::default()
    }
}

/// A release that Helm takes for being worked on.
fn locked() -> Ills {
    let flux = vec![flux("Kustomization", "root", ""), flux("HelmRelease", "web", LOCKED)];
    Ills { flux, cures: cure("uid-web", "HelmRelease", "web"), ..Ills::default() }
}

fn ill(ills: Ills) -> Site {
    let site = site();
    site.change(|model| {
        model.flux.push(crate::cluster::port::FluxObject {
            object: ObjectRef::new("HelmRelease", "flux-system", "web"),
            suspended: false,
            mark: None,
        });
        model.ills = ills;
    });
    site
}

fn mended(site: &Site) -> Vec<String> {
    site.model().log.into_iter().filter(|line| line.starts_with("repair:")).collect()
}

async fn played(ills: Ills) -> (Rehearsal, Arc<RunRecord>) {
    let rehearsal = Rehearsal::start(ill(ills)).await;
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    // The report is written after that.
    tokio::time::sleep(Duration::from_millis(100)).await;
    (rehearsal, record)
}

#[tokio::test(start_paused = true)]
async fn each_deadlock_is_broken_by_one_change() {
    let cases = [
        (immutable(), "repair: delete Job/apps/migrate", Repair::ImmutableJob),
        (locked(), "repair: reset HelmRelease/flux-system/web", Repair::PendingRelease),
    ];
    for (ills, change, repair) in cases {
        let (rehearsal, record) = played(ills).await;
        assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
        assert_eq!(mended(&rehearsal.site), [change]);
        let used: Vec<_> = record.repairs.iter().map(|known| (known.case.repair, known.ended.as_ref().map(|end| end.done))).collect();
        assert_eq!(used, [(repair, Some(true))]);
        let report = std::fs::read_to_string(rehearsal.folder.path().join("last-startup-report.json")).unwrap();
        assert!(report.contains(&format!("repair {} done", repair.name())), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn near_misses_are_left_alone_and_a_person_is_called() {
    type Spoil = fn(&mut Ills);
    let twins: [(&str, Spoil); 6] = [
        ("without Flux' labels", |ills| ills.jobs[0].is.applied_by = None),
        ("another Kustomization's", |ills| ills.jobs[0].is.applied_by = ills.flux[0].is.applied_by.clone()),
        ("running", |ills| ills.jobs[0].finished = false),
        ("opted out", |ills| ills.jobs[0].is.opted_out = true),
        ("owned", |ills| ills.jobs[0].owned = true),
        ("suspended by a person", |ills| ills.flux[1].suspended = true),
    ];
    for (name, spoil) in twins {
        let mut ills = immutable();
        spoil(&mut ills);
        let (rehearsal, record) = played(ills).await;
        assert_eq!(mended(&rehearsal.site), Vec::<String>::new(), "{name}");
        assert_eq!(record.run.outcome, Some(Outcome::Failed), "{name}");
        assert!(record.reason.contains("no repair of metis fits what is seen. What to do: flux get all"), "{name}: {}", record.reason);
        let phase = rehearsal.handle.view().phase.clone();
        assert!(phase.contains("startup-1 FAILED, a person has to look"), "{phase}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_help_is_tried_once_and_then_the_start_up_stops_loudly() {
    let (rehearsal, record) = played(Ills { cures: BTreeMap::new(), ..locked() }).await;
    assert_eq!(mended(&rehearsal.site), ["repair: reset HelmRelease/flux-system/web"], "once");
    assert_eq!(record.run.outcome, Some(Outcome::Failed));
    for word in ["repairs are used up: pending-release", "by hand: helm -n NAMESPACE history NAME", "What to do: flux get all"] {
        assert!(record.reason.contains(word), "{word} is missing in {}", record.reason);
    }
    let report = std::fs::read(rehearsal.folder.path().join("last-startup-report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["outcome"], "failed");
    assert!(report["reason"].as_str().unwrap().contains("repairs are used up"));
}

#[tokio::test(start_paused = true)]
async fn what_is_switched_off_or_cannot_be_seen_is_not_mended() {
    let mut off = settings();
    off.cluster.startup.repairs.off.insert(Repair::ImmutableJob);
    let rehearsal = Rehearsal::with(ill(immutable()), off).await;
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    assert_eq!((record.run.outcome, mended(&rehearsal.site)), (Some(Outcome::Failed), Vec::new()));
    assert!(record.reason.contains("switched off: immutable-job"), "{}", record.reason);
    let (rehearsal, record) = played(Ills { hidden: true, ..immutable() }).await;
    assert_eq!((record.run.outcome, mended(&rehearsal.site)), (Some(Outcome::Failed), Vec::new()));
    assert!(record.reason.contains("not looked at: immutable-job: forbidden"), "{}", record.reason);
}

/// As the next life of the daemon finds it: begun before a kill -9, and ended or not.
async fn found_begun(ended: bool) -> (Rehearsal, Arc<RunRecord>) {
    let rehearsal = Rehearsal::start(ill(immutable())).await;
    begin(&rehearsal, &order()).await;
    let run = rehearsal.handle.view().runs.first().unwrap().id.clone();
    let case = RepairCase::of(Repair::ImmutableJob, &ObjectRef::new("Job", "apps", "migrate"), "uid-migrate");
    let step = StepId::new("flux");
    let begun = Request::BeginRepair { run: run.clone(), step: step.clone(), case: case.clone() };
    assert_eq!(rehearsal.handle.request(begun).await, Ok(Reply::Noted));
    if ended {
        let end = RepairEnd { done: true, detail: "deleted".into() };
        assert_eq!(rehearsal.handle.request(Request::EndRepair { run, step, case, end }).await, Ok(Reply::Noted));
    }
    let record = ends(&rehearsal).await;
    (rehearsal, record)
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_life_did_is_not_repeated_and_what_it_only_began_is_looked_at_first() {
    let (rehearsal, record) = found_begun(true).await;
    assert_eq!((mended(&rehearsal.site), record.run.outcome), (Vec::new(), Some(Outcome::Failed)), "used, whatever is seen");
    let (rehearsal, record) = found_begun(false).await;
    assert_eq!(mended(&rehearsal.site), ["repair: delete Job/apps/migrate"]);
    assert_eq!((record.run.outcome, record.repairs.len()), (Some(Outcome::Done), 1), "{}", record.reason);
}

#[tokio::test(start_paused = true)]
async fn while_the_mains_are_gone_nothing_is_mended() {
    let rehearsal = Rehearsal::start(ill(locked())).await;
    begin(&rehearsal, &order()).await;
    // The symptom has to stand for two minutes.
    tokio::time::sleep(Duration::from_secs(60)).await;
    for _ in 0..120 {
        rehearsal.read("OB DISCHRG", 90.0, 3000).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(rehearsal.handle.view().runs.first().unwrap().run.hold.is_some());
    assert_eq!(mended(&rehearsal.site), Vec::<String>::new());
    rehearsal.read("OL CHRG", 90.0, 3000).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    assert_eq!(mended(&rehearsal.site).len(), 1);
}

/// A Deployment of the Git server's, which had two replicas before the outage and has none after it; who scaled it, and when.
async fn at_zero(after_the_shutdown: i64) -> (Rehearsal, Arc<RunRecord>) {
    let is = identity("Deployment", "gitea", "gitea", Some("apps"));
    let workload = ScaleSeen { is, version: "7".into(), replicas: 2, ready: 2, scaled: None };
    let flux = vec![flux("Kustomization", "root", ""), flux("Kustomization", "apps", "")];
    let rehearsal = after_an_outage_of(ill(Ills { flux, workloads: vec![workload], ..Ills::default() }), &HOSTS).await;
    let shutdown = rehearsal.record();
    let scaled = shutdown.ended.unwrap() + jiff::SignedDuration::from_secs(after_the_shutdown);
    rehearsal.site.change(|model| {
        let workload = &mut model.ills.workloads[0];
        (workload.replicas, workload.ready, workload.scaled) = (0, 0, Some(scaled));
    });
    begin(&rehearsal, &order()).await;
    while !ended(&rehearsal.handle.view()) {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let record = rehearsal.record();
    (rehearsal, record)
}

#[tokio::test(start_paused = true)]
async fn what_the_shutdown_left_without_replicas_gets_them_back_and_what_a_person_scaled_stays() {
    let (rehearsal, record) = at_zero(-10).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    assert_eq!(mended(&rehearsal.site), ["repair: scale Deployment/gitea/gitea to 2"]);
    let (rehearsal, record) = at_zero(10).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    assert_eq!(mended(&rehearsal.site), Vec::<String>::new());
}
