use std::collections::BTreeSet;

use super::*;
use crate::runbook::{Form, Hold, Mode, Runbook};
use crate::site::K3sRole;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn gate_step(id: &str, title: &str, gate: Gate, patience: u64, predicted: u64, by_hand: &str) -> PlannedStep<Step> {
    let patience = secs(patience);
    let action = Step::Await { gate, patience };
    PlannedStep {
        form: Form::Gate { patience: Duration::ZERO, every: secs(1), remedies: Vec::new() },
        predicted: secs(predicted),
        by_hand: by_hand.to_owned(),
        ..PlannedStep::act(id, title, action, patience * 4)
    }
}

/// A server, its API, two agents that are to be Ready.
fn run() -> Run<Step> {
    let bring_up = Step::BringUpK3s { node: "titan-0a".into(), role: K3sRole::Server };
    let server = PlannedStep { predicted: secs(5), ..PlannedStep::act("k3s.titan-0a", "titan-0a: start k3s", bring_up, secs(600)) };
    let api = gate_step("control-plane", "the API server is ready", Gate::ControlPlane, 1200, 45, "kubectl get --raw /readyz");
    let node = |name: &str| {
        let title = format!("{name}: Ready since its present boot");
        gate_step(&format!("node-ready.{name}"), &title, Gate::NodeReady { node: name.into() }, 600, 25, "kubectl get nodes -o wide")
    };
    let phases = vec![
        Phase::serial("start servers", vec![server]),
        Phase::serial("control plane", vec![api]),
        Phase { name: "nodes".into(), concurrency: 16, steps: vec![node("titan-13"), node("titan-15")] },
    ];
    Run::new(Runbook::new("startup", "start the cluster on 3 hosts", phases))
}

fn begin(run: &mut Run<Step>, id: &str, since: i64) {
    run.started(&id.into(), Mode::Act, 1, secs(9999), secs(since.unsigned_abs()), at(since));
}

fn end(run: &mut Run<Step>, id: &str, when: i64, status: Status, detail: &str) {
    run.settled(&id.into(), status, detail, secs(when.unsigned_abs()), at(when));
}

fn told(run: &Run<Step>, now: i64, ended: Option<i64>, reason: &str) -> Progress {
    progress(&Subject {
        id: &RunId::new("startup-3"),
        run,
        requester: "erika (uid 1000)",
        cause: &Cause::Person,
        started: at(0),
        ended: ended.map(at),
        reason,
        now: at(now),
        advice: &|gate| match gate {
            Gate::NodeReady { .. } => "journalctl -u k3s-agent on the host; or --ignore-node NAME",
            _ => "look",
        },
    })
}

/// Both agents are waited for, one of them for longer.
fn waiting() -> Run<Step> {
    let mut run = run();
    for (id, from, to) in [("k3s.titan-0a", 1, 3), ("control-plane", 3, 40)] {
        begin(&mut run, id, from);
        end(&mut run, id, to, Status::Done, "");
    }
    begin(&mut run, "node-ready.titan-15", 40);
    begin(&mut run, "node-ready.titan-13", 41);
    run.milestone(&"node-ready.titan-15".into(), "waiting: titan-15 says Ready of an earlier boot: its kubelet has not reported since");
    run
}

#[test]
fn the_gate_that_is_waited_at_longest_is_shown_with_its_end() {
    let progress = told(&waiting(), 60, None, "");
    let gate = progress.gate.unwrap();
    assert_eq!((gate.name, gate.host, gate.since), ("node-ready", Some("titan-15".into()), Some(at(40))));
    assert_eq!(gate.why.as_deref(), Some("titan-15 says Ready of an earlier boot: its kubelet has not reported since"));
    assert_eq!((gate.patience_seconds, gate.hard_end), (600, Some(at(40 + 4 * 600))));
    assert_eq!((progress.state, progress.next.as_str()), ("running", "kubectl get nodes -o wide"));
    assert_eq!(progress.under_way, ["node-ready.titan-13".into(), "node-ready.titan-15".into()], "in the order of the plan");
    assert_eq!(progress.phase, Some(PhaseNow { name: "nodes".into(), number: 3, of: 3 }));
    assert_eq!((progress.steps_done, progress.steps_total), (2, 4));
}

#[test]
fn a_run_says_in_one_word_where_it_stands_and_what_to_type_next() {
    type Change = fn(&mut Run<Step>);
    let table: [(Change, &str, Option<&str>, &str); 7] = [
        (|_| {}, "running", None, "kubectl get nodes -o wide"),
        (|run| run.states.values_mut().for_each(|state| state.status = Status::Pending), "running", None, "metisctl run watch startup-3"),
        (|run| run.hold = Some(Hold { because: "on battery".into() }), "held", Some("on battery"), "kubectl get nodes -o wide"),
        (|run| run.cancelled("enough"), "cancelling", Some("enough"), "kubectl get nodes -o wide"),
        (|run| run.finished(Outcome::Done), "done", Some("why"), "metisctl run show startup-3"),
        (|run| run.finished(Outcome::Interrupted), "interrupted", Some("why"), "metisctl run show startup-3"),
        (|run| run.finished(Outcome::UnknownOutcome), "unknown_outcome", Some("why"), "metisctl run show startup-3"),
    ];
    for (change, state, reason, next) in table {
        let mut run = waiting();
        change(&mut run);
        let progress = told(&run, 60, None, "why");
        assert_eq!((progress.state, progress.reason.as_deref(), progress.next.as_str()), (state, reason, next));
    }
}

#[test]
fn a_gate_that_failed_stays_in_the_file_with_what_to_do() {
    let mut run = waiting();
    end(&mut run, "node-ready.titan-13", 50, Status::Done, "");
    end(&mut run, "node-ready.titan-15", 700, Status::Failed, "titan-15 has not registered; nothing became better for 600 s");
    run.finished(Outcome::Failed);
    let progress = told(&run, 701, Some(701), "titan-15: Ready since its present boot");
    assert_eq!((progress.state, progress.ended), ("failed", Some(at(701))));
    let gate = progress.gate.unwrap();
    assert_eq!((gate.since, gate.on_failure), (Some(at(40)), "journalctl -u k3s-agent on the host; or --ignore-node NAME"));
    assert_eq!(progress.phase.unwrap().name, "nodes");
    assert_eq!(progress.next, "kubectl get nodes -o wide");
    assert!(progress.percent < 100 && progress.under_way.is_empty());
}

#[test]
fn percent_only_grows_and_is_100_only_once_all_is_done() {
    let mut run = run();
    let mut last = 0;
    let mut look = |run: &Run<Step>, now: i64| {
        let percent = told(run, now, None, "").percent;
        assert!(percent >= last && percent < 100, "{percent} after {last}");
        last = percent;
    };
    look(&run, 0);
    for (number, id) in ["k3s.titan-0a", "control-plane", "node-ready.titan-13", "node-ready.titan-15"].into_iter().enumerate() {
        let from = 1000 * number as i64;
        begin(&mut run, id, from);
        for later in [0, 1, 20, 999] {
            look(&run, from + later);
        }
        end(&mut run, id, from + 999, Status::Done, "");
        look(&run, from + 999);
    }
    run.finished(Outcome::Done);
    assert_eq!(told(&run, 5000, Some(5000), "").percent, 100);
    // A clock that was set back, and a plan without steps.
    assert_eq!(told(&waiting(), -500, None, "").percent, 50);
    let empty = Run::new(Runbook::new("startup", "nothing", Vec::new()));
    assert_eq!(told(&empty, 0, None, "").percent, 0);
}

#[test]
fn what_was_left_undone_by_a_failure_does_not_count_as_done() {
    let mut run = run();
    begin(&mut run, "k3s.titan-0a", 1);
    end(&mut run, "k3s.titan-0a", 3, Status::Failed, "no");
    run.finished(Outcome::Failed);
    let progress = told(&run, 4, Some(4), "no");
    assert_eq!((progress.steps_done, progress.percent, progress.gate), (1, 5, None));
}

fn fields(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, value) in map {
                found.insert(name.clone());
                fields(value, found);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| fields(item, found)),
        _ => {}
    }
}

#[test]
fn the_readme_documents_the_file_as_it_is_written() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let section = readme.split("### startup-progress.json").nth(1).unwrap();
    let (table, rest) = section.split_once("```json\n").unwrap();
    let shown: serde_json::Value = serde_json::from_str(rest.split_once("```").unwrap().0).unwrap_or_default();
    let written = serde_json::to_value(told(&waiting(), 60, None, "")).unwrap();
    assert_eq!(shown, written, "the example of the README is to be:\n{written:#}");
    let mut names = BTreeSet::new();
    fields(&written, &mut names);
    let undocumented: Vec<_> = names.iter().filter(|name| !table.contains(&format!("`{name}`"))).collect();
    assert!(undocumented.is_empty(), "{undocumented:?}");
    assert!(table.contains(&format!("version of this file's fields: {SCHEMA} ")));
}
