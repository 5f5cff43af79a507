//! Pods, budgets and API servers that do not want to.

use std::time::Duration;

use metis_tests::plane::front::{Fault, Rule};
use metis_tests::plane::{Options, Plane, available};
use metisd::cluster::port::{Cluster, ClusterError};

use super::*;

fn bare(name: &str, namespace: &str, meta: &str, grace: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}{meta}}}\nspec: {{nodeName: titan-13, terminationGracePeriodSeconds: {grace}, containers: [{{name: main, image: web}}]}}\n---\n"
    )
}

#[test]
fn budgets_that_cannot_be_met_do_not_hold_a_drain_and_the_protected_stay() {
    if !available("adversaries of a drain") {
        return;
    }
    let mut plane = Plane::start(&Options { longhorn: true, ..Options::default() }).unwrap();
    plane.kwok(&["titan-13", "titan-15"]).unwrap();
    let deaf = "lab.metis/ignore-sigterm: \"true\"";
    let manifests = [
        deployment("web", 3, "titan-13", "", ""),
        deployment("guarded", 2, "titan-13", "", "terminationGracePeriodSeconds: 5, "),
        budget("guarded", 2),
        deployment("deaf", 1, "titan-13", deaf, "terminationGracePeriodSeconds: 4, "),
        bare("held", "default", ", finalizers: [lab.metis/held]", 3),
        bare("attacher", "longhorn-system", "", 3),
        bare("vault", "default", ", labels: {app: vault}", 3),
    ];
    plane.apply(&manifests.concat()).unwrap();
    wait_ready(&plane, &["web", "guarded", "deaf"]);
    plane.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "pod/held", "pod/vault", "-n", "default"]).unwrap();

    let metis = Metis::new(plane.metis_kubeconfig(), "", "    protect: [{ selector: app=vault }]");
    metis.cordon(&["titan-13", "titan-15"]);
    let (drained, told, took) = metis.drain("titan-13", &["titan-13", "titan-15"], seconds(180), None);
    let drained = drained.unwrap();
    assert_eq!(told[0], "titan-13: 7 pods to evict; 1 of the storage plane, 1 protected stay", "{told:?}");
    assert_eq!((drained.gone, drained.left.len()), (6, 1), "{drained:?}");
    assert!(drained.left[0].starts_with("default/held: has ended, but finalizers hold it"), "{drained:?}");
    assert!(drained.rungs.iter().any(|rung| rung.starts_with("force") && rung.contains("default/held")), "{drained:?}");
    // The share of the time for evictions would last until 135 s.
    assert!(took < seconds(60), "{took:?}");
    let (evicted, deleted) = asked(&plane.audit().unwrap());
    assert!(deleted.len() == 2 && deleted.iter().all(|pod| pod.starts_with("default/guarded-")), "{deleted:?}");
    assert!(evicted.iter().all(|pod| !pod.contains("vault") && !pod.contains("attacher")), "{evicted:?}");
}

#[test]
fn a_budget_that_may_be_met_is_waited_for_until_its_share_is_over() {
    if !available("a budget") {
        return;
    }
    let mut plane = Plane::start(&Options::default()).unwrap();
    plane.kwok(&["titan-13", "titan-15"]).unwrap();
    // No node selector: a new pod could go to titan-15.
    let free = deployment("free", 1, "titan-13", "", "terminationGracePeriodSeconds: 1, ")
        .replace("nodeSelector: {kubernetes.io/hostname: titan-13}, ", "");
    plane.kubectl(&["cordon", "titan-15"]).unwrap();
    plane.apply(&[free, budget("free", 1)].concat()).unwrap();
    wait_ready(&plane, &["free"]);
    plane.kubectl(&["uncordon", "titan-15"]).unwrap();
    let metis = Metis::of(&plane);
    metis.cordon(&["titan-13"]);
    let (drained, told, took) = metis.drain("titan-13", &["titan-13"], seconds(24), None);
    assert_eq!(drained.as_ref().unwrap().gone, 1, "{drained:?} {told:?}");
    assert!(took >= seconds(18) && took < seconds(24), "{took:?}");
    let audit = plane.audit().unwrap();
    let refused: Vec<_> = audit.iter().filter(|entry| entry.by_metis() && entry.resource == "pods/eviction").collect();
    assert!((3..=5).contains(&refused.len()) && refused.iter().all(|entry| entry.code == 429), "{refused:?}");
    assert!(refused.windows(2).all(|pair| pair[1].at.duration_since(pair[0].at).unsigned_abs() >= seconds(4)), "{refused:?}");
}

#[test]
fn the_deadline_is_kept_when_it_comes_nearer_and_when_nothing_answers() {
    if !available("deadlines") {
        return;
    }
    let mut plane = Plane::start(&Options::default()).unwrap();
    plane.kwok(&["titan-13", "titan-15"]).unwrap();
    let deaf = deployment("deaf", 2, "titan-13", "lab.metis/ignore-sigterm: \"true\"", "terminationGracePeriodSeconds: 100, ");
    let stuck = deployment("stuck", 1, "titan-15", "lab.metis/stuck: \"true\"", "terminationGracePeriodSeconds: 2, ");
    plane.apply(&[deaf, stuck].concat()).unwrap();
    wait_ready(&plane, &["deaf", "stuck"]);
    let metis = Metis::of(&plane);
    metis.cordon(&["titan-13", "titan-15"]);

    let (drained, told, took) = metis.drain("titan-13", &["titan-13"], seconds(180), Some((seconds(3), seconds(15))));
    let drained = drained.unwrap();
    assert_eq!((drained.gone, drained.left.len()), (2, 0), "{drained:?} {told:?}");
    assert!(drained.rungs.iter().any(|rung| rung.starts_with("shorter grace")), "{drained:?}");
    assert!(took < seconds(15), "{took:?}");

    let (drained, _, took) = metis.drain("titan-15", &["titan-15"], seconds(8), None);
    let left = drained.unwrap().left;
    assert!(left.len() == 1 && left[0].contains("stuck") && left[0].contains("has not ended within its grace"), "{left:?}");
    assert!(took >= seconds(8) && took < Duration::from_millis(8500), "{took:?}");

    plane.freeze().unwrap();
    let (drained, _, took) = metis.drain("titan-15", &["titan-15"], seconds(4), None);
    assert!(matches!(drained, Err(ClusterError::Unreachable(_))), "{drained:?}");
    assert!(took < Duration::from_millis(4500), "{took:?}");
    let began = std::time::Instant::now();
    let facts = metis.run(metis.cluster.collect(seconds(3)));
    assert!(
        matches!(facts, Err(ClusterError::Unreachable(_))) && began.elapsed() < Duration::from_millis(3500),
        "{facts:?} {:?}",
        began.elapsed()
    );
    let cordon = metis.run(metis.cluster.set_cordoned("titan-13", None, seconds(2)));
    assert!(matches!(cordon, Err(ClusterError::Unreachable(_))), "{cordon:?}");
    plane.thaw().unwrap();
    metis.run(metis.cluster.set_cordoned("titan-13", None, seconds(10))).unwrap();
}

#[test]
fn an_api_server_that_answers_429_500_nonsense_or_not_at_all_only_costs_time() {
    if !available("faults of the API server") {
        return;
    }
    let mut plane = Plane::start(&Options::default()).unwrap();
    plane.kwok(&["titan-13"]).unwrap();
    plane.apply(&deployment("web", 6, "titan-13", "", "")).unwrap();
    wait_ready(&plane, &["web"]);
    let front = plane.front().unwrap();
    let metis = Metis::new(front.kubeconfig(), "    call_timeout: 2s", "");
    let times = |method, path: &str, times, fault| Rule { method, path: path.to_owned(), times: Some(times), fault };
    front.rules(vec![
        times("GET", "/api/v1/pods", 1, Fault::Status(500, None)),
        times("GET", "/api/v1/pods", 1, Fault::Hang),
        times("PATCH", "/nodes/", 1, Fault::Status(429, Some(1))),
        times("PATCH", "/nodes/", 1, Fault::LostAnswer),
        times("POST", "/eviction", 2, Fault::Status(500, None)),
        times("POST", "/eviction", 1, Fault::Reset),
        times("POST", "/eviction", 1, Fault::LostAnswer),
        times("POST", "/eviction", 1, Fault::Garbage),
        times("POST", "/eviction", 1, Fault::Status(429, Some(1))),
    ]);
    metis.cordon(&["titan-13"]);
    let (drained, told, took) = metis.drain("titan-13", &["titan-13"], seconds(60), None);
    let drained = drained.unwrap();
    assert_eq!((drained.gone, drained.left.len()), (6, 0), "{drained:?} {told:?}");
    assert!(took < seconds(30), "{took:?}");
    assert_eq!(front.met().iter().filter(|met| met.contains("/eviction")).count(), 6, "{:?}", front.met());
}

#[test]
fn an_api_server_under_load_is_asked_as_it_wishes_and_no_budget_is_blamed() {
    const PODS: u32 = 120;
    if !available("an API server under load") {
        return;
    }
    let mut plane = Plane::start(&Options::default()).unwrap();
    plane.kwok(&["titan-13", "titan-15"]).unwrap();
    let pods = |name: &str, node| deployment(name, PODS / 2, node, "", "terminationGracePeriodSeconds: 1, ");
    plane.apply(&[pods("web", "titan-13"), pods("api", "titan-15")].concat()).unwrap();
    wait_ready(&plane, &["web", "api"]);
    let front = plane.front().unwrap();
    let metis = Metis::new(front.kubeconfig(), "", "");
    // As API priority and fairness refuses: without a cause, with the time after which to come again.
    let busy = Rule { method: "POST", path: "/eviction".to_owned(), times: Some(80), fault: Fault::Status(429, Some(3)) };
    front.rules(vec![busy]);
    let nodes = ["titan-13", "titan-15"];
    metis.cordon(&nodes);
    let drains = nodes.map(|node| metis.drain(node, &nodes, seconds(120), None));
    let (mut gone, mut longest) = (0_u32, Duration::ZERO);
    for (drained, told, took) in drains {
        let drained = drained.unwrap();
        assert_eq!((drained.left.len(), drained.rungs.len()), (0, 0), "{drained:?} {told:?}");
        gone += drained.gone;
        longest = longest.max(took);
    }
    assert_eq!((gone, front.met().len()), (PODS, 80));
    assert!(longest >= seconds(3), "it was not left alone for as long as it said: {longest:?}");
    let audit = plane.audit().unwrap();
    let mine = |resource: &str| audit.iter().filter(|entry| entry.by_metis() && entry.resource == resource).collect::<Vec<_>>();
    assert_eq!(mine("poddisruptionbudgets").len(), 0, "no budget refused anything");
    let evictions = mine("pods/eviction");
    assert_eq!(evictions.len(), PODS as usize, "each was granted once");
    let ended =
        |entry: &metis_tests::plane::audit::Entry| entry.line["stageTimestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let at_once = |at| evictions.iter().filter(|other| other.at <= at && ended(other) > at).count();
    let most = evictions.iter().map(|entry| at_once(entry.at)).max().unwrap();
    assert!(most <= 50, "{most} evictions at once");
}
