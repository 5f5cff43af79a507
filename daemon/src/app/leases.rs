//! Cordons on lease: kept in step with the live nodes, renewed and released by people.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::parts::Parts;
use super::problems::Problems;
use super::world::World;
use crate::api::port::PlanError;
use crate::cluster::lease::{self, Action, Held};
use crate::cluster::port::ClusterError;
use crate::cluster::startup;
use crate::config::HostRole;
use crate::control::{ClaimRecord, Handle, Reply, Request, View};
use crate::site::{Change, Claim, Guard, Mark, ObjectRef, RunId, StepId};

/// While a cordon is held.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const WITHIN: Duration = Duration::from_secs(10);

/// Looks at once, for marks that the journal does not know, and then as long as something is held. An API that cannot be reached is asked
/// again: it never means that nothing is held.
pub async fn keep(world: Arc<World>, handle: Handle, problems: Problems, stop: CancellationToken) {
    let mut views = handle.views();
    // Before that a view knows nothing of what the journal knows.
    let known = views.wait_for(|view| view.started.is_some()).await.is_ok();
    if !known {
        return stop.cancelled().await;
    }
    let mut adopted = false;
    loop {
        let holds = {
            let view = views.borrow_and_update();
            problems.set("leases", cordons(&view).filter_map(problem).collect());
            cordons(&view).next().is_some()
        };
        if commands(&world) && (holds || !adopted) {
            adopted |= look(&world, &handle).await;
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        } else {
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return stop.cancelled().await },
                () = stop.cancelled() => return,
            }
        }
    }
}

fn commands(world: &World) -> bool {
    let settings = world.settings();
    matches!(settings.daemon.host_role, HostRole::Coordinator | HostRole::Peer) && settings.cluster.kubeconfig.is_some()
}

fn cordons(view: &View) -> impl Iterator<Item = &ClaimRecord> {
    view.claims.iter().filter(|record| record.claim.change == Change::Cordoned)
}

fn problem(record: &ClaimRecord) -> Option<String> {
    let because = record.marked.as_ref()?;
    let node = &record.claim.object.name;
    Some(format!("the cordon on {node} ({}) needs a person: {because}; `metisctl lease renew|release {node}`", record.run))
}

/// Whether the nodes could be seen.
async fn look(world: &World, handle: &Handle) -> bool {
    let parts = world.parts().await;
    let before = cordons(&handle.view()).map(|record| record.claim.object.name.clone()).collect();
    let seen = match &parts.platform {
        Ok(platform) => platform.nodes(WITHIN).await.map_err(|error| error.to_string()),
        Err(why) => Err(why.clone()),
    };
    let nodes = match seen {
        Ok(nodes) => nodes,
        Err(why) => {
            tracing::debug!("the nodes' cordons cannot be seen: {why}");
            return false;
        }
    };
    let view = handle.view();
    let held: Vec<_> = cordons(&view).map(|record| held(&view, &parts, record)).collect();
    for action in lease::unless_let_go(lease::reconcile(&world.host_name, &held, &nodes, &world.now()), &before) {
        if let Err(why) = carry_out(&parts, handle, &action).await {
            tracing::warn!("{why}");
        }
    }
    true
}

fn held(view: &View, parts: &Parts, record: &ClaimRecord) -> Held {
    let node = &record.claim.object.name;
    let hosts = parts.topology.hosts.values().filter(|host| host.node_name == *node);
    let is_down = |claim: &Claim| matches!(claim.change, Change::Stopped | Change::PoweredOff);
    let down = |name: &str| view.claims.iter().any(|held| is_down(&held.claim) && held.claim.object.name == name);
    Held {
        node: node.clone(),
        expires: record.claim.expires,
        run_active: view.run(record.run.as_str()).is_some_and(|run| run.run.outcome.is_none()),
        host_down: hosts.into_iter().any(|host| down(host.name.as_str())),
        starting: view.runs.iter().any(|run| run.run.outcome.is_none() && run.run.book.kind == startup::KIND),
        marked: record.marked.is_some(),
    }
}

async fn carry_out(parts: &Parts, handle: &Handle, action: &Action) -> Result<(), String> {
    let object = |node: &str| ObjectRef::new("Node", "", node);
    match action {
        Action::Clear { node } => clear(parts, handle, node, "its lease has expired").await,
        Action::Forget { node, because } => let_go(handle, node, because).await,
        Action::Mark { node, because } => {
            asked(handle, Request::MarkLease { object: object(node), because: because.clone() }).await?;
            let platform = parts.platform.as_ref().map_err(Clone::clone)?;
            platform.ask_for_a_person(node, Some(because), WITHIN).await.map_err(|error| error.to_string())
        }
        Action::Correct { node, mark } => {
            let cluster = parts.cluster.as_ref().map_err(Clone::clone)?;
            cluster.set_cordoned(node, Some(mark), WITHIN).await.map_err(|error| error.to_string())
        }
        Action::Adopt { node, mark } => {
            tracing::warn!("{node} carries the mark of {} that the journal does not know: adopted", mark.run);
            let claim = Claim { object: object(node), change: Change::Cordoned, expires: mark.expires };
            let (run, step) = (RunId::new(mark.run.clone()), StepId::new(mark.step.clone()));
            asked(handle, Request::Adopt { run, step, claim }).await
        }
    }
}

async fn asked(handle: &Handle, request: Request) -> Result<(), String> {
    match handle.request(request).await {
        Ok(Reply::Refused { guards }) => Err(guards.into_iter().map(|guard| guard.message).collect::<Vec<_>>().join("; ")),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// On the node first: what the journal does not know any more nobody would clear.
async fn clear(parts: &Parts, handle: &Handle, node: &str, because: &str) -> Result<(), String> {
    let cluster = parts.cluster.as_ref().map_err(Clone::clone)?;
    match cluster.set_cordoned(node, None, WITHIN).await {
        Ok(()) => {}
        Err(ClusterError::Gone(_)) => return let_go(handle, node, "the node is not there any more").await,
        Err(error) => return Err(error.to_string()),
    }
    let_go(handle, node, because).await?;
    let platform = parts.platform.as_ref().map_err(Clone::clone)?;
    platform.ask_for_a_person(node, None, WITHIN).await.map_err(|error| error.to_string())
}

async fn let_go(handle: &Handle, node: &str, because: &str) -> Result<(), String> {
    let view = handle.view();
    let Some(record) = cordons(&view).find(|record| record.claim.object.name == node) else { return Ok(()) };
    let (run, objects) = (record.run.clone(), vec![record.claim.object.clone()]);
    asked(handle, Request::Release { run, objects, because: because.to_owned() }).await
}

fn refused(name: &str, message: String) -> PlanError {
    PlanError::Refused(vec![Guard { name: name.to_owned(), message, waiver: None }])
}

/// A person gives the lease on a node more time: in the journal, then on the node.
///
/// # Errors
/// metis holds no cordon there, or the API server does not take it.
pub async fn renew(world: &World, handle: &Handle, requester: String, node: &str, expires: jiff::Timestamp) -> Result<String, PlanError> {
    let object = ObjectRef::new("Node", "", node);
    let request = Request::Renew { requester, object, expires };
    asked(handle, request).await.map_err(|why| refused("lease.unknown", why))?;
    let view = handle.view();
    let Some(record) = cordons(&view).find(|record| record.claim.object.name == node) else {
        return Err(refused("lease.unknown", format!("the cordon on {node} was released meanwhile")));
    };
    let mark = Mark {
        holder: world.host_name.clone(),
        run: record.run.to_string(),
        step: record.step.to_string(),
        reason: "renewed by a person".to_owned(),
        expires: Some(expires),
    };
    let parts = world.parts().await;
    let noted = async {
        let cluster = parts.cluster.as_ref().map_err(Clone::clone)?;
        cluster.set_cordoned(node, Some(&mark), WITHIN).await.map_err(|error| error.to_string())?;
        let platform = parts.platform.as_ref().map_err(Clone::clone)?;
        platform.ask_for_a_person(node, None, WITHIN).await.map_err(|error| error.to_string())
    };
    let on_node = noted.await.map_or_else(|why| format!("; the node's annotation could not be written: {why}"), |()| String::new());
    Ok(format!("the cordon on {node} is held until {expires:.0}{on_node}"))
}

/// A person clears the cordon that metis holds on a node.
///
/// # Errors
/// Its run is under way, or the API server does not take it.
pub async fn release(world: &World, handle: &Handle, requester: &str, node: &str) -> Result<String, PlanError> {
    let parts = world.parts().await;
    let view = handle.view();
    let Some(record) = cordons(&view).find(|record| record.claim.object.name == node) else {
        return Err(refused("lease.unknown", format!("metis holds no cordon on {node}; see `metisctl lease list`")));
    };
    if let Some(guard) = view.in_use(record) {
        return Err(PlanError::Refused(vec![guard]));
    }
    clear(&parts, handle, node, &format!("released by {requester}")).await.map_err(PlanError::Failed)?;
    Ok(format!("{node} is uncordoned"))
}
