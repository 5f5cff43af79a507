//! A Kubernetes control plane of the lab (`tests/lab/README.md`): real etcd, API server, controller-manager and scheduler, and what else the
//! options ask for; gone when it is dropped.

pub mod api;
pub mod audit;
mod flux;
pub mod front;
pub mod git;
pub mod identity;
mod kubectl;
pub mod kwok;
mod parts;
mod place;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::Process;
use crate::require;
use api::Api;
use identity::Identity;
pub use place::tool;
pub(crate) use place::{lab_file, sh};

/// Where the API server listens; a second and third one on the ports above.
pub const PORT: u16 = 6443;

/// Whether Flux is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flux {
    /// Not at all.
    #[default]
    Absent,
    /// Its CRDs, with nobody who acts on their objects.
    Crds,
    /// The real source- and kustomize-controllers too, and a Git server for them.
    Running,
}

/// What the plane shall have.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where its servers listen; without it on a loopback address of its own. An address of a bridge lets hosts reach it.
    pub address: Option<IpAddr>,
    /// The network namespace that it runs in, a name of ip-netns(8) or a path; it needs an `address` of that namespace.
    pub netns: Option<String>,
    /// Further names and addresses in the API server's certificate.
    pub names: Vec<String>,
    /// API servers beside the first one, on the same etcd.
    pub more_servers: u16,
    /// The CRDs of Longhorn.
    pub longhorn: bool,
    /// Flux.
    pub flux: Flux,
}

/// A running control plane.
#[derive(Debug)]
pub struct Plane {
    // First, so that they end before their folder goes.
    kwoks: Vec<Process>,
    flux: Option<flux::Controllers>,
    managers: Vec<Process>,
    servers: Vec<Process>,
    etcd: Process,
    address: IpAddr,
    netns: Option<String>,
    identity: Identity,
    kubectl: PathBuf,
    admin: PathBuf,
    metis: PathBuf,
    metis_token: String,
    dir: TempDir,
}

/// Whether a plane can be started here; says so if not.
pub fn available(test: &str) -> bool {
    require::programs(test, &["go", "openssl", "setpriv"])
}

impl Plane {
    /// Starts it and waits until it is ready and metis' own account has its token.
    ///
    /// # Errors
    /// Where it is not ready within a minute; the last words of its programs are in the message.
    pub fn start(options: &Options) -> Result<Self> {
        place::sweep()?;
        // On tmpfs: etcd syncs each write, and nothing of it is to be kept.
        let dir = tempfile::Builder::new().prefix(&place::prefix()).tempdir_in("/dev/shm")?;
        let address = match (options.address, &options.netns) {
            (Some(address), _) => address,
            (None, None) => place::own_loopback()?,
            (None, Some(netns)) => bail!("a plane in the network namespace {netns} needs an address there"),
        };
        let mut names = vec![address.to_string(), "kubernetes.default.svc".to_owned(), "localhost".to_owned()];
        names.extend(options.names.iter().cloned());
        let identity = Identity::make(dir.path(), &names)?;
        let url = format!("https://{address}:{PORT}");
        let admin = identity.kubeconfig("admin", &url, identity.token("admin")?)?;
        let metis = dir.path().join("metis.kubeconfig");
        let part = parts::Parts { dir: dir.path(), address, netns: options.netns.as_deref(), identity: &identity, url: &url };
        let etcd = part.etcd()?;
        let servers = (0..=options.more_servers).map(|n| part.api_server(PORT + n)).collect::<Result<_>>()?;
        let managers = vec![part.controller_manager()?, part.scheduler()?];
        let (kubectl, netns) = (tool("kubectl")?, options.netns.clone());
        let mut plane = Self {
            kwoks: Vec::new(),
            flux: None,
            managers,
            servers,
            etcd,
            address,
            netns,
            identity,
            kubectl,
            admin,
            metis,
            metis_token: String::new(),
            dir,
        };
        plane.come_up()?;
        if options.longhorn {
            plane.apply_file(&lab_file("longhorn-crds.yaml"))?;
            plane.kubectl(&["create", "namespace", "longhorn-system"])?;
        }
        if options.flux != Flux::Absent {
            plane.flux_crds()?;
        }
        if options.flux == Flux::Running {
            plane.start_flux()?;
        }
        Ok(plane)
    }

    fn come_up(&mut self) -> Result<()> {
        self.etcd.start()?;
        for server in &mut self.servers {
            server.start()?;
        }
        self.wait_ready()?;
        for manager in &mut self.managers {
            manager.start()?;
        }
        self.let_metis_in()
    }

    /// The shipped manifest, then a kubeconfig with the token that the real token controller has made.
    fn let_metis_in(&mut self) -> Result<()> {
        self.apply_file(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../etc/kubernetes/metis-rbac.yaml")))?;
        self.metis_token = self.wait(30, "the token of metis", || {
            let token = self.kubectl(&[
                "-n",
                "kube-system",
                "get",
                "secret",
                "metis",
                "-o",
                "go-template={{with .data.token}}{{base64decode .}}{{end}}",
            ])?;
            ensure!(!token.is_empty(), "the Secret has no token yet");
            Ok(token)
        })?;
        self.identity.write_kubeconfig(&self.metis, "metis", &self.url(), &self.metis_token)
    }

    /// Waits until every API server says that it is ready.
    ///
    /// # Errors
    /// Where one does not within 30 s, or has ended.
    pub fn wait_ready(&self) -> Result<()> {
        for n in 0..self.servers.len() {
            let api = self.api_of(n, "admin")?;
            self.wait(30, "the API server", || api.get("/readyz").map(|_| ())).with_context(|| self.last_words())?;
        }
        Ok(())
    }

    /// Repeats `check` until it succeeds.
    ///
    /// # Errors
    /// Its last failure, after `seconds`.
    pub fn wait<T>(&self, seconds: u64, what: &str, mut check: impl FnMut() -> Result<T>) -> Result<T> {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            match check() {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(100)),
                other => return other.with_context(|| format!("waited {seconds} s for {what}")),
            }
        }
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// The kubeconfig of metis' service account, with the rights of `etc/kubernetes/metis-rbac.yaml`.
    pub fn metis_kubeconfig(&self) -> &Path {
        &self.metis
    }

    /// `https://address:port` of the first API server.
    pub fn url(&self) -> String {
        self.url_of(0)
    }

    /// The address of API server `n`.
    pub fn url_of(&self, n: usize) -> String {
        format!("https://{}:{}", self.address, usize::from(PORT) + n)
    }

    /// Where the real etcd answers, without TLS.
    pub fn etcd_endpoint(&self) -> String {
        format!("http://{}:{}", self.address, parts::ETCD_PORT)
    }

    /// The plane's address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Certificates, tokens, further kubeconfigs.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A folder on tmpfs that goes with the plane.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A client with the administrator's rights.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn api(&self) -> Result<Api> {
        self.api_as("admin")
    }

    /// A client with the token of one of the plane's users; the audit log shows who it was.
    ///
    /// # Errors
    /// Where there is no such user.
    pub fn api_as(&self, user: &str) -> Result<Api> {
        self.api_of(0, user)
    }

    /// A client with the rights of metis' service account.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn metis_api(&self) -> Result<Api> {
        Api::new(&self.url(), &self.identity.ca, &self.metis_token, self.netns.as_deref())
    }

    fn api_of(&self, server: usize, user: &str) -> Result<Api> {
        Api::new(&self.url_of(server), &self.identity.ca, self.identity.token(user)?, self.netns.as_deref())
    }

    /// API server `n`: to freeze (SIGSTOP), continue, kill and start it.
    pub fn server(&mut self, n: usize) -> &mut Process {
        &mut self.servers[n]
    }

    /// The controller-manager, to treat it likewise: without it nothing is garbage-collected, and budgets say what they are told to.
    pub fn controller_manager(&mut self) -> &mut Process {
        &mut self.managers[0]
    }

    /// The datastore, to treat it likewise.
    pub fn etcd(&mut self) -> &mut Process {
        &mut self.etcd
    }

    /// Kills every API server: connections are refused.
    pub fn stop_apiserver(&mut self) {
        self.servers.iter_mut().for_each(Process::kill);
    }

    /// Starts what of the API servers does not run, on the same datastore, and waits until all are ready.
    ///
    /// # Errors
    /// As [`Plane::wait_ready`].
    pub fn restart(&mut self) -> Result<()> {
        for server in &mut self.servers {
            if !server.is_running() {
                server.start()?;
            }
        }
        self.wait_ready()
    }

    /// Kills etcd, the API servers and the managers, as a power cut does. Their data stay; Flux, which has its own place, goes on.
    pub fn halt(&mut self) {
        self.managers.iter_mut().chain(&mut self.servers).chain([&mut self.etcd]).for_each(Process::kill);
    }

    /// The pids of what [`Plane::halt`] kills.
    pub fn core_pids(&self) -> Vec<u32> {
        self.managers.iter().chain(&self.servers).chain([&self.etcd]).filter_map(|program| program.pid().ok()).collect()
    }

    /// Starts what [`Plane::halt`] has killed, on the same data, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Plane::wait_ready`].
    pub fn resume(&mut self) -> Result<()> {
        if !self.etcd.is_running() {
            self.etcd.start()?;
        }
        self.restart()?;
        for manager in &mut self.managers {
            if !manager.is_running() {
                manager.start()?;
            }
        }
        Ok(())
    }

    /// Stops every API server where it stands: connections are accepted by the kernel and nothing answers.
    ///
    /// # Errors
    /// Where one is gone.
    pub fn freeze(&self) -> Result<()> {
        self.servers.iter().try_for_each(|server| server.signal(Signal::SIGSTOP))
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// Where one is gone.
    pub fn thaw(&self) -> Result<()> {
        self.servers.iter().try_for_each(|server| server.signal(Signal::SIGCONT))
    }

    /// What was asked of the API servers so far, as their audit log has it.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn audit(&self) -> Result<Vec<audit::Entry>> {
        audit::read(&self.dir.path().join("audit.log"))
    }

    /// The pids of the plane's running programs.
    pub fn pids(&self) -> Vec<u32> {
        let flux = self.flux.iter().flat_map(|flux| [&flux.source, &flux.kustomize, &flux.git.server]);
        let programs = self.kwoks.iter().chain(&self.managers).chain(&self.servers).chain([&self.etcd]).chain(flux);
        programs.filter_map(|program| program.pid().ok()).collect()
    }

    fn last_words(&self) -> String {
        let programs = [&self.etcd].into_iter().chain(&self.servers).chain(&self.managers);
        let words: Vec<String> = programs.map(|p| format!("-- {}\n{}\n", p.log_file().display(), p.last_words())).collect();
        words.concat()
    }
}
