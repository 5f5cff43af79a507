//! The whole cycle without a person: the mains fail and the site is stopped, they come back and the site is started, and is as it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use metis_tests::hosts::{Role, Wishes};
use metis_tests::nspawn::{Event, State};
use serde_json::{Value, json};

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

#[test]
fn an_outage_and_back_without_a_person() {
    let wishes = Wishes { config: STARTUP.to_owned(), ..Wishes::default() };
    let Some(site) = Site::start("a full cycle", &Wanted { wishes, ..Wanted::default() }) else { return };
    let before = objects(&site);
    site.arm();
    site.run_down();

    let ups = site.hosts.ups("pyrphoros");
    ups.set_charge(80.0);
    let back = Instant::now();
    ups.set_mains(true);
    for role in FED {
        site.hosts.wait_event(role.name(), &Event::Is(State::On), back, Duration::from_secs(90)).unwrap();
    }
    let ended = |runs: &Value| runs["runs"].as_array().is_some_and(|runs| runs.len() == 2 && !runs[0]["ended"].is_null());
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

    // Called up only when it is, and as it was.
    site.hosts.cluster().with(|plane| settled(plane)).unwrap();
    let after = objects(&site);
    for (name, was) in &before {
        assert_eq!(after.get(name), Some(was), "{name}");
    }
    assert_eq!(before.len(), after.len(), "{:?}", after.keys().filter(|name| !before.contains_key(*name)).collect::<Vec<_>>());
    assert_eq!(site.metis.json(&["lease"]).unwrap()["leases"], json!([]));
    assert_eq!(site.hosts[Role::Tethys].state(), State::On);
}
