//! What a shutdown of each power domain is taken to need, from what real ones took.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::parts::Parts;
use super::world::World;
use crate::cluster::port::Facts;
use crate::cluster::{ShutdownOrder, shutdown};
use crate::config::Settings;
use crate::control::Handle;
use crate::power::budget;
use crate::site::{DomainName, Learned, OnTrigger, Step};

/// Tells the control loop, whenever something was learned or the settings changed.
pub async fn keep(world: Arc<World>, handle: Handle, mut settings: watch::Receiver<Arc<Settings>>, stop: CancellationToken) {
    let mut views = handle.views();
    let mut told = None;
    loop {
        let (learned, armed) = {
            let view = views.borrow_and_update();
            (view.learned.clone(), view.on_trigger())
        };
        let current = settings.borrow_and_update().clone();
        let seen = (learned, armed, current.digest.clone());
        if told.as_ref() != Some(&seen) {
            let parts = world.parts().await;
            handle.budgets(of_domains(&current, &parts, &seen.0, armed)).await;
            told = Some(seen);
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return stop.cancelled().await },
            changed = settings.changed() => if changed.is_err() { return stop.cancelled().await },
            () = stop.cancelled() => return,
        }
    }
}

/// Domains whose whole plan was measured.
fn of_domains(settings: &Settings, parts: &Parts, learned: &Learned, armed: OnTrigger) -> BTreeMap<DomainName, Duration> {
    let domains = settings.power.domains.iter().map(|domain| &domain.name);
    domains.filter_map(|domain| Some((domain.clone(), of_domain(settings, parts, learned, armed, domain)?))).collect()
}

fn of_domain(settings: &Settings, parts: &Parts, learned: &Learned, armed: OnTrigger, domain: &DomainName) -> Option<Duration> {
    let order = ShutdownOrder::of_ups(BTreeSet::from([domain.clone()]), armed, settings.power.cut_outlets);
    let book = shutdown::plan(&parts.settings, &parts.topology, &Facts::default(), learned, &order);
    // This host's own end is nobody's to measure.
    let steps = book.phases.iter().flat_map(|phase| &phase.steps);
    let mut measurable = steps.filter(|step| !matches!(step.action, Step::PowerOffThisHost { .. }));
    let measured = measurable.all(|step| learned.get(step.action.kind(), step.action.host().map_or("", |host| host.as_str())).is_some());
    (measured && !book.phases.is_empty()).then(|| budget::of_plan(&settings.power, book.needed()))
}
