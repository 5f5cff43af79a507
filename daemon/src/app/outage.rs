//! What the control loop orders around a shutdown: plan one and ask for it, report it, power this host off at its end.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use super::parts::Parts;
use super::topology;
use super::world::World;
use crate::cluster::port::Facts;
use crate::cluster::{ShutdownOrder, shutdown, startup};
use crate::control::{Handle, Raised, Reply, Request, RunRecord, View};
use crate::report::{self, Aftermath, RaisedReport, Subject, TriggerReading};
use crate::runbook::Status;
use crate::site::{Cause, Claim, DomainName, NodeName, Now, OnTrigger, RunId, Step, Verdict};

/// The battery runs: what cannot be seen of the cluster within this time is planned without.
const COLLECT_WITHIN: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_secs(2);
const POWER_OFF_WITHIN: Duration = Duration::from_secs(10);
const POWER_OFF_ATTEMPTS: u32 = 6;
/// A system that goes down has ended metisd by then, whatever delays it (InhibitDelayMaxSec of logind.conf(5), 90 s for a unit to stop).
const STILL_ON_AFTER: Duration = Duration::from_secs(120);
/// A disk that hangs does not keep this host from powering off.
const REPORT_WITHIN: Duration = Duration::from_secs(3);
const READ_WITHIN: Duration = Duration::from_secs(1);
const LOCKS_WITHIN: Duration = Duration::from_secs(1);

/// A shutdown that a failing UPS wants.
pub struct Wanted {
    /// Domains that are about to lose power.
    pub domains: BTreeSet<DomainName>,
    /// Why, for people.
    pub because: String,
    /// What becomes of the hosts.
    pub mode: OnTrigger,
    /// Runtime that was left, where it was known.
    pub runtime: Option<Duration>,
}

/// Plans it and asks for it, until it is admitted or its reason is gone.
pub async fn shut_down(world: Arc<World>, handle: Handle, wanted: Wanted) {
    let settings = world.settings();
    let left = wanted
        .runtime
        .map_or(settings.power.shutdown_budget, |left| left.div_f64(settings.power.thresholds.runtime_safety_factor.max(1.0)));
    let end = Instant::now() + left;
    let list = wanted.domains.iter().map(DomainName::as_str).collect::<Vec<_>>().join(", ");
    let mut said = String::new();
    loop {
        let domains: BTreeSet<_> = handle.view().unanswered().intersection(&wanted.domains).cloned().collect();
        if domains.is_empty() {
            return;
        }
        let parts = world.parts().await;
        let facts = collected(&parts, COLLECT_WITHIN).await;
        let remaining = end.saturating_duration_since(Instant::now());
        let order = ShutdownOrder {
            reason: wanted.because.clone(),
            remaining: Some(remaining),
            ..ShutdownOrder::of_ups(domains.clone(), wanted.mode, settings.power.cut_outlets)
        };
        let runbook = shutdown::plan(&parts.settings, &parts.topology, &facts, &handle.view().learned, &order);
        let request = Request::Admit {
            requester: format!("the failing power of {list}"),
            runbook,
            cause: Cause::Ups { domains },
            within: Some(remaining),
        };
        let why = match handle.request(request).await {
            Ok(Reply::Admitted { .. }) => return,
            Ok(Reply::Refused { guards }) => guards.into_iter().map(|guard| guard.message).collect::<Vec<_>>().join("; "),
            Ok(other) => format!("unexpected answer: {other:?}"),
            Err(error) => error.to_string(),
        };
        if why != said {
            tracing::warn!("{list} is about to lose power, and its shutdown waits: {why}");
            said = why;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What can be seen of the cluster in that time; what cannot stands in `unseen`.
pub async fn collected(parts: &Parts, within: Duration) -> Facts {
    let seen = match &parts.cluster {
        Ok(cluster) => cluster.collect(within).await.map_err(|error| error.to_string()),
        Err(why) => Err(why.clone()),
    };
    seen.unwrap_or_else(|why| Facts { unseen: vec![why], ..Facts::default() })
}

/// The story of a run that has ended, into the log; a shutdown's report, into the state directory too. One that was reported before
/// metisd was restarted is not told again.
pub async fn report(world: &World, view: &View, record: &RunRecord, message_id: &str) {
    let kind = record.run.book.kind.as_str();
    let path = world.settings().daemon.state_dir.join(format!("last-{kind}-report.json"));
    let has_file = matches!(kind, shutdown::KIND | startup::KIND);
    if has_file && is_reported(&path, record).await {
        return;
    }
    let (now, started, ended) = (world.now(), record.started, record.ended.unwrap_or(record.started));
    let RunRecord { id, run, requester, cause, settings, boot_id, reason, .. } = record;
    let raised: Vec<_> = record.raised.iter().map(raised).collect();
    let raised = raised.as_slice();
    // Neither logind nor a kubeconfig on a disk that hangs keeps this host from powering off.
    let locks = tokio::time::timeout(LOCKS_WITHIN, locks(world, record)).await.unwrap_or_default();
    let locks = locks.as_slice();
    let (trigger, ended_boot) = (trigger(view, record), ended_boot(&now, record, ended));
    let trigger = trigger.as_ref();
    let (topology, online, claims) = (topology::of(&world.settings(), &world.host_name), online(view), claims_of(view, id));
    let after = Aftermath { topology: &topology, online: &online, claims: &claims };
    let report = report::report(&Subject {
        id,
        run,
        requester,
        cause,
        trigger,
        settings,
        boot_id,
        started,
        ended,
        ended_boot,
        reason,
        locks,
        after,
        raised,
    });
    tracing::info!(metis.run = %id, message_id, "{}", report.story());
    if !has_file {
        return;
    }
    let write = tokio::task::spawn_blocking(move || {
        let text = serde_json::to_vec_pretty(&report).context("a report as JSON")?;
        replace(&path, &text).with_context(|| format!("writing {}", path.display()))
    });
    match tokio::time::timeout(REPORT_WITHIN, write).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!("{error:#}"),
        Ok(Err(error)) => tracing::error!("the report of {id}: {error}"),
        Err(_) => tracing::error!("the disk did not take the report of {id} within {} s", REPORT_WITHIN.as_secs()),
    }
}

fn raised(raised: &Raised) -> RaisedReport {
    let Raised { at, requester, domains, lowered, .. } = raised;
    RaisedReport { at: *at, requested_by: requester.clone(), domains: domains.clone(), lowered: *lowered }
}

/// Who holds a lock against this host's power-off, where the run has ordered one.
async fn locks(world: &World, record: &RunRecord) -> Vec<String> {
    let mut last = record.run.book.steps().filter(|step| record.run.status(&step.id) == Status::Done);
    let Some(node) = last.find_map(|step| match &step.action {
        Step::PowerOffThisHost { node, .. } => Some(node.clone()),
        _ => None,
    }) else {
        return Vec::new();
    };
    let parts = world.parts().await;
    let Ok(host) = parts.host(&node) else { return Vec::new() };
    // That nobody can tell who blocks must not hold it.
    let held = parts.hosts.blockers(host, LOCKS_WITHIN).await.unwrap_or_default();
    held.into_iter().map(|lock| format!("powered off past the lock of {lock}")).collect()
}

/// Whether the file tells of that run already; a journal that was begun anew gives the same numbers again.
async fn is_reported(path: &Path, record: &RunRecord) -> bool {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read(path));
    let Ok(Ok(Ok(text))) = tokio::time::timeout(READ_WITHIN, read).await else { return false };
    let told: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    told["run"] == record.id.as_str() && serde_json::to_value(record.started).is_ok_and(|started| told["span"]["started"] == started)
}

/// The newest reading that one of the domains was shed for.
fn trigger(view: &View, record: &RunRecord) -> Option<TriggerReading> {
    let domains = record.domains();
    let newest = record.raised.iter().map(|raised| raised.at).fold(record.started, jiff::Timestamp::max);
    let triggers = domains.iter().filter_map(|domain| view.triggers.get(domain)).filter(|trigger| trigger.at <= newest);
    triggers.max_by_key(|trigger| trigger.at).map(|trigger| TriggerReading {
        at: trigger.at,
        because: trigger.because.clone(),
        runtime_seconds: trigger.runtime.map(|left| left.as_secs()),
        budget_seconds: trigger.budget.as_secs(),
    })
}

fn online(view: &View) -> BTreeSet<DomainName> {
    let online = view.domains.iter().filter(|(_, belief)| belief.verdict == Verdict::Online);
    online.map(|(domain, _)| domain.clone()).collect()
}

fn claims_of(view: &View, run: &RunId) -> Vec<Claim> {
    view.claims.iter().filter(|record| record.run == *run).map(|record| record.claim.clone()).collect()
}

/// Boot time at which a run of this boot ended; it was a moment ago.
fn ended_boot(now: &Now, record: &RunRecord, ended: jiff::Timestamp) -> Option<Duration> {
    let since = Duration::try_from(now.wall.duration_since(ended)).unwrap_or_default();
    (record.boot_id == now.boot_id).then(|| now.boot.saturating_sub(since))
}

/// Readers see the old file or the new one, never half of one.
pub(super) fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".report-").tempfile_in(folder)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Orders this host's own power-off: the run is recorded, nothing else is left to do. That the order was taken is recorded after it: a
/// metisd that is killed in between is followed by one that gives it again.
pub async fn power_off(world: Arc<World>, handle: Handle, run: RunId, node: NodeName, delay: Duration) {
    let ordered = order_power_off(&world, &run, &node, delay).await;
    if ordered.is_ok() {
        tracing::info!(metis.run = %run, "{node}, this host, powers off in {} s", delay.as_secs());
    }
    let taken = ordered.is_ok();
    if let Err(error) = handle.request(Request::Farewell { run: run.clone(), trouble: ordered.err() }).await {
        tracing::error!(metis.run = %run, "what became of this host's power-off could not be recorded: {error}");
    }
    // The loop ends once nobody holds a handle any more.
    drop(handle);
    if taken {
        let halt = world.parts().await.settings.shutdown.halt_time;
        still_on(&world, &run, &node, delay + STILL_ON_AFTER.max(halt)).await;
    } else {
        withdraw_outlets(&world, &run).await;
    }
}

async fn order_power_off(world: &World, run: &RunId, node: &NodeName, delay: Duration) -> Result<(), String> {
    let parts = world.parts().await;
    let mut attempt = 1;
    loop {
        let ordered = match parts.host(node) {
            Ok(host) => parts.hosts.power_off(host, delay, POWER_OFF_WITHIN).await.map_err(|error| error.to_string()),
            Err(why) => Err(why),
        };
        match ordered {
            Err(why) if attempt < POWER_OFF_ATTEMPTS => {
                tracing::error!(metis.run = %run, "{node}, this host, cannot be ordered to power off (attempt {attempt}): {why}");
            }
            ended => return ended,
        }
        attempt += 1;
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Who is still here after that time stays on, by somebody's wish (shutdown -c) or because something holds it up.
async fn still_on(world: &World, run: &RunId, node: &NodeName, after: Duration) {
    tokio::time::sleep(after).await;
    tracing::error!(
        metis.run = %run,
        "{node}, this host, still runs {} s after it was ordered to power off: the order was cancelled, or something holds it up \
         (systemd-inhibit --list, systemctl list-jobs)",
        after.as_secs()
    );
    withdraw_outlets(world, run).await;
}

/// The outlets are not cut when this host powers off some other time.
pub async fn withdraw_outlets(world: &World, run: &RunId) {
    if let Err(why) = world.withdraw_outlets(run).await {
        tracing::error!(metis.run = %run, "this host stays on, and the word for its shutdown hook cannot be taken back: {why}; remove that file");
    }
}
