#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]
//! A host with systemd as PID 1: `tests/lab/host` around systemd-nspawn(1), with a power supply and a network cable.

mod machine;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::lab::{Lab, repository};
use machine::Machine;

/// How long a host has, from its switch to an answer of systemd, over its own [`Times::boot`].
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a host takes that a container does not take. Both may be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Firmware, boot loader and kernel: from power on, or from the end of a reboot's first half, to PID 1.
    pub boot: Duration,
    /// From the end of its last process to the power being off.
    pub power_off: Duration,
}

impl Times {
    /// As fast as this machine.
    pub const QUICK: Self = Self { boot: Duration::ZERO, power_off: Duration::ZERO };
    /// A Raspberry Pi 4 with its system on an SSD.
    pub const PI: Self = Self { boot: Duration::from_secs(18), power_off: Duration::from_secs(5) };
    /// A small x86 server: its firmware is slow.
    pub const PC: Self = Self { boot: Duration::from_secs(35), power_off: Duration::from_secs(3) };
}

/// What a host is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Has power; systemd does not answer yet.
    Booting,
    /// systemd answers.
    On,
    /// Every process has ended; draws power until [`Times::power_off`] has passed.
    Stopping,
    /// Has ended, for this reason.
    Off(End),
}

/// How a host came to be off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Was never on.
    New,
    /// It powered itself off.
    PoweredOff,
    /// Its power was cut.
    PowerCut,
    /// Something else, which a test did not ask for.
    Failed(String),
}

/// What happened to a host or a UPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its state is now this.
    Is(State),
    /// It boots again because it was told to.
    Rebooting,
    /// Its cable was pulled.
    CablePulled,
    /// Its cable was plugged in.
    CablePlugged,
    /// The mains of this UPS failed.
    MainsFailed,
    /// They are back.
    MainsBack,
    /// The outlets of this UPS went dead.
    OutletsOff,
    /// They have power again.
    OutletsOn,
}

/// One line of a laboratory's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub at: Instant,
    /// To which host or UPS.
    pub host: String,
    /// What.
    pub event: Event,
}

/// What happened to all hosts of a laboratory, in order.
pub type History = Arc<Mutex<Vec<Moment>>>;

/// What a host is made of.
#[derive(Debug)]
pub struct Build {
    /// Its name, and its folder below the laboratory's.
    pub name: String,
    /// Further options of nspawn.
    pub options: Vec<String>,
    /// The laboratory's end of its cable, a network interface.
    pub cable: Option<String>,
    /// See [`Times`].
    pub times: Times,
    /// Whether its firmware boots it when power comes back; else it waits for its switch.
    pub restores: bool,
    /// Where its moments are noted.
    pub history: History,
}

/// A host; its power is cut when it is dropped.
pub struct Host(Arc<Machine>);

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
    /// Boots a host in a laboratory of its own, without network. `prepare` may put files below the given folder, which lies over the root file
    /// system.
    ///
    /// # Errors
    /// Where the root file system cannot be made or systemd has not finished booting within 60 s.
    pub fn boot(name: &str, options: &[&str], prepare: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let options = ["--private-network"].iter().chain(options).map(ToString::to_string).collect();
        let build = Build { name: name.to_owned(), options, cable: None, times: Times::QUICK, restores: true, history: History::default() };
        let host = Self::build(Arc::new(Lab::start(name)?), build)?;
        prepare(&host.disk())?;
        host.power_on()?;
        Ok(host)
    }

    /// A host that is off. Files may be put below [`Host::disk`] before it is switched on.
    ///
    /// # Errors
    /// Where the root file system cannot be made.
    pub fn build(lab: Arc<Lab>, build: Build) -> anyhow::Result<Self> {
        let rootfs = golden("nspawn-rootfs")?;
        let host = Self(Arc::new(Machine::new(lab, build, rootfs)));
        std::fs::create_dir_all(host.disk())?;
        Ok(host)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.build.name
    }

    /// What lies over the root file system. A host that is on sees changes through [`Host::root`] only.
    pub fn disk(&self) -> PathBuf {
        self.0.work().join("upper")
    }

    /// The root file system below [`Host::disk`].
    pub fn rootfs(&self) -> &Path {
        &self.0.rootfs
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.0.now().state.clone()
    }

    /// Runs a command inside and gives what it printed, whatever its exit code.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn output(&self, command: &[&str]) -> anyhow::Result<Output> {
        let pid1 = self.0.now().pid1;
        ensure!(pid1 != 0, "{} is off: {command:?}", self.name());
        machine::output(pid1, command)
    }

    /// Runs a command inside that must succeed; its standard output.
    ///
    /// # Errors
    /// Where it fails; both outputs are in the message.
    pub fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let out = self.output(command)?;
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.success(), "{command:?} in {}: {}\n{stdout}{stderr}", self.name(), out.status);
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

    /// The host's root folder, as seen from outside, while it is on.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.0.now().pid1))
    }

    /// Cuts the power: every process ends at once. Nothing happens to a host that is off.
    ///
    /// # Errors
    /// Where the host does not end.
    pub fn cut_power(&self) -> anyhow::Result<()> {
        self.0.cut()
    }

    /// The switch: the host begins to boot, with what it has on its disk. Nothing happens to one that is on.
    ///
    /// # Errors
    /// Where nspawn cannot be started.
    pub fn switch_on(&self) -> anyhow::Result<()> {
        self.0.clone().switch_on()
    }

    /// Power comes back to it after a time without: its firmware does as it is set.
    ///
    /// # Errors
    /// As [`Host::switch_on`].
    pub fn restore_power(&self) -> anyhow::Result<()> {
        if self.0.build.restores { self.switch_on() } else { Ok(()) }
    }

    /// Switches it on and waits until it has finished booting.
    ///
    /// # Errors
    /// As [`Host::boot`].
    pub fn power_on(&self) -> anyhow::Result<()> {
        self.switch_on()?;
        self.wait_on()?;
        let done = "case $(systemctl is-system-running) in running|degraded) ;; *) exit 1; esac";
        self.wait_for(PATIENCE.as_secs(), done).map(drop)
    }

    /// Waits until systemd answers, over [`Times::boot`].
    ///
    /// # Errors
    /// Where it is off, with its console, or does not within 60 s more.
    pub fn wait_on(&self) -> anyhow::Result<()> {
        let limit = self.0.now().times.boot + PATIENCE;
        match self.0.wait(limit, |state| matches!(state, State::On | State::Off(_))) {
            State::On => Ok(()),
            state => bail!("{} is {state:?}, after up to {limit:?}\n{}", self.name(), self.console()),
        }
    }

    /// Waits until it is off; how it came to be.
    ///
    /// # Errors
    /// Where it is not within `limit`.
    pub fn wait_off(&self, limit: Duration) -> anyhow::Result<End> {
        match self.0.wait(limit, |state| matches!(state, State::Off(_))) {
            State::Off(end) => Ok(end),
            state => bail!("{} is {state:?} after {limit:?}", self.name()),
        }
    }

    /// From now on it takes this long.
    pub fn set_times(&self, times: Times) {
        self.0.now().times = times;
    }

    /// Pulls the network cable.
    ///
    /// # Errors
    /// Where it has none.
    pub fn pull_cable(&self) -> anyhow::Result<()> {
        self.0.plug(false)
    }

    /// Plugs the network cable in.
    ///
    /// # Errors
    /// Where it has none.
    pub fn plug_cable(&self) -> anyhow::Result<()> {
        self.0.plug(true)
    }

    /// Stops sshd and all its sessions where they stand: connections are taken by the kernel and nobody answers.
    ///
    /// # Errors
    /// Where sshd does not run.
    pub fn freeze_sshd(&self) -> anyhow::Result<()> {
        self.sh("kill -STOP $(pidof sshd)").map(drop)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// Where sshd does not run.
    pub fn thaw_sshd(&self) -> anyhow::Result<()> {
        self.sh("kill -CONT $(pidof sshd)").map(drop)
    }

    /// Stops k3s and its kubelet where they stand; the processes of pods go on.
    ///
    /// # Errors
    /// Where k3s does not run.
    pub fn freeze_k3s(&self) -> anyhow::Result<()> {
        self.sh("kill -STOP $(pidof k3s kwok)").map(drop)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// Where k3s does not run.
    pub fn thaw_k3s(&self) -> anyhow::Result<()> {
        self.sh("kill -CONT $(pidof k3s kwok)").map(drop)
    }

    /// What its journal says, by these arguments of journalctl(1); of one that is off, what is on its disk.
    ///
    /// # Errors
    /// Where journalctl fails, e.g. because the journal was kept in memory.
    pub fn entries(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let all = [&["journalctl", "--no-pager", "--quiet"], arguments].concat();
        if let Ok(said) = self.run(&all) {
            return Ok(said);
        }
        let out = Command::new(all[0]).args(&all[1..]).arg("--directory").arg(self.disk().join("var/log/journal")).output()?;
        ensure!(out.status.success(), "{all:?} of {}: {}", self.name(), String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// What it wrote to its console, of all boots.
    pub fn console(&self) -> String {
        std::fs::read_to_string(self.0.work().join("console.log")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.cut_power();
        let supervisor = self.0.now().supervisor.take();
        supervisor.map(std::thread::JoinHandle::join);
    }
}
