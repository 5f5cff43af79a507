//! Repairs: recorded before they are done, once per cause and run, whatever dies in between.

use super::support::*;
use crate::control::{Event, Fact, RepairEnd, Reply, Request, fold};
use crate::journal::Stored;
use crate::site::{ObjectRef, Repair, RepairCase, RunId, StepId};

fn case(uid: &str) -> RepairCase {
    RepairCase::of(Repair::ImmutableJob, &ObjectRef::new("Job", "apps", "migrate"), uid)
}

fn begin(run: &RunId, uid: &str) -> Event {
    Event::Asked(Request::BeginRepair { run: run.clone(), step: StepId::new("image.stream"), case: case(uid) })
}

fn end(run: &RunId, uid: &str, done: bool) -> Event {
    let end = RepairEnd { done, detail: "Job/apps/migrate was deleted".into() };
    Event::Asked(Request::EndRepair { run: run.clone(), step: StepId::new("image.stream"), case: case(uid), end })
}

fn refused(reply: Option<Reply>) -> bool {
    matches!(reply, Some(Reply::Refused { guards }) if guards[0].name == "repair.used")
}

#[test]
fn a_cause_is_used_once_in_a_run_and_another_uid_is_another_cause() {
    let mut world = World::started();
    let run = world.admit(simple("startup"), &now(11));
    assert_eq!(world.feed(&end(&run, "a", true), &now(11)), Some(Reply::NoSuchRun), "nothing ends that was not begun");
    assert_eq!(world.feed(&begin(&run, "a"), &now(12)), Some(Reply::Noted));
    assert_eq!(world.feed(&end(&run, "a", true), &now(13)), Some(Reply::Noted));
    assert!(refused(world.feed(&begin(&run, "a"), &now(14))));
    assert_eq!(world.feed(&begin(&run, "b"), &now(15)), Some(Reply::Noted));
    assert_eq!(world.feed(&end(&run, "b", false), &now(16)), Some(Reply::Noted));
    assert!(refused(world.feed(&begin(&run, "b"), &now(17))), "what was refused is not asked for again");
    let record = world.state.run(&run).unwrap();
    let ended: Vec<_> = record.repairs.iter().map(|known| known.ended.as_ref().map(|end| end.done)).collect();
    assert_eq!(ended, [Some(true), Some(false)]);
    let told = &record.run.state(&StepId::new("image.stream")).unwrap().milestones;
    assert!(told[1].contains("repair immutable-job done: Job/apps/migrate was deleted"), "{told:?}");
    world.feed(&finished("startup-1", "image.stream", 1, done()), &now(18));
    let after = world.admit(simple("startup"), &now(18));
    assert_eq!(world.feed(&begin(&after, "a"), &now(19)), Some(Reply::Noted), "another run begins anew");
    assert_eq!(world.feed(&begin(&RunId::new("startup-9"), "a"), &now(20)), Some(Reply::NoSuchRun));
}

#[test]
fn after_a_crash_at_any_fact_the_cause_is_known_and_only_what_was_cut_off_may_go_on() {
    let mut world = World::started();
    let run = world.admit(simple("startup"), &now(11));
    world.feed(&begin(&run, "a"), &now(12));
    world.feed(&end(&run, "a", true), &now(13));
    let rows: Vec<Stored> = world
        .facts
        .iter()
        .map(|(fact, stamp)| {
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
        })
        .collect();
    let begun = world.facts.iter().position(|(fact, _)| matches!(fact, Fact::RepairBegun { .. })).unwrap();
    for facts in begun..=rows.len() {
        let (state, problems) = fold(None, &rows[..facts]);
        assert_eq!(problems, Vec::<String>::new());
        let mut next = World { state, ..World::default() };
        next.feed(&recovered(), &now(20));
        let known: Vec<_> = next.state.run(&run).unwrap().repairs.iter().map(|known| known.ended.is_some()).collect();
        let reply = next.feed(&begin(&run, "a"), &now(21));
        match known[..] {
            [] | [false] => assert_eq!(reply, Some(Reply::Noted), "after {facts} facts: looked at first, then done"),
            [true] => assert!(refused(reply), "after {facts} facts"),
            _ => panic!("{known:?}"),
        }
        assert_eq!(next.state.run(&run).unwrap().repairs.len(), 1, "one record, however often it is begun");
    }
}
