//! An sshd of our own: its own keys, configuration and port.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::testing::{missing, ssh_host};
use crate::site::Host;

const SSHD: &str = "/usr/sbin/sshd";

/// sshd with a key of each kind that is asked for, and the user key `user` let in as root.
pub struct Sshd {
    dir: tempfile::TempDir,
    /// Where it listens.
    pub port: u16,
    child: Child,
}

impl Sshd {
    /// With an Ed25519 host key. `None`, said in one line: it cannot run here.
    pub fn start() -> Option<Self> {
        Self::with(&["ed25519"], "")
    }

    /// With these host keys and further lines of sshd_config(5).
    pub fn with(kinds: &[&str], config: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !Path::new(SSHD).exists() {
            missing("tests of SSH (they need root and openssh-server)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for kind in kinds {
            keygen(kind, &path(&format!("host_{kind}")));
        }
        keygen("ed25519", &path("user"));
        fs::copy(path("user.pub"), path("authorized_keys")).unwrap();
        let keys: String =
            kinds.iter().fold(String::new(), |text, kind| format!("{text}HostKey {}\n", path(&format!("host_{kind}")).display()));
        let text = format!(
            "{keys}{config}\nListenAddress 127.0.0.1\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\nMaxStartups 100\nPrintMotd no\n",
            path("authorized_keys").display()
        );
        fs::write(path("config"), text).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        let (port, child) = spawn(&path("config"), &path("log"));
        Some(Self { dir, port, child })
    }

    /// A file of its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As a host of the inventory whose `kind` of host key is pinned.
    pub fn host(&self, kind: &str) -> Host {
        let mut host = ssh_host("127.0.0.1", self.port);
        host.user = "root".to_owned();
        host.sudo = false;
        host.host_keys = vec![self.fingerprint(&format!("host_{kind}"))];
        host
    }

    /// `SHA256:…` of a key of its folder, by ssh-keygen.
    pub fn fingerprint(&self, key: &str) -> String {
        let out = Command::new("ssh-keygen").arg("-lf").arg(self.path(&format!("{key}.pub"))).output().unwrap();
        String::from_utf8(out.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
    }

    /// `type base64` of a public key of its folder.
    pub fn public(&self, key: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Users it let in so far.
    pub fn logins(&self) -> usize {
        self.log().matches("Accepted publickey").count()
    }

    /// The processes that serve connections: children of the listener and theirs.
    pub fn sessions(&self) -> Vec<i32> {
        descendants(self.child.id() as i32)
    }

    /// A signal for the listener and all that serve.
    pub fn signal_all(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        self.signal_sessions(signal);
    }

    /// A signal for all that serve.
    pub fn signal_sessions(&self, signal: Signal) {
        for pid in self.sessions() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Other host keys from now on, at the same port.
    pub fn restart_with_new_keys(&mut self) {
        for kind in ["ed25519", "ecdsa"] {
            let path = self.path(&format!("host_{kind}"));
            if path.exists() {
                fs::remove_file(&path).unwrap();
                keygen(kind, &path);
            }
        }
        self.stop();
        let port = self.port;
        self.child = spawn_at(&self.path("config"), &self.path("log"), port).unwrap();
    }

    fn stop(&mut self) {
        self.signal_sessions(Signal::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes a key pair.
pub fn keygen(kind: &str, path: &Path) {
    let out = Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "test", "-t", kind, "-f"]).arg(path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn spawn(config: &Path, log: &Path) -> (u16, Child) {
    for _ in 0..50 {
        // Another may take it meanwhile; then the next.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        if port >= 10_000
            && let Some(child) = spawn_at(config, log, port)
        {
            return (port, child);
        }
    }
    panic!("sshd does not start: {}", fs::read_to_string(log).unwrap_or_default());
}

#[allow(clippy::zombie_processes, reason = "its owner waits for it")]
fn spawn_at(config: &Path, log: &Path, port: u16) -> Option<Child> {
    let file = fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
    let mut command = Command::new(SSHD);
    command.args(["-D", "-e", "-f"]).arg(config).args(["-p", &port.to_string()]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("sshd does not listen: {}", fs::read_to_string(log).unwrap_or_default());
}

fn descendants(of: i32) -> Vec<i32> {
    let mut all = Vec::new();
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        all.push(child);
        all.extend(descendants(child));
    }
    all
}
