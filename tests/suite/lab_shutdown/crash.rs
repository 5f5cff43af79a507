//! kill -9 of metisd in the middle of a shutdown: systemd starts it again, and it goes on where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use metis_tests::hosts::{Fact, Role, Wishes};
use metis_tests::nspawn::{End, Event, State};
use serde_json::Value;

use super::evidence::{
    self, assert_agents_stopped_before_the_server, assert_powered_off, assert_volumes_were_detached_before_their_nodes_stopped,
};
use super::site::{Site, Wanted};

/// Each life of metisd ends at the next of these places, and the last one does not: so many journal writes it gets, two or three of which its start
/// takes. The drains of five nodes are begun anew by each life, so one of them is long enough to get through.
const PLACES: [&str; 14] = [
    "journal.before:4",
    "journal.after:4",
    "journal.before:6",
    "journal.after:10",
    "journal.after:20",
    "journal.before:5",
    "journal.after:5",
    "journal.before:6",
    "journal.after:5",
    "journal.before:5",
    "journal.after:6",
    "journal.before:5",
    "journal.after:5",
    "journal.before:6",
];
/// Deaths at so many different places are the least.
const BOUNDARIES: usize = 8;

/// Takes the next place for the life that begins; as the user metis, in the sandbox of the unit.
const NEXT: &str = "#!/bin/sh
place=$(head -n 1 /var/lib/metis/places)
sed -i 1d /var/lib/metis/places
if [ -n \"$place\" ]; then echo \"METIS_FAILPOINT=$place\" >/run/metis/failpoint; else rm -f /run/metis/failpoint; fi
";
const UNIT: &str = "EnvironmentFile=-/run/metis/failpoint\nExecStartPre=-/usr/local/bin/next-place";

/// A death of metisd: when, after which fact, and how long until the next metisd and its first attempt at a step; neither follows where the host
/// was powering off already.
struct Death {
    at: jiff::Timestamp,
    before: String,
    again: Option<Duration>,
    on: Option<Duration>,
}

fn name(fact: &Fact) -> String {
    format!("{} {}", fact.kind, fact.text("step"))
}

/// When systemd saw metisd end by SIGKILL.
fn killed(site: &Site) -> Vec<jiff::Timestamp> {
    let said = site.metis.host().entries(&["-o", "json", "UNIT=metisd.service"]).unwrap();
    let entries = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_death = entries.filter(|entry| entry["MESSAGE"].as_str().is_some_and(|text| text.contains("code=killed, status=9/KILL")));
    let micros = of_death.map(|entry| entry["__REALTIME_TIMESTAMP"].as_str().unwrap().parse().unwrap());
    micros.map(|micros| jiff::Timestamp::from_microsecond(micros).unwrap()).collect()
}

/// Every death, in view of the facts that the journal has.
fn deaths(times: Vec<jiff::Timestamp>, facts: &[Fact]) -> Vec<Death> {
    let since = |fact: &Fact, at: jiff::Timestamp| Duration::try_from(fact.at.duration_since(at)).unwrap_or_default();
    times
        .into_iter()
        .map(|at| {
            let later = || facts.iter().filter(|fact| fact.at > at);
            let again = later().find(|fact| fact.kind == "daemon.started").map(|fact| since(fact, at));
            let on = later().find(|fact| fact.kind == "step.started").map(|fact| since(fact, at));
            Death { at, before: facts.iter().rfind(|fact| fact.at <= at).map(name).unwrap(), again, on }
        })
        .collect()
}

fn ask(site: &Site) {
    let end = Instant::now() + Duration::from_secs(60);
    // The first request may die with the daemon that got it.
    while !site.metis.facts().unwrap().iter().any(|fact| fact.kind == "run.admitted") {
        assert!(Instant::now() < end, "{}", site.metis.log());
        let _ = site.metis.ctl(&["shutdown", "--execute", "--mode", "host-poweroff"]);
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn full_kill_9_again_and_again_and_the_site_is_stopped_once() {
    let wanted = Wanted { wishes: Wishes { unit: UNIT.to_owned(), ..Wishes::default() }, ..Wanted::default() };
    let Some(site) = Site::start("kill -9 in a shutdown", &wanted) else { return };
    let host = site.metis.host();
    let next = "/usr/local/bin/next-place";
    let script = format!("cat >{next} <<'END'\n{NEXT}END\nchmod +x {next}; printf '%s\\n' {} >/var/lib/metis/places", PLACES.join(" "));
    host.sh(&script).unwrap();
    host.sh("systemctl restart metisd").unwrap();
    let begun = Instant::now();
    ask(&site);
    let off = Event::Is(State::Off(End::PoweredOff));
    let ended = site.hosts.wait_event("titan-db", &off, begun, Duration::from_secs(300));
    assert!(ended.is_ok(), "{ended:?}\n{}", site.metis.log());

    let facts = site.metis.facts().unwrap();
    let deaths = deaths(killed(&site), &facts);
    tell(&deaths);
    let admitted = facts.iter().find(|fact| fact.kind == "run.admitted").unwrap().at;
    let places: BTreeSet<&str> = deaths.iter().filter(|death| death.at > admitted).map(|death| death.before.as_str()).collect();
    assert!(places.len() >= BOUNDARIES, "{places:?}");

    assert_done_once(&facts, &deaths);
    assert_one_snapshot_for_each_attempt(&site, &facts);
    assert_volumes_were_detached_before_their_nodes_stopped(&site);
    assert_agents_stopped_before_the_server(&site);
    assert_powered_off(&site, &Role::ALL);
    assert_nothing_is_held_that_the_journal_does_not_know(&site, &facts);
}

/// Figures for people.
#[allow(clippy::print_stdout, reason = "the lines are the result")]
fn tell(deaths: &[Death]) {
    let seconds = |all: Vec<Duration>| {
        let mut all: Vec<f64> = all.iter().map(Duration::as_secs_f64).collect();
        all.sort_by(f64::total_cmp);
        match all[..] {
            [] => "nothing".to_owned(),
            [first, ..] => format!("{first:.2} s, {:.2} s, {:.2} s", all[all.len() / 2], all[all.len() - 1]),
        }
    };
    println!("{} deaths; shortest, median, longest from SIGKILL", deaths.len());
    println!("  to the next metisd:   {}", seconds(deaths.iter().filter_map(|death| death.again).collect()));
    println!("  to the next attempt:  {}", seconds(deaths.iter().filter_map(|death| death.on).collect()));
    for death in deaths {
        println!("  after {}", death.before);
    }
}

/// One run, which ended once and well; no step was begun again that had ended.
fn assert_done_once(facts: &[Fact], deaths: &[Death]) {
    let of = |kind: &str| facts.iter().filter(|fact| fact.kind == kind).collect::<Vec<_>>();
    assert_eq!((of("run.admitted").len(), of("run.ended").len()), (1, 1));
    // A host that took the order before metisd could record it does not answer the second one: it is off.
    let interrupted = |step: &str| {
        let waits = of("step.waits");
        waits.iter().any(|fact| fact.text("step") == step && fact.text("detail").starts_with("metisd stopped while it ran"))
    };
    for step in of("step.ended").iter().filter(|fact| fact.text("status") != "done").map(|fact| fact.text("step")) {
        assert!(step.starts_with("poweroff.") && interrupted(step), "{step}: {:#?}", of("run.ended"));
    }
    let mut ended = BTreeSet::new();
    let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
    for fact in facts {
        match fact.kind.as_str() {
            "step.ended" => assert!(ended.insert(fact.text("step")), "{} ended twice", fact.text("step")),
            "step.started" => {
                assert!(!ended.contains(fact.text("step")), "{} was begun again after its end", fact.text("step"));
                *begun.entry(fact.text("step")).or_default() += 1;
            }
            _ => {}
        }
    }
    // Gates are asked again and again; what acts is begun again by a death only.
    let gates = ["volumes.detached"];
    let extra: usize = begun.iter().filter(|(step, _)| !gates.contains(step)).map(|(_, times)| times - 1).sum();
    assert!(extra <= 8 * deaths.len(), "{begun:?}");
}

/// A snapshot is a file: as many as there were attempts at it, one where metisd lived through it.
fn assert_one_snapshot_for_each_attempt(site: &Site, facts: &[Fact]) {
    let attempts = facts.iter().filter(|fact| fact.kind == "step.started" && fact.text("step") == "etcd.snapshot").count();
    let folder = site.hosts[Role::Titan0a].disk().join("var/lib/rancher/k3s/server/db/snapshots");
    let names: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!((1..=attempts).contains(&names.len()), "{attempts} attempts, {names:?}");
}

/// What is suspended or cordoned at the end is what the journal says, and what a person had suspended before.
fn assert_nothing_is_held_that_the_journal_does_not_know(site: &Site, facts: &[Fact]) {
    let key = |object: &Value| format!("{}/{}", object["kind"].as_str().unwrap(), object["name"].as_str().unwrap());
    let mut known: BTreeSet<String> = BTreeSet::new();
    for fact in facts {
        let objects = |list: &str| fact.payload[list].as_array().cloned().unwrap_or_default();
        match fact.kind.as_str() {
            "run.claimed" => known.extend(objects("claims").iter().map(|claim| key(&claim["object"]))),
            "run.released-claims" => known.retain(|held| !objects("objects").iter().any(|object| key(object) == *held)),
            _ => {}
        }
    }
    // Units that were stopped and hosts that were powered off are no objects of the cluster.
    known.retain(|object| ["Node/", "Kustomization/", "HelmRelease/"].iter().any(|kind| object.starts_with(kind)));
    let held: BTreeSet<String> = site.look_back(|plane| {
        let api = plane.api()?;
        let lists = [
            ("Node", "/api/v1/nodes", "unschedulable"),
            ("Kustomization", "/apis/kustomize.toolkit.fluxcd.io/v1/kustomizations", "suspend"),
            ("HelmRelease", "/apis/helm.toolkit.fluxcd.io/v2/helmreleases", "suspend"),
        ];
        let mut held = BTreeSet::new();
        for (kind, path, field) in lists {
            let set = api.list(path)?.into_iter().filter(|object| object["spec"][field] == true);
            held.extend(set.map(|object| format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap_or_default())));
        }
        Ok(held)
    });
    let before = ["Kustomization/frozen", "HelmRelease/held"];
    let ours: BTreeSet<String> = held.iter().filter(|object| !before.contains(&object.as_str())).cloned().collect();
    assert_eq!(ours, known);
    assert!(before.iter().all(|object| held.contains(*object)), "{held:?}");
}

#[test]
fn full_a_dump_is_not_repeated_though_metisd_died_in_it() {
    let config = "cluster: { datastore: { kind: external, host: titan-0a, dump: 'echo dumped >>/root/dumps; sleep 4' } }\n";
    let wanted = Wanted { wishes: Wishes { config: config.to_owned(), ..Wishes::default() }, ..Wanted::default() };
    let Some(site) = Site::start("kill -9 in a dump", &wanted) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| site.metis.ctl(&["shutdown", "--execute", "--mode", "cluster-only"]));
        site.hosts[Role::Titan0a].wait_for(30, "test -s /root/dumps").unwrap();
        site.metis.host().sh("systemctl kill -s KILL metisd").unwrap();
    });
    let ended = |detail: &Value| !detail["run"]["ended"].is_null();
    site.metis.until(Duration::from_secs(120), &["run", "get", "last"], ended).unwrap();
    assert_eq!(site.hosts[Role::Titan0a].sh("cat /root/dumps").unwrap(), "dumped\n");
    let report = site.metis.report().unwrap();
    let odd: Vec<_> = evidence::steps(&report).into_iter().filter(|(_, status)| status != "done").collect();
    assert_eq!(odd, [("datastore.dump".to_owned(), "unknown_outcome".to_owned())], "{report:#}");
    assert_eq!(report["outcome"], "degraded", "{report:#}");
}
