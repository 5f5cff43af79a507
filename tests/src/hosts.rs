//! The laboratory's hosts: a small site of nspawn hosts on one bridge, each with systemd, logind and sshd.

mod install;
mod k3s;
mod metis;
mod role;
mod ups;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::ops::Index;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

pub use install::{Key, OPERATOR, Sudo};
pub use k3s::{Cluster, unit};
pub use metis::{Fact, Metis, Wishes};
pub use role::Role;
pub use ups::{NUT_PORT, PRIMARY, SECONDARY, Ups, UpsPlan};

use crate::lab::Lab;
use crate::nspawn::{Build, Event, History, Host, Moment, Times};
use crate::plane::Options;
use crate::require;

/// Where sshd listens on every host.
pub const SSH_PORT: u16 = 2277;

/// Whether hosts can be started here; says so if not.
pub fn available(test: &str) -> bool {
    require::root(test) && require::programs(test, &["systemd-nspawn", "mmdebstrap", "nsenter", "ip", "ssh-keygen", "ssh"])
}

/// Hosts to be started.
#[derive(Debug, Default)]
pub struct Plan {
    roles: Vec<Role>,
    times: BTreeMap<Role, Times>,
    sudo: BTreeMap<Role, Sudo>,
    options: BTreeMap<Role, Vec<String>>,
    files: Vec<(Role, String, String)>,
    stays_off: Vec<Role>,
    upses: Vec<UpsPlan>,
    k3s: Option<Options>,
}

/// Hosts that are on. Dropping them cuts their power and leaves nothing behind.
pub struct Hosts {
    // First, so that they do not see the hosts go.
    upses: BTreeMap<&'static str, Ups>,
    // Before the control plane, which ends when titan-0a does, and before the laboratory that holds them.
    hosts: BTreeMap<Role, Arc<Host>>,
    cluster: Option<Cluster>,
    keys: BTreeMap<Role, Key>,
    key: Key,
    history: History,
    lab: Arc<Lab>,
}

impl Plan {
    /// These hosts, quick ones, on which the operator may do everything.
    pub fn new(roles: &[Role]) -> Self {
        Self { roles: roles.to_vec(), ..Self::default() }
    }

    /// From the second boot on, this host takes so long.
    #[must_use]
    pub fn times(mut self, role: Role, times: Times) -> Self {
        self.times.insert(role, times);
        self
    }

    /// What the operator may do on this host.
    #[must_use]
    pub fn sudo(mut self, role: Role, sudo: Sudo) -> Self {
        self.sudo.insert(role, sudo);
        self
    }

    /// A further option of nspawn for this host.
    #[must_use]
    pub fn option(mut self, role: Role, option: impl Into<String>) -> Self {
        self.options.entry(role).or_default().push(option.into());
        self
    }

    /// A file on this host's disk.
    #[must_use]
    pub fn file(mut self, role: Role, path: impl Into<String>, text: impl Into<String>) -> Self {
        self.files.push((role, path.into(), text.into()));
        self
    }

    /// This host's firmware does not boot it when power comes back.
    #[must_use]
    pub fn stays_off(mut self, role: Role) -> Self {
        self.stays_off.push(role);
        self
    }

    /// A UPS, with its upsd and driver on its host.
    #[must_use]
    pub fn ups(mut self, ups: UpsPlan) -> Self {
        self.upses.push(ups);
        self
    }

    /// k3s on those that are in the cluster, with titan-0a as its server; its control plane has these further parts.
    #[must_use]
    pub fn k3s(mut self, options: Options) -> Self {
        self.k3s = Some(options);
        self
    }

    /// Boots them all at once, in a laboratory of their own.
    ///
    /// # Errors
    /// Where one of them does not come up, or its sshd does not answer.
    pub fn start(self) -> anyhow::Result<Hosts> {
        let lab = Arc::new(Lab::start("hosts")?);
        self.start_in(lab)
    }

    /// Boots them all at once.
    ///
    /// # Errors
    /// As [`Plan::start`].
    pub fn start_in(self, lab: Arc<Lab>) -> anyhow::Result<Hosts> {
        let key = Key::make(&lab.work().join("operator"), OPERATOR)?;
        let (history, empty) = (History::default(), BTreeMap::new());
        let cluster = self.k3s.as_ref().map(|options| Cluster::offer(&lab, options)).transpose()?;
        let mut site = Hosts { upses: BTreeMap::new(), cluster, hosts: BTreeMap::new(), keys: empty, key, history, lab };
        for role in &self.roles {
            site.build(*role, &self)?;
        }
        for ups in &self.upses {
            site.feed(ups)?;
        }
        for host in site.hosts.values() {
            host.switch_on()?;
        }
        for (role, host) in &site.hosts {
            host.wait_on()?;
            site.wait_ssh(*role)?;
            host.set_times(self.times.get(role).copied().unwrap_or(Times::QUICK));
        }
        if let Some(cluster) = &site.cluster {
            cluster.wait(true, Duration::from_mins(1))?;
        }
        for ups in &self.upses {
            site[ups.at].wait_for(20, &format!("upsc {} ups.status | grep -q OL", ups.name))?;
        }
        Ok(site)
    }
}

impl Hosts {
    /// Boots these hosts as [`Plan::new`] describes them.
    ///
    /// # Errors
    /// As [`Plan::start`].
    pub fn start(roles: &[Role]) -> anyhow::Result<Self> {
        Plan::new(roles).start()
    }

    fn build(&mut self, role: Role, plan: &Plan) -> anyhow::Result<()> {
        let cable = role.cable(&self.lab)?;
        let mut options = vec![format!("--network-namespace-path=/run/netns/{}", role.name())];
        options.extend(plan.options.get(&role).into_iter().flatten().cloned());
        let (upses, folder) = (plan.upses.iter().filter(|ups| ups.at == role).collect::<Vec<_>>(), self.lab.work().join("ups"));
        if !upses.is_empty() {
            std::fs::create_dir_all(&folder)?;
            options.push(ups::bind(&folder));
        }
        if plan.k3s.is_some() {
            options.extend(k3s::options(&self.lab)?);
        }
        let build = Build {
            name: role.name().to_owned(),
            options,
            cable: Some(cable),
            times: Times::QUICK,
            restores: !plan.stays_off.contains(&role),
            history: self.history.clone(),
        };
        let host = Host::build(Arc::clone(&self.lab), build)?;
        let key = Key::make(&self.lab.work().join(format!("{}.key", role.name())), role.name())?;
        let sudo = plan.sudo.get(&role).copied().unwrap_or_default();
        install::host(&host, role, &key, &self.key, sudo)?;
        if plan.k3s.is_some() {
            k3s::install(&host, role)?;
        }
        if !upses.is_empty() {
            ups::install(&host, &upses)?;
        }
        for (_, path, text) in plan.files.iter().filter(|(of, ..)| *of == role) {
            install::put(&host.disk(), path, text)?;
        }
        self.keys.insert(role, key);
        self.hosts.insert(role, Arc::new(host));
        Ok(())
    }

    /// Connects a UPS, full and on line.
    fn feed(&mut self, plan: &UpsPlan) -> anyhow::Result<()> {
        let fed = |(role, host): (&Role, &Arc<Host>)| plan.feeds.contains(role).then(|| (*role, Arc::clone(host)));
        let hosts = self.hosts.iter().filter_map(fed).collect();
        let ups = Ups::start(plan.clone(), self.lab.work().join("ups"), &self[plan.at], hosts, self.history.clone())?;
        self.upses.insert(plan.name, ups);
        Ok(())
    }

    /// The control plane.
    ///
    /// # Panics
    /// Where they were started without k3s.
    pub fn cluster(&self) -> &Cluster {
        let Some(cluster) = &self.cluster else { panic!("these hosts were started without k3s") };
        cluster
    }

    /// The UPS of that name.
    ///
    /// # Panics
    /// Where there is none.
    pub fn ups(&self, name: &str) -> &Ups {
        &self.upses[name]
    }

    /// The laboratory they are in.
    pub fn lab(&self) -> &Arc<Lab> {
        &self.lab
    }

    /// Every host with its role.
    pub fn all(&self) -> impl Iterator<Item = (Role, &Host)> {
        self.hosts.iter().map(|(role, host)| (*role, &**host))
    }

    /// The operator's key, which every host lets in.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// A host's own key.
    ///
    /// # Panics
    /// Where there is no such host.
    pub fn host_key(&self, role: Role) -> &Key {
        &self.keys[&role]
    }

    /// What ssh(1) and others read as known_hosts, made anew; with every address, port and key.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn known_hosts(&self) -> anyhow::Result<PathBuf> {
        let path = self.lab.work().join("known_hosts");
        let line = |(role, key): (&Role, &Key)| format!("[{}]:{SSH_PORT} {}\n", role.address(), key.public);
        std::fs::write(&path, self.keys.iter().map(line).collect::<String>())?;
        Ok(path)
    }

    /// Runs a shell line over SSH as the operator, through OpenSSH's own client.
    ///
    /// # Errors
    /// Where ssh cannot be started. Its exit code is 255 where the connection fails or ends.
    pub fn ssh(&self, role: Role, line: &str) -> anyhow::Result<Output> {
        let mut ssh = self.lab.command("ssh");
        ssh.arg("-i").arg(&self.key.path).args(["-p", &SSH_PORT.to_string(), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
        ssh.args(["-F", "none", "-o", "ConnectTimeout=3", "-o"]).arg(format!("UserKnownHostsFile={}", self.known_hosts()?.display()));
        ssh.arg(format!("{OPERATOR}@{}", role.address())).arg(line).stdin(Stdio::null());
        ssh.output().context("ssh")
    }

    /// Waits until a host's sshd says its banner.
    ///
    /// # Errors
    /// Where it does not within 30 s.
    pub fn wait_ssh(&self, role: Role) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        while let Err(error) = self.banner(role) {
            ensure!(Instant::now() < until, "sshd of {}: {error:#}\n{}", role.name(), self[role].console());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What a host's sshd says first, within a second.
    ///
    /// # Errors
    /// Where it cannot be reached or says nothing.
    pub fn banner(&self, role: Role) -> anyhow::Result<String> {
        let lab = Arc::clone(&self.lab);
        let ask = move || -> anyhow::Result<String> {
            lab.enter()?;
            let limit = Duration::from_secs(1);
            let stream = TcpStream::connect_timeout(&SocketAddr::new(role.address().into(), SSH_PORT), limit)?;
            stream.set_read_timeout(Some(limit))?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            ensure!(line.starts_with("SSH-2.0-"), "said {line:?}");
            Ok(line)
        };
        // Its own thread: the caller stays in its own network.
        std::thread::spawn(ask).join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
    }

    /// What happened to all hosts since the start, in order.
    pub fn history(&self) -> Vec<Moment> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When this last happened to the host or UPS of that name.
    pub fn when(&self, name: &str, event: &Event) -> Option<Instant> {
        self.history().iter().rev().find(|moment| moment.host == name && moment.event == *event).map(|moment| moment.at)
    }

    /// Waits until that has happened since `since`; when.
    ///
    /// # Errors
    /// Where it has not within `limit`; the history is in the message.
    pub fn wait_event(&self, name: &str, event: &Event, since: Instant, limit: Duration) -> anyhow::Result<Instant> {
        let until = Instant::now() + limit;
        loop {
            match self.when(name, event) {
                Some(at) if at >= since => return Ok(at),
                _ => ensure!(Instant::now() < until, "{name} was not {event:?} within {limit:?}: {:#?}", self.history()),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Index<Role> for Hosts {
    type Output = Host;

    fn index(&self, role: Role) -> &Host {
        &self.hosts[&role]
    }
}
