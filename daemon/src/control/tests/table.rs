//! What is decided, case by case.

use std::time::Duration;

use super::support::*;
use crate::control::takeover::{IMAGES_AT_ONCE, Kind, OnRestart, Takeover, clash, on_restart, takeover};
use crate::control::{Event, Fact, Order, Reply, Request};
use crate::runbook::{Outcome, PlannedStep, Runbook, Status, StepResult};
use crate::site::{Cause, DomainName, Guard, NodeName, OnTrigger, RunId, Step, StepId, UpsName, Verdict};

#[test]
fn the_whole_takeover_table() {
    use Kind::{Burn, Image, Shutdown, Startup};
    let rows = [
        (Burn, [(Burn, "beside"), (Image, "beside"), (Shutdown, "refused"), (Startup, "refused")]),
        (Image, [(Burn, "beside"), (Image, "beside"), (Shutdown, "refused"), (Startup, "beside")]),
        (Shutdown, [(Burn, "preempts"), (Image, "preempts"), (Shutdown, "beside"), (Startup, "preempts")]),
        (Startup, [(Burn, "beside"), (Image, "beside"), (Shutdown, "refused"), (Startup, "refused")]),
    ];
    let name = |verdict| match verdict {
        Takeover::Beside => "beside",
        Takeover::Refused(_) => "refused",
        Takeover::Preempts => "preempts",
        Takeover::Raises => "raises",
    };
    for (newcomer, cells) in rows {
        for (running, expected) in cells {
            for emergency in [false, true] {
                let row = format!("{newcomer:?} beside {running:?}, emergency: {emergency}");
                assert_eq!(name(takeover(newcomer, running, false, emergency)), expected, "{row}");
                let clashing = match (newcomer, running) {
                    (Shutdown, Shutdown) if emergency => "raises",
                    (Burn, Burn) | (Shutdown, Shutdown) => "refused",
                    _ => expected,
                };
                assert_eq!(name(takeover(newcomer, running, true, emergency)), clashing, "{row}, same device or host");
            }
        }
    }
}

/// A plan of that kind; those of one place write to the same device, or stop the same host.
fn plan_of(kind: Kind, place: &str) -> Runbook<Step> {
    match kind {
        Kind::Burn => burn(&format!("/dev/{place}"), 0),
        Kind::Image | Kind::Startup => simple(kind.name()),
        Kind::Shutdown => {
            let drain = Step::Drain { node: NodeName::new(place), cordon_only: false };
            book(kind.name(), vec![PlannedStep::act(format!("drain.{place}"), "drain", drain, Duration::from_secs(60))])
        }
    }
}

#[test]
fn requests_meet_as_the_table_says() {
    for newcomer in Kind::ALL {
        for running in Kind::ALL {
            for (clash, emergency) in [(false, false), (true, false), (false, true), (true, true)] {
                let row = format!("{newcomer:?} beside {running:?}, same place: {clash}, emergency: {emergency}");
                let mut world = World::started();
                let first = world.admit(plan_of(running, "a"), &now(11));
                let cause = if emergency { Cause::Ups { domains: [DomainName::new("d")].into() } } else { Cause::Person };
                let runbook = plan_of(newcomer, if clash { "a" } else { "b" });
                // Whether the client ran here or came over ssh from elsewhere: it is the same socket and the same request.
                let asked = Request::Admit { requester: "somebody".into(), runbook, cause, within: None };
                let reply = world.feed(&Event::Asked(asked), &now(12)).unwrap();
                let record = world.state.run(&first).unwrap();
                match takeover(newcomer, running, clash && running == newcomer, emergency) {
                    Takeover::Beside => {
                        assert!(matches!(&reply, Reply::Admitted { run } if *run != first), "{row}: {reply:?}");
                        assert_eq!((&record.run.cancel, record.raised.len()), (&None, 0), "{row}");
                    }
                    Takeover::Preempts => {
                        assert!(matches!(&reply, Reply::Admitted { run } if *run != first), "{row}: {reply:?}");
                        assert!(record.run.cancel.as_ref().is_some_and(|why| why.starts_with("pre-empted by")), "{row}");
                    }
                    Takeover::Refused(why) => {
                        let Reply::Refused { guards } = &reply else { panic!("{row}: {reply:?}") };
                        assert!(guards[0].name == "run.busy" && guards[0].message.contains(why), "{row}: {guards:?}");
                        assert!(guards[0].message.contains(first.as_str()), "{row}: {guards:?}");
                        assert_eq!(record.run.cancel, None, "{row}");
                    }
                    Takeover::Raises => {
                        assert_eq!(reply, Reply::Admitted { run: first.clone() }, "{row}");
                        assert_eq!((&record.run.cancel, record.raised.len()), (&None, 1), "{row}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_becomes_of_runs_after_a_restart() {
    for (kind, same_boot, expected) in [
        (Kind::Burn, true, OnRestart::CloseFailed),
        (Kind::Burn, false, OnRestart::CloseFailed),
        (Kind::Image, true, OnRestart::CloseFailed),
        (Kind::Image, false, OnRestart::CloseFailed),
        (Kind::Shutdown, true, OnRestart::Resume),
        (Kind::Shutdown, false, OnRestart::CloseInterrupted),
        (Kind::Startup, true, OnRestart::Resume),
        (Kind::Startup, false, OnRestart::CloseInterrupted),
    ] {
        assert_eq!(on_restart(kind, same_boot), expected, "{kind:?} {same_boot}");
    }
}

#[test]
fn a_device_is_the_same_by_path_or_by_diskseq() {
    for (one, other, same) in [
        (("/dev/sda", 0), ("/dev/sda", 0), true),
        (("/dev/sda", 7), ("/dev/disk/by-id/x", 7), true),
        (("/dev/sda", 0), ("/dev/sdb", 0), false),
        (("/dev/sda", 7), ("/dev/sdb", 8), false),
    ] {
        assert_eq!(clash(&burn(one.0, one.1), &burn(other.0, other.1)), same, "{one:?} {other:?}");
    }
    assert!(!clash(&burn("/dev/sda", 1), &simple("image")));
}

#[test]
fn a_burn_goes_through_its_steps_and_ends_done() {
    let mut world = World::started();
    let run = world.admit(burn("/dev/sdz", 3), &now(11));
    assert_eq!(run.as_str(), "burn-1");
    for (step, at) in [("image.fetch", 12), ("card.prepare", 13), ("card.write", 14)] {
        assert_eq!(world.starts().last().unwrap(), &("burn-1".to_owned(), step.to_owned()));
        world.feed(&finished("burn-1", step, 1, done()), &now(at));
    }
    let record = world.state.run(&run).unwrap();
    assert_eq!(record.run.outcome, Some(Outcome::Done));
    assert_eq!((record.started, record.ended), (now(11).wall, Some(now(14).wall)));
    assert!(world.orders.contains(&Order::Ended { run }));
}

#[test]
fn one_burn_per_device_others_beside_it() {
    let mut world = World::started();
    world.admit(burn("/dev/sdy", 1), &now(11));
    let Some(Reply::Refused { guards }) = world.feed(&admit(burn("/dev/sdy", 1)), &now(12)) else { panic!("admitted twice") };
    assert!(guards[0].message.contains("burn-1") && guards[0].message.contains("same device"), "{guards:?}");
    assert_eq!(world.admit(burn("/dev/sdz", 2), &now(13)).as_str(), "burn-2");
}

#[test]
fn images_are_limited() {
    let mut world = World::started();
    for _ in 0..IMAGES_AT_ONCE {
        world.admit(simple("image"), &now(11));
    }
    assert!(matches!(world.feed(&admit(simple("image")), &now(12)), Some(Reply::Refused { .. })));
    world.feed(&finished("image-1", "image.stream", 1, done()), &now(13));
    world.admit(simple("image"), &now(14));
}

#[test]
fn a_refusal_names_all_guards_and_leaves_no_fact() {
    let mut world = World::started();
    world.feed(&Event::JournalFailed { reason: "disk full".into() }, &now(11));
    let facts = world.facts.len();
    let mut book = burn("/dev/sdz", 1);
    book.refusals = vec![Guard { name: "device.mounted".into(), message: "it is mounted".into(), waiver: None }];
    book.phases[0].steps[1].id = StepId::new("image.fetch");
    let Some(Reply::Refused { guards }) = world.feed(&admit(book), &now(12)) else { panic!("admitted") };
    let names: Vec<_> = guards.iter().map(|guard| guard.name.as_str()).collect();
    assert_eq!(names, ["device.mounted", "journal.degraded", "run.steps"]);
    assert!(guards[1].message.contains("disk full"));
    assert_eq!(world.facts.len(), facts);
    assert!(matches!(world.feed(&admit(simple("dance")), &now(13)), Some(Reply::Refused { .. })), "unknown kinds are refused");
}

#[test]
fn a_shutdown_preempts_a_burn_and_runs_without_a_journal() {
    let mut world = World::started();
    world.admit(burn("/dev/sdz", 1), &now(11));
    world.feed(&Event::JournalFailed { reason: "disk full".into() }, &now(12));
    let shutdown = world.admit(simple("shutdown"), &now(13));
    assert_eq!(world.state.run(&RunId::new("burn-1")).unwrap().run.cancel.as_deref(), Some("pre-empted by shutdown-2"));
    assert!(world.starts().contains(&(shutdown.to_string(), "image.stream".to_owned())));
    world.feed(&finished("burn-1", "image.fetch", 1, StepResult::Cancelled { detail: String::new() }), &now(14));
    assert_eq!(world.state.run(&RunId::new("burn-1")).unwrap().run.outcome, Some(Outcome::Cancelled));
}

#[test]
fn a_burn_is_held_while_the_journal_fails_and_goes_on_after() {
    let mut world = World::started();
    world.admit(burn("/dev/sdz", 1), &now(11));
    world.feed(&Event::JournalFailed { reason: "disk full".into() }, &now(12));
    world.feed(&finished("burn-1", "image.fetch", 1, done()), &now(13));
    assert_eq!(world.starts().len(), 1, "nothing new begins");
    world.feed(&Event::JournalRestored, &now(14));
    assert_eq!(world.starts().last().unwrap().1, "card.prepare");
}

#[test]
fn cancel_says_first_what_it_unwinds() {
    let mut world = World::started();
    world.admit(burn("/dev/sdz", 1), &now(11));
    for (step, at) in [("image.fetch", 12), ("card.prepare", 13)] {
        world.feed(&finished("burn-1", step, 1, done()), &now(at));
    }
    let facts = world.facts.len();
    let Some(Reply::Cancel { consequences, cancelled: false }) = world.feed(&cancel("burn-1", false), &now(14)) else { panic!() };
    assert_eq!(consequences[0], "write the card: is ended where it is");
    assert!(consequences[1].contains("/dev/sdz is not to be used"), "{consequences:?}");
    assert_eq!(world.facts.len(), facts);

    assert!(matches!(world.feed(&cancel("burn-1", true), &now(15)), Some(Reply::Cancel { cancelled: true, .. })));
    assert!(world.orders.contains(&Order::Abort { run: RunId::new("burn-1"), step: StepId::new("card.write") }));
    world.feed(&finished("burn-1", "card.write", 1, StepResult::Cancelled { detail: "no table".into() }), &now(16));
    assert_eq!(world.state.run(&RunId::new("burn-1")).unwrap().run.outcome, Some(Outcome::Cancelled));
    assert!(matches!(world.feed(&cancel("burn-1", true), &now(17)), Some(Reply::Cancel { cancelled: false, .. })));
    assert_eq!(world.feed(&cancel("burn-9", true), &now(18)), Some(Reply::NoSuchRun));
}

#[test]
fn a_stop_waits_for_cancelled_burns_leaves_shutdowns_and_is_bounded() {
    let mut world = World::started();
    world.admit(burn("/dev/sdz", 1), &now(11));
    assert_eq!(world.feed(&Event::Asked(Request::Stop), &now(12)), Some(Reply::Noted));
    assert!(!world.orders.contains(&Order::Stop), "the burn has to end first");
    assert!(matches!(world.feed(&admit(simple("image")), &now(13)), Some(Reply::Refused { .. })));
    world.feed(&Event::TimerFired, &now(17));
    assert!(world.orders.contains(&Order::Stop), "an attempt that does not end is not waited for longer than its grace");
    assert_eq!(world.state.run(&RunId::new("burn-1")).unwrap().run.status(&StepId::new("image.fetch")), Status::Abandoned);
    let ended = world.facts.iter().find_map(|(fact, _)| if let Fact::RunEnded { reason, .. } = fact { Some(reason) } else { None });
    assert!(ended.unwrap().ends_with("no longer waited for; /dev/sdz was not touched"), "{ended:?}");
    assert_eq!(world.facts.last().unwrap().0, Fact::DaemonStopped);

    let mut world = World::started();
    let mut book = burn("/dev/sdz", 1);
    book.kind = "shutdown".into();
    world.admit(book, &now(11));
    world.feed(&Event::Asked(Request::Stop), &now(12));
    assert!(world.orders.contains(&Order::Stop), "a shutdown is left to the next metisd");
    world.feed(&recovered(), &now(20));
    assert_eq!(world.starts().last().unwrap(), &("shutdown-1".to_owned(), "image.fetch".to_owned()));
    world.feed(&finished("shutdown-1", "image.fetch", 2, done()), &now(21));
    assert_eq!(world.starts().last().unwrap().1, "card.prepare");
}

#[test]
fn late_and_foreign_results_change_nothing() {
    let mut world = World::started();
    world.admit(burn("/dev/sdz", 1), &now(11));
    let before = world.state.clone();
    for event in [
        finished("burn-1", "image.fetch", 2, done()),
        finished("burn-1", "card.write", 1, done()),
        finished("burn-7", "image.fetch", 1, done()),
        Event::Milestone { run: RunId::new("burn-1"), step: StepId::new("card.write"), message: "not begun".into() },
    ] {
        world.feed(&event, &now(12));
    }
    assert_eq!(world.state, before);
}

#[test]
fn only_changes_of_verdicts_are_facts() {
    let mut world = World::started();
    let verdict = |verdict| Event::UpsVerdict { ups: UpsName::new("u@h"), verdict, reason: "why".into() };
    let before = world.facts.len();
    for (to, facts) in [(Verdict::Unknown, 0), (Verdict::Online, 1), (Verdict::Online, 1), (Verdict::OnBattery, 2)] {
        world.feed(&verdict(to), &now(12));
        assert_eq!(world.facts.len() - before, facts, "{to:?}");
    }
}

#[test]
fn a_trigger_is_decided_once_and_one_of_an_earlier_life_is_cleared_by_mains() {
    let mut world = World::started();
    let domain = DomainName::new("pyrphoros");
    let trigger = Event::Trigger {
        domain: domain.clone(),
        because: "LB".into(),
        budget: Duration::from_secs(300),
        runtime: Some(Duration::from_secs(120)),
    };
    let online = Event::DomainVerdict { domain: domain.clone(), verdict: Verdict::Online, reason: "mains".into() };
    world.feed(&trigger, &now(11));
    world.feed(&trigger, &now(12));
    let decided = world.facts.iter().filter(|(fact, _)| matches!(fact, Fact::TriggerDecided { .. })).count();
    assert_eq!(decided, 1);
    assert_eq!(world.state.triggers[&domain].would_act, OnTrigger::Observe);
    world.feed(&online, &now(13));
    assert_eq!(world.state.triggers[&domain].cleared, None, "in this life the policy says when it is gone");
    world.feed(&recovered(), &now(20));
    world.feed(&online, &now(21));
    assert_eq!(world.state.triggers[&domain].cleared, Some(now(21).wall));
    assert_eq!(world.state.triggers[&domain].at, now(11).wall, "it stays in history");
}
