//! What of the pods with processes is on this host. It is in /run: the next boot knows nothing of it, as with containers.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

const PODS: &str = "/run/k3s/pods";
/// Kubernetes takes no longer message.
const MESSAGE: usize = 4096;
/// What of the log stands for a message.
const LOG_TAIL: usize = 2048;

/// A pod that was started in this boot.
pub struct Local {
    /// The pod's UID.
    pub uid: String,
    folder: PathBuf,
}

/// How its process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its code, or 128 and the signal.
    pub code: i32,
    /// When.
    pub at: String,
    /// What it left as its termination message.
    pub message: String,
}

/// All of them.
pub fn all() -> anyhow::Result<Vec<Local>> {
    let entries = std::fs::read_dir(PODS).into_iter().flatten();
    entries.map(|entry| Ok(Local::of(&entry?.file_name().to_string_lossy()))).collect()
}

/// A file that is whole or not there.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).with_context(|| path.display().to_string())
}

impl Local {
    /// The pod of that UID, whether it was started or not.
    pub fn of(uid: &str) -> Self {
        Self { uid: uid.to_owned(), folder: Path::new(PODS).join(uid) }
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn json(&self, name: &str) -> Option<Value> {
        serde_json::from_str(&std::fs::read_to_string(self.file(name)).ok()?).ok()
    }

    /// Whether it was started and has not been forgotten.
    pub fn exists(&self) -> bool {
        self.folder.exists()
    }

    /// Notes what the shim is to run.
    pub fn prepare(&self, spec: &Value) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        for old in ["exit.json", "run.json", "termination-log"] {
            let _ = std::fs::remove_file(self.file(old));
        }
        write(&self.file("spec.json"), &spec.to_string())
    }

    /// What was to be run.
    pub fn spec(&self) -> anyhow::Result<Value> {
        self.json("spec.json").with_context(|| format!("{}/spec.json", self.folder.display()))
    }

    /// Notes that it runs: its process, which is also its process group, and its shim, which is this process.
    pub fn runs(&self, pid: u32) -> anyhow::Result<()> {
        let run = json!({ "pid": pid, "shim": std::process::id(), "at": Timestamp::now().to_string() });
        write(&self.file("run.json"), &run.to_string())
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        if self.file("exit.json").exists() {
            return None;
        }
        i32::try_from(self.json("run.json")?["pid"].as_i64()?).ok()
    }

    /// When it was started.
    pub fn started(&self) -> Option<String> {
        Some(self.json("run.json")?["at"].as_str()?.to_owned())
    }

    /// Signals its process, or with SIGKILL everything of it.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().map(Pid::from_raw) {
            let _ = if signal == Signal::SIGKILL { killpg(pid, signal) } else { nix::sys::signal::kill(pid, signal) };
        }
    }

    /// Notes how it ended.
    pub fn ended(&self, code: i32, fall_back_to_log: bool) -> anyhow::Result<()> {
        let read = |name| std::fs::read(self.file(name)).unwrap_or_default();
        let mut message = read("termination-log");
        message.truncate(MESSAGE);
        if message.is_empty() && fall_back_to_log && code != 0 {
            let log = read("log");
            message = log[log.len().saturating_sub(LOG_TAIL)..].to_vec();
        }
        let exit = json!({ "code": code, "at": Timestamp::now().to_string(), "message": String::from_utf8_lossy(&message) });
        write(&self.file("exit.json"), &exit.to_string())
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        let exit = self.json("exit.json").or_else(|| self.lost())?;
        let text = |key: &str| exit[key].as_str().unwrap_or_default().to_owned();
        Some(Exit { code: exit["code"].as_i64().map_or(-1, |code| code as i32), at: text("at"), message: text("message") })
    }

    /// A shim that was killed, with its process, has left no note of the end: it is made up for, once.
    fn lost(&self) -> Option<Value> {
        let run = self.json("run.json")?;
        let gone = |key: &str| run[key].as_i64().is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists());
        if !(gone("shim") && gone("pid")) {
            return None;
        }
        self.ended(137, false).ok()?;
        self.json("exit.json")
    }

    /// How often it was started again.
    pub fn restarts(&self) -> u32 {
        std::fs::read_to_string(self.file("restarts")).ok().and_then(|n| n.parse().ok()).unwrap_or_default()
    }

    /// Notes that it is started once more.
    pub fn count_restart(&self) -> anyhow::Result<()> {
        write(&self.file("restarts"), &(self.restarts() + 1).to_string())
    }

    /// Forgets it, with its volumes.
    pub fn forget(&self) {
        super::container::unmount(&self.uid);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
