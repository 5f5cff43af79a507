#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]
//! A laboratory: namespaces and a cgroup for hosts and programs, held by `tests/lab/keeper`. Nothing of it outlives its owner.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, setns};

/// The laboratory's own end of its network; programs beside the hosts listen here.
pub const ADDRESS: &str = "10.77.0.1";
/// The bridge of the hosts' cables.
pub const BRIDGE: &str = "lab";

/// Namespaces, a cgroup and a folder. Dropping it ends every process inside and removes all of it.
#[derive(Debug)]
pub struct Lab {
    name: String,
    work: PathBuf,
    keeper: Child,
    init: u32,
}

/// The folder of the repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

impl Lab {
    /// Makes one. `what` names it in cgroups, in messages and below `/var/tmp`.
    ///
    /// # Errors
    /// Where this is not root or a namespace cannot be made.
    pub fn start(what: &str) -> anyhow::Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let name = format!("metis-lab-{what}{}-{}", LABS.fetch_add(1, Ordering::Relaxed), std::process::id());
        // Overlay wants an upper folder on a file system with xattrs; /var/tmp is a real one where /tmp may not be.
        let work = PathBuf::from("/var/tmp").join(&name);
        std::fs::create_dir(&work).with_context(|| work.display().to_string())?;
        let log = std::fs::File::create(work.join("keeper.log"))?;
        let mut keeper = Command::new(repository().join("tests/lab/keeper"));
        keeper.arg(&work).arg(&name).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // A runner that kills a test's whole process group leaves the keeper to clean up.
        let mut keeper = keeper.process_group(0).spawn().context("tests/lab/keeper")?;
        let mut line = String::new();
        let stdout = keeper.stdout.take().context("the keeper's output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let init = line.trim().parse();
        let lab = Self { name, work, keeper, init: init.as_ref().copied().unwrap_or_default() };
        let log = || std::fs::read_to_string(lab.work.join("keeper.log")).unwrap_or_default();
        ensure!(init.is_ok(), "tests/lab/keeper: {}", log());
        Ok(lab)
    }

    /// Its folder, on a real file system; removed with it.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Its cgroup, as processes inside see it; every part of it ends with it.
    pub fn cgroup(&self, part: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(&self.name).join(part)
    }

    /// A file of the laboratory's own mounts (`/sys/fs/cgroup`, `/run`, ...), as seen from outside.
    pub fn inside(&self, path: &Path) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init)).join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A program in the laboratory's network, beside the hosts. The child is the program itself; it ends with the laboratory at the latest.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.nsenter(&["--mount", "--net"]);
        let procs = self.cgroup("programs/cgroup.procs");
        command.args(["sh", "-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(procs).arg(program);
        command
    }

    /// A program that is also in the laboratory's namespace of processes; the child stands for it and ends as it ends.
    pub(crate) fn contained(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.nsenter(&["--mount", "--net", "--pid"]);
        command.arg(program);
        command
    }

    fn nsenter(&self, namespaces: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init)).args(namespaces).arg("--").stdin(Stdio::null());
        command
    }

    /// Moves the calling thread into the laboratory's network, with what it starts from now on: sockets, threads, programs.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn enter(&self) -> anyhow::Result<()> {
        let net = std::fs::File::open(format!("/proc/{}/ns/net", self.init))?;
        setns(net, CloneFlags::CLONE_NEWNET).context("setns")
    }

    /// `ip` in the laboratory's network.
    ///
    /// # Errors
    /// Where it fails.
    pub fn ip(&self, arguments: &str) -> anyhow::Result<()> {
        let out = self.nsenter(&["--mount", "--net"]).arg("ip").args(arguments.split(' ')).output()?;
        ensure!(out.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        // Where the keeper could not begin.
        let _ = std::fs::remove_dir_all(&self.work);
    }
}
