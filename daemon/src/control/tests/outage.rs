//! What an armed metis decides while the power fails and when it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::support::{World, cancel, done, finished, now, recovered, simple};
use crate::control::{Event, Fact, Order, Reply, Request};
use crate::runbook::{Outcome, Phase, PlannedStep, Runbook, Status};
use crate::site::{Cause, Change, Claim, DomainName, K3sRole, NodeName, ObjectRef, OnTrigger, RunId, Step, StepId, Verdict};

pub(super) fn armed(mode: OnTrigger) -> World {
    let mut world = World::started();
    let reply = world.feed(&Event::Asked(Request::Arm { requester: "ada".into(), mode }), &now(11));
    assert_eq!(reply, Some(Reply::Noted));
    world
}

pub(super) fn trigger(domain: &str) -> Event {
    let (domain, because) = (DomainName::new(domain), "runtime 200 s".to_owned());
    Event::Trigger { domain, because, budget: Duration::from_secs(300), runtime: Some(Duration::from_secs(200)) }
}

pub(super) fn verdict(domain: &str, verdict: Verdict) -> Event {
    Event::DomainVerdict { domain: DomainName::new(domain), verdict, reason: "as read".to_owned() }
}

pub(super) fn gone(domain: &str) -> Event {
    Event::TriggerGone { domain: DomainName::new(domain), because: "OL".to_owned() }
}

/// Drains, stops the server (no return), says farewell; undone by uncordoning.
pub(super) fn book(node: &str) -> Runbook<Step> {
    let (node, minute) = (NodeName::new(node), Duration::from_secs(60));
    let drain = PlannedStep::act("drain", "drain", Step::Drain { node: node.clone(), cordon_only: false }, minute);
    let stop = Step::StopK3s { node: node.clone(), role: K3sRole::Server };
    let stop = PlannedStep { commits: true, ..PlannedStep::act("stop", "stop", stop, minute) };
    let farewell = Step::PowerOffThisHost { node: node.clone(), delay: Duration::from_secs(5) };
    let phases = vec![
        Phase::serial("drain", vec![drain]),
        Phase::serial("stop servers", vec![stop]),
        Phase::serial("power off this host", vec![PlannedStep::act("farewell", "power off", farewell, minute)]),
    ];
    let uncordon = PlannedStep::act("uncordon", "uncordon", Step::Uncordon { node }, minute);
    Runbook { unwind: vec![Phase::serial("uncordon", vec![uncordon])], ..Runbook::new("shutdown", "shut down", phases) }
}

pub(super) fn ask(world: &mut World, node: &str, domains: &[&str], at: u64) -> Reply {
    let cause = Cause::Ups { domains: domains.iter().map(|name| DomainName::new(*name)).collect() };
    let within = Some(Duration::from_secs(180));
    world.feed(&Event::Asked(Request::Admit { requester: "metis".into(), runbook: book(node), cause, within }), &now(at)).unwrap()
}

pub(super) fn planned(world: &World) -> Vec<BTreeSet<DomainName>> {
    let plans = world.orders.iter().filter_map(|order| match order {
        Order::PlanShutdown { domains, .. } => Some(domains.clone()),
        _ => None,
    });
    plans.collect()
}

pub(super) fn farewells(world: &World) -> usize {
    world.orders.iter().filter(|order| matches!(order, Order::PowerOffThisHost { .. })).count()
}

pub(super) fn farewell(run: &str, trouble: Option<&str>) -> Event {
    Event::Asked(Request::Farewell { run: RunId::new(run), trouble: trouble.map(ToOwned::to_owned) })
}

pub(super) fn cancelled(world: &World) -> usize {
    world.facts.iter().filter(|(fact, _)| matches!(fact, Fact::CancelRequested { .. })).count()
}

#[test]
fn a_trigger_wants_a_shutdown_only_while_armed() {
    let mut disarmed = World::started();
    disarmed.feed(&trigger("pyrphoros"), &now(20));
    assert_eq!(planned(&disarmed).len(), 0);

    let mut world = armed(OnTrigger::HostPoweroff);
    world.feed(&trigger("pyrphoros"), &now(20));
    world.feed(&trigger("pyrphoros"), &now(22));
    assert_eq!(planned(&world), [BTreeSet::from([DomainName::new("pyrphoros")])], "once");
    world.feed(&Event::Asked(Request::Disarm { requester: "ada".into() }), &now(30));
    assert_eq!(world.state.on_trigger(), OnTrigger::Observe);
}

#[test]
fn arming_is_refused_while_it_would_stop_the_site_at_once() {
    let mut world = World::started();
    world.feed(&trigger("pyrphoros"), &now(20));
    let reply = world.feed(&Event::Asked(Request::Arm { requester: "ada".into(), mode: OnTrigger::ClusterOnly }), &now(21));
    assert!(matches!(reply, Some(Reply::Refused { guards }) if guards[0].name == "power.critical"));
    assert_eq!(world.state.armed, None);
}

#[test]
fn a_restart_asks_again_until_a_shutdown_has_begun() {
    let mut world = armed(OnTrigger::ClusterOnly);
    world.feed(&trigger("pyrphoros"), &now(20));
    world.feed(&recovered(), &now(30));
    assert_eq!(planned(&world).len(), 2);
    assert!(matches!(ask(&mut world, "titan-0a", &["pyrphoros"], 31), Reply::Admitted { .. }));
    world.feed(&recovered(), &now(32));
    assert_eq!(planned(&world).len(), 2, "it was answered");
}

#[test]
fn mains_that_return_undo_it_before_the_point_of_no_return_only() {
    // (steps that are done, a person's cancel is possible, undone)
    for (steps, undone) in [(0, true), (1, false)] {
        let mut world = armed(OnTrigger::HostPoweroff);
        world.feed(&verdict("pyrphoros", Verdict::Critical), &now(19));
        world.feed(&trigger("pyrphoros"), &now(20));
        ask(&mut world, "titan-0a", &["pyrphoros"], 21);
        let run = world.state.runs[0].id.to_string();
        if steps == 1 {
            world.feed(&finished(&run, "drain", 1, done()), &now(25));
        }
        world.feed(&verdict("pyrphoros", Verdict::OnBattery), &now(26));
        world.feed(&gone("pyrphoros"), &now(27));
        assert_eq!(cancelled(&world), 0, "it runs on battery still");
        world.feed(&verdict("pyrphoros", Verdict::Online), &now(28));
        assert_eq!(cancelled(&world) == 1, undone, "{steps} steps done");
        let reply = world.feed(&cancel(&run, true), &now(29));
        assert!(matches!(reply, Some(Reply::Cancel { cancelled, .. }) if cancelled == undone), "{steps} steps done");
    }
}

#[test]
fn a_person_who_shuts_down_is_not_overruled_by_the_mains() {
    let mut world = armed(OnTrigger::HostPoweroff);
    world.admit(book("titan-0a"), &now(20));
    world.feed(&verdict("pyrphoros", Verdict::OnBattery), &now(21));
    world.feed(&verdict("pyrphoros", Verdict::Online), &now(22));
    assert_eq!(cancelled(&world), 0);
}

#[test]
fn the_end_is_recorded_before_this_host_is_powered_off_and_once() {
    let mut world = armed(OnTrigger::HostPoweroff);
    let run = world.admit(book("titan-db"), &now(20)).to_string();
    world.feed(&finished(&run, "drain", 1, done()), &now(25));
    assert_eq!(farewells(&world), 0);
    world.feed(&finished(&run, "stop", 1, done()), &now(26));
    assert_eq!(farewells(&world), 1);
    world.feed(&farewell(&run, None), &now(26));
    let place = |wanted: fn(&Fact) -> bool| world.facts.iter().position(|(fact, _)| wanted(fact)).unwrap();
    assert!(place(|fact| matches!(fact, Fact::RunEnded { .. })) < place(|fact| matches!(fact, Fact::FarewellOrdered { .. })));
    let record = world.state.run(&RunId::new(run.as_str())).unwrap();
    assert_eq!((record.run.outcome, record.run.status(&StepId::new("farewell"))), (Some(Outcome::Done), Status::Done));
    assert!(!world.starts().iter().any(|(_, step)| step == "farewell"));
    world.feed(&recovered(), &now(27));
    assert_eq!(farewells(&world), 1, "it took the order before metisd stopped");
}

/// Hours later somebody restarts metisd: the host must not go off under him.
#[test]
fn a_farewell_that_was_given_up_is_not_ordered_again() {
    let mut world = armed(OnTrigger::HostPoweroff);
    let run = world.admit(book("titan-db"), &now(20)).to_string();
    world.feed(&finished(&run, "drain", 1, done()), &now(25));
    world.feed(&finished(&run, "stop", 1, done()), &now(26));
    world.feed(&farewell(&run, Some("no answer from logind")), &now(40));
    world.feed(&recovered(), &now(7200));
    assert_eq!(farewells(&world), 1);
    let told = world.facts.iter().find(|(fact, _)| matches!(fact, Fact::FarewellOrdered { .. })).map(|(fact, _)| fact.message());
    assert_eq!(told.as_deref(), Some("recorded; this host stays on, it did not take the order to power off: no answer from logind"));
}

/// Between the record of the end and the report there is a moment.
#[test]
fn a_shutdown_that_ended_is_reported_again_by_the_next_metisd() {
    let reports = |world: &World| {
        let ended = world.orders.iter().filter_map(|order| if let Order::Ended { run } = order { Some(run.to_string()) } else { None });
        ended.collect::<Vec<_>>()
    };
    let mut world = armed(OnTrigger::HostPoweroff);
    world.admit(simple("image"), &now(12));
    world.feed(&finished("image-1", "image.stream", 1, done()), &now(13));
    for (number, at) in [(2, 20), (3, 30)] {
        let run = world.admit(book("titan-db"), &now(at)).to_string();
        assert_eq!(run, format!("shutdown-{number}"));
        world.orders.clear();
        world.feed(&recovered(), &now(at + 1));
        assert_eq!(reports(&world), Vec::<String>::new(), "it goes on");
        world.feed(&finished(&run, "drain", 2, done()), &now(at + 2));
        world.feed(&finished(&run, "stop", 1, done()), &now(at + 3));
        assert_eq!(reports(&world), [run.as_str()]);
        for boot in ["boot-a", "boot-b"] {
            world.orders.clear();
            world.feed(&recovered(), &crate::site::Now { boot_id: boot.into(), ..now(at + 4) });
            assert_eq!(reports(&world), [run.as_str()], "in {boot}");
        }
    }
}

/// What an earlier run did to an object and others have undone does not keep a later one from undoing its own.
#[test]
fn a_claim_passes_to_the_run_that_changes_the_object_again() {
    let mut world = World::started();
    let object = ObjectRef::new("Kustomization", "flux-system", "core");
    let claims = vec![Claim { object, change: Change::Suspended, expires: None }];
    for at in [20, 30] {
        let run = world.admit(book("titan-0a"), &now(at));
        let step = StepId::new("drain");
        let reply = world.feed(&Event::Asked(Request::Claim { run: run.clone(), step, claims: claims.clone() }), &now(at + 1));
        assert_eq!(reply, Some(Reply::Noted));
        assert_eq!(world.state.claims_of(&run).count(), 1);
        assert_eq!(world.state.claims.len(), 1);
        world.feed(&finished(run.as_str(), "drain", 1, done()), &now(at + 2));
        world.feed(&finished(run.as_str(), "stop", 1, done()), &now(at + 3));
    }
}

#[test]
fn a_farewell_that_was_not_ordered_is_ordered_by_the_next_metisd_of_the_boot() {
    let mut world = armed(OnTrigger::HostPoweroff);
    let run = world.admit(book("titan-db"), &now(20)).to_string();
    world.feed(&finished(&run, "drain", 1, done()), &now(25));
    world.feed(&finished(&run, "stop", 1, done()), &now(26));
    world.state.farewell = None;
    world.orders.clear();
    world.feed(&recovered(), &now(27));
    assert_eq!(farewells(&world), 1);
    let mut later = now(40);
    later.boot_id = "boot-b".into();
    world.state.farewell = None;
    world.orders.clear();
    world.feed(&recovered(), &later);
    assert_eq!(farewells(&world), 0, "another boot: it did power off");
}

#[test]
fn what_is_claimed_is_held_until_it_is_released() {
    let mut world = World::started();
    let run = world.admit(book("titan-0a"), &now(20));
    let object = ObjectRef::new("Kustomization", "flux-system", "core");
    let claim = Claim { object: object.clone(), change: Change::Suspended, expires: None };
    for _ in 0..2 {
        let (run, step) = (run.clone(), StepId::new("drain"));
        let reply = world.feed(&Event::Asked(Request::Claim { run, step, claims: vec![claim.clone()] }), &now(21));
        assert_eq!(reply, Some(Reply::Noted));
    }
    assert_eq!(world.state.claims_of(&run).count(), 1);
    let release = Request::Release { run: run.clone(), objects: vec![object], because: "resumed".into() };
    world.feed(&Event::Asked(release), &now(22));
    assert_eq!(world.state.claims.len(), 0);
    let unknown = Request::Claim { run: RunId::new("shutdown-9"), step: StepId::new("drain"), claims: vec![claim] };
    assert_eq!(world.feed(&Event::Asked(unknown), &now(23)), Some(Reply::NoSuchRun));
}

#[test]
fn the_time_that_is_left_is_shared_out_anew_when_it_is_about_another() {
    let mut world = armed(OnTrigger::HostPoweroff);
    world.feed(&trigger("pyrphoros"), &now(20));
    ask(&mut world, "titan-0a", &["pyrphoros"], 20);
    let cuts = |world: &World| world.facts.iter().filter(|(fact, _)| matches!(fact, Fact::LimitsCut { .. })).count();
    assert_eq!(cuts(&world), 1, "at once");
    let left = |domain: &str, seconds| Event::Runtime { left: BTreeMap::from([(DomainName::new(domain), Duration::from_secs(seconds))]) };
    for (event, at, expected) in [
        (left("pyrphoros", 178), 22, 1),
        (left("statera", 10), 23, 1),
        (left("pyrphoros", 120), 24, 2),
        (left("pyrphoros", 118), 26, 2),
        (left("pyrphoros", 170), 28, 3),
    ] {
        world.feed(&event, &now(at));
        assert_eq!(cuts(&world), expected, "at {at}");
    }
    let run = &world.state.runs[0].run;
    assert_eq!(run.deadline, Some(Duration::from_secs(198)));
    assert!(run.state(&StepId::new("drain")).unwrap().deadline.unwrap() <= Duration::from_secs(144), "never later");
}

#[test]
fn shutdowns_of_other_hosts_go_side_by_side() {
    let mut world = armed(OnTrigger::HostPoweroff);
    world.feed(&trigger("pyrphoros"), &now(20));
    assert!(matches!(ask(&mut world, "titan-13", &["pyrphoros"], 21), Reply::Admitted { .. }));
    world.feed(&trigger("statera"), &now(22));
    assert!(matches!(ask(&mut world, "titan-24", &["statera"], 24), Reply::Admitted { .. }));
    assert_eq!(world.state.active().count(), 2);
    assert!(world.state.runs.iter().all(|record| record.raised.is_empty()));
}

#[test]
fn a_cancellation_says_what_it_undoes_and_past_the_point_of_no_return_that_it_cannot() {
    let mut world = World::started();
    assert_eq!(ask(&mut world, "titan-13", &[], 20), Reply::Admitted { run: RunId::new("shutdown-1") });
    let claim = Claim { object: ObjectRef::new("Node", "", "titan-13"), change: Change::Cordoned, expires: None };
    let (run, step) = (RunId::new("shutdown-1"), StepId::new("drain"));
    world.feed(&Event::Asked(Request::Claim { run, step, claims: vec![claim] }), &now(21));
    let Some(Reply::Cancel { consequences, cancelled: false }) = world.feed(&cancel("shutdown-1", false), &now(22)) else { panic!() };
    let expected = ["drain: is ended where it is", "stop: is not begun", "power off: is not begun", "uncordoned: Node/titan-13"];
    assert_eq!(consequences, expected);

    world.feed(&finished("shutdown-1", "drain", 1, done()), &now(30));
    let Some(Reply::Cancel { consequences, cancelled: false }) = world.feed(&cancel("shutdown-1", true), &now(31)) else { panic!() };
    assert!(consequences[0].contains("past its point of no return"), "{consequences:?}");
    assert_eq!(cancelled(&world), 0);
}

fn this_host(world: &mut World, goes_down: bool, at: u64) {
    assert_eq!(world.feed(&Event::Asked(Request::ThisHost { goes_down }), &now(at)), Some(Reply::Noted));
}

fn last(world: &World) -> &Fact {
    &world.facts.last().unwrap().0
}

#[test]
fn somebody_elses_shutdown_of_this_host_is_recorded_once_and_stops_nothing() {
    let mut world = armed(OnTrigger::HostPoweroff);
    let facts = world.facts.len();
    this_host(&mut world, false, 20);
    assert_eq!(world.facts.len(), facts, "it was never said to go down");
    this_host(&mut world, true, 21);
    this_host(&mut world, true, 22);
    assert_eq!((world.facts.len(), last(&world)), (facts + 1, &Fact::HostGoesDown { by: None, runs: Vec::new() }));
    assert!(world.orders.is_empty(), "{:?}", world.orders);
    assert_eq!(world.state.going_down.as_ref().map(|going| going.by.clone()), Some(None));

    // A card would be left half written; the site may still have to be stopped.
    let burn = world.feed(&super::support::admit(super::support::burn("/dev/sdz", 1)), &now(23));
    assert!(matches!(&burn, Some(Reply::Refused { guards }) if guards[0].name == "host.goes-down"), "{burn:?}");
    assert!(matches!(ask(&mut world, "titan-0a", &["pyrphoros"], 24), Reply::Admitted { .. }));

    this_host(&mut world, false, 25);
    assert_eq!((last(&world), world.state.going_down.is_none()), (&Fact::HostStays, true));
}

#[test]
fn what_is_under_way_is_named_and_the_next_boot_begins_anew() {
    let mut world = armed(OnTrigger::HostPoweroff);
    let Reply::Admitted { run } = ask(&mut world, "titan-0a", &["pyrphoros"], 20) else { panic!("not admitted") };
    this_host(&mut world, true, 21);
    assert_eq!(last(&world), &Fact::HostGoesDown { by: None, runs: vec![run.clone()] });
    assert!(world.state.run(&run).unwrap().run.outcome.is_none(), "it goes on");
    // metisd is started again in the same boot, and then in another.
    world.feed(&recovered(), &now(30));
    assert!(world.state.going_down.is_some());
    let next = crate::site::Now { boot_id: crate::site::BootId::new("boot-b"), ..now(40) };
    world.feed(&recovered(), &next);
    assert!(world.state.going_down.is_none());
}

#[test]
fn the_end_that_a_run_ordered_is_told_from_that_of_somebody_else() {
    let mut world = armed(OnTrigger::HostPoweroff);
    let Reply::Admitted { run } = ask(&mut world, "titan-0a", &["pyrphoros"], 20) else { panic!("not admitted") };
    for (at, step) in [(21, "drain"), (22, "stop")] {
        world.feed(&finished(run.as_str(), step, 1, done()), &now(at));
    }
    // It may be heard of before it is recorded that the order was taken.
    assert_eq!(world.state.farewell, None);
    this_host(&mut world, true, 30);
    assert_eq!(last(&world), &Fact::HostGoesDown { by: Some(run.clone()), runs: Vec::new() });
    assert_eq!(last(&world).message(), format!("this host goes down, as {run} ordered"));
    // Of an earlier boot it says nothing.
    this_host(&mut world, false, 31);
    let next = crate::site::Now { boot_id: crate::site::BootId::new("boot-b"), ..now(40) };
    world.feed(&Event::Asked(Request::ThisHost { goes_down: true }), &next);
    assert_eq!(last(&world), &Fact::HostGoesDown { by: None, runs: Vec::new() });
}
