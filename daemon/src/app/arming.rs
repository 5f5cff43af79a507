//! What stands against acting upon triggers, and what a person should know before.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::SignedDuration;

use super::datastore;
use super::parts::Parts;
use super::world::World;
use crate::api::port::Arming;
use crate::config::{HostRole, Settings};
use crate::control::{PreparedRecord, View};
use crate::host::units;
use crate::power::files::NUT_DIR;
use crate::power::masters::{self, Evidence};
use crate::power::{checks, checks::Level};
use crate::site::{Access, Guard, Now, OnTrigger, SettingsDigest};

/// A host that does not answer within this time would not be stopped in time either.
const PROBE_WITHIN: Duration = Duration::from_secs(8);
const COLLECT_WITHIN: Duration = Duration::from_secs(8);

/// Looks at all of it. A host or an API server that is down at the moment is told and does not refuse: the next outage may find it up.
pub async fn arming(world: &World, view: &View) -> Arming {
    let (settings, parts) = (world.settings(), world.parts().await);
    let evidence = evidence(&settings, &world.host_name).await;
    let mut guards = standing(&settings, &parts);
    guards.extend(prepared(view.prepared.as_ref(), settings.power.prepared_within, &settings.digest, &world.now()));
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

/// What stands against arming of the newest `metisctl prepare`; `within`: it may be so old, `None`: nobody asks for one.
fn prepared(record: Option<&PreparedRecord>, within: Option<Duration>, digest: &SettingsDigest, now: &Now) -> Vec<Guard> {
    const AGAIN: &str = "run `metisctl prepare`";
    let Some(within) = within else { return Vec::new() };
    let Some(record) = record else {
        let message = format!("nobody has looked yet whether the site is prepared: {AGAIN}, and mend what it finds");
        return vec![guard("prepare.missing", message)];
    };
    let prepared = &record.prepared;
    let mut guards: Vec<Guard> = prepared.problems.iter().map(|problem| guard("prepare.problem", problem.clone())).collect();
    if prepared.settings != *digest {
        guards.push(guard("prepare.settings", format!("the configuration changed since `metisctl prepare` of {:.0}: {AGAIN}", record.at)));
    }
    let age = now.wall.duration_since(record.at);
    if age > SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX) {
        let days = age.as_hours() / 24;
        guards.push(guard("prepare.old", format!("`metisctl prepare` was {days} days ago, longer than power.prepared_within: {AGAIN}")));
    }
    if !prepared.problems.is_empty() {
        guards.push(guard("prepare.red", format!("mend these {} problems, then {AGAIN}", prepared.problems.len())));
    }
    guards
}

/// What is found on this host of others that would act on the same UPSes.
pub(super) async fn evidence(settings: &Settings, this_host: &str) -> Evidence {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Prepared;
    use crate::site::BootId;

    #[test]
    fn arming_asks_for_a_look_that_is_green_recent_and_of_these_settings() {
        let at = |hours: i64| jiff::Timestamp::from_second(1_800_000_000 + 3600 * hours).unwrap();
        let now = Now { wall: at(0), boot: Duration::from_secs(1), boot_id: BootId::new("b"), synced: true };
        let day = Some(Duration::from_secs(24 * 3600));
        let looked = |hours: i64, settings: &str, problems: &[&str]| PreparedRecord {
            at: at(-hours),
            prepared: Prepared {
                requester: "ada".to_owned(),
                settings: SettingsDigest::new(settings),
                problems: problems.iter().map(ToString::to_string).collect(),
                warnings: 3,
                unclear: 1,
            },
        };
        let table: [(Option<PreparedRecord>, Option<Duration>, &[&str]); 8] = [
            (None, day, &["prepare.missing"]),
            (None, None, &[]),
            (Some(looked(1, "d1", &[])), day, &[]),
            (Some(looked(-1, "d1", &[])), day, &[]),
            (Some(looked(25, "d1", &[])), day, &["prepare.old"]),
            (Some(looked(1, "d0", &[])), day, &["prepare.settings"]),
            (
                Some(looked(99, "d0", &["a: x", "b: y"])),
                day,
                &["prepare.problem", "prepare.problem", "prepare.settings", "prepare.old", "prepare.red"],
            ),
            (Some(looked(99, "d0", &["a: x"])), None, &[]),
        ];
        for (record, within, expected) in table {
            let guards = prepared(record.as_ref(), within, &SettingsDigest::new("d1"), &now);
            assert_eq!(guards.iter().map(|guard| guard.name.as_str()).collect::<Vec<_>>(), expected, "{record:?}");
            assert!(guards.iter().all(|guard| guard.waiver.is_none()));
        }
    }
}
