//! Hosts through a short-lived privileged pod on the node, for nodes without a way in over SSH. It needs a working API server and kubelet.

mod manifest;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::time::{Instant, timeout_at};

use super::port::{Command, HostError, Output};
use crate::site::Host;
use manifest::State;

/// Every call to the API server, at most.
const CALL: Duration = Duration::from_secs(10);
/// So often the pod is looked at.
const POLL: Duration = Duration::from_millis(500);
/// Time that a pod is left to be removed in, beyond the caller's.
const REMOVAL: Duration = Duration::from_secs(5);

/// Runs commands on nodes as root, in the host's namespaces.
pub struct HelperPod {
    pods: Api<Pod>,
    image: String,
    /// One pod a node at a time: what else of ours is found there is left over.
    nodes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
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
    /// With a client whose rights include creating, reading, listing and deleting pods in `namespace`, and `default_retry = false`.
    pub fn new(client: Client, namespace: &str, image: &str) -> Self {
        Self { pods: Api::namespaced(client, namespace), image: image.to_owned(), nodes: Mutex::default() }
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

    /// Runs a command that may end the node.
    ///
    /// # Errors
    /// As [`HelperPod::run`].
    pub async fn order(&self, host: &Host, command: &Command, within: Duration) -> Result<Order, HostError> {
        let until = Instant::now() + within;
        let name = &host.name;
        let lock = Arc::clone(self.nodes.lock().unwrap_or_else(PoisonError::into_inner).entry(host.node_name.clone()).or_default());
        let busy = |_| HostError::TimedOut(format!("{name}: another helper pod is still at work there"));
        let _alone = timeout_at(until, lock.lock()).await.map_err(busy)?;
        self.remove_leftovers(host, until).await?;
        let wanted = manifest::pod(&host.node_name, &self.image, &command.argv, within);
        let wanted: Pod =
            serde_json::from_value(wanted).map_err(|e| HostError::Failed(format!("{name}: the helper pod's manifest: {e}")))?;
        let made = call(host, "creating the helper pod", until, self.pods.create(&PostParams::default(), &wanted)).await?;
        let pod = made.name_any();
        let ended = self.ended(host, &pod, until).await;
        // It holds nothing, and what cannot be removed now is a leftover next time.
        let removal = Instant::now() + REMOVAL;
        if let Err(error) = call(host, "removing the helper pod", removal, self.pods.delete(&pod, &at_once())).await {
            tracing::warn!(%error, %pod, "the helper pod is left over");
        }
        ended
    }

    /// Removes helper pods of earlier runs from the node.
    async fn remove_leftovers(&self, host: &Host, until: Instant) -> Result<(), HostError> {
        let ours = ListParams::default().labels(manifest::SELECTOR).fields(&format!("spec.nodeName={}", host.node_name));
        let left = call(host, "listing helper pods", until, self.pods.list(&ours)).await?;
        for pod in left.items {
            match call(host, "removing an older helper pod", until, self.pods.delete(&pod.name_any(), &at_once())).await {
                Ok(_) => tracing::warn!(pod = %pod.name_any(), node = %host.node_name, "removed a helper pod of an earlier run"),
                // It went meanwhile, or goes another time.
                Err(error) => tracing::debug!(%error, "an older helper pod stays"),
            }
        }
        Ok(())
    }

    async fn ended(&self, host: &Host, pod: &str, until: Instant) -> Result<Order, HostError> {
        let name = &host.name;
        let mut last = State::Waiting("the kubelet has not taken it".to_owned());
        let mut trouble: Option<HostError> = None;
        while Instant::now() < until {
            match call(host, "looking at the helper pod", until, self.pods.get_opt(pod)).await {
                Ok(Some(pod)) => {
                    trouble = None;
                    last = manifest::state(&pod);
                }
                Ok(None) => return Err(HostError::Failed(format!("{name}: the helper pod was removed by somebody else"))),
                // The API server may be back before the time is up.
                Err(error) => trouble = Some(error),
            }
            match &last {
                State::Ended { code: 0, output } => return Ok(Order::Done(output.clone())),
                State::Ended { code, output } => {
                    let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
                    let said = said.trim().replace('\n', "; ");
                    return Err(HostError::Failed(format!("{name}: the command of the helper pod ended with status {code}: {said}")));
                }
                State::Hopeless(why) => return Err(HostError::Failed(format!("{name}: the helper pod cannot run: {why}"))),
                State::Waiting(_) | State::Running => {}
            }
            tokio::time::sleep_until(until.min(Instant::now() + POLL)).await;
        }
        match last {
            State::Running => Ok(Order::TakenThenLost),
            State::Waiting(why) => Err(trouble.unwrap_or_else(|| {
                HostError::Unreachable(format!(
                    "{name}: the helper pod did not start in time: {why}; is the kubelet of {} up?",
                    host.node_name
                ))
            })),
            State::Ended { .. } | State::Hopeless(_) => Err(HostError::TimedOut(format!("{name}: the helper pod's time is up"))),
        }
    }
}

/// Without the grace in which a kubelet that hangs would keep it.
fn at_once() -> DeleteParams {
    DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::background() }
}

async fn call<T>(host: &Host, what: &str, until: Instant, request: impl Future<Output = kube::Result<T>>) -> Result<T, HostError> {
    let name = &host.name;
    let answer = timeout_at(until.min(Instant::now() + CALL), request).await;
    match answer.map_err(|_| HostError::TimedOut(format!("{name}: {what}: the API server did not answer in time")))? {
        Ok(value) => Ok(value),
        Err(kube::Error::Api(status)) => Err(match status.code {
            401 | 403 => {
                HostError::Refused(format!("{name}: {what}: {}; metis needs create, get, list and delete of pods", status.message))
            }
            _ => HostError::Failed(format!("{name}: {what}: {}", status.message)),
        }),
        Err(error) => Err(HostError::Unreachable(format!("{name}: {what}: {:#}", anyhow::Error::from(error)))),
    }
}
