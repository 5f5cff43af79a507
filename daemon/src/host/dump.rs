//! Saving the datastore as root on this host: the unit that does it, what it runs, and whether only root has a say in that.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// What metisd asks for where this host's datastore is to be saved; [`UNIT`] stands for it.
pub const COMMAND: [&str; 2] = ["metisd", "datastore-dump"];
/// Runs [`COMMAND`] as root.
pub const UNIT: &str = "metis-datastore-dump.service";
/// The configuration that the unit reads.
pub const CONFIG: &str = "/etc/metis/metis.yaml";

/// Where systemd looks for units, in this order (systemd.unit(5)).
const UNIT_FOLDERS: [&str; 5] =
    ["etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];

/// Why the unit cannot be started; `None`: its file is there. Looks below `root`, which is `/`. Blocks.
pub fn unit_trouble(root: &Path) -> Option<String> {
    let mut places = UNIT_FOLDERS.iter().map(|folder| root.join(folder).join(UNIT));
    match places.find(|path| path.symlink_metadata().is_ok()) {
        None => Some(format!("{UNIT} is not installed")),
        Some(path) if fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null")) => {
            Some(format!("{UNIT} is masked; unmask it with `systemctl unmask {UNIT}`"))
        }
        Some(_) => None,
    }
}

/// Who else than root could change what a file says, by the file or a folder above it; `None`: nobody. Blocks.
pub fn shared_with(path: &Path) -> Option<String> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) => return Some(format!("{} cannot be looked at: {error}", path.display())),
    };
    // Folders above the name too: a link in one of them leads wherever who may write there wants.
    let named = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    real.ancestors().chain(named).find_map(|part| {
        let meta = match fs::metadata(part) {
            Ok(meta) => meta,
            Err(error) => return Some(format!("{} cannot be looked at: {error}", part.display())),
        };
        let (owner, mode) = (meta.uid(), meta.mode());
        let group = mode & 0o020 != 0 && meta.gid() != 0;
        let part = part.display();
        if owner != 0 {
            return Some(format!("{part} belongs to uid {owner}: chown root {part}"));
        }
        let open = group || mode & 0o002 != 0;
        open.then(|| format!("{part} may be written by others than root (mode {:o}): chmod go-w {part}", mode & 0o7777))
    })
}

/// A command of root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootCommand {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// What it came to counts; else its failure is only told.
    pub matters: bool,
}

/// Runs them one after the other, with this process' own outputs. Blocks until the last has ended.
///
/// # Errors
/// One that matters could not be started, or ended with another status than 0.
#[allow(clippy::disallowed_methods, reason = "the adapter that runs commands as root on this host, below its unit")]
pub fn run_as_root(commands: &[RootCommand]) -> anyhow::Result<()> {
    for command in commands {
        let shown = command.argv.join(" ");
        let Some((program, arguments)) = command.argv.split_first() else { continue };
        let ended = std::process::Command::new(program).args(arguments).stdin(std::process::Stdio::null()).status();
        let done = ended.with_context(|| format!("`{shown}` cannot be started")).and_then(|status| {
            ensure!(status.success(), "`{shown}` ended with {status}");
            Ok(())
        });
        match done {
            Err(error) if command.matters => return Err(error),
            Err(error) => tracing::warn!("{error:#}"),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The file that the unit reads, as far as it is known by that name.
pub fn is_units_config(path: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    real(path) == real(Path::new(CONFIG))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    #[test]
    fn a_unit_is_there_masked_or_missing() {
        let root = tempfile::tempdir().unwrap();
        let shipped = root.path().join("usr/lib/systemd/system");
        fs::create_dir_all(&shipped).unwrap();
        assert_eq!(unit_trouble(root.path()).as_deref(), Some("metis-datastore-dump.service is not installed"));
        fs::write(shipped.join(UNIT), "[Service]\n").unwrap();
        assert_eq!(unit_trouble(root.path()), None);
        let own = root.path().join("etc/systemd/system");
        fs::create_dir_all(&own).unwrap();
        symlink("/dev/null", own.join(UNIT)).unwrap();
        assert!(unit_trouble(root.path()).unwrap().contains("is masked"));
    }

    #[test]
    fn a_file_is_roots_alone_only_with_all_folders_above_it() {
        if !nix::unistd::geteuid().is_root() {
            return crate::host::testing::missing("whose files are root's: needs root");
        }
        // Below /tmp nothing is: everybody may write there.
        let root = tempfile::tempdir_in("/root").unwrap();
        let folder = root.path().join("metis");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("metis.yaml");
        fs::write(&file, "").unwrap();
        let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&folder, 0o750);
        mode(&file, 0o640);
        assert_eq!(shared_with(&file), None);
        mode(&file, 0o666);
        assert!(shared_with(&file).unwrap().contains("metis.yaml may be written by others than root (mode 666)"));
        mode(&file, 0o660);
        assert_eq!(shared_with(&file), None, "group root");
        chown(&file, None, Some(1)).unwrap();
        assert!(shared_with(&file).is_some());
        mode(&file, 0o640);
        chown(&file, Some(1), None).unwrap();
        assert!(shared_with(&file).unwrap().contains("belongs to uid 1"));
        chown(&file, Some(0), None).unwrap();
        assert_eq!(shared_with(&file), None);
        mode(&folder, 0o757);
        assert!(shared_with(&file).unwrap().contains("chmod go-w"));
        mode(&folder, 0o750);
        // A link from a folder of somebody else.
        let elsewhere = root.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&file, elsewhere.join("link")).unwrap();
        assert_eq!(shared_with(&elsewhere.join("link")), None);
        chown(&elsewhere, Some(1), None).unwrap();
        assert!(shared_with(&elsewhere.join("link")).unwrap().contains("elsewhere belongs to uid 1"));
        assert!(shared_with(&folder.join("gone")).is_some());
    }

    #[test]
    fn what_matters_decides() {
        let command = |script: &str, matters| RootCommand { argv: ["sh", "-c", script].map(str::to_owned).to_vec(), matters };
        run_as_root(&[command("exit 0", true), command("exit 1", false)]).unwrap();
        let error = run_as_root(&[command("exit 3", true), command("exit 0", true)]).unwrap_err();
        assert!(error.to_string().contains("ended with exit status: 3"), "{error:#}");
        let gone = RootCommand { argv: vec!["/no/such/program".to_owned()], matters: true };
        assert!(run_as_root(&[gone]).unwrap_err().to_string().contains("cannot be started"));
    }
}
