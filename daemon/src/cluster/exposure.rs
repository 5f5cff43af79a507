//! Looks at what the cluster offers to the outside: Ingresses, Traefik's IngressRoutes, Services and EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::exposed::{Backend, Exposed, HostSeen};
use super::flux::Versions;
use super::kube::{Api, path};
use super::objects::{Loose, Meta};
use super::observe::all;
use super::seen::Part;
use crate::site::ObjectRef;

/// Groups of Traefik's CRDs; the second is that of its version 2.
const TRAEFIK: [&str; 2] = ["traefik.io", "traefik.containo.us"];
/// The Service of an EndpointSlice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Deserialize, Default)]
#[serde(default)]
struct Slice {
    metadata: Meta,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Endpoint {
    conditions: Conditions,
    node_name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Conditions {
    // Absent means ready (discovery.k8s.io/v1).
    ready: Option<bool>,
}

/// Everything that can be seen until `until`.
pub async fn exposed(api: &Api, versions: &Versions, until: Instant) -> Exposed {
    let (services, slices) = (path("v1", "", "services", ""), path("discovery.k8s.io/v1", "", "endpointslices", ""));
    let ingresses = path("networking.k8s.io/v1", "", "ingresses", "");
    let (services, slices, ingresses, routes) = tokio::join!(
        all::<Loose>(api, &services, "Services", until),
        all::<Slice>(api, &slices, "EndpointSlices", until),
        all::<Loose>(api, &ingresses, "Ingresses", until),
        routes(api, versions, until),
    );
    let own = services.as_ref().map(|services| traefik(&services.items)).unwrap_or_default();
    let hosts = ingresses.and_then(|ingresses| Ok(hosts(&ingresses.items, &routes?, &own)));
    let backends = services.and_then(|services| Ok(backends(&services.items, &slices?.items)));
    Exposed { hosts, backends }
}

async fn routes(api: &Api, versions: &Versions, until: Instant) -> Part<Vec<Loose>> {
    let mut found = Vec::new();
    for group in TRAEFIK {
        let what = "IngressRoutes of Traefik";
        let Some(version) = versions.of(api, group, until).await.map_err(|failure| failure.error(what).to_string())? else { continue };
        match api.list::<Loose>(&path(&version, "", "ingressroutes", ""), &[], until).await {
            Ok(list) => found.extend(list.items),
            Err(failure) if failure.code() == Some(404) => {}
            Err(failure) => return Err(failure.error(what).to_string()),
        }
    }
    Ok(found)
}

/// Addresses of Traefik's own Service: IngressRoutes have no status.
fn traefik(services: &[Loose]) -> BTreeSet<IpAddr> {
    let of_traefik = |service: &&Loose| {
        service.spec_str("/type") == "LoadBalancer"
            && service.metadata.labels.get("app.kubernetes.io/name").is_some_and(|name| name == "traefik")
    };
    services.iter().filter(of_traefik).flat_map(balanced).collect()
}

/// `status.loadBalancer.ingress[].ip`.
fn balanced(object: &Loose) -> BTreeSet<IpAddr> {
    let entries = object.status.pointer("/loadBalancer/ingress").and_then(Value::as_array).into_iter().flatten();
    entries.filter_map(|entry| entry.get("ip")?.as_str()?.parse().ok()).collect()
}

fn hosts(ingresses: &[Loose], routes: &[Loose], traefik: &BTreeSet<IpAddr>) -> Vec<HostSeen> {
    let all: BTreeSet<IpAddr> = ingresses.iter().flat_map(balanced).collect();
    let of_routes = if traefik.is_empty() { &all } else { traefik };
    let named = ingresses.iter().flat_map(of_ingress);
    let found: BTreeSet<HostSeen> = named.chain(routes.iter().flat_map(|route| of_route(route, of_routes))).collect();
    found.into_iter().collect()
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn of_ingress(ingress: &Loose) -> Vec<HostSeen> {
    let meta = &ingress.metadata;
    let over_tls: BTreeSet<&str> = list(&ingress.spec, "/tls").flat_map(|tls| list(tls, "/hosts")).filter_map(Value::as_str).collect();
    let annotated = |key: &str, word: &str| meta.annotations.get(key).is_some_and(|value| value.contains(word));
    let always = annotated("traefik.ingress.kubernetes.io/router.tls", "true")
        || annotated("traefik.ingress.kubernetes.io/router.entrypoints", "websecure");
    let mut found = Vec::new();
    for rule in list(&ingress.spec, "/rules") {
        let host = text(rule, "/host").to_ascii_lowercase();
        // A rule for every host has none that could be asked.
        if host.is_empty() {
            continue;
        }
        let mut paths: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for entry in list(rule, "/http/paths") {
            let service = text(entry, "/backend/service/name");
            let behind = paths.entry(plain(text(entry, "/path"))).or_default();
            behind.extend((!service.is_empty()).then(|| format!("{}/{service}", meta.namespace)));
        }
        let tls = always || over_tls.contains(host.as_str()) || over_tls.iter().any(|name| covers(name, &host));
        found.extend(paths.into_iter().map(|(path, backends)| HostSeen {
            object: ObjectRef::new("Ingress", &meta.namespace, &meta.name),
            host: host.clone(),
            path,
            tls,
            addresses: balanced(ingress),
            backends,
        }));
    }
    found
}

/// Whether a wildcard name covers a host: one label deep.
fn covers(wildcard: &str, host: &str) -> bool {
    wildcard.strip_prefix("*.").is_some_and(|rest| host.split_once('.').is_some_and(|(_, tail)| tail.eq_ignore_ascii_case(rest)))
}

/// A path that can be asked as it stands; of a pattern the root.
fn plain(path: &str) -> String {
    let fits = path.starts_with('/') && path.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.~".contains(c));
    if fits { path.trim_end_matches('/').to_owned() } else { String::new() }
}

fn of_route(route: &Loose, addresses: &BTreeSet<IpAddr>) -> Vec<HostSeen> {
    let meta = &route.metadata;
    let secure = list(&route.spec, "/entryPoints").filter_map(Value::as_str).any(|point| point.contains("secure"));
    let tls = secure || route.spec.get("tls").is_some_and(|tls| !tls.is_null());
    let mut found = Vec::new();
    for entry in list(&route.spec, "/routes") {
        let rule = text(entry, "/match");
        let services = list(entry, "/services").filter(|service| matches!(text(service, "/kind"), "" | "Service"));
        let key = |service: &Value| {
            let namespace = text(service, "/namespace");
            format!("{}/{}", if namespace.is_empty() { &meta.namespace } else { namespace }, text(service, "/name"))
        };
        let backends: BTreeSet<String> = services.map(key).collect();
        let path = arguments(rule, "PathPrefix").into_iter().chain(arguments(rule, "Path")).next();
        found.extend(arguments(rule, "Host").into_iter().map(|host| HostSeen {
            object: ObjectRef::new("IngressRoute", &meta.namespace, &meta.name),
            host: host.to_ascii_lowercase(),
            path: plain(path.as_deref().unwrap_or("")),
            tls,
            addresses: addresses.clone(),
            backends: backends.clone(),
        }));
    }
    found
}

/// Quoted arguments of a matcher of Traefik's rules, e.g. `Host(`a`, `b`)`; those that are negated are left out.
fn arguments(rule: &str, matcher: &str) -> Vec<String> {
    let call = format!("{matcher}(");
    let mut found = Vec::new();
    for (at, _) in rule.match_indices(&call) {
        let before = rule[..at].trim_end();
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '!') {
            continue;
        }
        let mut rest = &rule[at + call.len()..];
        while let Some(quote) = rest.trim_start_matches([' ', ',']).chars().next().filter(|c| "`\"'".contains(*c)) {
            let inner = &rest.trim_start_matches([' ', ','])[1..];
            let Some((word, tail)) = inner.split_once(quote) else { break };
            found.push(word.to_owned());
            rest = tail;
        }
    }
    found
}

fn backends(services: &[Loose], slices: &[Slice]) -> BTreeMap<String, Backend> {
    let new = |service: &Loose| Backend { external: service.spec_str("/type") == "ExternalName", ready_on: Vec::new() };
    let mut found: BTreeMap<_, _> = services.iter().map(|service| (service.metadata.key(), new(service))).collect();
    for slice in slices {
        let Some(service) = slice.metadata.labels.get(SERVICE_NAME) else { continue };
        let Some(backend) = found.get_mut(&format!("{}/{service}", slice.metadata.namespace)) else { continue };
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| endpoint.conditions.ready != Some(false));
        backend.ready_on.extend(ready.map(|endpoint| endpoint.node_name.clone().unwrap_or_default()));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_ingress_names_hosts_paths_and_backends() {
        let ingress: Loose = read(json!({
            "metadata": {"name": "git", "namespace": "gitea"},
            "spec": {
                "tls": [{"hosts": ["scm.lan", "*.apps.lan"]}],
                "rules": [
                    {"host": "SCM.lan", "http": {"paths": [
                        {"path": "/", "backend": {"service": {"name": "gitea-http", "port": {"number": 3000}}}},
                        {"path": "/api(/|$)(.*)", "backend": {"service": {"name": "api"}}},
                        {"path": "/docs/", "backend": {"resource": {"kind": "Bucket", "name": "docs"}}}]}},
                    {"host": "one.apps.lan", "http": {"paths": [{"backend": {"service": {"name": "one"}}}]}},
                    {"host": "plain.lan", "http": {"paths": [{"path": "/", "backend": {"service": {"name": "one"}}}]}},
                    {"http": {"paths": [{"path": "/", "backend": {"service": {"name": "everybody"}}}]}}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.168.22.9"}, {"hostname": "lb.lan"}]}}
        }));
        let found = hosts(&[ingress], &[], &BTreeSet::new());
        let seen: Vec<_> = found.iter().map(|host| (host.host.as_str(), host.path.as_str(), host.tls, host.backends.len())).collect();
        assert_eq!(
            seen,
            [("one.apps.lan", "", true, 1), ("plain.lan", "", false, 1), ("scm.lan", "", true, 2), ("scm.lan", "/docs", true, 0)]
        );
        assert_eq!(found[0].addresses, BTreeSet::from(["192.168.22.9".parse().unwrap()]));
        assert!(found[2].backends.contains("gitea/gitea-http") && found[2].backends.contains("gitea/api"));
    }

    #[test]
    fn an_ingress_route_is_read_by_its_rule() {
        let route: Loose = read(json!({
            "metadata": {"name": "r", "namespace": "apps"},
            "spec": {"entryPoints": ["websecure"], "routes": [
                {"match": "(Host(`a.lan`, `b.lan`) || Host(\"c.lan\")) && PathPrefix(`/x`) && !Host(`not.lan`)",
                 "services": [{"name": "web"}, {"name": "other", "namespace": "else"}, {"name": "api@internal", "kind": "TraefikService"}]},
                {"match": "HostRegexp(`.+`)", "services": [{"name": "all"}]}]}
        }));
        let address: IpAddr = "192.168.22.9".parse().unwrap();
        let found = hosts(&[], &[route], &BTreeSet::from([address]));
        let seen: Vec<_> = found.iter().map(|host| (host.host.as_str(), host.path.as_str(), host.tls)).collect();
        assert_eq!(seen, [("a.lan", "/x", true), ("b.lan", "/x", true), ("c.lan", "/x", true)]);
        assert_eq!(found[0].backends, BTreeSet::from(["apps/web".to_owned(), "else/other".to_owned()]));
        assert_eq!(found[0].addresses, BTreeSet::from([address]));
        assert_eq!(arguments("Host(`unfinished", "Host"), Vec::<String>::new());
    }

    #[test]
    fn only_ready_addresses_count() {
        let services: Vec<Loose> = vec![
            read(json!({"metadata": {"name": "web", "namespace": "apps"}, "spec": {"type": "ClusterIP"}})),
            read(json!({"metadata": {"name": "out", "namespace": "apps"}, "spec": {"type": "ExternalName"}})),
        ];
        let slice = |service: &str| {
            read::<Slice>(json!({
                "metadata": {"name": "s", "namespace": "apps", "labels": {"kubernetes.io/service-name": service}},
                "endpoints": [
                    {"conditions": {"ready": true}, "nodeName": "titan-13"},
                    {"conditions": {"ready": false, "serving": true}, "nodeName": "titan-15"},
                    {"conditions": {}}]
            }))
        };
        let empty: Slice = read(
            json!({"metadata": {"name": "s2", "namespace": "apps", "labels": {"kubernetes.io/service-name": "web"}}, "endpoints": null}),
        );
        let found = backends(&services, &[slice("web"), slice("gone"), empty]);
        assert_eq!(found["apps/web"].ready_on, ["titan-13", ""]);
        assert!(found["apps/out"].external && found.len() == 2);
    }

    #[test]
    fn traefiks_own_service_says_where_its_routes_are() {
        let service = |name: &str| {
            read::<Loose>(json!({
                "metadata": {"name": "traefik", "namespace": "kube-system", "labels": {"app.kubernetes.io/name": name}},
                "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}
            }))
        };
        assert_eq!(traefik(&[service("traefik"), service("other")]).len(), 1);
        assert_eq!(traefik(&[service("other")]).len(), 0);
    }
}
