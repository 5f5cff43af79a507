//! What the cluster offers to the outside, as a real API server says it: Ingresses, IngressRoutes where their CRD is there, and who is
//! behind Services.

use metis_tests::plane::{Options, Plane, available};
use metisd::cluster::exposed::Exposed;
use metisd::cluster::port::{Exposure, Platform};
use metisd::cluster::startup::exposed::{backend_trouble, endpoints, living};
use metisd::site::Judged;

use super::*;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: default}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: default}
spec: {type: ExternalName, externalName: elsewhere.lan}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: default}
spec:
  tls: [{hosts: [web.lan]}]
  rules:
  - host: web.lan
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
  - host: empty.lan
    http: {paths: [{path: /x, pathType: Prefix, backend: {service: {name: empty, port: {number: 80}}}}]}
";

const CRD: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ingressroutes.traefik.io}
spec:
  group: traefik.io
  names: {kind: IngressRoute, plural: ingressroutes, singular: ingressroute, listKind: IngressRouteList}
  scope: Namespaced
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

const ROUTE: &str = "
apiVersion: traefik.io/v1alpha1
kind: IngressRoute
metadata: {name: route, namespace: default}
spec:
  entryPoints: [websecure]
  routes:
  - match: Host(`route.lan`) && PathPrefix(`/api`)
    kind: Rule
    services: [{name: out, port: 80}]
";

fn look(metis: &Metis) -> Exposed {
    metis.run(metis.cluster.exposed(seconds(15)))
}

fn hosts(exposed: &Exposed) -> Vec<(String, bool)> {
    exposed.hosts.as_ref().unwrap().iter().map(|host| (format!("{}{}", host.host, host.path), host.tls)).collect()
}

#[test]
fn hosts_and_who_is_behind_them() {
    if !available("hosts of the ingress") {
        return;
    }
    let mut plane = Plane::start(&Options::default()).unwrap();
    plane.kwok(&["titan-13"]).unwrap();
    plane.apply(&deployment("web", 2, "titan-13", "", "")).unwrap();
    plane.apply(OBJECTS).unwrap();
    wait_ready(&plane, &["web"]);
    let metis = Metis::of(&plane);
    // Without Traefik's CRDs there are no routes, and that is no trouble.
    let wanted = BTreeSet::from(["default/web".to_owned()]);
    let judge = || endpoints(&look(&metis), &metis.run(metis.cluster.see(seconds(15))), &wanted);
    plane
        .wait(60, "addresses of the Service", || {
            let judged = judge();
            anyhow::ensure!(matches!(judged, Judged::Ready(_)), "{judged:?}");
            Ok(())
        })
        .unwrap();
    let exposed = look(&metis);
    assert_eq!(hosts(&exposed), [("empty.lan/x".to_owned(), false), ("web.lan".to_owned(), true)]);
    let (found, backends) = (exposed.hosts.unwrap(), exposed.backends.unwrap());
    let living = living(&metis.run(metis.cluster.see(seconds(15)))).unwrap();
    assert_eq!(living, BTreeSet::from(["titan-13".to_owned()]));
    assert_eq!(backend_trouble(&found[1], &backends, &living), None);
    let nobody = backend_trouble(&found[0], &backends, &living).unwrap();
    assert!(nobody.contains("Service default/empty has no ready address"), "{nobody}");
    // Addresses of a node that has gone stand for a while: they are not believed.
    assert!(backend_trouble(&found[1], &backends, &BTreeSet::new()).unwrap().contains("kubelet is not there"));
    assert!(backends["default/out"].external);

    plane.apply(CRD).unwrap();
    plane.wait(60, "Traefik's kind", || plane.apply(ROUTE).map(drop)).unwrap();
    let routed = plane.wait(60, "a route", || {
        let found = hosts(&look(&metis));
        anyhow::ensure!(found.contains(&("route.lan/api".to_owned(), true)), "{found:?}");
        Ok(())
    });
    routed.unwrap();
    plane.kubectl(&["scale", "deployment/web", "--replicas=0"]).unwrap();
    plane
        .wait(60, "a Service without addresses", || {
            let judged = judge();
            anyhow::ensure!(
                matches!(&judged, Judged::NotReady { why, .. } if why.contains("default/web has no ready address")),
                "{judged:?}"
            );
            Ok(())
        })
        .unwrap();
    plane.freeze().unwrap();
    let blind = metis.run(metis.cluster.exposed(seconds(2)));
    assert!(blind.hosts.is_err() && blind.backends.is_err());
    plane.thaw().unwrap();
}
