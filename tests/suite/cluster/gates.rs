//! Gates of a start-up against a real API server and a real Flux: each with the state that looks green and is not.

use metis_tests::plane::{Flux, Options, Plane, available};
use metisd::cluster::port::Platform;
use metisd::cluster::seen::{Expected, Seen};
use metisd::cluster::startup::judge;
use metisd::site::{Judged, ObjectRef};
use serde_json::json;

use super::*;

const KUSTOMIZATIONS: &str = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations";
const SOURCE: &str = "/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system/gitrepositories/site";

fn config_map(value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: apps, namespace: default}}\ndata: {{value: \"{value}\"}}\n")
}

fn expected(plane: &mut Plane) -> Expected {
    Expected {
        url: plane.flux().unwrap().git.url.clone(),
        branch: "main".to_owned(),
        source: "flux-system/site".to_owned(),
        namespaces: BTreeSet::from(["default".to_owned()]),
        ..Expected::default()
    }
}

fn see(metis: &Metis) -> Seen {
    metis.run(metis.cluster.see(seconds(15)))
}

/// Looks until the gate says what is wanted of it.
fn until(plane: &Plane, metis: &Metis, what: &str, judge: impl Fn(&Seen) -> Judged, wanted: impl Fn(&Judged) -> bool) -> Judged {
    let mut last = None;
    let found = plane.wait(90, what, || {
        let judged = judge(&see(metis));
        last = Some(judged.clone());
        anyhow::ensure!(wanted(&judged), "{judged:?}");
        Ok(())
    });
    found.unwrap();
    last.unwrap()
}

fn green(judged: &Judged) -> bool {
    matches!(judged, Judged::Ready(_))
}

fn says(word: &'static str) -> impl Fn(&Judged) -> bool {
    move |judged| matches!(judged, Judged::NotReady { .. }) && judged.text().contains(word)
}

#[test]
fn flux_is_believed_only_where_all_of_its_words_agree() {
    if !available("gates under Flux") {
        return;
    }
    let mut plane = Plane::start(&Options { flux: Flux::Running, ..Options::default() }).unwrap();
    let apps = config_map("1");
    plane.flux().unwrap().git.commit(&[("apps/apps.yaml", Some(&apps))]).unwrap();
    plane.kustomizations(&[("apps", "./apps", &[])]).unwrap();
    let expected = expected(&mut plane);
    let metis = Metis::of(&plane);
    let flux = |seen: &Seen| judge::flux(seen, &expected);
    let source = |seen: &Seen| judge::source(seen, &expected);
    until(&plane, &metis, "a source with its artifact", source, green);
    until(&plane, &metis, "an applied Kustomization", flux, green);
    assert!(green(&judge::namespaces(&see(&metis), &expected)));

    // Suspended by a person: Ready stays True, and the source goes on without it.
    let api = plane.api().unwrap();
    let object = format!("{KUSTOMIZATIONS}/apps");
    api.merge(&object, &json!({"spec": {"suspend": true}})).unwrap();
    until(&plane, &metis, "a suspended Kustomization", flux, says("suspended (by somebody else"));
    let apps = config_map("2");
    plane.flux().unwrap().git.commit(&[("apps/apps.yaml", Some(&apps))]).unwrap();
    let ask = |kind: &str, name: &str, token: &str| {
        let object = ObjectRef::new(kind, "flux-system", name);
        metis.run(metis.cluster.reconcile(&object, token, seconds(10)))
    };
    ask("GitRepository", "site", "one").unwrap();
    ask("Kustomization", "apps", "one").unwrap();
    api.merge(&object, &json!({"spec": {"suspend": null}})).unwrap();
    until(&plane, &metis, "the newer revision", flux, green);
    let found = api.get(&object).unwrap();
    assert_eq!(found["status"]["lastHandledReconcileAt"], json!("one"), "the request is its own, and was handled");

    // Drift, and a branch that is not there: the artifact of before goes on being served.
    let elsewhere = Expected { branch: "other".to_owned(), ..expected.clone() };
    assert!(says("follows main, and other is expected")(&judge::source(&see(&metis), &elsewhere)));
    api.merge(SOURCE, &json!({"spec": {"ref": {"branch": "other"}}})).unwrap();
    let judged = until(&plane, &metis, "a source without its branch", |seen| judge::source(seen, &elsewhere), says("is not Ready"));
    assert!(!green(&judged));
    let gone = ask("Kustomization", "none", "two");
    assert!(matches!(gone, Err(ClusterError::Gone(_))), "{gone:?}");
}

#[test]
fn nodes_workloads_and_a_word_to_people() {
    if !available("gates of nodes and workloads") {
        return;
    }
    let mut plane = Plane::start(&Options::default()).unwrap();
    plane.kwok(&["titan-13"]).unwrap();
    plane.apply(&deployment("web", 2, "titan-13", "", "")).unwrap();
    wait_ready(&plane, &["web"]);
    let metis = Metis::of(&plane);
    metis.run(metis.cluster.ready(seconds(10))).unwrap();
    let expected = Expected::default();
    until(&plane, &metis, "pods that are ready", |seen| judge::workloads(seen, &expected), green);
    let nodes = metis.run(metis.cluster.nodes(seconds(10))).unwrap();
    let (name, boot) = (nodes[0].name.clone(), nodes[0].boot_id.clone());
    assert!(green(&judge::node(&see(&metis), &name, &boot)), "{nodes:?}");
    assert!(says("an earlier boot")(&judge::node(&see(&metis), &name, "another boot")));
    assert!(says("has not registered")(&judge::node(&see(&metis), "titan-15", "x")));
    // A cluster without Flux has nothing to wait for.
    assert!(green(&judge::flux(&see(&metis), &expected)) && green(&judge::source(&see(&metis), &expected)));
    // More pods than the node's selector lets in: Available goes on being True for the old ones.
    plane.kubectl(&["scale", "deployment/web", "--replicas=3"]).unwrap();
    plane.kubectl(&["cordon", "titan-13"]).unwrap();
    plane.kubectl(&["scale", "deployment/web", "--replicas=4"]).unwrap();
    until(&plane, &metis, "a pod that is missing", |seen| judge::workloads(seen, &expected), says("of 4 pods"));
    let note = |because: Option<&str>| metis.run(metis.cluster.ask_for_a_person("titan-13", because, seconds(10)));
    let read = || plane.kubectl(&["get", "node", "titan-13", "-o", "jsonpath={.metadata.annotations.metis\\.v1/manual-action}"]).unwrap();
    note(Some("its lease has expired")).unwrap();
    assert_eq!(read(), "its lease has expired");
    note(None).unwrap();
    assert_eq!(read(), "");
    // An API server that says nothing is no bad news about anything.
    plane.freeze().unwrap();
    assert!(metis.run(metis.cluster.ready(seconds(2))).is_err());
    let blind = metis.run(metis.cluster.see(seconds(2)));
    assert!(blind.nodes.is_err() && blind.flux.is_err() && blind.workloads.is_err());
    plane.thaw().unwrap();
    until(&plane, &metis, "the API server again", |seen| judge::namespaces(seen, &expected), green);
}
