//! Steps of a start-up, performed through the ports: gates, k3s, and taking back what metis holds.

pub mod ask;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::claims::held_by_any;
use super::shutdown::{Attempt, Done, all_well, of_cluster, of_host, root, unit};
use super::world::World;
use crate::api::port::StartupQuestion;
use crate::cluster::port::{ClusterError, Platform};
use crate::cluster::seen::{Expected, Seen};
use crate::cluster::startup::{self, judge};
use crate::config::HostRole;
use crate::control::{Handle, Reply, Request};
use crate::host::port::Command;
use crate::runbook::{Mode, StepResult};
use crate::site::{Access, Cause, Change, Gate, Host, Judged, K3sRole, NodeName, ObjectRef, Step, Verdict};

/// Pause between two looks of one gate.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Gates that are judged side by side share a look that is not older.
const LOOK_AGE: Duration = Duration::from_secs(2);
/// Regressions of a soak that are told.
const REGRESSIONS: usize = 20;
/// A gate that goes on changing is recorded no more often.
const TELL_EVERY: Duration = Duration::from_secs(15);
const ASK_AGAIN: Duration = Duration::from_secs(10);

impl Attempt<'_> {
    /// Performs a step of a start-up.
    pub(super) async fn start_up(&self) -> StepResult {
        let done = match &self.job.action {
            Step::Await { gate: Gate::Soak { window }, patience } => return self.soak(*window, *patience).await,
            Step::Await { gate, patience } => return self.wait(gate, *patience).await,
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
        loop {
            let judged = self.judge(gate).await;
            if let Judged::Ready(detail) = judged {
                return StepResult::Done { detail };
            }
            let better = matches!(&judged, Judged::NotReady { done, .. } if *done > best);
            if let Judged::NotReady { done, .. } = &judged {
                best = best.max(*done);
            }
            if better || self.held() {
                since = Instant::now();
            }
            if since.elapsed() >= patience {
                return out_of_patience(gate, &judged, since.elapsed());
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
            Gate::Mains => self.mains(),
            Gate::Charge { minimum } => self.charge(*minimum),
            Gate::Clocks => {
                let not = || Judged::NotReady { why: "this host's clock is not synchronised".to_owned(), done: 0 };
                if self.world.now().synced { Judged::Ready("this host's clock is synchronised".to_owned()) } else { not() }
            }
            Gate::HostUp { node } => self.host_up(node).await,
            Gate::ControlPlane => self.control_plane().await,
            Gate::NodeReady { node } => self.node_ready(node).await,
            Gate::FluxSource => self.seen(judge::source).await,
            Gate::Flux => self.seen(judge::flux).await,
            Gate::Namespaces => self.seen(judge::namespaces).await,
            Gate::Workloads => self.seen(judge::workloads).await,
            Gate::Soak { .. } => Judged::CannotTell("a soak is not judged by one look".to_owned()),
        }
    }

    /// A UPS that is not heard from says nothing about the mains, and holds nothing up unless it is asked for.
    fn mains(&self) -> Judged {
        let view = self.handle.view();
        let Some(power) = &view.power else { return Judged::CannotTell("no UPS was polled yet".to_owned()) };
        let on_battery: Vec<_> = power
            .upses
            .iter()
            .filter(|ups| matches!(ups.verdict, Verdict::OnBattery | Verdict::Critical))
            .map(|ups| ups.name.as_str())
            .collect();
        if !on_battery.is_empty() {
            return Judged::NotReady { why: format!("on battery: {}", on_battery.join(", ")), done: 0 };
        }
        let silent: Vec<_> = power.upses.iter().filter(|ups| ups.verdict == Verdict::Unknown).map(|ups| ups.name.as_str()).collect();
        match silent.is_empty() {
            true => Judged::Ready("all UPSes are on the mains".to_owned()),
            false if self.parts.settings.startup.require_ups_battery => {
                Judged::CannotTell(format!("not heard from: {}", silent.join(", ")))
            }
            false => Judged::Ready(format!("no UPS says that it runs on battery; not heard from: {}", silent.join(", "))),
        }
    }

    fn charge(&self, minimum: u8) -> Judged {
        let view = self.handle.view();
        let Some(power) = &view.power else { return Judged::CannotTell("no UPS was polled yet".to_owned()) };
        let low: Vec<_> = power
            .upses
            .iter()
            .filter_map(|ups| Some((&ups.name, ups.charge?)))
            .filter(|(_, charge)| *charge < f64::from(minimum))
            .map(|(name, charge)| (format!("{name} holds {charge:.0} % of the {minimum} % that are asked for"), charge))
            .collect();
        if low.is_empty() {
            return Judged::Ready(format!("no UPS holds less than {minimum} %"));
        }
        let least = low.iter().map(|(_, charge)| *charge).fold(100.0, f64::min);
        Judged::NotReady { why: low.into_iter().map(|(text, _)| text).collect::<Vec<_>>().join(", "), done: least.max(0.0) as u64 }
    }

    async fn host_up(&self, node: &NodeName) -> Judged {
        let host = match self.parts.host(node) {
            Ok(host) => host,
            Err(why) => return Judged::CannotTell(why),
        };
        match self.parts.hosts.probe(host, self.left()).await {
            Ok(()) => Judged::Ready(format!("{node} is on and lets us in")),
            Err(error) => Judged::NotReady { why: error.to_string(), done: 0 },
        }
    }

    fn platform(&self) -> Result<&Arc<dyn Platform>, String> {
        self.parts.platform.as_ref().map_err(Clone::clone)
    }

    async fn control_plane(&self) -> Judged {
        let ready = match self.platform() {
            Ok(platform) => platform.ready(self.left()).await,
            Err(why) => return Judged::CannotTell(why),
        };
        match ready {
            Ok(()) => Judged::Ready("the API is ready".to_owned()),
            Err(ClusterError::Refused(why)) => Judged::CannotTell(why),
            Err(error) => Judged::NotReady { why: error.to_string(), done: 0 },
        }
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
        let book = view.run(self.job.run.as_str()).map(|record| record.run.book.clone());
        let left_out = book.iter().flat_map(crate::runbook::Runbook::steps).filter_map(|step| match &step.action {
            Step::ReleaseCordons { except } => Some(except.clone()),
            _ => None,
        });
        let ignored: BTreeSet<NodeName> = left_out.flatten().collect();
        Expected {
            url: startup.expected_url.clone(),
            branch: startup.expected_branch.clone(),
            source: startup.source.clone(),
            optional: startup.optional.clone(),
            namespaces: startup.namespaces.clone(),
            ignored: self.kubernetes_names(&ignored),
        }
    }

    fn kubernetes_names(&self, nodes: &BTreeSet<NodeName>) -> BTreeSet<String> {
        nodes.iter().filter_map(|node| self.parts.topology.hosts.get(node)).map(|host| host.node_name.clone()).collect()
    }

    /// Nothing may regress for `window`; what cannot be seen is no proof that nothing did.
    async fn soak(&self, window: Duration, patience: Duration) -> StepResult {
        let begun = Instant::now();
        let (mut stable, mut regressed) = (None::<Instant>, Vec::<String>::new());
        loop {
            let troubles = match self.look().await {
                Ok(seen) => judge::regressions(&seen, &self.expected()),
                Err(why) => Err(why),
            };
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

    async fn is_up(&self, node: &NodeName, role: K3sRole) -> StepResult {
        let (host, unit) = match self.host(node) {
            Ok(host) => (host, unit(role)),
            Err(result) => return result,
        };
        let show = Command { root: false, ..root(&["systemctl", "show", "-p", "ActiveState", "--value", unit]) };
        match self.parts.hosts.run(host, &show, self.left()).await {
            Ok(output) if matches!(output.stdout.trim(), "active" | "activating" | "reloading") => match self.release_unit(node).await {
                Ok(()) => StepResult::Done { detail: format!("{unit} is {} already", output.stdout.trim()) },
                Err(result) => result,
            },
            Ok(output) => StepResult::NotReady { detail: format!("{unit} is {}", output.stdout.trim()) },
            Err(error) => StepResult::CannotTell { detail: error.to_string() },
        }
    }

    async fn bring_up(&self, node: &NodeName, role: K3sRole) -> Done {
        let unit = unit(role);
        self.parts.hosts.start_unit(self.host(node)?, unit, self.left()).await.map_err(of_host)?;
        self.release_unit(node).await?;
        Ok(format!("{unit} starts"))
    }

    /// It runs again: that a shutdown stopped it counts no more.
    async fn release_unit(&self, node: &NodeName) -> Result<(), StepResult> {
        let object = ObjectRef::new("K3sUnit", "", node.as_str());
        let held = held_by_any(self.handle, Change::Stopped).contains(&object);
        if held { self.release(vec![object], "started again").await } else { Ok(()) }
    }

    /// What the journal says, and what carries our mark although the journal does not say so.
    async fn release_cordons(&self, except: &BTreeSet<NodeName>) -> Done {
        let cluster = self.cluster()?;
        let seen = self.look().await.map_err(super::perform::failed)?;
        let mut held: BTreeSet<String> = held_by_any(self.handle, Change::Cordoned).into_iter().map(|object| object.name).collect();
        held.extend(judge::marked(&seen).0);
        let left_out = self.kubernetes_names(except);
        let (mut cleared, mut troubles) = (Vec::new(), Vec::new());
        for node in held.difference(&left_out) {
            let object = ObjectRef::new("Node", "", node);
            match cluster.set_cordoned(node, None, self.left()).await {
                Ok(()) => {
                    self.release(vec![object], "uncordoned").await?;
                    cleared.push(node.clone());
                }
                Err(ClusterError::Gone(_)) => self.release(vec![object], "it is gone").await?,
                Err(error) => troubles.push(format!("{node}: {error}")),
            }
        }
        let detail = if cleared.is_empty() { "no cordon of ours stands".to_owned() } else { format!("uncordoned: {}", cleared.join(", ")) };
        all_well(troubles, detail)
    }

    /// Children first, the root last: a parent that reconciles would resume its children in its own order.
    async fn release_flux(&self) -> Done {
        let cluster = self.cluster()?;
        let seen = self.look().await.map_err(super::perform::failed)?;
        let held = held_by_any(self.handle, Change::Suspended);
        let marked = judge::marked(&seen).1;
        let parents_first: Vec<ObjectRef> = match &seen.flux {
            Ok(all) => {
                let known = all.iter().map(|object| object.object.clone());
                let known: Vec<_> = known.filter(|object| held.contains(object) || marked.contains(object)).collect();
                held.iter().filter(|object| !known.contains(object)).cloned().chain(known.iter().cloned()).collect()
            }
            Err(_) => held,
        };
        let mut troubles = Vec::new();
        for object in parents_first.iter().rev() {
            match cluster.set_suspended(object, None, self.left()).await {
                Ok(()) => self.release(vec![object.clone()], "resumed").await?,
                Err(ClusterError::Gone(_)) => self.release(vec![object.clone()], "it is gone").await?,
                Err(error) => troubles.push(format!("{object}: {error}")),
            }
        }
        all_well(troubles, format!("{} resumed", parents_first.len()))
    }

    async fn is_applied(&self) -> StepResult {
        match self.seen(judge::flux).await {
            Judged::Ready(detail) => StepResult::Done { detail },
            Judged::NotReady { why, .. } => StepResult::NotReady { detail: why },
            Judged::CannotTell(detail) => StepResult::CannotTell { detail },
        }
    }

    /// The source first; then what is not applied, a parent before its children.
    async fn reconcile(&self) -> Done {
        let platform = self.platform().map_err(super::perform::permanent)?;
        let seen = self.look().await.map_err(super::perform::failed)?;
        let sources = seen.sources.as_ref().map_err(|why| super::perform::failed(why.clone()))?;
        let flux = seen.flux.as_ref().map_err(|why| super::perform::failed(why.clone()))?;
        let source = self
            .parts
            .settings
            .startup
            .source
            .split_once('/')
            .filter(|_| sources.iter().any(|seen| seen.name == self.parts.settings.startup.source));
        let source = source.map(|(namespace, name)| ObjectRef::new("GitRepository", namespace, name));
        let late = flux.iter().filter(|object| !object.suspended && judge::trouble(object, sources).is_some());
        let objects: Vec<_> = source.into_iter().chain(late.map(|object| object.object.clone())).collect();
        let token = format!("metis {} {}", self.job.run, self.world.now().wall);
        let mut troubles = Vec::new();
        for object in &objects {
            match platform.reconcile(object, &token, self.left()).await {
                Ok(()) | Err(ClusterError::Gone(_)) => {}
                Err(error @ ClusterError::Refused(_)) => return Err(of_cluster(error)),
                Err(error) => troubles.push(format!("{object}: {error}")),
            }
        }
        all_well(troubles, format!("{} objects were asked to reconcile", objects.len()))
    }
}

/// Plans a start-up that nobody asked for and asks for it, until it is admitted or its reason is gone. What the site lacks for now is
/// waited for by its gates, where everybody sees it.
pub async fn come_back(world: Arc<World>, handle: Handle, because: String) {
    let mut said = String::new();
    while handle.view().startup_wanted.is_some() {
        let why = match asked(&world, &handle, &because).await {
            Ok(()) => return,
            Err(why) => why,
        };
        if why != said {
            tracing::warn!("the cluster is to be started ({because}), and that waits: {why}");
            said = why;
        }
        sleep(ASK_AGAIN).await;
    }
}

async fn asked(world: &Arc<World>, handle: &Handle, because: &str) -> Result<(), String> {
    let (parts, settings) = (world.parts().await, world.settings());
    if settings.daemon.host_role != HostRole::Coordinator {
        return Err(format!("daemon.host_role is `{}`: only the coordinator starts the cluster by itself", settings.daemon.host_role));
    }
    let order = ask::order(&settings, &StartupQuestion::default());
    let runbook = startup::plan(&parts.settings, &parts.topology, &handle.view().learned, &order);
    let requester = format!("metis itself, because {because}");
    match handle.request(Request::Admit { requester, runbook, cause: Cause::Boot, within: None }).await {
        Ok(Reply::Admitted { .. }) => Ok(()),
        Ok(Reply::Refused { guards }) => Err(guards.into_iter().map(|guard| guard.message).collect::<Vec<_>>().join("; ")),
        Ok(other) => Err(format!("unexpected answer: {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn out_of_patience(gate: &Gate, judged: &Judged, waited: Duration) -> StepResult {
    let advice = startup::row(gate).on_failure;
    let detail = format!("{}; nothing became better for {} s. What to do: {advice}", judged.text(), waited.as_secs());
    match judged {
        Judged::CannotTell(_) => StepResult::CannotTell { detail },
        Judged::Ready(_) | Judged::NotReady { .. } => StepResult::NotReady { detail },
    }
}
