//! Steps of a start-up, performed through the ports: gates, k3s, and taking back what metis holds.

pub mod ask;
mod come_back;
mod command;
mod control_plane;
mod hosts;
mod outside;
mod power;
mod repair;
mod take_back;
mod vault;
mod wake;

pub use come_back::come_back;
use repair::Mender;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::shutdown::Attempt;
use crate::cluster::port::Platform;
use crate::cluster::seen::{Expected, Seen};
use crate::cluster::startup::{self, judge};
use crate::host::port::Command;
use crate::power::Snapshot;
use crate::runbook::{Mode, StepResult};
use crate::site::{Access, Gate, Host, Judged, NodeName, Step};

/// Pause between two looks of one gate.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Gates that are judged side by side share a look that is not older.
const LOOK_AGE: Duration = Duration::from_secs(2);
/// Regressions of a soak that are told.
const REGRESSIONS: usize = 20;
/// A gate that goes on changing is recorded no more often.
const TELL_EVERY: Duration = Duration::from_secs(15);
/// A controller has seen by then what was resumed.
const BY_ITSELF: Duration = Duration::from_secs(20);

impl Attempt<'_> {
    /// Performs a step of a start-up.
    pub(super) async fn start_up(&self) -> StepResult {
        let looks = self.job.mode == Mode::Probe || matches!(&self.job.action, Step::Await { .. });
        if !looks && let Err(result) = self.unless_another_commands() {
            return result;
        }
        let done = match &self.job.action {
            Step::Await { gate: Gate::Soak { window }, patience } => return self.soak(*window, *patience).await,
            Step::Await { gate, patience } => return self.wait(gate, *patience).await,
            Step::Wake { node } => return self.wake(node).await,
            Step::BringUpK3s { node, role } if self.job.mode == Mode::Probe => return self.is_up(node, *role).await,
            Step::BringUpK3s { node, role } => self.bring_up(node, *role).await,
            Step::ReleaseCordons { except } => self.release_cordons(except).await,
            Step::ReleaseFlux => self.release_flux().await,
            Step::Reconcile if self.job.mode == Mode::Probe => return self.is_applied().await,
            Step::Reconcile => self.reconcile().await,
            other => Err(super::perform::permanent(format!("{} is no step that a start-up performs so", other.kind()))),
        };
        match done {
            Ok(detail) => StepResult::Done { detail },
            Err(result) => result,
        }
    }

    /// Looks until the gate is passed, or nothing has become better for as long as its patience lasts.
    async fn wait(&self, gate: &Gate, patience: Duration) -> StepResult {
        let (mut best, mut since) = (0, Instant::now());
        let mut told: Option<(Instant, String)> = None;
        let mut mender = Mender::default();
        loop {
            let judged = self.judge(gate).await;
            if let Judged::Ready(detail) = judged {
                return StepResult::Done { detail };
            }
            let done = if let Judged::NotReady { done, .. } = &judged { *done } else { best };
            if done > best || self.held() {
                since = Instant::now();
            }
            best = best.max(done);
            if matches!(judged, Judged::NotReady { .. }) && !self.held() && self.mend(gate, &mut mender).await {
                since = Instant::now();
            }
            if since.elapsed() >= patience {
                return out_of_patience(gate, &judged, since.elapsed(), &self.used_up(gate, &mender));
            }
            let text = judged.text();
            if told.as_ref().is_none_or(|(at, last)| last != text && at.elapsed() >= TELL_EVERY) {
                self.tell(format!("waiting: {text}")).await;
                told = Some((Instant::now(), text.to_owned()));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// While the run is held nothing comes by itself, and no patience is lost.
    fn held(&self) -> bool {
        self.handle.view().run(self.job.run.as_str()).is_some_and(|record| record.run.hold.is_some())
    }

    async fn judge(&self, gate: &Gate) -> Judged {
        match gate {
            Gate::Command => self.commands(true),
            Gate::Lease => self.commands(false),
            Gate::Mains => self.power(|power| power::mains(power, self.parts.settings.startup.require_ups_battery)),
            Gate::Charge { minimum } => self.power(|power| power::charge(power, *minimum)),
            Gate::Clocks { hosts } => self.clocks(hosts).await,
            Gate::Packages { node } => self.packages(node).await,
            Gate::HostUp { node } => self.host_up(node).await,
            Gate::ControlPlane => self.control_plane().await,
            Gate::NodeReady { node } => self.node_ready(node).await,
            Gate::Vault => self.vault().await,
            Gate::FluxSource => self.seen(judge::source).await,
            Gate::Flux => self.seen(judge::flux).await,
            Gate::Namespaces => self.seen(judge::namespaces).await,
            Gate::Workloads => self.workloads().await,
            Gate::Ingress => self.ingress().await,
            Gate::Services => self.services().await,
            Gate::Endpoints => self.endpoints().await,
            Gate::Soak { .. } => Judged::CannotTell("a soak is not judged by one look".to_owned()),
        }
    }

    /// By what the UPSes say.
    fn power(&self, judge: impl Fn(&Snapshot) -> Judged) -> Judged {
        let view = self.handle.view();
        view.power.as_ref().map_or_else(|| Judged::CannotTell("no UPS was polled yet".to_owned()), judge)
    }

    async fn host_up(&self, node: &NodeName) -> Judged {
        let host = match self.parts.host(node) {
            Ok(host) => host,
            Err(why) => return Judged::CannotTell(why),
        };
        if let Err(error) = self.parts.hosts.probe(host, self.left()).await {
            return Judged::NotReady { why: error.to_string(), done: 0 };
        }
        match self.release_power(node).await {
            Ok(()) => Judged::Ready(format!("{node} is on and lets us in")),
            Err(error) => Judged::CannotTell(error.detail().to_owned()),
        }
    }

    fn platform(&self) -> Result<&Arc<dyn Platform>, String> {
        self.parts.platform.as_ref().map_err(Clone::clone)
    }

    async fn node_ready(&self, node: &NodeName) -> Judged {
        let host = match self.parts.host(node) {
            Ok(host) => host.clone(),
            Err(why) => return Judged::CannotTell(why),
        };
        let seen = match self.look().await {
            Ok(seen) => seen,
            Err(why) => return Judged::CannotTell(why),
        };
        match self.boot_id(&host, &seen).await {
            Ok(boot_id) => judge::node(&seen, &host.node_name, &boot_id),
            Err(why) => Judged::CannotTell(format!("{node}: its boot id cannot be read: {why}")),
        }
    }

    /// As the host itself says. Who is reached only through the API is believed what his kubelet says while it renews its Lease.
    async fn boot_id(&self, host: &Host, seen: &Seen) -> Result<String, String> {
        if host.this_host {
            return Ok(self.world.now().boot_id.to_string());
        }
        if host.access == Access::HelperPod {
            let nodes = seen.nodes.as_ref().map_err(Clone::clone)?;
            return Ok(nodes.iter().find(|node| node.name == host.node_name).map(|node| node.boot_id.clone()).unwrap_or_default());
        }
        let read = Command { argv: vec!["cat".to_owned(), "/proc/sys/kernel/random/boot_id".to_owned()], root: false };
        let output = self.parts.hosts.run(host, &read, self.left()).await.map_err(|error| error.to_string())?;
        Ok(output.stdout.trim().to_owned())
    }

    async fn look(&self) -> Result<Arc<Seen>, String> {
        let platform = self.platform()?;
        Ok(self.parts.look.not_older(LOOK_AGE, platform.as_ref(), self.left()).await)
    }

    async fn seen(&self, judge: impl Fn(&Seen, &Expected) -> Judged) -> Judged {
        match self.look().await {
            Ok(seen) => judge(&seen, &self.expected()),
            Err(why) => Judged::CannotTell(why),
        }
    }

    fn expected(&self) -> Expected {
        let startup = &self.parts.settings.startup;
        let view = self.handle.view();
        let steps = view.run(self.job.run.as_str()).into_iter().flat_map(|record| record.run.book.steps());
        let left_out = steps.filter_map(|step| match &step.action {
            Step::ReleaseCordons { except } => Some(self.kubernetes_names(except)),
            _ => None,
        });
        Expected {
            url: startup.expected_url.clone(),
            branch: startup.expected_branch.clone(),
            source: startup.source.clone(),
            optional: startup.optional.clone(),
            namespaces: startup.namespaces.clone(),
            ignored: left_out.flatten().collect(),
        }
    }

    fn kubernetes_names(&self, nodes: &BTreeSet<NodeName>) -> BTreeSet<String> {
        nodes.iter().filter_map(|node| self.parts.topology.hosts.get(node)).map(|host| host.node_name.clone()).collect()
    }

    /// Nothing may regress for `window`; what cannot be seen is no proof that nothing did.
    async fn soak(&self, window: Duration, patience: Duration) -> StepResult {
        let begun = Instant::now();
        let (mut stable, mut regressed) = (None::<Instant>, Vec::<String>::new());
        let mut outside = None;
        loop {
            let mut troubles = match self.look().await {
                Ok(seen) => judge::regressions(&seen, &self.expected()),
                Err(why) => Err(why),
            };
            if troubles.as_ref().is_ok_and(Vec::is_empty) {
                troubles = self.outside(&mut outside).await;
            }
            match troubles {
                Ok(troubles) if troubles.is_empty() => {
                    if stable.get_or_insert_with(Instant::now).elapsed() >= window {
                        let restarts = if regressed.is_empty() { String::new() } else { format!("; on the way: {}", regressed.join("; ")) };
                        return StepResult::Done { detail: format!("nothing regressed for {} s{restarts}", window.as_secs()) };
                    }
                }
                other => {
                    let trouble = other.map_or_else(|why| why, |troubles| troubles.join("; "));
                    stable = None;
                    if begun.elapsed() >= patience.max(window) {
                        return StepResult::NotReady { detail: format!("not stable within {} s: {trouble}", begun.elapsed().as_secs()) };
                    }
                    // A flapping site must not fill the journal.
                    if regressed.last() != Some(&trouble) && regressed.len() < REGRESSIONS {
                        self.tell(format!("the soak begins anew: {trouble}")).await;
                        regressed.push(trouble);
                    }
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// `used_up`: which repairs were used; empty where the gate has none.
fn out_of_patience(gate: &Gate, judged: &Judged, waited: Duration, used_up: &str) -> StepResult {
    let advice = startup::row(gate).on_failure;
    let used_up = if used_up.is_empty() { String::new() } else { format!("; {used_up}") };
    let detail = format!("{}; nothing became better for {} s{used_up}. What to do: {advice}", judged.text(), waited.as_secs());
    match judged {
        Judged::CannotTell(_) => StepResult::CannotTell { detail },
        Judged::Ready(_) | Judged::NotReady { .. } => StepResult::NotReady { detail },
    }
}
