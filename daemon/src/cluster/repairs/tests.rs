use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::seen::{AttachmentSeen, FluxSeen, GitSeen, Identity, JobSeen, PodSeen, ScaleSeen, Symptoms, Waiting};
use super::*;
use crate::cluster::StartupSettings;
use crate::cluster::port::{Facts, NodeFacts};
use crate::cluster::seen::{NodeSeen, Seen, WorkloadSeen};
use crate::site::{Gate, Mark, ObjectRef, Repair, RepairCase};

/// As kustomize-controller says it (fluxcd/pkg/ssa of Flux 2.3 and later).
const IMMUTABLE: &str = "Job/apps/migrate dry-run failed (Invalid): Job.batch \"migrate\" is invalid: spec.template: Invalid value: core.PodTemplateSpec{ObjectMeta:v1.ObjectMeta{Name:\"\"}}: field is immutable\n";
const LOCKED: &str =
    "Helm upgrade failed for release media/jellyfin with chart jellyfin@2.0.0: another operation (install/upgrade/rollback) is in progress";
const ENDED: i64 = 1_800_000_000;

fn at(after: i64) -> Timestamp {
    Timestamp::from_second(ENDED + after).unwrap()
}

fn settings() -> StartupSettings {
    let repairs = RepairSettings { registry_host: "registry.example".into(), ..RepairSettings::default() };
    StartupSettings { namespaces: BTreeSet::from(["vault".to_owned()]), repairs, ..StartupSettings::default() }
}

fn kustomization(name: &str) -> ObjectRef {
    ObjectRef::new("Kustomization", "flux-system", name)
}

fn identity(kind: &str, namespace: &str, name: &str, applied_by: Option<ObjectRef>) -> Identity {
    let object = ObjectRef::new(kind, namespace, name);
    Identity { uid: format!("uid of {object}"), object, applied_by, opted_out: false, deleting: false }
}

fn flux(object: &ObjectRef, applied_by: Option<ObjectRef>) -> FluxSeen {
    FluxSeen {
        is: Identity { uid: format!("uid of {object}"), object: object.clone(), applied_by, opted_out: false, deleting: false },
        suspended: false,
        failed: false,
        reason: String::new(),
        message: String::new(),
        busy: false,
        stalled: String::new(),
        source: "flux-system/flux-system".into(),
    }
}

fn pod(namespace: &str, name: &str, node: &str, waiting: Option<(&str, &str)>) -> PodSeen {
    let waiting = waiting.map(|(reason, image)| Waiting { container: "main".into(), reason: reason.into(), image: image.into() });
    PodSeen {
        is: identity("Pod", namespace, name, Some(kustomization("apps"))),
        labels: BTreeMap::new(),
        controlled: true,
        node: node.into(),
        finished: false,
        ready: false,
        waiting: waiting.into_iter().collect(),
        volumes: BTreeSet::new(),
    }
}

fn workload(namespace: &str, name: &str, replicas: i32) -> ScaleSeen {
    let is = identity("Deployment", namespace, name, Some(kustomization("apps")));
    ScaleSeen { is, version: "7".into(), replicas, ready: replicas, scaled: Some(at(-30)) }
}

fn node(name: &str, boot: &str) -> NodeSeen {
    NodeSeen { name: name.into(), ready: true, lease_fresh: true, boot_id: boot.into(), ..NodeSeen::default() }
}

/// One of every ill.
fn sick() -> Symptoms {
    let apps = FluxSeen { failed: true, message: IMMUTABLE.into(), ..flux(&kustomization("apps"), Some(kustomization("root"))) };
    let media = FluxSeen {
        failed: true,
        message: LOCKED.into(),
        source: String::new(),
        ..flux(&ObjectRef::new("HelmRelease", "media", "jellyfin"), Some(kustomization("apps")))
    };
    let git = |name: &str, ready: bool, message: &str| GitSeen {
        is: identity("GitRepository", "flux-system", name, Some(kustomization("root"))),
        suspended: false,
        ready,
        message: message.into(),
        revision: String::new(),
    };
    let mut crashing = pod("flux-system", "source-controller-1", "titan-13", Some(("CrashLoopBackOff", "")));
    crashing.labels.insert("app".into(), "source-controller".into());
    let mut waiting = pod("vault", "vault-0", "titan-15", Some(("ContainerCreating", "")));
    waiting.volumes.insert("pvc-1".into());
    let pulling = pod("gitea", "gitea-0", "titan-13", Some(("ImagePullBackOff", "registry.example/library/gitea:1.24")));
    let held = AttachmentSeen {
        is: identity("VolumeAttachment", "", "csi-1", None),
        volume: "pvc-1".into(),
        node: "titan-13".into(),
        created: Some(at(-3600)),
        in_use: false,
    };
    let mut root = flux(&kustomization("root"), Some(kustomization("root")));
    root.source = "flux-system/other".into();
    Symptoms {
        flux: Ok(vec![root, apps, media]),
        sources: Ok(vec![
            git("flux-system", false, "failed to checkout: dial tcp 10.43.0.9:22: connect: connection refused"),
            git("other", true, "stored artifact"),
        ]),
        jobs: Ok(vec![JobSeen { is: identity("Job", "apps", "migrate", Some(kustomization("apps"))), owned: false, finished: true }]),
        pods: Ok(vec![crashing, waiting, pulling]),
        workloads: Ok(vec![
            ScaleSeen { ready: 0, ..workload("vault", "injector", 0) },
            ScaleSeen { ready: 0, ..workload("gitea", "gitea", 1) },
            workload("harbor", "registry", 2),
        ]),
        attachments: Ok(vec![held]),
        nodes: Ok(vec![node("titan-13", "new"), node("titan-15", "new")]),
    }
}

fn known() -> Known {
    let count = |name: &str, replicas| (ObjectRef::new("Deployment", "vault", name), replicas);
    let node = NodeFacts { name: "titan-13".into(), boot_id: "old".into(), ..NodeFacts::default() };
    Known::of(&Facts { replicas: vec![count("injector", 2), count("idle", 0)], nodes: vec![node], ..Facts::default() }, at(0))
}

fn gates() -> [Gate; 3] {
    [Gate::FluxSource, Gate::Flux, Gate::Workloads]
}

/// What is due at any gate.
fn all_due(symptoms: &Symptoms, known: Option<&Known>, settings: &StartupSettings) -> BTreeMap<RepairCase, Act> {
    let due = gates().into_iter().flat_map(|gate| due(&gate, symptoms, known, settings).due);
    due.map(|due| (due.case, due.act)).collect()
}

fn repairs_due(symptoms: &Symptoms, known: Option<&Known>, settings: &StartupSettings) -> BTreeSet<Repair> {
    all_due(symptoms, known, settings).into_keys().map(|case| case.repair).collect()
}

fn everything() -> BTreeSet<Repair> {
    Repair::ALL.into_iter().filter(|repair| *repair != Repair::StaleCordon).collect()
}

#[test]
fn every_repair_has_its_row_its_switch_and_its_gates() {
    for repair in Repair::ALL {
        let rows: Vec<_> = REPAIRS.iter().filter(|row| row.repair == repair).collect();
        assert_eq!(rows.len(), 1, "{}", repair.name());
        let expected = (repair != Repair::StaleCordon).then(|| repair.name().replace('-', "_"));
        assert_eq!(rows[0].setting.map(str::to_owned), expected);
        assert_eq!(rows[0].gates.is_empty(), repair == Repair::StaleCordon);
        assert!(rows[0].gates.iter().all(|gate| crate::cluster::startup::GATES.iter().any(|row| row.name == *gate)));
    }
    assert!(!mends(&Gate::Mains) && !mends(&Gate::ControlPlane) && mends(&Gate::Flux));
}

#[test]
fn each_ill_is_seen_and_its_one_object_is_named() {
    let due = all_due(&sick(), Some(&known()), &settings());
    let named: Vec<_> = due.iter().map(|(case, act)| (case.repair, case.object.to_string(), act.clone())).collect();
    let delete = |object: &str| Act::Delete { uid: format!("uid of {object}") };
    let expected = [
        (Repair::ImmutableJob, "Job/apps/migrate", delete("Job/apps/migrate")),
        (Repair::StuckPod, "Pod/flux-system/source-controller-1", delete("Pod/flux-system/source-controller-1")),
        (Repair::LeftAtZero, "Deployment/vault/injector", Act::Scale { replicas: 2, version: "7".into() }),
        (Repair::PendingRelease, "HelmRelease/media/jellyfin", Act::Reconcile { reset: true }),
        (Repair::OrphanedAttachment, "VolumeAttachment/csi-1", delete("VolumeAttachment/csi-1")),
        (Repair::MissingArtifact, "GitRepository/flux-system/other", Act::Reconcile { reset: false }),
        (Repair::Coupling, "Pod/gitea/gitea-0", delete("Pod/gitea/gitea-0")),
    ];
    assert_eq!(named, expected.map(|(repair, object, act)| (repair, object.to_owned(), act)));
    assert!(due.keys().all(|case| case.cause.contains("uid of")), "{due:?}");
}

/// The repair that must not be due, the name of the near miss, and what makes it one.
type Twin = (Repair, &'static str, fn(&mut Symptoms));

fn apps(s: &mut Symptoms) -> &mut FluxSeen {
    &mut s.flux.as_mut().unwrap()[1]
}

fn release(s: &mut Symptoms) -> &mut FluxSeen {
    &mut s.flux.as_mut().unwrap()[2]
}

fn job(s: &mut Symptoms) -> &mut JobSeen {
    &mut s.jobs.as_mut().unwrap()[0]
}

fn a_pod(s: &mut Symptoms, at: usize) -> &mut PodSeen {
    &mut s.pods.as_mut().unwrap()[at]
}

fn injector(s: &mut Symptoms) -> &mut ScaleSeen {
    &mut s.workloads.as_mut().unwrap()[0]
}

fn held(s: &mut Symptoms) -> &mut AttachmentSeen {
    &mut s.attachments.as_mut().unwrap()[0]
}

fn a_source(s: &mut Symptoms, at: usize) -> &mut GitSeen {
    &mut s.sources.as_mut().unwrap()[at]
}

fn a_node(s: &mut Symptoms) -> &mut NodeSeen {
    &mut s.nodes.as_mut().unwrap()[0]
}

const TWINS: &[Twin] = &[
    (Repair::ImmutableJob, "without Flux' labels", |s| job(s).is.applied_by = None),
    (Repair::ImmutableJob, "another Kustomization's", |s| job(s).is.applied_by = Some(kustomization("root"))),
    (Repair::ImmutableJob, "still running", |s| job(s).finished = false),
    (Repair::ImmutableJob, "opted out", |s| job(s).is.opted_out = true),
    (Repair::ImmutableJob, "owned by somebody", |s| job(s).owned = true),
    (Repair::ImmutableJob, "being deleted", |s| job(s).is.deleting = true),
    (Repair::ImmutableJob, "made anew under another name", |s| job(s).is.object.name = "migrate-2".into()),
    (Repair::ImmutableJob, "a CronJob of that name", |s| apps(s).message = format!("Cron{IMMUTABLE}")),
    (Repair::ImmutableJob, "another Job is immutable", |s| {
        apps(s).message = format!("Job/apps/migrate dry-run failed (Forbidden): no\n{}", IMMUTABLE.replace("migrate", "other"));
    }),
    (Repair::ImmutableJob, "invalid for another reason", |s| apps(s).message = IMMUTABLE.replace("field is immutable", "required value")),
    (Repair::ImmutableJob, "another field", |s| apps(s).message = IMMUTABLE.replace("spec.template", "spec.selector")),
    (Repair::ImmutableJob, "its Kustomization is not failed", |s| apps(s).failed = false),
    (Repair::ImmutableJob, "its Kustomization is suspended", |s| apps(s).suspended = true),
    (Repair::ImmutableJob, "its Kustomization is opted out", |s| apps(s).is.opted_out = true),
    (Repair::ImmutableJob, "what applies its Kustomization is suspended", |s| s.flux.as_mut().unwrap()[0].suspended = true),
    (Repair::StuckPod, "Ready", |s| a_pod(s, 0).ready = true),
    (Repair::StuckPod, "nothing makes it anew", |s| a_pod(s, 0).controlled = false),
    (Repair::StuckPod, "no controller of Flux", |s| drop(a_pod(s, 0).labels.insert("app".into(), "web".into()))),
    (Repair::StuckPod, "another namespace", |s| a_pod(s, 0).is.object.namespace = "apps".into()),
    (Repair::StuckPod, "its image is missing", |s| a_pod(s, 0).waiting[0].reason = "ImagePullBackOff".into()),
    (Repair::StuckPod, "its configuration is missing", |s| a_pod(s, 0).waiting[0].reason = "CreateContainerConfigError".into()),
    (Repair::StuckPod, "its kubelet is silent", |s| a_node(s).lease_fresh = false),
    (Repair::StuckPod, "its node is not Ready", |s| a_node(s).ready = false),
    (Repair::StuckPod, "not bound", |s| a_pod(s, 0).node.clear()),
    (Repair::StuckPod, "going", |s| a_pod(s, 0).is.deleting = true),
    (Repair::StuckPod, "opted out", |s| a_pod(s, 0).is.opted_out = true),
    (Repair::StuckPod, "suspended by a person", |s| apps(s).suspended = true),
    (Repair::LeftAtZero, "scaled since", |s| injector(s).scaled = Some(at(1))),
    (Repair::LeftAtZero, "nobody on record", |s| injector(s).scaled = None),
    (Repair::LeftAtZero, "has replicas", |s| injector(s).replicas = 1),
    (Repair::LeftAtZero, "had none before", |s| injector(s).is.object.name = "idle".into()),
    (Repair::LeftAtZero, "not on record", |s| injector(s).is.object.name = "new".into()),
    (Repair::LeftAtZero, "not needed by a start-up", |s| injector(s).is.object.namespace = "media".into()),
    (Repair::LeftAtZero, "opted out", |s| injector(s).is.opted_out = true),
    (Repair::LeftAtZero, "suspended by a person", |s| apps(s).suspended = true),
    (Repair::PendingRelease, "under way", |s| release(s).busy = true),
    (Repair::PendingRelease, "suspended", |s| release(s).suspended = true),
    (Repair::PendingRelease, "suspended above", |s| s.flux.as_mut().unwrap()[0].suspended = true),
    (Repair::PendingRelease, "failed for another reason", |s| release(s).message = "Helm upgrade failed: timed out waiting".into()),
    (Repair::PendingRelease, "not failed", |s| release(s).failed = false),
    (Repair::PendingRelease, "opted out", |s| release(s).is.opted_out = true),
    (Repair::PendingRelease, "unlocked, and tried again", |s| {
        let release = release(s);
        (release.reason, release.message) = ("PendingRelease".into(), "Unlocked Helm release".into());
    }),
    (Repair::OrphanedAttachment, "in use", |s| held(s).in_use = true),
    (Repair::OrphanedAttachment, "a pod there uses it", |s| a_pod(s, 2).volumes = ["pvc-1".to_owned()].into()),
    (Repair::OrphanedAttachment, "a pod there is ending with it", |s| {
        let pod = a_pod(s, 2);
        pod.is.deleting = true;
        pod.volumes.insert("pvc-1".into());
    }),
    (Repair::OrphanedAttachment, "nobody waits for it", |s| a_pod(s, 1).volumes.clear()),
    (Repair::OrphanedAttachment, "who waits has begun", |s| a_pod(s, 1).waiting.clear()),
    (Repair::OrphanedAttachment, "who waits is not bound", |s| a_pod(s, 1).node.clear()),
    (Repair::OrphanedAttachment, "made after the shutdown", |s| held(s).created = Some(at(1))),
    (Repair::OrphanedAttachment, "of unknown age", |s| held(s).created = None),
    (Repair::OrphanedAttachment, "the boot is the one of before", |s| a_node(s).boot_id = "old".into()),
    (Repair::OrphanedAttachment, "the boot is not known", |s| a_node(s).boot_id.clear()),
    (Repair::OrphanedAttachment, "the kubelet is silent", |s| a_node(s).lease_fresh = false),
    (Repair::OrphanedAttachment, "going", |s| held(s).is.deleting = true),
    (Repair::OrphanedAttachment, "opted out", |s| held(s).is.opted_out = true),
    (Repair::OrphanedAttachment, "who waits is suspended by a person", |s| apps(s).suspended = true),
    (Repair::MissingArtifact, "not Ready", |s| a_source(s, 1).ready = false),
    (Repair::MissingArtifact, "suspended", |s| a_source(s, 1).suspended = true),
    (Repair::MissingArtifact, "has one", |s| a_source(s, 1).revision = "main@sha1:1".into()),
    (Repair::MissingArtifact, "read by nobody", |s| s.flux.as_mut().unwrap()[0].source.clear()),
    (Repair::MissingArtifact, "opted out", |s| a_source(s, 1).is.opted_out = true),
    (Repair::Coupling, "another registry's image", |s| a_pod(s, 2).waiting[0].image = "docker.io/gitea/gitea:1".into()),
    (Repair::Coupling, "a registry with a longer name", |s| a_pod(s, 2).waiting[0].image = "registry.example.com/gitea".into()),
    (Repair::Coupling, "the registry is not up", |s| s.workloads.as_mut().unwrap()[2].ready = 1),
    (Repair::Coupling, "the registry is not there", |s| drop(s.workloads.as_mut().unwrap().pop())),
    (Repair::Coupling, "the source is well", |s| a_source(s, 0).ready = true),
    (Repair::Coupling, "the source is suspended", |s| a_source(s, 0).suspended = true),
    (Repair::Coupling, "nothing makes the pod anew", |s| a_pod(s, 2).controlled = false),
    (Repair::Coupling, "another namespace's pod", |s| a_pod(s, 2).is.object.namespace = "media".into()),
    (Repair::Coupling, "the pod is opted out", |s| a_pod(s, 2).is.opted_out = true),
    (Repair::Coupling, "the pod's Kustomization is suspended", |s| apps(s).suspended = true),
    (Repair::Coupling, "Git is up, and its key is wrong", |s| {
        s.workloads.as_mut().unwrap()[1].ready = 1;
        a_source(s, 0).message = "ssh: handshake failed: knownhosts: key mismatch".into();
    }),
];

#[test]
fn no_near_miss_is_repaired() {
    for (repair, name, spoil) in TWINS {
        let mut symptoms = sick();
        assert!(repairs_due(&symptoms, Some(&known()), &settings()).contains(repair), "{} {name}: due without it", repair.name());
        spoil(&mut symptoms);
        assert!(!repairs_due(&symptoms, Some(&known()), &settings()).contains(repair), "{}: {name}", repair.name());
    }
}

#[test]
fn the_older_words_of_flux_are_understood_and_several_jobs_are_told_apart() {
    let older = "Job/apps/migrate dry-run failed, reason: Invalid, error: Job.batch \"migrate\" is invalid: spec.template: Invalid value: {}: field is immutable";
    for message in [
        older.to_owned(),
        format!("Job/apps/other dry-run failed (Forbidden): no\n{IMMUTABLE}"),
        format!("{IMMUTABLE}{}", IMMUTABLE.replace("migrate", "x")),
    ] {
        let mut symptoms = sick();
        apps(&mut symptoms).message.clone_from(&message);
        let due = all_due(&symptoms, None, &settings());
        let jobs: Vec<_> = due.keys().filter(|case| case.repair == Repair::ImmutableJob).map(|case| case.object.to_string()).collect();
        assert_eq!(jobs, ["Job/apps/migrate"], "{message}");
    }
}

#[test]
fn a_release_that_was_unlocked_and_given_up_is_begun_anew() {
    let mut symptoms = sick();
    let stuck = release(&mut symptoms);
    (stuck.reason, stuck.stalled) = ("PendingRelease".into(), "RetriesExceeded".into());
    stuck.message = "Unlocked Helm release media/jellyfin.v2 with chart jellyfin@2.0.0 in pending-upgrade state".into();
    assert!(repairs_due(&symptoms, None, &settings()).contains(&Repair::PendingRelease));
}

#[test]
fn once_the_git_server_is_up_its_source_is_asked_again() {
    let mut symptoms = sick();
    symptoms.workloads.as_mut().unwrap()[1].ready = 1;
    let due: Vec<_> = all_due(&symptoms, None, &settings()).into_iter().filter(|(case, _)| case.repair == Repair::Coupling).collect();
    assert_eq!(due.len(), 1, "{due:?}");
    assert_eq!(
        (due[0].0.object.to_string().as_str(), &due[0].1),
        ("GitRepository/flux-system/flux-system", &Act::Reconcile { reset: false })
    );
    let mut outside = settings();
    outside.repairs.git_namespace.clear();
    assert!(!repairs_due(&symptoms, None, &outside).contains(&Repair::Coupling));
}

#[test]
fn a_volume_of_a_node_that_is_gone_needs_no_record_of_the_shutdown() {
    let mut symptoms = sick();
    assert!(!repairs_due(&symptoms, None, &settings()).contains(&Repair::OrphanedAttachment), "the boot before is not known");
    symptoms.nodes.as_mut().unwrap().remove(0);
    assert!(repairs_due(&symptoms, None, &settings()).contains(&Repair::OrphanedAttachment));
}

#[test]
fn what_is_optional_holds_nothing_up_and_is_not_mended() {
    let optional = StartupSettings { optional: BTreeSet::from(["flux-system/apps".to_owned()]), ..settings() };
    assert!(!repairs_due(&sick(), Some(&known()), &optional).contains(&Repair::ImmutableJob));
}

#[test]
fn a_repair_is_used_at_its_own_gates_and_only_where_it_is_switched_on() {
    assert_eq!(repairs_due(&sick(), Some(&known()), &settings()), everything());
    for gate in gates() {
        let judged = due(&gate, &sick(), Some(&known()), &settings());
        assert!(judged.due.iter().all(|due| row(due.case.repair).gates.contains(&gate.name())), "{judged:?}");
    }
    assert_eq!(due(&Gate::ControlPlane, &sick(), Some(&known()), &settings()), Judgement::default());
    for repair in everything() {
        let mut off = settings();
        off.repairs.off.insert(repair);
        let due = repairs_due(&sick(), Some(&known()), &off);
        assert!(!due.contains(&repair) && due.len() == everything().len() - 1, "{}", repair.name());
        assert!(allowed(&off).contains(&format!("switched off: {}", repair.name())));
    }
}

#[test]
fn what_cannot_be_seen_is_not_repaired() {
    let why = || "forbidden".to_owned();
    let parts: [fn(&mut Symptoms, String); 7] = [
        |s, why| s.flux = Err(why),
        |s, why| s.sources = Err(why),
        |s, why| s.jobs = Err(why),
        |s, why| s.pods = Err(why),
        |s, why| s.workloads = Err(why),
        |s, why| s.attachments = Err(why),
        |s, why| s.nodes = Err(why),
    ];
    for hide in parts {
        let mut symptoms = sick();
        hide(&mut symptoms, why());
        let judged: Vec<_> = gates().iter().map(|gate| due(gate, &symptoms, Some(&known()), &settings())).collect();
        assert!(judged.iter().any(|judged| judged.unseen.iter().any(|unseen| unseen.contains("forbidden"))));
        for judged in judged {
            let blind: Vec<_> = judged.unseen.iter().map(|unseen| unseen.split(':').next().unwrap().to_owned()).collect();
            assert!(judged.due.iter().all(|due| !blind.contains(&due.case.repair.name().to_owned())), "{judged:?}");
        }
    }
}

#[test]
fn a_symptom_has_to_stand_and_one_that_went_away_begins_anew() {
    let seconds = Duration::from_secs;
    let judged =
        || due(&Gate::Flux, &sick(), None, &settings()).due.into_iter().filter(|due| due.case.repair == Repair::StuckPod).collect();
    let mut standing = Standing::default();
    assert!(standing.note(judged(), seconds(1000)).is_empty());
    // A container that crashes runs for a moment in between.
    assert!(standing.note(Vec::new(), seconds(1060)).is_empty());
    assert!(standing.note(judged(), seconds(1085)).is_empty());
    assert!(standing.note(judged(), seconds(1170)).is_empty());
    assert_eq!(standing.note(judged(), seconds(1180)).len(), 1);
    // It was well for longer.
    assert!(standing.note(Vec::new(), seconds(1300)).is_empty());
    assert!(standing.note(judged(), seconds(1301)).is_empty());
    assert!(standing.note(judged(), seconds(1360)).is_empty());
}

#[test]
fn a_workload_without_replicas_is_seen_before_anybody_calls_it_converged() {
    let none = WorkloadSeen { object: ObjectRef::new("Deployment", "vault", "injector"), wanted: 0, ready: 0, updated: 0, observed: true };
    let why = || Err("not asked".to_owned());
    let seen = Seen {
        nodes: why().map(|()| Vec::new()),
        sources: why().map(|()| Vec::new()),
        flux: why().map(|()| Vec::new()),
        workloads: Ok(vec![none.clone(), WorkloadSeen { object: ObjectRef::new("Deployment", "vault", "idle"), ..none }]),
        troubled: why().map(|()| Vec::new()),
        namespaces: why().map(|()| BTreeSet::new()),
    };
    let (known, needed) = (known(), critical(&settings()));
    assert_eq!(known.suspects(&seen, &needed), [ObjectRef::new("Deployment", "vault", "injector")]);
    assert_eq!(left_at_zero(&sick(), &known, &needed).unwrap().len(), 1);
    let mut scaled = sick();
    injector(&mut scaled).scaled = Some(at(5));
    assert_eq!(left_at_zero(&scaled, &known, &needed).unwrap(), Vec::new(), "somebody wants it so");
    assert_eq!(needed, ["flux-system", "gitea", "harbor", "vault"].map(str::to_owned).into());
}

#[test]
fn what_was_tried_and_what_a_person_does_is_told() {
    let tried = [(Repair::ImmutableJob, "Job/apps/migrate was deleted".to_owned())];
    let told = after(&Gate::Flux, &tried, &settings());
    assert!(told.contains("used up: immutable-job (Job/apps/migrate was deleted; by hand: kubectl"), "{told}");
    let mut off = settings();
    off.repairs.off.insert(Repair::PendingRelease);
    assert_eq!(after(&Gate::Flux, &[], &off), "no repair of metis fits what is seen; switched off: pending-release");
    assert_eq!(after(&Gate::Mains, &[], &off), "");
}

proptest! {
    /// However things stand: nothing is changed that is opted out, going, unmanaged where it must be managed, suspended by a person, in use
    /// or running.
    #[test]
    fn no_hand_is_laid_on_what_is_anothers(
        opted: [bool; 6], deleting: [bool; 6], suspended: [bool; 3], above: bool, owned: bool, finished: bool, controlled: bool,
        in_use: bool, used_there: bool, fresh: bool, scaled in -100_i64..100, rebooted: bool, ours: bool,
    ) {
        let mut s = sick();
        let objects = s.flux.as_mut().unwrap();
        for (object, suspended) in objects.iter_mut().zip(suspended) {
            object.suspended = suspended;
        }
        objects[2].is.opted_out = opted[0];
        (job(&mut s).is.opted_out, job(&mut s).is.deleting, job(&mut s).owned, job(&mut s).finished) = (opted[1], deleting[1], owned, finished);
        if above {
            job(&mut s).is.applied_by = None;
        }
        for at in 0..3 {
            let pod = a_pod(&mut s, at);
            (pod.is.opted_out, pod.is.deleting, pod.controlled) = (opted[2], deleting[2], controlled);
        }
        if used_there {
            a_pod(&mut s, 2).volumes.insert("pvc-1".into());
        }
        (held(&mut s).is.opted_out, held(&mut s).is.deleting, held(&mut s).in_use) = (opted[3], deleting[3], in_use);
        (injector(&mut s).is.opted_out, injector(&mut s).is.deleting, injector(&mut s).scaled) = (opted[4], deleting[4], Some(at(scaled)));
        (a_source(&mut s, 1).is.opted_out, a_source(&mut s, 1).is.deleting) = (opted[5], deleting[5]);
        a_node(&mut s).lease_fresh = fresh;
        if !rebooted {
            a_node(&mut s).boot_id = "old".into();
        }
        let mark = ours.then(|| Mark { holder: "titan-db".into(), run: "r".into(), step: "s".into(), reason: String::new(), expires: None });
        a_node(&mut s).mark = mark;
        let due = repairs_due(&s, Some(&known()), &settings());
        let chain = suspended[0] || suspended[1];
        for repair in due {
            match repair {
                Repair::ImmutableJob => prop_assert!(!opted[1] && !deleting[1] && !chain && !above && !owned && finished),
                Repair::StuckPod => prop_assert!(!opted[2] && !deleting[2] && !chain && controlled && fresh),
                Repair::LeftAtZero => prop_assert!(!opted[4] && !deleting[4] && !chain && scaled <= 0),
                Repair::PendingRelease => prop_assert!(!opted[0] && !chain && !suspended[2]),
                Repair::OrphanedAttachment => {
                    prop_assert!(!opted[3] && !deleting[3] && !in_use && !used_there && fresh && rebooted && !chain && !deleting[2]);
                }
                Repair::MissingArtifact => prop_assert!(!opted[5] && !deleting[5] && !suspended[0]),
                Repair::Coupling => prop_assert!(!opted[2] && !deleting[2] && controlled && !chain),
                Repair::StaleCordon => prop_assert!(false),
            }
        }
    }
}
