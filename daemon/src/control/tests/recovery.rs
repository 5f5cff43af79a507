//! Crashes: whatever was recorded, the next life knows it and says what became of it.

use std::time::Duration;

use proptest::prelude::*;

use super::support::*;
use crate::control::{Event, Fact, Reply, Request, State, apply, fold};
use crate::journal::Stored;
use crate::runbook::{Outcome, StepResult};
use crate::site::{BootId, DomainName, RunId, Step, StepId, UpsName, Verdict};

/// The journal's rows of a world's facts.
fn stored(world: &World) -> Vec<Stored> {
    let row = |(fact, stamp): &(Fact, crate::control::Stamp)| {
        let record = fact.record().unwrap();
        Stored {
            seq: stamp.seq,
            at: stamp.now.wall,
            since_boot: stamp.now.boot,
            boot_id: stamp.now.boot_id.clone(),
            synced: stamp.now.synced,
            kind: record.kind,
            version: record.version,
            run: record.run,
            payload: record.payload,
        }
    };
    world.facts.iter().map(row).collect()
}

/// The world as the next life of the daemon finds it, after the first `facts` facts.
fn restarted(world: &World, facts: usize, at: u64, boot: &str) -> World {
    let (state, problems) = fold(None, &stored(world)[..facts]);
    assert_eq!(problems, Vec::<String>::new());
    let mut next = World { state, ..World::default() };
    let now = crate::site::Now { boot_id: BootId::new(boot), ..now(at) };
    next.feed(&recovered(), &now);
    next
}

#[test]
fn a_burn_killed_after_any_fact_is_closed_with_its_reason() {
    let mut world = World::started();
    world.admit(burn("/dev/sdz", 1), &now(11));
    for (step, at) in [("image.fetch", 12), ("card.prepare", 13), ("card.write", 14)] {
        world.feed(&finished("burn-1", step, 1, done()), &now(at));
    }
    let admitted = world.facts.iter().position(|(fact, _)| matches!(fact, Fact::RunAdmitted { .. })).unwrap();
    for boot in ["boot-a", "boot-b"] {
        for facts in admitted + 1..=world.facts.len() {
            let next = restarted(&world, facts, 20, boot);
            let record = next.state.run(&RunId::new("burn-1")).unwrap();
            let all_done = matches!(world.facts[facts - 1].0, Fact::RunEnded { .. })
                || matches!(&world.facts[facts - 1].0, Fact::StepEnded { step, .. } if step.as_str() == "card.write");
            let expected = if all_done { Outcome::Done } else { Outcome::Failed };
            assert_eq!(record.run.outcome, Some(expected), "after {facts} facts");
            assert!(record.ended.is_some());
            assert!(next.starts().is_empty(), "nothing of it is started again");
            if !all_done {
                assert!(record.reason.starts_with("interrupted: "), "{}", record.reason);
            }
        }
    }
}

#[test]
fn the_reason_names_step_and_state_of_the_card() {
    let mut world = World::started();
    world.admit(burn("/dev/sdz", 1), &now(11));
    let next = restarted(&world, world.facts.len(), 20, "boot-a");
    assert_eq!(next.reason("burn-1"), "interrupted: metisd stopped while step image.fetch ran; /dev/sdz was not touched");
    world.feed(&finished("burn-1", "image.fetch", 1, done()), &now(12));
    world.feed(&finished("burn-1", "card.prepare", 1, done()), &now(13));
    let next = restarted(&world, world.facts.len(), 20, "boot-b");
    assert_eq!(
        next.reason("burn-1"),
        "interrupted: this host went down while step card.write ran; the card in /dev/sdz is not to be used (its partition table is written last): burn \
         it again"
    );
}

#[test]
fn a_shutdown_of_an_earlier_boot_is_closed_as_interrupted() {
    let mut world = World::started();
    world.admit(simple("shutdown"), &now(11));
    let next = restarted(&world, world.facts.len(), 20, "boot-b");
    assert_eq!(next.state.run(&RunId::new("shutdown-1")).unwrap().run.outcome, Some(Outcome::Interrupted));
}

#[test]
fn numbers_of_runs_go_on() {
    let mut world = World::started();
    world.admit(simple("image"), &now(11));
    let mut next = restarted(&world, world.facts.len(), 20, "boot-a");
    assert_eq!(next.admit(simple("burn"), &now(21)).as_str(), "burn-2");
}

#[test]
fn what_cannot_be_read_is_told_and_left_out() {
    let mut world = World::started();
    world.admit(simple("image"), &now(11));
    let mut rows = stored(&world);
    rows[0].version = Fact::VERSION + 1;
    rows[1].payload = "{}".into();
    let (state, problems) = fold(Some(&(0, "nonsense".into())), &rows);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert_eq!(state.runs.len(), 1);
    assert!(Fact::understands("run.admitted", Fact::VERSION));
    assert!(!Fact::understands("run.admitted", Fact::VERSION + 1));
    assert!(!Fact::understands("run.danced", Fact::VERSION));
}

fn any_result() -> impl Strategy<Value = StepResult> {
    prop_oneof![
        4 => Just(done()),
        1 => Just(StepResult::NotReady { detail: "n".into() }),
        1 => Just(StepResult::CannotTell { detail: "c".into() }),
        1 => any::<bool>().prop_map(|permanent| StepResult::Failed { detail: "f".into(), permanent }),
        1 => Just(StepResult::Unreached { detail: "u".into() }),
        1 => Just(StepResult::Cancelled { detail: String::new() }),
    ]
}

fn any_run() -> impl Strategy<Value = RunId> {
    (prop::sample::select(vec!["burn", "image", "shutdown", "startup", "burn"]), 1..6_u32)
        .prop_map(|(kind, n)| RunId::new(format!("{kind}-{n}")))
}

fn any_step() -> impl Strategy<Value = StepId> {
    prop::sample::select(vec!["image.fetch", "card.prepare", "card.write", "image.stream", "none"]).prop_map(StepId::new)
}

fn any_book() -> impl Strategy<Value = crate::runbook::Runbook<Step>> {
    prop_oneof![
        (0..3_u64).prop_map(|n| burn(&format!("/dev/sd{n}"), n)),
        prop::sample::select(vec!["image", "shutdown", "startup", "dance"]).prop_map(simple),
    ]
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop::sample::select(vec![Verdict::Online, Verdict::Unknown, Verdict::OnBattery, Verdict::Critical])
}

fn any_event() -> impl Strategy<Value = Event> {
    let domain = || prop::sample::select(vec!["a", "b"]).prop_map(DomainName::new);
    prop_oneof![
        1 => Just(recovered()),
        1 => Just(Event::SettingsAdopted(adopted())),
        1 => Just(Event::SettingsRejected { errors: vec!["e".into()] }),
        2 => any_verdict().prop_map(|verdict| Event::UpsVerdict { ups: UpsName::new("u@h"), verdict, reason: "r".into() }),
        1 => Just(Event::FsdLatched { ups: UpsName::new("u@h") }),
        2 => (domain(), any_verdict()).prop_map(|(domain, verdict)| Event::DomainVerdict { domain, verdict, reason: "r".into() }),
        1 => domain().prop_map(|domain| Event::Trigger { domain, because: "b".into(), budget: Duration::from_secs(9), runtime: None }),
        1 => domain().prop_map(|domain| Event::TriggerGone { domain, because: "b".into() }),
        12 => (any_run(), any_step(), 0..3_u32, any_result())
            .prop_map(|(run, step, attempt, result)| Event::StepFinished { run, step, attempt, result }),
        2 => (any_run(), any_step()).prop_map(|(run, step)| Event::Milestone { run, step, message: "m".into() }),
        4 => Just(Event::TimerFired),
        1 => Just(Event::JournalFailed { reason: "full".into() }),
        1 => Just(Event::JournalRestored),
        1 => any::<i64>().prop_map(|seconds| Event::ClockJumped { seconds }),
        1 => any::<bool>().prop_map(|goes_down| Event::Asked(Request::ThisHost { goes_down })),
        6 => any_book().prop_map(admit),
        2 => (any_run(), any::<bool>()).prop_map(|(run, execute)| cancel(run.as_str(), execute)),
        1 => Just(Event::Asked(Request::Stop)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Any events in any order: every request is answered, recovery from the journal (from its beginning, or from a checkpoint anywhere)
    /// gives the state that was lost, and so does every prefix.
    #[test]
    fn replay_of_any_prefix_and_checkpoint_gives_the_same_state(
        events in prop::collection::vec((any_event(), 0..40_u64), 1..60),
        cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut world = World::started();
        let mut time = 10;
        for (event, pause) in &events {
            time += pause;
            let reply = world.feed(event, &now(time));
            prop_assert_eq!(reply.is_some(), matches!(event, Event::Asked(_)));
        }
        let rows = stored(&world);
        prop_assert!(rows.iter().all(|row| Fact::understands(&row.kind, row.version)));
        let (whole, problems) = fold(None, &rows);
        prop_assert!(problems.is_empty());
        prop_assert_eq!(&whole, &world.state);

        let end = 1 + cut.index(rows.len());
        let mut expected = State::default();
        for (fact, stamp) in &world.facts[..end] {
            apply(&mut expected, fact, stamp);
        }
        let middle = at.index(end);
        let (half, _) = fold(None, &rows[..middle]);
        let checkpoint = (half.last_seq, serde_json::to_string(&half).unwrap());
        let (resumed, problems) = fold(Some(&checkpoint), &rows[middle..end]);
        prop_assert!(problems.is_empty());
        prop_assert_eq!(resumed, expected);
    }

    /// The next life, wherever the last one was killed, neither repeats a burn nor leaves one open.
    #[test]
    fn no_burn_survives_a_crash(events in prop::collection::vec((any_event(), 0..40_u64), 1..40), cut in any::<prop::sample::Index>()) {
        let mut world = World::started();
        let mut time = 10;
        for (event, pause) in &events {
            time += pause;
            world.feed(event, &now(time));
        }
        let next = restarted(&world, 1 + cut.index(world.facts.len()), time + 1, "boot-b");
        prop_assert_eq!(next.state.active().count(), 0);
        prop_assert!(next.starts().is_empty());
    }

    /// Two runs never write to one device at once, and a stopped daemon admits nothing.
    #[test]
    fn admission_keeps_its_promises(events in prop::collection::vec((any_event(), 0..40_u64), 1..60)) {
        let mut world = World::started();
        let mut time = 10;
        for (event, pause) in &events {
            time += pause;
            let stopping = world.state.stopping() && !matches!(event, Event::Recovered { .. });
            let reply = world.feed(event, &now(time));
            let admitted = matches!(reply, Some(Reply::Admitted { .. }));
            prop_assert!(!(stopping && admitted));
            let burns: Vec<_> = world.state.active().filter(|record| record.run.book.kind == "burn").collect();
            for (index, one) in burns.iter().enumerate() {
                for other in &burns[..index] {
                    prop_assert!(!crate::control::takeover::clash(&one.run.book, &other.run.book));
                }
            }
        }
    }
}
