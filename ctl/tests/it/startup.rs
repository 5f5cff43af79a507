//! startup.

use insta::assert_snapshot;
use metis_proto::v1;

use crate::fake::{Fake, Fault};
use crate::run as ctl;
use crate::sample::secs;

pub fn guards() -> Vec<v1::Guard> {
    let guard = |name: &str, message: &str, waiver: &str| v1::Guard { name: name.into(), message: message.into(), waiver: waiver.into() };
    vec![
        guard("daemon.host_role", "daemon.host_role is `observer`: only a coordinator or a peer commands a start-up", ""),
        guard("power.on_battery", "pyrphoros@localhost is on battery", "--allow-on-battery"),
    ]
}

pub fn plan() -> v1::Plan {
    let step = |id: &str, kind: &str, title: &str, by_hand: &str, predicted: i64| v1::PlanStep {
        id: id.into(),
        kind: kind.into(),
        title: title.into(),
        by_hand: by_hand.into(),
        predicted: secs(predicted),
        deadline: secs(600),
        form: "gate".into(),
        replay: "idempotent".into(),
        ..v1::PlanStep::default()
    };
    let phase = |name: &str, steps| v1::PlanPhase { name: name.into(), steps, concurrency: 1, predicted: secs(45) };
    v1::Plan {
        kind: "startup".into(),
        title: "start the cluster on 2 hosts".into(),
        phases: vec![
            phase("wait for hosts", vec![step("host-up.titan-0a", "host-up", "titan-0a: is on and lets us in", "ssh titan-0a true", 60)]),
            phase(
                "control plane",
                vec![step("control-plane", "control-plane", "the API server is ready", "kubectl get --raw /readyz", 45)],
            ),
        ],
        warnings: vec!["do not come back by themselves where they are off, and are waited for: titan-15".into()],
        predicted: secs(105),
        ..v1::Plan::default()
    }
}

pub fn tables() -> v1::GatesResponse {
    let gate = |name: &str, patience: i64| v1::Gate {
        name: name.into(),
        needs: "control-plane".into(),
        probe: "it is so".into(),
        patience: secs(patience),
        on_failure: "make it so".into(),
    };
    let guard = |name: &str, waiver: &str| v1::GuardRow { name: name.into(), refuses: "what must not be".into(), waiver: waiver.into() };
    let repair = |name: &str, setting: &str, allowed: bool, gates: &[&str]| v1::RepairRow {
        name: name.into(),
        setting: setting.into(),
        allowed,
        symptom: "something is stuck".into(),
        preconditions: "nobody uses it".into(),
        blast_radius: "that one thing is deleted".into(),
        undo: "none is needed".into(),
        by_hand: "kubectl delete".into(),
        gates: gates.iter().map(|&gate| gate.into()).collect(),
    };
    v1::GatesResponse {
        gates: vec![gate("mains", 30 * 86_400), gate("flux", 1200)],
        guards: vec![guard("power.on_battery", "--allow-on-battery"), guard("startup.empty", "")],
        repairs: vec![
            repair("immutable-job", "immutable_job", true, &["flux"]),
            repair("stuck-pod", "stuck_pod", false, &["flux-source", "flux"]),
            repair("stale-cordon", "", true, &[]),
        ],
    }
}

#[test]
fn a_dry_run_prints_the_plan_and_the_list_its_tables() {
    let fake = Fake::start(Fault::None);
    let ran = ctl(&fake.socket(), &["startup", "--reason", "storm is over"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_snapshot!("startup", ran.out);
    let asked = fake.heard().startups.remove(0);
    assert_eq!((asked.reason.as_str(), asked.execute), ("storm is over", false));
    let list = ctl(&fake.socket(), &["startup", "--list"]);
    assert_eq!(list.code, 0, "{list:?}");
    assert_snapshot!("gates", list.out);
    let json: serde_json::Value = serde_json::from_str(&ctl(&fake.socket(), &["startup", "--list", "-o", "json"]).out).unwrap();
    assert_eq!((&json["gates"][1]["patience_seconds"], &json["guards"][1]["waiver"]), (&1200.0.into(), &serde_json::Value::Null));
    assert_eq!((&json["repairs"][1]["allowed"], &json["repairs"][2]["setting"]), (&false.into(), &serde_json::Value::Null));
}

#[test]
fn every_flag_reaches_the_daemon_and_wrong_ones_are_usage() {
    let fake = Fake::start(Fault::None);
    let flags = "--ignore-node titan-15 --ignore-node titan-13 --allow-on-battery --min-startup-battery 20 --require-ups-battery \
                 --startup-stability-window 3m --startup-stability-timeout 10m --startup-checklist-timeout 900 --skip-package-check \
                 --allow-peer-startup --auto-peer-failover";
    let args: Vec<&str> = std::iter::once("startup").chain(flags.split_whitespace()).collect();
    assert_eq!(ctl(&fake.socket(), &args).code, 0);
    let expected = v1::StartupRequest {
        reason: String::new(),
        ignore: vec!["titan-15".into(), "titan-13".into()],
        allow_on_battery: true,
        min_battery: Some(20),
        require_ups_battery: true,
        stability_window: secs(180),
        execute: false,
        checklist_timeout: secs(900),
        stability_timeout: secs(600),
        skip_packages: true,
        allow_peer_startup: true,
        auto_peer_failover: true,
    };
    assert_eq!(fake.heard().startups.remove(0), expected);
    for flags in ["--min-startup-battery 101", "--startup-stability-window 0", "--list --execute", "extra"] {
        let args: Vec<&str> = std::iter::once("startup").chain(flags.split_whitespace()).collect();
        assert_eq!(ctl(&fake.socket(), &args).code, 2, "{flags}");
    }
}

#[test]
fn one_that_the_coordinator_runs_is_not_followed_here() {
    let fake = Fake::start(Fault::None);
    let ran = ctl(&fake.socket(), &["startup", "--execute", "--reason", "asked at the peer"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("titan-db is the coordinator and runs it as shutdown-3: follow it there"), "{}", ran.out);
    let json = ctl(&fake.socket(), &["startup", "--execute", "--reason", "asked at the peer", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&json["handed_over"]["to"], &json["handed_over"]["run"]), (&"titan-db".into(), &"shutdown-3".into()));
}

#[test]
fn all_guards_are_listed_each_with_its_waiver_and_an_execution_is_followed() {
    let fake = Fake::start(Fault::PlanRefuses);
    let ran = ctl(&fake.socket(), &["startup"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    for part in ["only a coordinator or a peer commands a start-up (cannot be waived)", "(waive it with --allow-on-battery)"] {
        assert!(ran.out.contains(part), "{part} is missing in\n{}", ran.out);
    }
    let fake = Fake::with(Fault::None, crate::sample::image(), v1::Phase::Degraded);
    let ran = ctl(&fake.socket(), &["startup", "--execute"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.starts_with("shutdown-3: start the cluster on 2 hosts\nCtrl-C detaches"), "{}", ran.err);
    let refused = ctl(&Fake::start(Fault::Role).socket(), &["startup", "--execute"]);
    assert!(refused.err.contains("refused: startup needs role admin"), "{}", refused.err);
}
