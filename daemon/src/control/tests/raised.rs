//! A shutdown that is under way when a failing UPS asks for one of the same hosts.

use std::time::Duration;

use super::outage::{armed, ask, book, cancelled, farewells, gone, planned, trigger, verdict};
use super::support::{World, cancel, done, finished, now, recovered};
use crate::control::{Event, Fact, Order, Reply};
use crate::runbook::{Outcome, Runbook, StepResult};
use crate::site::{Cause, DomainName, OnTrigger, RunId, Step, StepId, UpsName, Verdict};

/// As [`book`], but this host stays on.
fn stays_on(node: &str) -> Runbook<Step> {
    let mut book = book(node);
    book.phases.pop();
    book
}

/// A person's stop of the cluster, and a domain that fails while it drains.
fn raised() -> (World, RunId) {
    let mut world = armed(OnTrigger::HostPoweroff);
    let run = world.admit(stays_on("titan-0a"), &now(20));
    world.feed(&verdict("pyrphoros", Verdict::Critical), &now(21));
    world.feed(&trigger("pyrphoros"), &now(21));
    assert_eq!(ask(&mut world, "titan-0a", &["pyrphoros"], 22), Reply::Admitted { run: run.clone() });
    (world, run)
}

fn has_farewell(world: &World, run: &RunId) -> bool {
    world.state.run(run).unwrap().run.book.step(&StepId::new("farewell")).is_some()
}

fn mains_back(world: &mut World, at: u64) {
    world.feed(&verdict("pyrphoros", Verdict::OnBattery), &now(at));
    world.feed(&gone("pyrphoros"), &now(at));
    world.feed(&verdict("pyrphoros", Verdict::Online), &now(at));
}

#[test]
fn the_same_run_goes_on_with_the_deadline_and_the_mode_of_the_ups() {
    let (mut world, run) = raised();
    assert_eq!(world.state.runs.len(), 1);
    let record = world.state.run(&run).unwrap();
    assert_eq!((&record.cause, record.run.deadline), (&Cause::Person, Some(Duration::from_secs(22 + 180))));
    assert_eq!(record.raised[0].domains, [DomainName::new("pyrphoros")].into());
    assert_eq!(record.raised[0].added, [StepId::new("farewell")].into());
    assert!(has_farewell(&world, &run));
    let place = |wanted: fn(&Fact) -> bool| world.facts.iter().position(|(fact, _)| wanted(fact)).unwrap();
    assert!(place(|fact| matches!(fact, Fact::RunRaised { .. })) < place(|fact| matches!(fact, Fact::LimitsCut { .. })));
    world.feed(&Event::TimerFired, &now(23));
    assert_eq!(planned(&world).len(), 1, "the trigger is answered");
    assert_eq!(world.starts().len(), 1, "what was under way is not begun anew");
    world.feed(&finished(run.as_str(), "drain", 1, done()), &now(25));
    world.feed(&finished(run.as_str(), "stop", 1, done()), &now(26));
    assert_eq!((farewells(&world), world.state.run(&run).unwrap().run.outcome), (1, Some(Outcome::Done)));
    assert_eq!(planned(&world).len(), 1);
}

#[test]
fn it_survives_a_restart() {
    let (mut world, run) = raised();
    let mut folded = crate::control::State::default();
    for (fact, stamp) in &world.facts {
        let record = fact.record().unwrap();
        crate::control::apply(&mut folded, &Fact::decode(&record.kind, record.version, &record.payload).unwrap(), stamp);
    }
    assert_eq!(folded, world.state);
    world.feed(&recovered(), &now(30));
    assert_eq!(planned(&world).len(), 1, "answered");
    world.feed(&finished(run.as_str(), "drain", 2, done()), &now(31));
    world.feed(&finished(run.as_str(), "stop", 1, done()), &now(32));
    assert_eq!(farewells(&world), 1);
}

#[test]
fn mains_that_are_back_before_the_point_of_no_return_leave_what_the_person_asked_for() {
    let (mut world, run) = raised();
    mains_back(&mut world, 24);
    let record = world.state.run(&run).unwrap();
    assert_eq!((cancelled(&world), record.raised[0].lowered, record.run.deadline), (0, Some(now(24).wall), None));
    assert_eq!(record.run.book.title, "shut down");
    assert!(!has_farewell(&world, &run));
    // It fails again.
    world.feed(&verdict("pyrphoros", Verdict::Critical), &now(25));
    world.feed(&trigger("pyrphoros"), &now(25));
    assert_eq!(ask(&mut world, "titan-0a", &["pyrphoros"], 26), Reply::Admitted { run: run.clone() });
    assert!(has_farewell(&world, &run));
    mains_back(&mut world, 27);
    world.feed(&finished(run.as_str(), "drain", 1, done()), &now(28));
    world.feed(&finished(run.as_str(), "stop", 1, done()), &now(29));
    assert_eq!((farewells(&world), world.state.run(&run).unwrap().run.outcome), (0, Some(Outcome::Done)));
}

#[test]
fn past_the_point_of_no_return_it_is_finished_as_raised() {
    let (mut world, run) = raised();
    world.feed(&finished(run.as_str(), "drain", 1, done()), &now(23));
    mains_back(&mut world, 24);
    assert_eq!(world.state.run(&run).unwrap().raised[0].lowered, None);
    world.feed(&finished(run.as_str(), "stop", 1, done()), &now(26));
    assert_eq!(farewells(&world), 1);
}

#[test]
fn a_second_failing_domain_joins_the_first_and_both_have_to_be_back() {
    let mut world = armed(OnTrigger::HostPoweroff);
    for domain in ["pyrphoros", "statera"] {
        world.feed(&verdict(domain, Verdict::Critical), &now(20));
        world.feed(&trigger(domain), &now(20));
        assert_eq!(ask(&mut world, "titan-0a", &[domain], 21), Reply::Admitted { run: RunId::new("shutdown-1") }, "{domain}");
    }
    mains_back(&mut world, 23);
    assert_eq!(cancelled(&world), 0, "statera runs on battery still");
    world.feed(&gone("statera"), &now(24));
    world.feed(&verdict("statera", Verdict::Online), &now(24));
    assert_eq!(cancelled(&world), 1, "no person asked for it");
}

#[test]
fn what_is_being_undone_is_waited_for() {
    let mut world = armed(OnTrigger::HostPoweroff);
    let run = world.admit(stays_on("titan-0a"), &now(20));
    world.feed(&cancel(run.as_str(), true), &now(21));
    world.feed(&trigger("pyrphoros"), &now(22));
    let Reply::Refused { guards } = ask(&mut world, "titan-0a", &["pyrphoros"], 23) else { panic!("admitted") };
    assert!(guards[0].message.contains("it is being undone"), "{guards:?}");
    world.feed(&finished(run.as_str(), "drain", 1, StepResult::Cancelled { detail: String::new() }), &now(24));
    world.feed(&finished(run.as_str(), "uncordon", 1, done()), &now(25));
    assert_eq!(world.state.run(&run).unwrap().run.outcome, Some(Outcome::Cancelled));
    assert!(matches!(ask(&mut world, "titan-0a", &["pyrphoros"], 26), Reply::Admitted { .. }));
}

fn withdrawals(world: &World) -> usize {
    world.orders.iter().filter(|order| matches!(order, Order::WithdrawOutlets { .. })).count()
}

#[test]
fn the_shutdown_hook_is_left_with_its_word_only_where_this_host_goes() {
    // (seconds that are left once the outlets were prepared, withdrawn)
    for (left, withdrawn) in [(100, 0), (0, 1)] {
        let mut world = armed(OnTrigger::HostPoweroff);
        let mut book = book("titan-db");
        let cut = Step::CutOutlets { upses: [UpsName::new("pyrphoros@localhost")].into() };
        book.phases[2].steps.insert(0, crate::runbook::PlannedStep::act("outlets.cut", "cut", cut, Duration::from_secs(60)));
        let run = world.admit(book, &now(20)).to_string();
        world.feed(&finished(&run, "drain", 1, done()), &now(25));
        world.feed(&finished(&run, "stop", 1, done()), &now(26));
        let within = Duration::from_secs(10 + left);
        world.state.runs.iter_mut().for_each(|record| {
            std::sync::Arc::make_mut(record).run.deadline = Some(Duration::from_secs(26) + within);
        });
        world.feed(&finished(&run, "outlets.cut", 1, done()), &now(36));
        assert_eq!((withdrawals(&world), farewells(&world) + withdrawals(&world)), (withdrawn, 1), "{left} s left");
        world.feed(&recovered(), &now(37));
        assert_eq!(withdrawals(&world), 2 * withdrawn, "asked again where metisd stopped before it was done");
    }
}
