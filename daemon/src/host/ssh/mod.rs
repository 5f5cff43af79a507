//! Hosts over SSH.

mod connect;
mod exec;
mod known_hosts;
mod pool;
mod quote;
mod scan;
mod socket;
#[cfg(test)]
mod tests;
mod trust;
mod tunnel;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

pub use exec::Input;
pub use scan::{HostKey, scan};
pub use socket::SocketStream;
pub use tunnel::Tunnel;

use super::Secrets;
use super::port::{Command, HostError, Output};
use super::settings::Settings;
use crate::site::{Host, SecretRef};
use exec::Ended;
use pool::{Pool, Session};

/// Runs commands on hosts over SSH. Connections are kept for a while and shared; at most `hosts.at_once` commands run at once.
pub struct Ssh {
    key: Option<SecretRef>,
    known_hosts: PathBuf,
    connect_timeout: Duration,
    secrets: Secrets,
    pool: Pool,
}

/// How a command ended that was not expected to let the connection live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It ended with 0.
    Done,
    /// The host took it, and then the connection was gone or a signal ended it.
    TakenThenLost,
}

impl Ssh {
    /// Nothing is connected yet.
    pub fn new(settings: &Settings, secrets: Secrets) -> Self {
        Self {
            key: settings.key.clone(),
            known_hosts: settings.known_hosts.clone(),
            connect_timeout: settings.connect_timeout,
            secrets,
            pool: Pool::new(settings.at_once as usize),
        }
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// See [`HostError`]. A command that is cut by the deadline may go on there: SSH has no way to end what runs as root.
    pub async fn run(&self, host: &Host, command: &Command, within: Duration) -> Result<Output, HostError> {
        let ended = self.ended(host, command, None, Instant::now() + within).await?;
        judged(host, command, ended)
    }

    /// As [`Ssh::run`], with `input` as the command's standard input, streamed.
    ///
    /// # Errors
    /// As [`Ssh::run`]; Failed where `input` cannot be read.
    pub async fn run_with_input(&self, host: &Host, command: &Command, input: Input<'_>, within: Duration) -> Result<Output, HostError> {
        let ended = self.ended(host, command, Some(input), Instant::now() + within).await?;
        judged(host, command, ended)
    }

    /// Runs a command that may end the connection, such as a power-off.
    ///
    /// # Errors
    /// As [`Ssh::run`].
    pub async fn order(&self, host: &Host, command: &Command, within: Duration) -> Result<Order, HostError> {
        let ended = self.ended(host, command, None, Instant::now() + within).await?;
        if ended.taken && ended.status.is_none() {
            return Ok(Order::TakenThenLost);
        }
        judged(host, command, ended).map(|_| Order::Done)
    }

    async fn ended(&self, host: &Host, command: &Command, input: Option<Input<'_>>, until: Instant) -> Result<Ended, HostError> {
        let what = shown(command);
        let line = quote::line(host, command).map_err(|why| HostError::Failed(format!("{}: {what}: {why}", host.name)))?;
        let busy = |_| HostError::TimedOut(format!("{}: {what} did not get its turn in time (hosts.at_once)", host.name));
        let session = timeout_at(until, self.pool.session(host, self.key.as_ref())).await.map_err(busy)?;
        let mut input = input;
        loop {
            let (handle, fresh) = self.handle(&session, host, until).await?;
            let running = exec::exec(&handle, &line, input.as_deref_mut().map(|input| input as Input<'_>));
            match timeout_at(until, running).await {
                Ok(Ok(ended)) => {
                    if handle.is_closed() || (ended.status.is_none() && ended.signal.is_none()) {
                        session.give_up(&handle).await;
                    }
                    return Ok(ended);
                }
                // It had ended unseen; nothing ran yet, so once more on a new one.
                Ok(Err(_)) if !fresh => session.give_up(&handle).await,
                Ok(Err(error)) => {
                    session.give_up(&handle).await;
                    return Err(HostError::Unreachable(format!("{}: connected, but {what} could not be started: {error}", host.name)));
                }
                Err(_) => {
                    session.give_up(&handle).await;
                    return Err(HostError::TimedOut(format!("{}: {what} has not ended in time; it may still run there", host.name)));
                }
            }
        }
    }

    /// A connection, and whether it is new.
    async fn handle(&self, session: &Session, host: &Host, until: Instant) -> Result<(Arc<pool::Live>, bool), HostError> {
        let late = |_| HostError::TimedOut(format!("{}: no connection in time; others wait for the same", host.name));
        let mut live = timeout_at(until, session.live()).await.map_err(late)?;
        if let Some(handle) = live.as_ref().filter(|handle| !handle.is_closed()) {
            return Ok((Arc::clone(handle), false));
        }
        let limit = until.min(Instant::now() + self.connect_timeout);
        let key = host.key.as_ref().or(self.key.as_ref());
        let entry = connect::Entry { host, key, known_hosts: &self.known_hosts, secrets: &self.secrets };
        let handle = Arc::new(connect::connect(&entry, limit).await?);
        *live = Some(Arc::clone(&handle));
        Ok((handle, true))
    }
}

/// What a command that has ended means.
fn judged(host: &Host, command: &Command, ended: Ended) -> Result<Output, HostError> {
    let (name, what) = (&host.name, shown(command));
    let Ended { status, signal, taken, input_failed, stdout, stderr } = ended;
    let (stdout, stderr) = (stdout.into_text(), stderr.into_text());
    if let Some(why) = input_failed {
        return Err(HostError::Failed(format!("{name}: {what}: its input could not be read to the end: {why}")));
    }
    match (status, signal) {
        (Some(0), _) => Ok(Output { stdout, stderr }),
        (Some(status), _) if command.root && host.sudo && sudo_refused(status, &stderr) => Err(HostError::Denied(format!(
            "{name}: {} may not run {what} as root without a password: {}; allow it with NOPASSWD in sudoers(5)",
            host.user,
            last_lines(&stderr)
        ))),
        (Some(status), _) => {
            let said = if stderr.trim().is_empty() { &stdout } else { &stderr };
            Err(HostError::Failed(format!("{name}: {what} ended with status {status}{}", said_last(said))))
        }
        (None, Some(signal)) => Err(HostError::Failed(format!("{name}: {what} was ended by signal {signal}{}", said_last(&stderr)))),
        (None, None) if taken => {
            Err(HostError::Unreachable(format!("{name}: the connection was lost while {what} ran; it may still run there")))
        }
        (None, None) => Err(HostError::Unreachable(format!("{name}: the connection was lost, or sshd refused, before {what} started"))),
    }
}

/// Whether it was sudo itself that refused (sudo 1.9, messages of `-n`); everything else is the command's own.
fn sudo_refused(status: u32, stderr: &str) -> bool {
    const WORDS: [&str; 8] = [
        "a password is required",
        "a terminal is required",
        "no tty present",
        "you must have a tty",
        "is not in the sudoers file",
        "may not run sudo",
        "is not allowed to execute",
        "is not allowed to run sudo",
    ];
    let of_sudo = |line: &str| WORDS.iter().any(|words| line.contains(words)) || (line.contains("sudo") && line.contains("not found"));
    match status {
        1 => stderr.lines().any(of_sudo),
        // env(1): there is no sudo.
        127 => stderr.lines().any(|line| line.contains("env:") && line.contains("sudo")),
        _ => false,
    }
}

/// A command in a message.
fn shown(command: &Command) -> String {
    const MOST: usize = 160;
    let mut text = command.argv.join(" ").replace(|c: char| c.is_control(), " ");
    if text.chars().count() > MOST {
        text = text.chars().take(MOST).chain("…".chars()).collect();
    }
    format!("`{text}`")
}

fn said_last(text: &str) -> String {
    let lines = last_lines(text);
    if lines.is_empty() { String::new() } else { format!(": {lines}") }
}

/// The last lines that say something, as one.
fn last_lines(text: &str) -> String {
    const LINES: usize = 5;
    const MOST: usize = 600;
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(LINES);
    let joined = lines.split_off(from).join("; ").replace(|c: char| c.is_control(), " ");
    let over = joined.chars().count().saturating_sub(MOST);
    joined.chars().skip(over).collect()
}
