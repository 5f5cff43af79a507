//! A simulated node: kubelet, API server and disruption budgets, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cluster::drain::budget::{Surroundings, hopeless, refusing};
use crate::cluster::drain::filter::Rules;
use crate::cluster::drain::ladder::{Clock, Move};
use crate::cluster::drain::pods::{Pods, Said, Task};
use crate::cluster::{Protect, port::Drained};

const STEP: Duration = Duration::from_millis(250);

/// How a pod takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Temper {
    /// Ends at once.
    Quick,
    /// Ends at SIGKILL.
    IgnoresSigterm,
    /// Its budget never allows it.
    Guarded,
    /// As that, and the budget is one of two.
    TwiceGuarded,
    /// Ends, but a finalizer keeps the object.
    Held,
    /// Its node's kubelet is dead.
    Dead,
    /// The API server answers 500 to everything about it.
    Broken,
}

struct World {
    pods: BTreeMap<String, (Pod, Temper, Option<Duration>)>,
    asked: Vec<(Duration, Task)>,
}

impl World {
    fn answer(&mut self, task: &Task, now: Duration) -> Said {
        self.asked.push((now, task.clone()));
        let Some((pod, temper, ends)) = self.pods.get_mut(&task.uid) else { return Said::Gone };
        let (evict, grace) = match task.step {
            Move::Evict(grace) => (true, grace),
            Move::Delete(grace) => (false, grace),
            other => panic!("{other:?} is no task"),
        };
        match temper {
            Temper::Guarded if evict => return Said::NotNow("429".to_owned(), None),
            Temper::TwiceGuarded if evict => return Said::Never("500 more than one PodDisruptionBudget".to_owned()),
            Temper::Broken => return Said::Failed("500".to_owned()),
            _ => {}
        }
        let grace = grace.unwrap_or(Duration::from_secs(pod.spec.termination_grace_period_seconds.unwrap_or(30)));
        pod.metadata.deletion_timestamp = Some("now".to_owned());
        pod.metadata.deletion_grace_period_seconds = Some(grace.as_secs());
        let end = now + if *temper == Temper::Quick { Duration::from_millis(300) } else { grace };
        *ends = Some(ends.map_or(end, |before| before.min(end)));
        Said::Granted
    }

    fn pass(&mut self, now: Duration) {
        self.pods.retain(|_, (pod, temper, ends)| {
            if ends.is_none_or(|ends| ends > now) || matches!(temper, Temper::Dead | Temper::Broken) {
                return true;
            }
            pod.status.phase = "Failed".to_owned();
            *temper == Temper::Held
        });
    }

    fn list(&self) -> Vec<Pod> {
        self.pods.values().map(|(pod, ..)| pod.clone()).collect()
    }
}

/// Drains the node; the deadline becomes `cut.1` at `cut.0`.
fn drain(world: &mut World, rules: &Rules, end: Duration, cut: (Duration, Duration)) -> (Drained, Duration) {
    let mut pods = Pods::default();
    let mut now = Duration::ZERO;
    loop {
        let end = if now >= cut.0 { end.min(cut.1) } else { end };
        if now >= end {
            return (pods.result(), now);
        }
        world.pass(now);
        if now.subsec_millis() == 0 {
            pods.see(world.list(), rules, &BTreeSet::new(), now);
            if pods.done(now) {
                return (pods.result(), now);
            }
        }
        for task in pods.tasks(Clock { now, end }).0 {
            let said = world.answer(&task, now);
            pods.said(&task, said, now);
        }
        now += STEP;
    }
}

fn world(shapes: &[(Temper, u64, bool)]) -> World {
    let shape = |(at, (temper, grace, alone)): (usize, &(Temper, u64, bool))| {
        let owners = if *alone { json!({"ownerReferences": null}) } else { json!({}) };
        let mut finalizers = json!({"metadata": owners, "spec": {"terminationGracePeriodSeconds": grace}});
        if *temper == Temper::Held {
            finalizers["metadata"]["finalizers"] = json!(["example.net/hold"]);
        }
        let pod = pod(&format!("p{at}"), finalizers);
        (pod.metadata.uid.clone(), (pod, *temper, None))
    };
    World { pods: shapes.iter().enumerate().map(shape).collect(), asked: Vec::new() }
}

const fn s(count: u64) -> Duration {
    Duration::from_secs(count)
}

const NEVER: (Duration, Duration) = (Duration::MAX, Duration::MAX);

fn run(shapes: &[(Temper, u64, bool)], end: u64) -> (Drained, Duration, World) {
    let mut world = world(shapes);
    let (drained, took) = drain(&mut world, &Rules::default(), s(end), NEVER);
    (drained, took, world)
}

#[test]
fn willing_pods_are_gone_within_seconds() {
    let (drained, took, _) = run(&[(Temper::Quick, 30, false); 50], 180);
    assert_eq!((drained.gone, drained.rungs.len(), drained.left.len()), (50, 0, 0));
    assert!(took <= s(2), "{took:?}");
}

#[test]
fn what_nothing_makes_anew_goes_last() {
    let (drained, _, world) = run(&[(Temper::IgnoresSigterm, 20, false), (Temper::Quick, 30, true)], 180);
    assert_eq!(drained.gone, 2);
    assert_eq!(drained.rungs, ["force (nothing makes them anew): web/p1"]);
    assert!(world.asked.iter().find(|(_, task)| task.name == "p1").unwrap().0 >= s(20));
}

#[test]
fn a_budget_that_allows_nothing_stops_to_count_in_time_for_the_grace() {
    let (drained, took, world) = run(&[(Temper::Guarded, 30, false)], 180);
    assert_eq!((drained.gone, drained.left.len()), (1, 0));
    assert_eq!(drained.rungs, ["disable-eviction (disruption budgets do not count): web/p0"]);
    let (deleted, task) = world.asked.last().unwrap();
    assert_eq!((deleted.as_secs(), task.step), (135, Move::Delete(None)));
    let pauses: Vec<u64> = world.asked.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0).as_millis() as u64).collect();
    assert!(pauses[..pauses.len() - 1].iter().all(|pause| (4000..=6250).contains(pause)), "{pauses:?}");
    assert!(took <= s(168), "{took:?}");
}

#[test]
fn a_pod_with_two_budgets_is_deleted_at_once() {
    let (drained, took, world) = run(&[(Temper::TwiceGuarded, 5, false)], 180);
    assert_eq!((drained.gone, world.asked.len()), (1, 2));
    assert!(took < s(10), "{took:?}");
}

#[test]
fn a_finalizer_is_not_waited_for_when_nothing_runs_any_more() {
    let (drained, took, _) = run(&[(Temper::Held, 5, false)], 180);
    assert_eq!(drained.left, ["web/p0: has ended, but finalizers hold it: example.net/hold"]);
    assert!(took < s(12), "{took:?}");
}

#[test]
fn the_dead_and_the_broken_are_left_at_the_deadline() {
    let (drained, took, _) = run(&[(Temper::Dead, 30, false), (Temper::Broken, 30, false), (Temper::Quick, 30, false)], 45);
    assert_eq!((drained.gone, took), (1, s(45)));
    assert_eq!(drained.left, ["web/p0: has not ended within its grace of 30 s", "web/p1: 500"]);
}

#[test]
fn a_deadline_that_comes_nearer_shortens_what_was_granted() {
    let mut world = world(&[(Temper::IgnoresSigterm, 100, false)]);
    let (drained, took) = drain(&mut world, &Rules::default(), s(180), (s(10), s(40)));
    assert_eq!((drained.gone, drained.rungs.as_slice()), (1, ["shorter grace: web/p0".to_owned()].as_slice()));
    assert!(took <= s(40), "{took:?}");
    assert_eq!(world.asked.last().unwrap().1.step, Move::Delete(Some(s(28))));
}

#[test]
fn what_comes_back_to_the_cordoned_node_is_not_chased() {
    let mut pods = Pods::default();
    let rules = Rules::default();
    pods.see(vec![pod("a", json!({}))], &rules, &BTreeSet::new(), s(0));
    let other = json!({"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "name": "late", "uid": "rs-2", "controller": true}]}});
    pods.see(vec![pod("b", json!({})), pod("c", other)], &rules, &BTreeSet::new(), s(1));
    let (tasks, _) = pods.tasks(Clock { now: s(1), end: s(60) });
    assert_eq!(tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["c"], "b is a's replacement, c came late");
    assert_eq!(pods.result().left.len(), 2);
    assert!(pods.result().left.iter().any(|left| left.starts_with("web/b: came back")));
}

#[test]
fn another_pod_of_the_same_name_is_another_pod() {
    let mut pods = Pods::default();
    pods.see(vec![pod("a", json!({}))], &Rules::default(), &BTreeSet::new(), s(0));
    pods.see(vec![pod("a", json!({"metadata": {"uid": "uid-2"}}))], &Rules::default(), &BTreeSet::new(), s(1));
    assert_eq!(pods.result().gone, 1);
    assert!(pods.done(s(1)));
}

#[test]
fn an_eviction_that_was_granted_in_vain_is_asked_for_again() {
    let mut pods = Pods::default();
    let see = |pods: &mut Pods, at| pods.see(vec![pod("a", json!({}))], &Rules::default(), &BTreeSet::new(), s(at));
    see(&mut pods, 0);
    let (tasks, _) = pods.tasks(Clock { now: s(0), end: s(100) });
    pods.said(&tasks[0], Said::Granted, s(0));
    see(&mut pods, 4);
    assert!(pods.tasks(Clock { now: s(4), end: s(100) }).0.is_empty());
    see(&mut pods, 6);
    assert_eq!(pods.tasks(Clock { now: s(6), end: s(100) }).0.len(), 1);
}

/// A cluster of n1 (drained, with the pod) and what `patch` says of the only other node.
fn around(node: Value, pods: Vec<Pod>, allowed: i64) -> Surroundings {
    let mut other = json!({"metadata": {"name": "n2"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    merge(&mut other, &node);
    let budget = json!({"metadata": {"name": "b", "namespace": "web"}, "spec": {"selector": {"matchLabels": {"app": "x"}}}, "status": {"disruptionsAllowed": allowed}});
    Surroundings { budgets: vec![serde_json::from_value(budget).unwrap()], pods, nodes: vec![serde_json::from_value(other).unwrap()] }
}

#[test]
fn a_budget_is_hopeless_when_no_new_pod_can_become_ready_anywhere() {
    let app = |name: &str, patch: Value| {
        let mut labelled = json!({"metadata": {"labels": {"app": "x"}}});
        merge(&mut labelled, &patch);
        pod(name, labelled)
    };
    let starting = json!({"status": {"conditions": []}});
    let beside: BTreeSet<String> = ["n1".to_owned()].into();
    let cordoned = json!({"spec": {"unschedulable": true}});
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let tolerant = json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}});
    let cases = [
        ("a node is left", json!({}), app("a", json!({})), vec![], false),
        ("it is cordoned", cordoned.clone(), app("a", json!({})), vec![], true),
        ("it is drained too", json!({"metadata": {"name": "n1"}}), app("a", json!({})), vec![], true),
        ("it is not ready", json!({"status": {"conditions": []}}), app("a", json!({})), vec![], true),
        ("it is tainted", tainted.clone(), app("a", json!({})), vec![], true),
        ("the pod bears it", tainted, app("a", tolerant), vec![], false),
        ("the pod wants another kind", json!({}), app("a", json!({"spec": {"nodeSelector": {"disk": "ssd"}}})), vec![], true),
        ("a soft taint", json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}}), app("a", json!({})), vec![], false),
        ("another pod is about to be ready", cordoned.clone(), app("a", json!({})), vec![app("b", starting.clone())], false),
        (
            "but it is not scheduled",
            cordoned.clone(),
            app("a", json!({})),
            vec![app("b", json!({"spec": {"nodeName": ""}, "status": {"conditions": []}}))],
            true,
        ),
        ("but it is of something else", cordoned, app("a", json!({})), vec![pod("b", starting)], true),
    ];
    for (what, node, subject, others, expected) in cases {
        let pods: Vec<Pod> = others.into_iter().chain([subject.clone()]).collect();
        let around = around(node, pods, 0);
        assert_eq!(hopeless(&subject, &around, &beside), expected, "{what}");
        assert_eq!(refusing(&subject, &around), ["b"], "{what}");
    }
    let allowing = around(json!({"spec": {"unschedulable": true}}), vec![], 1);
    assert!(!hopeless(&app("a", json!({})), &allowing, &beside), "it allows one");
    assert!(refusing(&app("a", json!({})), &allowing).is_empty());
}

#[test]
fn a_refused_pod_of_a_hopeless_budget_is_deleted_at_once() {
    let mut pods = Pods::default();
    let subject = pod("a", json!({"metadata": {"labels": {"app": "x"}}}));
    pods.see(vec![subject.clone()], &Rules::default(), &BTreeSet::new(), s(0));
    let (tasks, _) = pods.tasks(Clock { now: s(0), end: s(180) });
    pods.said(&tasks[0], Said::NotNow("429".to_owned(), None), s(0));
    assert_eq!(pods.refused_in(), ["web".to_owned()].into());
    pods.judge("web", &around(json!({"spec": {"unschedulable": true}}), vec![subject], 0), &["n1".to_owned()].into());
    assert!(pods.refused_in().is_empty());
    let (tasks, lines) = pods.tasks(Clock { now: s(1), end: s(180) });
    assert_eq!(tasks[0].step, Move::Delete(None));
    assert_eq!(lines, ["disable-eviction (disruption budgets do not count): web/a"]);
    assert!(pods.result().left[0].contains("allows no eviction, and never can"), "{:?}", pods.result().left);
}

#[test]
fn an_api_server_with_too_much_to_do_is_left_alone_as_long_as_it_says() {
    for (after, earliest) in [(Some(s(3)), s(3)), (None, s(1))] {
        let mut pods = Pods::default();
        pods.see(vec![pod("a", json!({}))], &Rules::default(), &BTreeSet::new(), s(0));
        let (tasks, _) = pods.tasks(Clock { now: s(0), end: s(180) });
        pods.said(&tasks[0], Said::Busy("429".to_owned(), after), s(0));
        assert!(pods.refused_in().is_empty(), "no budget refused it");
        assert!(pods.tasks(Clock { now: earliest.saturating_sub(Duration::from_millis(1)), end: s(180) }).0.is_empty(), "{after:?}");
        let (tasks, lines) = pods.tasks(Clock { now: earliest + s(2), end: s(180) });
        assert_eq!((tasks.len(), tasks[0].step), (1, Move::Evict(None)), "{after:?}");
        assert_eq!(lines, Vec::<String>::new(), "no rung was taken");
    }
}

fn temper() -> impl Strategy<Value = Temper> {
    prop::sample::select(vec![
        Temper::Quick,
        Temper::IgnoresSigterm,
        Temper::Guarded,
        Temper::TwiceGuarded,
        Temper::Held,
        Temper::Dead,
        Temper::Broken,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_the_pods_do_the_deadline_is_kept_and_the_protected_stay(
        shapes in prop::collection::vec((temper(), 0u64..700, any::<bool>()), 0..12),
        protected in 0usize..3,
        end in 1u64..300,
        cut in (0u64..300, 1u64..300),
    ) {
        let mut world = world(&shapes);
        for at in 0..protected {
            let pod = pod(&format!("kept{at}"), json!({"metadata": {"labels": {"keep": "me"}}}));
            world.pods.insert(pod.metadata.uid.clone(), (pod, Temper::Quick, None));
        }
        let rules = Rules { protect: vec![Protect { namespace: None, selector: "keep=me".to_owned() }], ..Rules::default() };
        let cut = (s(cut.0), s(cut.0.max(cut.1)));
        let last = s(end).min(if s(end) > cut.0 { cut.1 } else { s(end) });
        let (drained, took) = drain(&mut world, &rules, s(end), cut);
        prop_assert!(took <= last + STEP);
        prop_assert!(world.asked.iter().all(|(at, task)| *at < last && !task.name.starts_with("kept")));
        prop_assert_eq!(drained.gone as usize + drained.left.len(), shapes.len());
        let stubborn = shapes.iter().filter(|(temper, ..)| matches!(temper, Temper::Dead | Temper::Broken | Temper::Held)).count();
        // With seconds at hand everything that can end does.
        if last >= s(15) && cut.1.saturating_sub(cut.0) >= s(15) {
            prop_assert!(drained.left.len() <= stubborn, "{:?}", drained.left);
        }
    }
}
