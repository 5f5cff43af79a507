//! A start-up that nobody asked for.

use std::sync::Arc;
use std::time::Duration;

use metis_proto::v1;
use tokio::time::sleep;

use super::ask;
use crate::api::port::StartupQuestion;
use crate::app::peers::{self, Asked, Decision};
use crate::app::world::World;
use crate::cluster::startup;
use crate::config::HostRole;
use crate::control::{Handle, Reply, Request};
use crate::peer::rule::Command;
use crate::site::{Answer, Asker, Cause, Doing};

const ASK_AGAIN: Duration = Duration::from_secs(10);

/// How a start-up of the other host ended that leaves nothing to do; after any other end it is handed over, or taken over, again.
const SETTLED: [&str; 4] = ["done", "degraded", "failed", "cancelled"];

/// Plans a start-up that nobody asked for and asks for it, until it is admitted, its reason is gone, or the other metis host has run it. What
/// the site lacks for now is waited for by its gates, where everybody sees it.
pub async fn come_back(world: Arc<World>, handle: Handle, because: String) {
    let (mut said, mut followed) = (String::new(), String::new());
    while handle.view().startup_wanted.is_some() {
        let why = match asked(&world, &handle, &because, &mut followed).await {
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

/// `followed`: the start-up of the other host that does what is wanted here; empty: none.
async fn asked(world: &Arc<World>, handle: &Handle, because: &str, followed: &mut String) -> Result<(), String> {
    let settings = world.settings();
    let role = settings.daemon.host_role;
    if !matches!(role, HostRole::Coordinator | HostRole::Peer) {
        return Err(format!("daemon.host_role is `{role}`: only a coordinator or its peer starts the cluster by itself"));
    }
    let question = Asked { asker: Asker::Boot, allow_peer_startup: false, auto_peer_failover: false, execute: true };
    let decision = peers::decide(world, handle, question).await;
    if let Some(ending) = settled(&decision, followed) {
        return handle.request(Request::Settle { because: ending }).await.map(drop).map_err(|error| error.to_string());
    }
    match decision.command {
        Command::GoOn(_) => admit(world, handle, because).await,
        Command::HandOver(_) => {
            let startup = v1::StartupRequest { reason: because.to_owned(), execute: true, ..v1::StartupRequest::default() };
            let requester = format!("metis itself, because {because}");
            let (host, run) = peers::hand_over(world, startup, requester).await.map_err(|error| error.to_string())?;
            followed.clone_from(&run);
            Err(format!("{host} runs it as {run}"))
        }
        Command::Wait(why) => Err(why),
        Command::Refuse(guard) => Err(guard.message),
    }
}

/// Notes the other host's start-up, and says how it ended once it has.
fn settled(decision: &Decision, followed: &mut String) -> Option<String> {
    let Some(Answer::Said(word)) = &decision.answer else { return None };
    if let Some(intent) = word.does(Doing::StartingUp).filter(|intent| !intent.run.is_empty()) {
        followed.clone_from(&intent.run);
        return None;
    }
    let ended = word.ended.as_ref().filter(|ended| !followed.is_empty() && ended.run == *followed)?;
    followed.clear();
    SETTLED.contains(&ended.outcome.as_str()).then(|| format!("{} of {} ended: {}", ended.run, word.host, ended.outcome))
}

async fn admit(world: &Arc<World>, handle: &Handle, because: &str) -> Result<(), String> {
    let (parts, settings) = (world.parts().await, world.settings());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::{BootId, Ended, Intent, Word};

    fn decision(run: Option<&str>, ended: Option<(&str, &str)>) -> Decision {
        let intent = |run: &str| Intent {
            doing: Doing::StartingUp,
            run: run.to_owned(),
            boot_id: BootId::new("b"),
            phase: String::new(),
            age: Duration::ZERO,
        };
        let word = Word {
            host: "titan-db".into(),
            role: "coordinator".into(),
            boot_id: BootId::new("b"),
            intents: run.map(intent).into_iter().collect(),
            ended: ended.map(|(run, outcome)| Ended { run: run.into(), outcome: outcome.into() }),
        };
        Decision { command: Command::Wait(String::new()), answer: Some(Answer::Said(word)), said: Vec::new() }
    }

    #[test]
    fn what_the_other_host_ran_to_its_end_need_not_be_run_here() {
        let mut followed = String::new();
        assert_eq!(settled(&decision(None, Some(("startup-3", "done"))), &mut followed), None, "one of long ago");
        assert_eq!(settled(&decision(Some("startup-4"), Some(("startup-3", "done"))), &mut followed), None);
        assert_eq!(followed, "startup-4");
        let ending = settled(&decision(None, Some(("startup-4", "done"))), &mut followed);
        assert_eq!(ending.as_deref(), Some("startup-4 of titan-db ended: done"));
        followed = "startup-5".to_owned();
        assert_eq!(settled(&decision(None, Some(("startup-5", "interrupted"))), &mut followed), None, "it is handed over again");
    }
}
