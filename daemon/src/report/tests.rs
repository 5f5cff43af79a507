use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::story::words;
use super::*;
use crate::runbook::{Mode, OnFailure, Runbook};
use crate::site::{Change, Claim, DomainName, K3sRole, ObjectRef, Returns, StepId, Topology};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn run() -> Run<Step> {
    let step = |id: &str, title: &str| {
        let action = Step::StreamImage { target: "x.img".into() };
        PlannedStep { predicted: Duration::from_secs(30), ..PlannedStep::act(id, title, action, Duration::from_secs(60)) }
    };
    let phases = vec![
        Phase::serial("image", vec![step("image.fetch", "fetch the image")]),
        Phase::serial("card", vec![step("card.prepare", "prepare the card"), step("card.write", "write the card")]),
    ];
    Run::new(Runbook { warnings: vec!["the card is small".into()], ..Runbook::new("burn", "burn titan-13 to /dev/sdz", phases) })
}

fn walk(run: &mut Run<Step>, step: &str, attempt: u32, from: i64, to: i64, status: Status, detail: &str) {
    let id = StepId::new(step);
    let boot = Duration::from_secs(from.unsigned_abs());
    run.started(&id, Mode::Act, attempt, boot, boot, at(from));
    run.settled(&id, status, detail, boot, at(to));
}

/// Nothing changed, no host off.
fn nothing() -> Aftermath<'static> {
    static TOPOLOGY: LazyLock<Topology> = LazyLock::new(Topology::default);
    static ONLINE: BTreeSet<DomainName> = BTreeSet::new();
    Aftermath { topology: &TOPOLOGY, online: &ONLINE, claims: &[] }
}

fn reported(run: &Run<Step>, ended: i64, reason: &str) -> Report {
    report(&Subject {
        id: &RunId::new("burn-17"),
        run,
        requester: "ada (uid 1000)",
        cause: &Cause::Person,
        trigger: None,
        settings: &SettingsDigest::new("d1"),
        boot_id: &BootId::new("b"),
        started: at(0),
        ended: at(ended),
        ended_boot: None,
        reason,
        locks: &[],
        after: nothing(),
        raised: &[],
    })
}

#[test]
fn a_run_that_is_done() {
    let mut run = run();
    walk(&mut run, "image.fetch", 1, 1, 13, Status::Done, "from the cache");
    walk(&mut run, "card.prepare", 1, 13, 20, Status::Done, "");
    walk(&mut run, "card.write", 2, 20, 272, Status::Done, "");
    run.finished(Outcome::Done);
    let report = reported(&run, 272, "");
    assert_eq!(
        report.story(),
        "burn-17: burn titan-13 to /dev/sdz, asked for by ada (uid 1000): done after 4 min 32 s. Time line: fetch the image 12 s, prepare \
         the card 7 s, write the card 4 min 12 s (2 attempts)."
    );
    assert_eq!(report.phases[1].span, Some(Span::new(at(13), at(272))));
    assert_eq!(report.phases[0].steps[0].detail, "from the cache");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["phases"][1]["steps"][1]["span"]["seconds"], 252);
    assert_eq!(
        (&json["outcome"], &json["settings_digest"], &json["warnings"][0]),
        (&"done".into(), &"d1".into(), &"the card is small".into())
    );
}

#[test]
fn a_run_that_failed_says_where_and_what_never_began() {
    let mut run = run();
    walk(&mut run, "image.fetch", 1, 1, 4, Status::Failed, "404");
    run.finished(Outcome::Failed);
    let report = reported(&run, 4, "fetch the image: 404");
    assert_eq!(
        report.story(),
        "burn-17: burn titan-13 to /dev/sdz, asked for by ada (uid 1000): failed after 4 s: fetch the image: 404. Time line: fetch the image \
         3 s (failed). Never begun: prepare the card, write the card."
    );
    assert_eq!(report.phases[1].span, None);
}

#[test]
fn a_clock_that_was_set_back_makes_no_negative_times() {
    assert_eq!(Span::new(at(100), at(40)).seconds, 0);
    assert_eq!(words(2 * 3600 + 3 * 60 + 59), "2 h 03 min");
}

/// A shutdown of two workers and a server, 100 s long at most, begun by a UPS.
#[test]
fn what_is_done_without_a_time_of_its_own_is_not_told_as_never_begun() {
    let mut run = run();
    walk(&mut run, "image.fetch", 1, 1, 13, Status::Done, "");
    walk(&mut run, "card.prepare", 1, 13, 20, Status::Done, "");
    run.settled(&"card.write".into(), Status::Done, "ordered once this run is recorded", Duration::from_secs(20), at(20));
    run.finished(Outcome::Done);
    let story = reported(&run, 20, "").story();
    assert!(!story.contains("Never begun") && !story.contains("write the card"), "{story}");
}

fn shutdown() -> Run<Step> {
    let step = |id: &str, title: &str, action: Step, predicted: u64| PlannedStep {
        predicted: Duration::from_secs(predicted),
        on_failure: OnFailure::Continue,
        ..PlannedStep::act(id, title, action, Duration::from_secs(60))
    };
    let drain = |node: &str| {
        let action = Step::Drain { node: node.into(), cordon_only: false };
        step(&format!("drain.{node}"), &format!("{node}: cordon and drain"), action, 20)
    };
    let stop = |node: &str, role| {
        let action = Step::StopK3s { node: node.into(), role };
        step(&format!("stop.{node}"), &format!("{node}: stop k3s"), action, 5)
    };
    let phases = vec![
        Phase::serial("suspend Flux", vec![step("flux.suspend", "suspend Flux", Step::SuspendFlux, 5)]),
        Phase { name: "drain".into(), concurrency: 2, steps: vec![drain("titan-13"), drain("titan-15")] },
        Phase::serial("stop agents", vec![stop("titan-13", K3sRole::Agent), stop("titan-15", K3sRole::Agent)]),
        Phase::serial("stop servers", vec![PlannedStep { commits: true, ..stop("titan-0a", K3sRole::Server) }]),
    ];
    let mut book = Runbook::new("shutdown", "stop the cluster", phases);
    let uncordon = Step::Uncordon { node: "titan-13".into() };
    book.unwind = vec![Phase::serial(
        "undo",
        vec![step("uncordon.titan-13", "titan-13: uncordon", uncordon, 1), step("flux.resume", "resume Flux", Step::ResumeFlux, 5)],
    )];
    let mut run = Run::new(book);
    run.deadline = Some(Duration::from_secs(100));
    run
}

fn outage(run: &Run<Step>, ended: i64, reason: &str, claims: &[Claim]) -> Report {
    let trigger = TriggerReading {
        at: at(-1),
        because: "pyrphoros@localhost is on battery with 110 s of runtime left, 110 s are needed (1.10 x 100 s budget)".into(),
        runtime_seconds: Some(110),
        budget_seconds: 100,
    };
    report(&Subject {
        id: &RunId::new("shutdown-3"),
        run,
        requester: "metis",
        cause: &Cause::Ups { domains: ["pyrphoros".into()].into() },
        trigger: Some(&trigger),
        settings: &SettingsDigest::new("d1"),
        boot_id: &BootId::new("b"),
        started: at(0),
        ended: at(ended),
        ended_boot: Some(Duration::from_secs(ended.unsigned_abs())),
        reason,
        locks: &[],
        after: Aftermath { claims, ..nothing() },
        raised: &[],
    })
}

fn suspended(name: &str) -> Claim {
    Claim { object: ObjectRef::new("Kustomization", "flux-system", name), change: Change::Suspended, expires: None }
}

#[test]
fn a_shutdown_that_left_a_host_behind() {
    let mut run = shutdown();
    walk(&mut run, "flux.suspend", 1, 0, 2, Status::Done, "12 objects");
    run.milestone(&"drain.titan-13".into(), "PDB web/web never allows: forced");
    run.milestone(&"drain.titan-13".into(), "db/postgres-0 ignores SIGTERM: grace 5 s");
    walk(&mut run, "drain.titan-13", 1, 2, 40, Status::Done, "31 pods");
    walk(&mut run, "drain.titan-15", 1, 2, 50, Status::Failed, "its deadline has passed");
    walk(&mut run, "stop.titan-13", 1, 50, 53, Status::Done, "");
    walk(&mut run, "stop.titan-15", 4, 53, 80, Status::Abandoned, "no route to host");
    walk(&mut run, "stop.titan-0a", 1, 80, 88, Status::Done, "");
    run.finished(Outcome::Degraded);
    let report = outage(&run, 88, "titan-15: stop k3s: no route to host", &[suspended("root"), suspended("apps")]);
    insta::assert_snapshot!(report.story());
    insta::assert_yaml_snapshot!(report);
}

#[test]
fn a_shutdown_that_was_undone() {
    let mut run = shutdown();
    walk(&mut run, "flux.suspend", 1, 0, 2, Status::Done, "12 objects");
    walk(&mut run, "drain.titan-13", 1, 2, 10, Status::Cancelled, "the mains are back");
    run.cancelled("the mains are back");
    walk(&mut run, "uncordon.titan-13", 1, 10, 11, Status::Done, "");
    walk(&mut run, "flux.resume", 3, 11, 30, Status::Failed, "no API server answered");
    run.finished(Outcome::Cancelled);
    let report = outage(&run, 30, "the mains are back; not undone: resume Flux: no API server answered", &[suspended("root")]);
    insta::assert_snapshot!(report.story());
    assert!(report.abandoned.is_empty() && report.margin_seconds.is_none(), "undoing has no deadline, and nothing was to be stopped");
    assert_eq!(report.undone[0].steps.len(), 2);
    let steps: Vec<_> = report.hosts[&"titan-13".into()].iter().map(|step| step.id.as_str()).collect();
    assert_eq!(steps, ["drain.titan-13", "uncordon.titan-13", "stop.titan-13"], "in the order in which they began");
}

#[test]
fn margins_are_signed() {
    let secs = Duration::from_secs;
    let table = [
        (secs(88), secs(100), 12),
        (secs(100), secs(100), 0),
        (secs(110), secs(100), -10),
        (Duration::from_millis(100_200), secs(100), -1),
    ];
    for (ended, deadline, margin) in table {
        assert_eq!(seconds_between(ended, deadline), margin, "{ended:?}");
    }
}

#[test]
fn what_a_run_teaches() {
    let mut run = shutdown();
    walk(&mut run, "flux.suspend", 1, 0, 2, Status::Done, "");
    walk(&mut run, "drain.titan-13", 1, 2, 40, Status::Done, "");
    let id = StepId::new("drain.titan-15");
    run.started(&id, Mode::Act, 1, Duration::from_secs(50), Duration::from_secs(2), at(2));
    run.aborting(&id, "its deadline has passed", Duration::from_secs(50));
    run.settled(&id, Status::Failed, "", Duration::from_secs(50), at(50));
    walk(&mut run, "stop.titan-13", 1, 50, 53, Status::Failed, "wrong sudo");
    run.finished(Outcome::Degraded);
    let seen: Vec<_> = timings(&run).into_iter().map(|timing| (timing.kind, timing.host, timing.took.as_secs())).collect();
    let expected = [("flux.suspend", "", 2), ("node.drain", "titan-13", 38), ("node.drain", "titan-15", 48)];
    assert_eq!(seen, expected.map(|(kind, host, took)| (kind, host.to_owned(), took)), "what failed by itself took no time worth knowing");
}

#[test]
fn locks_that_were_passed_over_are_named_by_host() {
    let step = |id: &str, action: Step| PlannedStep::act(id, format!("{id}!"), action, Duration::from_secs(20));
    let off = |node: &str| step(&format!("poweroff.{node}"), Step::PowerOff { node: node.into() });
    let this = step("poweroff.titan-db", Step::PowerOffThisHost { node: "titan-db".into(), delay: Duration::from_secs(5) });
    let book = Runbook::new("shutdown", "stop", vec![Phase::serial("power off", vec![off("titan-13"), off("titan-15"), this])]);
    let mut run = Run::new(book);
    run.milestone(&"poweroff.titan-13".into(), "powered off past the lock of `apt` (process 977, user 0): runs dpkg");
    for id in ["poweroff.titan-13", "poweroff.titan-15", "poweroff.titan-db"] {
        walk(&mut run, id, 1, 0, 1, Status::Done, "");
    }
    run.finished(Outcome::Done);
    let of = |locks: &[String]| {
        let (id, settings, boot_id) = (RunId::new("shutdown-4"), SettingsDigest::new("d1"), BootId::new("b"));
        report(&Subject {
            id: &id,
            run: &run,
            requester: "ada",
            cause: &Cause::Person,
            trigger: None,
            settings: &settings,
            boot_id: &boot_id,
            started: at(0),
            ended: at(3),
            ended_boot: None,
            reason: "",
            raised: &[],
            locks,
            after: nothing(),
        })
    };
    let report = of(&["powered off past the lock of `db` (process 5, user 0): a backup".to_owned()]);
    assert_eq!(report.overridden_locks.keys().map(NodeName::as_str).collect::<Vec<_>>(), ["titan-13", "titan-db"]);
    let story = report.story();
    assert!(
        story.contains(". Locks: titan-13: powered off past the lock of `apt` (process 977, user 0): runs dpkg, titan-db: "),
        "{story}"
    );
    assert_eq!(of(&[]).overridden_locks.len(), 1);
}

/// Two workers of which one was dead, stopped by a person and raised by a UPS: the example of the README.
fn documented() -> Report {
    let step = |id: &str, title: &str, action: Step, predicted: u64| PlannedStep {
        predicted: Duration::from_secs(predicted),
        on_failure: OnFailure::Continue,
        ..PlannedStep::act(id, title, action, Duration::from_secs(45))
    };
    let drain = Step::Drain { node: "titan-13".into(), cordon_only: false };
    let off = |node: &str| Step::PowerOff { node: node.into() };
    let phases = vec![
        Phase::serial("drain", vec![step("drain.titan-13", "titan-13: cordon and drain", drain, 40)]),
        Phase {
            name: "power off".into(),
            concurrency: 16,
            steps: vec![
                step("poweroff.titan-13", "titan-13: power off", off("titan-13"), 3),
                step("poweroff.titan-15", "titan-15: power off", off("titan-15"), 3),
            ],
        },
    ];
    let warnings = vec!["not Ready, so probably out of reach; cordoned, not drained: titan-15".to_owned()];
    let tail = Duration::from_secs(30);
    let mut run = Run::new(Runbook { warnings, tail, ..Runbook::new("shutdown", "stop the cluster and power off 2 hosts", phases) });
    run.deadline = Some(Duration::from_secs(100));
    run.milestone(&"drain.titan-13".into(), "titan-13: 31 pods to evict; 4 stay of a DaemonSet");
    run.milestone(&"drain.titan-13".into(), "titan-13: disable-eviction (disruption budgets do not count): media/jellyfin-0");
    walk(&mut run, "drain.titan-13", 1, 2, 40, Status::Done, "31 pods gone");
    walk(&mut run, "poweroff.titan-13", 1, 40, 41, Status::Done, "took the order to power off");
    walk(&mut run, "poweroff.titan-15", 1, 40, 45, Status::Failed, "titan-15: no connection to 192.168.22.45:2277: Connection refused");
    run.finished(Outcome::Degraded);
    let trigger = TriggerReading {
        at: at(9),
        because: "pyrphoros@localhost: on battery with 110 s of runtime left, 330 s are needed (1.10 x 300 s budget)".into(),
        runtime_seconds: Some(110),
        budget_seconds: 300,
    };
    let host = super::left::tests::host("titan-13", Returns::ByHand, &["pyrphoros"]);
    let topology = Topology { hosts: [(host.name.clone(), host)].into(), ..Topology::default() };
    let claim = |kind: &str, change| Claim { object: ObjectRef::new(kind, "", "titan-13"), change, expires: None };
    let claims = [claim("Node", Change::Cordoned), claim("Host", Change::PoweredOff)];
    let raised = RaisedReport {
        at: at(10),
        requested_by: "the failing power of pyrphoros".into(),
        domains: ["pyrphoros".into()].into(),
        lowered: None,
    };
    report(&Subject {
        id: &RunId::new("shutdown-3"),
        run: &run,
        requester: "erika (uid 1000)",
        cause: &Cause::Person,
        trigger: Some(&trigger),
        settings: &SettingsDigest::new("5d41402abc4b2a76b9719d911017c592"),
        boot_id: &BootId::new("0d7d4a2e-6a53-4a0f-9b0e-7d7b1d1f0c55"),
        started: at(0),
        ended: at(45),
        ended_boot: Some(Duration::from_secs(45)),
        reason: "titan-15: power off: titan-15: no connection to 192.168.22.45:2277: Connection refused",
        raised: &[raised],
        locks: &[],
        after: Aftermath { topology: &topology, claims: &claims, ..nothing() },
    })
}

/// Every name of a field, at whatever depth; names of hosts are values.
fn fields(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, value) in map {
                if !name.starts_with("titan-") {
                    found.insert(name.clone());
                }
                fields(value, found);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| fields(item, found)),
        _ => {}
    }
}

#[test]
fn the_readme_documents_the_file_as_it_is_written() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let section = readme.split("### last-shutdown-report.json").nth(1).unwrap();
    let (table, rest) = section.split_once("```json\n").unwrap();
    let shown: serde_json::Value = serde_json::from_str(rest.split_once("```").unwrap().0).unwrap_or_default();
    let written = serde_json::to_value(documented()).unwrap();
    assert_eq!(shown, written, "the example of the README is to be:\n{written:#}");
    let mut names = BTreeSet::new();
    fields(&written, &mut names);
    let undocumented: Vec<_> = names.iter().filter(|name| !table.contains(&format!("`{name}`"))).collect();
    assert!(undocumented.is_empty(), "{undocumented:?}");
    assert!(table.contains(&format!("version of this file's fields: {SCHEMA} ")));
}
