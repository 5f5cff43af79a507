//! The API socket: passed by systemd, or bound here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, bail};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group, chown};

use crate::api;

/// The listener that systemd passed, else one bound at `api.socket` with mode 0660 and group `api.group`.
///
/// # Errors
/// Where the socket is in use or its folder cannot be written.
pub fn listener(settings: &api::Settings, passed: Option<UnixListener>) -> anyhow::Result<UnixListener> {
    if let Some(passed) = passed {
        return Ok(passed);
    }
    let path = &settings.socket;
    remove_stale(path)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {} for the API socket", folder.display()))?;
    }
    // Nobody may connect between bind and chown.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.with_context(|| format!("binding the API socket {}", path.display()))?;
    if let Some(name) = &settings.group {
        let number = name.parse().ok().map(Gid::from_raw);
        let group = number.or_else(|| Group::from_name(name).ok().flatten().map(|group| group.gid));
        let group = group.with_context(|| format!("api.group: no group {name} on this host; `systemd-sysusers metis.conf` makes it"))?;
        chown(path, None, Some(group)).with_context(|| format!("giving {} to group {name}", path.display()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).with_context(|| format!("mode of {}", path.display()))?;
    listener.set_nonblocking(true).context("API socket")?;
    Ok(listener)
}

/// Removes a socket that nobody listens on; one that answers belongs to another metisd.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    if UnixStream::connect(path).is_ok() {
        bail!("{} is in use: another metisd serves it", path.display());
    }
    fs::remove_file(path).with_context(|| format!("removing the stale socket {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(path: &Path) -> api::Settings {
        api::Settings { socket: path.to_path_buf(), group: None, roles: Vec::new() }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below").join("s.sock");
        let first = listener(&settings(&path), None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(listener(&settings(&path), None).unwrap_err().to_string().contains("another metisd"));
        drop(first);
        assert!(listener(&settings(&path), None).is_ok());
    }

    #[test]
    fn an_unknown_group_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let settings = api::Settings { group: Some("no-such-group".into()), ..settings(&folder.path().join("s")) };
        assert!(listener(&settings, None).unwrap_err().to_string().contains("no-such-group"));
    }
}
