//! Marks, the order of Flux, attached volumes, Leases.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::collect::fresh;
use super::flux::in_order;
use super::kube::List;
use super::mark::{ANNOTATION, Decision, Marked, decide, marked};
use super::objects::{Loose, Meta, Selector, Suspendable};
use super::real::RIGHTS;
use super::volumes::merge;
use crate::site::Mark;

fn mark(holder: &str, run: &str) -> Mark {
    Mark { holder: holder.into(), run: run.into(), step: "flux.suspend".into(), reason: "a test".into(), expires: None }
}

#[test]
fn only_what_is_ours_is_changed_back() {
    let (ours, newer, peers) = (mark("titan-db", "shutdown-1"), mark("titan-db", "shutdown-2"), mark("tethys", "shutdown-1"));
    let no = Marked::No;
    let of = |mark: &Mark| Marked::Ours(mark.clone());
    let set = |mark: &Mark| {
        let text = serde_json::to_string(mark).unwrap();
        Decision::Patch(json!({"metadata": {"annotations": {ANNOTATION: text}}, "spec": {"suspend": true}}))
    };
    let clear = Decision::Patch(json!({"metadata": {"annotations": {ANNOTATION: null}}, "spec": {"suspend": null}}));
    let cases = [
        ("suspends", false, &no, Some(&ours), set(&ours)),
        ("leaves what somebody suspended", true, &no, Some(&ours), Decision::Leave),
        ("leaves what is suspended with a mark that cannot be read", true, &Marked::Unreadable, Some(&ours), Decision::Leave),
        ("twice is once", true, &of(&ours), Some(&ours), Decision::Leave),
        ("a later run takes over", true, &of(&ours), Some(&newer), set(&newer)),
        ("not from the peer", true, &of(&peers), Some(&ours), Decision::Leave),
        ("resumed by hand, suspended again", false, &of(&ours), Some(&newer), set(&newer)),
        ("resumes", true, &of(&ours), None, clear.clone()),
        ("resumes what the peer suspended", true, &of(&peers), None, clear.clone()),
        ("leaves what somebody suspended as it is", true, &no, None, Decision::Leave),
        ("resumed already", false, &no, None, Decision::Leave),
        ("resumed by hand: only the mark goes", false, &of(&ours), None, clear.clone()),
        ("cannot tell whose it is", true, &Marked::Unreadable, None, Decision::Refuse),
        ("an annotation that means nothing any more", false, &Marked::Unreadable, None, clear),
    ];
    for (what, is, whose, wanted, expected) in cases {
        assert_eq!(decide(is, whose, wanted, "suspend"), expected, "{what}");
    }
}

#[test]
fn a_mark_reads_as_it_was_written() {
    let meta = |text: &str| Meta { annotations: BTreeMap::from([(ANNOTATION.to_owned(), text.to_owned())]), ..Meta::default() };
    let mut ours = mark("titan-db", "shutdown-1");
    ours.expires = Some("2026-11-21T17:00:00Z".parse().unwrap());
    assert_eq!(marked(&meta(&json!(ours).to_string())), Marked::Ours(ours));
    assert_eq!(marked(&meta("someone")), Marked::Unreadable);
    assert_eq!(marked(&Meta::default()), Marked::No);
}

fn kustomization(name: &str, parent: Option<&str>) -> Suspendable {
    let mut object = json!({"metadata": {"name": name, "namespace": "flux-system"}});
    if let Some(parent) = parent {
        object["metadata"]["labels"] =
            json!({"kustomize.toolkit.fluxcd.io/name": parent, "kustomize.toolkit.fluxcd.io/namespace": "flux-system"});
    }
    serde_json::from_value(object).unwrap()
}

#[test]
fn parents_are_suspended_before_their_children() {
    let all = vec![
        kustomization("apps", Some("infra")),
        kustomization("circle-a", Some("circle-b")),
        kustomization("circle-b", Some("circle-a")),
        kustomization("flux-system", Some("flux-system")),
        kustomization("infra", Some("flux-system")),
        kustomization("lone", None),
        kustomization("orphan", Some("gone")),
    ];
    let names: Vec<String> = in_order(all).into_iter().map(|object| object.metadata.name).collect();
    let at = |name: &str| names.iter().position(|other| other == name).unwrap();
    assert!(at("flux-system") < at("infra") && at("infra") < at("apps"), "{names:?}");
    assert_eq!(names.len(), 7);
}

fn loose(value: Value) -> Loose {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_volume_is_held_by_everything_that_says_so() {
    let attachments = [
        loose(
            json!({"metadata": {"name": "csi-1"}, "spec": {"attacher": "driver.longhorn.io", "nodeName": "n1", "source": {"persistentVolumeName": "pvc-1"}}}),
        ),
        loose(json!({"metadata": {"name": "csi-2"}, "spec": {"attacher": "other", "nodeName": "n2", "source": {"inlineVolumeSpec": {}}}})),
    ];
    let volumes = [
        loose(json!({"metadata": {"name": "pvc-1"}, "status": {"state": "attached", "currentNodeID": "n1"}})),
        loose(json!({"metadata": {"name": "pvc-3"}, "status": {"state": "detaching", "currentNodeID": "n3"}})),
        loose(json!({"metadata": {"name": "pvc-4"}, "status": {"state": "detached", "currentNodeID": "n3"}})),
        loose(json!({"metadata": {"name": "pvc-5"}})),
    ];
    let tickets = [
        loose(
            json!({"metadata": {"name": "pvc-1"}, "spec": {"attachmentTickets": {"a": {"type": "csi-attacher", "nodeID": "n1"}, "b": {"type": "longhorn-api", "nodeID": "n4"}}}}),
        ),
        loose(json!({"metadata": {"name": "pvc-6"}, "spec": {"attachmentTickets": {}}})),
        loose(json!({"metadata": {"name": "pvc-7"}, "spec": {"volume": "pvc-7"}})),
    ];
    let found: Vec<String> =
        merge(&attachments, &volumes, &tickets).into_iter().map(|held| format!("{} {}: {}", held.node, held.name, held.held_by)).collect();
    assert_eq!(
        found,
        [
            "n2 csi-2: VolumeAttachment of other",
            "n1 pvc-1: Longhorn ticket csi-attacher, Longhorn: attached, VolumeAttachment of driver.longhorn.io",
            "n4 pvc-1: Longhorn ticket longhorn-api",
            "n3 pvc-3: Longhorn: detaching",
        ]
    );
}

#[test]
fn a_lease_is_fresh_by_the_clock_of_the_api_server() {
    let lease = |renewed: Value| List {
        items: vec![loose(json!({"metadata": {"name": "n1"}, "spec": {"renewTime": renewed, "leaseDurationSeconds": 40}}))],
        date: Some("2026-11-21T12:00:00Z".parse().unwrap()),
    };
    for (renewed, expected) in [
        (json!("2026-11-21T11:59:55.123456Z"), true),
        (json!("2026-11-21T11:59:10.000000Z"), true),
        (json!("2026-11-21T11:59:09.000000Z"), false),
        (json!("2026-11-21T12:00:30.000000Z"), true),
        (json!("2026-11-21T13:00:00.000000Z"), false),
        (json!("nonsense"), false),
        (Value::Null, false),
    ] {
        assert_eq!(fresh("n1", &lease(renewed.clone())), expected, "{renewed}");
    }
    assert!(!fresh("n2", &lease(json!("2026-11-21T12:00:00Z"))));
    assert!(!fresh("n1", &List { date: None, ..lease(json!("2026-11-21T12:00:00Z")) }), "without the server's clock it cannot be told");
}

#[test]
fn selectors_fit_as_those_of_kubernetes() {
    let labels = BTreeMap::from([("app".to_owned(), "x".to_owned()), ("tier".to_owned(), "db".to_owned())]);
    for (selector, expected) in [
        (json!({}), true),
        (json!({"matchLabels": {"app": "x"}}), true),
        (json!({"matchLabels": {"app": "y"}}), false),
        (json!({"matchLabels": {"app": "x", "gone": ""}}), false),
        (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["db", "web"]}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["web"]}]}), false),
        (json!({"matchExpressions": [{"key": "gone", "operator": "In", "values": ["web"]}]}), false),
        (json!({"matchExpressions": [{"key": "gone", "operator": "NotIn", "values": ["web"]}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}]}), false),
        (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
        (json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "gone", "operator": "Exists"}]}), false),
    ] {
        let parsed: Selector = serde_json::from_value(selector.clone()).unwrap();
        assert_eq!(parsed.fits(&labels), expected, "{selector}");
    }
}

/// Every right that is asked for is granted by the manifest that is shipped.
#[test]
fn the_shipped_rights_are_enough() {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../etc/kubernetes/metis-rbac.yaml")).unwrap();
    let role = manifest.split("---\n").find(|part| part.contains("kind: ClusterRole\n")).unwrap();
    let role: Value = serde_yaml::from_str(role).unwrap();
    let has = |rule: &Value, key: &str, wanted: &str| rule[key].as_array().unwrap().iter().any(|value| value == wanted);
    for (group, resource, verbs) in RIGHTS {
        for verb in *verbs {
            let granted = role["rules"].as_array().unwrap().iter();
            let granted =
                granted.clone().any(|rule| has(rule, "apiGroups", group) && has(rule, "resources", resource) && has(rule, "verbs", verb));
            assert!(granted, "{verb} of {resource}.{group} is not granted");
        }
    }
}
