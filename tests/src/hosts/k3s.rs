//! k3s on the laboratory's hosts: its units, the program behind them, and the real control plane that the server's unit holds.

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::Role;
use super::install::{enable, put};
use crate::daemon::program;
use crate::lab::{Lab, repository};
use crate::nspawn::Host;
use crate::plane::{Options, Plane, tool};

/// Where the hosts' program looks for what the laboratory gives it.
const SHARED: &str = "/var/lib/k3s-lab";
const LIB: &str = "/usr/local/lib/k3s";

/// The unit of a role's k3s.
pub fn unit(role: Role) -> Option<&'static str> {
    role.node().map(|_| if role == Role::Titan0a { "k3s.service" } else { "k3s-agent.service" })
}

/// The control plane of titan-0a. It runs while that host's `k3s.service` does, in that host's network, on data of its own.
pub struct Cluster {
    shared: Arc<Shared>,
    folder: PathBuf,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    plane: Mutex<Option<Plane>>,
    /// The pids of its programs while it runs.
    up: Mutex<Vec<u32>>,
    changed: Condvar,
}

impl Cluster {
    /// Waits for titan-0a to ask for it.
    pub(super) fn offer(lab: &Lab, options: &Options) -> anyhow::Result<Self> {
        let folder = lab.work().join("k3s");
        std::fs::create_dir_all(&folder)?;
        let listener = UnixListener::bind(folder.join("plane.sock"))?;
        let shared = Arc::new(Shared { plane: Mutex::new(None), up: Mutex::new(Vec::new()), changed: Condvar::new() });
        let netns = lab.inside(&Path::new("/run/netns").join(Role::Titan0a.name()));
        let mut options =
            Options { address: Some(Role::Titan0a.address().into()), netns: Some(netns.display().to_string()), ..options.clone() };
        options.names.extend([Role::Titan0a.name().to_owned(), "127.0.0.1".to_owned()]);
        let thread = {
            let (shared, folder) = (Arc::clone(&shared), folder.clone());
            std::thread::Builder::new().name("control plane".to_owned()).spawn(move || {
                while let Ok((asker, _)) = listener.accept() {
                    if folder.join("over").exists() {
                        break;
                    }
                    shared.serve(asker, &folder, &options);
                }
            })?
        };
        Ok(Self { shared, folder, thread: Some(thread) })
    }

    /// The control plane. It answers while titan-0a runs its k3s, and while its cable is plugged in.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn with<T>(&self, work: impl FnOnce(&mut Plane) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut place = self.shared.plane();
        let plane = place.as_mut().context("titan-0a has not started k3s yet")?;
        let done = work(plane);
        // It may have killed and started some.
        let mut up = self.shared.up();
        if !up.is_empty() {
            *up = plane.core_pids();
        }
        done
    }

    /// Waits until it runs, or does not.
    ///
    /// # Errors
    /// Where that is not so within `limit`.
    pub fn wait(&self, up: bool, limit: Duration) -> anyhow::Result<()> {
        let now = self.shared.up();
        let waited = self.shared.changed.wait_timeout_while(now, limit, |now| now.is_empty() == up);
        let is_up = !waited.unwrap_or_else(PoisonError::into_inner).0.is_empty();
        ensure!(is_up == up, "the control plane is {} after {limit:?}", if up { "down" } else { "up" });
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::write(self.folder.join("over"), "");
        drop(UnixStream::connect(self.folder.join("plane.sock")));
        self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn plane(&self) -> MutexGuard<'_, Option<Plane>> {
        self.plane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self) -> MutexGuard<'_, Vec<u32>> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which programs run; gives those that did.
    fn runs(&self, pids: Vec<u32>) -> Vec<u32> {
        let before = std::mem::replace(&mut *self.up(), pids);
        self.changed.notify_all();
        before
    }

    /// Runs the plane as long as the connection of the host's k3s stands: however that ends, it ends as abruptly.
    fn serve(&self, mut asker: UnixStream, folder: &Path, options: &Options) {
        let answer = match self.run(folder, options) {
            Ok(()) => "ready\n".to_owned(),
            Err(error) => format!("{}\n", format!("{error:#}").replace('\n', " | ")),
        };
        if asker.write_all(answer.as_bytes()).is_ok() && answer == "ready\n" {
            let pids = self.plane().as_ref().map(Plane::core_pids).unwrap_or_default();
            self.runs(pids);
            let _ = asker.read(&mut [0; 1]);
        }
        // At once, though somebody may be talking to it.
        for group in self.runs(Vec::new()) {
            let _ = killpg(Pid::from_raw(group.cast_signed()), Signal::SIGKILL);
        }
        if let Some(plane) = self.plane().as_mut() {
            plane.halt();
        }
    }

    fn run(&self, folder: &Path, options: &Options) -> anyhow::Result<()> {
        let mut place = self.plane();
        if let Some(plane) = place.as_mut() {
            return plane.resume();
        }
        let plane = Plane::start(options)?;
        let identity = plane.identity();
        for (user, file) in [("kwok", "kubelet.kubeconfig"), ("admin", "admin.kubeconfig")] {
            // In one go: the agents look for it.
            let new = folder.join("new");
            identity.write_kubeconfig(&new, user, &plane.url(), identity.token(user)?)?;
            std::fs::rename(&new, folder.join(file))?;
        }
        *place = Some(plane);
        Ok(())
    }
}

/// Options of nspawn for a host with k3s.
pub(super) fn options(lab: &Lab) -> anyhow::Result<Vec<String>> {
    let this = program("metis-lab-k3s");
    let bind = |from: &Path, to: &str| format!("--bind-ro={}:{to}", from.display());
    let mut options = vec![
        bind(&this, "/usr/local/bin/k3s"),
        bind(&this, "/var/lib/rancher/k3s/data/current/bin/containerd-shim-runc-v2"),
        bind(&repository().join("tests/lab/plane/stages.yaml"), &format!("{LIB}/stages.yaml")),
        format!("--bind={}:{SHARED}", lab.work().join("k3s").display()),
    ];
    for name in ["kwok", "etcdctl", "kubectl"] {
        options.push(bind(&tool(name)?, &format!("{LIB}/{name}")));
    }
    Ok(options)
}

/// The unit of k3s on a host, and its killall script.
pub(super) fn install(host: &Host, role: Role) -> anyhow::Result<()> {
    let disk = host.disk();
    let killall = put(&disk, "usr/local/bin/k3s-killall.sh", &std::fs::read_to_string(repository().join("tests/lab/k3s/k3s-killall.sh"))?)?;
    std::fs::set_permissions(killall, Permissions::from_mode(0o755))?;
    // For who dumps the datastore from outside the cluster.
    let dump = format!("#!/bin/sh\nexec {LIB}/etcdctl --endpoints=http://{}:2379 snapshot save \"$1\"\n", Role::Titan0a.address());
    let dump = put(&disk, "usr/local/bin/dump-datastore", &dump)?;
    std::fs::set_permissions(dump, Permissions::from_mode(0o755))?;
    let (Some(unit), Some(node)) = (unit(role), role.node()) else { return Ok(()) };
    let command = if role == Role::Titan0a { "server" } else { "agent" };
    let (address, arch) = (role.address(), role.arch());
    // As k3s' installer writes it.
    let text = format!(
        "[Unit]\nDescription=Lightweight Kubernetes\nWants=network-online.target\nAfter=network-online.target\n\
         [Service]\nType=notify\nKillMode=process\nDelegate=yes\nLimitNOFILE=infinity\nLimitNPROC=infinity\nLimitCORE=infinity\nTasksMax=infinity\n\
         TimeoutStartSec=0\nRestart=always\nRestartSec=5s\n\
         ExecStart=/usr/local/bin/k3s {command} --node-name {node} --node-ip {address} --node-arch {arch}\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    put(&disk, &format!("etc/systemd/system/{unit}"), &text)?;
    std::fs::create_dir_all(disk.join("etc/rancher/k3s"))?;
    std::os::unix::fs::symlink(format!("{SHARED}/admin.kubeconfig"), disk.join("etc/rancher/k3s/k3s.yaml"))?;
    enable(&disk, unit, "multi-user.target")
}
