//! Settings: read at the start and at SIGHUP, checked first; the last good ones serve where the present ones cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::args::DaemonArguments;
use super::daemon::resolve_roles;
use super::problems::Problems;
use super::world::World;
use crate::api::RoleTable;
use crate::config::{self, Settings};
use crate::control::{Adopted, Event, Handle};

/// Settings to begin with.
pub struct Loaded {
    /// In force.
    pub settings: Arc<Settings>,
    /// Errors of those on disk, where the last good ones are in force instead.
    pub rejected: Vec<String>,
}

/// Reads the settings; where they are wrong, the last good ones below `state_dir`.
///
/// # Errors
/// All mistakes, where there are no last good ones either.
pub fn load(arguments: &DaemonArguments, state_dir: &Path) -> Result<Loaded, Vec<String>> {
    let errors = match config::load(&arguments.config, arguments.inventory.as_deref()) {
        Ok(settings) => {
            return Ok(Loaded { settings: Arc::new(settings), rejected: Vec::new() });
        }
        Err(diagnostics) => diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>(),
    };
    let kept = LastGood::below(state_dir);
    match config::load(&kept.main(), Some(&kept.inventory())) {
        Ok(settings) => Ok(Loaded { settings: Arc::new(settings), rejected: errors }),
        Err(_) => Err(errors),
    }
}

/// What the control loop records of settings.
pub fn adopted(settings: &Settings) -> Adopted {
    Adopted {
        digest: settings.digest.clone(),
        files: settings.files.iter().map(|f| f.display().to_string()).collect(),
        on_trigger: settings.power.on_trigger,
        on_boot: settings.cluster.startup.on_boot,
    }
}

/// Copies of the files of the last good settings, `<state_dir>/last-good-config/`.
pub struct LastGood {
    folder: PathBuf,
}

impl LastGood {
    /// Below that state directory.
    pub fn below(state_dir: &Path) -> Self {
        Self { folder: state_dir.join("last-good-config") }
    }

    fn main(&self) -> PathBuf {
        self.folder.join("metis.yaml")
    }

    fn inventory(&self) -> PathBuf {
        self.folder.join("inventory.yaml")
    }

    /// Keeps copies of the files that `settings` were read from; the ones before stay until the new ones are complete.
    ///
    /// # Errors
    /// Where the state directory cannot be written.
    pub fn keep(&self, settings: &Settings) -> std::io::Result<()> {
        let [main, fragments @ .., inventory] = settings.files.as_slice() else { return Ok(()) };
        if main.starts_with(&self.folder) {
            return Ok(());
        }
        let (new, old) = (self.folder.with_extension("new"), self.folder.with_extension("old"));
        let _ = fs::remove_dir_all(&new);
        fs::create_dir_all(new.join("metis.d"))?;
        fs::copy(main, new.join("metis.yaml"))?;
        fs::copy(inventory, new.join("inventory.yaml"))?;
        for fragment in fragments {
            if let Some(name) = fragment.file_name() {
                fs::copy(fragment, new.join("metis.d").join(name))?;
            }
        }
        let _ = fs::remove_dir_all(&old);
        let _ = fs::rename(&self.folder, &old);
        fs::rename(&new, &self.folder)?;
        let _ = fs::remove_dir_all(&old);
        Ok(())
    }
}

/// What a reload touches.
pub struct Reload {
    /// Where the files are.
    pub arguments: DaemonArguments,
    /// Settings in force.
    pub settings: watch::Sender<Arc<Settings>>,
    /// Roles in force.
    pub roles: watch::Sender<Arc<RoleTable>>,
    /// Where runs find the settings that they are pinned to.
    pub world: Arc<World>,
    /// The control loop.
    pub handle: Handle,
    /// What is wrong.
    pub problems: Problems,
}

impl Reload {
    /// Checks the settings on disk and brings them into force, or says what is wrong with them and changes nothing.
    pub async fn reload(&self) {
        let (config, inventory) = (self.arguments.config.clone(), self.arguments.inventory.clone());
        let read = tokio::task::spawn_blocking(move || config::load(&config, inventory.as_deref())).await;
        let errors = match read {
            Ok(Ok(settings)) => return self.adopt(Arc::new(settings)).await,
            Ok(Err(diagnostics)) => diagnostics.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        self.handle.send(Event::SettingsRejected { errors }).await;
    }

    async fn adopt(&self, settings: Arc<Settings>) {
        let before = self.settings.borrow().clone();
        self.problems.set("reload", needs_restart(&before, &settings));
        self.problems.set_role(settings.daemon.host_role.as_str());
        self.world.adopt(Arc::clone(&settings));
        self.roles.send_replace(resolve_roles(&settings, &self.problems).await);
        self.settings.send_replace(Arc::clone(&settings));
        self.handle.adopt(adopted(&settings), Arc::new(settings.power.clone())).await;
        keep(&settings, &self.problems).await;
    }
}

/// How long copying the configuration may take.
const KEEP_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Keeps the settings for a start at which those on disk are wrong.
pub async fn keep(settings: &Arc<Settings>, problems: &Problems) {
    problems.set("remarks", settings.remarks.iter().map(ToString::to_string).collect());
    let settings = Arc::clone(settings);
    let keeping = tokio::task::spawn_blocking(move || LastGood::below(&settings.daemon.state_dir).keep(&settings));
    // A disk that hangs must hold neither the start nor a reload.
    let Ok(kept) = tokio::time::timeout(KEEP_WITHIN, keeping).await else {
        return problems
            .set("last-good", vec!["the last good configuration could not be kept yet: the state directory does not answer".to_owned()]);
    };
    let problem = match kept {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            Some(format!("the last good configuration could not be kept: {error} (once that is mended: systemctl reload metisd)"))
        }
        Err(error) => Some(format!("the last good configuration could not be kept: {error}")),
    };
    problems.set("last-good", problem.into_iter().collect());
}

/// What a running daemon cannot change.
fn needs_restart(before: &Settings, after: &Settings) -> Vec<String> {
    let changed = [
        ("daemon.state_dir", before.daemon.state_dir != after.daemon.state_dir),
        ("daemon.runtime_dir", before.daemon.runtime_dir != after.daemon.runtime_dir),
        ("daemon.log_level", before.daemon.log_level != after.daemon.log_level),
        ("api.socket", before.api.socket != after.api.socket),
        ("api.group", before.api.group != after.api.group),
    ];
    let keys: Vec<_> = changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect();
    if keys.is_empty() {
        Vec::new()
    } else {
        vec![format!("{} changed: it comes into force with `systemctl restart metisd`", keys.join(", "))]
    }
}
