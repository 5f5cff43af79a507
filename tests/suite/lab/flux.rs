//! Flux on the plane's Git server.

use metis_tests::actors;
use metis_tests::plane::{Flux, Options, Plane, available};
use serde_json::{Value, json};

const KUSTOMIZATIONS: &str = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations";

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata: {{value: \"{value}\"}}\n")
}

/// (Ready, lastAppliedRevision, observedGeneration = generation) of a Kustomization.
fn state(plane: &Plane, name: &str) -> (String, String, bool) {
    let object = plane.api().unwrap().get(&format!("{KUSTOMIZATIONS}/{name}")).unwrap();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").map_or("", |c| c["status"].as_str().unwrap_or_default());
    let revision = object["status"]["lastAppliedRevision"].as_str().unwrap_or_default();
    (ready.to_owned(), revision.to_owned(), object["status"]["observedGeneration"] == object["metadata"]["generation"])
}

fn reached(plane: &Plane, name: &str, revision: &str) -> anyhow::Result<()> {
    let state = state(plane, name);
    anyhow::ensure!(state.1 == revision, "{name}: {state:?}, not {revision}");
    Ok(())
}

fn value(plane: &Plane, name: &str) -> String {
    plane.kubectl(&["get", "configmap", name, "--ignore-not-found", "-o", "jsonpath={.data.value}"]).unwrap()
}

#[test]
fn kustomizations_become_ready_from_git_and_a_suspended_one_keeps_that_and_does_nothing() {
    if !available("Flux") {
        return;
    }
    let mut plane = Plane::start(&Options { flux: Flux::Running, ..Options::default() }).unwrap();
    let core = config_map("core", "1");
    let apps = config_map("apps", "1");
    let first = plane.flux().unwrap().git.commit(&[("core/core.yaml", Some(&core)), ("apps/apps.yaml", Some(&apps))]).unwrap();
    plane.kustomizations(&[("core", "./core", &[]), ("apps", "./apps", &["core"])]).unwrap();
    plane
        .kubectl(&["-n", "flux-system", "wait", "--for=condition=Ready", "--timeout=90s", "kustomization/core", "kustomization/apps"])
        .unwrap();
    for name in ["core", "apps"] {
        assert_eq!((state(&plane, name), value(&plane, name)), (("True".to_owned(), first.clone(), true), "1".to_owned()), "{name}");
    }

    // Suspended, then asked to reconcile a newer revision: it says Ready, observed and handled, and has applied nothing.
    let api = plane.api().unwrap();
    api.merge(&format!("{KUSTOMIZATIONS}/apps"), &json!({"spec": {"suspend": true}})).unwrap();
    let (core, apps) = (config_map("core", "2"), config_map("apps", "2"));
    let second = plane.flux().unwrap().git.commit(&[("core/core.yaml", Some(&core)), ("apps/apps.yaml", Some(&apps))]).unwrap();
    let request = json!({"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": "now"}}});
    for object in ["/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system/gitrepositories/site", &format!("{KUSTOMIZATIONS}/apps")] {
        api.merge(object, &request).unwrap();
    }
    plane.wait(60, "core at the second revision", || reached(&plane, "core", &second)).unwrap();
    assert_eq!(value(&plane, "core"), "2");
    assert_eq!((state(&plane, "apps"), value(&plane, "apps")), (("True".to_owned(), first, true), "1".to_owned()));

    // Resumed, it catches up.
    api.merge(&format!("{KUSTOMIZATIONS}/apps"), &json!({"spec": {"suspend": false}})).unwrap();
    plane.wait(60, "apps at the second revision", || reached(&plane, "apps", &second)).unwrap();
    assert_eq!(value(&plane, "apps"), "2");
}

#[test]
fn the_helm_actor_makes_releases_ready_and_leaves_suspended_ones_alone() {
    if !available("HelmReleases") {
        return;
    }
    let plane = Plane::start(&Options { flux: Flux::Crds, ..Options::default() }).unwrap();
    let release = |name: &str, annotations: &str, suspend: bool| {
        format!(
            "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {{name: {name}, namespace: default, annotations: {{{annotations}}}}}\nspec: {{interval: 10m, suspend: {suspend}, chartRef: {{kind: OCIRepository, name: chart}}}}\n---\n"
        )
    };
    plane.apply(&[release("good", "", false), release("bad", "lab.metis/helm: fail", false), release("held", "", true)].concat()).unwrap();
    let actor = actors::releases(&plane).unwrap();
    plane.kubectl(&["wait", "--for=condition=Ready", "--timeout=20s", "helmrelease/good"]).unwrap();
    plane.kubectl(&["wait", "--for=condition=Stalled", "--timeout=20s", "helmrelease/bad"]).unwrap();
    let api = plane.api().unwrap();
    let status =
        |name: &str| api.get(&format!("/apis/helm.toolkit.fluxcd.io/v2/namespaces/default/helmreleases/{name}")).unwrap()["status"].clone();
    assert_eq!(status("held")["conditions"], Value::Null);
    plane.kubectl(&["patch", "helmrelease", "held", "--type=merge", "-p", "{\"spec\":{\"suspend\":false}}"]).unwrap();
    plane.kubectl(&["wait", "--for=condition=Ready", "--timeout=20s", "helmrelease/held"]).unwrap();
    assert_eq!(actor.stop(), None);
}
