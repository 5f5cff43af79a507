//! Suspension under a real Flux.

use metis_tests::plane::{Flux, Options, Plane, available};
use metisd::cluster::ANNOTATION;
use metisd::cluster::port::Cluster;
use metisd::site::ObjectRef;
use serde_json::{Value, json};

use super::*;

const KUSTOMIZATIONS: &str = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations";
const SOURCE: &str = "/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system/gitrepositories/site";

fn child(interval: &str) -> String {
    format!(
        "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {{name: apps, namespace: flux-system}}\nspec: {{interval: {interval}, path: ./apps, prune: true, sourceRef: {{kind: GitRepository, name: site}}}}\n"
    )
}

fn config_map(value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: apps, namespace: default}}\ndata: {{value: \"{value}\"}}\n")
}

fn get(plane: &Plane, name: &str) -> Value {
    plane.api().unwrap().get(&format!("{KUSTOMIZATIONS}/{name}")).unwrap()
}

fn reconcile(plane: &Plane, token: &str) {
    let request = json!({"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": token}}});
    for object in [SOURCE.to_owned(), format!("{KUSTOMIZATIONS}/root")] {
        plane.api().unwrap().merge(&object, &request).unwrap();
    }
}

fn applied(plane: &Plane, name: &str, revision: &str) {
    plane
        .wait(90, "a revision", || {
            let found = get(plane, name)["status"]["lastAppliedRevision"].clone();
            anyhow::ensure!(found == revision, "{name}: {found}, not {revision}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_metis_suspends_stays_so_while_its_parent_is_applied() {
    if !available("suspension under Flux") {
        return;
    }
    let mut plane = Plane::start(&Options { flux: Flux::Running, ..Options::default() }).unwrap();
    let (apps, first) = (config_map("1"), child("10m"));
    let revision = plane.flux().unwrap().git.commit(&[("root/apps.yaml", Some(&first)), ("apps/apps.yaml", Some(&apps))]).unwrap();
    plane.kustomizations(&[("root", "./root", &[])]).unwrap();
    applied(&plane, "root", &revision);
    applied(&plane, "apps", &revision);

    let metis = Metis::of(&plane);
    let facts = metis.run(metis.cluster.collect(seconds(10))).unwrap();
    let names: Vec<&str> = facts.flux.iter().map(|found| found.object.name.as_str()).collect();
    assert_eq!(names, ["root", "apps"], "the parent first, though its name comes later");
    assert!(facts.flux.iter().all(|found| !found.suspended && found.mark.is_none()) && facts.unseen.is_empty());

    let object = ObjectRef::new("Kustomization", "flux-system", "apps");
    let ours = mark("shutdown-1", "flux.suspend");
    let set = |mark: Option<&Mark>| metis.run(metis.cluster.set_suspended(&object, mark, seconds(10)));
    set(Some(&ours)).unwrap();
    // The parent is applied anew, with a change of the child itself.
    let (apps, second) = (config_map("2"), child("11m"));
    let revision = plane.flux().unwrap().git.commit(&[("root/apps.yaml", Some(&second)), ("apps/apps.yaml", Some(&apps))]).unwrap();
    reconcile(&plane, "one");
    applied(&plane, "root", &revision);
    let found = get(&plane, "apps");
    assert_eq!((&found["spec"]["interval"], &found["spec"]["suspend"]), (&json!("11m"), &json!(true)), "applied, and still suspended");
    assert!(found["metadata"]["annotations"][ANNOTATION].as_str().unwrap().contains("\"run\":\"shutdown-1\""));
    let managers: Vec<&str> =
        found["metadata"]["managedFields"].as_array().unwrap().iter().filter_map(|field| field["manager"].as_str()).collect();
    assert!(managers.contains(&"metis"), "{managers:?}");
    let facts = metis.run(metis.cluster.collect(seconds(10))).unwrap();
    assert_eq!(
        facts.flux.iter().map(|found| (found.suspended, found.mark.clone())).collect::<Vec<_>>(),
        [(false, None), (true, Some(ours))]
    );

    set(None).unwrap();
    applied(&plane, "apps", &revision);
    let found = get(&plane, "apps");
    assert!(found["spec"].get("suspend").is_none() && found["metadata"]["annotations"].get(ANNOTATION).is_none(), "{found}");

    // What a person suspended stays suspended.
    plane.api().unwrap().merge(&format!("{KUSTOMIZATIONS}/apps"), &json!({"spec": {"suspend": true}})).unwrap();
    set(Some(&mark("shutdown-2", "flux.suspend"))).unwrap();
    assert!(get(&plane, "apps")["metadata"]["annotations"].get(ANNOTATION).is_none());
    set(None).unwrap();
    assert_eq!(get(&plane, "apps")["spec"]["suspend"], json!(true));
}

#[test]
fn releases_of_helm_are_suspended_by_the_version_that_is_served() {
    if !available("HelmReleases") {
        return;
    }
    let plane = Plane::start(&Options { flux: Flux::Crds, ..Options::default() }).unwrap();
    plane
        .apply("apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: web, namespace: default}\nspec: {interval: 10m, chartRef: {kind: OCIRepository, name: chart}}\n")
        .unwrap();
    let metis = Metis::of(&plane);
    let object = ObjectRef::new("HelmRelease", "default", "web");
    metis.run(metis.cluster.set_suspended(&object, Some(&mark("shutdown-1", "flux.suspend")), seconds(10))).unwrap();
    let facts = metis.run(metis.cluster.collect(seconds(10))).unwrap();
    assert!(facts.flux.len() == 1 && facts.flux[0].suspended && facts.flux[0].mark.is_some(), "{facts:?}");
    metis.run(metis.cluster.set_suspended(&object, None, seconds(10))).unwrap();
    let facts = metis.run(metis.cluster.collect(seconds(10))).unwrap();
    assert!(!facts.flux[0].suspended && facts.flux[0].mark.is_none(), "{facts:?}");
    let gone = metis.run(metis.cluster.set_suspended(&ObjectRef::new("HelmRelease", "default", "none"), None, seconds(10)));
    assert!(matches!(gone, Err(metisd::cluster::port::ClusterError::Gone(_))), "{gone:?}");
}
