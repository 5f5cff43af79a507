//! Asks every host a real command, with the rights that later steps need.

use std::time::Duration;

use futures::future::join_all;

use crate::app::parts::Parts;
use crate::app::world::World;
use crate::host::port::{Command, HostError, Output};
use crate::prepare::facts::{HostAnswer, HostSeen, HostTrouble};
use crate::prepare::hosts::PACKAGES;
use crate::site::{Access, Host, Now};

/// All that metis may act on.
pub(super) async fn look(world: &World, parts: &Parts, within: Duration) -> Vec<HostSeen> {
    let hosts = parts.topology.hosts.values().filter(|host| host.access != Access::None);
    join_all(hosts.map(|host| ask(world, parts, host, within))).await
}

async fn ask(world: &World, parts: &Parts, host: &Host, within: Duration) -> HostSeen {
    let answer = answer(world, parts, host, within).await.map_err(trouble);
    HostSeen { name: host.name.clone(), node_name: host.node_name.clone(), access: host.access, k3s: host.k3s.is_some(), answer }
}

async fn answer(world: &World, parts: &Parts, host: &Host, within: Duration) -> Result<HostAnswer, HostError> {
    parts.hosts.probe(host, within).await?;
    let before = world.now();
    let said = parts.hosts.run(host, &question(), within).await;
    // It let us in and act; what it does not say of itself is not known.
    Ok(said.map(|output| read(&output, &before, &world.now())).unwrap_or_default())
}

fn trouble(error: HostError) -> HostTrouble {
    match error {
        HostError::Unreachable(why) | HostError::TimedOut(why) => HostTrouble::Unreachable(why),
        HostError::Refused(why) | HostError::Denied(why) | HostError::Failed(why) => HostTrouble::Refused(why),
    }
}

/// One command, so that one connection does for all: `now=`, `synced=`, and a line for each command that is there.
fn question() -> Command {
    let commands = PACKAGES.map(|(command, _)| command).join(" ");
    let script = format!(
        "PATH=$PATH:/usr/sbin:/sbin; echo now=$(date +%s.%N); echo synced=$(timedatectl show -p NTPSynchronized --value 2>/dev/null); \
         for c in {commands}; do command -v $c >/dev/null 2>&1 && echo has=$c; done; echo end="
    );
    Command { argv: vec!["sh".to_owned(), "-c".to_owned(), script], root: false }
}

/// `before` and `after`: our clock around it; the host read its own somewhere in between.
fn read(output: &Output, before: &Now, after: &Now) -> HostAnswer {
    let lines: Vec<(&str, &str)> = output.stdout.lines().filter_map(|line| line.split_once('=')).collect();
    let value = |key: &str| lines.iter().find(|(name, _)| *name == key).map(|(_, value)| value.trim());
    let took = after.boot.saturating_sub(before.boot).as_secs_f64();
    let middle = after.wall.as_millisecond() as f64 / 1e3 - took / 2.0;
    let theirs = value("now").and_then(|text| text.parse::<f64>().ok());
    HostAnswer {
        skew: theirs.map(|theirs| (theirs - middle, took / 2.0)),
        synced: match value("synced") {
            Some("yes") => Some(true),
            Some("no") => Some(false),
            _ => None,
        },
        commands: value("end").map(|_| lines.iter().filter(|(name, _)| *name == "has").map(|(_, command)| (*command).to_owned()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::BootId;

    fn moment(seconds: i64) -> Now {
        let wall = jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        Now { wall, boot: Duration::from_secs(100 + seconds.unsigned_abs()), boot_id: BootId::new("b"), synced: true }
    }

    fn said(stdout: &str) -> HostAnswer {
        read(&Output { stdout: stdout.to_owned(), stderr: String::new() }, &moment(0), &moment(2))
    }

    #[test]
    fn what_a_host_says_is_read_and_what_it_does_not_is_not_known() {
        let all = said("now=1800000001.500000000\nsynced=yes\nhas=dmsetup\nhas=mount.nfs\nend=\n");
        assert_eq!((all.skew, all.synced), (Some((0.5, 1.0)), Some(true)));
        assert_eq!(all.commands.unwrap().into_iter().collect::<Vec<_>>(), ["dmsetup", "mount.nfs"]);
        // BusyBox: no nanoseconds, no timedatectl.
        let busybox = said("now=1799999701.%N\nsynced=\nend=\n");
        assert_eq!((busybox.skew, busybox.synced), (None, None));
        assert_eq!(busybox.commands, Some(std::collections::BTreeSet::new()));
        let behind = said("now=1799999701.0\nsynced=no\n");
        assert_eq!((behind.skew, behind.synced, behind.commands), (Some((-300.0, 1.0)), Some(false), None));
        assert_eq!(said("motd: now with more lines\n"), HostAnswer::default());
    }
}
