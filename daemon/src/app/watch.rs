//! Watches the UPSes: what the NUT monitors see goes to the control loop and into the UPS history.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::problems::Problems;
use super::{daemon, topology};
use crate::config::Settings;
use crate::control::{Fact, Handle, View};
use crate::host::clock::Clock;
use crate::journal::{Transition, UpsHistory};
use crate::power::Observation;
use crate::power::nut::{Held, Holding, Monitor};
use crate::secrets;
use crate::site::{Secret, UpsName};

/// What the watch is made of.
pub struct PowerWatch {
    /// Settings in force, now and later.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Where observations go.
    pub handle: Handle,
    /// Where samples go.
    pub history: UpsHistory,
    /// Where passwords are kept.
    pub secrets: secrets::Context,
    /// What is wrong.
    pub problems: Problems,
    /// This host's clock.
    pub clock: Clock,
    /// Logins that are held.
    pub held: Held,
}

impl PowerWatch {
    /// Watches until `stop`; new settings start the monitors anew.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let settings = self.settings.borrow_and_update().clone();
            let (sender, observations) = mpsc::channel(64);
            let ended = stop.child_token();
            let monitor = self.monitor(&settings, sender, ended.clone()).await;
            let forward = forward(self.handle.clone(), self.history.clone(), self.clock.clone(), observations);
            let armed = self.handle.view().armed();
            tokio::select! {
                () = forward => {}
                () = until_armed(self.handle.views(), !armed) => {}
                changed = self.settings.changed() => if changed.is_err() { stop.cancelled().await },
                () = stop.cancelled() => {}
            }
            ended.cancel();
            join(monitor).await;
        }
    }

    /// An armed metis logs in to the UPSes that feed this host, as upsmon(8) does: whoever is their primary waits for it.
    fn holding(&self, settings: &Settings) -> Holding {
        let this = topology::this_host(settings, &daemon::host_name());
        let upses = this.filter(|_| self.handle.view().armed()).map(|node| settings.power.feeding(&node)).unwrap_or_default();
        Holding { upses, held: self.held.clone() }
    }

    /// Starts the monitors; what keeps them from starting is shown as a problem.
    async fn monitor(&self, settings: &Arc<Settings>, to: mpsc::Sender<Observation>, stop: CancellationToken) -> Option<JoinHandle<()>> {
        let (passwords, mut problems) = passwords(settings, &self.secrets).await;
        let task = match Monitor::new(&settings.power, &passwords, &self.holding(settings)) {
            Ok(monitor) => {
                let shown = self.problems.clone();
                Some(tokio::spawn(async move {
                    if let Err(error) = monitor.run(to, stop).await {
                        shown.set("monitor", vec![format!("UPSes are not watched any more: {error}; restart metisd")]);
                    }
                }))
            }
            Err(error) => {
                problems.push(format!("UPSes are not watched: {error}"));
                None
            }
        };
        self.problems.set("power", problems);
        task
    }
}

/// Armed or disarmed from now on; never, once the control loop has ended.
async fn until_armed(mut views: watch::Receiver<Arc<View>>, armed: bool) {
    if views.wait_for(|view| view.started.is_some() && view.armed() == armed).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Never ends: without monitors there is nothing to forward until the settings change.
async fn forward(handle: Handle, history: UpsHistory, clock: Clock, mut from: mpsc::Receiver<Observation>) {
    while let Some(observation) = from.recv().await {
        if let Ok(reading) = &observation.result {
            history.record(&clock.now(), &observation.ups, reading);
        }
        handle.observe(observation).await;
    }
    std::future::pending::<()>().await;
}

async fn passwords(settings: &Arc<Settings>, context: &secrets::Context) -> (BTreeMap<UpsName, Secret>, Vec<String>) {
    let (settings, context) = (Arc::clone(settings), context.clone());
    let resolve = move || {
        let (mut found, mut problems) = (BTreeMap::new(), Vec::new());
        for ups in &settings.power.upses {
            match ups.password.as_ref().map(|reference| secrets::resolve(reference, &context)) {
                Some(Ok(secret)) => drop(found.insert(ups.name.clone(), secret)),
                Some(Err(error)) => problems.push(format!("password of {}: {error}", ups.name)),
                None => {}
            }
        }
        (found, problems)
    };
    let resolved = tokio::task::spawn_blocking(resolve).await;
    resolved.unwrap_or_else(|error| (BTreeMap::new(), vec![format!("passwords of UPSes: {error}")]))
}

async fn join(task: Option<JoinHandle<()>>) {
    if let Some(task) = task
        && let Err(error) = task.await
    {
        tracing::error!(%error, "the task that watches UPSes was lost");
    }
}

/// Records every change of verdict in the UPS history, until the control loop has ended.
pub async fn transitions(handle: Handle, history: UpsHistory) {
    let mut facts = handle.subscribe();
    drop(handle);
    loop {
        let told = match facts.recv().await {
            Ok(told) => told,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "the UPS history fell behind; some transitions are in the journal only");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let (name, from, to, reason) = match &told.fact {
            Fact::UpsChanged { ups, from, to, reason } => (ups.to_string(), *from, *to, reason.clone()),
            Fact::DomainChanged { domain, from, to, reason } => (domain.to_string(), *from, *to, reason.clone()),
            _ => continue,
        };
        history.transition(Transition { at: told.stamp.now.wall, name, from, to, reason });
    }
}
