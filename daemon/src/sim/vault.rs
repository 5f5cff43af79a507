//! Simulated pods of Vault: each boot of their host seals them.

use std::time::Duration;

use super::site::{Fault, Model, Site};
use crate::cluster::port::{ClusterError, Vault};
use crate::cluster::vault::{Seal, SealStatus, UnsealError, VaultPod, VaultSeen};

/// Keys that it takes.
const THRESHOLD: usize = 3;

#[tonic::async_trait]
impl Vault for Site {
    async fn look(&self, within: Duration) -> Result<Vec<VaultSeen>, ClusterError> {
        self.call(within, |model| Ok(model.vault.keys().map(|node| seen(model, node)).collect())).await
    }

    async fn unseal(&self, pods: &[VaultPod], within: Duration) -> Vec<(VaultPod, Result<String, UnsealError>)> {
        let wrong = self.has(&Fault::WrongKeys);
        let one = |model: &mut Model, pod: &VaultPod| {
            if wrong {
                return Err(UnsealError::Keys("no 3 of these 3 keys unseal it".to_owned()));
            }
            let boots = model.hosts.get(&pod.node).map_or(0, |host| host.boots);
            model.vault.entry(pod.node.clone()).or_default().unsealed_in = Some(boots);
            model.log.push(format!("unseal {}", pod.name));
            Ok("unsealed with the keys of file:/keys".to_owned())
        };
        let done = self.call(within, |model| Ok(pods.iter().map(|pod| (pod.clone(), one(model, pod))).collect())).await;
        done.unwrap_or_else(|error| pods.iter().map(|pod| (pod.clone(), Err(UnsealError::Passing(error.to_string())))).collect())
    }
}

fn seen(model: &Model, node: &str) -> VaultSeen {
    let boots = model.hosts.get(node).map_or(0, |host| host.boots);
    let pod = VaultPod {
        name: format!("vault-{node}"),
        uid: node.to_owned(),
        restarts: u64::from(boots),
        node: node.to_owned(),
        address: None,
        phase: "Running".to_owned(),
    };
    let on = model.hosts.get(node).is_some_and(|host| host.on);
    let sealed = model.vault.get(node).is_none_or(|vault| vault.unsealed_in != Some(boots));
    let status = SealStatus { kind: "shamir".to_owned(), initialized: true, sealed, threshold: THRESHOLD, ..SealStatus::default() };
    VaultSeen { pod, seal: if on { Seal::Says(status) } else { Seal::Silent("no connection".to_owned()) } }
}
