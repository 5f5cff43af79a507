//! What stands against acting upon triggers, and what a person should know before.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::datastore;
use super::parts::Parts;
use super::world::World;
use crate::api::port::Arming;
use crate::config::{HostRole, Settings};
use crate::host::units;
use crate::power::files::NUT_DIR;
use crate::power::masters::{self, Evidence};
use crate::power::{checks, checks::Level};
use crate::site::{Access, Guard, OnTrigger};

/// A host that does not answer within this time would not be stopped in time either.
const PROBE_WITHIN: Duration = Duration::from_secs(8);
const COLLECT_WITHIN: Duration = Duration::from_secs(8);

/// Looks at all of it. A host or an API server that is down at the moment is told and does not refuse: the next outage may find it up.
pub async fn arming(world: &World) -> Arming {
    let (settings, parts) = (world.settings(), world.parts().await);
    let evidence = evidence(&settings, &world.host_name).await;
    let mut guards = standing(&settings, &parts);
    guards.extend(masters::guards(&settings.power, &evidence));
    let names = [world.host_name.clone()];
    let findings = checks::findings(&settings.power, &evidence.files, &names, &settings.daemon.runtime_dir);
    guards
        .extend(findings.iter().filter(|finding| finding.level == Level::Bad).map(|finding| guard(finding.name, finding.message.clone())));
    guards.extend(credentials(&settings, &parts).await);
    let (of, name) = (Arc::clone(&settings), world.host_name.clone());
    guards.extend(tokio::task::spawn_blocking(move || datastore::guards(&of, &name)).await.unwrap_or_default());
    let mut warnings: Vec<String> =
        findings.iter().filter(|finding| finding.level == Level::Warning).map(|finding| finding.message.clone()).collect();
    warnings.extend(unreachable(&parts).await);
    warnings.extend(blocked(&parts).await);
    let mode = if settings.power.on_trigger == OnTrigger::Observe { OnTrigger::ClusterOnly } else { settings.power.on_trigger };
    Arming { guards, warnings, mode }
}

fn guard(name: &str, message: String) -> Guard {
    Guard { name: name.to_owned(), message, waiver: None }
}

/// What the configuration alone rules out.
fn standing(settings: &Settings, parts: &Parts) -> Vec<Guard> {
    let mut guards = Vec::new();
    let role = settings.daemon.host_role;
    if !matches!(role, HostRole::Coordinator | HostRole::Peer) {
        let message = format!("daemon.host_role is `{role}`: only a coordinator or a peer acts upon triggers");
        guards.push(guard("daemon.host_role", message));
    }
    if settings.power.domains.is_empty() {
        let message = "no power domain is configured (power.upses, power.domains): there is nothing that could trigger";
        guards.push(guard("power.no_domain", message.to_owned()));
    }
    if !parts.topology.hosts.values().any(|host| host.this_host) {
        let message = "this host is none of the inventory: set `hosts.this_host`";
        guards.push(guard("hosts.this_host", message.to_owned()));
    }
    guards
}

/// What is found on this host of others that would act on the same UPSes.
async fn evidence(settings: &Settings, this_host: &str) -> Evidence {
    let read = tokio::task::spawn_blocking(|| Evidence::read(Path::new(NUT_DIR))).await;
    let asked = units::ask(&masters::units(&settings.power), PROBE_WITHIN).await;
    Evidence { active: asked.active, unknown: asked.unknown, host_names: vec![this_host.to_owned()], ..read.unwrap_or_default() }
}

/// upsd takes wrong passwords without a word until they are needed.
async fn credentials(settings: &Settings, parts: &Parts) -> Vec<Guard> {
    let with_login = settings.power.upses.iter().filter(|ups| ups.username.is_some());
    let checks = with_login.map(async |ups| parts.primary.secondaries(&ups.name, PROBE_WITHIN).await.err());
    join_all(checks).await.into_iter().flatten().map(|why| guard("power.credentials", why)).collect()
}

/// Locks that would block this host's power-off now. They are passed over, but whoever holds one may be in the middle of something.
async fn blocked(parts: &Parts) -> Vec<String> {
    let Some(this) = parts.topology.hosts.values().find(|host| host.this_host && host.access != Access::None) else { return Vec::new() };
    let held = parts.hosts.blockers(this, PROBE_WITHIN).await.unwrap_or_default();
    held.into_iter().map(|lock| format!("{}: a lock blocks its power-off, and would be passed over: {lock}", this.name)).collect()
}

/// Hosts and API servers that do not answer now.
async fn unreachable(parts: &Parts) -> Vec<String> {
    let reached = parts.topology.hosts.values().filter(|host| host.access != Access::None);
    let probes = reached.map(async |host| parts.hosts.probe(host, PROBE_WITHIN).await.err().map(|error| format!("{}: {error}", host.name)));
    let mut warnings: Vec<String> = join_all(probes).await.into_iter().flatten().collect();
    match &parts.cluster {
        Ok(cluster) => match cluster.collect(COLLECT_WITHIN).await {
            Ok(facts) => warnings.extend(facts.unseen.into_iter().map(|why| format!("not seen of the cluster: {why}"))),
            Err(error) => warnings.push(format!("the cluster cannot be asked: {error}")),
        },
        Err(why) => warnings.push(why.clone()),
    }
    warnings
}
