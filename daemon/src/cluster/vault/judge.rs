//! Pure: what Vault's pods say of their seals → whether Vault is there.

use super::{Seal, SealStatus, VaultPod, VaultSeen};
use crate::site::Judged;

/// Every pod is initialised and unsealed, and there are as many as there have to be. That a Service answers says nothing: it leaves sealed
/// pods out.
pub fn judge(seen: &[VaultSeen], wanted: u32) -> Judged {
    let open = seen.iter().filter(|one| is_open(&one.seal)).count();
    let mut missing: Vec<String> = seen.iter().filter_map(missing).collect();
    if seen.len() < wanted as usize {
        missing.insert(0, format!("{} of {wanted} pods of Vault are there (startup.vault: namespace, selector, pods)", seen.len()));
    }
    let silent: Vec<String> = seen.iter().filter_map(silent).collect();
    match (missing.is_empty(), silent.is_empty()) {
        (true, true) => Judged::Ready(format!("{open} pods of Vault are initialised and unsealed")),
        (true, false) => Judged::CannotTell(silent.join("; ")),
        (false, _) => Judged::NotReady { why: missing.into_iter().chain(silent).collect::<Vec<_>>().join("; "), done: open as u64 },
    }
}

/// Pods that keys may unseal.
pub fn sealed(seen: &[VaultSeen]) -> Vec<VaultPod> {
    let helped = |status: &SealStatus| status.initialized && status.sealed && status.kind == SHAMIR;
    seen.iter().filter(|one| matches!(&one.seal, Seal::Says(status) if helped(status))).map(|one| one.pod.clone()).collect()
}

/// The seal that keys open; every other one is opened by a machine.
pub const SHAMIR: &str = "shamir";

fn is_open(seal: &Seal) -> bool {
    matches!(seal, Seal::Says(status) if status.initialized && !status.sealed)
}

fn missing(one: &VaultSeen) -> Option<String> {
    let name = &one.pod.name;
    match &one.seal {
        Seal::Down(why) => Some(format!("{name}: {why}")),
        Seal::Says(status) if !status.initialized => {
            Some(format!("{name} is not initialised: that is a person's work, metis never does it (vault operator init)"))
        }
        Seal::Says(status) if status.sealed && status.kind != SHAMIR => {
            Some(format!("{name} is sealed, and is unsealed by `{}`, not by keys", status.kind))
        }
        Seal::Says(status) if status.sealed => Some(format!("{name} is sealed ({} of {} keys given)", status.progress, status.threshold)),
        Seal::Says(_) | Seal::Silent(_) => None,
    }
}

fn silent(one: &VaultSeen) -> Option<String> {
    match &one.seal {
        Seal::Silent(why) => Some(format!("{}: {why}", one.pod.name)),
        Seal::Says(_) | Seal::Down(_) => None,
    }
}
