//! Two plans made into one.

use proptest::prelude::*;

use super::laws::{any_facts, any_order, any_settings, any_topology};
use super::*;
use crate::runbook::{Mode, Run, Status};

const BOTH: [&str; 2] = ["pyrphoros", "statera"];

/// As failing UPSes ask for it.
fn emergency(mode: ShutdownMode, domains: &[&str]) -> ShutdownOrder {
    let domains: BTreeSet<_> = domains.iter().map(|domain| DomainName::from(*domain)).collect();
    ShutdownOrder { cause: Cause::Ups { domains: domains.clone() }, domains: Some(domains), cut_outlets: true, ..order(mode) }
}

fn run_of(order: &ShutdownOrder) -> Run<Step> {
    Run::new(planned(&etcd(), &site(), &facts(), order))
}

/// Steps of these phases have begun, and ended but for those of the last one.
fn walk(run: &mut Run<Step>, phases: usize) {
    let begun: Vec<_> =
        run.book.phases.iter().take(phases).map(|phase| phase.steps.iter().map(|step| step.id.clone()).collect::<Vec<_>>()).collect();
    for (at, ids) in begun.iter().enumerate() {
        for id in ids {
            let at_time = jiff::Timestamp::UNIX_EPOCH;
            run.started(id, Mode::Act, 1, secs(60), secs(0), at_time);
            if at + 1 < phases {
                run.settled(id, Status::Done, "", secs(1), at_time);
            }
        }
    }
}

fn ids(book: &Runbook<Step>) -> BTreeSet<String> {
    book.phases.iter().flat_map(|phase| &phase.steps).map(|step| step.id.to_string()).collect()
}

#[test]
fn a_stop_of_the_cluster_is_raised_to_what_the_ups_would_have_done() {
    let more = planned(&etcd(), &site(), &facts(), &emergency(ShutdownMode::HostPoweroff, &BOTH));
    let run = run_of(&order(ShutdownMode::ClusterOnly));
    let both = join(&run, &more);
    assert_eq!(shape(&both.phases), shape(&more.phases));
    assert_eq!(shape(&both.unwind), shape(&more.unwind));
    assert_eq!((both.title.as_str(), both.tail), ("stop the cluster and power off 7 hosts", more.tail));
    assert_eq!(step(&both, "drain.titan-13").limit.ceiling, secs(45), "the emergency timeout");
    assert_eq!(both.abort_grace, more.abort_grace);
}

#[test]
fn what_a_person_left_out_stays_left_out_and_what_he_wants_beyond_stays_in() {
    let person = ShutdownOrder { skip_drain: true, skip_etcd_snapshot: true, ..order(ShutdownMode::ClusterOnly) };
    let more = planned(&etcd(), &site(), &facts(), &emergency(ShutdownMode::HostPoweroff, &BOTH));
    let both = join(&run_of(&person), &more);
    assert!(both.step(&"etcd.snapshot".into()).is_none() && both.step(&"volumes.detached".into()).is_none());
    assert!(matches!(step(&both, "drain.titan-13").action, Step::Drain { cordon_only: true, .. }));
    assert!(both.step(&"poweroff.titan-db".into()).is_some() && both.step(&"outlets.cut".into()).is_some());

    let more = planned(&etcd(), &site(), &facts(), &emergency(ShutdownMode::ClusterOnly, &["statera"]));
    let both = join(&run_of(&order(ShutdownMode::HostPoweroff)), &more);
    assert_eq!(both.title, "stop the cluster and power off 7 hosts");
    assert!(both.step(&"poweroff.titan-13".into()).is_some());
}

#[test]
fn a_partial_outage_that_becomes_a_whole_one_goes_back_for_the_others() {
    let mut run = run_of(&emergency(ShutdownMode::HostPoweroff, &["statera"]));
    walk(&mut run, 4);
    assert!(matches!(run.status(&"stop.titan-24".into()), Status::Running { .. }));
    let more = planned(&etcd(), &site(), &facts(), &emergency(ShutdownMode::HostPoweroff, &["pyrphoros"]));
    run.joined(join(&run, &more));
    let expected = ids(&more).into_iter().chain(["volumes.detached.2".to_owned(), "poweroff.titan-24".to_owned()]).collect::<BTreeSet<_>>();
    assert_eq!(ids(&run.book), expected);
    assert_eq!(run.status(&"drain.titan-24".into()), Status::Done, "once is enough");
    let Step::AwaitDetach { nodes } = &step(&run.book, "volumes.detached.2").action else { panic!() };
    assert_eq!(nodes.iter().map(NodeName::as_str).collect::<Vec<_>>(), ["titan-13", "titan-15"]);
    assert_eq!(run.phase().map(|phase| phase.name.as_str()), Some("suspend Flux"), "what comes first for them comes first");
}

#[test]
fn once_a_server_is_being_stopped_nothing_is_asked_of_the_cluster_any_more() {
    let mut topology = site();
    topology.hosts.get_mut(&NodeName::new("titan-0a")).unwrap().domains = BTreeSet::from(["statera".into()]);
    let mut run = Run::new(planned(&etcd(), &topology, &facts(), &emergency(ShutdownMode::HostPoweroff, &["statera"])));
    walk(&mut run, 5);
    assert!(matches!(run.status(&"stop.titan-0a".into()), Status::Running { .. }), "{:?}", shape(&run.book.phases));
    let more = planned(&etcd(), &topology, &facts(), &emergency(ShutdownMode::HostPoweroff, &["pyrphoros"]));
    let both = join(&run, &more);
    let ids = ids(&both);
    for absent in ["flux.suspend", "etcd.snapshot", "drain.titan-13", "volumes.detached.2"] {
        assert!(!ids.contains(absent), "{absent}: {ids:?}");
    }
    assert!(ids.contains("stop.titan-13") && ids.contains("stop.titan-0b") && ids.contains("poweroff.titan-db"), "{ids:?}");
}

#[test]
fn a_host_behind_its_kubelet_is_powered_off_in_time() {
    let mut topology = site();
    topology.hosts.get_mut(&NodeName::new("titan-13")).unwrap().access = Access::HelperPod;
    let more = planned(&etcd(), &topology, &facts(), &emergency(ShutdownMode::HostPoweroff, &BOTH));
    for (walked, stops) in [(5, false), (6, true)] {
        let mut run = Run::new(planned(&etcd(), &topology, &facts(), &order(ShutdownMode::ClusterOnly)));
        walk(&mut run, walked);
        let ids = ids(&join(&run, &more));
        assert!(ids.contains("poweroff.titan-13"), "{ids:?}");
        assert_eq!(ids.contains("stop.titan-13"), stops, "phases begun: {walked}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_join(
        settings in any_settings(), topology in any_topology(), facts in any_facts(), first in any_order(), second in any_order(), walked in 0..9_usize,
    ) {
        let mut run = Run::new(planned(&settings, &topology, &facts, &first));
        walk(&mut run, walked);
        let more = planned(&settings, &topology, &facts, &second);
        let both = join(&run, &more);

        let all: Vec<_> = both.steps().map(|step| step.id.as_str()).collect();
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "ids stand twice: {:?}", all);
        let names: Vec<_> = both.phases.iter().map(|phase| phase.name.as_str()).collect();
        prop_assert!(phase_name::FORTH.iter().filter(|name| names.contains(name)).eq(names.iter()), "{:?}", names);
        prop_assert!(both.phases.iter().chain(&both.unwind).all(|phase| !phase.steps.is_empty()));

        // What has begun stays what it is; every stop and power-off that one of them wants is there.
        for step in run.book.steps() {
            let begun = run.state(&step.id).is_some_and(|state| state.started.is_some());
            let same = both.step(&step.id).is_some_and(|joined| joined.action == step.action);
            prop_assert!(!begun || same, "{} was lost", step.id);
        }
        let ends = |step: &Step| matches!(step, Step::PowerOff { .. } | Step::PowerOffThisHost { .. } | Step::SetFsd { .. } | Step::CutOutlets { .. });
        for step in run.book.steps().chain(more.steps()).filter(|step| ends(&step.action)) {
            prop_assert!(both.step(&step.id).is_some(), "{} was lost", step.id);
        }
        for step in run.book.steps().chain(more.steps()) {
            let Step::StopK3s { node, .. } = &step.action else { continue };
            let off = both.step(&StepId::new(format!("poweroff.{node}"))).is_some();
            prop_assert!(both.step(&step.id).is_some() || off, "{node} goes on");
        }
        // This host is the last one, and what cannot be undone still commits.
        let last = both.phases.last().and_then(|phase| phase.steps.last());
        let own_end = both.steps().find(|step| matches!(step.action, Step::PowerOffThisHost { .. }));
        prop_assert!(own_end.is_none_or(|own| last.is_some_and(|last| last.id == own.id)));
        for step in both.phases.iter().flat_map(|phase| &phase.steps).filter(|step| ends(&step.action)) {
            prop_assert!(step.commits, "{}", step.id);
        }
        // No step takes longer than either plan allows.
        for step in more.steps() {
            prop_assert!(both.step(&step.id).is_none_or(|joined| joined.limit.ceiling <= step.limit.ceiling), "{}", step.id);
        }
        // Joined once more it stays as it is.
        run.joined(both.clone());
        let again = join(&run, &more);
        prop_assert_eq!(shape(&again.phases), shape(&both.phases));
    }
}
