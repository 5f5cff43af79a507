//! The pods of this node that stand for a real process: those annotated `lab.metis/actor: process`, and those that share the host's processes
//! (`hostPID`), which exist to do something on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions, WatchEvent, WatchParams};
use kube::{Api, Client};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::container;
use super::local::{self, Local};
use super::probe::Readiness;
use super::report::{Action, Process, decide, refused};
use super::service::Options;

/// How often it is looked what has become of processes.
const TICK: Duration = Duration::from_millis(100);
/// Of each call.
const LIMIT: Duration = Duration::from_secs(5);

/// What the API server told.
enum News {
    /// All pods of the node.
    All(Vec<Pod>),
    /// One that is new or changed.
    Changed(Box<Pod>),
    /// One that is gone.
    Gone(String),
}

/// The pods, and what was done with them.
struct Actor<'a> {
    client: &'a Client,
    address: &'a str,
    pods: BTreeMap<String, Pod>,
    said: BTreeMap<String, Value>,
    asked_to_stop: BTreeSet<String>,
    removed: BTreeSet<String>,
    ready: BTreeMap<String, Readiness>,
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn now() -> String {
    Timestamp::now().to_string()
}

/// From one time to a later one.
fn between(from: &str, to: &str) -> Duration {
    let (from, to): (Timestamp, Timestamp) = (from.parse().unwrap_or_default(), to.parse().unwrap_or_default());
    to.duration_since(from).try_into().unwrap_or_default()
}

/// Whether the pod stands for a process. The others are kwok's.
fn is_ours(pod: &Pod) -> bool {
    let annotated = pod.metadata.annotations.as_ref().and_then(|all| all.get("lab.metis/actor")).is_some_and(|actor| actor == "process");
    annotated || pod.spec.as_ref().is_some_and(|spec| spec.host_pid == Some(true))
}

/// Plays them until the service ends. An API server that does not answer stops nothing: what runs goes on.
pub async fn play(client: &Client, options: &Options) -> anyhow::Result<()> {
    let (tell, mut news) = mpsc::channel(64);
    let watcher = tokio::spawn(watch(client.clone(), options.node.clone(), tell));
    let mut actor = Actor {
        client,
        address: &options.address,
        pods: BTreeMap::new(),
        said: BTreeMap::new(),
        asked_to_stop: BTreeSet::new(),
        removed: BTreeSet::new(),
        ready: BTreeMap::new(),
    };
    while !watcher.is_finished() {
        if let Ok(Some(first)) = timeout(TICK, news.recv()).await {
            actor.hear(first)?;
            while let Ok(more) = news.try_recv() {
                actor.hear(more)?;
            }
        }
        let uids: Vec<String> = actor.pods.keys().cloned().collect();
        for uid in uids {
            if let Err(error) = actor.treat(&uid).await {
                println!("pod {uid}: {error:#}");
            }
        }
    }
    anyhow::bail!("the watch of pods has ended")
}

/// Lists and watches, again and again.
async fn watch(client: Client, node: String, tell: mpsc::Sender<News>) {
    let pods: Api<Pod> = Api::all(client);
    let selector = format!("spec.nodeName={node}");
    while !tell.is_closed() {
        if let Err(error) = watch_once(&pods, &selector, &tell).await {
            println!("watching pods: {error:#}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn watch_once(pods: &Api<Pod>, selector: &str, tell: &mpsc::Sender<News>) -> anyhow::Result<()> {
    let list = timeout(LIMIT, pods.list(&ListParams::default().fields(selector))).await??;
    let version = list.metadata.resource_version.unwrap_or_default();
    tell.send(News::All(list.items)).await?;
    // Short, so that a server which hangs is not believed to have nothing to say.
    let params = WatchParams::default().fields(selector).timeout(30);
    let mut events = timeout(LIMIT, pods.watch(&params, &version)).await??.boxed();
    while let Some(event) = timeout(Duration::from_secs(40), events.next()).await? {
        let news = match event? {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => News::Changed(Box::new(pod)),
            WatchEvent::Deleted(pod) => News::Gone(uid(&pod)),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(error) => anyhow::bail!("{error:?}"),
        };
        tell.send(news).await?;
    }
    Ok(())
}

impl Actor<'_> {
    fn hear(&mut self, news: News) -> anyhow::Result<()> {
        match news {
            News::All(pods) => {
                self.pods = pods.into_iter().filter(is_ours).map(|pod| (uid(&pod), pod)).collect();
                // Deleted while nobody was listening.
                for local in local::all()? {
                    if !self.pods.contains_key(&local.uid) {
                        self.forget(&local.uid);
                    }
                }
            }
            News::Changed(pod) if is_ours(&pod) => drop(self.pods.insert(uid(&pod), *pod)),
            News::Changed(_) => {}
            News::Gone(uid) => {
                if self.pods.remove(&uid).is_some() {
                    self.forget(&uid);
                }
            }
        }
        Ok(())
    }

    /// A pod that is gone takes its process with it.
    fn forget(&mut self, uid: &str) {
        let local = Local::of(uid);
        local.signal(Signal::SIGKILL);
        local.forget();
        self.said.remove(uid);
        self.asked_to_stop.remove(uid);
        self.removed.remove(uid);
        self.ready.remove(uid);
    }

    async fn process(&mut self, pod: &Pod, local: &Local) -> Process {
        if !local.exists() {
            return Process::None;
        }
        let since = local.started();
        if let Some(exit) = local.exit() {
            let since = since.unwrap_or_else(|| exit.at.clone());
            return Process::Ended { ran: between(&since, &exit.at), ago: between(&exit.at, &now()), since, exit };
        }
        match local.pid().zip(since) {
            Some((pid, since)) => {
                let ready = self.ready.entry(local.uid.clone()).or_default().look(pod, pid).await;
                Process::Running { ran: between(&since, &now()), since, ready }
            }
            None => Process::Starting,
        }
    }

    async fn treat(&mut self, uid: &str) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(uid).cloned() else { return Ok(()) };
        if self.removed.contains(uid) {
            return Ok(());
        }
        let local = Local::of(uid);
        let process = self.process(&pod, &local).await;
        match decide(&pod, &process, local.restarts(), self.address) {
            Action::Wait => Ok(()),
            Action::Start => self.start(&pod, &local, process != Process::None).await,
            Action::Say(status) => self.say(&pod, status).await,
            Action::Kill => {
                local.signal(Signal::SIGKILL);
                Ok(())
            }
            Action::Stop(status) => {
                self.stop(&pod, &local);
                self.say(&pod, status).await
            }
            Action::Remove(status) => {
                if !status.is_null() {
                    self.say(&pod, status).await?;
                }
                local.forget();
                self.remove(&pod).await
            }
        }
    }

    async fn start(&mut self, pod: &Pod, local: &Local, again: bool) -> anyhow::Result<()> {
        let spec = match container::spec(pod) {
            Ok(spec) => spec,
            Err(error) => return self.say(pod, refused(&format!("{error:#}"))).await,
        };
        self.ready.remove(&local.uid);
        if again {
            local.count_restart()?;
        }
        container::start(local, &spec)
    }

    fn stop(&mut self, pod: &Pod, local: &Local) {
        let over = pod.metadata.deletion_timestamp.as_ref().is_some_and(|at| Timestamp::now() >= at.0);
        if over {
            local.signal(Signal::SIGKILL);
        } else if self.asked_to_stop.insert(local.uid.clone()) {
            local.signal(Signal::SIGTERM);
        }
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"))
    }

    /// Each thing once.
    async fn say(&mut self, pod: &Pod, status: Value) -> anyhow::Result<()> {
        if self.said.get(&uid(pod)) == Some(&status) {
            return Ok(());
        }
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let (params, patch) = (PatchParams::default(), Patch::Strategic(&status));
        match timeout(LIMIT, self.api(pod).patch_status(name, &params, &patch)).await? {
            Ok(_) => drop(self.said.insert(uid(pod), status)),
            // Deleted in the meantime.
            Err(kube::Error::Api(error)) if error.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn remove(&mut self, pod: &Pod) -> anyhow::Result<()> {
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match timeout(LIMIT, self.api(pod).delete(name, &params)).await? {
            Ok(_) => drop(self.removed.insert(uid(pod))),
            Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => drop(self.removed.insert(uid(pod))),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
