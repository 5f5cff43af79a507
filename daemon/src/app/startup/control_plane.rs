//! Whether the API is ready; and where it is not, whether its servers are at work on it.

use futures::future::join_all;

use crate::app::shutdown::Attempt;
use crate::cluster::port::ClusterError;
use crate::host::port::Command;
use crate::site::{Access, Host, Judged, K3sRole};

impl Attempt<'_> {
    pub(super) async fn control_plane(&self) -> Judged {
        let ready = match self.platform() {
            Ok(platform) => platform.ready(self.left()).await,
            Err(why) => return Judged::CannotTell(why),
        };
        match ready {
            Ok(()) => Judged::Ready("the API is ready".to_owned()),
            Err(ClusterError::Refused(why)) => Judged::CannotTell(why),
            Err(error) => Judged::NotReady { why: error.to_string(), done: self.servers_work().await },
        }
    }

    /// Seconds of CPU time that k3s has used on all servers: a datastore that takes a quarter of an hour to open is at work, a server that
    /// hangs is not. One that cannot be asked counts nothing.
    async fn servers_work(&self) -> u64 {
        let hosts = self.parts.topology.hosts.values();
        let servers = hosts.filter(|host| host.k3s == Some(K3sRole::Server) && matches!(host.access, Access::Ssh | Access::Local));
        join_all(servers.map(|host| self.cpu_seconds(host))).await.into_iter().flatten().sum()
    }

    async fn cpu_seconds(&self, host: &Host) -> Option<u64> {
        let argv = ["systemctl", "show", "-p", "CPUUsageNSec", "--value", "k3s.service"].map(str::to_owned).to_vec();
        let output = self.parts.hosts.run(host, &Command { argv, root: false }, self.left()).await.ok()?;
        // systemd says 2⁶⁴-1, or words, where it does not count.
        let nanoseconds: u64 = output.stdout.trim().parse().ok().filter(|count| *count < u64::MAX)?;
        Some(nanoseconds / 1_000_000_000)
    }
}
