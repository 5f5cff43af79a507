//! All hosts, each by its way.

use std::time::Duration;

use tokio::time::Instant;

use super::helper_pod::{self, HelperPod};
use super::local::Local;
use super::port::{Command, HostError, Hosts, Output};
use super::settings::Settings;
use super::ssh::{self, Ssh};
use super::systemd::Systemd;
use super::{Secrets, systemctl};
use crate::site::{Access, Host};

/// A helper pod's node goes down this much later than ordered, so that the pod's end is heard of.
const POD_DELAY: Duration = Duration::from_secs(5);

/// The real hosts.
pub struct RealHosts {
    ssh: Ssh,
    local: Local,
    pods: Option<HelperPod>,
}

impl RealHosts {
    /// Connects to nothing yet. `secrets` resolves SSH keys; `kube` is for hosts with `access: helper-pod`.
    pub fn new(settings: &Settings, secrets: Secrets, kube: Option<kube::Client>) -> Self {
        Self::with_systemd(settings, secrets, kube, Systemd::new())
    }

    /// As [`RealHosts::new`], with this host's service manager given.
    pub fn with_systemd(settings: &Settings, secrets: Secrets, kube: Option<kube::Client>, systemd: Systemd) -> Self {
        let pods = kube.zip(settings.helper_image.as_deref());
        let pods = pods.map(|(client, image)| HelperPod::new(client, &settings.helper_namespace, image));
        Self { ssh: Ssh::new(settings, secrets), local: Local::new(systemd), pods }
    }

    /// This host's service manager.
    pub fn this_host(&self) -> &Systemd {
        self.local.systemd()
    }

    fn pods(&self, host: &Host) -> Result<&HelperPod, HostError> {
        self.pods.as_ref().ok_or_else(|| {
            HostError::Refused(format!("{}: its access is helper-pod, but there is no way to the cluster (cluster.kubeconfig)", host.name))
        })
    }

    async fn stop_by_commands(&self, host: &Host, unit: &str, within: Duration) -> Result<(), HostError> {
        let until = Instant::now() + within;
        // Of a unit that is not there it says so and fails; its state decides.
        let stopped = self.run(host, &systemctl::stop(unit), within).await;
        if matches!(stopped, Err(HostError::Unreachable(_) | HostError::Refused(_) | HostError::Denied(_) | HostError::TimedOut(_))) {
            return stopped.map(drop);
        }
        let left = until.saturating_duration_since(Instant::now());
        let output = self.run(host, &systemctl::show(unit), left).await?;
        match systemctl::UnitState::read(&output) {
            Some(state) if state.is_stopped() => Ok(()),
            Some(state) => stopped.and(Err(HostError::Failed(format!("{}: {unit} is {} after it was stopped", host.name, state.active)))),
            None => stopped.and(Err(HostError::Failed(format!("{}: systemctl does not say what {unit} does", host.name)))),
        }
    }

    async fn power_off_by_commands(&self, host: &Host, delay: Duration, within: Duration) -> Result<(), HostError> {
        let until = Instant::now() + within;
        // Not knowing who blocks must not hold it, nor take the time for it.
        if let Ok(output) = self.run(host, &systemctl::list_inhibitors(), within / 3).await {
            let blockers = systemctl::blockers(&output);
            if !blockers.is_empty() {
                tracing::warn!(METIS_NODE = %host.name, "powering {} off although its shutdown is blocked by {}", host.name, blockers.join("; "));
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        let lost = match host.access {
            Access::HelperPod => {
                let order = systemctl::power_off(delay.max(POD_DELAY));
                self.pods(host)?.order(host, &order, left).await? == helper_pod::Order::TakenThenLost
            }
            _ => self.ssh.order(host, &systemctl::power_off(delay), left).await? == ssh::Order::TakenThenLost,
        };
        if lost {
            tracing::info!(METIS_NODE = %host.name, "{} took the order to power off and was gone", host.name);
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Hosts for RealHosts {
    async fn probe(&self, host: &Host, within: Duration) -> Result<(), HostError> {
        match host.access {
            Access::Local => self.this_host().probe(within).await,
            _ => self.run(host, &systemctl::probe(), within).await.map(drop),
        }
    }

    async fn run(&self, host: &Host, command: &Command, within: Duration) -> Result<Output, HostError> {
        match host.access {
            Access::Ssh => self.ssh.run(host, command, within).await,
            Access::HelperPod => self.pods(host)?.run(host, command, within).await,
            Access::Local => self.local.run(command, within).await,
            Access::None => Err(unmanaged(host)),
        }
    }

    async fn stop_unit(&self, host: &Host, unit: &str, within: Duration) -> Result<(), HostError> {
        match host.access {
            Access::Local => self.this_host().stop_unit(unit, within).await,
            Access::None => Err(unmanaged(host)),
            Access::Ssh | Access::HelperPod => self.stop_by_commands(host, unit, within).await,
        }
    }

    async fn start_unit(&self, host: &Host, unit: &str, within: Duration) -> Result<(), HostError> {
        match host.access {
            Access::Local => self.this_host().start_unit(unit, within).await,
            _ => self.run(host, &systemctl::start(unit), within).await.map(drop),
        }
    }

    async fn power_off(&self, host: &Host, delay: Duration, within: Duration) -> Result<(), HostError> {
        match host.access {
            Access::Local => self.this_host().power_off(delay, within).await,
            Access::None => Err(unmanaged(host)),
            Access::Ssh | Access::HelperPod => self.power_off_by_commands(host, delay, within).await,
        }
    }
}

fn unmanaged(host: &Host) -> HostError {
    HostError::Refused(format!("{}: its access is none, so metis does nothing there", host.name))
}
