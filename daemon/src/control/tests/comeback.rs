//! Whether the cluster is started without a person: every way a life of the daemon can end.

use std::collections::BTreeSet;
use std::time::Duration;

use super::support::*;
use crate::control::{Event, Order, Request, State};
use crate::runbook::{Phase, PlannedStep, Runbook};
use crate::site::{BootId, Cause, DomainName, K3sRole, Now, OnBoot, Step, Verdict};

fn begins(on_boot: OnBoot) -> Event {
    let settings = crate::control::Adopted { on_boot, ..adopted() };
    Event::Recovered { version: "0.1.0".into(), settings, rejected: Vec::new() }
}

fn cluster_run(kind: &str) -> Runbook<Step> {
    let action = Step::StopK3s { node: "titan-0a".into(), role: K3sRole::Server };
    let step = PlannedStep::act("stop", "stop k3s", action, Duration::from_secs(60));
    book(kind, vec![PlannedStep { commits: true, ..step }])
}

fn ups() -> Cause {
    Cause::Ups { domains: BTreeSet::from([DomainName::new("all")]) }
}

fn ask(kind: &str, cause: Cause) -> Event {
    Event::Asked(Request::Admit { requester: "ada".into(), runbook: cluster_run(kind), cause, within: None })
}

fn online(verdict: Verdict) -> Event {
    Event::DomainVerdict { domain: DomainName::new("all"), verdict, reason: "test".into() }
}

fn in_boot(boot: &str, seconds: u64) -> Now {
    Now { boot_id: BootId::new(boot), ..now(seconds) }
}

/// Whether a start-up is ordered when metisd starts in that boot, after that life.
fn starts(on_boot: OnBoot, life: &[Event], boot: &str) -> bool {
    let mut world = World::default();
    world.feed(&begins(on_boot), &now(1));
    for (at, event) in life.iter().enumerate() {
        world.feed(event, &now(10 + at as u64));
    }
    let mut next = World { state: world.state, ..World::default() };
    next.feed(&begins(on_boot), &in_boot(boot, 100));
    let wanted = next.state.startup_wanted.is_some();
    assert_eq!(next.orders.iter().any(|order| matches!(order, Order::PlanStartup { .. })), wanted);
    wanted
}

#[test]
fn after_a_boot() {
    let by_ups = || vec![ask("shutdown", ups()), finished("shutdown-1", "stop", 1, done())];
    let by_person = || vec![ask("shutdown", Cause::Person), finished("shutdown-1", "stop", 1, done())];
    let in_its_midst = || vec![ask("startup", Cause::Person)];
    let at_boot = || vec![ask("startup", Cause::Boot), finished("startup-1", "stop", 1, done())];
    let started = || [by_ups(), vec![ask("startup", Cause::Boot), finished("startup-2", "stop", 1, done())]].concat();
    let stopped = |mut life: Vec<Event>| {
        life.push(Event::Asked(Request::Stop));
        life
    };
    let cases: Vec<(&str, OnBoot, Vec<Event>, &str, bool)> = vec![
        ("stopped by a UPS", OnBoot::AfterOutage, by_ups(), "boot-b", true),
        ("the same, and metisd stopped in order with its host", OnBoot::AfterOutage, stopped(by_ups()), "boot-b", true),
        ("the same boot: the mains are not known to be back", OnBoot::AfterOutage, by_ups(), "boot-a", false),
        ("never means never", OnBoot::Never, by_ups(), "boot-b", false),
        ("stopped by a person", OnBoot::AfterOutage, stopped(by_person()), "boot-b", false),
        ("stopped by a person, then a power cut", OnBoot::AfterOutage, by_person(), "boot-b", false),
        ("a power cut out of the blue", OnBoot::AfterOutage, Vec::new(), "boot-b", true),
        ("an ordered reboot", OnBoot::AfterOutage, stopped(Vec::new()), "boot-b", false),
        ("metisd was restarted", OnBoot::AfterOutage, stopped(Vec::new()), "boot-a", false),
        ("metisd crashed", OnBoot::AfterOutage, Vec::new(), "boot-a", false),
        ("a start-up was interrupted by a power cut", OnBoot::AfterOutage, in_its_midst(), "boot-b", true),
        ("a start-up had followed, and an ordered reboot", OnBoot::AfterOutage, stopped(started()), "boot-b", false),
        ("always, after an ordered reboot", OnBoot::Always, stopped(Vec::new()), "boot-b", true),
        ("always, and metisd was restarted before it was admitted", OnBoot::Always, stopped(Vec::new()), "boot-a", true),
        ("always, and metisd was restarted after it", OnBoot::Always, stopped(at_boot()), "boot-a", false),
    ];
    for (name, on_boot, life, boot, wanted) in cases {
        assert_eq!(starts(on_boot, &life, boot), wanted, "{name}");
    }
}

/// Feeds a life of the daemon in one boot; whether a start-up is wanted at its end.
fn wanted_in_life(events: &[Event]) -> State {
    let mut world = World::default();
    world.feed(&begins(OnBoot::AfterOutage), &now(1));
    for (at, event) in events.iter().enumerate() {
        world.feed(event, &now(10 + at as u64));
    }
    world.state
}

#[test]
fn in_one_life_it_is_wanted_once_the_shutdown_has_ended_and_the_mains_are_back() {
    let life = [online(Verdict::Critical), ask("shutdown", ups()), online(Verdict::Online), finished("shutdown-1", "stop", 1, done())];
    assert_eq!(wanted_in_life(&life[..3]).startup_wanted, None, "it is under way, and past its point of no return");
    assert!(wanted_in_life(&life).startup_wanted.is_some_and(|because| because.contains("shutdown-1")));
    let later = [life[0].clone(), life[1].clone(), life[3].clone()];
    assert_eq!(wanted_in_life(&later).startup_wanted, None, "the mains are not back");
    assert!(wanted_in_life(&[&later[..], &[online(Verdict::Online)]].concat()).startup_wanted.is_some());
    let admitted = wanted_in_life(&[&life[..], &[ask("startup", Cause::Boot)]].concat());
    assert_eq!(admitted.startup_wanted, None);
    let failed = crate::runbook::StepResult::Failed { detail: "no".into(), permanent: true };
    let failed = [&life[..], &[ask("startup", Cause::Boot), finished("startup-2", "stop", 1, failed), online(Verdict::Online)]].concat();
    assert_eq!(wanted_in_life(&failed).startup_wanted, None, "one that failed is a person's");
    let by_person = [life[0].clone(), ask("shutdown", Cause::Person), life[3].clone(), online(Verdict::Online)];
    assert_eq!(wanted_in_life(&by_person).startup_wanted, None, "a stop that a person planned stays");
}

#[test]
fn what_the_other_host_has_started_is_not_wanted_again_until_the_next_outage() {
    let settle = Event::Asked(Request::Settle { because: "startup-4 of titan-db ended: done".into() });
    let life = [ask("shutdown", ups()), finished("shutdown-1", "stop", 1, done()), online(Verdict::Online)];
    let settled = [&life[..], &[settle.clone(), online(Verdict::Unknown), online(Verdict::Online)]].concat();
    assert_eq!(wanted_in_life(&settled).startup_wanted, None, "neither at once nor when the mains are seen again");
    assert!(!starts(OnBoot::AfterOutage, &[&settled[..], &[Event::Asked(Request::Stop)]].concat(), "boot-b"), "nor after a reboot");
    let again = [ask("shutdown", ups()), finished("shutdown-2", "stop", 1, done()), online(Verdict::OnBattery), online(Verdict::Online)];
    assert!(wanted_in_life(&[&settled[..], &again].concat()).startup_wanted.is_some_and(|because| because.contains("shutdown-2")));
    let for_nothing = wanted_in_life(&[settle]);
    assert_eq!((for_nothing.startup_wanted, for_nothing.settled), (None, None), "nothing was wanted, and nothing is recorded");
}

/// Between the end of the run and the word that this host took the order it must not be forgotten that it goes off.
#[test]
fn a_host_that_is_about_to_go_off_starts_nothing() {
    let farewell = Step::PowerOffThisHost { node: "titan-db".into(), delay: Duration::from_secs(5) };
    let mut book = cluster_run("shutdown");
    book.phases.push(Phase::serial("this host", vec![PlannedStep::act("farewell", "power off", farewell, Duration::from_secs(60))]));
    let asked = Event::Asked(Request::Admit { requester: "ada".into(), runbook: book, cause: ups(), within: None });
    let life =
        [online(Verdict::Critical), asked, online(Verdict::Online), finished("shutdown-1", "stop", 1, done()), online(Verdict::Online)];
    let state = wanted_in_life(&life);
    assert_eq!((state.startup_wanted, state.farewell), (None, None), "not taken yet");
}
