//! Tasks that live as long as the daemon: the other host is asked from time to time, and the Lease is held while a run is under way.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{LOOK_WITHIN, ask, read};
use crate::app::parts::Peers;
use crate::app::problems::Problems;
use crate::app::world::World;
use crate::cluster::{shutdown, startup};
use crate::config::HostRole;
use crate::control::{Handle, Request, View};
use crate::peer::lease::{self, RENEW_EVERY, TRY_EVERY};
use crate::peer::rule;
use crate::site::{Answer, Doing, LeaseView, RunId, is_shutdown};

/// The other host is asked so often while nothing happens.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// And so often during a start-up, which its shutdown ends.
const ASK_OFTEN: Duration = Duration::from_secs(5);
/// Failures in a row that are a problem; one may be a reboot.
const PROBLEM_AFTER: Duration = Duration::from_secs(60);

/// Asks the other host, and steps back from a start-up when it begins to shut the site down.
pub async fn ask_again(world: Arc<World>, handle: Handle, problems: Problems, stop: CancellationToken) {
    let (mut views, mut settings) = (handle.views(), world.settings_changes());
    loop {
        let starting = under_way(&views.borrow_and_update(), startup::KIND).is_some();
        let every = if let Some(peers) = peers_of(&world).await {
            let answer = ask(&world, &handle, &peers).await;
            step_back(&handle, &peers, &answer).await;
            problems.set("peer", problem(&world, &peers, &answer));
            if starting { ASK_OFTEN } else { ASK_EVERY }
        } else {
            problems.set("peer", Vec::new());
            Duration::MAX
        };
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            changed = settings.changed() => if changed.is_err() { return stop.cancelled().await },
            begun = begins(&mut views, starting) => if !begun { return stop.cancelled().await },
            () = stop.cancelled() => return,
        }
    }
}

/// Waits until a start-up begins where none was under way; false: the daemon ends.
async fn begins(views: &mut tokio::sync::watch::Receiver<Arc<View>>, starting: bool) -> bool {
    views.wait_for(|view| !starting && under_way(view, startup::KIND).is_some()).await.is_ok()
}

/// Only hosts that command have another one.
async fn peers_of(world: &World) -> Option<Peers> {
    let commands = matches!(world.settings().daemon.host_role, HostRole::Coordinator | HostRole::Peer);
    if commands { world.parts().await.peers.clone() } else { None }
}

/// The run of that kind that is under way.
fn under_way(view: &View, kind: &str) -> Option<RunId> {
    let mut active = view.runs.iter().filter(|record| record.run.outcome.is_none() && record.run.cancel.is_none());
    active.find(|record| record.run.book.kind == kind).map(|record| record.id.clone())
}

/// A shutdown of the other host ends a start-up here: what is started now it would have to stop again.
async fn step_back(handle: &Handle, peers: &Peers, answer: &Answer) {
    let Answer::Said(word) = answer else { return };
    if let Some(intent) = word.does(Doing::ShuttingDown) {
        cancel_startup(handle, &format!("{}, which shuts the site down ({})", peers.settings.host, rule::shown(intent))).await;
    }
}

async fn cancel_startup(handle: &Handle, requester: &str) {
    let Some(run) = under_way(&handle.view(), startup::KIND) else { return };
    tracing::warn!(METIS_RUN = %run, "{run} is ended by {requester}");
    if let Err(error) = handle.request(Request::Cancel { requester: requester.to_owned(), run, execute: true }).await {
        tracing::error!("a start-up could not be ended for {requester}: {error}");
    }
}

fn problem(world: &World, peers: &Peers, answer: &Answer) -> Vec<String> {
    let host = &peers.settings.host;
    let lasting = world.desk().unreachable_for(world.now().boot) >= PROBLEM_AFTER;
    match answer {
        Answer::Said(word) if word.host == world.host_name => vec![format!("peer.host: {host} is this very host: name the other one")],
        Answer::Unreachable(_) if !lasting => Vec::new(),
        answer => answer.why().map(|why| format!("{host}, the other metis host, cannot be asked: {why}")).into_iter().collect(),
    }
}

/// Holds the Lease while a shutdown or a start-up is under way and the API answers, and gives it back after that.
pub async fn hold_lease(world: Arc<World>, handle: Handle, stop: CancellationToken) {
    let mut views = handle.views();
    let mut held = false;
    loop {
        let run = {
            let view = views.borrow_and_update();
            under_way(&view, shutdown::KIND).or_else(|| under_way(&view, startup::KIND))
        };
        let peers = if run.is_some() || held { peers_of(&world).await } else { None };
        let again = match (peers, run) {
            (Some(peers), Some(run)) => {
                let view = hold(&world, &handle, &peers, &run).await;
                held |= view == LeaseView::Ours;
                if view == LeaseView::Ours { RENEW_EVERY } else { TRY_EVERY }
            }
            (Some(peers), None) => {
                held = false;
                give_back(&world, &peers).await;
                continue;
            }
            (None, _) => Duration::MAX,
        };
        tokio::select! {
            () = tokio::time::sleep(again) => {}
            changed = other_run(&mut views) => if !changed { return stop.cancelled().await },
            () = stop.cancelled() => return,
        }
    }
}

/// Waits until what is under way is something else; false: the daemon ends.
async fn other_run(views: &mut tokio::sync::watch::Receiver<Arc<View>>) -> bool {
    let of = |view: &View| (under_way(view, shutdown::KIND), under_way(view, startup::KIND));
    let now = of(&views.borrow());
    views.wait_for(|view| of(view) != now).await.is_ok()
}

/// One turn: takes it or renews it, where that is ours to do. Nobody waits for it.
async fn hold(world: &World, handle: &Handle, peers: &Peers, run: &RunId) -> LeaseView {
    let (record, view) = read(world, peers).await;
    if let LeaseView::Theirs { holder, run: theirs } = &view
        && is_shutdown(theirs)
        && !is_shutdown(run.as_str())
    {
        cancel_startup(handle, &format!("{holder}, which holds the Lease for {theirs}")).await;
        return view;
    }
    let wanted = lease::claim(&view, record.as_ref(), &world.host_name, run.as_str(), world.now().wall);
    match (wanted, &peers.lease) {
        (Some(wanted), Ok(lease)) => {
            let written = lease.write_command_lease(&peers.settings.lease_namespace, &wanted, LOOK_WITHIN).await;
            let view = match written {
                // Its version is the API server's to say: it is read before anybody counts on it.
                Ok(_) => return read(world, peers).await.1,
                Err(error) => LeaseView::Silent(error.to_string()),
            };
            world.desk().looked(&view, world.now().boot);
            view
        }
        _ => view,
    }
}

/// Who comes next need not wait for it.
async fn give_back(world: &World, peers: &Peers) {
    let (record, _) = read(world, peers).await;
    let (Some(free), Ok(lease)) = (lease::release(record.as_ref(), &world.host_name, world.now().wall), &peers.lease) else { return };
    if let Err(error) = lease.write_command_lease(&peers.settings.lease_namespace, &free, LOOK_WITHIN).await {
        tracing::info!("the Lease is not given back, and ends by itself: {error}");
    }
}
