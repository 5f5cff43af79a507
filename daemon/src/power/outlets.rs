//! Word for the shutdown hook (`systemd/system-shutdown/metis`) that UPSes shall cut and restore their outlets once this host has halted.
//!
//! The hook believes the file for this boot and for a while only: an order that was left behind, because the power-off that it belonged to
//! never came, must not cut the outlets when somebody powers the host off for another reason.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::nut::Target;
use crate::site::{Now, UpsName};

/// Where the hook looks; `daemon.runtime_dir` has to be its folder.
pub const FLAG: &str = "/run/metis/cut-outlets";
/// The file's name below `daemon.runtime_dir`.
const NAME: &str = "cut-outlets";
/// For so long after it was left the hook believes it: longer than a host takes to stop (units are given 90 s each, systemd-system.conf(5)).
pub const VALID_FOR: Duration = Duration::from_mins(20);

/// Why no word was left.
#[derive(Debug, thiserror::Error)]
pub enum OutletsError {
    /// Not a name that `upsdrvctl` could be given.
    #[error("{0} cannot be named to upsdrvctl(8): only letters, digits, '.', '_' and '-' are taken")]
    Name(UpsName),
    /// Nothing to cut.
    #[error("no UPS was named whose outlets shall be cut")]
    Nothing,
    /// The file.
    #[error("{path} cannot be written: {source}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Pure: what the file says, read by the hook line by line as `key=value`.
///
/// # Errors
/// [`OutletsError::Name`], [`OutletsError::Nothing`].
pub fn flag(upses: &BTreeSet<UpsName>, now: &Now) -> Result<String, OutletsError> {
    if upses.is_empty() {
        return Err(OutletsError::Nothing);
    }
    let until = now.boot.saturating_add(VALID_FOR).as_secs();
    let mut text = format!("boot_id={}\nuntil={until}\n", now.boot_id);
    for name in upses {
        let ups = name.as_str().parse::<Target>().map(|target| target.ups).ok().filter(|ups| is_plain(ups));
        text.push_str("ups=");
        text.push_str(&ups.ok_or_else(|| OutletsError::Name(name.clone()))?);
        text.push('\n');
    }
    Ok(text)
}

/// As the hook takes them: it runs as root, and this file does not belong to root.
fn is_plain(ups: &str) -> bool {
    !ups.starts_with('-') && ups.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Leaves the word in `runtime_dir`, whole or not at all, on stable storage. Blocks.
///
/// # Errors
/// [`OutletsError`].
pub fn leave(runtime_dir: &Path, upses: &BTreeSet<UpsName>, now: &Now) -> Result<PathBuf, OutletsError> {
    let text = flag(upses, now)?;
    let path = runtime_dir.join(NAME);
    let beside = runtime_dir.join(format!(".{NAME}.new"));
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, &path))
        .and_then(|()| File::open(runtime_dir)?.sync_all());
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(OutletsError::Io { path, source }),
    }
}

/// Takes the word back, where it was left. Blocks.
///
/// # Errors
/// [`OutletsError::Io`].
pub fn withdraw(runtime_dir: &Path) -> Result<(), OutletsError> {
    let path = runtime_dir.join(NAME);
    match fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OutletsError::Io { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::BootId;

    fn now() -> Now {
        let boot = Duration::from_millis(5_000_900);
        Now { wall: jiff::Timestamp::UNIX_EPOCH, boot, boot_id: BootId::new("0d7d-42"), synced: true }
    }

    fn names(names: &[&str]) -> BTreeSet<UpsName> {
        names.iter().map(|name| UpsName::from(*name)).collect()
    }

    #[test]
    fn the_hook_is_told_which_boot_for_how_long_and_which_upses() {
        let text = flag(&names(&["pyrphoros@localhost", "b-2@127.0.0.1:13493"]), &now()).unwrap();
        assert_eq!(text, "boot_id=0d7d-42\nuntil=6200\nups=b-2\nups=pyrphoros\n");
    }

    #[test]
    fn what_a_root_shell_should_not_read_is_refused() {
        for name in ["-k@h", "a b@h", "a$(id)@h", "a\nups=b@h", "ups", "ä@h", "a/b@h", ""] {
            assert!(matches!(flag(&names(&[name]), &now()), Err(OutletsError::Name(_))), "{name:?}");
        }
        assert!(matches!(flag(&names(&[]), &now()), Err(OutletsError::Nothing)));
    }

    #[test]
    fn word_is_left_replaced_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        withdraw(dir.path()).unwrap();
        let path = leave(dir.path(), &names(&["a@h"]), &now()).unwrap();
        leave(dir.path(), &names(&["b@h"]), &now()).unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("\nups=b\n"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        withdraw(dir.path()).unwrap();
        assert!(!path.exists());
        let gone = dir.path().join("gone");
        let error = leave(&gone, &names(&["a@h"]), &now()).unwrap_err().to_string();
        assert!(error.contains("gone/cut-outlets cannot be written: No such file"), "{error}");
    }

    #[test]
    fn the_hook_looks_where_the_shipped_configuration_leaves_it() {
        assert_eq!(Path::new(FLAG), Path::new("/run/metis").join(NAME));
        let hook = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/system-shutdown/metis")).unwrap();
        assert!(hook.contains(&format!("flag={FLAG}\n")), "{hook}");
    }
}
