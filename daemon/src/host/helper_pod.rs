//! Hosts through a short-lived privileged pod on the node, for nodes without a way in over SSH. It needs a working API server and kubelet.

mod manifest;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::port::{Command, HostError, Output, Pods};
use crate::site::Host;
use manifest::State;

/// Every look at the pod, at most.
const LOOK: Duration = Duration::from_secs(10);
/// So often the pod is looked at.
const POLL: Duration = Duration::from_millis(500);
/// Time that a pod is left to be removed in, beside what its caller does next.
const REMOVAL: Duration = Duration::from_secs(5);

/// Runs commands on nodes as root, in the host's namespaces.
pub struct HelperPod {
    pods: Arc<dyn Pods>,
    image: String,
    /// This metis host, by which it knows its own pods.
    holder: String,
    /// One pod a node at a time: what else of ours is found there is left over.
    nodes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Pods that are being removed.
    removals: Arc<Mutex<JoinSet<()>>>,
}

/// How a pod ended that may take its node with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Its command ended with 0.
    Done(Output),
    /// It ran, and then nothing more was heard of it.
    TakenThenLost,
}

impl HelperPod {
    /// With rights to create, read, list and delete pods. Called on the runtime that drives it.
    pub fn new(pods: Arc<dyn Pods>, image: &str) -> Self {
        let name = nix::unistd::gethostname().unwrap_or_default();
        let holder = manifest::label_value(&name.to_string_lossy());
        Self { pods, image: image.to_owned(), holder, nodes: Mutex::default(), removals: Arc::default() }
    }

    /// Runs a command to its end. Of its outputs only the last 2000 bytes each come back (a termination message holds 4 KiB).
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn run(&self, host: &Host, command: &Command, within: Duration) -> Result<Output, HostError> {
        match self.order(host, command, within).await? {
            Order::Done(output) => Ok(output),
            Order::TakenThenLost => {
                Err(HostError::TimedOut(format!("{}: the helper pod runs, but has not ended in time; it may still run there", host.name)))
            }
        }
    }

    /// Runs a command that may end the node. However it ends, and if nobody waits for it any more, the pod is removed.
    ///
    /// # Errors
    /// As [`HelperPod::run`].
    pub async fn order(&self, host: &Host, command: &Command, within: Duration) -> Result<Order, HostError> {
        let until = Instant::now() + within;
        let name = &host.name;
        let lock = Arc::clone(self.nodes.lock().unwrap_or_else(PoisonError::into_inner).entry(host.node_name.clone()).or_default());
        let busy = |_| HostError::TimedOut(format!("{name}: another helper pod is still at work there, or being removed"));
        let alone = timeout_at(until, lock.lock_owned()).await.map_err(busy)?;
        self.remove_leftovers(host, until).await?;
        let pod = manifest::name().map_err(|error| HostError::Failed(format!("{name}: naming the helper pod: {error}")))?;
        let wanted = manifest::pod(&pod, &self.holder, &host.node_name, &self.image, &command.argv, within);
        // From here on: a pod may be there although no answer came.
        let made = Made { name: pod, pods: Arc::clone(&self.pods), removals: Arc::clone(&self.removals), alone: Some(alone) };
        call(host, "creating the helper pod", until, self.pods.create(&wanted, left(until))).await?;
        self.ended(host, &made.name, until).await
    }

    /// Removes helper pods of earlier runs from the node: its own, and those of others that have ended.
    async fn remove_leftovers(&self, host: &Host, until: Instant) -> Result<(), HostError> {
        let found = self.pods.of_node(&host.node_name, manifest::SELECTOR, left(until));
        for pod in call(host, "listing helper pods", until, found).await?.iter().filter_map(read) {
            let labels = pod.metadata.labels.clone().unwrap_or_default();
            let own = labels.get(manifest::HOLDER).is_none_or(|holder| *holder == self.holder);
            let over = matches!(manifest::state(&pod), State::Ended { .. } | State::Hopeless(_) | State::Late);
            let Some(pod) = pod.metadata.name.filter(|_| own || over) else { continue };
            match call(host, "removing an older helper pod", until, self.pods.delete(&pod, left(until))).await {
                Ok(()) => tracing::warn!(%pod, node = %host.node_name, "removed a helper pod of an earlier run"),
                // It goes another time.
                Err(error) => tracing::warn!(%error, %pod, "an older helper pod stays"),
            }
        }
        Ok(())
    }

    async fn ended(&self, host: &Host, pod: &str, until: Instant) -> Result<Order, HostError> {
        let name = &host.name;
        let mut last = State::Waiting("the kubelet has not taken it".to_owned());
        let mut trouble: Option<HostError> = None;
        while Instant::now() < until {
            match call(host, "looking at the helper pod", until, self.pods.get(pod, left(until).min(LOOK))).await {
                Ok(Some(pod)) => {
                    trouble = None;
                    last = read(&pod).map_or(last, |pod| manifest::state(&pod));
                }
                Ok(None) => return Err(HostError::Failed(format!("{name}: the helper pod was removed by somebody else"))),
                // The API server may be back before the time is up.
                Err(error) => trouble = Some(error),
            }
            if let Some(end) = end(name.as_str(), &last) {
                return end;
            }
            tokio::time::sleep_until(until.min(Instant::now() + POLL)).await;
        }
        match last {
            State::Running => Ok(Order::TakenThenLost),
            State::Waiting(why) => Err(trouble.unwrap_or_else(|| {
                let node = &host.node_name;
                HostError::Unreachable(format!("{name}: the helper pod did not start in time: {why}; is the kubelet of {node} up?"))
            })),
            State::Ended { .. } | State::Hopeless(_) | State::Late => {
                Err(HostError::TimedOut(format!("{name}: the helper pod's time is up")))
            }
        }
    }
}

/// What a pod's state means to who waits for it; `None`: wait on.
fn end(name: &str, state: &State) -> Option<Result<Order, HostError>> {
    match state {
        State::Ended { code: 0, output } => Some(Ok(Order::Done(output.clone()))),
        State::Ended { code, output } => {
            let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
            let said = said.trim().replace('\n', "; ");
            Some(Err(HostError::Failed(format!("{name}: the command of the helper pod ended with status {code}: {said}"))))
        }
        State::Hopeless(why) => Some(Err(HostError::Failed(format!("{name}: the helper pod cannot run: {why}")))),
        State::Late => Some(Err(HostError::TimedOut(format!("{name}: the command of the helper pod did not end in time and was killed")))),
        State::Waiting(_) | State::Running => None,
    }
}

/// A pod that was made, or may have been. Dropping it has it removed; until then nobody else makes one on its node.
struct Made {
    name: String,
    pods: Arc<dyn Pods>,
    removals: Arc<Mutex<JoinSet<()>>>,
    alone: Option<OwnedMutexGuard<()>>,
}

impl Drop for Made {
    fn drop(&mut self) {
        // Without a runtime this process ends: what is left over is found by the next one.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (name, pods, alone) = (std::mem::take(&mut self.name), Arc::clone(&self.pods), self.alone.take());
        let removal = async move {
            let _alone = alone;
            let done = tokio::time::timeout(REMOVAL, pods.delete(&name, REMOVAL)).await;
            if !matches!(done, Ok(Ok(()))) {
                tracing::warn!(pod = %name, ?done, "the helper pod is left over; it ends by its own deadline");
            }
        };
        let mut removals = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        while removals.try_join_next().is_some() {}
        removals.spawn_on(removal, &runtime);
    }
}

fn read(pod: &Value) -> Option<Pod> {
    serde_json::from_value(pod.clone()).ok()
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// With the host and what was wanted in front of an error.
async fn call<T>(host: &Host, what: &str, until: Instant, request: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
    let name = &host.name;
    let answer = timeout_at(until, request).await;
    answer.map_err(|_| HostError::TimedOut(format!("{name}: {what}: the API server did not answer in time")))?.map_err(
        |error| match error {
            HostError::Refused(why) => {
                HostError::Refused(format!("{name}: {what}: {why}; metis needs create, get, list and delete of pods"))
            }
            HostError::Unreachable(why) => HostError::Unreachable(format!("{name}: {what}: {why}")),
            HostError::Denied(why) => HostError::Denied(format!("{name}: {what}: {why}")),
            HostError::Failed(why) => HostError::Failed(format!("{name}: {what}: {why}")),
            HostError::TimedOut(why) => HostError::TimedOut(format!("{name}: {what}: {why}")),
        },
    )
}
