//! Units and power of a host by commands: what is run, and what the answers mean. Pure.

use std::time::Duration;

use serde::Deserialize;

use super::port::{Command, Output};

fn command(argv: &[&str], root: bool) -> Command {
    Command { argv: argv.iter().map(ToString::to_string).collect(), root }
}

/// Does nothing, with the rights that the others need.
pub fn probe() -> Command {
    command(&["true"], true)
}

/// Stops a unit and waits for it.
pub fn stop(unit: &str) -> Command {
    command(&["systemctl", "stop", unit], true)
}

/// Stops a unit after `delay`, without waiting for it.
pub fn stop_later(unit: &str, delay: Duration) -> Command {
    later(delay, &["systemctl", "stop", unit])
}

fn later(delay: Duration, argv: &[&str]) -> Command {
    let after = format!("--on-active={}ms", delay.as_millis());
    command(&[&["systemd-run", "--quiet", &after, "--timer-property=AccuracySec=100ms"], argv].concat(), true)
}

/// Kills a unit's main process, so that its stop comes to an end. Not its other processes: k3s' shims are among them, and k3s-killall.sh finds
/// the containers by them.
pub fn kill(unit: &str) -> Command {
    command(&["systemctl", "kill", "--kill-who=main", "--signal=KILL", unit], true)
}

/// How much of the time for a stop a unit has before it is killed. systemd itself would wait for 90 s (DefaultTimeoutStopSec=), and the
/// power-off that follows with it.
pub fn patience(within: Duration) -> Duration {
    within / 3 * 2
}

/// Starts a unit without waiting for it.
pub fn start(unit: &str) -> Command {
    command(&["systemctl", "start", "--no-block", unit], true)
}

/// Shows a unit's state, for [`UnitState::read`]; unlike is-active(1) it succeeds for every unit, also one that is not there.
pub fn show(unit: &str) -> Command {
    command(&["systemctl", "show", "--property=LoadState,ActiveState", unit], false)
}

/// What systemd says of a unit (org.freedesktop.systemd1(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// `LoadState`.
    pub load: String,
    /// `ActiveState`.
    pub active: String,
}

impl UnitState {
    /// Reads the answer to [`show`]; `None` where it is not one.
    pub fn read(output: &Output) -> Option<Self> {
        let value = |key: &str| output.stdout.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        Some(Self { load: value("LoadState")?, active: value("ActiveState")? })
    }

    /// Whether nothing of it runs. `failed` is: systemd has killed what did not stop in time.
    pub fn is_stopped(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }
}

/// Lists inhibitor locks, for [`blockers`].
pub fn list_inhibitors() -> Command {
    let manager = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", "ListInhibitors"];
    command(&[&["busctl", "--json=short", "call"][..], &manager].concat(), false)
}

/// An inhibitor lock (org.freedesktop.login1(5)).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Inhibitor {
    /// `shutdown:sleep:…`
    pub what: String,
    /// Who holds it.
    pub who: String,
    /// Why.
    pub why: String,
    /// `block`, `block-weak`, `delay` or `delay-weak`.
    pub mode: String,
    /// User of its holder.
    pub uid: u32,
    /// Process of its holder.
    pub pid: u32,
}

impl Inhibitor {
    /// Whether it would hold a power-off up for good.
    pub fn blocks_shutdown(&self) -> bool {
        self.mode.starts_with("block") && self.what.split(':').any(|what| what == "shutdown")
    }
}

/// Locks that would hold a power-off, as text for people. An answer that cannot be read is none: it must not hold a power-off either.
pub fn blockers(output: &Output) -> Vec<String> {
    #[derive(Deserialize)]
    struct Reply {
        data: Vec<Vec<Inhibitor>>,
    }
    let reply: Reply = serde_json::from_str(&output.stdout).unwrap_or(Reply { data: Vec::new() });
    reply.data.iter().flatten().filter(|lock| lock.blocks_shutdown()).map(blocker).collect()
}

/// A lock that would hold a power-off, for people.
pub fn blocker(lock: &Inhibitor) -> String {
    format!("`{}` (process {}, user {}): {}", lock.who, lock.pid, lock.uid, lock.why)
}

/// Powers off after `delay`.
///
/// `-i`: from systemd 257 on logind holds a power-off for any block lock, also root's (systemd#30307), and a lock that somebody forgot would
/// keep the host on until the battery is gone. Who holds one is said beforehand. Earlier versions of systemctl let root pass anyway.
///
/// A timer and not `shutdown -P` or logind's ScheduleShutdown: those count in minutes or on the wall clock, refuse while there is such a lock,
/// and keep users from logging in (pam_nologin(8)) during the last five minutes, also us.
pub fn power_off(delay: Duration) -> Command {
    if delay.is_zero() {
        return command(&["systemctl", "poweroff", "-i"], true);
    }
    later(delay, &["systemctl", "poweroff", "-i"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(stdout: &str) -> Output {
        Output { stdout: stdout.to_owned(), stderr: String::new() }
    }

    #[test]
    fn a_unit_is_stopped_when_nothing_of_it_runs() {
        let stopped = |text: &str| UnitState::read(&output(text)).map(|state| state.is_stopped());
        assert_eq!(stopped("LoadState=loaded\nActiveState=inactive\n"), Some(true));
        assert_eq!(stopped("LoadState=not-found\nActiveState=inactive\n"), Some(true));
        assert_eq!(stopped("LoadState=loaded\nActiveState=failed\n"), Some(true));
        for active in ["active", "activating", "deactivating", "reloading"] {
            assert_eq!(stopped(&format!("LoadState=loaded\nActiveState={active}\n")), Some(false), "{active}");
        }
        for text in ["", "LoadState=loaded\n", "System has not been booted with systemd"] {
            assert_eq!(stopped(text), None, "{text}");
        }
    }

    #[test]
    fn a_unit_that_does_not_stop_is_killed_while_there_is_time_to_see_it_end() {
        assert_eq!(patience(Duration::from_secs(60)), Duration::from_secs(40));
        assert_eq!(patience(Duration::from_secs(3)), Duration::from_secs(2));
        assert!(kill("k3s.service").root && kill("k3s.service").argv.contains(&"--kill-who=main".to_owned()));
    }

    #[test]
    fn only_locks_that_block_a_shutdown_are_named() {
        // As busctl 252 prints it.
        let text = r#"{"type":"a(ssssuu)","data":[[["sleep","NetworkManager","turns off","delay",0,311],["shutdown","Unattended Upgrades Shutdown","Stop ongoing upgrades","delay",0,402],["shutdown:sleep","apt","runs dpkg","block",0,977],["idle","kde","video","block",1000,5],["shutdown","app","asks","block-weak",1000,6]]]}"#;
        assert_eq!(blockers(&output(text)), ["`apt` (process 977, user 0): runs dpkg", "`app` (process 6, user 1000): asks"]);
        for text in ["", "{}", "Failed to connect to bus", r#"{"type":"a(ssssuu)","data":[[]]}"#] {
            assert!(blockers(&output(text)).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_power_off_passes_locks_and_may_be_delayed() {
        assert_eq!(power_off(Duration::ZERO).argv, ["systemctl", "poweroff", "-i"]);
        assert!(power_off(Duration::from_millis(1500)).argv.contains(&"--on-active=1500ms".to_owned()));
        assert!(power_off(Duration::ZERO).root && stop("k3s.service").root && start("k3s.service").root && !show("k3s.service").root);
    }
}
