//! Steps of a shutdown, and of undoing one, performed through the ports.

mod contact;
mod off;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub(super) use contact::of_host;

use super::claims::{claim, held, release};
use super::parts::Parts;
use super::perform::{failed, permanent};
use super::world::World;
use crate::cluster::port::{Cluster, ClusterError, DrainOrder, Facts};
use crate::control::{Event, Handle, Job, Request};
use crate::host::dump;
use crate::host::port::{Command, Stopped};
use crate::runbook::{Mode, StepResult};
use crate::site::{Access, Change, Claim, Host, K3sRole, Mark, NodeName, ObjectRef, Step};

/// The first call of a step may not use up all of its time: there is another attempt.
const ONE_CALL: Duration = Duration::from_secs(20);
/// Time in which an adapter that has reached its deadline says how far it came.
const SAY_IT: Duration = Duration::from_secs(1);
/// Where k3s' installer puts it.
const KILLALL: &str = "/usr/local/bin/k3s-killall.sh";

/// One attempt, with all that it needs.
pub struct Attempt<'a> {
    pub world: &'a Arc<World>,
    pub parts: Arc<Parts>,
    pub job: &'a Job,
    pub handle: &'a Handle,
}

/// What an attempt came to: what was done, or why not.
pub(super) type Done = Result<String, StepResult>;

impl Attempt<'_> {
    /// Performs a step of a shutdown.
    pub async fn perform(&self) -> StepResult {
        let done = match (&self.job.action, self.job.mode) {
            (Step::AwaitDetach { nodes }, _) => return self.detached(nodes).await,
            (Step::AwaitSecondaries { ups }, _) => match self.parts.primary.secondaries(ups, self.left()).await {
                Ok(0) => Ok("no secondary is logged in any more".to_owned()),
                Ok(count) => return StepResult::NotReady { detail: format!("{count} secondaries are still logged in to {ups}") },
                Err(why) => return StepResult::CannotTell { detail: why },
            },
            (Step::SnapshotEtcd { node, name, .. }, Mode::Probe) => return self.has_snapshot(node, name).await,
            (Step::Collect, _) => self.collect().await,
            (Step::SuspendFlux, _) => self.suspend().await,
            (Step::ResumeFlux, _) => self.resume().await,
            (Step::SnapshotEtcd { node, name, keep }, _) => self.snapshot(node, name, *keep).await,
            (Step::DumpDatastore { node, command }, _) => self.dump(node, command).await,
            (Step::Drain { node, cordon_only }, _) => self.drain(node, *cordon_only).await,
            (Step::Uncordon { node }, _) => self.uncordon(node).await,
            (Step::StopK3s { node, role }, _) => self.stop(node, *role).await,
            (Step::StartK3s { node, role }, _) => self.start(node, *role).await,
            (Step::EndLeftovers { node }, _) => self.end_leftovers(node).await,
            (Step::SetFsd { ups }, _) => {
                self.parts.primary.set_fsd(ups, self.left()).await.map(|()| format!("FSD is set on {ups}")).map_err(failed)
            }
            (Step::PowerOff { node }, _) => self.power_off(node).await,
            (Step::CutOutlets { upses }, _) => self.world.cut_outlets(&self.job.run, upses).await.map_err(failed),
            (
                Step::Await { .. }
                | Step::Wake { .. }
                | Step::BringUpK3s { .. }
                | Step::ReleaseCordons { .. }
                | Step::ReleaseFlux
                | Step::Reconcile,
                _,
            ) => return self.start_up().await,
            (
                Step::FetchImage { .. }
                | Step::PrepareCard { .. }
                | Step::WriteCard { .. }
                | Step::StreamImage { .. }
                | Step::PowerOffThisHost { .. },
                _,
            ) => Err(permanent(format!("{} is no step that a shutdown performs so", self.job.action.kind()))),
        };
        match done {
            Ok(detail) => StepResult::Done { detail },
            Err(result) => result,
        }
    }

    /// Time that is left to this attempt.
    pub(super) fn left(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now()).min(ONE_CALL)
    }

    pub(super) fn deadline(&self) -> Instant {
        let boot = *self.job.deadline.borrow();
        Instant::now() + boot.saturating_sub(self.world.now().boot)
    }

    /// The deadline on the clock of tasks, as it comes nearer, a little early: who keeps it can still say how far he came. The task ends
    /// with the attempt, which holds the other end.
    fn moving_deadline(&self) -> watch::Receiver<Instant> {
        let early = |left: Duration| Instant::now() + left.saturating_sub(SAY_IT.min(left / 10));
        let (sender, receiver) = watch::channel(early(self.deadline().saturating_duration_since(Instant::now())));
        let (mut source, world) = (self.job.deadline.clone(), Arc::clone(self.world));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = source.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
                let left = source.borrow_and_update().saturating_sub(world.now().boot);
                sender.send_replace(early(left));
            }
        });
        receiver
    }

    pub(super) fn cluster(&self) -> Result<&Arc<dyn Cluster>, StepResult> {
        self.parts.cluster.as_ref().map_err(|why| permanent(why.clone()))
    }

    pub(super) fn host(&self, node: &NodeName) -> Result<&Host, StepResult> {
        self.parts.host(node).map_err(permanent)
    }

    fn mark(&self, reason: &str) -> Mark {
        let lease = jiff::SignedDuration::try_from(self.parts.settings.cordon_lease).ok();
        Mark {
            holder: self.world.host_name.clone(),
            run: self.job.run.to_string(),
            step: self.job.step.to_string(),
            reason: reason.to_owned(),
            expires: lease.and_then(|lease| self.world.now().wall.checked_add(lease).ok()),
        }
    }

    /// What was seen of the cluster in this run, or is seen now.
    async fn facts(&self) -> Result<Arc<Facts>, StepResult> {
        if let Some(facts) = self.world.facts(&self.job.run) {
            return Ok(facts);
        }
        let facts = Arc::new(self.cluster()?.collect(self.left()).await.map_err(of_cluster)?);
        self.world.keep_facts(&self.job.run, Arc::clone(&facts));
        Ok(facts)
    }

    async fn collect(&self) -> Done {
        let facts = self.facts().await?;
        let blob = self.world.store_facts(&facts).await.map_err(failed)?;
        let recorded = self.handle.request(Request::Collected { run: self.job.run.clone(), blob }).await;
        recorded.map_err(|error| failed(error.to_string()))?;
        let suspended = facts.flux.iter().filter(|object| object.suspended).count();
        let cordoned = facts.nodes.iter().filter(|node| node.unschedulable).count();
        let unseen = if facts.unseen.is_empty() { String::new() } else { format!("; not seen: {}", facts.unseen.join("; ")) };
        Ok(format!(
            "{} nodes ({cordoned} cordoned before), {} Flux objects ({suspended} suspended before), {} workloads, {} attached volumes{unseen}",
            facts.nodes.len(),
            facts.flux.len(),
            facts.replicas.len(),
            facts.volumes.len()
        ))
    }

    /// Parents first: a parent that still reconciles would resume its children.
    async fn suspend(&self) -> Done {
        let cluster = self.cluster()?;
        // Looked at anew in every attempt: what is suspended meanwhile, by us or by others, is left alone.
        let facts = cluster.collect(self.left()).await.map_err(of_cluster)?;
        let open: Vec<_> = facts.flux.iter().filter(|object| !object.suspended).map(|object| object.object.clone()).collect();
        let claims = open.iter().map(|object| Claim { object: object.clone(), change: Change::Suspended, expires: None }).collect();
        claim(self.handle, &self.job.run, &self.job.step, claims).await.map_err(failed)?;
        let mark = Mark { expires: None, ..self.mark("the site is being shut down") };
        let mut troubles = Vec::new();
        for object in &open {
            match cluster.set_suspended(object, Some(&mark), self.left()).await {
                Ok(()) => {}
                Err(ClusterError::Gone(_)) => self.release(vec![object.clone()], "it is gone").await?,
                Err(error) => troubles.push(format!("{object}: {error}")),
            }
        }
        let others = self.leave_suspended(&open).await?;
        let beside = if others == 0 { String::new() } else { format!(", {others} of them by the other metis host") };
        all_well(troubles, format!("{} suspended{beside}, {} were before", open.len(), facts.flux.len() - open.len()))
    }

    /// Children first, the root last.
    async fn resume(&self) -> Done {
        let mut troubles = Vec::new();
        let mine = held(self.handle, &self.job.run, Change::Suspended);
        for object in mine.iter().rev() {
            match self.cluster()?.set_suspended(object, None, self.left()).await {
                Ok(()) => self.release(vec![object.clone()], "resumed").await?,
                Err(ClusterError::Gone(_)) => self.release(vec![object.clone()], "it is gone").await?,
                Err(error) => troubles.push(format!("{object}: {error}")),
            }
        }
        all_well(troubles, format!("{} resumed", mine.len()))
    }

    pub(super) async fn release(&self, objects: Vec<ObjectRef>, because: &str) -> Result<(), StepResult> {
        release(self.handle, &self.job.run, objects, because).await.map_err(failed)
    }

    async fn has_snapshot(&self, node: &NodeName, name: &str) -> StepResult {
        let list = match self.host(node) {
            Ok(host) => self.parts.hosts.run(host, &root(&["k3s", "etcd-snapshot", "ls"]), self.left()).await,
            Err(result) => return result,
        };
        match list {
            Ok(output) if output.stdout.contains(name) => StepResult::Done { detail: format!("{name} is there") },
            Ok(_) => StepResult::NotReady { detail: format!("{name} is not there") },
            Err(error) => StepResult::CannotTell { detail: error.to_string() },
        }
    }

    async fn snapshot(&self, node: &NodeName, name: &str, keep: u32) -> Done {
        let (host, hosts) = (self.host(node)?, &self.parts.hosts);
        if host.access == Access::Local {
            return self.saved_here(host).await;
        }
        self.contact(host).await?;
        let left = self.deadline().saturating_duration_since(Instant::now());
        hosts.run(host, &root(&["k3s", "etcd-snapshot", "save", "--name", name]), left).await.map_err(of_host)?;
        let prune = root(&["k3s", "etcd-snapshot", "prune", "--name", name, "--snapshot-retention", &keep.to_string()]);
        match hosts.run(host, &prune, self.left()).await {
            Ok(_) => Ok(format!("{name} saved, {keep} kept")),
            Err(error) => Ok(format!("{name} saved; older ones were not pruned: {error}")),
        }
    }

    /// On this host metisd has no rights of root: root's unit runs what root's configuration says.
    async fn saved_here(&self, host: &Host) -> Done {
        let left = self.deadline().saturating_duration_since(Instant::now());
        self.parts.hosts.run(host, &root(&dump::COMMAND), left).await.map_err(of_host)?;
        Ok(format!("saved by {}", dump::UNIT))
    }

    async fn dump(&self, node: &NodeName, command: &str) -> Done {
        let host = self.host(node)?;
        if host.access == Access::Local {
            return self.saved_here(host).await;
        }
        let left = self.deadline().saturating_duration_since(Instant::now());
        let output = self.parts.hosts.run(host, &root(&["sh", "-c", command]), left).await.map_err(of_host)?;
        Ok(output.stdout.lines().last().unwrap_or("dumped").to_owned())
    }

    async fn drain(&self, node: &NodeName, cordon_only: bool) -> Done {
        let (host, cluster) = (self.host(node)?, self.cluster()?);
        let facts = self.facts().await?;
        let foreign = facts.nodes.iter().any(|seen| seen.name == host.node_name && seen.unschedulable && seen.mark.is_none());
        if foreign {
            self.tell(format!("{node} was cordoned before, and stays so")).await;
        } else {
            let mark = self.mark("the site is being shut down");
            let object = ObjectRef::new("Node", "", &host.node_name);
            let lease = Claim { object, change: Change::Cordoned, expires: mark.expires };
            claim(self.handle, &self.job.run, &self.job.step, vec![lease]).await.map_err(failed)?;
            cluster.set_cordoned(&host.node_name, Some(&mark), self.left()).await.map_err(of_cluster)?;
            if let Some(drained) = self.leave_node(host, cordon_only).await? {
                return Ok(drained);
            }
        }
        if cordon_only {
            return Ok("cordoned; its pods were not evicted".to_owned());
        }
        let order = DrainOrder { node: host.node_name.clone(), beside: self.drained_beside() };
        let (tell, mut told) = mpsc::unbounded_channel();
        let say = move |rung: String| drop(tell.send(rung));
        let draining = cluster.drain(&order, self.moving_deadline(), &say);
        tokio::pin!(draining);
        let drained = loop {
            tokio::select! {
                biased;
                Some(rung) = told.recv() => self.tell(rung).await,
                drained = &mut draining => break drained,
            }
        };
        let drained = drained.map_err(of_cluster)?;
        let rungs = if drained.rungs.is_empty() { String::new() } else { format!("; rungs taken: {}", drained.rungs.join("; ")) };
        let detail = format!("{} pods gone{rungs}", drained.gone);
        if drained.left.is_empty() {
            Ok(detail)
        } else {
            Err(permanent(format!("{detail}; left to the stop of the host: {}", drained.left.join(", "))))
        }
    }

    /// Nodes that the same plan drains.
    fn drained_beside(&self) -> BTreeSet<String> {
        let view = self.handle.view();
        let Some(record) = view.run(self.job.run.as_str()) else { return BTreeSet::new() };
        let drains = record.run.book.steps().filter_map(|step| match &step.action {
            Step::Drain { node, .. } => self.parts.topology.hosts.get(node),
            _ => None,
        });
        drains.map(|host| host.node_name.clone()).collect()
    }

    pub(super) async fn tell(&self, message: String) {
        let (run, step) = (self.job.run.clone(), self.job.step.clone());
        self.handle.send(Event::Milestone { run, step, message }).await;
    }

    async fn uncordon(&self, node: &NodeName) -> Done {
        let host = self.host(node)?;
        let object = ObjectRef::new("Node", "", &host.node_name);
        if !held(self.handle, &self.job.run, Change::Cordoned).contains(&object) {
            return Ok("not cordoned by this run".to_owned());
        }
        match self.cluster()?.set_cordoned(&host.node_name, None, self.left()).await {
            Ok(()) => self.release(vec![object], "uncordoned").await?,
            Err(ClusterError::Gone(_)) => self.release(vec![object], "it is gone").await?,
            Err(error) => return Err(of_cluster(error)),
        }
        Ok("uncordoned".to_owned())
    }

    async fn detached(&self, nodes: &BTreeSet<NodeName>) -> StepResult {
        let cluster = match self.cluster() {
            Ok(cluster) => cluster,
            Err(result) => return result,
        };
        let names = nodes.iter().filter_map(|node| self.parts.topology.hosts.get(node)).map(|host| host.node_name.clone()).collect();
        match cluster.attached(&names, self.left()).await {
            Ok(volumes) if volumes.is_empty() => StepResult::Done { detail: "no volume is attached".to_owned() },
            Ok(volumes) => {
                let list: Vec<_> =
                    volumes.iter().map(|volume| format!("{} to {} ({})", volume.name, volume.node, volume.held_by)).collect();
                StepResult::NotReady { detail: format!("attached: {}", list.join(", ")) }
            }
            Err(error) => StepResult::CannotTell { detail: error.to_string() },
        }
    }

    async fn stop(&self, node: &NodeName, role: K3sRole) -> Done {
        let (host, unit) = (self.host(node)?, unit(role));
        let state = root(&["systemctl", "show", "-p", "ActiveState", "--value", unit]);
        let active = self.first(host, self.parts.hosts.run(host, &Command { root: false, ..state }, self.patience()).await)?;
        if matches!(active.stdout.trim(), "inactive" | "failed") {
            return Ok(format!("{unit} does not run"));
        }
        let object = ObjectRef::new("K3sUnit", "", node.as_str());
        let stopped = Claim { object, change: Change::Stopped, expires: None };
        claim(self.handle, &self.job.run, &self.job.step, vec![stopped]).await.map_err(failed)?;
        let left = self.deadline().saturating_duration_since(Instant::now());
        Ok(match self.parts.hosts.stop_unit(host, unit, left).await.map_err(of_host)? {
            Stopped::Asked => format!("{unit} is stopped"),
            // Its kubelet is what is stopped, and nothing else could be asked.
            Stopped::Ordered => format!("{unit} took the order to stop"),
            Stopped::Killed => format!("{unit} did not stop and was killed"),
        })
    }

    async fn start(&self, node: &NodeName, role: K3sRole) -> Done {
        let (host, unit) = (self.host(node)?, unit(role));
        let object = ObjectRef::new("K3sUnit", "", node.as_str());
        if !held(self.handle, &self.job.run, Change::Stopped).contains(&object) {
            return Ok("not stopped by this run".to_owned());
        }
        self.parts.hosts.start_unit(host, unit, self.left()).await.map_err(of_host)?;
        self.release(vec![object], "started again").await?;
        Ok(format!("{unit} starts"))
    }

    async fn end_leftovers(&self, node: &NodeName) -> Done {
        let (host, hosts) = (self.host(node)?, &self.parts.hosts);
        self.contact(host).await?;
        let left = self.deadline().saturating_duration_since(Instant::now());
        hosts.run(host, &root(&[KILLALL]), left).await.map_err(of_host)?;
        hosts.run(host, &root(&["sync"]), self.left()).await.map_err(of_host)?;
        Ok("nothing of k3s runs any more; caches are written".to_owned())
    }
}

pub(super) fn all_well(troubles: Vec<String>, detail: String) -> Done {
    if troubles.is_empty() { Ok(detail) } else { Err(failed(format!("{detail}; failed: {}", troubles.join("; ")))) }
}

pub(super) fn unit(role: K3sRole) -> &'static str {
    match role {
        K3sRole::Server => "k3s.service",
        K3sRole::Agent => "k3s-agent.service",
    }
}

pub(super) fn root(argv: &[&str]) -> Command {
    Command { argv: argv.iter().map(ToString::to_string).collect(), root: true }
}

pub(super) fn of_cluster(error: ClusterError) -> StepResult {
    let permanent = matches!(error, ClusterError::Refused(_));
    StepResult::Failed { detail: error.to_string(), permanent }
}
