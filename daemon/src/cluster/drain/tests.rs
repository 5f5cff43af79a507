//! The rules of a drain, in tables, by properties, and in a simulated node.

mod answers;
mod filter;
mod ladder;
mod node;

use serde_json::{Value, json};

use crate::cluster::objects::Pod;

/// A running pod of a ReplicaSet on `n1`, with `patch` laid over it.
pub fn pod(name: &str, patch: Value) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "web", "uid": format!("uid-{name}"),
            "ownerReferences": [{"kind": "ReplicaSet", "name": "rs", "uid": "rs-1", "controller": true}],
        },
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 30},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    merge(&mut pod, &patch);
    serde_json::from_value(pod).unwrap()
}

/// RFC 7396.
pub fn merge(base: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *base = patch.clone();
        return;
    };
    if !base.is_object() {
        *base = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut base[key.as_str()], value);
        }
    }
}
