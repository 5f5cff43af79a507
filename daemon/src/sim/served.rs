//! What a simulated site serves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::platform::kubelet;
use super::site::{Model, Site};
use crate::cluster::exposed::{Backend, Exposed, HostSeen};
use crate::cluster::port::Exposure;
use crate::probe::port::{Answer, Ask, Page, Prober, Silence};
use crate::site::{ObjectRef, Scheme};

#[tonic::async_trait]
impl Exposure for Site {
    async fn exposed(&self, within: Duration) -> Exposed {
        match self.call(within, |model| Ok(exposed(model))).await {
            Ok(exposed) => exposed,
            Err(error) => Exposed { hosts: Err(error.to_string()), backends: Err(error.to_string()) },
        }
    }
}

#[tonic::async_trait]
impl Prober for Site {
    async fn ask(&self, ask: &Ask, _within: Duration) -> Result<Answer, Silence> {
        self.pass(|tempo| tempo.call).await;
        let (model, host) = (self.model(), &ask.target.host);
        if serving(&model).is_empty() {
            return Err(Silence::NotThere(format!("{}: connection refused", ask.target)));
        }
        // As Traefik answers for a host that it does not know.
        let unknown = || Page { code: 404, body: b"404 page not found\n".to_vec(), whole: true, ..Page::default() };
        let key = if ask.target.scheme == Scheme::Http { plain(host) } else { host.clone() };
        let page = model.answers.get(&key).map(|answer| Page {
            code: answer.code,
            headers: answer.headers.clone(),
            body: answer.body.clone().into_bytes(),
            whole: true,
        });
        Ok(Answer::Page(page.unwrap_or_else(unknown)))
    }
}

/// Its answer without TLS; a host that has one names none in its rule.
fn plain(host: &str) -> String {
    format!("http://{host}")
}

/// Nodes on which pods run.
fn serving(model: &Model) -> Vec<String> {
    let serves = model.nodes.iter().filter(|(name, node)| kubelet(model, name) && !node.pods.is_empty());
    serves.map(|(name, _)| name.clone()).collect()
}

fn exposed(model: &Model) -> Exposed {
    let hosts = model.ingresses.iter().map(|(host, backend)| HostSeen {
        object: ObjectRef::new("Ingress", "apps", host),
        host: host.clone(),
        path: String::new(),
        tls: !model.answers.contains_key(&plain(host)),
        addresses: BTreeSet::new(),
        backends: BTreeSet::from([backend.clone()]),
    });
    let ready_on = serving(model);
    let backends: BTreeMap<_, _> =
        model.ingresses.values().map(|backend| (backend.clone(), Backend { external: false, ready_on: ready_on.clone() })).collect();
    Exposed { hosts: Ok(hosts.collect()), backends: Ok(backends) }
}
