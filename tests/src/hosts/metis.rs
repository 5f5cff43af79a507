#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]
//! The real metisd on a host of the laboratory, installed as on a site: its units, user, polkit rules and credentials, and the configuration of
//! the laboratory's site.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::install::put;
use super::{Hosts, OPERATOR, PRIMARY, Role, SSH_PORT, unit};
use crate::daemon::{Answer, program};
use crate::lab::repository;
use crate::nspawn::Host;

/// Secrets of root, which systemd hands to the daemon (LoadCredential= of systemd.exec(5)).
const CREDENTIALS: &str = "/etc/metis/credentials";
/// A copy of the host's boot id.
const BOOT_ID: &str = "/run/boot-id";
/// Where systemd puts the daemon's state.
const STATE: &str = "/var/lib/metis";

/// What differs from one test to the next.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// A further drop-in of metis.yaml, read last.
    pub config: String,
    /// Further lines of the unit's section `[Service]`.
    pub unit: String,
    /// In place of the kubeconfig of metis' account.
    pub kubeconfig: Option<PathBuf>,
}

/// metisd on a host.
#[derive(Clone)]
pub struct Metis {
    host: Arc<Host>,
}

/// A fact of its journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// When it was recorded.
    pub at: jiff::Timestamp,
    /// e.g. `step.started`
    pub kind: String,
    /// All of it.
    pub payload: Value,
}

impl Fact {
    /// A text in its payload; empty where there is none of that name.
    pub fn text(&self, key: &str) -> &str {
        self.payload[key].as_str().unwrap_or_default()
    }
}

impl Hosts {
    /// Installs metisd on a host that is on, as the coordinator of the laboratory's site, and starts it.
    ///
    /// # Errors
    /// Where it cannot be installed, or does not get ready within 20 s.
    pub fn install_metis(&self, on: Role, wishes: &Wishes) -> anyhow::Result<Metis> {
        let host = Arc::clone(self.hosts.get(&on).context("a host that is there")?);
        let root = host.root();
        let binaries = program("metisd").parent().context("the folder of metisd")?.to_path_buf();
        let install = Command::new(repository().join("systemd/install")).arg(&root).env("BIN", binaries).stdin(Stdio::null()).output()?;
        ensure!(install.status.success(), "systemd/install: {}", String::from_utf8_lossy(&install.stderr));
        put(&root, "etc/metis/inventory.yaml", &self.inventory())?;
        put(&root, "etc/metis/metis.d/10-site.yaml", &self.configuration())?;
        if !wishes.config.is_empty() {
            put(&root, "etc/metis/metis.d/20-test.yaml", &wishes.config)?;
        }
        self.put_credentials(&root, wishes)?;
        // nspawn gives each boot an id by a mount, which the unit's ProtectKernelTunables= would take away.
        put(&root, "etc/tmpfiles.d/boot-id.conf", &format!("C {BOOT_ID} - - - - /proc/sys/kernel/random/boot_id\n"))?;
        let mut service = format!("[Service]\nBindReadOnlyPaths={BOOT_ID}:/proc/sys/kernel/random/boot_id\n");
        for name in ["ssh-key", "kubeconfig", "nut-password"] {
            let _ = writeln!(service, "LoadCredential={name}:{CREDENTIALS}/{name}");
        }
        put(&root, "etc/systemd/system/metisd.service.d/site.conf", &(service + &wishes.unit + "\n"))?;
        // What systemd/install does itself where it installs on the host that it runs on, and what it then tells to do.
        host.sh("systemd-sysusers metis.conf; systemd-tmpfiles --create metis.conf boot-id.conf; chgrp -R metis /etc/metis; systemctl daemon-reload")?;
        let metis = Metis { host };
        metis.host.sh("systemctl enable --quiet --now metisd.socket metisd").with_context(|| metis.log())?;
        metis.host.wait_for(20, "systemctl is-active metisd && metisctl status >/dev/null").with_context(|| metis.log())?;
        Ok(metis)
    }

    fn put_credentials(&self, root: &Path, wishes: &Wishes) -> anyhow::Result<()> {
        let own = match &wishes.kubeconfig {
            Some(path) => path.clone(),
            None => self.cluster().with(|plane| Ok(plane.metis_kubeconfig().to_owned()))?,
        };
        let secrets = [
            ("ssh-key", std::fs::read_to_string(&self.key().path)?),
            ("kubeconfig", std::fs::read_to_string(own)?),
            ("nut-password", PRIMARY.1.to_owned()),
        ];
        for (name, text) in secrets {
            let path = put(root, &format!("{CREDENTIALS}/{name}"), &text)?;
            std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        }
        Ok(std::fs::set_permissions(root.join(CREDENTIALS.trim_start_matches('/')), Permissions::from_mode(0o700))?)
    }

    /// The hosts of the laboratory as an inventory has them; those that are not there too.
    fn inventory(&self) -> String {
        let mut text = format!(
            "defaults: {{ host: {{ port: {SSH_PORT}, returns: ac-cycle }} }}\nclasses:\n  server: {{ arch: amd64, k3s: {{ role: server }} }}\n  \
             agent: {{ arch: arm64, k3s: {{ role: agent }} }}\n  outside: {{ arch: amd64 }}\nnodes:\n"
        );
        for role in Role::ALL {
            let class = match unit(role) {
                None => "outside",
                Some("k3s.service") => "server",
                Some(_) => "agent",
            };
            let key = self.keys.get(&role).map(|key| format!(", host_keys: [\"{}\"]", key.fingerprint)).unwrap_or_default();
            let _ = writeln!(
                text,
                "  {}: {{ class: {class}, hostname: {}, host: {{ node_name: {}, address: {}{key} }} }}",
                role.inventory_name(),
                role.name(),
                role.inventory_name(),
                role.address()
            );
        }
        text
    }

    /// The coordinator's: both UPSes, each the power domain of what it feeds.
    fn configuration(&self) -> String {
        let mut upses = String::new();
        let mut domains = String::new();
        for ups in self.upses.values() {
            let plan = ups.plan();
            let at = if plan.at == Role::TitanDb { "localhost" } else { plan.at.name() };
            let name = format!("{}@{at}", plan.name);
            let nodes = plan.feeds.iter().map(|role| role.inventory_name()).collect::<Vec<_>>().join(", ");
            let _ = writeln!(upses, "    {name}: {{ username: {}, password: {{ credential: nut-password }} }}", PRIMARY.0);
            let _ = writeln!(domains, "    {}: {{ upses: [{name}], nodes: [{nodes}] }}", plan.name);
        }
        format!(
            "daemon: {{ host_role: coordinator, log_level: debug }}\nhosts: {{ user: {OPERATOR}, key: {{ credential: ssh-key }} }}\n\
             cluster: {{ kubeconfig: {{ credential: kubeconfig }} }}\npower:\n  poll_interval: 500ms\n  upses:\n{upses}  domains:\n{domains}"
        )
    }
}

impl Metis {
    /// Runs metisctl on its host, as root.
    ///
    /// # Errors
    /// Where it cannot be started, or the host is off.
    pub fn ctl(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        Ok(self.host.output(&[&["metisctl"], arguments].concat())?.into())
    }

    /// Runs metisctl, which has to succeed; its standard output as JSON.
    ///
    /// # Errors
    /// Where it fails; both outputs are in the message.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let answer = self.ctl(&[arguments, &["-o", "json"]].concat())?;
        ensure!(answer.code == Some(0), "metisctl {arguments:?}: {answer:?}");
        answer.json()
    }

    /// Asks until `wanted` says yes.
    ///
    /// # Errors
    /// The last answer, after `patience`.
    pub fn until(&self, patience: Duration, arguments: &[&str], wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let end = Instant::now() + patience;
        loop {
            let answer = self.json(arguments);
            match answer {
                Ok(value) if wanted(&value) => return Ok(value),
                // It may be starting again.
                Err(error) => ensure!(Instant::now() < end, "metisctl {arguments:?} after {patience:?}: {error:#}\n{}", self.log()),
                Ok(value) => ensure!(Instant::now() < end, "metisctl {arguments:?} after {patience:?}: {value:#}\n{}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where its state is, seen from outside: of the running host, or of the disk of one that is off.
    pub fn state(&self) -> PathBuf {
        let below = STATE.trim_start_matches('/');
        let on = self.host.root().join(below);
        if on.exists() { on } else { self.host.disk().join(below) }
    }

    /// What it said to the journal of its host.
    pub fn log(&self) -> String {
        self.host.entries(&["-u", "metisd", "-o", "short-precise"]).unwrap_or_else(|error| format!("{error:#}"))
    }

    /// The facts of its journal, oldest first, read from a copy: reading must not repair what recovery is to find.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    pub fn facts(&self) -> anyhow::Result<Vec<Fact>> {
        let copy = tempfile::tempdir()?;
        for name in ["journal.db", "journal.db-wal"] {
            let from = self.state().join(name);
            if from.exists() {
                std::fs::copy(&from, copy.path().join(name)).with_context(|| from.display().to_string())?;
            }
        }
        let connection = rusqlite::Connection::open(copy.path().join("journal.db"))?;
        let mut rows = connection.prepare("SELECT at, kind, payload FROM fact ORDER BY seq")?;
        let rows = rows.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))?;
        rows.map(|row| {
            let (at, kind, payload) = row?;
            Ok(Fact { at: jiff::Timestamp::from_nanosecond(at.into())?, kind, payload: serde_json::from_str(&payload)? })
        })
        .collect()
    }

    /// `last-shutdown-report.json`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn report(&self) -> anyhow::Result<Value> {
        let path = self.state().join("last-shutdown-report.json");
        Ok(serde_json::from_slice(&std::fs::read(&path).with_context(|| path.display().to_string())?)?)
    }
}
