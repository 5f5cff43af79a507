//! The whole cycle without a person: the mains fail and the site is stopped, they come back and the site is started, and is as it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use metis_tests::hosts::{Role, Wishes};
use metis_tests::nspawn::{Event, State};
use serde_json::{Value, json};

use super::evidence::writes;
use super::site::{FED, Site, Wanted, settled};

/// The laboratory's clock is nobody's, and its battery is charged by hand.
const STARTUP: &str = "startup: { on_boot: after_outage, clocks: false, min_battery: 30, flux_source: flux-system/site, \
                       optional_kustomizations: [flux-system/frozen], stability_window: 5s }\n";

/// What a person would see changed: specs, and our own annotations.
fn objects(site: &Site) -> BTreeMap<String, Value> {
    let lists = [
        ("Node", "/api/v1/nodes"),
        ("Kustomization", "/apis/kustomize.toolkit.fluxcd.io/v1/kustomizations"),
        ("HelmRelease", "/apis/helm.toolkit.fluxcd.io/v2/helmreleases"),
        ("GitRepository", "/apis/source.toolkit.fluxcd.io/v1/gitrepositories"),
        ("Deployment", "/apis/apps/v1/deployments"),
        ("DaemonSet", "/apis/apps/v1/daemonsets"),
        ("PodDisruptionBudget", "/apis/policy/v1/poddisruptionbudgets"),
        ("ConfigMap", "/api/v1/namespaces/default/configmaps"),
    ];
    let seen = site.hosts.cluster().with(|plane| {
        let api = plane.api()?;
        let mut seen = BTreeMap::new();
        for (kind, path) in lists {
            for object in api.list(path)? {
                let name = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
                let annotations = object["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
                // A request to reconcile stays, as `flux reconcile` leaves it.
                let ours: BTreeMap<_, _> = annotations.into_iter().filter(|(key, _)| key.starts_with("metis.v1/")).collect();
                let mut spec = object["spec"].clone();
                // Absent and false are the same; metis takes away what it set.
                if let Some(spec) = spec.as_object_mut().filter(|spec| spec.get("suspend") == Some(&json!(false))) {
                    spec.remove("suspend");
                }
                let shown = json!({"spec": spec, "data": object["data"], "annotations": ours});
                seen.insert(format!("{kind} {}/{}", name("namespace"), name("name")), shown);
            }
        }
        Ok(seen)
    });
    seen.unwrap()
}

fn armed_site(test: &str) -> Option<Site> {
    let wishes = Wishes { config: STARTUP.to_owned(), ..Wishes::default() };
    let site = Site::start(test, &Wanted { wishes, ..Wanted::default() })?;
    site.arm();
    Some(site)
}

/// The mains fail until the battery's outlets are cut, and come back; nobody does anything. `runs`: how many there have been then.
fn outage_and_back(site: &Site, runs: usize) {
    site.run_down();
    let ups = site.hosts.ups("pyrphoros");
    ups.set_charge(80.0);
    let back = Instant::now();
    ups.set_mains(true);
    for role in FED {
        site.hosts.wait_event(role.name(), &Event::Is(State::On), back, Duration::from_secs(90)).unwrap();
    }
    let ended = |listed: &Value| listed["runs"].as_array().is_some_and(|all| all.len() == runs && !all[0]["ended"].is_null());
    site.metis.until(Duration::from_secs(180), &["run", "list"], ended).unwrap();
    let run = site.metis.json(&["run", "get", "last"]).unwrap()["run"].clone();
    assert_eq!(
        (&run["kind"], &run["phase"], &run["cause"]),
        (&"startup".into(), &"done".into(), &"boot".into()),
        "{run:#}\n{}",
        site.metis.log()
    );
    let report: Value = serde_json::from_slice(&std::fs::read(site.metis.state().join("last-startup-report.json")).unwrap()).unwrap();
    assert_eq!(report["outcome"], "done", "{report:#}");
}

/// Object by object, but for what somebody else makes anew.
fn as_before(site: &Site, before: &BTreeMap<String, Value>) {
    site.hosts.cluster().with(|plane| settled(plane)).unwrap();
    let after = objects(site);
    for (name, was) in before {
        assert_eq!(after.get(name), Some(was), "{name}");
    }
    assert_eq!(before.len(), after.len(), "{:?}", after.keys().filter(|name| !before.contains_key(*name)).collect::<Vec<_>>());
    assert_eq!(site.metis.json(&["lease"]).unwrap()["leases"], json!([]));
    assert_eq!(site.hosts[Role::Tethys].state(), State::On);
}

/// A person's start-up of a cluster that is up; what metis wrote to the API servers meanwhile.
fn started_again(site: &Site) -> Vec<String> {
    let before = writes(site).len();
    let again = site.metis.ctl(&["startup", "--execute"]).unwrap();
    assert_eq!(again.code, Some(0), "{again:?}\n{}", site.metis.log());
    let wrote = writes(site).into_iter().skip(before);
    // Who commands is metis' own to write down.
    let others = wrote.filter(|entry| entry.resource != "leases");
    others.map(|entry| format!("{} {}/{} {}", entry.verb, entry.resource, entry.name, entry.code)).collect()
}

#[test]
fn an_outage_and_back_without_a_person() {
    let Some(site) = armed_site("a full cycle") else { return };
    let before = objects(&site);
    outage_and_back(&site, 2);
    as_before(&site, &before);
    assert_eq!(started_again(&site), Vec::<String>::new(), "on a healthy cluster nothing is changed");
    assert_eq!(objects(&site), before);
}

#[test]
fn full_a_start_up_during_a_short_outage_of_the_git_server_changes_nothing() {
    let Some(site) = armed_site("a start-up without the Git server") else { return };
    let before = objects(&site);
    site.hosts
        .cluster()
        .with(|plane| {
            plane.flux()?.git.server.kill();
            // Flux finds out, and says so.
            let now = format!("reconcile.fluxcd.io/requestedAt={:?}", Instant::now());
            plane.kubectl(&["-n", "flux-system", "annotate", "--overwrite", "gitrepository/site", &now])?;
            let unready = ["-n", "flux-system", "wait", "--for=condition=Ready=false", "--timeout=60s", "gitrepository/site"];
            plane.kubectl(&unready).map(drop)
        })
        .unwrap();
    let changed = std::thread::scope(|scope| {
        let started = scope.spawn(|| started_again(&site));
        std::thread::sleep(Duration::from_secs(20));
        site.hosts.cluster().with(|plane| plane.flux()?.git.server.start()).unwrap();
        started.join().unwrap()
    });
    assert_eq!(changed, Vec::<String>::new());
    assert_eq!(objects(&site), before);
}

#[test]
fn full_ten_cycles_in_a_row() {
    let Some(site) = armed_site("ten cycles") else { return };
    let before = objects(&site);
    for cycle in 1..=10 {
        outage_and_back(&site, 2 * cycle);
        as_before(&site, &before);
    }
}
