//! `k3s etcd-snapshot`, by etcdctl on the etcd of the server that runs on this host.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};

use super::LIB;

const SNAPSHOTS: &str = "/var/lib/rancher/k3s/server/db/snapshots";
/// How many `prune` leaves, if it is not told.
const RETENTION: usize = 5;

/// A snapshot on this host.
struct Snapshot {
    name: String,
    path: PathBuf,
    size: u64,
    made: SystemTime,
}

/// `save`, `ls`, `prune` or `delete`, as the words after `k3s etcd-snapshot` say; `save` where they say none.
pub fn run(words: &[String]) -> anyhow::Result<()> {
    let (command, rest) = match words.split_first() {
        Some((first, rest)) if !first.starts_with('-') => (first.as_str(), rest),
        _ => ("save", words),
    };
    let mut options = super::service::pairs(rest)?;
    let mut option = |name: &str| options.remove(name);
    let name = option("name");
    let folder = option("dir").unwrap_or_else(|| SNAPSHOTS.to_owned());
    let retention = option("snapshot-retention");
    let unknown: Vec<_> = options.keys().filter(|key| !key.is_empty()).collect();
    ensure!(unknown.is_empty(), "flag provided but not defined: {unknown:?}");
    let node = std::fs::read_to_string("/etc/hostname")?;
    let prefix = format!("{}-{}-", name.as_deref().unwrap_or("on-demand"), node.trim());
    match command {
        "save" => save(Path::new(&folder), &prefix),
        "ls" | "list" => list(Path::new(&folder)),
        "prune" => prune(Path::new(&folder), &prefix, retention.map_or(Ok(RETENTION), |n| n.parse()).context("--snapshot-retention")?),
        "delete" => match options.get("") {
            Some(name) => std::fs::remove_file(Path::new(&folder).join(name)).with_context(|| format!("snapshot {name}")),
            None => bail!("no snapshots given for removal"),
        },
        other => bail!("no command {other}; there are: save, ls, prune, delete"),
    }
}

fn save(folder: &Path, prefix: &str) -> anyhow::Result<()> {
    ensure!(Path::new("/run/k3s/server").exists(), "see server log for details: the server is not running or not using embedded etcd");
    std::fs::create_dir_all(folder)?;
    let name = format!("{prefix}{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    let endpoints = std::fs::read_to_string("/run/k3s/server")?;
    // etcdctl would wait for a server that is down; k3s does not.
    let address = endpoints.trim().trim_start_matches("http://").parse()?;
    TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .with_context(|| format!("see server log for details: dial tcp {address}"))?;
    // Without a timeout, as k3s: a hung etcd hangs it.
    let mut etcdctl = Command::new(Path::new(LIB).join("etcdctl"));
    etcdctl.arg(format!("--endpoints={}", endpoints.trim())).args(["snapshot", "save"]).arg(folder.join(&name));
    let out = etcdctl.output().context("etcdctl")?;
    ensure!(out.status.success(), "etcdctl snapshot save: {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    println!("time=\"{}\" level=info msg=\"Snapshot {name} saved.\"", jiff::Timestamp::now());
    Ok(())
}

/// Oldest first.
fn snapshots(folder: &Path) -> anyhow::Result<Vec<Snapshot>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, meta) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
        // etcdctl writes beside the name first.
        if entry.path().extension().is_none_or(|extension| extension != "part") {
            found.push(Snapshot { name, path: entry.path(), size: meta.len(), made: meta.modified()? });
        }
    }
    found.sort_by_key(|snapshot| snapshot.made);
    Ok(found)
}

fn list(folder: &Path) -> anyhow::Result<()> {
    println!("Name Location Size Created");
    for snapshot in snapshots(folder)? {
        let made = jiff::Timestamp::try_from(snapshot.made)?;
        println!("{} file://{} {} {made:.0}", snapshot.name, snapshot.path.display(), snapshot.size);
    }
    Ok(())
}

fn prune(folder: &Path, prefix: &str, retention: usize) -> anyhow::Result<()> {
    let mut ours = snapshots(folder)?;
    ours.retain(|snapshot| snapshot.name.starts_with(prefix));
    let surplus = ours.len().saturating_sub(retention);
    for snapshot in &ours[..surplus] {
        std::fs::remove_file(&snapshot.path)?;
        println!("time=\"{}\" level=info msg=\"Snapshot {} deleted.\"", jiff::Timestamp::now(), snapshot.name);
    }
    Ok(())
}
