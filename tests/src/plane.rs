//! A Kubernetes control plane of the lab (`tests/lab/README.md`): real etcd, API server, controller-manager and scheduler, and what else the
//! options ask for; gone when it is dropped.
#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]

pub mod api;
pub mod audit;
pub mod identity;
pub mod kwok;
mod parts;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::Process;
use crate::require;
use api::Api;
use identity::Identity;

/// Where the API server listens; a second and third one on the ports above.
pub const PORT: u16 = 6443;

/// What the plane shall have.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where its servers listen; without it on a loopback address of its own. An address of a bridge lets hosts reach it.
    pub address: Option<IpAddr>,
    /// The network namespace (ip-netns(8)) that it runs in; it needs an `address` of that namespace.
    pub netns: Option<String>,
    /// Further names and addresses in the API server's certificate.
    pub names: Vec<String>,
    /// API servers beside the first one, on the same etcd.
    pub more_servers: u16,
    /// The CRDs of Longhorn.
    pub longhorn: bool,
}

/// A running control plane.
#[derive(Debug)]
pub struct Plane {
    // First, so that they end before their folder goes.
    kwoks: Vec<Process>,
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

/// Where a program of the lab is; builds it first if need be (`tests/lab/tool`).
///
/// # Errors
/// Where it cannot be built.
pub fn tool(name: &str) -> Result<PathBuf> {
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/lab/tool"));
    let out = Command::new(script).arg(name).stdin(Stdio::null()).output().context("tests/lab/tool")?;
    ensure!(out.status.success(), "tests/lab/tool {name}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(PathBuf::from(String::from_utf8(out.stdout)?.trim()))
}

/// A file of `tests/lab/plane`.
pub(crate) fn lab_file(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/lab/plane")).join(name)
}

impl Plane {
    /// Starts it and waits until it is ready and metis' own account has its token.
    ///
    /// # Errors
    /// Where it is not ready within a minute; the last words of its programs are in the message.
    pub fn start(options: &Options) -> Result<Self> {
        sweep()?;
        // On tmpfs: etcd syncs each write, and nothing of it is to be kept.
        let dir = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir_in("/dev/shm")?;
        let address = match (options.address, &options.netns) {
            (Some(address), _) => address,
            (None, None) => own_loopback()?,
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

    /// A client with the administrator's rights. Not for a plane in a network namespace of its own.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn api(&self) -> Result<Api> {
        self.api_of(0, "admin")
    }

    /// A client with the rights of metis' service account.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn metis_api(&self) -> Result<Api> {
        Api::new(&self.url(), &self.identity.ca, &self.metis_token)
    }

    fn api_of(&self, server: usize, user: &str) -> Result<Api> {
        Api::new(&self.url_of(server), &self.identity.ca, self.identity.token(user)?)
    }

    /// Runs kubectl as administrator; it must succeed. Gives what it printed.
    ///
    /// # Errors
    /// Where it fails; what it wrote is in the message.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_in(arguments, "")
    }

    /// As [`Plane::kubectl`], with something to read.
    ///
    /// # Errors
    /// As [`Plane::kubectl`].
    pub fn kubectl_in(&self, arguments: &[&str], stdin: &str) -> Result<String> {
        let out = self.kubectl_output(&self.admin, arguments, stdin)?;
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.success(), "kubectl {arguments:?}: {}\n{stdout}{stderr}", out.status);
        Ok(stdout.into_owned())
    }

    /// Runs kubectl with this kubeconfig, whatever comes of it.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn kubectl_output(&self, kubeconfig: &Path, arguments: &[&str], stdin: &str) -> Result<Output> {
        let mut command = match &self.netns {
            None => Command::new(&self.kubectl),
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{netns}")).arg("--").arg(&self.kubectl);
                command
            }
        };
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(arguments)
            .env("KUBECACHEDIR", self.dir.path().join("kubectl"))
            .env("HOME", self.dir.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("kubectl")?;
        let mut pipe = child.stdin.take().context("kubectl's standard input")?;
        std::thread::scope(|scope| {
            // One that fails before it has read everything says why itself.
            scope.spawn(move || pipe.write_all(stdin.as_bytes()));
            child.wait_with_output().context("kubectl")
        })
    }

    /// Applies manifests (server-side).
    ///
    /// # Errors
    /// As [`Plane::kubectl`].
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.kubectl_in(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifests)
    }

    /// Applies a file of manifests, or a folder of them; CRDs are established when it returns.
    ///
    /// # Errors
    /// As [`Plane::kubectl`].
    pub fn apply_file(&self, path: &Path) -> Result<()> {
        let path = path.display().to_string();
        let applied = self.kubectl(&["apply", "--server-side", "-f", &path])?;
        if applied.contains("customresourcedefinition") {
            self.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "-f", &path])?;
        }
        Ok(())
    }

    /// API server `n`: to freeze (SIGSTOP), continue, kill and start it.
    pub fn server(&mut self, n: usize) -> &mut Process {
        &mut self.servers[n]
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
        let programs = self.kwoks.iter().chain(&self.managers).chain(&self.servers).chain([&self.etcd]);
        programs.filter_map(|program| program.pid().ok()).collect()
    }

    fn last_words(&self) -> String {
        let programs = [&self.etcd].into_iter().chain(&self.servers).chain(&self.managers);
        let words: Vec<String> = programs.map(|p| format!("-- {}\n{}\n", p.log_file().display(), p.last_words())).collect();
        words.concat()
    }
}

/// Runs a line of bash in `dir`; gives what it printed.
pub(crate) fn sh(line: &str, dir: &Path) -> Result<String> {
    let out = Command::new("bash").args(["-euc", line]).current_dir(dir).stdin(Stdio::null()).output()?;
    ensure!(out.status.success(), "{line}\n{}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}

const PREFIX: &str = "metis-plane-";

/// Removes the folders of planes whose test was killed: they hold memory.
fn sweep() -> Result<()> {
    for entry in std::fs::read_dir("/dev/shm")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// A loopback address that nobody has yet: the plane's ports are the usual ones there, and none can be taken by a passing connection.
fn own_loopback() -> Result<IpAddr> {
    for _ in 0..20 {
        let random = u32::from_str_radix(&identity::random_hex(3)?, 16)?;
        let [_, b, c, d] = random.to_be_bytes();
        let address = Ipv4Addr::new(127, b | 0x40, c, d.clamp(1, 254));
        if TcpListener::bind((address, PORT)).is_ok() {
            return Ok(address.into());
        }
    }
    bail!("no loopback address is free")
}
