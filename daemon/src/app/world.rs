//! What performing steps and answering questions needs at hand.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

use super::parts::{MakeParts, Parts};
use crate::api::port::ImagePipe;
use crate::card::Prepared;
use crate::card::device::Writer;
use crate::card::image::Store;
use crate::cluster::port::Facts;
use crate::config::Settings;
use crate::journal::{BlobId, Blobs};
use crate::peer::Desk;
use crate::power::outlets;
use crate::secrets;
use crate::site::{NodeName, Now, RunId, SettingsDigest, StepId, UpsName};

/// Settings that runs may still be pinned to.
const SETTINGS_KEPT: usize = 16;
/// Versions of the settings whose connections are kept.
const PARTS_KEPT: usize = 2;

/// The real world.
pub struct World {
    settings: watch::Receiver<Arc<Settings>>,
    recent: Mutex<Vec<Arc<Settings>>>,
    hands: Mutex<HashMap<RunId, Hand>>,
    parts: tokio::sync::Mutex<Vec<(SettingsDigest, Arc<Parts>)>>,
    make_parts: Arc<MakeParts>,
    clock: Arc<dyn Fn() -> Now + Send + Sync>,
    /// Runs whose word for the shutdown hook was taken back.
    withdrawn: Arc<Mutex<BTreeSet<RunId>>>,
    desk: Mutex<Desk>,
    /// Where this host keeps secrets.
    pub secrets: secrets::Context,
    /// This host's name.
    pub host_name: String,
}

/// What a run has in hand between its steps.
#[derive(Default)]
struct Hand {
    card: Option<Prepared>,
    pipe: Option<ImagePipe>,
    wanted: Option<oneshot::Sender<ImagePipe>>,
    facts: Option<Arc<Facts>>,
    /// What was repaired, or tried to be: once per cause.
    remedied: BTreeSet<String>,
    /// Hosts that were not reached, each with the step in which it was tried first.
    unreached: BTreeMap<NodeName, StepId>,
}

impl World {
    /// With the settings in force, now and later.
    pub fn new(
        settings: watch::Receiver<Arc<Settings>>,
        secrets: secrets::Context,
        make_parts: Arc<MakeParts>,
        clock: Arc<dyn Fn() -> Now + Send + Sync>,
        host_name: String,
    ) -> Self {
        let recent = Mutex::new(vec![settings.borrow().clone()]);
        Self {
            settings,
            recent,
            hands: Mutex::default(),
            parts: tokio::sync::Mutex::default(),
            make_parts,
            clock,
            withdrawn: Arc::default(),
            desk: Mutex::default(),
            secrets,
            host_name,
        }
    }

    /// The moment.
    pub fn now(&self) -> Now {
        (self.clock)()
    }

    /// What is known of the other metis host.
    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        locked(&self.desk)
    }

    /// The settings in force, and every change of them.
    pub fn settings_changes(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.clone()
    }

    /// Through what the site is changed, by the settings in force.
    pub async fn parts(&self) -> Arc<Parts> {
        self.parts_for(self.settings()).await
    }

    /// The same by the settings to which a run is pinned.
    pub async fn parts_of(&self, digest: &SettingsDigest) -> Arc<Parts> {
        self.parts_for(self.pinned(digest)).await
    }

    async fn parts_for(&self, settings: Arc<Settings>) -> Arc<Parts> {
        let mut made = self.parts.lock().await;
        if let Some((_, parts)) = made.iter().find(|(digest, _)| *digest == settings.digest) {
            return Arc::clone(parts);
        }
        let digest = settings.digest.clone();
        let parts = Arc::new((self.make_parts)(settings).await);
        // A kubeconfig that could not be read is read again by whoever needs it next.
        if parts.cluster.is_ok() {
            // Connections of settings that nobody uses any more are closed with them.
            let surplus = made.len().saturating_sub(PARTS_KEPT - 1);
            made.drain(..surplus);
            made.push((digest, Arc::clone(&parts)));
        }
        parts
    }

    /// What was seen of the cluster in that run.
    pub fn facts(&self, run: &RunId) -> Option<Arc<Facts>> {
        locked(&self.hands).get(run).and_then(|hand| hand.facts.clone())
    }

    /// Keeps it for the run's next steps.
    pub fn keep_facts(&self, run: &RunId, facts: Arc<Facts>) {
        locked(&self.hands).entry(run.clone()).or_default().facts = Some(facts);
    }

    /// Stores it beside the journal; its name.
    ///
    /// # Errors
    /// The disk did not take it.
    pub async fn store_facts(&self, facts: &Facts) -> Result<String, String> {
        let text = serde_json::to_vec(facts).map_err(|error| format!("what was seen of the cluster, as JSON: {error}"))?;
        let blobs = Blobs::new(&self.settings().daemon.state_dir);
        let stored = tokio::task::spawn_blocking(move || blobs.put(&text)).await.map_err(|error| error.to_string())?;
        stored.map(|id| id.as_str().to_owned()).map_err(|error| error.to_string())
    }

    /// Reads it again, by its name.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn load_facts(&self, blob: &str) -> Result<Facts, String> {
        let (id, blobs) = (BlobId::try_from(blob.to_owned())?, Blobs::new(&self.settings().daemon.state_dir));
        let read = tokio::task::spawn_blocking(move || blobs.get(&id)).await.map_err(|error| error.to_string())?;
        let text = read.map_err(|error| error.to_string())?.ok_or_else(|| format!("blob {blob} is not there"))?;
        serde_json::from_slice(&text).map_err(|error| format!("blob {blob}: {error}"))
    }

    /// Leaves word for the shutdown hook.
    ///
    /// # Errors
    /// The file could not be written, or the word of that run was taken back already.
    pub async fn cut_outlets(&self, run: &RunId, upses: &BTreeSet<UpsName>) -> Result<String, String> {
        let (folder, upses, now) = (self.settings().daemon.runtime_dir.clone(), upses.clone(), self.now());
        let (run, withdrawn) = (run.clone(), Arc::clone(&self.withdrawn));
        let leave = move || {
            let withdrawn = locked(&withdrawn);
            if withdrawn.contains(&run) {
                return Err(format!("{run} has ended, and this host stays on"));
            }
            outlets::leave(&folder, &upses, &now).map_err(|error| error.to_string())
        };
        let left = tokio::task::spawn_blocking(leave).await.map_err(|error| error.to_string())?;
        left.map(|path| format!("word for the shutdown hook is in {}", path.display()))
    }

    /// Takes back what that run told the shutdown hook, also what is only about to be written.
    ///
    /// # Errors
    /// The file could not be removed.
    pub async fn withdraw_outlets(&self, run: &RunId) -> Result<(), String> {
        let (folder, run, withdrawn) = (self.settings().daemon.runtime_dir.clone(), run.clone(), Arc::clone(&self.withdrawn));
        let withdraw = move || {
            let mut withdrawn = locked(&withdrawn);
            withdrawn.insert(run);
            outlets::withdraw(&folder).map_err(|error| error.to_string())
        };
        tokio::task::spawn_blocking(withdraw).await.map_err(|error| error.to_string())?
    }

    /// Notes that a host was not reached in that step; whether that is so since an earlier step of the run.
    pub fn unreached(&self, run: &RunId, step: &StepId, host: &NodeName) -> bool {
        let mut hands = locked(&self.hands);
        let hand = hands.entry(run.clone()).or_default();
        *hand.unreached.entry(host.clone()).or_insert_with(|| step.clone()) != *step
    }

    /// Notes that a host was reached.
    pub fn reached(&self, run: &RunId, host: &NodeName) {
        if let Some(hand) = locked(&self.hands).get_mut(run) {
            hand.unreached.remove(host);
        }
    }

    /// Notes that this cause was dealt with in that run, whatever came of it.
    pub fn remedied(&self, run: &RunId, cause: String) {
        locked(&self.hands).entry(run.clone()).or_default().remedied.insert(cause);
    }

    /// Whether it was.
    pub fn is_remedied(&self, run: &RunId, cause: &str) -> bool {
        locked(&self.hands).get(run).is_some_and(|hand| hand.remedied.contains(cause))
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
