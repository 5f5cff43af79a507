//! Cordons, and volumes that are attached.

use std::collections::BTreeSet;

use metis_tests::actors::{Volume, Volumes, storage_plane, volume};
use metis_tests::plane::{Options, Plane, available};
use metisd::cluster::ANNOTATION;
use metisd::cluster::port::{Cluster, ClusterError, Platform as _};
use serde_json::Value;

use super::*;

fn node(plane: &Plane, name: &str) -> (bool, Option<Value>) {
    let node = plane.api().unwrap().get(&format!("/api/v1/nodes/{name}")).unwrap();
    let mark = node["metadata"]["annotations"][ANNOTATION].as_str().map(|text| serde_json::from_str(text).unwrap());
    (node["spec"]["unschedulable"] == true, mark)
}

#[test]
fn a_cordon_is_marked_and_only_what_is_marked_is_cleared() {
    if !available("cordons") {
        return;
    }
    let plane = Plane::start(&Options::default()).unwrap();
    plane.nodes(&["titan-13", "titan-15"], &[]).unwrap();
    let metis = Metis::of(&plane);
    let set = |node: &str, mark: Option<&Mark>| metis.run(metis.cluster.set_cordoned(node, mark, seconds(10)));
    let ours = mark("shutdown-1", "node.drain");

    set("titan-13", Some(&ours)).unwrap();
    let (cordoned, found) = node(&plane, "titan-13");
    assert!(cordoned);
    assert_eq!(found.unwrap()["run"], "shutdown-1");
    let facts = metis.run(metis.cluster.collect(seconds(10))).unwrap();
    assert_eq!(facts.nodes[0].mark.as_ref(), Some(&ours));
    set("titan-13", None).unwrap();
    assert_eq!(node(&plane, "titan-13"), (false, None));

    // A person's cordon is his.
    plane.kubectl(&["cordon", "titan-15"]).unwrap();
    set("titan-15", Some(&ours)).unwrap();
    assert_eq!(node(&plane, "titan-15"), (true, None));
    set("titan-15", None).unwrap();
    assert_eq!(node(&plane, "titan-15"), (true, None));

    // Taken over: the annotation removed by hand, and one that is not ours.
    set("titan-13", Some(&ours)).unwrap();
    plane.kubectl(&["annotate", "node", "titan-13", &format!("{ANNOTATION}-")]).unwrap();
    set("titan-13", None).unwrap();
    assert_eq!(node(&plane, "titan-13"), (true, None));
    plane.kubectl(&["annotate", "node", "titan-13", &format!("{ANNOTATION}=somebody")]).unwrap();
    let refused = set("titan-13", None).unwrap_err();
    assert!(matches!(&refused, ClusterError::Refused(why) if why.contains("set spec.unschedulable to false by hand")), "{refused}");
    assert!(matches!(set("titan-99", Some(&ours)), Err(ClusterError::Gone(_))));
    // One that lost a race is made again.
    let audit = plane.audit().unwrap();
    let writes: Vec<_> = audit.iter().filter(|entry| entry.by_metis() && entry.verb == "patch" && entry.code != 409).collect();
    assert_eq!(writes.len(), 3, "{writes:?}");
    assert!(writes.iter().all(|entry| entry.line["requestURI"].as_str().unwrap().ends_with("?fieldManager=metis")), "{writes:?}");
}

/// Events of a node by metis: reason and note.
fn events(plane: &Plane, node: &str) -> Vec<(String, String)> {
    let list = plane.api().unwrap().get("/apis/events.k8s.io/v1/namespaces/default/events").unwrap();
    let ours = list["items"].as_array().unwrap().iter().filter(|event| event["reportingController"] == "metis.v1/metisd");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    ours.filter(|event| event["regarding"]["name"] == node).map(|event| (text(&event["reason"]), text(&event["note"]))).collect()
}

#[test]
fn the_node_tells_who_cordoned_it_and_no_event_is_worth_waiting_for() {
    if !available("events") {
        return;
    }
    let plane = Plane::start(&Options::default()).unwrap();
    plane.nodes(&["titan-13", "titan-15"], &[]).unwrap();
    plane.kubectl(&["cordon", "titan-15"]).unwrap();
    let metis = Metis::of(&plane);
    let set = |node: &str, mark: Option<&Mark>| metis.run(metis.cluster.set_cordoned(node, mark, seconds(10)));
    // The runtime has to run for it.
    let told = |node: &str, count: usize| {
        plane.wait(10, "the events", || {
            metis.run(async { tokio::time::sleep(Duration::from_millis(50)).await });
            let events = events(&plane, node);
            anyhow::ensure!(events.len() == count, "{events:?}");
            Ok(events)
        })
    };
    let ours = mark("shutdown-1", "drain.titan-13");
    set("titan-13", Some(&ours)).unwrap();
    // The same once more changes nothing, and a person's cordon is his.
    set("titan-13", Some(&ours)).unwrap();
    set("titan-15", Some(&ours)).unwrap();
    set("titan-15", None).unwrap();
    let note = "cordoned by metis on titan-db for shutdown-1 (drain.titan-13): a test";
    assert_eq!(told("titan-13", 1).unwrap(), [("Cordoned".to_owned(), note.to_owned())]);
    set("titan-13", None).unwrap();
    let events = told("titan-13", 2).unwrap();
    assert!(events.iter().any(|(reason, note)| reason == "Uncordoned" && note.contains("of shutdown-1")), "{events:?}");
    // A person is asked for; that he is not needed any more is no event.
    for because in [Some("its lease has expired"), None] {
        metis.run(metis.cluster.ask_for_a_person("titan-15", because, seconds(10))).unwrap();
    }
    let note = "a person has to look: its lease has expired; `metisctl lease`";
    assert_eq!(told("titan-15", 1).unwrap(), [("ManualAction".to_owned(), note.to_owned())]);
    let described = plane.kubectl(&["describe", "node", "titan-13"]).unwrap();
    assert!(described.contains("Uncordoned") && described.contains("metis.v1/metisd"), "{described}");

    // Without the right to write them a cordon is a cordon.
    let role = plane.api().unwrap().get("/apis/rbac.authorization.k8s.io/v1/clusterroles/metis").unwrap();
    let rules = role["rules"].as_array().unwrap();
    let at = rules.iter().position(|rule| rule["resources"].as_array().is_some_and(|all| all.contains(&"events".into()))).unwrap();
    let patch = format!(r#"[{{"op": "remove", "path": "/rules/{at}"}}]"#);
    plane.kubectl(&["patch", "clusterrole", "metis", "--type=json", "-p", &patch]).unwrap();
    let again = mark("shutdown-2", "drain.titan-13");
    plane
        .wait(10, "the right to be gone", || {
            let began = Instant::now();
            set("titan-13", Some(&again)).unwrap();
            assert!(began.elapsed() < seconds(5) && node(&plane, "titan-13").0);
            metis.run(async { tokio::time::sleep(Duration::from_millis(200)).await });
            let audit = plane.audit()?;
            set("titan-13", None).unwrap();
            let refused =
                audit.iter().any(|entry| entry.by_metis() && entry.verb == "create" && entry.resource == "events" && entry.code == 403);
            anyhow::ensure!(refused, "no event was refused yet");
            Ok(())
        })
        .unwrap();
    assert!(!node(&plane, "titan-13").0);
}

#[test]
fn attached_volumes_are_named_with_what_holds_them_until_they_are_detached() {
    if !available("volumes") {
        return;
    }
    let mut plane = Plane::start(&Options { longhorn: true, ..Options::default() }).unwrap();
    plane.kwok(&["titan-13", "titan-15"]).unwrap();
    storage_plane(&plane, &["titan-13", "titan-15"]).unwrap();
    volume(&plane, Volume { name: "pvc-1", namespace: "default", claim: "data" }).unwrap();
    let actor = Volumes::default().start(&plane).unwrap();
    let with_claim = "terminationGracePeriodSeconds: 1, volumes: [{name: v, persistentVolumeClaim: {claimName: data}}], ";
    plane.apply(&deployment("db", 1, "titan-13", "", with_claim)).unwrap();
    wait_ready(&plane, &["db"]);
    let metis = Metis::of(&plane);
    let held = |node: &str| {
        let nodes = BTreeSet::from([node.to_owned()]);
        metis.run(metis.cluster.attached(&nodes, seconds(10))).unwrap()
    };
    plane
        .wait(30, "the volume to be attached", || {
            let held = held("titan-13");
            anyhow::ensure!(held.len() == 1 && held[0].held_by.contains("Longhorn: attached"), "{held:?}");
            Ok(())
        })
        .unwrap();
    let one = &held("titan-13")[0];
    assert_eq!((one.name.as_str(), one.node.as_str()), ("pvc-1", "titan-13"));
    assert!(one.held_by.contains("VolumeAttachment of driver.longhorn.io") && one.held_by.contains("Longhorn ticket "), "{}", one.held_by);
    assert!(held("titan-15").is_empty());

    metis.cordon(&["titan-13", "titan-15"]);
    let (drained, ..) = metis.drain("titan-13", &["titan-13", "titan-15"], seconds(60), None);
    assert_eq!(drained.unwrap().left, Vec::<String>::new());
    plane
        .wait(30, "the volume to be detached", || {
            anyhow::ensure!(held("titan-13").is_empty());
            Ok(())
        })
        .unwrap();
    let facts = metis.run(metis.cluster.collect(seconds(10))).unwrap();
    assert!(facts.volumes.is_empty() && facts.unseen.is_empty(), "{facts:?}");
    assert!(facts.replicas.iter().any(|(object, count)| object.to_string() == "Deployment/default/db" && *count == 1), "{facts:?}");
    drop(actor);
}
