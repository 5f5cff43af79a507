//! shutdown, arm, disarm, and the runs that they begin.

use insta::assert_snapshot;
use metis_proto::v1;

use crate::fake::{Fake, Fault};
use crate::run as ctl;
use crate::sample::{at, secs};

pub fn guards() -> Vec<v1::Guard> {
    let message = "upsmon is primary of pyrphoros@localhost on this host: `systemctl disable --now nut-monitor`";
    vec![
        v1::Guard { name: "power.upsmon".into(), message: message.into(), waiver: String::new() },
        v1::Guard { name: "power.unheard".into(), message: "no UPS was heard from".into(), waiver: String::new() },
    ]
}

fn step(id: &str, host: &str, title: &str, by_hand: &str, predicted: i64) -> v1::PlanStep {
    v1::PlanStep {
        id: if host.is_empty() { id.into() } else { format!("{id}:{host}") },
        kind: id.into(),
        title: title.into(),
        by_hand: by_hand.into(),
        predicted: secs(predicted),
        deadline: secs(180),
        form: "act".into(),
        replay: "idempotent".into(),
        host: host.into(),
        on_failure: "continue".into(),
        ..v1::PlanStep::default()
    }
}

pub fn plan() -> v1::Plan {
    let phase =
        |name: &str, concurrency, predicted, steps| v1::PlanPhase { name: name.into(), steps, concurrency, predicted: secs(predicted) };
    let drain = |host: &str| step("node.drain", host, &format!("drain {host}"), &format!("kubectl drain {host} --ignore-daemonsets"), 40);
    let stop = |host: &str| v1::PlanStep {
        commits: true,
        ..step("k3s.stop", host, &format!("stop k3s-agent on {host}"), &format!("ssh {host} sudo systemctl stop k3s-agent"), 6)
    };
    let shortened = v1::PlanStep { limit: secs(25), squeeze: "shortened".into(), ..drain("titan-13") };
    let skipped = step("etcd.snapshot", "titan-0a", "snapshot of etcd on titan-0a", "ssh titan-0a sudo k3s etcd-snapshot save", 20);
    let skipped = v1::PlanStep { limit: secs(0), squeeze: "skipped".into(), ..skipped };
    v1::Plan {
        kind: "shutdown".into(),
        title: "stop the site and power its hosts off".into(),
        phases: vec![
            phase("collect", 1, 2, vec![step("cluster.collect", "", "record what is about to change", "kubectl get nodes -o yaml", 2)]),
            phase("snapshot", 1, 20, vec![skipped]),
            phase("drain", 8, 40, vec![shortened, drain("titan-05")]),
            phase("stop agents", 8, 6, vec![stop("titan-13"), stop("titan-05")]),
        ],
        warnings: vec!["titan-jh is not managed: it is left alone".into()],
        predicted: secs(68),
        unwind: vec![phase("undo", 8, 4, vec![step("node.uncordon", "titan-13", "uncordon titan-13", "kubectl uncordon titan-13", 2)])],
        remaining: secs(90),
        tail: secs(20),
        ..v1::Plan::default()
    }
}

pub fn hosts() -> Vec<v1::HostEnd> {
    let host = |name: &str, returns: &str, this_host: bool| v1::HostEnd {
        name: name.into(),
        k3s_stops: !this_host,
        powers_off: true,
        returns: returns.into(),
        access: if this_host { "local" } else { "ssh" }.into(),
        domains: vec!["pyrphoros".into()],
        this_host,
        mac: String::new(),
    };
    vec![host("titan-13", "ac-cycle", false), host("titan-05", "by-hand", false), host("titan-db", "wake-on-lan", true)]
}

/// A shutdown; where it has ended, one of its drains took rungs and one host was given up.
pub fn run(phase: v1::Phase) -> v1::Run {
    let ended = if phase == v1::Phase::Running { None } else { at(-20) };
    let step = |planned: &v1::PlanStep, phase: v1::Phase, from: i64, to: i64, detail: &str| v1::RunStep {
        id: planned.id.clone(),
        kind: planned.kind.clone(),
        title: planned.title.clone(),
        phase: phase.into(),
        attempts: 1,
        started: at(from),
        ended: at(to),
        detail: detail.into(),
        predicted: planned.predicted,
        limit: planned.limit,
        commits: planned.commits,
        host: planned.host.clone(),
        ..v1::RunStep::default()
    };
    let plan = plan();
    let steps: Vec<v1::PlanStep> = plan.phases.iter().flat_map(|p| p.steps.clone()).collect();
    let rungs = vec!["force: monitoring/prometheus-0".to_owned(), "disable-eviction: media/jellyfin-0 (PDB jellyfin)".to_owned()];
    let mut drained = step(&steps[2], v1::Phase::Done, -78, -40, "12 pods are gone");
    drained.milestones = rungs;
    let gone = "no SSH: connect to 192.168.22.45 port 2277: no route to host";
    v1::Run {
        id: "shutdown-3".into(),
        kind: "shutdown".into(),
        title: plan.title,
        phase: phase.into(),
        started: at(-80),
        ended,
        reason: if phase == v1::Phase::Degraded { "titan-05 was abandoned".into() } else { String::new() },
        requested_by: "brad (uid 1000)".into(),
        phases: vec![
            v1::RunPhase { name: "collect".into(), steps: vec![step(&steps[0], v1::Phase::Done, -80, -78, "")], predicted: secs(2) },
            v1::RunPhase {
                name: "drain".into(),
                steps: vec![drained, step(&steps[3], v1::Phase::Done, -78, -70, "")],
                predicted: secs(40),
            },
            v1::RunPhase {
                name: "stop agents".into(),
                steps: vec![step(&steps[4], v1::Phase::Done, -40, -34, ""), step(&steps[5], v1::Phase::Abandoned, -40, -20, gone)],
                predicted: secs(6),
            },
        ],
        unwind: vec![v1::RunPhase::default()],
        cause: "ups".into(),
        committed: true,
        predicted: secs(68),
        raised: vec![
            raised(-76, "the failing power of statera", "statera", at(-75)),
            raised(-72, "the failing power of pyrphoros", "pyrphoros", None),
        ],
        ..v1::Run::default()
    }
}

fn raised(seconds: i64, by: &str, domain: &str, lowered: Option<prost_types::Timestamp>) -> v1::Raised {
    v1::Raised { at: at(seconds), requested_by: by.into(), domains: vec![domain.into()], lowered }
}

pub fn cancel(execute: bool, too_late: bool) -> v1::CancelRunResponse {
    if too_late {
        let line = "shutdown-3 is past its point of no return: it goes on to its end".to_owned();
        return v1::CancelRunResponse { consequences: vec![line], ..v1::CancelRunResponse::default() };
    }
    v1::CancelRunResponse {
        consequences: vec!["drain titan-13: is ended where it is".into(), "uncordon titan-13".into()],
        cancelled: execute,
        until: "stop k3s-agent on titan-13".into(),
    }
}

#[test]
fn a_dry_run_says_what_would_become_of_every_step_and_host() {
    let fake = Fake::start(Fault::None);
    let ran = ctl(&fake.socket(), &["shutdown", "--shutdown-mode", "host-poweroff", "--reason", "storm"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_snapshot!("shutdown", ran.out);
    assert!(ran.out.ends_with("\nDRY RUN: nothing was changed, add --execute\n"));
    let asked = fake.heard().shutdowns.remove(0);
    assert_eq!((asked.mode(), asked.reason.as_str(), asked.execute), (v1::ShutdownMode::HostPoweroff, "storm", false));
}

#[test]
fn every_flag_reaches_the_daemon() {
    let fake = Fake::start(Fault::None);
    let flags = "--skip-drain --skip-etcd-snapshot --drain-timeout 90 --emergency-drain-timeout 2m --require-ups-battery --ups-host tethys \
                 --domain pyrphoros --domain statera -o json";
    let args: Vec<&str> = std::iter::once("shutdown").chain(flags.split_whitespace()).collect();
    let ran = ctl(&fake.socket(), &args);
    assert_eq!(ran.code, 0, "{ran:?}");
    let plan: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let step = &plan["plan"]["phases"][2]["steps"][0];
    assert_eq!((&step["squeeze"], &step["limit_seconds"], &step["host"]), (&"shortened".into(), &25.0.into(), &"titan-13".into()));
    assert_eq!(plan["hosts"][1]["returns"], "by-hand");
    let asked = fake.heard().shutdowns.remove(0);
    let expected = v1::ShutdownRequest {
        mode: v1::ShutdownMode::Unspecified.into(),
        reason: String::new(),
        skip_drain: true,
        skip_etcd_snapshot: true,
        drain_timeout: secs(90),
        emergency_drain_timeout: secs(120),
        require_ups_battery: true,
        ups_host: "tethys".into(),
        domains: vec!["pyrphoros".into(), "statera".into()],
        execute: false,
    };
    assert_eq!(asked, expected);
}

#[test]
fn wrong_flags_are_usage() {
    let fake = Fake::start(Fault::None);
    for flags in ["--mode gently", "--drain-timeout 0", "--drain-timeout 3w", "--drain-timeout 25h", "extra"] {
        let args: Vec<&str> = std::iter::once("shutdown").chain(flags.split_whitespace()).collect();
        assert_eq!(ctl(&fake.socket(), &args).code, 2, "{flags}");
    }
    assert!(fake.heard().shutdowns.is_empty());
}

#[test]
fn a_plan_that_would_be_refused_lists_all_guards() {
    let fake = Fake::start(Fault::PlanRefuses);
    let ran = ctl(&fake.socket(), &["shutdown"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    for part in
        ["would be refused: power.upsmon: ", "would be refused: power.unheard: ", "DRY RUN: nothing was changed; it would be refused"]
    {
        assert!(ran.out.contains(part), "{part} is missing in\n{}", ran.out);
    }
}

#[test]
fn the_role_that_an_execution_needs_is_said() {
    let fake = Fake::start(Fault::Role);
    for (args, what) in [(&["shutdown", "--execute"][..], "shutdown"), (&["arm"], "arm"), (&["disarm"], "disarm")] {
        let ran = ctl(&fake.socket(), args);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.err.contains(&format!("refused: {what} needs role admin; you are uid 1000 with role viewer")), "{}", ran.err);
    }
    // Looking is for everybody.
    assert_eq!(ctl(&fake.socket(), &["shutdown"]).code, 0);
    assert_eq!(ctl(&fake.socket(), &["arm", "--check"]).code, 0);
}

#[test]
fn an_execution_is_followed_to_its_end() {
    for (ends_as, code) in [(v1::Phase::Done, 0), (v1::Phase::Failed, 1), (v1::Phase::Cancelled, 1), (v1::Phase::Degraded, 5)] {
        let fake = Fake::with(Fault::None, crate::sample::image(), ends_as);
        let ran = ctl(&fake.socket(), &["shutdown", "--execute"]);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(
            ran.err.starts_with(
                "shutdown-3: stop the site and power its hosts off\ntakes about 1 min 08 s, and 20 s until the hosts are off; 1 min 30 s"
            ),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("run cancel shutdown-3` says what it would undo"), "{}", ran.err);
        // Hosts that are missing are named, whatever the run is called.
        assert!(ran.out.contains("\n  titan-05: k3s.stop abandoned: no SSH"), "{}", ran.out);
        assert!(!ran.out.contains("titan-05 was abandoned"), "said once: {}", ran.out);
    }
}

#[test]
fn a_run_of_hosts_has_a_time_line() {
    let fake = Fake::with(Fault::None, crate::sample::image(), v1::Phase::Degraded);
    let ran = ctl(&fake.socket(), &["run", "show", "shutdown-3"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for line in ["took     1 min (expected about 1 min 08 s)", "cause    a UPS reading: an emergency"] {
        assert!(ran.out.lines().any(|l| l == line), "{line} is missing in\n{}", ran.out);
    }
    let raised: Vec<_> = ran.out.lines().filter(|line| line.starts_with("raised ")).collect();
    assert!(
        raised[0].contains(" by the failing power of statera; the mains were back at ")
            && raised[0].ends_with(", and it goes on as it was")
    );
    assert!(raised[1].ends_with(" by the failing power of pyrphoros"), "{raised:?}");
    // What is above and below says how long ago it was.
    let from = ran.out.find("PHASE        WHERE").unwrap();
    let to = ran.out.find("not done:").unwrap();
    assert_snapshot!("time_line", &ran.out[from..to]);
    assert!(ran.out[to..].starts_with("not done:\n  titan-05: k3s.stop abandoned: no SSH"), "{}", &ran.out[to..]);
}

#[test]
fn a_cancellation_says_until_when() {
    let fake = Fake::start(Fault::None);
    let ran = ctl(&fake.socket(), &["run", "cancel", "shutdown-3"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_snapshot!(ran.out, @r"
    cancelling shutdown-3 would mean:
      drain titan-13: is ended where it is
      uncordon titan-13
    possible until it begins to: stop k3s-agent on titan-13

    DRY RUN: nothing was changed, add --execute
    ");
    let fake = Fake::start(Fault::Refuse);
    let ran = ctl(&fake.socket(), &["run", "cancel", "shutdown-3", "--execute"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.out.starts_with("shutdown-3 cannot be cancelled:\n  shutdown-3 is past its point of no return"), "{}", ran.out);
}

#[test]
fn arming_says_what_holds_and_what_stands_against_it() {
    let fake = Fake::start(Fault::None);
    let ran = ctl(&fake.socket(), &["arm", "--mode", "host-poweroff"]);
    assert_eq!((ran.code, ran.out.lines().next().unwrap()), (0, "ARMED: a trigger leads to host-poweroff"), "{ran:?}");
    let fake = Fake::start(Fault::PlanRefuses);
    let ran = ctl(&fake.socket(), &["arm", "--check"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_snapshot!(ran.out, @r"
    disarmed; 2 guards stand against arming for cluster-only
    warning: no shutdown was rehearsed yet
    would be refused: power.upsmon: upsmon is primary of pyrphoros@localhost on this host: `systemctl disable --now nut-monitor` (cannot be waived)
    would be refused: power.unheard: no UPS was heard from (cannot be waived)

    nothing was changed
    ");
    assert!(!fake.heard().arms[0].execute);
    let ran = ctl(&fake.socket(), &["disarm", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json, serde_json::json!({ "armed": false, "was_armed": true, "active": ["shutdown-3"] }));
}
