#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]
//! A host with systemd as PID 1: `tests/lab/host` around systemd-nspawn(1).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// A running host; its power is cut when it is dropped.
pub struct Host {
    name: String,
    work: tempfile::TempDir,
    rootfs: PathBuf,
    options: Vec<String>,
    nspawn: Child,
    pid1: u32,
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Runs a script of `tests/golden` that makes something once and prints where it is.
///
/// # Errors
/// Where the script fails; its standard error is in the message.
pub fn golden(script: &str) -> anyhow::Result<PathBuf> {
    let out = Command::new(repository().join("tests/golden").join(script)).stdin(Stdio::null()).output()?;
    ensure!(out.status.success(), "tests/golden/{script}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(PathBuf::from(String::from_utf8(out.stdout)?.trim()))
}

impl Host {
    /// Boots a host. `prepare` may put files below the given folder, which lies over the root file system.
    ///
    /// # Errors
    /// Where the root file system cannot be made or systemd does not come up within 60 s.
    pub fn boot(name: &str, options: &[&str], prepare: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let rootfs = golden("nspawn-rootfs")?;
        // Overlay wants an upper folder on a file system with xattrs; /var/tmp is a real one where /tmp may not be.
        let work = tempfile::Builder::new().prefix("metis-lab-").tempdir_in("/var/tmp")?;
        let upper = work.path().join("upper");
        std::fs::create_dir_all(&upper)?;
        prepare(&upper)?;
        let name = format!("{name}-{}", std::process::id());
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let nspawn = spawn(&rootfs, work.path(), &name, &options)?;
        let mut host = Self { name, work, rootfs, options, nspawn, pid1: 0 };
        host.wait_for_systemd()?;
        Ok(host)
    }

    /// Waits until systemd answers; remembers its pid.
    fn wait_for_systemd(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.nspawn.try_wait()? {
                let log = std::fs::read_to_string(self.work.path().join("console.log")).unwrap_or_default();
                bail!("nspawn ended: {status}\n{log}");
            }
            if let Some(pid1) = child_of(self.nspawn.id()) {
                self.pid1 = pid1;
                let state = self.output(&["systemctl", "is-system-running", "--wait"]);
                if state.is_ok_and(|o| matches!(String::from_utf8_lossy(&o.stdout).trim(), "running" | "degraded")) {
                    return Ok(());
                }
            }
            ensure!(Instant::now() < until, "systemd did not come up within 60 s in {}", self.name);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs a command inside and gives what it printed, whatever its exit code.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn output(&self, command: &[&str]) -> anyhow::Result<Output> {
        let pid = self.pid1.to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &pid, "-a", "--wdns=/"]).args(command).stdin(Stdio::null()).env_clear();
        nsenter.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8").env("SYSTEMD_PAGER", "").env("COLUMNS", "160");
        nsenter.output().with_context(|| format!("nsenter {command:?}"))
    }

    /// Runs a command inside that must succeed; its standard output.
    ///
    /// # Errors
    /// Where it fails; both outputs are in the message.
    pub fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let out = self.output(command)?;
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.success(), "{command:?} in {}: {}\n{stdout}{stderr}", self.name, out.status);
        Ok(stdout.into_owned())
    }

    /// Runs a shell line inside that must succeed; its standard output.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn sh(&self, line: &str) -> anyhow::Result<String> {
        self.run(&["sh", "-ec", line])
    }

    /// Retries a shell line until it succeeds.
    ///
    /// # Errors
    /// The last failure, after `seconds`.
    pub fn wait_for(&self, seconds: u64, line: &str) -> anyhow::Result<String> {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            match self.sh(line) {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(200)),
                other => return other.with_context(|| format!("waited {seconds} s")),
            }
        }
    }

    /// The host's root folder, as seen from outside.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid1))
    }

    /// Cuts the power: every process ends at once.
    ///
    /// # Errors
    /// Where the cgroup cannot be written.
    pub fn cut_power(&mut self) -> anyhow::Result<()> {
        // The host's cgroup is mounted in its own namespace only; PID 1 of the host is outside its reach, nspawn's root is not.
        let kill = PathBuf::from(format!("/proc/{}/root/sys/fs/cgroup/metis-lab-{}/cgroup.kill", self.nspawn.id(), self.name));
        std::fs::write(&kill, "1").with_context(|| kill.display().to_string())?;
        self.nspawn.wait()?;
        Ok(())
    }

    /// Boots it again with what it has on its disk.
    ///
    /// # Errors
    /// As [`Host::boot`].
    pub fn power_on(&mut self) -> anyhow::Result<()> {
        self.nspawn = spawn(&self.rootfs, self.work.path(), &self.name, &self.options)?;
        self.wait_for_systemd()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.nspawn.try_wait().ok().flatten().is_none() && self.cut_power().is_err() {
            let _ = self.nspawn.kill();
            let _ = self.nspawn.wait();
        }
    }
}

fn spawn(rootfs: &Path, work: &Path, name: &str, options: &[String]) -> anyhow::Result<Child> {
    let console = std::fs::File::create(work.join("console.log"))?;
    let mut host = Command::new(repository().join("tests/lab/host"));
    host.arg(rootfs).arg(work).arg(name).args(options).stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
    host.spawn().context("tests/lab/host")
}

/// The only child of a process: nspawn's is PID 1 of the host.
fn child_of(pid: u32) -> Option<u32> {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    (comm.trim() == "systemd-nspawn").then(|| children.split_whitespace().next()?.parse().ok())?
}
