//! Cordons, and volumes that are attached.

use std::collections::BTreeSet;

use metis_tests::actors::{Volume, Volumes, storage_plane, volume};
use metis_tests::plane::{Options, Plane, available};
use metisd::cluster::ANNOTATION;
use metisd::cluster::port::{Cluster, ClusterError};
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
