//! How the programs of the plane are called.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;

use super::identity::Identity;
use super::{lab_file, tool};
use crate::process::Process;

/// Where etcd answers clients.
pub(super) const ETCD_PORT: u16 = 2379;

/// What all of them need to know.
pub(super) struct Parts<'a> {
    pub(super) dir: &'a Path,
    pub(super) address: IpAddr,
    pub(super) netns: Option<&'a str>,
    pub(super) identity: &'a Identity,
    pub(super) url: &'a str,
}

impl Parts<'_> {
    fn program(&self, name: &str) -> Result<Process> {
        Ok(Process::new(tool(name)?, self.dir.join(format!("{name}.log"))).netns(self.netns))
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    pub(super) fn etcd(&self) -> Result<Process> {
        let (client, peer) = (format!("http://{}:{ETCD_PORT}", self.address), format!("http://{}:{}", self.address, ETCD_PORT + 1));
        Ok(self.program("etcd")?.args([
            format!("--data-dir={}", self.path("etcd")),
            "--name=lab".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=lab={peer}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ]))
    }

    pub(super) fn api_server(&self, port: u16) -> Result<Process> {
        let arguments = [
            format!("--etcd-servers=http://{}:{ETCD_PORT}", self.address),
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", self.path("server.pem")),
            format!("--tls-private-key-file={}", self.path("server.key")),
            format!("--token-auth-file={}", self.path("tokens.csv")),
            format!("--service-account-key-file={}", self.path("accounts.key")),
            format!("--service-account-signing-key-file={}", self.path("accounts.key")),
            format!("--audit-policy-file={}", lab_file("audit-policy.yaml").display()),
            format!("--audit-log-path={}", self.path("audit.log")),
        ];
        // As k3s has them, but for ServiceAccount admission (pods need no token here), and for the endpoints of the service `kubernetes`,
        // which must not be loopback addresses.
        let fixed = [
            // Megabytes: tests read one file, and a rotated one has lost its beginning.
            "--audit-log-maxsize=10000",
            "--audit-log-mode=blocking",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.43.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--anonymous-auth=false",
            "--allow-privileged=true",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            "--profiling=false",
        ];
        let mut server = self.program("kube-apiserver")?.args(arguments).args(fixed);
        server.set_log(self.dir.join(format!("kube-apiserver-{port}.log")));
        Ok(server)
    }

    pub(super) fn controller_manager(&self) -> Result<Process> {
        let kubeconfig = self.kubeconfig("kube-controller-manager")?;
        Ok(self.program("kube-controller-manager")?.arg(kubeconfig).args([
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--profiling=false".to_owned(),
            format!("--service-account-private-key-file={}", self.path("accounts.key")),
            format!("--root-ca-file={}", self.path("ca.pem")),
            // A thousand pods shall not wait for the client's own brake.
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ]))
    }

    pub(super) fn scheduler(&self) -> Result<Process> {
        let kubeconfig = self.kubeconfig("kube-scheduler")?;
        let fixed = ["--leader-elect=false", "--secure-port=0", "--profiling=false", "--kube-api-qps=500", "--kube-api-burst=1000"];
        Ok(self.program("kube-scheduler")?.arg(kubeconfig).args(fixed))
    }

    fn kubeconfig(&self, user: &str) -> Result<String> {
        Ok(format!("--kubeconfig={}", self.identity.kubeconfig(user, self.url, self.identity.token(user)?)?.display()))
    }
}
