//! The other metis host: asked before a start-up, told what this one does; and the Lease by which one of the two commands.

pub mod keep;
mod word;
mod yielding;

use std::sync::Arc;
use std::time::Duration;

use metis_proto::v1;

use super::parts::Peers;
use super::world::World;
use crate::api::port::PeerFacts;
use crate::cluster::port::{ClusterError, Commander};
use crate::config::{HostRole, Settings};
use crate::control::Handle;
use crate::host::RealHosts;
use crate::host::port::HostError;
use crate::peer::port::NotTaken;
use crate::peer::rule::{self, Command, Facts, Role};
use crate::peer::{Broken, Bytes, Connect, SshLink};
use crate::site::{Answer, Asker, Guard, Host, LeaseRecord, LeaseView, Topology, Word};

/// Look at the Lease: who waits for the answer does not wait longer.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// The coordinator asks back before it takes a start-up over.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(30);
/// What the other host said of itself so recently is as good as an answer, where the way to it is broken and the one from it is not.
const TOLD_LATELY: Duration = Duration::from_secs(10);

/// The other host by its real parts; `None`: the site has none.
pub fn real(settings: &Settings, topology: &Topology, hosts: &Arc<RealHosts>, lease: Result<Arc<dyn Commander>, String>) -> Option<Peers> {
    let own = settings.peer.clone()?;
    let found = topology.hosts.get(&own.host)?;
    let host = Host {
        user: own.user.clone().unwrap_or_else(|| found.user.clone()),
        key: own.key.clone().or_else(|| found.key.clone()),
        ..found.clone()
    };
    let link = Arc::new(SshLink::new(connector(Arc::clone(hosts), host, own.socket.to_string_lossy().into_owned())));
    Some(Peers { settings: own, link, lease })
}

fn connector(hosts: Arc<RealHosts>, host: Host, path: String) -> Connect {
    Arc::new(move |within| {
        let (hosts, host, path) = (Arc::clone(&hosts), host.clone(), path.clone());
        Box::pin(async move {
            let stream = hosts.socket(&host, &path, within).await.map_err(broken)?;
            Ok(Box::new(stream) as Box<dyn Bytes>)
        })
    })
}

fn broken(error: HostError) -> Broken {
    match error {
        HostError::Unreachable(why) | HostError::TimedOut(why) => Broken::Unreachable(why),
        HostError::Failed(why) => Broken::Silent(why),
        HostError::Refused(why) | HostError::Denied(why) => Broken::Denied(why),
    }
}

/// What somebody asks of a start-up that concerns the other host.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Who.
    pub asker: Asker,
    /// Also by `peer.allow_peer_startup`.
    pub allow_peer_startup: bool,
    /// Also by `peer.auto_peer_failover`.
    pub auto_peer_failover: bool,
    /// It begins at once where it may.
    pub execute: bool,
}

/// Who commands.
#[derive(Debug, Clone)]
pub struct Decision {
    /// What this host does.
    pub command: Command,
    /// What the other one said; `None`: there is none.
    pub answer: Option<Answer>,
    /// For people: what it said, and how the Lease stands.
    pub said: Vec<String>,
}

impl Decision {
    fn alone(command: Command) -> Self {
        Self { command, answer: None, said: Vec::new() }
    }

    /// The guard that refuses a start-up here.
    pub fn guard(&self) -> Option<Guard> {
        match &self.command {
            Command::GoOn(_) | Command::HandOver(_) => None,
            Command::Refuse(guard) => Some(guard.clone()),
            Command::Wait(why) => Some(Guard { name: "peer.intent".to_owned(), message: format!("{why}; ask again then"), waiver: None }),
        }
    }
}

/// Asks the other host, looks at the Lease, and decides.
pub async fn decide(world: &World, handle: &Handle, asked: Asked) -> Decision {
    let (parts, settings) = (world.parts().await, world.settings());
    let role = match settings.daemon.host_role {
        HostRole::Coordinator => Role::Coordinator,
        HostRole::Peer => Role::Peer,
        // The guard of the role refuses.
        HostRole::Observer | HostRole::Cards => return Decision::alone(Command::GoOn("this host commands nothing".to_owned())),
    };
    let Some(peers) = &parts.peers else { return alone(role, asked) };
    let (answer, lease) = tokio::join!(ask(world, handle, peers), look(world, peers));
    let now = world.now().boot;
    let mut desk = world.desk();
    let answer = match (answer, desk.told_lately(TOLD_LATELY, now)) {
        (Answer::Said(word), _) => Answer::Said(word),
        (_, Some(word)) if role == Role::Coordinator => Answer::Said(word.clone()),
        (answer, _) => answer,
    };
    let command = rule::startup(&Facts {
        role,
        me: &world.host_name,
        other: peers.settings.host.as_str(),
        asker: asked.asker,
        answer: &answer,
        unreachable_for: desk.unreachable_for(now),
        heard: desk.heard(now),
        lease: &lease,
        allow_peer_startup: asked.allow_peer_startup || peers.settings.allow_peer_startup,
        auto_peer_failover: asked.auto_peer_failover || peers.settings.auto_peer_failover,
        takeover_after: peers.settings.takeover_after,
    });
    if asked.execute && matches!(command, Command::GoOn(_)) {
        desk.decide(now);
    }
    drop(desk);
    let said = said(peers, &command, &answer, &lease);
    Decision { command, answer: Some(answer), said }
}

/// A host that knows of no other one.
fn alone(role: Role, asked: Asked) -> Decision {
    if role == Role::Coordinator || asked.allow_peer_startup {
        return Decision::alone(Command::GoOn("the site has no other metis host".to_owned()));
    }
    let message = "this host is the peer, and `peer.host` names no coordinator to hand the start-up to".to_owned();
    let waiver = Some("--allow-peer-startup".to_owned());
    Decision::alone(Command::Refuse(Guard { name: "peer.unreachable".to_owned(), message, waiver }))
}

fn said(peers: &Peers, command: &Command, answer: &Answer, lease: &LeaseView) -> Vec<String> {
    let other = &peers.settings.host;
    let word = match answer {
        Answer::Said(word) if word.intents.is_empty() => format!("{other} ({}) does nothing to the cluster", word.role),
        Answer::Said(word) => {
            let intents: Vec<_> = word.intents.iter().map(rule::shown).collect();
            format!("{other} ({}): {}", word.role, intents.join("; "))
        }
        Answer::Unreachable(why) | Answer::Silent(why) | Answer::Denied(why) => format!("{other} cannot be asked: {why}"),
    };
    let mut said = vec![format!("{word}; {}", lease.text())];
    if let Command::HandOver(why) = command {
        said.push(format!("{why}: this start-up is handed over to it"));
    }
    said
}

/// Tells the other host what this one does, and hears what it does.
pub async fn ask(world: &World, handle: &Handle, peers: &Peers) -> Answer {
    let own = own_word(world, handle);
    let answer = peers.link.ask(&own, peers.settings.ask_timeout).await;
    world.desk().asked(&answer, world.now().boot);
    answer
}

/// What this host says of itself.
pub fn own_word(world: &World, handle: &Handle) -> Word {
    let (now, role) = (world.now(), world.settings().daemon.host_role);
    let decided = world.desk().intent(&now.boot_id, now.boot);
    word::of(&handle.view(), &world.host_name, role.as_str(), decided, &now)
}

/// The other host asks: it is heard, and answered.
pub fn told(world: &World, handle: &Handle, word: Word) -> Word {
    // Before the own word is made: who decides after this knows of it.
    world.desk().told(word, world.now().boot);
    own_word(world, handle)
}

/// The Lease as it stands.
async fn look(world: &World, peers: &Peers) -> LeaseView {
    read(world, peers).await.1
}

/// Reads the Lease and notes how it stands.
async fn read(world: &World, peers: &Peers) -> (Option<LeaseRecord>, LeaseView) {
    let read = match &peers.lease {
        Ok(lease) => lease.command_lease(&peers.settings.lease_namespace, LOOK_WITHIN).await,
        Err(why) => Err(ClusterError::Unreachable(why.clone())),
    };
    let now = world.now().boot;
    let mut desk = world.desk();
    let (record, view) = match read {
        Ok(record) => {
            let view = desk.lease.observe(record.as_ref(), &world.host_name, now);
            (record, view)
        }
        Err(error) => (None, LeaseView::Silent(error.to_string())),
    };
    desk.looked(&view, now);
    (record, view)
}

/// Hands a start-up over to the coordinator; the run that it became there.
///
/// # Errors
/// It is refused there, or could not be asked.
pub async fn hand_over(world: &World, startup: v1::StartupRequest, requester: String) -> Result<(String, String), NotTaken> {
    let parts = world.parts().await;
    let Some(peers) = &parts.peers else { return Err(NotTaken::Failed("the site has no other metis host (peer.host)".to_owned())) };
    let request = v1::HandOverRequest { from: world.host_name.clone(), requester, startup: Some(startup) };
    let run = peers.link.hand_over(request, HAND_OVER_WITHIN).await?;
    Ok((peers.settings.host.to_string(), run))
}

/// The other host as it was known last; `None`: there is none.
pub fn status(world: &World) -> Option<PeerFacts> {
    let settings = world.settings();
    let peer = settings.peer.as_ref()?;
    let now = world.now();
    let desk = world.desk();
    let answer = desk.answer(now.boot);
    Some(PeerFacts {
        name: peer.host.to_string(),
        answer: answer.map(|(answer, age)| (answer.clone(), age)),
        heard: desk.heard(now.boot),
        lease: desk.lease_view(Duration::MAX, now.boot).map(LeaseView::text),
    })
}
