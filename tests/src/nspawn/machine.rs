#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]
//! A host's process, its power and its cable, and the thread that watches over them.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::{Build, End, Event, Moment, State, Times};
use crate::lab::{Lab, repository};

/// What nspawn ends with where the host wants to boot again.
const REBOOT: i32 = 133;

/// What a host's owner and its supervisor share.
pub(super) struct Machine {
    pub(super) lab: Arc<Lab>,
    pub(super) build: Build,
    pub(super) rootfs: PathBuf,
    now: Mutex<Status>,
    changed: Condvar,
}

/// What changes.
pub(super) struct Status {
    pub(super) state: State,
    pub(super) times: Times,
    /// nspawn's process, or 0.
    nspawn: u32,
    /// The host's PID 1, or 0.
    pub(super) pid1: u32,
    plugged: bool,
    cut: bool,
    pub(super) supervisor: Option<std::thread::JoinHandle<()>>,
}

impl Machine {
    /// One that is off.
    pub(super) fn new(lab: Arc<Lab>, build: Build, rootfs: PathBuf) -> Self {
        let state = State::Off(End::New);
        let status = Status { state, times: build.times, nspawn: 0, pid1: 0, plugged: true, cut: false, supervisor: None };
        Self { lab, build, rootfs, now: Mutex::new(status), changed: Condvar::new() }
    }

    pub(super) fn work(&self) -> PathBuf {
        self.lab.work().join(&self.build.name)
    }

    pub(super) fn now(&self) -> MutexGuard<'_, Status> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: Event) {
        let moment = Moment { at: Instant::now(), host: self.build.name.clone(), event };
        self.build.history.lock().unwrap_or_else(PoisonError::into_inner).push(moment);
    }

    fn become_(&self, now: &mut Status, state: State) {
        self.note(Event::Is(state.clone()));
        now.state = state;
        self.changed.notify_all();
    }

    /// The state, once it is as wanted or after `limit`.
    pub(super) fn wait(&self, limit: Duration, wanted: impl Fn(&State) -> bool) -> State {
        let waited = self.changed.wait_timeout_while(self.now(), limit, |now| !wanted(&now.state));
        waited.unwrap_or_else(PoisonError::into_inner).0.state.clone()
    }

    /// Lets that time of this host's power pass; false if it was cut meanwhile.
    fn pass(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.now(), time, |now| !now.cut);
        !waited.unwrap_or_else(PoisonError::into_inner).0.cut
    }

    pub(super) fn switch_on(self: Arc<Self>) -> anyhow::Result<()> {
        let mut now = self.now();
        if !matches!(now.state, State::Off(_)) {
            return Ok(());
        }
        now.cut = false;
        self.become_(&mut now, State::Booting);
        let machine = Arc::clone(&self);
        now.supervisor = Some(std::thread::Builder::new().name(self.build.name.clone()).spawn(move || machine.supervise())?);
        Ok(())
    }

    /// One time of being on, over any reboots.
    fn supervise(&self) {
        loop {
            let time = self.now().times.boot;
            let end = if self.pass(time) { self.live() } else { Ok(None) };
            let mut now = self.now();
            (now.nspawn, now.pid1) = (0, 0);
            let code = match end {
                _ if now.cut => return self.become_(&mut now, State::Off(End::PowerCut)),
                Ok(status) => status.and_then(|status| status.code()),
                Err(error) => return self.become_(&mut now, State::Off(End::Failed(format!("{error:#}")))),
            };
            let time = now.times.power_off;
            match code {
                Some(0) => {
                    self.become_(&mut now, State::Stopping);
                    drop(now);
                    let end = if self.pass(time) { End::PoweredOff } else { End::PowerCut };
                    return self.become_(&mut self.now(), State::Off(end));
                }
                Some(REBOOT) => {
                    self.note(Event::Rebooting);
                    self.become_(&mut now, State::Booting);
                }
                _ => return self.become_(&mut now, State::Off(End::Failed(format!("nspawn ended: {code:?}")))),
            }
        }
    }

    /// One boot, to its end.
    fn live(&self) -> anyhow::Result<Option<ExitStatus>> {
        let mut nspawn = {
            // Under the lock, so that a cut does not come between the start and its being known.
            let mut now = self.now();
            if now.cut {
                return Ok(None);
            }
            let nspawn = self.spawn()?;
            now.nspawn = nspawn.id();
            nspawn
        };
        self.link()?;
        let end = loop {
            if let Some(end) = nspawn.try_wait()? {
                break end;
            }
            if self.answers() {
                break nspawn.wait()?;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        self.now().nspawn = 0;
        // A kernel that runs no host would still refuse connections; a host that is off does not.
        self.link()?;
        Ok(Some(end))
    }

    /// Whether systemd answers, which is then known.
    fn answers(&self) -> bool {
        let Some(pid1) = child_of(self.now().nspawn).and_then(nspawn_child) else { return false };
        let answer = output(pid1, &["systemctl", "is-system-running"]);
        let up = answer.is_ok_and(|out| ["starting", "running", "degraded"].contains(&String::from_utf8_lossy(&out.stdout).trim()));
        if up {
            let mut now = self.now();
            now.pid1 = pid1;
            self.become_(&mut now, State::On);
        }
        up
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let work = self.work();
        let console = std::fs::File::options().create(true).append(true).open(work.join("console.log"))?;
        let mut host = self.lab.contained(repository().join("tests/lab/host"));
        host.arg(&self.rootfs).arg(work).arg(&self.build.name).arg(self.lab.cgroup(&self.build.name)).args(&self.build.options);
        host.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        host.spawn().context("tests/lab/host")
    }

    /// Ends every process; returns when the host is off.
    pub(super) fn cut(&self) -> anyhow::Result<()> {
        let kill = self.lab.inside(&self.lab.cgroup(&self.build.name).join("cgroup.kill"));
        let until = Instant::now() + Duration::from_secs(10);
        let mut now = self.now();
        while !matches!(now.state, State::Off(_)) {
            ensure!(Instant::now() < until, "{} is {:?} though its power was cut", self.build.name, now.state);
            now.cut = true;
            self.changed.notify_all();
            // Again and again: a host that has just been started joins its cgroup a little later.
            if now.nspawn != 0 {
                let _ = std::fs::write(&kill, "1");
            }
            let step = Duration::from_millis(20);
            now = self.changed.wait_timeout(now, step).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    pub(super) fn plug(&self, plugged: bool) -> anyhow::Result<()> {
        ensure!(self.build.cable.is_some(), "{} has no cable", self.build.name);
        self.note(if plugged { Event::CablePlugged } else { Event::CablePulled });
        self.now().plugged = plugged;
        self.link()
    }

    /// The cable's state as it has to be: up where it is plugged in and the host is on.
    fn link(&self) -> anyhow::Result<()> {
        let Some(cable) = &self.build.cable else { return Ok(()) };
        let now = self.now();
        let state = if now.plugged && now.nspawn != 0 { "up" } else { "down" };
        self.lab.ip(&format!("link set {cable} {state}"))
    }
}

/// Runs a command in all namespaces of a host.
pub(super) fn output(pid1: u32, command: &[&str]) -> anyhow::Result<Output> {
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["-t", &pid1.to_string(), "-a", "--wdns=/"]).args(command).stdin(Stdio::null()).env_clear();
    nsenter.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
    nsenter.env("SYSTEMD_PAGER", "").env("COLUMNS", "160");
    nsenter.output().with_context(|| format!("nsenter {command:?}"))
}

/// The first child of a process.
fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// The child of nspawn, which is PID 1 of the host, once it has started it.
fn nspawn_child(pid: u32) -> Option<u32> {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (comm.trim() == "systemd-nspawn").then(|| child_of(pid))?
}
