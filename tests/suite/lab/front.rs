//! The front that fails on demand.

use std::time::{Duration, Instant};

use metis_tests::plane::front::{Fault, Rule};
use metis_tests::plane::{Options, Plane, available};

#[test]
fn a_front_fails_what_it_is_told_to_and_passes_the_rest() {
    if !available("the front") {
        return;
    }
    let plane = Plane::start(&Options::default()).unwrap();
    let front = plane.front().unwrap();
    let ask = |arguments: &[&str]| {
        let out = plane.kubectl_output(front.kubeconfig(), arguments, "").unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
    };
    assert!(ask(&["get", "namespaces"]).1.contains("kube-system"));
    // A watch goes through: what is created while it is open arrives.
    let (seen, _) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| ask(&["get", "namespaces", "--watch-only", "--request-timeout=6s"]).1);
        std::thread::sleep(Duration::from_secs(3));
        let made = plane.kubectl(&["create", "namespace", "watched"]).unwrap();
        (watch.join().unwrap(), made)
    });
    assert!(seen.contains("watched"), "{seen}");

    let once = |method, path: &str, fault| Rule { method, path: path.to_owned(), times: Some(1), fault };
    front.rules(vec![once("GET", "/api/v1/nodes", Fault::Status(500, None)), Rule::any("/pods", Fault::Status(403, None))]);
    let (ok, said) = ask(&["get", "nodes"]);
    assert!(!ok && said.contains("a fault of the lab"), "{said}");
    assert!(ask(&["get", "nodes"]).0, "once only");
    assert!(!ask(&["get", "pods", "-A"]).0);
    assert!(!ask(&["get", "pods", "-A"]).0);
    assert_eq!(front.met().iter().filter(|met| met.contains("/pods")).count(), 2, "{:?}", front.met());

    front.rules(vec![Rule::any("/api/v1/nodes", Fault::Hang)]);
    let begun = Instant::now();
    assert!(!ask(&["get", "nodes", "--request-timeout=2s"]).0 && begun.elapsed() > Duration::from_secs(2));
    front.rules(vec![Rule::any("/api/v1/nodes", Fault::Slow(Duration::from_secs(1)))]);
    let begun = Instant::now();
    assert!(ask(&["get", "nodes"]).0 && begun.elapsed() > Duration::from_secs(1));
    front.rules(vec![Rule::any("/api/v1/nodes", Fault::Garbage)]);
    assert!(!ask(&["get", "nodes"]).0);

    // Done, and its answer lost.
    let event = "apiVersion: v1\nkind: Event\nmetadata: {name: lost, namespace: default}\ninvolvedObject: {namespace: default}\n";
    front.rules(vec![once("POST", "/events", Fault::Reset)]);
    let create = |what: &str| plane.kubectl_output(front.kubeconfig(), &["create", "--validate=false", "-f", "-"], what).unwrap();
    assert!(!create(event).status.success());
    assert!(plane.kubectl(&["get", "events", "lost", "--ignore-not-found"]).unwrap().is_empty());
    front.rules(vec![once("POST", "/events", Fault::LostAnswer)]);
    assert!(!create(event).status.success());
    assert!(!plane.kubectl(&["get", "events", "lost"]).unwrap().is_empty());
    front.rules(Vec::new());
    assert!(String::from_utf8_lossy(&create(event).stderr).contains("exists"));
}
