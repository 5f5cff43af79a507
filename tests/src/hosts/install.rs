#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]
//! What is on a host's disk before its first boot.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::{Role, SSH_PORT};
use crate::nspawn::Host;

/// The user as whom metis works on a host.
pub const OPERATOR: &str = "metis-op";
const OPERATOR_UID: u32 = 1500;

/// What the operator may do with sudo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sudo {
    /// Everything, without a password.
    #[default]
    Full,
    /// Everything, but sudo wants a password, which the operator has none of.
    Password,
    /// Nothing: not in sudoers.
    Absent,
}

/// An Ed25519 key pair of SSH.
#[derive(Debug, Clone)]
pub struct Key {
    /// The private key's file.
    pub path: PathBuf,
    /// `ssh-ed25519 AAAA...`, without comment.
    pub public: String,
    /// `SHA256:...`
    pub fingerprint: String,
}

impl Key {
    /// Makes one at `path`.
    ///
    /// # Errors
    /// Where ssh-keygen fails.
    pub fn make(path: &Path, comment: &str) -> anyhow::Result<Self> {
        let keygen = |arguments: &[&str]| -> anyhow::Result<String> {
            let out = Command::new("ssh-keygen").args(arguments).arg("-f").arg(path).stdin(Stdio::null()).output()?;
            ensure!(out.status.success(), "ssh-keygen {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
            Ok(String::from_utf8(out.stdout)?)
        };
        keygen(&["-q", "-t", "ed25519", "-N", "", "-C", comment])?;
        let public = std::fs::read_to_string(format!("{}.pub", path.display()))?;
        let public = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let fingerprint = keygen(&["-l"])?.split(' ').nth(1).context("a fingerprint")?.to_owned();
        Ok(Self { path: path.to_owned(), public, fingerprint })
    }
}

/// Writes a file below `root`, and its folders.
///
/// # Errors
/// Where it cannot be written.
pub fn put(root: &Path, path: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(path.parent().context("a folder")?)?;
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Starts the unit at boot.
///
/// # Errors
/// Where the link cannot be made.
pub fn enable(root: &Path, unit: &str, target: &str) -> anyhow::Result<()> {
    let wants = root.join(format!("etc/systemd/system/{target}.wants"));
    std::fs::create_dir_all(&wants)?;
    let real = if root.join("etc/systemd/system").join(unit).exists() { "/etc/systemd/system" } else { "/lib/systemd/system" };
    Ok(symlink(Path::new(real).join(unit), wants.join(unit))?)
}

/// Name, address, users and sshd.
pub(super) fn host(host: &Host, role: Role, key: &Key, operator: &Key, sudo: Sudo) -> anyhow::Result<()> {
    let disk = host.disk();
    put(&disk, "etc/hostname", &format!("{}\n", role.name()))?;
    put(&disk, "etc/hosts", &hosts())?;
    // The journal of an earlier boot is part of what is looked at.
    std::fs::create_dir_all(disk.join("var/log/journal"))?;
    let sshd = format!("Port {SSH_PORT}\nHostKey /etc/ssh/ssh_host_ed25519_key\nPasswordAuthentication no\nPermitRootLogin no\n");
    put(&disk, "etc/ssh/sshd_config.d/10-site.conf", &sshd)?;
    let private = put(&disk, "etc/ssh/ssh_host_ed25519_key", &std::fs::read_to_string(&key.path)?)?;
    std::fs::set_permissions(private, Permissions::from_mode(0o600))?;
    put(&disk, "etc/ssh/ssh_host_ed25519_key.pub", &format!("{}\n", key.public))?;
    enable(&disk, "ssh.service", "multi-user.target")?;
    user(host, operator, sudo)
}

/// Every host by name; not by DNS, which is down when it matters.
fn hosts() -> String {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for role in Role::ALL {
        let _ =
            writeln!(text, "{} {} {}", role.address(), role.name(), role.node().filter(|node| *node != role.name()).unwrap_or_default());
    }
    text
}

fn user(host: &Host, operator: &Key, sudo: Sudo) -> anyhow::Result<()> {
    let disk = host.disk();
    for (file, line) in [
        ("etc/passwd", format!("{OPERATOR}:x:{OPERATOR_UID}:{OPERATOR_UID}::/home/{OPERATOR}:/bin/bash\n")),
        ("etc/group", format!("{OPERATOR}:x:{OPERATOR_UID}:\n")),
        ("etc/shadow", format!("{OPERATOR}:*:20000:0:99999:7:::\n")),
    ] {
        let before = std::fs::read_to_string(host.rootfs().join(file))?;
        let path = put(&disk, file, &(before + &line))?;
        std::fs::set_permissions(path, std::fs::metadata(host.rootfs().join(file))?.permissions())?;
    }
    let home = disk.join("home").join(OPERATOR);
    let keys = put(&home, ".ssh/authorized_keys", &format!("{}\n", operator.public))?;
    for path in [&home, &home.join(".ssh"), &keys] {
        chown(path, Some(OPERATOR_UID), Some(OPERATOR_UID))?;
        // sshd wants that nobody else could have written them.
        std::fs::set_permissions(path, Permissions::from_mode(if path.is_dir() { 0o700 } else { 0o600 }))?;
    }
    let rule = match sudo {
        Sudo::Full => format!("{OPERATOR} ALL=(ALL:ALL) NOPASSWD: ALL\n"),
        Sudo::Password => format!("{OPERATOR} ALL=(ALL:ALL) ALL\n"),
        Sudo::Absent => return Ok(()),
    };
    let sudoers = put(&disk, &format!("etc/sudoers.d/{OPERATOR}"), &rule)?;
    Ok(std::fs::set_permissions(sudoers, Permissions::from_mode(0o440))?)
}
