//! lease.

use metis_proto::v1;

use crate::fake::{Fake, Fault};
use crate::run as ctl;
use crate::sample::at;

pub fn leases() -> v1::ListLeasesResponse {
    let lease = |node: &str, manual_action: &str| v1::Lease {
        node: node.into(),
        run: "shutdown-3".into(),
        step: format!("drain.{node}"),
        reason: "stop the cluster".into(),
        placed: at(0),
        expires: at(3600),
        manual_action: manual_action.into(),
    };
    v1::ListLeasesResponse { leases: vec![lease("titan-13", ""), lease("titan-15", "its lease has expired, and the node is not Ready")] }
}

#[test]
fn cordons_are_listed_with_their_end() {
    let fake = Fake::start(Fault::None);
    let ran = ctl(&fake.socket(), &["lease"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<_> = ran.out.lines().collect();
    assert!(lines[0].starts_with("NODE") && lines[0].ends_with("NEEDS A PERSON"), "{}", ran.out);
    assert!(lines[1].starts_with("titan-13  shutdown-3") && ran.out.contains("its lease has expired"), "{}", ran.out);
    let json: serde_json::Value = serde_json::from_str(&ctl(&fake.socket(), &["lease", "-o", "json"]).out).unwrap();
    assert_eq!((&json["leases"][0]["manual_action"], &json["leases"][1]["node"]), (&serde_json::Value::Null, &"titan-15".into()));
}

#[test]
fn renewing_and_releasing_are_dry_runs_unless_executed() {
    let fake = Fake::start(Fault::None);
    let dry = ctl(&fake.socket(), &["lease", "renew", "titan-13", "--for", "2h"]);
    assert_eq!((dry.code, dry.out.as_str()), (0, "titan-13 for 7200 s, execute: false\n\nDRY RUN: nothing was changed, add --execute\n"));
    let done = ctl(&fake.socket(), &["lease", "renew", "titan-13", "--execute"]);
    assert_eq!((done.code, done.out.as_str()), (0, "titan-13 as configured, execute: true\n"));
    let released = ctl(&fake.socket(), &["lease", "release", "titan-15", "--execute"]);
    assert_eq!(released.out, "titan-15 released, execute: true\n");
    for flags in [&["lease", "renew"][..], &["lease", "renew", "titan-13", "--for", "0"], &["lease", "lend"]] {
        assert_eq!(ctl(&fake.socket(), flags).code, 2, "{flags:?}");
    }
}
