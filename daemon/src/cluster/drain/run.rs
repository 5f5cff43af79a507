//! Does what the rules say: one list of the node's pods a second, all evictions side by side, nothing beyond the deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::budget::Surroundings;
use super::filter::Rules;
use super::ladder::{Clock, Move};
use super::pods::{Pods, Said, Task};
use crate::cluster::kube::{Api, Call, Failure, path};
use crate::cluster::objects::Pod;
use crate::cluster::port::{ClusterError, DrainOrder, Drained};

/// Lists of the node's pods.
const POLL: Duration = Duration::from_secs(1);

/// Whether budgets can still be met is looked at again.
const JUDGE: Duration = Duration::from_secs(10);

/// What all drains have in common.
pub struct Drain<'a> {
    /// The API servers.
    pub api: &'a Api,
    /// Evictions and deletions under way, of all drains together: API servers refuse more than some hundred calls at once.
    pub calls: &'a Semaphore,
    /// What is never evicted.
    pub rules: &'a Rules,
}

/// Pods of the node, and the DaemonSets (namespace, name) of theirs that are gone.
type Listing = Result<(Vec<Pod>, BTreeSet<(String, String)>), Failure>;

/// What came of something that was under way.
enum Happened {
    Listed { asked: Instant, consistent: bool, result: Listing },
    Said(Task, Said),
    Looked(Vec<(String, Surroundings)>),
}

/// One drain.
struct Run<'a> {
    on: &'a Drain<'a>,
    order: &'a DrainOrder,
    began: Instant,
    pods: Pods,
    underway: FuturesUnordered<BoxFuture<'a, Happened>>,
    /// A list is under way.
    listing: bool,
    /// The next list must be of what is, not of what the API server's cache remembers.
    consistent: bool,
    looked: Option<Instant>,
    /// DaemonSets that are known to be there or not.
    sets: BTreeMap<(String, String), bool>,
    unseen: String,
}

/// Evicts the node's pods until the deadline; see the module for the rules. Dropping the future stops it; evictions that were granted
/// stay granted.
///
/// # Errors
/// Where the pods of the node could not be listed once.
pub async fn drain<'a>(
    on: &'a Drain<'a>,
    order: &'a DrainOrder,
    mut deadline: watch::Receiver<Instant>,
    tell: &(dyn Fn(String) + Send + Sync),
) -> Result<Drained, ClusterError> {
    let mut run = Run {
        on,
        order,
        began: Instant::now(),
        pods: Pods::default(),
        underway: FuturesUnordered::new(),
        listing: false,
        consistent: true,
        looked: None,
        sets: BTreeMap::new(),
        unseen: String::new(),
    };
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The plan may drop its end; then the last deadline stands.
    let mut changes = true;
    loop {
        let end = *deadline.borrow_and_update();
        tokio::select! {
            biased;
            () = sleep_until(end) => break,
            changed = deadline.changed(), if changes => changes = changed.is_ok(),
            Some(happened) = run.underway.next() => {
                if run.take(happened, tell)? {
                    break;
                }
            }
            _ = poll.tick() => run.list(end),
        }
        run.ask(*deadline.borrow(), tell);
    }
    run.finish()
}

impl Run<'_> {
    fn since(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.began)
    }

    fn list(&mut self, end: Instant) {
        if std::mem::replace(&mut self.listing, true) {
            return;
        }
        let (api, node, consistent) = (self.on.api, self.order.node.clone(), self.consistent);
        let known = self.sets.clone();
        self.underway.push(Box::pin(async move {
            let asked = Instant::now();
            let result = list(api, &node, consistent, known, end).await;
            Happened::Listed { asked, consistent, result }
        }));
    }

    /// Takes over what happened; true: the drain is over.
    fn take(&mut self, happened: Happened, tell: &(dyn Fn(String) + Send + Sync)) -> Result<bool, ClusterError> {
        match happened {
            Happened::Said(task, said) => {
                let now = self.since(Instant::now());
                self.pods.said(&task, said, now);
            }
            Happened::Looked(all) => {
                for (namespace, around) in all {
                    self.pods.judge(&namespace, &around, &self.order.beside);
                }
            }
            Happened::Listed { asked, consistent, result } => {
                self.listing = false;
                return self.listed(asked, consistent, result, tell);
            }
        }
        Ok(false)
    }

    fn listed(
        &mut self,
        asked: Instant,
        consistent: bool,
        result: Listing,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> Result<bool, ClusterError> {
        let (pods, gone_sets) = match result {
            Ok(seen) => seen,
            // Rights do not come by waiting; an API server may.
            Err(failure) if failure.is_passing() || self.pods.listed() => {
                self.unseen = failure.to_string();
                return Ok(false);
            }
            Err(failure) => return Err(failure.error(&format!("pods of {}", self.order.node))),
        };
        self.unseen.clear();
        let first = !self.pods.listed();
        for set in Pods::daemon_sets(&pods) {
            let there = !gone_sets.contains(&set);
            self.sets.insert(set, there);
        }
        let asked = self.since(asked);
        self.pods.see(pods, self.on.rules, &gone_sets, asked);
        if first {
            tell(format!("{}: {}", self.order.node, self.pods.summary()));
        }
        let done = self.pods.done(self.since(Instant::now()));
        // A cache may be behind: what it does not show may be there.
        self.consistent = done && !consistent;
        if self.consistent {
            self.listing = false;
        }
        Ok(done && consistent)
    }

    /// Starts what is due.
    fn ask(&mut self, end: Instant, tell: &(dyn Fn(String) + Send + Sync)) {
        let clock = Clock { now: self.since(Instant::now()), end: self.since(end) };
        let (tasks, lines) = self.pods.tasks(clock);
        for line in lines {
            tell(format!("{}: {line}", self.order.node));
        }
        for task in tasks {
            let (api, calls) = (self.on.api, self.on.calls);
            self.underway.push(Box::pin(async move {
                let said = ask(api, calls, &task, end).await;
                Happened::Said(task, said)
            }));
        }
        if self.consistent && self.pods.listed() {
            self.list(end);
        }
        let namespaces = self.pods.refused_in();
        if namespaces.is_empty() || self.looked.is_some_and(|at| at.elapsed() < JUDGE) {
            return;
        }
        self.looked = Some(Instant::now());
        let api = self.on.api;
        self.underway.push(Box::pin(async move {
            let mut all = Vec::new();
            for namespace in namespaces {
                // Where it cannot be looked at, waiting is all that is left.
                if let Ok(around) = look(api, &namespace, end).await {
                    all.push((namespace, around));
                }
            }
            Happened::Looked(all)
        }));
    }

    fn finish(self) -> Result<Drained, ClusterError> {
        if !self.pods.listed() {
            let why = if self.unseen.is_empty() { "the time was over before they were" } else { &self.unseen };
            return Err(ClusterError::Unreachable(format!("pods of {} could not be listed: {why}", self.order.node)));
        }
        let mut drained = self.pods.result();
        if !self.unseen.is_empty() {
            drained.left = drained.left.into_iter().map(|left| format!("{left}; last seen before {}", self.unseen)).collect();
        }
        Ok(drained)
    }
}

/// The node's pods, and those of their DaemonSets that are gone.
async fn list(api: &Api, node: &str, consistent: bool, known: BTreeMap<(String, String), bool>, end: Instant) -> Listing {
    let selector = format!("spec.nodeName={node}");
    let mut query = vec![("fieldSelector", selector.as_str())];
    if !consistent {
        // From the API server's cache, which has an index by node: etcd is not asked.
        query.push(("resourceVersion", "0"));
    }
    let pods: Vec<Pod> = api.list(&path("v1", "", "pods", ""), &query, end).await?.items;
    let mut gone = BTreeSet::new();
    for set in Pods::daemon_sets(&pods) {
        let there = match known.get(&set) {
            Some(there) => *there,
            None => exists(api, &set, end).await?,
        };
        if !there {
            gone.insert(set);
        }
    }
    Ok((pods, gone))
}

async fn exists(api: &Api, (namespace, name): &(String, String), end: Instant) -> Result<bool, Failure> {
    match api.ask(&Call::get(&path("apps/v1", namespace, "daemonsets", name), &[]), end).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.code() == Some(404) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// What the judgement of refused evictions needs.
async fn look(api: &Api, namespace: &str, end: Instant) -> Result<Surroundings, Failure> {
    let (budgets, pods, nodes) =
        (path("policy/v1", namespace, "poddisruptionbudgets", ""), path("v1", namespace, "pods", ""), path("v1", "", "nodes", ""));
    let (budgets, pods, nodes) = tokio::try_join!(api.list(&budgets, &[], end), api.list(&pods, &[], end), api.list(&nodes, &[], end))?;
    Ok(Surroundings { budgets: budgets.items, pods: pods.items, nodes: nodes.items })
}

/// One eviction or deletion. The UID keeps it from another pod of the same name.
async fn ask(api: &Api, calls: &Semaphore, task: &Task, end: Instant) -> Said {
    // Never closed.
    let Ok(_permit) = calls.acquire().await else { return Said::Failed("is not asked any more".to_owned()) };
    let mut options = json!({"preconditions": {"uid": task.uid}});
    let (Move::Evict(grace) | Move::Delete(grace)) = task.step else { return Said::Failed("nothing to ask".to_owned()) };
    if let Some(grace) = grace {
        options["gracePeriodSeconds"] = grace.as_secs().into();
    }
    let pod = path("v1", &task.namespace, "pods", &task.name);
    let evict = matches!(task.step, Move::Evict(_));
    let call = if evict {
        let metadata = json!({"name": task.name, "namespace": task.namespace});
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata, "deleteOptions": options});
        Call::post(&format!("{pod}/eviction"), &body)
    } else {
        Call::delete(&pod, &options)
    };
    let until = end.min(Instant::now() + api.call_timeout());
    match api.once(&call, until).await {
        Ok(_) => Said::Granted,
        Err(failure) => answer(evict, &failure),
    }
}

/// What an answer other than 2xx means (kubectl pkg/drain/drain.go evictPods; registry/core/pod/storage/eviction.go).
pub fn answer(evict: bool, failure: &Failure) -> Said {
    match failure.code() {
        Some(404) => Said::Gone,
        // The precondition: the name is another pod's by now.
        Some(409) if failure.to_string().contains("UID") => Said::Gone,
        Some(429) if evict && failure.has_cause("DisruptionBudget") => Said::NotNow(failure.to_string(), failure.retry_after()),
        // No budget, but a server that has too much to do (API priority and fairness).
        Some(429) => Said::Busy(failure.to_string(), failure.retry_after()),
        Some(403) if failure.has_cause("NamespaceTerminating") => Said::NotNow(failure.to_string(), None),
        Some(500) if evict && failure.to_string().contains("more than one PodDisruptionBudget") => Said::Never(failure.to_string()),
        _ => Said::Failed(failure.to_string()),
    }
}
