//! Hosts as metisd reaches them: under a real systemd by D-Bus as the user metis, over SSH, and through helper pods.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod here;
mod pods;
mod saving;
mod ssh;

use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use metis_tests::daemon::program;
use metis_tests::hosts::{Hosts, OPERATOR, Role, SSH_PORT};
use metisd::host::port::Pods;
use metisd::host::{RealHosts, Secrets, Settings};
use metisd::site::{Access, Host, Returns, Secret, SecretRef};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const LIMIT: Duration = Duration::from_secs(30);

/// Holds a lock against shutdowns that somebody forgot.
const FORGOTTEN: (&str, &str) = (
    "forgotten.service",
    "[Service]\nExecStart=/usr/bin/systemd-inhibit --what=shutdown --who=apt --why=upgrades --mode=block sleep infinity\n",
);

/// Units of a worker with k3s, as far as systemd sees them.
const K3S_UNITS: [(&str, &str); 2] = [
    ("k3s-agent.service", "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"),
    ("k3s.service", "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 15\nTimeoutStopSec=20\n"),
];

/// metis as `systemd/install` leaves it.
fn install(root: &Path) -> anyhow::Result<()> {
    let binaries = program("metisd").parent().unwrap().to_path_buf();
    let out = Process::new(Path::new(REPOSITORY).join("systemd/install")).arg(root).env("BIN", binaries).output()?;
    anyhow::ensure!(out.status.success(), "systemd/install: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

fn put(root: &Path, path: &str, text: &str) -> anyhow::Result<()> {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap())?;
    Ok(std::fs::write(path, text)?)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn of_lab(hosts: &Hosts, role: Role) -> Host {
    Host {
        name: role.name().into(),
        node_name: role.name().to_owned(),
        access: Access::Ssh,
        address: role.address().to_string(),
        port: SSH_PORT,
        user: OPERATOR.to_owned(),
        key: None,
        host_keys: vec![hosts.host_key(role).fingerprint.clone()],
        sudo: true,
        returns: Returns::AcCycle,
        mac: None,
        wake: None,
        k3s: None,
        this_host: false,
        domains: std::collections::BTreeSet::new(),
    }
}

/// `pods`: the way of hosts with `access: helper-pod`.
fn real(hosts: &Hosts, pods: Option<Arc<dyn Pods>>) -> RealHosts {
    let secrets: Secrets = Arc::new(|reference| match reference {
        SecretRef::File(path) => std::fs::read(path).map(Secret::new).map_err(|e| e.to_string()),
        SecretRef::Credential(name) => Err(format!("there is no credential {name}")),
    });
    let settings = Settings {
        this_host: None,
        user: OPERATOR.to_owned(),
        key: Some(SecretRef::File(hosts.key().path.clone())),
        known_hosts: hosts.known_hosts().unwrap(),
        connect_timeout: Duration::from_secs(5),
        at_once: 8,
        helper_image: pods.is_some().then(|| "busybox".to_owned()),
        helper_namespace: "kube-system".to_owned(),
    };
    RealHosts::new(&settings, secrets, pods)
}
