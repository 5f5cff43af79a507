//! The way into the mailbox, and the way to what it publishes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{Adopted, Event, Reply, Request, StepProgress, Told, View};
use crate::power::{self, Observation};
use crate::site::{DomainName, RunId};

/// A request that is not answered within this time is given up.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why a request brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// The loop has ended.
    #[error("metisd is stopping")]
    Stopped,
    /// The loop hangs; the request may still be served.
    #[error("metisd's control loop did not answer within {} s: look at `journalctl -u metisd`", ANSWER_WITHIN.as_secs())]
    Hangs,
}

/// What arrives in the mailbox.
#[derive(Debug)]
pub(super) enum Letter {
    /// An event.
    Event(Event),
    /// A request and where its answer goes.
    Ask(Request, oneshot::Sender<Reply>),
    /// A poll of a UPS.
    Observed(Observation),
    /// Budgets that were learned, by power domain.
    Budgets(BTreeMap<DomainName, Duration>),
    /// A reload: the settings, and the section that the loop works with.
    Adopt(Adopted, Arc<power::Settings>),
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) letters: mpsc::Sender<Letter>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) told: broadcast::Sender<Arc<Told>>,
}

impl Handle {
    /// Asks, and waits for the answer.
    pub async fn request(&self, request: Request) -> Result<Reply, HandleError> {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            self.letters.send(Letter::Ask(request, answer)).await.map_err(|_| HandleError::Stopped)?;
            answered.await.map_err(|_| HandleError::Stopped)
        };
        tokio::time::timeout(ANSWER_WITHIN, exchange).await.unwrap_or(Err(HandleError::Hangs))
    }

    /// Tells what happened; waits while the mailbox is full. After the loop's end it goes nowhere.
    pub async fn send(&self, event: Event) {
        let _ = self.letters.send(Letter::Event(event)).await;
    }

    /// Hands in a poll of a UPS.
    pub async fn observe(&self, observation: Observation) {
        let _ = self.letters.send(Letter::Observed(observation)).await;
    }

    /// Brings new settings into force: runs that are under way keep theirs, UPSes that stay are not forgotten.
    pub async fn adopt(&self, settings: Adopted, power: Arc<power::Settings>) {
        let _ = self.letters.send(Letter::Adopt(settings, power)).await;
    }

    /// Hands in what shutdowns are taken to need, by power domain; others need what is configured.
    pub async fn budgets(&self, budgets: BTreeMap<DomainName, Duration>) {
        let _ = self.letters.send(Letter::Budgets(budgets)).await;
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Every view from now on; a slow reader misses some, never the newest.
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Every fact from now on. Who falls behind is told so and takes the missing ones from the journal's reader.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Told>> {
        self.told.subscribe()
    }

    /// Byte progress of a run that is under way.
    pub fn progress(&self, run: &RunId) -> Option<watch::Receiver<Option<StepProgress>>> {
        self.view.borrow().progress.get(run).cloned()
    }
}
