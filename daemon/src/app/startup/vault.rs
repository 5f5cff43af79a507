//! Vault's gate, and the one repair that it has: what a start sealed is unsealed once.

use std::time::Duration;

use tokio::time::Instant;

use crate::app::shutdown::Attempt;
use crate::cluster::port::{ClusterError, Vault};
use crate::cluster::vault::{UnsealError, VaultPod, judge, sealed};
use crate::site::Judged;

/// All pods in turn, beside the time that the break-glass command has.
const UNSEALING: Duration = Duration::from_secs(60);

impl Attempt<'_> {
    /// Looks at every pod, unseals those that their start sealed and nobody has tried to unseal in this run, and looks again.
    pub(super) async fn vault(&self) -> Judged {
        let (settings, vault) = match (&self.parts.settings.startup.vault, &self.parts.vault) {
            (Some(settings), Ok(vault)) => (settings, vault),
            (_, Err(why)) => return Judged::CannotTell(why.clone()),
            (None, Ok(_)) => return Judged::CannotTell("startup.vault is not set".to_owned()),
        };
        let seen = match vault.look(self.left()).await {
            Ok(seen) => seen,
            Err(error) => return unseen(&error),
        };
        let judged = judge(&seen, settings.pods);
        let (again, new): (Vec<_>, Vec<_>) = sealed(&seen).into_iter().partition(|pod| self.world.is_remedied(&self.job.run, &pod.cause()));
        // On battery nothing is set in motion.
        let failed =
            if new.is_empty() || self.held() { Vec::new() } else { self.unseal(vault.as_ref(), &new, settings.break_glass_timeout).await };
        if !new.is_empty() && failed.len() < new.len() && !self.held() {
            return match vault.look(self.left()).await {
                Ok(seen) => explained(judge(&seen, settings.pods), &again, &failed),
                Err(error) => unseen(&error),
            };
        }
        explained(judged, &again, &failed)
    }

    /// What did not become of it, pod by pod.
    async fn unseal(&self, vault: &dyn Vault, pods: &[VaultPod], break_glass: Duration) -> Vec<String> {
        let whole = self.deadline().saturating_duration_since(Instant::now());
        let mut failed = Vec::new();
        for (pod, done) in vault.unseal(pods, whole.min(break_glass + UNSEALING)).await {
            match done {
                Ok(how) => {
                    self.world.remedied(&self.job.run, pod.cause());
                    self.tell(format!("{}: {how}", pod.name)).await;
                }
                Err(UnsealError::Keys(why)) => {
                    self.world.remedied(&self.job.run, pod.cause());
                    self.tell(format!("{} could not be unsealed: {why}", pod.name)).await;
                    failed.push(format!("{} could not be unsealed: {why}", pod.name));
                }
                Err(UnsealError::Passing(why)) => failed.push(format!("{} is not unsealed yet: {why}", pod.name)),
            }
        }
        failed
    }
}

fn unseen(error: &ClusterError) -> Judged {
    Judged::CannotTell(error.to_string())
}

/// With what was tried, and what is not tried again.
fn explained(judged: Judged, again: &[VaultPod], failed: &[String]) -> Judged {
    let Judged::NotReady { why, done } = judged else { return judged };
    let again = again.iter().map(|pod| {
        format!(
            "{}: metis has unsealed this start of it in this run already, or has tried to; what it is sealed for now is a person's to know",
            pod.name
        )
    });
    let all: Vec<String> = std::iter::once(why).chain(failed.iter().cloned()).chain(again).collect();
    Judged::NotReady { why: all.join("; "), done }
}
