//! Tables of what follows on what, and a driver that plays any plan against any world.

mod deadline;
mod unwind;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::site::{BootId, Now, StepId};

fn now(boot: Duration) -> Now {
    Now { wall: Timestamp::UNIX_EPOCH, boot: Duration::ZERO, boot_id: BootId::new("b"), synced: true }.later(boot)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn step(id: &str) -> PlannedStep<u8> {
    PlannedStep::act(id, id, 0, secs(100))
}

fn plan(phases: Vec<(u32, Vec<PlannedStep<u8>>)>) -> Run<u8> {
    let phases = phases.into_iter().map(|(concurrency, steps)| Phase { name: "p".into(), concurrency, steps }).collect();
    Run::new(Runbook::new("k", "t", phases))
}

fn gate(id: &str, patience: u64, every: u64, remedies: Vec<u8>) -> PlannedStep<u8> {
    PlannedStep { form: Form::Gate { patience: secs(patience), every: secs(every), remedies }, ..step(id) }
}

fn done() -> StepResult {
    StepResult::Done { detail: String::new() }
}

fn not_ready() -> StepResult {
    StepResult::NotReady { detail: "not yet".into() }
}

fn cannot_tell() -> StepResult {
    StepResult::CannotTell { detail: "no answer".into() }
}

fn unreached() -> StepResult {
    StepResult::Unreached { detail: "refused".into() }
}

fn failed(permanent: bool) -> StepResult {
    StepResult::Failed { detail: "broken".into(), permanent }
}

/// Applies orders until only time can bring more; returns what was started and how it ended.
fn advance(run: &mut Run<u8>, at: Duration) -> Vec<Order> {
    let mut all = Vec::new();
    loop {
        let orders: Vec<_> = next(run, &now(at)).into_iter().filter(|order| !matches!(order, Order::Timer { .. })).collect();
        if orders.is_empty() {
            return all;
        }
        for order in orders {
            match &order {
                Order::Start { step, mode, attempt, deadline } => run.started(step, *mode, *attempt, *deadline, at, Timestamp::UNIX_EPOCH),
                Order::Abort { step, because } => run.aborting(step, because, at),
                Order::Settle { step, status, detail } => run.settled(step, *status, detail, at, Timestamp::UNIX_EPOCH),
                Order::Finish { outcome, .. } => run.finished(*outcome),
                Order::Timer { .. } => {}
            }
            all.push(order);
        }
    }
}

/// Ends the attempt that runs, and advances.
fn answer(run: &mut Run<u8>, id: &str, result: &StepResult, at: u64) -> Vec<Order> {
    let id = StepId::new(id);
    let Status::Running { attempt, .. } = run.status(&id) else { panic!("{id} does not run: {:?}", run.status(&id)) };
    let (status, detail) = settle(run, &id, attempt, result, &now(secs(at))).unwrap();
    run.settled(&id, status, &detail, secs(at), Timestamp::UNIX_EPOCH);
    advance(run, secs(at))
}

fn modes(orders: &[Order]) -> Vec<Mode> {
    orders
        .iter()
        .filter_map(|order| match order {
            Order::Start { mode, .. } => Some(*mode),
            _ => None,
        })
        .collect()
}

#[test]
fn phases_come_one_after_the_other_steps_side_by_side() {
    let mut run = plan(vec![(2, vec![step("a"), step("b"), step("c")]), (1, vec![step("d")])]);
    assert_eq!(modes(&advance(&mut run, secs(0))).len(), 2);
    assert_eq!(run.status(&"c".into()), Status::Pending);
    answer(&mut run, "a", &done(), 1);
    answer(&mut run, "b", &done(), 2);
    assert_eq!(run.status(&"d".into()), Status::Pending, "c has not ended");
    answer(&mut run, "c", &done(), 3);
    answer(&mut run, "d", &done(), 4);
    assert_eq!(run.outcome, Some(Outcome::Done));
}

#[test]
fn what_a_failure_does() {
    for (on_failure, outcome, second) in
        [(OnFailure::Stop, Outcome::Failed, Status::Skipped), (OnFailure::Continue, Outcome::Degraded, Status::Done)]
    {
        let mut run = plan(vec![(1, vec![PlannedStep { on_failure, ..step("a") }, step("b")])]);
        advance(&mut run, secs(0));
        let orders = answer(&mut run, "a", &failed(false), 1);
        if on_failure == OnFailure::Continue {
            answer(&mut run, "b", &done(), 2);
        } else {
            assert!(orders.contains(&Order::Finish { outcome: Outcome::Failed, reason: "a: broken".into() }), "{orders:?}");
        }
        assert_eq!((run.outcome, run.status(&"b".into())), (Some(outcome), second));
    }
}

#[test]
fn retries_back_off_and_end() {
    let retry = Retry { attempts: 3, back_off: secs(10), longest: secs(15) };
    let mut run = plan(vec![(1, vec![PlannedStep { retry, ..step("a") }])]);
    advance(&mut run, secs(0));
    answer(&mut run, "a", &failed(false), 0);
    assert_eq!(run.status(&"a".into()), Status::Waiting { until: secs(10), then: Mode::Act });
    assert_eq!(next(&run, &now(secs(9))), [Order::Timer { at: secs(10) }]);
    advance(&mut run, secs(10));
    answer(&mut run, "a", &failed(false), 11);
    assert_eq!(run.status(&"a".into()), Status::Waiting { until: secs(26), then: Mode::Act }, "doubled, but not beyond the longest");
    advance(&mut run, secs(26));
    answer(&mut run, "a", &failed(false), 27);
    assert_eq!(run.outcome, Some(Outcome::Failed));

    let mut run = plan(vec![(1, vec![PlannedStep { retry, ..step("a") }])]);
    advance(&mut run, secs(0));
    answer(&mut run, "a", &failed(true), 0);
    assert_eq!(run.outcome, Some(Outcome::Failed), "a permanent failure is not repeated");
}

#[test]
fn ensure_looks_first_and_looks_again_before_it_repeats() {
    let ensure = PlannedStep { form: Form::Ensure, retry: Retry { attempts: 2, back_off: secs(1), longest: secs(1) }, ..step("a") };
    let mut run = plan(vec![(1, vec![ensure.clone()])]);
    assert_eq!(modes(&advance(&mut run, secs(0))), [Mode::Probe]);
    answer(&mut run, "a", &done(), 1);
    assert_eq!((run.outcome, run.states[&"a".into()].acts), (Some(Outcome::Done), 0));

    let mut run = plan(vec![(1, vec![ensure.clone()])]);
    advance(&mut run, secs(0));
    assert_eq!(modes(&answer(&mut run, "a", &not_ready(), 1)), [Mode::Act]);
    answer(&mut run, "a", &failed(false), 2);
    assert_eq!(modes(&advance(&mut run, secs(3))), [Mode::Probe]);
    assert_eq!(modes(&answer(&mut run, "a", &not_ready(), 4)), [Mode::Act]);
    answer(&mut run, "a", &failed(false), 5);
    assert_eq!(run.outcome, Some(Outcome::Failed));

    let mut run = plan(vec![(1, vec![ensure])]);
    advance(&mut run, secs(0));
    answer(&mut run, "a", &cannot_tell(), 1);
    assert_eq!(run.status(&"a".into()), Status::Waiting { until: secs(2), then: Mode::Probe });
    advance(&mut run, secs(2));
    answer(&mut run, "a", &cannot_tell(), 3);
    assert_eq!((run.outcome, run.states[&"a".into()].acts), (Some(Outcome::Failed), 0), "what cannot be told is not acted upon");
}

#[test]
fn a_gate_waits_then_repairs_then_fails() {
    let mut run = plan(vec![(1, vec![gate("a", 10, 4, vec![7, 8])])]);
    assert_eq!(modes(&advance(&mut run, secs(0))), [Mode::Probe]);
    answer(&mut run, "a", &not_ready(), 1);
    assert_eq!(run.status(&"a".into()), Status::Waiting { until: secs(5), then: Mode::Probe });
    advance(&mut run, secs(5));
    assert!(answer(&mut run, "a", &not_ready(), 6).is_empty());
    advance(&mut run, secs(10));
    assert_eq!(modes(&answer(&mut run, "a", &not_ready(), 11)), [Mode::Remedy(0)]);
    assert_eq!(modes(&answer(&mut run, "a", &failed(false), 12)), [Mode::Probe], "whatever the remedy said, the gate decides");
    answer(&mut run, "a", &not_ready(), 13);
    advance(&mut run, secs(22));
    assert_eq!(modes(&answer(&mut run, "a", &not_ready(), 22)), [Mode::Remedy(1)], "patience counts anew after a remedy");
    answer(&mut run, "a", &done(), 23);
    answer(&mut run, "a", &not_ready(), 33);
    assert_eq!(run.outcome, Some(Outcome::Failed), "no remedy is left");
}

#[test]
fn a_gate_that_cannot_tell_is_never_repaired() {
    let mut run = plan(vec![(1, vec![gate("a", 10, 5, vec![7])])]);
    advance(&mut run, secs(0));
    for at in [1, 6] {
        assert!(modes(&answer(&mut run, "a", &cannot_tell(), at)).is_empty());
        advance(&mut run, secs(at + 5));
    }
    answer(&mut run, "a", &cannot_tell(), 11);
    assert_eq!(run.outcome, Some(Outcome::Failed));
    assert_eq!(run.states[&"a".into()].remedies, 0);
}

#[test]
fn a_deadline_aborts_and_a_deaf_attempt_is_abandoned() {
    let mut run = plan(vec![(1, vec![step("a")])]);
    advance(&mut run, secs(0));
    assert_eq!(next(&run, &now(secs(99))), [Order::Timer { at: secs(100) }]);
    assert!(matches!(advance(&mut run, secs(100))[..], [Order::Abort { .. }]));
    assert_eq!(next(&run, &now(secs(100))), [Order::Timer { at: secs(105) }], "told once");
    let mut heard = run.clone();
    answer(&mut heard, "a", &StepResult::Cancelled { detail: "half".into() }, 101);
    assert_eq!((heard.outcome, heard.status(&"a".into())), (Some(Outcome::Failed), Status::Failed));
    assert_eq!(heard.states[&"a".into()].detail, "its deadline has passed: half");
    let mut late = run.clone();
    answer(&mut late, "a", &done(), 101);
    assert_eq!(late.outcome, Some(Outcome::Done), "what was done all the same is done");
    advance(&mut run, secs(105));
    assert_eq!((run.outcome, run.status(&"a".into())), (Some(Outcome::Failed), Status::Abandoned));
    assert_eq!(settle(&run, &"a".into(), 1, &done(), &now(secs(106))), None, "nobody listens any more");
}

#[test]
fn a_pause_does_not_outlive_the_deadline() {
    let retry = Retry { attempts: 5, back_off: secs(200), longest: secs(200) };
    let mut run = plan(vec![(1, vec![PlannedStep { retry, ..step("a") }])]);
    advance(&mut run, secs(0));
    answer(&mut run, "a", &failed(false), 1);
    assert_eq!(next(&run, &now(secs(2))), [Order::Timer { at: secs(100) }]);
    advance(&mut run, secs(100));
    assert_eq!(run.outcome, Some(Outcome::Failed));
}

#[test]
fn cancel_ends_what_runs_and_begins_nothing() {
    let mut run = plan(vec![(2, vec![step("a"), step("b"), step("c")])]);
    advance(&mut run, secs(0));
    run.cancelled("ada");
    let orders = advance(&mut run, secs(1));
    assert_eq!(orders.len(), 2, "{orders:?}");
    answer(&mut run, "a", &StepResult::Cancelled { detail: String::new() }, 2);
    assert_eq!(run.outcome, None);
    answer(&mut run, "b", &done(), 3);
    assert_eq!(run.outcome, Some(Outcome::Cancelled));
    assert_eq!(run.status(&"c".into()), Status::Skipped);

    let mut run = plan(vec![(1, vec![step("a")])]);
    advance(&mut run, secs(0));
    run.cancelled("ada");
    advance(&mut run, secs(1));
    answer(&mut run, "a", &done(), 2);
    assert_eq!(run.outcome, Some(Outcome::Done), "a cancellation that comes too late changes nothing");

    let mut run = plan(vec![(1, vec![step("a"), step("b")])]);
    advance(&mut run, secs(0));
    run.cancelled("ada");
    advance(&mut run, secs(1));
    let orders = answer(&mut run, "a", &StepResult::Cancelled { detail: "half a card".into() }, 2);
    let told = Order::Finish { outcome: Outcome::Cancelled, reason: "ada: half a card".into() };
    assert!(orders.contains(&told), "what was left is part of the reason: {orders:?}");
}

#[test]
fn a_held_run_finishes_what_runs_and_begins_nothing() {
    let mut run = plan(vec![(1, vec![step("a"), step("b")])]);
    advance(&mut run, secs(0));
    run.hold = Some(Hold { because: "mains".into() });
    assert!(modes(&answer(&mut run, "a", &done(), 1)).is_empty());
    assert!(next(&run, &now(secs(5000))).is_empty());
    run.hold = None;
    assert_eq!(modes(&advance(&mut run, secs(5001))), [Mode::Act]);
}

#[test]
fn what_becomes_of_a_step_that_ran_when_the_daemon_stopped() {
    for (replay, form, expected) in [
        (Replay::Idempotent, Form::Act, Status::Waiting { until: secs(9), then: Mode::Act }),
        (Replay::CheckFirst, Form::Act, Status::Waiting { until: secs(9), then: Mode::Probe }),
        (Replay::NeverRepeat, Form::Act, Status::UnknownOutcome),
        (Replay::NeverRepeat, Form::Ensure, Status::Waiting { until: secs(9), then: Mode::Probe }),
    ] {
        let mut run = plan(vec![(1, vec![PlannedStep { form, replay, ..step("a") }])]);
        advance(&mut run, secs(0));
        let orders = resume(&run, &now(secs(9)));
        let [Order::Settle { status, .. }] = &orders[..] else { panic!("{orders:?}") };
        assert_eq!(*status, expected, "{replay:?}");
    }
}

#[test]
fn an_id_that_stands_twice_is_performed_once() {
    let mut run = plan(vec![(3, vec![step("a"), step("a")])]);
    assert_eq!(modes(&advance(&mut run, secs(0))).len(), 1);
}

#[test]
fn predictions_add_up_along_the_lanes() {
    let long = |id: &str, seconds| PlannedStep { predicted: secs(seconds), ..step(id) };
    let run = plan(vec![(2, vec![long("a", 10), long("b", 4), long("c", 5)]), (1, vec![long("d", 1), long("e", 1)])]);
    assert_eq!(run.book.predicted(), secs(12));
}

#[test]
fn what_is_not_reached_is_given_up_before_its_limit() {
    // (given up after, seconds at which each attempt says that it reached nothing, what the step is then)
    let table: [(Option<u64>, &[u64], bool); 5] = [
        (None, &[1, 5, 20, 50], false),
        (Some(0), &[0], true),
        (Some(10), &[0, 1], false),
        (Some(10), &[0, 1, 3, 7], true),
        (Some(10), &[5, 12], true),
    ];
    for (limit, moments, given_up) in table {
        let retry = Retry { attempts: 100, back_off: secs(1), longest: secs(10) };
        let mut run = plan(vec![(1, vec![PlannedStep { retry, unreached: limit.map(secs), ..step("a") }])]);
        advance(&mut run, secs(0));
        for at in moments {
            advance(&mut run, secs(*at));
            answer(&mut run, "a", &unreached(), *at);
        }
        assert_eq!(run.status(&"a".into()) == Status::Failed, given_up, "{limit:?} {moments:?}: {:?}", run.status(&"a".into()));
    }
    let retry = Retry { attempts: 100, back_off: secs(1), longest: secs(10) };
    let mut run = plan(vec![(1, vec![PlannedStep { retry, unreached: Some(secs(10)), ..step("a") }])]);
    advance(&mut run, secs(0));
    answer(&mut run, "a", &failed(false), 50);
    assert!(matches!(run.status(&"a".into()), Status::Waiting { .. }), "it was reached, and failed there");
}

#[test]
fn a_plan_that_is_joined_goes_on_where_it_stands() {
    let mut run = plan(vec![(1, vec![step("a")]), (1, vec![step("b")])]);
    advance(&mut run, secs(0));
    answer(&mut run, "a", &done(), 1);
    let before = run.book.title.clone();
    let phase = |ids: &[&str]| Phase { name: "p".into(), concurrency: 1, steps: ids.iter().map(|id| step(id)).collect() };
    run.joined(Runbook::new("k", "more", vec![phase(&["a"]), phase(&["b"]), phase(&["c", "d"])]));
    assert_eq!((run.status(&"a".into()), run.status(&"c".into())), (Status::Done, Status::Pending));
    assert!(matches!(run.status(&"b".into()), Status::Running { .. }));
    run.deadline = Some(secs(500));
    run.limits = BTreeMap::from([("a".into(), secs(7)), ("c".into(), secs(7))]);
    answer(&mut run, "b", &done(), 2);
    run.withdrawn(&["c", "d"].map(StepId::new).into(), &before);
    assert!(matches!(run.status(&"c".into()), Status::Running { .. }), "it had begun");
    assert_eq!((run.book.phases.len(), run.status(&"d".into()), run.deadline), (3, Status::Skipped, None), "d is not in the plan");
    assert_eq!(
        (run.limits.get(&StepId::new("a")), run.limits.get(&StepId::new("c")), run.book.title.as_str()),
        (Some(&secs(7)), None, "t")
    );
    answer(&mut run, "c", &done(), 3);
    assert_eq!(run.outcome, Some(Outcome::Done));
}

/// How the world answers an attempt: after how long, and with what. `None`: never, not even when told to end.
type Answer = (u64, Option<StepResult>);

fn any_answer() -> impl Strategy<Value = Answer> {
    let result = prop_oneof![
        4 => Just(done()),
        2 => Just(not_ready()),
        1 => Just(cannot_tell()),
        2 => any::<bool>().prop_map(failed),
        1 => Just(unreached()),
        1 => Just(StepResult::Cancelled { detail: String::new() }),
    ];
    (0..40_u64, prop::option::weighted(0.9, result))
}

fn any_step(id: usize) -> impl Strategy<Value = PlannedStep<u8>> {
    let form = prop_oneof![
        2 => Just(Form::Act),
        1 => Just(Form::Ensure),
        1 => (0..20_u64, 0..5_u64, 0..3_usize).prop_map(|(patience, every, remedies)| Form::Gate {
            patience: secs(patience),
            every: secs(every),
            remedies: vec![0; remedies],
        }),
    ];
    let rules = (
        prop::sample::select(vec![OnFailure::Stop, OnFailure::Continue]),
        prop::sample::select(vec![Replay::Idempotent, Replay::CheckFirst, Replay::NeverRepeat]),
        (0..4_u32, 0..30_u64).prop_map(|(attempts, pause)| Retry { attempts, back_off: secs(pause), longest: secs(2 * pause) }),
    );
    let limits = (0..60_u64, 0..3_u32, prop::option::of((0..30_u64).prop_map(secs)));
    (form, rules, limits).prop_map(move |(form, (on_failure, replay, retry), (ceiling, share, unreached))| PlannedStep {
        form,
        unreached,
        on_failure,
        replay,
        retry,
        limit: Limit { ceiling: secs(ceiling), share },
        ..step(&format!("s{id}"))
    })
}

fn any_run() -> impl Strategy<Value = Run<u8>> {
    prop::collection::vec((0..4_u32, 0..5_usize), 0..4).prop_flat_map(|shape| {
        let mut id = 0;
        let phases: Vec<_> = shape
            .into_iter()
            .map(|(width, count)| {
                let steps: Vec<_> = (0..count).map(|n| any_step(id + n)).collect();
                id += count;
                (Just(width), steps)
            })
            .collect();
        phases.prop_map(plan)
    })
}

/// What was seen while a run was played to its end.
struct Played {
    run: Run<u8>,
    ended: Duration,
    /// Acts per step.
    acts: BTreeMap<StepId, u32>,
    /// Whether anything was started after a failure that stops, or after the cancellation.
    started_too_late: bool,
    most_at_once: bool,
}

/// Plays a run in virtual time: only moments at which an attempt ends or a timer fires.
fn play(mut run: Run<u8>, answers: &[Answer], cancel_at: Option<u64>) -> Played {
    let mut at = Duration::ZERO;
    let mut pending: Vec<(Duration, StepId, u32, StepResult)> = Vec::new();
    let mut answers = answers.iter().cycle();
    let mut acts = BTreeMap::new();
    let (mut started_too_late, mut most_at_once) = (false, false);
    for _ in 0..10_000 {
        if cancel_at.is_some_and(|moment| at >= secs(moment)) {
            run.cancelled("test");
        }
        let stopped =
            run.cancel.is_some() || run.book.steps().any(|step| step.on_failure == OnFailure::Stop && run.status(&step.id).failed());
        for order in advance(&mut run, at) {
            match order {
                Order::Start { step, mode, attempt, .. } => {
                    started_too_late |= stopped;
                    *acts.entry(step.clone()).or_default() += u32::from(mode == Mode::Act);
                    let (after, result) = answers.next().unwrap();
                    if let Some(result) = result {
                        pending.push((at + secs(*after), step, attempt, result.clone()));
                    }
                }
                Order::Abort { step, .. } => {
                    // An attempt that answers at all answers its abort at once.
                    for (due, ..) in pending.iter_mut().filter(|(_, id, ..)| *id == step) {
                        *due = (*due).min(at);
                    }
                }
                _ => {}
            }
        }
        for phase in &run.book.phases {
            most_at_once |= phase.steps.iter().filter(|step| run.status(&step.id).in_progress()).count() > phase.width();
        }
        if run.outcome.is_some() {
            break;
        }
        let timer = next(&run, &now(at)).into_iter().find_map(|order| match order {
            Order::Timer { at } => Some(at),
            _ => None,
        });
        let due = pending.iter().map(|(due, ..)| *due).chain(timer).chain(cancel_at.map(secs).filter(|moment| *moment > at)).min();
        let Some(due) = due else { break };
        at = at.max(due);
        let (ready, rest) = pending.into_iter().partition(|(due, ..)| *due <= at);
        pending = rest;
        for (_, id, attempt, result) in ready as Vec<(Duration, StepId, u32, StepResult)> {
            if let Some((status, detail)) = settle(&run, &id, attempt, &result, &now(at)) {
                run.settled(&id, status, &detail, at, Timestamp::UNIX_EPOCH);
            }
        }
    }
    Played { run, ended: at, acts, started_too_late, most_at_once }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_run_ends_and_keeps_its_rules(
        run in any_run(),
        answers in prop::collection::vec(any_answer(), 1..20),
        cancel_at in prop::option::of(0..200_u64),
    ) {
        let played = play(run, &answers, cancel_at);
        let run = &played.run;
        prop_assert!(run.outcome.is_some(), "it does not end: {run:?}");
        prop_assert!(run.states.values().all(|state| state.status.ended()));
        prop_assert!(!played.most_at_once, "more at once than allowed");
        prop_assert!(!played.started_too_late, "something began after a failure that stops, or a cancellation");
        for step in run.book.steps() {
            let acts = played.acts.get(&step.id).copied().unwrap_or_default();
            let most = if step.replay == Replay::NeverRepeat { 1 } else { step.retry.attempts.max(1) };
            prop_assert!(acts <= most, "{} acted {acts} times", step.id);
        }
        let stop = run.book.steps().any(|step| step.on_failure == OnFailure::Stop && run.status(&step.id).failed());
        let all_done = run.states.values().all(|state| state.status == Status::Done);
        prop_assert_eq!(run.outcome == Some(Outcome::Done), all_done);
        prop_assert!(!stop || matches!(run.outcome, Some(Outcome::Failed | Outcome::Cancelled)));
        prop_assert!(cancel_at.is_some() || stop || matches!(run.outcome, Some(Outcome::Done | Outcome::Degraded)));
        // No step may take longer than its limit and the grace of an abort.
        let longest: Duration = run.book.steps().map(|step| step.limit.ceiling + ABORT_GRACE).sum();
        prop_assert!(played.ended <= longest.max(secs(cancel_at.unwrap_or(0)) + ABORT_GRACE), "{:?} > {longest:?}", played.ended);
    }

    /// A run survives the way through the journal.
    #[test]
    fn a_run_is_the_same_after_json(run in any_run(), answers in prop::collection::vec(any_answer(), 1..20)) {
        let run = play(run, &answers, Some(20)).run;
        let json = serde_json::to_string(&run).unwrap();
        prop_assert_eq!(serde_json::from_str::<Run<u8>>(&json).unwrap(), run);
    }
}
