//! Repairs of a start-up against a real API server, a real Flux and real controllers: each on its object, with near misses beside it that
//! must be left alone; who was touched is read from the audit log.

use std::collections::BTreeMap;

use metis_tests::plane::{Flux, Options, Plane, available};
use metisd::cluster::StartupSettings;
use metisd::cluster::port::{Facts, NodeFacts, Repairs};
use metisd::cluster::repairs::seen::Symptoms;
use metisd::cluster::repairs::{Act, Due, Known, RepairSettings, due};
use metisd::site::{Gate, ObjectRef, Repair};
use serde_json::{Value, json};

use super::*;

const KUSTOMIZATIONS: &str = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations";
const SOURCES: &str = "/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system/gitrepositories";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

fn settings() -> StartupSettings {
    let repairs = RepairSettings { registry_host: "registry.example".to_owned(), ..RepairSettings::default() };
    let namespaces = BTreeSet::from(["vault".to_owned()]);
    StartupSettings { source: "flux-system/site".to_owned(), namespaces, repairs, ..StartupSettings::default() }
}

fn examine(metis: &Metis) -> Symptoms {
    metis.run(metis.cluster.examine(seconds(15)))
}

/// What is due at any gate.
fn all_due(symptoms: &Symptoms, known: Option<&Known>) -> Vec<Due> {
    let mut all = BTreeMap::new();
    for gate in [Gate::FluxSource, Gate::Flux, Gate::Workloads] {
        let judged = due(&gate, symptoms, known, &settings());
        assert!(judged.unseen.is_empty(), "{:?}", judged.unseen);
        all.extend(judged.due.into_iter().map(|due| (due.case.clone(), due)));
    }
    all.into_values().collect()
}

fn carry_out(metis: &Metis, due: &Due) -> Result<(), ClusterError> {
    let object = &due.case.object;
    match &due.act {
        Act::Delete { uid } => metis.run(metis.cluster.delete(object, uid, seconds(10))),
        Act::Scale { replicas, version } => metis.run(metis.cluster.scale(object, version, *replicas, seconds(10))),
        Act::Reconcile { reset } => metis.run(metis.cluster.retry(object, "metis startup-1", *reset, seconds(10))),
    }
}

/// What metis changed: verb, resource and name.
fn written(plane: &Plane) -> BTreeSet<String> {
    let audit = plane.audit().unwrap();
    let writes = audit.iter().filter(|entry| entry.by_metis() && entry.is_write());
    writes.map(|entry| format!("{} {} {} {}", entry.verb, entry.resource, entry.name, entry.code)).collect()
}

/// A Job of an image that ends by its deadline, or does not.
fn job(name: &str, image: &str, more: &str, ends: bool) -> String {
    let deadline = if ends { "activeDeadlineSeconds: 1, " } else { "" };
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}, namespace: default{more}}}\nspec: {{{deadline}backoffLimit: 0, template: {{spec: {{restartPolicy: Never, containers: [{{name: main, image: {image}}}]}}}}}}\n"
    )
}

/// Job, what its manifest says more, whether it ends.
const TREES: [(&str, &str, bool); 6] = [
    ("migrate", "", true),
    ("running", "", false),
    ("declined", ", annotations: {metis.v1/repair: disabled}", true),
    ("owned", "", true),
    ("unlabelled", "", true),
    ("suspended", "", true),
];

fn commit(plane: &mut Plane, image: &str) {
    let files: Vec<_> = TREES.iter().map(|(name, more, ends)| (format!("{name}/job.yaml"), job(name, image, more, *ends))).collect();
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), Some(text.as_str()))).collect();
    plane.flux().unwrap().git.commit(&files).unwrap();
}

fn uid(plane: &Plane, name: &str) -> String {
    plane.api().unwrap().get(&format!("{JOBS}/{name}")).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// Waits until every Kustomization says that of itself.
fn each_says(plane: &Plane, names: &[&str], status: &str, word: &str) {
    for name in names {
        plane
            .wait(90, "a Kustomization", || {
                let found = plane.api()?.get(&format!("{KUSTOMIZATIONS}/{name}"))?;
                let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let ready = conditions.iter().find(|condition| condition["type"] == "Ready").cloned().unwrap_or_default();
                let message = ready["message"].as_str().unwrap_or_default();
                anyhow::ensure!(ready["status"] == status && message.contains(word), "{name}: {ready}");
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn a_job_that_git_has_changed_is_made_anew_and_no_other_is_touched() {
    if !available("repairs under Flux") {
        return;
    }
    let mut plane = Plane::start(&Options { flux: Flux::Running, ..Options::default() }).unwrap();
    commit(&mut plane, "job:1");
    let paths: Vec<_> = TREES.iter().map(|(name, ..)| (*name, format!("./{name}"))).collect();
    let trees: Vec<(&str, &str, &[&str])> = paths.iter().map(|(name, path)| (*name, path.as_str(), &[] as &[&str])).collect();
    plane.kustomizations(&trees).unwrap();
    let names: Vec<&str> = TREES.iter().map(|(name, ..)| *name).collect();
    each_says(&plane, &names, "True", "Applied revision");
    let api = plane.api().unwrap();
    let owner = api.get("/api/v1/namespaces/default").unwrap()["metadata"]["uid"].clone();
    let owners = json!([{"apiVersion": "v1", "kind": "Namespace", "name": "default", "uid": owner}]);
    api.merge(&format!("{JOBS}/owned"), &json!({"metadata": {"ownerReferences": owners}})).unwrap();
    let labels = json!({"kustomize.toolkit.fluxcd.io/name": null, "kustomize.toolkit.fluxcd.io/namespace": null});
    for (name, _, ends) in TREES.iter().filter(|(.., ends)| *ends) {
        plane
            .kubectl(&["wait", "--for=condition=Failed", "--timeout=60s", &format!("job/{name}")])
            .unwrap_or_else(|error| panic!("{name} {ends}: {error}"));
    }
    api.merge(&format!("{JOBS}/unlabelled"), &json!({"metadata": {"labels": labels}})).unwrap();

    // The deadlock: without anybody's help it stays so.
    commit(&mut plane, "job:2");
    let ask = json!({"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": "one"}}});
    let api = plane.api().unwrap();
    api.merge(&format!("{SOURCES}/site"), &ask).unwrap();
    each_says(&plane, &names, "False", "field is immutable");
    api.merge(&format!("{KUSTOMIZATIONS}/suspended"), &json!({"spec": {"suspend": true}})).unwrap();
    let before: BTreeMap<&str, String> = names.iter().map(|name| (*name, uid(&plane, name))).collect();

    let metis = Metis::of(&plane);
    let found = all_due(&examine(&metis), None);
    let objects: Vec<_> = found.iter().map(|due| (due.case.repair, due.case.object.to_string())).collect();
    assert_eq!(objects, [(Repair::ImmutableJob, "Job/default/migrate".to_owned())]);
    carry_out(&metis, &found[0]).unwrap();
    each_says(&plane, &["migrate"], "True", "Applied revision");
    assert_ne!(uid(&plane, "migrate"), before["migrate"], "made anew by Flux");
    // Whoever comes late with the old UID deletes nothing.
    let late = carry_out(&metis, &found[0]);
    assert!(matches!(late, Err(ClusterError::Gone(_))), "{late:?}");
    for name in names.iter().filter(|name| **name != "migrate") {
        assert_eq!(uid(&plane, name), before[name], "{name}");
    }

    // Ready, and its artifact is gone.
    let (code, answer) = api
        .send("PATCH", &format!("{SOURCES}/site/status"), Some(("application/merge-patch+json", &json!({"status": {"artifact": null}}))))
        .unwrap();
    assert_eq!(code, 200, "{answer}");
    let found: Vec<_> = all_due(&examine(&metis), None).into_iter().filter(|due| due.case.repair == Repair::MissingArtifact).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    carry_out(&metis, &found[0]).unwrap();
    plane
        .wait(60, "the artifact", || {
            let found = plane.api()?.get(&format!("{SOURCES}/site"))?;
            anyhow::ensure!(found["status"]["artifact"]["revision"].is_string(), "{}", found["status"]);
            Ok(())
        })
        .unwrap();
    let expected = ["delete jobs migrate 200", "delete jobs migrate 409", "patch gitrepositories site 200"];
    assert_eq!(written(&plane), expected.map(str::to_owned).into(), "nothing else was changed");
}

/// A Deployment whose pods nobody plays: their status is written by the test. `more`: labels of the pods, `about`: annotations of the
/// Deployment, `volumes`: of the pods.
fn puppet(namespace: &str, name: &str, image: &str, node: &str, label: &str, about: &str, claim: &str) -> String {
    let volumes = if claim.is_empty() {
        String::new()
    } else {
        format!("volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}], ")
    };
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {namespace}, annotations: {{{about}}}}}\nspec: {{replicas: 1, selector: {{matchLabels: {{of: {name}}}}}, template: {{metadata: {{labels: {{of: {name}{label}}}, annotations: {{lab.metis/actor: test}}}}, spec: {{{volumes}nodeName: {node}, containers: [{{name: main, image: {image}}}]}}}}}}\n---\n"
    )
}

/// The only pod of a puppet.
fn pod_of(plane: &Plane, namespace: &str, name: &str) -> String {
    let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=of%3D{name}");
    let found = plane.wait(30, "a pod", || {
        let pods = plane.api()?.list(&path)?;
        let pod = pods.first().and_then(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned);
        pod.ok_or_else(|| anyhow::anyhow!("{name} has no pod yet"))
    });
    found.unwrap()
}

fn set_status(plane: &Plane, path: &str, status: &Value) {
    let patch = json!({"status": status});
    let (code, answer) =
        plane.api().unwrap().send("PATCH", &format!("{path}/status"), Some(("application/merge-patch+json", &patch))).unwrap();
    assert_eq!(code, 200, "{path}: {answer}");
}

/// Its kubelet says that its container waits.
fn waits(plane: &Plane, namespace: &str, name: &str, reason: &str) -> String {
    let pod = pod_of(plane, namespace, name);
    let container =
        json!({"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 5, "state": {"waiting": {"reason": reason}}});
    let conditions = json!([{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]);
    set_status(
        plane,
        &format!("/api/v1/namespaces/{namespace}/pods/{pod}"),
        &json!({"phase": "Pending", "conditions": conditions, "containerStatuses": [container]}),
    );
    pod
}

/// A volume with its claim in `vault`, attached to that node.
fn attached(volume: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {volume}}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, claimRef: {{namespace: vault, name: {volume}}}, csi: {{driver: driver.longhorn.io, volumeHandle: {volume}}}}}\n---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {volume}, namespace: vault}}\nspec: {{storageClassName: \"\", volumeName: {volume}, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n---\napiVersion: storage.k8s.io/v1\nkind: VolumeAttachment\nmetadata: {{name: holds-{volume}}}\nspec: {{attacher: driver.longhorn.io, nodeName: {node}, source: {{persistentVolumeName: {volume}}}}}\n---\n"
    )
}

/// Volume, node that holds it.
const VOLUMES: [(&str, &str); 4] = [("gone", "titan-99"), ("before", "titan-13"), ("in-use", "titan-13"), ("elsewhere", "titan-17")];

/// Everything that may be repaired, and beside each what only looks so.
fn make_ill(plane: &Plane) {
    for namespace in ["vault", "gitea", "harbor"] {
        plane.kubectl(&["create", "namespace", namespace]).unwrap();
    }
    let release = |name: &str, more: &str| {
        format!(
            "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {{name: {name}, namespace: vault}}\nspec: {{interval: 10m, chartRef: {{kind: OCIRepository, name: chart}}{more}}}\n---\n"
        )
    };
    let mut all = vec![
        puppet("flux-system", "source-controller", "x", "titan-13", ", app: source-controller", "", ""),
        puppet("flux-system", "helm-controller", "x", "titan-13", ", app: helm-controller", "metis.v1/repair: disabled", ""),
        puppet("flux-system", "web", "x", "titan-13", ", app: web", "", ""),
        puppet("gitea", "gitea", "registry.example/gitea:1", "titan-13", "", "", ""),
        puppet("gitea", "mirror", "docker.io/mirror:1", "titan-13", "", "", ""),
        deployment("registry", 1, "titan-13", "", "").replace("namespace: default", "namespace: harbor"),
        deployment("injector", 2, "titan-13", "", "").replace("namespace: default", "namespace: vault"),
        deployment("wanted-so", 2, "titan-13", "", "").replace("namespace: default", "namespace: vault"),
        release("stuck", ""),
        release("busy", ""),
        release("held", ", suspend: true"),
        "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: site, namespace: flux-system}\nspec: {url: \"https://git.invalid/site\", interval: 10m}\n---\n".to_owned(),
    ];
    all.extend(VOLUMES.map(|(volume, node)| attached(volume, node)));
    all.extend(VOLUMES.map(|(volume, _)| puppet("vault", &format!("uses-{volume}"), "x", "titan-15", "", "", volume)));
    plane.apply(&all.concat()).unwrap();
    plane.kubectl(&["-n", "harbor", "wait", "--for=condition=Available", "--timeout=60s", "deployment/registry"]).unwrap();
    for name in ["source-controller", "helm-controller", "web"] {
        waits(plane, "flux-system", name, "CrashLoopBackOff");
    }
    for name in ["gitea", "mirror"] {
        waits(plane, "gitea", name, "ImagePullBackOff");
    }
    for (volume, _) in VOLUMES {
        waits(plane, "vault", &format!("uses-{volume}"), "ContainerCreating");
    }
    let locked = "Helm upgrade failed: another operation (install/upgrade/rollback) is in progress";
    let condition = |kind: &str, status: &str, message: &str| json!({"type": kind, "status": status, "reason": "UpgradeFailed", "message": message, "lastTransitionTime": "2026-11-21T10:00:00Z"});
    for (name, more) in [("stuck", None), ("busy", Some(condition("Reconciling", "True", "working"))), ("held", None)] {
        let conditions: Vec<_> = std::iter::once(condition("Ready", "False", locked)).chain(more).collect();
        let path = format!("/apis/helm.toolkit.fluxcd.io/v2/namespaces/vault/helmreleases/{name}");
        set_status(plane, &path, &json!({"conditions": conditions}));
    }
    let unreached = condition("Ready", "False", "failed to checkout: dial tcp 10.43.0.9:3000: connect: connection refused");
    set_status(plane, &format!("{SOURCES}/site"), &json!({"observedGeneration": 1, "conditions": [unreached]}));
    for node in ["titan-13", "titan-17"] {
        set_status(plane, &format!("/api/v1/nodes/{node}"), &json!({"nodeInfo": node_info("new")}));
    }
    set_status(plane, "/api/v1/nodes/titan-13", &json!({"volumesInUse": ["kubernetes.io/csi/driver.longhorn.io^in-use"]}));
}

/// By a patch: of a zero that `kubectl scale` writes the API server keeps no record (Scale leaves it out), and such a one is left alone.
fn to_zero(plane: &Plane, name: &str) {
    let deployment = format!("deployment/{name}");
    plane.kubectl(&["-n", "vault", "patch", &deployment, "--type=merge", "-p", "{\"spec\":{\"replicas\":0}}"]).unwrap();
}

fn node_info(boot: &str) -> Value {
    let names = [
        "architecture",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ];
    let mut info: serde_json::Map<String, Value> = names.into_iter().map(|name| (name.to_owned(), json!("x"))).collect();
    info.insert("bootID".to_owned(), json!(boot));
    Value::Object(info)
}

#[test]
fn every_ill_is_mended_on_its_one_object_and_its_twin_beside_it_is_left_alone() {
    if !available("repairs") {
        return;
    }
    let mut plane = Plane::start(&Options { flux: Flux::Crds, ..Options::default() }).unwrap();
    plane.kwok(&["titan-13", "titan-15", "titan-17"]).unwrap();
    make_ill(&plane);
    to_zero(&plane, "injector");
    std::thread::sleep(seconds(2));
    // The shutdown has ended; titan-17 has not been off since.
    let node = |name: &str, boot: &str| NodeFacts { name: name.to_owned(), boot_id: boot.to_owned(), ..NodeFacts::default() };
    let replicas = ["injector", "wanted-so"].map(|name| (ObjectRef::new("Deployment", "vault", name), 2)).to_vec();
    let facts = Facts { replicas, nodes: vec![node("titan-13", "old"), node("titan-17", "new")], ..Facts::default() };
    let known = Known::of(&facts, jiff::Timestamp::now());
    std::thread::sleep(seconds(2));
    to_zero(&plane, "wanted-so");

    let metis = Metis::of(&plane);
    // Status of a Deployment is written once more while its pods go: then it is another resourceVersion.
    plane
        .wait(30, "workloads without pods", || {
            let found = plane.kubectl(&["-n", "vault", "get", "pods", "-l", "app in (injector,wanted-so)", "-o", "name"])?;
            anyhow::ensure!(found.trim().is_empty(), "{found}");
            Ok(())
        })
        .unwrap();
    let (source, gitea) = (pod_of(&plane, "flux-system", "source-controller"), pod_of(&plane, "gitea", "gitea"));
    let found = all_due(&examine(&metis), Some(&known));
    let objects: BTreeSet<_> = found.iter().map(|due| (due.case.repair, due.case.object.to_string())).collect();
    let expected = [
        (Repair::StuckPod, format!("Pod/flux-system/{source}")),
        (Repair::LeftAtZero, "Deployment/vault/injector".to_owned()),
        (Repair::PendingRelease, "HelmRelease/vault/stuck".to_owned()),
        (Repair::OrphanedAttachment, "VolumeAttachment/holds-gone".to_owned()),
        (Repair::OrphanedAttachment, "VolumeAttachment/holds-before".to_owned()),
        (Repair::Coupling, format!("Pod/gitea/{gitea}")),
    ];
    assert_eq!(objects, expected.into());
    for due in &found {
        carry_out(&metis, due).unwrap_or_else(|error| panic!("{due:?}: {error}"));
    }
    let expected = [
        format!("delete pods {source} 200"),
        format!("delete pods {gitea} 200"),
        "patch deployments/scale injector 200".to_owned(),
        "patch helmreleases stuck 200".to_owned(),
        "delete volumeattachments holds-gone 200".to_owned(),
        "delete volumeattachments holds-before 200".to_owned(),
    ];
    assert_eq!(written(&plane), expected.into(), "nothing else was changed");

    let get = |path: &str| plane.api().unwrap().get(path).unwrap();
    assert_eq!(get("/apis/apps/v1/namespaces/vault/deployments/injector")["spec"]["replicas"], 2);
    assert_eq!(get("/apis/apps/v1/namespaces/vault/deployments/wanted-so")["spec"]["replicas"], 0);
    let asked = get("/apis/helm.toolkit.fluxcd.io/v2/namespaces/vault/helmreleases/stuck")["metadata"]["annotations"].clone();
    assert_eq!(asked["reconcile.fluxcd.io/requestedAt"], asked["reconcile.fluxcd.io/resetAt"]);
    // Nothing of it is due any more, but what only its controller can end: a release that still says so.
    // New pods, which are not Ready yet, have their time.
    let again = all_due(&examine(&metis), Some(&known)).into_iter().filter(|due| due.stands < seconds(600));
    let again: Vec<_> = again.map(|due| due.case.object.to_string()).collect();
    assert_eq!(again, ["HelmRelease/vault/stuck"]);
    // A change in between wins.
    let version = get("/apis/apps/v1/namespaces/vault/deployments/wanted-so")["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    plane.kubectl(&["-n", "vault", "annotate", "deployment/wanted-so", "touched=yes"]).unwrap();
    let object = ObjectRef::new("Deployment", "vault", "wanted-so");
    let late = metis.run(metis.cluster.scale(&object, &version, 2, seconds(10)));
    assert!(matches!(late, Err(ClusterError::Gone(_))), "{late:?}");
    assert_eq!(get("/apis/apps/v1/namespaces/vault/deployments/wanted-so")["spec"]["replicas"], 0);
}
