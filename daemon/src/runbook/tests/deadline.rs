//! The time that is left is shared out, and kept whatever the world does.

use super::*;

fn limited(id: &str, ceiling: u64, share: u32) -> PlannedStep<u8> {
    PlannedStep { limit: Limit { ceiling: secs(ceiling), share }, on_failure: OnFailure::Continue, ..step(id) }
}

fn expected(id: &str, ceiling: u64, predicted: u64) -> PlannedStep<u8> {
    PlannedStep { predicted: secs(predicted), ..limited(id, ceiling, 0) }
}

/// Limits in seconds, the grace of an abort being 1 s.
fn limits(mut run: Run<u8>, remaining: u64) -> Vec<(String, f64)> {
    run.book.abort_grace = secs(1);
    cut(&run, secs(remaining)).into_iter().map(|(id, limit)| (id.to_string(), (limit.as_secs_f64() * 100.0).round() / 100.0)).collect()
}

fn row(limits: &[(&str, f64)]) -> Vec<(String, f64)> {
    limits.iter().map(|(id, limit)| ((*id).to_owned(), *limit)).collect()
}

#[test]
fn how_the_time_is_shared_out() {
    let pair = |a: PlannedStep<u8>, b: PlannedStep<u8>| plan(vec![(1, vec![a]), (1, vec![b])]);
    let table = [
        ("enough: the ceilings", pair(limited("a", 100, 1), limited("b", 10, 0)), 200, row(&[("a", 100.0), ("b", 10.0)])),
        ("by weight", pair(limited("a", 100, 1), limited("b", 100, 3)), 42, row(&[("a", 10.0), ("b", 30.0)])),
        ("what one does not need the other gets", pair(limited("a", 5, 1), limited("b", 100, 1)), 42, row(&[("a", 5.0), ("b", 35.0)])),
        ("no share: first", pair(limited("a", 100, 1), limited("b", 30, 0)), 42, row(&[("a", 10.0), ("b", 30.0)])),
        (
            "no share: twice what is expected, not all of its ceiling",
            pair(limited("a", 100, 1), expected("b", 30, 5)),
            42,
            row(&[("a", 30.0), ("b", 10.0)]),
        ),
        ("no share: and then what is left", pair(limited("a", 20, 1), expected("b", 30, 5)), 42, row(&[("a", 20.0), ("b", 20.0)])),
        ("a share under a second: passed over", pair(limited("a", 100, 1), expected("b", 30, 5)), 12, row(&[("a", 0.0), ("b", 11.0)])),
        ("the least weight first", pair(limited("a", 100, 1), limited("b", 100, 9)), 6, row(&[("a", 0.0), ("b", 5.0)])),
        ("all scaled down", pair(expected("a", 60, 20), expected("b", 60, 10)), 32, row(&[("a", 20.0), ("b", 10.0)])),
        ("not below a second", pair(expected("a", 60, 20), expected("b", 60, 1)), 8, row(&[("a", 5.0), ("b", 1.0)])),
        ("unless there is no other way", pair(expected("a", 60, 20), expected("b", 60, 1)), 3, row(&[("a", 0.5), ("b", 0.5)])),
        ("nothing", pair(expected("a", 60, 20), limited("b", 60, 1)), 0, row(&[("a", 0.0), ("b", 0.0)])),
        (
            "side by side",
            plan(vec![(2, vec![limited("a", 100, 1), limited("b", 100, 1), limited("c", 100, 1), limited("d", 100, 1)])]),
            33,
            row(&[("a", 10.0), ("b", 10.0), ("c", 10.0), ("d", 10.0)]),
        ),
    ];
    for (name, run, remaining, expected) in table {
        assert_eq!(limits(run, remaining), expected, "{name}");
    }
}

#[test]
fn the_least_is_a_second_for_each_step_that_is_not_passed_over() {
    let mut run = plan(vec![(1, vec![expected("a", 60, 20), limited("b", 60, 5)]), (1, vec![limited("c", 60, 0)])]);
    run.book.abort_grace = secs(1);
    assert_eq!(least(&run), secs(4));
    let limits = cut(&run, least(&run));
    assert!(limits[&"a".into()] >= secs(1) && limits[&"c".into()] >= secs(1), "{limits:?}");
}

#[test]
fn a_cut_shortens_what_runs_and_never_lengthens_it() {
    let mut run = plan(vec![(1, vec![limited("a", 100, 1), limited("b", 100, 3)])]);
    run.book.abort_grace = secs(0);
    advance(&mut run, secs(0));
    run.recut(cut(&run, secs(40)), secs(5));
    let deadline = run.states[&"a".into()].deadline.unwrap();
    assert_eq!(deadline.as_millis().div_ceil(10), 1500);
    run.recut(cut(&run, secs(4000)), secs(6));
    assert_eq!(run.states[&"a".into()].deadline, Some(deadline));
    assert_eq!(run.limit(run.book.step(&"b".into()).unwrap()), secs(100));
}

#[test]
fn a_step_without_time_is_passed_over_and_told() {
    let mut run = plan(vec![(1, vec![limited("a", 100, 1)]), (1, vec![expected("b", 30, 5)])]);
    run.recut(cut(&run, secs(16)), secs(0));
    advance(&mut run, secs(0));
    assert_eq!((run.status(&"a".into()), run.running().count()), (Status::Skipped, 1));
    let orders = answer(&mut run, "b", &done(), 3);
    assert!(orders.contains(&Order::Finish { outcome: Outcome::Degraded, reason: "a: no time was left for it".into() }), "{orders:?}");
}

#[test]
fn by_its_deadline_a_run_has_ended_even_if_it_is_held() {
    for held in [false, true] {
        let mut run = plan(vec![(1, vec![limited("a", 100, 0), limited("b", 100, 0)])]);
        run.deadline = Some(secs(20));
        advance(&mut run, secs(0));
        run.hold = held.then(|| Hold { because: "test".into() });
        assert_eq!(next(&run, &now(secs(1))), [Order::Timer { at: secs(15) }], "the grace before it");
        assert!(matches!(advance(&mut run, secs(15))[..], [Order::Abort { .. }]));
        let orders = advance(&mut run, secs(20));
        assert_eq!(run.status(&"a".into()), Status::Abandoned);
        let Some(Order::Finish { outcome: Outcome::Degraded, reason }) = orders.last() else { panic!("{orders:?}") };
        assert!(reason.starts_with("the deadline of the run has passed; never begun: b; a: "), "{reason}");
    }
    let mut run = plan(vec![(1, vec![step("a")])]);
    run.deadline = Some(secs(20));
    run.hold = Some(Hold { because: "test".into() });
    assert_eq!(next(&run, &now(secs(1))), [Order::Timer { at: secs(15) }]);
    advance(&mut run, secs(15));
    assert_eq!(run.outcome, Some(Outcome::Failed), "a step that must not fail was never begun");
}

/// Worlds in which most attempts never end, not even when they are told to.
fn adversary() -> impl Strategy<Value = Vec<Answer>> {
    prop::collection::vec(prop_oneof![3 => Just((0, None)), 1 => any_answer()], 1..20)
}

/// Any run, its grace, and how long each of its steps is expected to take.
fn any_timed_run() -> impl Strategy<Value = Run<u8>> {
    (any_run(), 0..6_u64, prop::collection::vec(0..20_u64, 20)).prop_map(|(mut run, grace, predicted)| {
        run.book.abort_grace = secs(grace);
        let steps = run.book.phases.iter_mut().flat_map(|phase| phase.steps.iter_mut());
        for (step, predicted) in steps.zip(predicted) {
            step.predicted = secs(predicted);
        }
        run
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The limits alone keep the time, without the deadline of the run.
    #[test]
    fn a_cut_fits_into_the_time_that_is_left(run in any_timed_run(), answers in adversary(), remaining in 0..400_u64) {
        let mut run = run;
        run.recut(cut(&run, secs(remaining)), secs(0));
        let played = play(run, &answers, None);
        prop_assert!(played.run.outcome.is_some());
        prop_assert!(played.ended <= secs(remaining), "{:?} > {remaining} s", played.ended);
    }

    /// The deadline alone keeps the time, whatever the limits are.
    #[test]
    fn a_run_ends_by_its_deadline(run in any_timed_run(), answers in adversary(), deadline in 0..400_u64) {
        let mut run = run;
        run.deadline = Some(secs(deadline));
        let played = play(run, &answers, None);
        prop_assert!(played.run.outcome.is_some());
        prop_assert!(played.ended <= secs(deadline), "{:?} > {deadline} s", played.ended);
    }

    /// Time enough for the least: every step without a share is begun, and has a second at least.
    #[test]
    fn what_has_no_share_is_not_passed_over(run in any_timed_run(), more in 0..100_u64) {
        let limits = cut(&run, least(&run) + Duration::from_millis(1) + secs(more));
        for step in run.book.steps().filter(|step| step.limit.share == 0) {
            prop_assert!(limits[&step.id] + Duration::from_millis(2) >= step.limit.ceiling.min(secs(1)), "{}: {limits:?}", step.id);
        }
    }

    /// More time is never less for a step of the kind that is served first, and nothing exceeds its ceiling.
    #[test]
    fn limits_grow_with_the_time(run in any_timed_run(), remaining in 0..400_u64, more in 0..100_u64) {
        let (less, enough) = (cut(&run, secs(remaining)), cut(&run, secs(remaining + more)));
        for step in run.book.steps() {
            prop_assert!(enough[&step.id] <= step.limit.ceiling);
            prop_assert!(less[&step.id] <= step.limit.ceiling);
        }
        let everything = cut(&run, secs(100_000));
        prop_assert!(run.book.steps().all(|step| everything[&step.id] == step.limit.ceiling));
    }
}
