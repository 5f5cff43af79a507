//! Commands on this host. metisd has no rights of root: what needs them is a unit (`systemd/system/`) that polkit lets it start.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout_at};

use super::dump;
use super::port::{Command, HostError, Output};
use super::systemd::Systemd;
use super::tail::Tail;

/// A unit that stands for a command of root on this host. k3s-killall.sh stops every unit named k3s*, so none of ours is.
struct Unit {
    argv: &'static [&'static str],
    name: &'static str,
    /// Is stopped where its time is up; polkit's rules let it be.
    stops: bool,
}

const UNITS: [Unit; 2] = [
    Unit { argv: &["/usr/local/bin/k3s-killall.sh"], name: "metis-k3s-killall.service", stops: false },
    Unit { argv: &dump::COMMAND, name: dump::UNIT, stops: true },
];
/// So much of the time is kept for stopping a unit that is late.
const STOP: Duration = Duration::from_secs(3);

/// This host.
pub struct Local {
    systemd: Systemd,
}

impl Local {
    /// With this service manager.
    pub fn new(systemd: Systemd) -> Self {
        Self { systemd }
    }

    /// Its service manager.
    pub fn systemd(&self) -> &Systemd {
        &self.systemd
    }

    /// Runs a command: as this user, or where it asks for root by the unit that stands for it.
    ///
    /// # Errors
    /// See [`HostError`]; Denied for a command of root that no unit stands for.
    pub async fn run(&self, command: &Command, within: Duration) -> Result<Output, HostError> {
        let until = Instant::now() + within;
        if !command.root {
            return process(command, until).await;
        }
        let argv: Vec<&str> = command.argv.iter().map(String::as_str).collect();
        // Writing caches to disk needs no rights.
        if argv == ["sync"] {
            let synced = timeout_at(until, tokio::task::spawn_blocking(nix::unistd::sync)).await;
            return match synced {
                Ok(Ok(())) => Ok(Output::default()),
                Ok(Err(error)) => Err(HostError::Failed(format!("this host: sync: {error}"))),
                Err(_) => Err(HostError::TimedOut("this host: sync: a disk does not take what is to be written in time".to_owned())),
            };
        }
        let Some(unit) = UNITS.iter().find(|unit| argv == unit.argv) else {
            return Err(HostError::Denied(format!(
                "this host: metisd may not run `{}` as root here; make it a unit of Type=oneshot that polkit lets the user metis start",
                argv.join(" ")
            )));
        };
        let rest = if unit.stops { STOP.min(within / 4) } else { Duration::ZERO };
        let done = self.systemd.run_unit(unit.name, within.saturating_sub(rest)).await;
        if unit.stops && matches!(done, Err(HostError::TimedOut(_))) {
            self.systemd.stop_unit(unit.name, rest).await.unwrap_or_else(|error| tracing::warn!(%error, "{} may still run", unit.name));
        }
        done.map(|()| Output::default())
    }
}

#[allow(clippy::disallowed_methods, reason = "the adapter that runs commands on this host")]
async fn process(command: &Command, until: Instant) -> Result<Output, HostError> {
    let Some((program, arguments)) = command.argv.split_first() else {
        return Err(HostError::Failed("this host: the command is empty".to_owned()));
    };
    let mut process = tokio::process::Command::new(program);
    process.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = process.spawn().map_err(|error| HostError::Failed(format!("this host: `{program}` cannot be started: {error}")))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = timeout_at(until, async { tokio::join!(child.wait(), tail(stdout), tail(stderr)) }).await;
    let (status, stdout, stderr) =
        ended.map_err(|_| HostError::TimedOut(format!("this host: `{program}` has not ended in time and was killed")))?;
    let status = status.map_err(|error| HostError::Failed(format!("this host: `{program}`: {error}")))?;
    let output = Output { stdout: stdout.into_text(), stderr: stderr.into_text() };
    if status.success() {
        return Ok(output);
    }
    let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    Err(HostError::Failed(format!("this host: `{program}` ended with {status}: {}", last.into_iter().rev().collect::<Vec<_>>().join("; "))))
}

async fn tail(pipe: Option<impl AsyncRead + Unpin>) -> Tail {
    let mut tail = Tail::default();
    let Some(mut pipe) = pipe else { return tail };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        tail.push(&buffer[..count]);
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str], root: bool) -> Command {
        Command { argv: argv.iter().map(ToString::to_string).collect(), root }
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn commands_of_this_user_run_and_root_is_for_units_only() {
        let local = Local::new(Systemd::at("unix:path=/no/such/bus"));
        let out = local.run(&command(&["sh", "-c", "cat; echo out; echo err >&2"], false), LIMIT).await.unwrap();
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", "err\n"));
        let error = local.run(&command(&["sh", "-c", "echo why >&2; exit 3"], false), LIMIT).await.unwrap_err();
        assert!(
            matches!(&error, HostError::Failed(message) if message.contains("exit status: 3") && message.ends_with("why")),
            "{error:?}"
        );
        let error = local.run(&command(&["sleep", "30"], false), Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error, HostError::TimedOut(_)), "{error:?}");
        assert_eq!(local.run(&command(&["sync"], true), LIMIT).await, Ok(Output::default()));
        for argv in [
            &["sh", "-c", "id"][..],
            &["/usr/local/bin/k3s-killall.sh", "--help"],
            &["metisd", "datastore-dump", "-h"],
            &["sync", "-f"],
            &[],
        ] {
            let error = local.run(&command(argv, true), LIMIT).await.unwrap_err();
            assert!(matches!(error, HostError::Denied(_)), "{error:?}");
        }
        let error = local.run(&command(&["/usr/local/bin/k3s-killall.sh"], true), LIMIT).await.unwrap_err();
        assert!(matches!(&error, HostError::Unreachable(message) if message.contains("the system bus cannot be reached")), "{error:?}");
    }
}
