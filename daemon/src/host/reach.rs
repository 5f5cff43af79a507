//! All hosts, each by its way.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::helper_pod::{self, HelperPod};
use super::local::Local;
use super::port::{Command, HostError, Hosts, Output, Pods, Stopped};
use super::settings::Settings;
use super::ssh::{self, SocketStream, Ssh};
use super::systemd::Systemd;
use super::{Secrets, systemctl};
use crate::site::{Access, Host};

/// What takes the kubelet along is done this much later than ordered through a helper pod, so that the pod's end is heard of.
const POD_DELAY: Duration = Duration::from_secs(5);

/// The real hosts.
pub struct RealHosts {
    ssh: Ssh,
    local: Local,
    pods: Option<HelperPod>,
}

impl RealHosts {
    /// Connects to nothing yet. `secrets` resolves SSH keys; `pods` is for hosts with `access: helper-pod`.
    pub fn new(settings: &Settings, secrets: Secrets, pods: Option<Arc<dyn Pods>>) -> Self {
        Self::with_systemd(settings, secrets, pods, Systemd::new())
    }

    /// As [`RealHosts::new`], with this host's service manager given.
    pub fn with_systemd(settings: &Settings, secrets: Secrets, pods: Option<Arc<dyn Pods>>, systemd: Systemd) -> Self {
        let pods = pods.zip(settings.helper_image.as_deref()).map(|(pods, image)| HelperPod::new(pods, image));
        Self { ssh: Ssh::new(settings, secrets), local: Local::new(systemd), pods }
    }

    /// This host's service manager.
    pub fn this_host(&self) -> &Systemd {
        self.local.systemd()
    }

    /// A Unix socket of a host that is reached by SSH, whatever metis may do there otherwise.
    ///
    /// # Errors
    /// As [`Ssh::socket`].
    pub async fn socket(&self, host: &Host, path: &str, within: Duration) -> Result<SocketStream, HostError> {
        self.ssh.socket(host, path, within).await
    }

    /// Opens a stream from that host to an address that it reaches.
    ///
    /// # Errors
    /// See [`HostError`]; Refused where the host is reached by another way than SSH.
    pub async fn tunnel(&self, host: &Host, address: IpAddr, port: u16, within: Duration) -> Result<ssh::Tunnel, HostError> {
        match host.access {
            Access::Ssh => self.ssh.tunnel(host, address, port, within).await,
            Access::HelperPod | Access::Local | Access::None => {
                Err(HostError::Refused(format!("{}: it is not reached by SSH, so no stream to {address} can be opened there", host.name)))
            }
        }
    }

    fn pods(&self, host: &Host) -> Result<&HelperPod, HostError> {
        self.pods.as_ref().ok_or_else(|| {
            HostError::Refused(format!("{}: its access is helper-pod, and that needs cluster.kubeconfig and hosts.helper_image", host.name))
        })
    }

    /// Where the unit is the node's kubelet nobody hears of a pod's end after it: it is done once the order was taken.
    async fn stop_kubelet(&self, host: &Host, unit: &str, within: Duration) -> Result<Stopped, HostError> {
        self.run(host, &systemctl::stop_later(unit, POD_DELAY), within).await.map(|_| Stopped::Ordered)
    }

    async fn stop_by_commands(&self, host: &Host, unit: &str, within: Duration) -> Result<Stopped, HostError> {
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now());
        let asked = self.stop_in_time(host, unit, systemctl::patience(within)).await;
        let Err(late @ HostError::TimedOut(_)) = asked else { return asked.map(|()| Stopped::Asked) };
        let killed = self.run(host, &systemctl::kill(unit), left()).await;
        if let Err(error) = &killed {
            tracing::warn!(METIS_NODE = %host.name, %error, "{unit} of {} does not stop and cannot be killed", host.name);
        }
        match self.stop_in_time(host, unit, left()).await {
            Ok(()) => Ok(if killed.is_ok() { Stopped::Killed } else { Stopped::Asked }),
            // It was reached, and there was no time left to reach it again.
            Err(HostError::Unreachable(_)) => Err(late),
            Err(error) => Err(error),
        }
    }

    async fn stop_in_time(&self, host: &Host, unit: &str, within: Duration) -> Result<(), HostError> {
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
        let lost = match host.access {
            Access::HelperPod => {
                let order = systemctl::power_off(delay.max(POD_DELAY));
                self.pods(host)?.order(host, &order, within).await? == helper_pod::Order::TakenThenLost
            }
            _ => self.ssh.order(host, &systemctl::power_off(delay), within).await? == ssh::Order::TakenThenLost,
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

    async fn stop_unit(&self, host: &Host, unit: &str, within: Duration) -> Result<Stopped, HostError> {
        match host.access {
            Access::Local => self.this_host().stop_or_kill(unit, within).await,
            Access::None => Err(unmanaged(host)),
            Access::HelperPod if unit.starts_with("k3s") => self.stop_kubelet(host, unit, within).await,
            Access::Ssh | Access::HelperPod => self.stop_by_commands(host, unit, within).await,
        }
    }

    async fn start_unit(&self, host: &Host, unit: &str, within: Duration) -> Result<(), HostError> {
        match host.access {
            Access::Local => self.this_host().start_unit(unit, within).await,
            _ => self.run(host, &systemctl::start(unit), within).await.map(drop),
        }
    }

    async fn blockers(&self, host: &Host, within: Duration) -> Result<Vec<String>, HostError> {
        match host.access {
            Access::Local => self.this_host().blockers(within).await,
            _ => self.run(host, &systemctl::list_inhibitors(), within).await.map(|output| systemctl::blockers(&output)),
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
