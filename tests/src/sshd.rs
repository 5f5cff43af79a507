//! An sshd of the test's own on loopback addresses: its keys, configuration and port.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that they need")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where it is.
pub const PROGRAM: &str = "/usr/sbin/sshd";

/// It lets in whoever has its key `user`.
pub struct Sshd {
    dir: tempfile::TempDir,
    /// Where it listens.
    pub port: u16,
    child: Option<Child>,
}

impl Sshd {
    /// On these addresses of loopback; needs root.
    ///
    /// # Errors
    /// It does not start; its last words are in the message.
    pub fn start(addresses: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("metis-sshd-").tempdir()?;
        // sshd reads the authorized keys with the rights of who logs in.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let mut sshd = Self { dir, port: 0, child: None };
        sshd.keygen("host")?;
        sshd.keygen("user")?;
        fs::copy(sshd.path("user.pub"), sshd.path("authorized_keys"))?;
        let listen = addresses.iter().fold(String::new(), |text, address| format!("{text}ListenAddress {address}\n"));
        let text = format!(
            "HostKey {}\n{listen}AuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nPidFile none\nAllowTcpForwarding local\nAllowStreamLocalForwarding local\n",
            sshd.path("host").display(),
            sshd.path("authorized_keys").display()
        );
        fs::write(sshd.path("config"), text)?;
        fs::create_dir_all("/run/sshd")?;
        for _ in 0..20 {
            // Another may take it meanwhile; then the next.
            sshd.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            if sshd.port >= 10_000 && sshd.resume().is_ok() {
                return Ok(sshd);
            }
        }
        Err(anyhow::anyhow!("sshd does not start: {}", fs::read_to_string(sshd.path("log")).unwrap_or_default()))
    }

    fn keygen(&self, name: &str) -> Result<()> {
        let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "test", "-t", "ed25519", "-f"]).arg(self.path(name)).output()?;
        ensure!(made.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&made.stderr));
        Ok(())
    }

    /// A file of its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `SHA256:…` of its host key.
    ///
    /// # Errors
    /// ssh-keygen does not say it.
    pub fn fingerprint(&self) -> Result<String> {
        let out = Command::new("ssh-keygen").arg("-lf").arg(self.path("host.pub")).output()?;
        Ok(String::from_utf8(out.stdout)?.split(' ').nth(1).context("a fingerprint")?.to_owned())
    }

    /// Kills it with all connections that it serves.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            for pid in descendants(child.id()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, at the same port.
    ///
    /// # Errors
    /// It does not listen within 20 s.
    pub fn resume(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.path("log"))?;
        let mut command = Command::new(PROGRAM);
        command.args(["-D", "-e", "-f"]).arg(self.path("config")).args(["-p", &self.port.to_string()]);
        let child = self.child.insert(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            ensure!(child.try_wait()?.is_none() && Instant::now() < until, "sshd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Another host key from now on, at the same port.
    ///
    /// # Errors
    /// As [`Sshd::resume`].
    pub fn change_host_key(&mut self) -> Result<()> {
        self.stop();
        fs::remove_file(self.path("host"))?;
        fs::remove_file(self.path("host.pub"))?;
        self.keygen("host")?;
        self.resume()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The processes that serve connections: children of the listener and theirs.
fn descendants(of: u32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    let children: Vec<i32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    let below = children.iter().flat_map(|pid| descendants(pid.unsigned_abs())).collect::<Vec<_>>();
    children.into_iter().chain(below).collect()
}
