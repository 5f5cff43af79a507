//! The pods of Vault themselves.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use super::keys::keys;
use super::walk::{Order, Walk};
use super::wire::{self, Ask, Stream, Trouble};
use super::{Seal, SealStatus, UnsealError, VaultPod, VaultSeen, VaultSettings};
use crate::cluster::kube::{Api, path};
use crate::cluster::objects::Meta;
use crate::cluster::port::{ClusterError, Vault};
use crate::site::Secret;

/// One exchange with one pod takes no longer.
const EXCHANGE: Duration = Duration::from_secs(10);

/// Opens a stream to a port of a pod.
pub type Dial = Arc<dyn Fn(VaultPod, u16, Duration) -> BoxFuture<'static, Result<Box<dyn Stream>, String>> + Send + Sync>;
/// Reads unseal keys, one a line.
pub type ReadKeys = Arc<dyn Fn(Duration) -> BoxFuture<'static, Result<Secret, String>> + Send + Sync>;

/// Where unseal keys come from.
#[derive(Clone)]
pub struct KeySource {
    /// What it is, for people.
    pub name: String,
    /// Reads them.
    pub read: ReadKeys,
    /// It is asked only once for what it is to help against: somebody may be called by it.
    pub once: bool,
}

/// What Vault needs of other rooms.
#[derive(Clone)]
pub struct Reach {
    /// The way to a pod.
    pub dial: Dial,
    /// Where keys come from, the first one first.
    pub sources: Vec<KeySource>,
}

/// The pods of Vault.
pub struct RealVault {
    api: Arc<Api>,
    settings: VaultSettings,
    reach: Reach,
    tls: OnceCell<Arc<ClientConfig>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Listed {
    metadata: Meta,
    spec: ListedSpec,
    status: ListedStatus,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ListedSpec {
    node_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ListedStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    container_statuses: Vec<ListedContainer>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ListedContainer {
    restart_count: u64,
}

impl Listed {
    /// Nothing of it comes back.
    fn is_over(&self) -> bool {
        self.metadata.deletion_timestamp.is_some() || matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    fn pod(self) -> VaultPod {
        VaultPod {
            restarts: self.status.container_statuses.iter().map(|container| container.restart_count).sum(),
            name: self.metadata.name,
            uid: self.metadata.uid,
            node: self.spec.node_name,
            address: self.status.pod_ip.parse().ok(),
            phase: self.status.phase,
        }
    }
}

/// Pods by namespace and labels, as they are to be asked one by one.
async fn pods(api: &Api, namespace: &str, selector: &str, until: Instant) -> Result<Vec<VaultPod>, ClusterError> {
    let list = api.list::<Listed>(&path("v1", namespace, "pods", ""), &[("labelSelector", selector)], until).await;
    let list = list.map_err(|failure| failure.error("pods of Vault"))?;
    Ok(list.items.into_iter().filter(|pod| !pod.is_over()).map(Listed::pod).collect())
}

/// A pod that is being unsealed, and what was said against the keys so far.
struct Left {
    pod: VaultPod,
    said: Vec<String>,
    tried: bool,
}

impl RealVault {
    /// Nothing is asked yet.
    pub fn new(api: Arc<Api>, settings: VaultSettings, reach: Reach) -> Self {
        Self { api, settings, reach, tls: OnceCell::new() }
    }

    /// Read once; a file that cannot be read is read again the next time.
    async fn trust(&self) -> Result<Option<(Arc<ClientConfig>, &str)>, Trouble> {
        let Some(tls) = &self.settings.tls else { return Ok(None) };
        let file = tls.ca_file.clone();
        let read = || async move {
            let read = tokio::task::spawn_blocking(move || wire::trusting(file.as_deref())).await;
            read.map_err(|error| Trouble::Silent(error.to_string()))?.map_err(Trouble::Silent)
        };
        let config = self.tls.get_or_try_init(read).await?;
        Ok(Some((Arc::clone(config), tls.server_name.as_str())))
    }

    async fn ask(&self, pod: &VaultPod, ask: Ask<'_>, until: Instant) -> Result<SealStatus, Trouble> {
        let until = until.min(Instant::now() + EXCHANGE);
        let exchange = async {
            let trust = self.trust().await?;
            let left = until.saturating_duration_since(Instant::now());
            let stream = (self.reach.dial)(pod.clone(), self.settings.port, left).await.map_err(Trouble::Silent)?;
            wire::ask(stream, trust, ask).await
        };
        timeout_at(until, exchange).await.unwrap_or_else(|_| Err(Trouble::Silent("it does not answer in time".to_owned())))
    }

    async fn seal(&self, pod: &VaultPod, until: Instant) -> Seal {
        let Some(address) = pod.address.filter(|_| pod.phase == "Running") else {
            return Seal::Down(format!("its pod is {}", if pod.phase.is_empty() { "unknown" } else { &pod.phase }));
        };
        match self.ask(pod, Ask::Status, until).await {
            Ok(status) => Seal::Says(status),
            Err(Trouble::Silent(why) | Trouble::Refused(why)) => Seal::Silent(format!("{address}:{}: {why}", self.settings.port)),
        }
    }

    async fn unseal_one(&self, pod: &VaultPod, keys: &[Secret], until: Instant) -> Result<(), UnsealError> {
        let passing = |trouble| match trouble {
            Trouble::Silent(why) | Trouble::Refused(why) => UnsealError::Passing(why),
        };
        let mut walk = Walk::new(keys.len());
        loop {
            let status = self.ask(pod, Ask::Status, until).await.map_err(passing)?;
            match walk.next(&status) {
                Order::Done => return Ok(()),
                Order::GiveUp(why) => return Err(UnsealError::Keys(why)),
                Order::Reset => drop(self.ask(pod, Ask::Reset, until).await.map_err(passing)?),
                Order::Feed(at) => match self.ask(pod, Ask::Key(&keys[at]), until).await {
                    Ok(status) => walk.fed(&status),
                    Err(Trouble::Refused(said)) => walk.refused(&said),
                    Err(silent) => return Err(passing(silent)),
                },
            }
        }
    }

    async fn keys_of(&self, source: &KeySource, until: Instant) -> Result<Vec<Secret>, String> {
        let left = until.saturating_duration_since(Instant::now());
        keys(&(source.read)(left).await?)
    }
}

#[tonic::async_trait]
impl Vault for RealVault {
    async fn look(&self, within: Duration) -> Result<Vec<VaultSeen>, ClusterError> {
        let until = Instant::now() + within;
        let pods = pods(&self.api, &self.settings.namespace, &self.settings.selector, until).await?;
        let seals = join_all(pods.iter().map(|pod| self.seal(pod, until))).await;
        Ok(pods.into_iter().zip(seals).map(|(pod, seal)| VaultSeen { pod, seal }).collect())
    }

    async fn unseal(&self, pods: &[VaultPod], within: Duration) -> Vec<(VaultPod, Result<String, UnsealError>)> {
        let until = Instant::now() + within;
        let mut left: Vec<Left> = pods.iter().map(|pod| Left { pod: pod.clone(), said: Vec::new(), tried: false }).collect();
        let mut ended = Vec::new();
        for source in &self.reach.sources {
            if left.is_empty() {
                break;
            }
            let keys = self.keys_of(source, until).await;
            for mut one in std::mem::take(&mut left) {
                one.tried |= source.once;
                let done = match &keys {
                    Ok(keys) => self.unseal_one(&one.pod, keys, until).await,
                    Err(why) => {
                        one.said.push(format!("{}: {why}", source.name));
                        left.push(one);
                        continue;
                    }
                };
                match done {
                    Ok(()) => ended.push((one.pod, Ok(format!("unsealed with the keys of {}", source.name)))),
                    Err(UnsealError::Keys(why)) => {
                        one.said.push(format!("{}: {why}", source.name));
                        left.push(Left { tried: true, ..one });
                    }
                    Err(passing) => ended.push((one.pod, Err(passing))),
                }
            }
        }
        ended.extend(left.into_iter().map(Left::in_vain));
        ended
    }
}

impl Left {
    fn in_vain(self) -> (VaultPod, Result<String, UnsealError>) {
        if self.said.is_empty() {
            let why = "there are no keys to unseal it with (startup.vault: keys, break_glass)".to_owned();
            return (self.pod, Err(UnsealError::Keys(why)));
        }
        let why = self.said.join("; ");
        (self.pod, Err(if self.tried { UnsealError::Keys(why) } else { UnsealError::Passing(why) }))
    }
}
