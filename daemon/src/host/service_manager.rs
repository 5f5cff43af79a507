//! systemd as the service manager: sockets passed in, READY, STATUS, watchdog (sd_notify(3), sd_listen_fds(3)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use sd_notify::NotifyState;

/// The first Unix listener that systemd passed, if any. Call it once, before any thread is started: it clears the variables, so that
/// no child process takes the sockets for its own.
///
/// # Errors
/// Where the passed descriptor is not a listening Unix socket.
#[allow(unsafe_code, reason = "adopts the descriptor that systemd passes by number")]
pub fn passed_listener() -> io::Result<Option<UnixListener>> {
    // SAFETY: called from main before any thread exists, so nobody reads the environment at the same time.
    let mut fds = unsafe { sd_notify::listen_fds_and_unset_env() }?;
    let Some(fd) = fds.next() else { return Ok(None) };
    // SAFETY: systemd passed this descriptor to this process (LISTEN_PID was checked) and nobody else owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let listener = UnixListener::from(owned);
    listener
        .local_addr()
        .map_err(|e| io::Error::new(e.kind(), format!("descriptor {} from systemd is no Unix socket: {e}", listener.as_raw_fd())))?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

/// `READY=1`. Like the others, silent where there is no service manager.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// `STATUS=`, one line.
pub fn status(line: &str) {
    send(&[NotifyState::Status(line)]);
}

/// `STOPPING=1`.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// `WATCHDOG=1`.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear [`watchdog`] at the latest; `None`: no watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager does not take notifications");
    }
}

/// Whether standard error goes to the journal (`JOURNAL_STREAM` names its device and inode, systemd.exec(5)).
pub fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|m| m.dev().to_string() == device && m.ino().to_string() == inode)
}
