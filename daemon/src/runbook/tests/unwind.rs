//! A run that is cancelled before its point of no return is undone; after it, it goes on.

use super::*;

/// a (1 s), b (commits); undone by `c`, then `d`.
fn undoable(b: PlannedStep<u8>) -> Run<u8> {
    let mut run = plan(vec![(1, vec![step("a")]), (1, vec![b])]);
    run.book.unwind = vec![
        Phase { name: "u".into(), concurrency: 1, steps: vec![step("c")] },
        Phase { name: "v".into(), concurrency: 1, steps: vec![PlannedStep { on_failure: OnFailure::Continue, ..step("d") }] },
    ];
    Run::new(run.book)
}

fn committing() -> Run<u8> {
    undoable(PlannedStep { commits: true, ..step("b") })
}

fn finish(orders: &[Order]) -> (Outcome, &str) {
    let end = orders.iter().find_map(|order| match order {
        Order::Finish { outcome, reason } => Some((*outcome, reason.as_str())),
        _ => None,
    });
    end.unwrap_or_else(|| panic!("it did not end: {orders:?}"))
}

#[test]
fn what_runs_is_ended_then_it_is_undone_in_order() {
    let mut run = committing();
    advance(&mut run, secs(0));
    run.cancelled("mains are back");
    assert!(matches!(advance(&mut run, secs(1))[..], [Order::Abort { .. }]), "nothing is undone while it is being done");
    let orders = answer(&mut run, "a", &StepResult::Cancelled { detail: "half".into() }, 2);
    assert_eq!(modes(&orders).len(), 1, "c");
    assert_eq!(run.phase().map(|phase| phase.name.as_str()), Some("u"));
    answer(&mut run, "c", &done(), 3);
    let orders = answer(&mut run, "d", &done(), 4);
    assert_eq!(finish(&orders), (Outcome::Cancelled, "mains are back; what it had done is undone"));
    assert_eq!(run.status(&"b".into()), Status::Skipped);
}

#[test]
fn it_is_undone_even_where_the_last_step_came_to_its_end() {
    let mut run = undoable(PlannedStep { retry: Retry { attempts: 2, back_off: secs(50), longest: secs(50) }, ..step("b") });
    advance(&mut run, secs(0));
    answer(&mut run, "a", &done(), 1);
    answer(&mut run, "b", &failed(false), 2);
    run.cancelled("mains are back");
    advance(&mut run, secs(3));
    assert_eq!((run.status(&"b".into()), run.running().count()), (Status::Cancelled, 1), "a pause is no reason to wait");

    let mut run = undoable(step("b"));
    advance(&mut run, secs(0));
    answer(&mut run, "a", &done(), 1);
    run.cancelled("mains are back");
    advance(&mut run, secs(2));
    assert_eq!(modes(&answer(&mut run, "b", &done(), 3)).len(), 1, "it was done, and is undone");
}

#[test]
fn what_cannot_be_undone_is_told_and_does_not_keep_the_rest() {
    let mut run = committing();
    advance(&mut run, secs(0));
    run.cancelled("ada");
    advance(&mut run, secs(1));
    answer(&mut run, "a", &done(), 2);
    answer(&mut run, "c", &failed(true), 3);
    let orders = answer(&mut run, "d", &done(), 4);
    assert_eq!(finish(&orders), (Outcome::Cancelled, "ada; not undone: c: broken"));
}

#[test]
fn past_the_point_of_no_return_a_cancellation_changes_nothing() {
    let mut run = committing();
    advance(&mut run, secs(0));
    assert!(!run.committed());
    answer(&mut run, "a", &done(), 1);
    assert!(run.committed());
    run.cancelled("too late");
    assert!(advance(&mut run, secs(2)).is_empty());
    let orders = answer(&mut run, "b", &done(), 3);
    assert_eq!(finish(&orders), (Outcome::Done, ""));
    assert_eq!((run.status(&"c".into()), run.status(&"d".into())), (Status::Skipped, Status::Skipped));
}

#[test]
fn a_run_that_did_nothing_has_nothing_to_undo() {
    let mut run = committing();
    run.hold = Some(Hold { because: "test".into() });
    advance(&mut run, secs(0));
    run.cancelled("ada");
    let orders = advance(&mut run, secs(1));
    assert_eq!(finish(&orders), (Outcome::Cancelled, "ada"));
}

#[test]
fn undoing_is_not_bound_to_the_deadline_and_survives_a_restart() {
    let mut run = committing();
    run.deadline = Some(secs(20));
    advance(&mut run, secs(0));
    run.cancelled("mains are back");
    advance(&mut run, secs(1));
    answer(&mut run, "a", &done(), 2);
    let mut run: Run<u8> = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
    for order in resume(&run, &now(secs(30))) {
        let Order::Settle { step, status, detail } = order else { panic!("{order:?}") };
        run.settled(&step, status, &detail, secs(30), Timestamp::UNIX_EPOCH);
    }
    assert_eq!(modes(&advance(&mut run, secs(30))), [Mode::Act], "c, again");
    answer(&mut run, "c", &done(), 31);
    let orders = answer(&mut run, "d", &done(), 32);
    assert_eq!(finish(&orders).0, Outcome::Cancelled);
}

#[test]
fn undoing_without_steps_still_ends_what_is_in_progress() {
    let mut run = undoable(step("b"));
    run.book.unwind = vec![Phase { name: "u".into(), concurrency: 1, steps: Vec::new() }];
    let mut run = Run::new(run.book);
    advance(&mut run, secs(0));
    let retry = Status::Waiting { until: secs(50), then: Mode::Act };
    run.settled(&"a".into(), retry, "", secs(1), Timestamp::UNIX_EPOCH);
    run.cancelled("ada");
    assert_eq!(finish(&advance(&mut run, secs(2))).0, Outcome::Cancelled);
    assert_eq!(run.status(&"a".into()), Status::Cancelled);
}

/// Undoing steps of any kind, some of which fail or never end.
fn any_undoable() -> impl Strategy<Value = Run<u8>> {
    (any_run(), any_run(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(run, undo, commits, has_commit)| {
        let mut book = run.book;
        book.unwind = undo.book.phases;
        for step in book.unwind.iter_mut().flat_map(|phase| phase.steps.iter_mut()) {
            step.id = StepId::new(format!("un-{}", step.id));
        }
        let steps = book.phases.iter().map(|phase| phase.steps.len()).sum::<usize>();
        if has_commit && steps > 0 {
            let chosen = commits.index(steps);
            book.phases.iter_mut().flat_map(|phase| phase.steps.iter_mut()).nth(chosen).unwrap().commits = true;
        }
        Run::new(book)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn either_undone_or_gone_through_with(
        run in any_undoable(),
        answers in prop::collection::vec(any_answer(), 1..20),
        cancel_at in prop::option::of(0..200_u64),
    ) {
        let run = play(run, &answers, cancel_at).run;
        prop_assert!(run.outcome.is_some(), "it does not end: {run:?}");
        prop_assert!(run.states.values().all(|state| state.status.ended()));
        let begun = |phases: &[Phase<u8>]| phases.iter().flat_map(|phase| &phase.steps).any(|step| run.states[&step.id].started.is_some());
        let undoing = run.unwinding() && run.outcome == Some(Outcome::Cancelled);
        prop_assert_eq!(begun(&run.book.unwind), undoing && run.book.unwind.iter().any(|phase| !phase.steps.is_empty()));
        prop_assert!(!(run.committed() && run.cancel.is_some()), "a cancellation past the point of no return was taken");
        if undoing {
            let skipped = |step: &&PlannedStep<u8>| run.status(&step.id) == Status::Skipped;
            prop_assert_eq!(run.book.unwind.iter().flat_map(|phase| &phase.steps).filter(skipped).count(), 0);
        }
    }
}
