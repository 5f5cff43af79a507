//! Identity of the host: name, hosts, machine-id, journald, and metis' own record.

use std::fmt::Write as _;

use serde_json::json;

use super::edit::{EditKind, FileEdit};
use super::{Job, RenderError, valid};

const HOSTS_BEGIN: &str = "# BEGIN metis";
const HOSTS_END: &str = "# END metis";
/// Where an image has no `/etc/hosts`.
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

pub(super) fn render(job: &Job<'_>) -> Result<Vec<FileEdit>, RenderError> {
    let name = &job.node.hostname;
    valid::hostname(name).map_err(|why| job.bad_value("hostname", name, why))?;
    valid::node_name(job.node.name.as_str()).map_err(|why| job.bad_value("name", job.node.name.as_str(), why))?;
    let mut edits = vec![FileEdit::file("/etc/hostname", 0o644, format!("{name}\n")), hosts(job)?];
    edits.extend(machine_id(job));
    edits.extend(journald(job)?);
    Ok(edits)
}

fn hosts(job: &Job<'_>) -> Result<FileEdit, RenderError> {
    let mut block = format!("{HOSTS_BEGIN}\n127.0.1.1 {}", job.node.hostname);
    if let Some((short, _)) = job.node.hostname.split_once('.') {
        let _ = write!(block, " {short}");
    }
    block.push('\n');
    for (address, names) in &job.node.settings.hosts {
        if names.is_empty() {
            return Err(job.bad_value("hosts", &address.to_string(), "has no names"));
        }
        for name in names {
            valid::hostname(name).map_err(|why| job.bad_value("hosts", name, why))?;
        }
        let _ = writeln!(block, "{address} {}", names.join(" "));
    }
    block.push_str(HOSTS_END);
    block.push('\n');
    let known = job.facts.hosts.as_ref();
    let text = known.map_or(HOSTS, |file| file.text.as_str());
    // 127.0.1.1 is the host's own name by Debian's convention, so a line of the golden image names another host.
    let mut kept = outside_block(text)
        .into_iter()
        .filter(|line| line.split_whitespace().next() != Some("127.0.1.1"))
        .fold(String::new(), |text, line| text + line + "\n");
    kept.push_str(&block);
    let (mode, uid, gid) = known.map_or((0o644, 0, 0), |file| (file.mode, file.uid, file.gid));
    Ok(FileEdit::file("/etc/hosts", mode, kept).owned(uid, gid))
}

/// The lines that are not between our marks. A begin without an end is not ours.
fn outside_block(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let begin = lines.iter().position(|line| *line == HOSTS_BEGIN);
    let end = begin.and_then(|begin| lines[begin..].iter().position(|line| *line == HOSTS_END).map(|len| begin + len));
    match (begin, end) {
        (Some(begin), Some(end)) => lines[..begin].iter().chain(&lines[end + 1..]).copied().collect(),
        _ => lines,
    }
}

/// An empty `/etc/machine-id` makes systemd give the host an id of its own and keep it (machine-id(5)). `uninitialized` would do the
/// same but also declare a *first boot*: systemd then applies its presets to all units and systemd-firstboot may ask at the console,
/// on a golden image that is configured already and with nobody there to answer.
fn machine_id(job: &Job<'_>) -> Vec<FileEdit> {
    let mut edits = vec![FileEdit::file("/etc/machine-id", 0o444, [])];
    if job.facts.dbus_machine_id {
        edits.push(FileEdit::remove("/var/lib/dbus/machine-id"));
    }
    edits
}

fn journald(job: &Job<'_>) -> Result<Option<FileEdit>, RenderError> {
    let settings = &job.node.settings.journald;
    let keys = [
        ("storage", "Storage", &settings.storage),
        ("system_max_use", "SystemMaxUse", &settings.system_max_use),
        ("runtime_max_use", "RuntimeMaxUse", &settings.runtime_max_use),
        ("max_retention", "MaxRetentionSec", &settings.max_retention),
    ];
    let mut text = "[Journal]\n".to_owned();
    for (key, option, value) in keys {
        let Some(value) = value else { continue };
        valid::journald(value).map_err(|why| job.bad_value(&format!("journald.{key}"), value, why))?;
        let _ = writeln!(text, "{option}={value}");
    }
    let any = keys.iter().any(|(_, _, value)| value.is_some());
    Ok(any.then(|| FileEdit::file("/etc/systemd/journald.conf.d/10-metis.conf", 0o644, text)))
}

/// `/etc/metis/node.json`: what this card is, for people and for the node itself. Nothing in it is secret.
pub(super) fn identity(job: &Job<'_>, edits: &[FileEdit], instance_id: &str) -> FileEdit {
    let files: Vec<_> = edits
        .iter()
        .filter(|edit| edit.is_own() && matches!(edit.kind, EditKind::File(_) | EditKind::Symlink(_)))
        .map(|edit| {
            json!({
                "filesystem": edit.fs.name(), "path": edit.path, "mode": format!("{:04o}", edit.mode),
                "uid": edit.uid, "gid": edit.gid, "secret": edit.secret,
            })
        })
        .collect();
    let identity = json!({
        "node": job.node.name,
        "hostname": job.node.hostname,
        "class": job.node.class,
        "arch": job.node.arch,
        "k3s_version": job.node.settings.k3s.version,
        "instance_id": instance_id,
        "image_sha256": job.facts.sha256,
        "metis_version": env!("CARGO_PKG_VERSION"),
        "files": files,
    });
    FileEdit::file("/etc/metis/node.json", 0o644, format!("{identity:#}\n"))
}
