//! A start-up that nobody asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::ask;
use crate::api::port::StartupQuestion;
use crate::app::world::World;
use crate::cluster::startup;
use crate::config::HostRole;
use crate::control::{Handle, Reply, Request};
use crate::site::Cause;

const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Plans a start-up that nobody asked for and asks for it, until it is admitted or its reason is gone. What the site lacks for now is
/// waited for by its gates, where everybody sees it.
pub async fn come_back(world: Arc<World>, handle: Handle, because: String) {
    let mut said = String::new();
    while handle.view().startup_wanted.is_some() {
        let why = match asked(&world, &handle, &because).await {
            Ok(()) => return,
            Err(why) => why,
        };
        if why != said {
            tracing::warn!("the cluster is to be started ({because}), and that waits: {why}");
            said = why;
        }
        sleep(ASK_AGAIN).await;
    }
}

async fn asked(world: &Arc<World>, handle: &Handle, because: &str) -> Result<(), String> {
    let (parts, settings) = (world.parts().await, world.settings());
    if settings.daemon.host_role != HostRole::Coordinator {
        return Err(format!("daemon.host_role is `{}`: only the coordinator starts the cluster by itself", settings.daemon.host_role));
    }
    let order = ask::order(&settings, &StartupQuestion::default());
    let runbook = startup::plan(&parts.settings, &parts.topology, &handle.view().learned, &order);
    let requester = format!("metis itself, because {because}");
    match handle.request(Request::Admit { requester, runbook, cause: Cause::Boot, within: None }).await {
        Ok(Reply::Admitted { .. }) => Ok(()),
        Ok(Reply::Refused { guards }) => Err(guards.into_iter().map(|guard| guard.message).collect::<Vec<_>>().join("; ")),
        Ok(other) => Err(format!("unexpected answer: {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}
