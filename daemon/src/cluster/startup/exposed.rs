//! Pure: who is behind what the cluster offers to the outside.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::{all_of, part};
use crate::cluster::exposed::{Backend, Exposed, HostSeen};
use crate::cluster::seen::Seen;
use crate::site::Judged;

/// Nodes whose kubelet is there. Addresses on others stand as they were before the outage: nobody has taken them away yet.
///
/// # Errors
/// They cannot be seen.
pub fn living(seen: &Seen) -> Result<BTreeSet<String>, Judged> {
    let nodes = part(&seen.nodes, "nodes")?;
    Ok(nodes.iter().filter(|node| node.lease_fresh).map(|node| node.name.clone()).collect())
}

/// Critical Services have addresses that are ready.
pub fn endpoints(exposed: &Exposed, seen: &Seen, wanted: &BTreeSet<String>) -> Judged {
    let (backends, living) = match (part(&exposed.backends, "Services and their EndpointSlices"), living(seen)) {
        (Ok(backends), Ok(living)) => (backends, living),
        (Err(judged), _) | (_, Err(judged)) => return judged,
    };
    let troubles: Vec<_> = wanted.iter().filter_map(|service| nobody_behind(service, backends, &living)).collect();
    all_of(wanted.len(), &troubles, "critical Services have ready addresses")
}

/// Why nobody is behind a host; one of its Services suffices for none of the others.
pub fn backend_trouble(host: &HostSeen, backends: &BTreeMap<String, Backend>, living: &BTreeSet<String>) -> Option<String> {
    let troubles: Vec<_> = host.backends.iter().filter_map(|service| nobody_behind(service, backends, living)).collect();
    (!troubles.is_empty()).then(|| format!("{} ({}): {}", host.host, host.object, troubles.join("; ")))
}

fn nobody_behind(service: &str, backends: &BTreeMap<String, Backend>, living: &BTreeSet<String>) -> Option<String> {
    let Some(backend) = backends.get(service) else { return Some(format!("Service {service} is not there")) };
    let lives = |node: &&String| node.is_empty() || living.contains(*node);
    if backend.external || backend.ready_on.iter().any(|node| lives(&node)) {
        return None;
    }
    let stale = if backend.ready_on.is_empty() { "" } else { ": those that it shows are on nodes whose kubelet is not there" };
    Some(format!("Service {service} has no ready address{stale}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::seen::NodeSeen;
    use crate::site::ObjectRef;

    fn seen(fresh: bool) -> Seen {
        let node = NodeSeen { name: "titan-13".to_owned(), ready: true, lease_fresh: fresh, ..NodeSeen::default() };
        let none = || Err("not looked at".to_owned());
        Seen { nodes: Ok(vec![node]), sources: none_of(), flux: none_of(), workloads: none_of(), troubled: none_of(), namespaces: none() }
    }

    fn none_of<T>() -> Result<Vec<T>, String> {
        Err("not looked at".to_owned())
    }

    fn exposed(ready_on: &[&str]) -> Exposed {
        let web = Backend { external: false, ready_on: ready_on.iter().map(ToString::to_string).collect() };
        let out = Backend { external: true, ready_on: Vec::new() };
        Exposed { hosts: Ok(Vec::new()), backends: Ok(BTreeMap::from([("apps/web".to_owned(), web), ("apps/out".to_owned(), out)])) }
    }

    #[test]
    fn an_address_counts_where_its_node_lives() {
        let wanted = BTreeSet::from(["apps/web".to_owned()]);
        let judge = |exposed: &Exposed, seen: &Seen| endpoints(exposed, seen, &wanted);
        assert!(matches!(judge(&exposed(&["titan-13"]), &seen(true)), Judged::Ready(_)));
        assert!(matches!(judge(&exposed(&[""]), &seen(false)), Judged::Ready(_)), "one that is on no node");
        let stale = judge(&exposed(&["titan-13"]), &seen(false));
        assert!(matches!(&stale, Judged::NotReady { why, .. } if why.contains("kubelet is not there")), "{stale:?}");
        let empty = judge(&exposed(&[]), &seen(true));
        assert!(matches!(&empty, Judged::NotReady { why, done: 0 } if why.contains("no ready address")), "{empty:?}");
        let gone = endpoints(&exposed(&[]), &seen(true), &BTreeSet::from(["apps/none".to_owned(), "apps/out".to_owned()]));
        assert!(matches!(&gone, Judged::NotReady { why, done: 1 } if why.contains("apps/none is not there")), "{gone:?}");
        let blind = Exposed { backends: Err("no API".to_owned()), ..exposed(&[]) };
        assert!(matches!(judge(&blind, &seen(true)), Judged::CannotTell(_)));
        let blind = Seen { nodes: Err("no API".to_owned()), ..seen(true) };
        assert!(matches!(judge(&exposed(&["titan-13"]), &blind), Judged::CannotTell(_)));
    }

    #[test]
    fn every_backend_of_a_host_counts() {
        let host = |backends: &[&str]| HostSeen {
            object: ObjectRef::new("Ingress", "apps", "web"),
            host: "web.lan".to_owned(),
            path: String::new(),
            tls: true,
            addresses: BTreeSet::new(),
            backends: backends.iter().map(ToString::to_string).collect(),
        };
        let trouble = |backends: &[&str], ready_on: &[&str]| {
            let living = BTreeSet::from(["titan-13".to_owned()]);
            backend_trouble(&host(backends), exposed(ready_on).backends.as_ref().unwrap(), &living)
        };
        assert_eq!(trouble(&["apps/web", "apps/out"], &["titan-13"]), None);
        assert_eq!(trouble(&[], &[]), None, "nothing of the cluster is behind it");
        assert_eq!(trouble(&["apps/web"], &["titan-15"]).unwrap().split(':').next(), Some("web.lan (Ingress/apps/web)"));
        assert_eq!(HostSeen { host: "*.apps.lan".to_owned(), ..host(&[]) }.asked(), "metis-asks.apps.lan");
    }
}
