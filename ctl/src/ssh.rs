//! A tunnel to the Unix socket of another host through the user's own ssh.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;

use crate::errors::CtlError;

/// sshd's default LoginGraceTime: as long as a person may take to type a passphrase.
const LOGIN: Duration = Duration::from_mins(2);
const SAID_BYTES: u64 = 4096;
/// Marks our line among what login scripts print.
const MARK: &str = "metis-tunnel:";

/// An ssh process that forwards a private socket. It ends when this is dropped, and by itself when this process is gone: its standard
/// input is a pipe, and the far end is `cat`.
#[derive(Debug)]
pub struct Tunnel {
    dir: TempDir,
    _ssh: Child,
    // An unread pipe would fill up and stop ssh.
    _stderr: JoinSet<()>,
}

impl Tunnel {
    /// Logs in and forwards; asks whatever ssh asks, on the terminal.
    ///
    /// # Errors
    /// Tells a failing ssh from a missing socket and from a forbidden one.
    pub async fn open(host: &str, socket: &Path, timeout: Duration) -> Result<Self, CtlError> {
        let remote = socket.to_str().filter(|s| s.starts_with('/') && !s.contains([':', '\'', '\n']));
        let remote = remote.ok_or_else(|| CtlError::Usage(format!("--socket {}: must be an absolute path on {host}", socket.display())))?;
        if host.starts_with('-') || host.is_empty() {
            return Err(CtlError::Usage(format!("--host {host}: must be the name of a host")));
        }
        let dir = tempfile::Builder::new().prefix("metisctl-").tempdir().context("cannot make a private directory for the tunnel")?;
        let mut ssh = command(host, &dir.path().join("sock"), remote, timeout).spawn().context("cannot start ssh: is it installed?")?;
        let stdout = ssh.stdout.take().context("ssh has no standard output")?;
        let word = tokio::time::timeout(LOGIN.max(timeout), answer(stdout)).await;
        match word.as_deref() {
            Ok("ready") => Ok(Self { dir, _stderr: drain(&mut ssh), _ssh: ssh }),
            Ok("absent") => Err(CtlError::RemoteAbsent { host: host.into(), socket: socket.into() }),
            Ok("denied") => Err(CtlError::RemotePermission { host: host.into(), socket: socket.into() }),
            Ok(_) => Err(CtlError::Ssh { host: host.into(), said: said(&mut ssh).await }),
            Err(_) => Err(CtlError::Ssh { host: host.into(), said: "no login within two minutes".into() }),
        }
    }

    /// The local end.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the adapter to ssh")]
fn command(host: &str, local: &Path, remote: &str, timeout: Duration) -> Command {
    let mut command = Command::new("ssh");
    let script = format!(
        "exec sh -c 'd=${{1%/*}}; if [ -d \"$d\" ] && [ ! -x \"$d\" ]; then echo {MARK} denied; elif [ ! -S \"$1\" ]; then echo {MARK} absent; \
         elif [ ! -w \"$1\" ]; then echo {MARK} denied; else echo {MARK} ready; fi; exec cat' sh '{remote}'"
    );
    command
        .arg("-T")
        // A shared master connection would keep the forwarding after this process.
        .args(["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "StreamLocalBindMask=0177"])
        // A link that died is noticed within a minute.
        .args(["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"])
        .arg("-o")
        .arg(format!("ConnectTimeout={}", timeout.as_secs().max(1)))
        .arg("-L")
        .arg(format!("{}:{remote}", local.display()))
        .arg("--")
        .arg(host)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The word after our mark; empty when ssh ends without it.
async fn answer(stdout: ChildStdout) -> String {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(word) = line.trim().strip_prefix(MARK) {
            return word.trim().to_owned();
        }
    }
    String::new()
}

fn drain(ssh: &mut Child) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(mut stderr) = ssh.stderr.take() {
        tasks.spawn(async move {
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        });
    }
    tasks
}

async fn said(ssh: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = ssh.stderr.take() {
        let _ = tokio::time::timeout(Duration::from_secs(2), stderr.take(SAID_BYTES).read_to_end(&mut text)).await;
    }
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if text.is_empty() { "it ended without a word".into() } else { text }
}
