//! The real metisd and the real metisctl, in a folder of their own.
#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// A program of this workspace, as built beside this test or program.
///
/// # Panics
/// Where it was not built: `tests/run` does it first, or `cargo build --workspace --bins`.
#[allow(clippy::expect_used, reason = "a test harness")]
pub fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the path of this test");
    let beside = this.parent().expect("the folder of this test");
    // Tests are in a folder below the programs.
    let target = if beside.ends_with("deps") { beside.parent().expect("the target folder") } else { beside };
    let program = target.join(name);
    assert!(program.exists(), "{} is not built: cargo build --workspace --bins", program.display());
    program
}

/// A metisd with its own folder.
pub struct Daemon {
    /// Everything of it is below.
    pub dir: tempfile::TempDir,
    /// The host name that it sees (it needs root); `None`: this machine's.
    pub host_name: Option<String>,
    child: Option<Child>,
}

/// What `metisctl` answered.
#[derive(Debug)]
pub struct Answer {
    /// Exit code; `None`: ended by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// Standard output as JSON.
    ///
    /// # Errors
    /// Where it is none.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.out).with_context(|| format!("{self:?}"))
    }

    /// Both outputs.
    pub fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Daemon {
    /// A folder with this configuration and inventory; `@DIR@` in them is the folder. Nothing runs yet.
    ///
    /// # Errors
    /// Where files cannot be written.
    pub fn new(config: &str, inventory: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("metis-test-").tempdir()?;
        let daemon = Self { dir, host_name: None, child: None };
        daemon.configure(config)?;
        fs::write(daemon.path("inventory.yaml"), daemon.fill(inventory))?;
        Ok(daemon)
    }

    /// Writes the configuration; state and run folder are below the test's own.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn configure(&self, config: &str) -> anyhow::Result<()> {
        let daemon = "daemon: { state_dir: \"@DIR@/state\", runtime_dir: \"@DIR@/run\", log_level: debug }\n";
        fs::write(self.path("metis.yaml"), self.fill(&format!("{daemon}{config}")))?;
        Ok(())
    }

    fn fill(&self, text: &str) -> String {
        text.replace("@DIR@", &self.dir.path().display().to_string())
    }

    /// A path below the folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// A file that only its owner can read.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn secret(&self, relative: &str, content: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        let path = self.path(relative);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(file.write_all(content.as_bytes())?)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/metisd.sock")
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Its pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// Where it ends, or does not answer within 20 s; its log is in the message.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.start_with(&[])
    }

    /// Starts it with these environment variables too.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_with(&mut self, environment: &[(&str, &str)]) -> anyhow::Result<()> {
        self.spawn(environment)?;
        let until = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = self.child.as_mut().context("a child")?.try_wait()? {
                bail!("metisd ended: {status}\n{}", self.log());
            }
            ensure!(Instant::now() < until, "metisd does not answer within 20 s\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(&mut self, environment: &[(&str, &str)]) -> anyhow::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        let mut command = self.command();
        command.arg("--config").arg(self.path("metis.yaml")).envs(environment.iter().copied());
        // Where the last good configuration is looked for; systemd sets it.
        command.env("STATE_DIRECTORY", self.path("state"));
        self.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// metisd; under another host name in a UTS namespace of its own (uts_namespaces(7)), with the same pid.
    fn command(&self) -> Command {
        let Some(name) = &self.host_name else { return Command::new(program("metisd")) };
        let mut command = Command::new("unshare");
        let line = "echo \"$1\" >/proc/sys/kernel/hostname; shift; exec \"$@\"";
        command.args(["--uts", "--", "sh", "-c", line, "sh", name]).arg(program("metisd"));
        command
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// Where it does not within `patience`.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + patience;
        let child = self.child.as_mut().context("metisd does not run")?;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            ensure!(Instant::now() < until, "metisd did not end within {patience:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> anyhow::Result<()> {
        let pid = self.pid().context("metisd does not run")?;
        Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// SIGTERM; it has to end within 10 s, well.
    ///
    /// # Errors
    /// Where it does not.
    pub fn stop(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.signal(nix::sys::signal::Signal::SIGTERM)?;
        let status = self.wait(Duration::from_secs(10))?;
        ensure!(status.success(), "metisd ended with {status}\n{}", self.log());
        Ok(begun.elapsed())
    }

    /// kill -9.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(nix::sys::signal::Signal::SIGKILL)?;
        let status = self.wait(Duration::from_secs(10))?;
        ensure!(status.signal() == Some(9), "metisd ended with {status}");
        Ok(())
    }

    /// Runs metisctl.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn ctl(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        Ok(self.ctl_command(arguments).output()?.into())
    }

    /// metisctl, ready to be started.
    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("metisctl"));
        command.arg("--socket").arg(self.socket()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs metisctl, which has to succeed; its standard output as JSON.
    ///
    /// # Errors
    /// Where it fails; both outputs and the daemon's log are in the message.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
        let answer = self.ctl(&[arguments, &["-o", "json"]].concat())?;
        ensure!(answer.code == Some(0), "metisctl {arguments:?}: {answer:?}\n{}", self.log());
        answer.json()
    }

    /// Asks until `wanted` says yes.
    ///
    /// # Errors
    /// The last answer, after `patience`.
    pub fn until(
        &self,
        patience: Duration,
        arguments: &[&str],
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> anyhow::Result<serde_json::Value> {
        let until = Instant::now() + patience;
        loop {
            let answer = self.json(arguments)?;
            if wanted(&answer) {
                return Ok(answer);
            }
            ensure!(Instant::now() < until, "metisctl {arguments:?} after {patience:?}: {answer:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let mut text = String::new();
            let _ = write!(text, "--- log of metisd\n{}", self.log());
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        }
    }
}
