//! Hosts: whether each lets metis act, its clock, and what storage needs there.

use super::facts::{Facts, HostAnswer, HostSeen, HostTrouble};
use super::{Finding, Level};
use crate::site::Access;

/// Seconds by which clocks may differ before logs and Leases of both are hard to compare, and before certificates and etcd suffer.
const SKEW_SEEN: f64 = 2.0;
const SKEW_BAD: f64 = 30.0;

/// Command → Debian package, of what Longhorn needs on a host (its requirements: open-iscsi, NFS client, and for encrypted volumes
/// cryptsetup and dmsetup).
pub const PACKAGES: [(&str, &str); 4] =
    [("cryptsetup", "cryptsetup"), ("iscsiadm", "open-iscsi"), ("dmsetup", "dmsetup"), ("mount.nfs", "nfs-common")];

/// All of them.
pub(super) fn hosts(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut well = Vec::new();
    for host in &facts.hosts {
        match &host.answer {
            Ok(answer) => {
                well.push(host.name.as_str());
                found.extend(clock(host, answer));
                found.extend(packages(facts, host, answer));
            }
            Err(trouble) => found.push(silent(host, trouble)),
        }
    }
    if !well.is_empty() {
        found.push(Finding::new(
            "host",
            Level::Ok,
            format!("{} lets metis run a command with the rights it needs: {}", well.len(), well.join(", ")),
        ));
    }
    found
}

fn silent(host: &HostSeen, trouble: &HostTrouble) -> Finding {
    match trouble {
        HostTrouble::Refused(why) => Finding::new("host", Level::Problem, why.clone()),
        HostTrouble::Unreachable(why) => {
            let fix = match host.access {
                Access::HelperPod => format!("kubectl get node {}", host.node_name),
                _ => format!("is {} on? its address, port and key: `host` of the inventory", host.name),
            };
            Finding::new("host", Level::Warning, why.clone()).fix(fix)
        }
    }
}

fn clock(host: &HostSeen, answer: &HostAnswer) -> Option<Finding> {
    const NAME: &str = "host.clock";
    let name = &host.name;
    let fix = format!("timedatectl status (on {name}); systemctl restart systemd-timesyncd (or chrony)");
    let (skew, wrong) = answer.skew?;
    let by = |skew: f64| format!("{name}: its clock is {:.1} s {}", skew.abs(), if skew > 0.0 { "ahead" } else { "behind" });
    let certain = (skew.abs() - wrong).max(0.0);
    if certain > SKEW_BAD {
        return Some(Finding::new(NAME, Level::Problem, by(skew)).fix(fix));
    }
    if certain > SKEW_SEEN {
        return Some(Finding::new(NAME, Level::Warning, by(skew)).fix(fix));
    }
    (answer.synced == Some(false)).then(|| {
        let message = format!("{name}: its clock is right, and nothing keeps it so: it is not synchronised");
        Finding::new(NAME, Level::Warning, message).fix(fix)
    })
}

/// Only where k3s runs; what Longhorn keeps no disks on may still mount its volumes.
fn packages(facts: &Facts, host: &HostSeen, answer: &HostAnswer) -> Option<Finding> {
    const NAME: &str = "host.packages";
    let commands = answer.commands.as_ref().filter(|_| host.k3s)?;
    let missing: Vec<&str> = PACKAGES.iter().filter(|(command, _)| !commands.contains(*command)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return None;
    }
    let stores = facts.longhorn.as_ref().map(|nodes| nodes.contains(&host.node_name));
    let (level, why) = match stores {
        Some(true) => (Level::Problem, "and Longhorn uses it"),
        Some(false) if facts.longhorn.as_ref().is_some_and(std::collections::BTreeSet::is_empty) => return None,
        Some(false) => (Level::Warning, "and Longhorn's volumes cannot be mounted there"),
        None => (Level::Warning, "which Longhorn needs, if the site has it"),
    };
    let list = missing.join(" ");
    Some(
        Finding::new(NAME, level, format!("{}: not installed: {list}, {why}", host.name))
            .fix(format!("apt-get install {list} (on {})", host.name)),
    )
}
