//! What performing steps and answering questions needs at hand.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::api::port::ImagePipe;
use crate::card::Prepared;
use crate::card::device::Writer;
use crate::card::image::Store;
use crate::config::Settings;
use crate::secrets;
use crate::site::{RunId, SettingsDigest};

/// Settings that runs may still be pinned to.
const SETTINGS_KEPT: usize = 16;

/// The real world.
pub struct World {
    settings: watch::Receiver<Arc<Settings>>,
    recent: Mutex<Vec<Arc<Settings>>>,
    hands: Mutex<HashMap<RunId, Hand>>,
    /// Where this host keeps secrets.
    pub secrets: secrets::Context,
}

/// What a run has in hand between its steps.
#[derive(Default)]
struct Hand {
    card: Option<Prepared>,
    pipe: Option<ImagePipe>,
    wanted: Option<oneshot::Sender<ImagePipe>>,
}

impl World {
    /// With the settings in force, now and later.
    pub fn new(settings: watch::Receiver<Arc<Settings>>, secrets: secrets::Context) -> Self {
        let recent = Mutex::new(vec![settings.borrow().clone()]);
        Self { settings, recent, hands: Mutex::default(), secrets }
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// Settings that came into force: runs may be pinned to them from now on.
    pub fn adopt(&self, settings: Arc<Settings>) {
        let mut recent = locked(&self.recent);
        recent.retain(|s| s.digest != settings.digest);
        recent.push(settings);
        let surplus = recent.len().saturating_sub(SETTINGS_KEPT);
        recent.drain(..surplus);
    }

    /// The settings of that digest; the ones in force where they are gone (after a restart a run is not continued, so nothing is pinned).
    pub fn pinned(&self, digest: &SettingsDigest) -> Arc<Settings> {
        locked(&self.recent).iter().find(|s| s.digest == *digest).cloned().unwrap_or_else(|| self.settings())
    }

    /// The image cache of these settings.
    pub fn store(settings: &Settings) -> Store {
        Store::new(settings.card.clone())
    }

    /// The card writer of these settings.
    pub fn writer(settings: &Settings) -> Writer {
        Writer::new(&settings.card)
    }

    /// Keeps a prepared card for the run's next step.
    pub fn keep_card(&self, run: &RunId, card: Prepared) {
        locked(&self.hands).entry(run.clone()).or_default().card = Some(card);
    }

    /// The run's prepared card.
    pub fn card(&self, run: &RunId) -> Option<Prepared> {
        locked(&self.hands).get(run).and_then(|hand| hand.card.clone())
    }

    /// The caller's end of the run, handed over by the API.
    pub fn attach(&self, run: &RunId, pipe: ImagePipe) {
        let mut hands = locked(&self.hands);
        let hand = hands.entry(run.clone()).or_default();
        match hand.wanted.take() {
            Some(wanted) => drop(wanted.send(pipe)),
            None => hand.pipe = Some(pipe),
        }
    }

    /// The caller's end of the run, as soon as it is there.
    pub fn pipe(&self, run: &RunId) -> oneshot::Receiver<ImagePipe> {
        let (sender, receiver) = oneshot::channel();
        let mut hands = locked(&self.hands);
        let hand = hands.entry(run.clone()).or_default();
        match hand.pipe.take() {
            Some(pipe) => drop(sender.send(pipe)),
            None => hand.wanted = Some(sender),
        }
        receiver
    }

    /// The run has ended: nothing of it is in hand any more.
    pub fn forget(&self, run: &RunId) {
        locked(&self.hands).remove(run);
    }
}

/// No holder of these locks panics with the value half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where systemd put this unit's credentials.
pub fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}
